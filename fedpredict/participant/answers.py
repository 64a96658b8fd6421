"""What a participant answers, whichever way a call came: on a call of gRPC's own, or on a standing link."""

from __future__ import annotations

import logging
from dataclasses import replace

from fedpredict.errors import EmptyRequestError, FedPredictError, TooManySamplesError
from fedpredict.model.ids import check_model_id
from fedpredict.model.scorer import PartyReply, PartyScorer, ScoreQuery
from fedpredict.model.several import join_replies, split_by_model
from fedpredict.model.share import SampleStatus
from fedpredict.observe.logs import add_log_context
from fedpredict.observe.watch import ShareWatch
from fedpredict.participant.audited import CallAudit
from fedpredict.participant.offline import OfflineAnswers
from fedpredict.participant.policy import CallerPolicy
from fedpredict.security.hello import HELLO
from fedpredict.security.identity import Identity
from fedpredict.security.live import LiveTls, as_live
from fedpredict.security.tls import TlsFiles
from fedpredict.wire import codec
from fedpredict.wire.description import description_to_wire
from fedpredict.wire.handlers import log_failure
from fedpredict.wire.link import OFFLINE_TASKS, SCORE_STREAM, SEVERAL_MODELS, Instance
from fedpredict.wire.v1 import participant_pb2

logger = logging.getLogger(__name__)


class Answers:
    """Answers callers that the policy lists, with what `scorer` computes."""

    def __init__(
        self,
        scorer: PartyScorer,
        policy: CallerPolicy,
        tls: TlsFiles | LiveTls | None,
        me: Instance,
        *,
        max_samples: int,
        watch: ShareWatch | None = None,
        offline: OfflineAnswers | None = None,
        audit: CallAudit | None = None,
    ) -> None:
        """Serve one party.

        Args:
            scorer: This party.
            policy: Who may ask for what.
            tls: What this party proves, to sign hellos; None in plain text, where callers state who they are.
            me: This process.
            max_samples: Most sample ids in one call.
            watch: Told of every share; default: nobody is.
            offline: Answers offline tasks; default: they are not offered.
            audit: Writes calls down; default: nothing does.
        """
        self.offline = offline
        self.link_port = 0
        """The port that hellos tell, of links over sockets; 0 for none."""
        self._scorer = scorer
        self._policy = policy
        self._tls = as_live(tls)
        self._me = me
        self._max_samples = max_samples
        self._watch = watch or ShareWatch()
        self._audit = audit or CallAudit(None)

    async def hello(self, request: participant_pb2.HelloRequest) -> participant_pb2.HelloReply:
        """Say who answers here, and prove it by signing the caller's nonce.

        Without a nonce the caller only asks whether we are still there.
        """
        codec.check_protocol_version(request.protocol_version)
        reply = participant_pb2.HelloReply(
            protocol_version=codec.PROTOCOL_VERSION,
            capabilities=[SCORE_STREAM, SEVERAL_MODELS, *([OFFLINE_TASKS] if self.offline else [])],
            party=self._scorer.party,
            instance=self._me.name,
            worker=self._me.worker,
            workers=self._me.workers,
            link_port=self.link_port,
        )
        if self._tls is not None and request.nonce:
            proof = self._tls.prove(HELLO, self._scorer.party, nonce=request.nonce)
            reply.certificate_chain, reply.signature = proof
        return reply

    async def describe_model(
        self, request: participant_pb2.DescribeModelRequest, caller: Identity, deadline_s: float
    ) -> participant_pb2.DescribeModelReply:
        """Describe the newest version of a model that the caller may ask for."""
        # only what passed its check gets into the log
        request_id = model_id = ""
        try:
            codec.check_protocol_version(request.protocol_version)
            request_id = codec.check_request_id(request.request_id)
            model_id = check_model_id(request.model_id)
            add_log_context(request_id=request_id, model=model_id)
            self._audit.check()
            self._policy.check(caller, model_id)
            part = await self._scorer.describe(model_id, deadline_s=deadline_s)
        except BaseException as error:
            self._audit.other("DescribeModel", caller, request_id, model_id, error)
            raise
        self._audit.other("DescribeModel", caller, request_id, model_id, None)
        return description_to_wire(request.request_id, replace(part, max_samples=self._max_samples))

    async def score(
        self, request: participant_pb2.ScoreRequest, caller: Identity, deadline_s: float
    ) -> participant_pb2.ScoreReply:
        """Return this party's share for a caller who may ask for the model."""
        reply = participant_pb2.ScoreReply()
        await self.fill_score(request, caller, deadline_s, reply)
        return reply

    async def fill_score(
        self,
        request: participant_pb2.ScoreRequest,
        caller: Identity,
        deadline_s: float,
        into: participant_pb2.ScoreReply,
    ) -> None:
        """Do what `score` does, and write the answer into an empty message, such as the body of a frame."""
        try:
            query = codec.query_from_wire(request)
        except FedPredictError as error:
            self._audit.other("Score", caller, "", "", error)
            raise
        watched = self._watch.share(caller.name, query)
        try:
            self._audit.check()
            if query.further:
                self._check_size(len(query.sample_ids))
                reply = await self._score_several(query, caller, deadline_s)
            else:
                # who may not ask learns nothing else: not even what is wrong with the request
                self._policy.check(caller, query.model_id)
                self._check_size(len(query.sample_ids))
                reply = await self._scorer.score(query, deadline_s=deadline_s)
            if watched.scored(reply):
                _log_done(query, reply)
        except BaseException as error:
            # only now: most calls leave no line in the log that would need it
            add_log_context(request_id=query.request_id, model=query.model_id)
            watched.failed(error)
            self._audit.scored(caller, query, error)
            raise
        self._audit.scored(caller, query, reply)
        codec.fill_reply(into, query, reply)

    async def _score_several(self, query: ScoreQuery, caller: Identity, deadline_s: float) -> PartyReply:
        """Return the shares of several models; one that the caller may not ask for takes no other's share away."""
        if all(self._policy.may_ask(caller, each.model_id) for each in query.models):
            reply = await self._scorer.score(query, deadline_s=deadline_s)
        else:
            queries = split_by_model(query)
            reply = join_replies(queries, [await self._share_or_error(each, caller, deadline_s) for each in queries])
        for place, error in reply.failures.items():
            log_failure(error, request_id=query.request_id, model=query.models[place].model_id)
        return reply

    async def _share_or_error(
        self, query: ScoreQuery, caller: Identity, deadline_s: float
    ) -> PartyReply | FedPredictError:
        try:
            self._policy.check(caller, query.model_id)
            return await self._scorer.score(query, deadline_s=deadline_s)
        except FedPredictError as error:
            return error

    def _check_size(self, n_samples: int) -> None:
        if not n_samples:
            raise EmptyRequestError("a request for a share names no sample id")
        if n_samples > self._max_samples:
            raise TooManySamplesError(
                f"{n_samples} sample ids in one call; max_samples is {self._max_samples}", limit=self._max_samples
            )


def _log_done(query: ScoreQuery, reply: PartyReply) -> None:
    add_log_context(request_id=query.request_id, model=query.model_id)
    n_scored = int((reply.share.status == SampleStatus.OK).sum())
    extra = {"n_samples": len(query.sample_ids), "n_scored": n_scored, "elapsed_s": round(reply.elapsed_s, 6)}
    logger.info("score.done", extra=extra)
