"""What a participant answers, whichever way a call came: on a call of gRPC's own, or on a standing link."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import TypeAlias

from fedpredict.errors import EmptyRequestError, FedPredictError
from fedpredict.model.ids import check_model_id
from fedpredict.model.scorer import ModelRef, PartyReply, PartyScorer, ScoreQuery
from fedpredict.model.several import join_replies, split_by_model
from fedpredict.model.share import SampleStatus
from fedpredict.observe.logs import add_log_context
from fedpredict.observe.watch import ShareWatch
from fedpredict.participant.audited import CallAudit
from fedpredict.participant.distinct import DistinctLimit, answered_ids, ids_of_models
from fedpredict.participant.epoch import check_epoch
from fedpredict.participant.masking import Masking, no_masking
from fedpredict.participant.methods import METHODS, SERVICE
from fedpredict.participant.offline import OfflineAnswers
from fedpredict.participant.policy import CallerPolicy
from fedpredict.security.entrance import Entrance
from fedpredict.security.hello import hello_words
from fedpredict.security.identity import Identity
from fedpredict.security.live import LiveTls, as_live
from fedpredict.security.masking import MaskSession
from fedpredict.security.policy import Rule
from fedpredict.security.tls import TlsFiles
from fedpredict.wire import codec, masked_codec
from fedpredict.wire.checkpoints import checkpoints_from_wire, checkpoints_to_wire
from fedpredict.wire.description import description_to_wire
from fedpredict.wire.handlers import log_failure
from fedpredict.wire.link import MASKED_SUMS, OFFLINE_TASKS, SCORE_STREAM, SEVERAL_MODELS, Instance
from fedpredict.wire.masked_codec import RoundRef
from fedpredict.wire.v1 import masking_pb2, participant_pb2

logger = logging.getLogger(__name__)

_DESCRIBE, _SCORE = METHODS[f"{SERVICE}/DescribeModel"], METHODS[f"{SERVICE}/Score"]
INLINE_WORDS = 32_768
"""More numbers are masked in a thread: so many take about half a millisecond for each of the other parties."""
_Admitted: TypeAlias = MaskSession | FedPredictError | None


class Answers:
    """Answers callers that the policy lists, with what `scorer` computes."""

    def __init__(
        self,
        scorer: PartyScorer,
        policy: CallerPolicy,
        tls: TlsFiles | LiveTls | None,
        me: Instance,
        *,
        watch: ShareWatch | None = None,
        offline: OfflineAnswers | None = None,
        audit: CallAudit | None = None,
        distinct: DistinctLimit | None = None,
        masking: Masking | None = None,
    ) -> None:
        """Serve one party.

        Args:
            scorer: This party.
            policy: Who may ask for what.
            tls: What this party proves, to sign hellos; None in plain text, where callers state who they are.
            me: This process.
            watch: Told of every share; default: nobody is.
            offline: Answers offline tasks; default: they are not offered.
            audit: Writes calls down; default: nothing does.
            distinct: Keeps the limits of distinct sample ids; default: `policy` may have none.
            masking: Masks shares of some models; default: of none.
        """
        self.masking = masking or no_masking(policy)
        self.offline = offline
        self.link_port = 0
        """The port that hellos tell, of links over sockets; 0 for none."""
        self._scorer = scorer
        self._policy = policy
        self._tls = as_live(tls)
        self._me = me
        self._watch = watch or ShareWatch()
        self.audit = audit or CallAudit(None)
        """Where calls are written down."""
        self.entrance = Entrance(policy, self.audit)
        """Told of what is no call."""
        self._distinct = distinct or DistinctLimit(None, lambda: policy.distinct_ids)

    async def hello(self, request: participant_pb2.HelloRequest, caller: Identity) -> participant_pb2.HelloReply:
        """Say who answers here, and prove it to this caller by signing who it is, and its nonce.

        Without a nonce the caller only asks whether we are still there.
        """
        codec.check_protocol_version(request.protocol_version)
        reply = participant_pb2.HelloReply(
            protocol_version=codec.PROTOCOL_VERSION,
            capabilities=self._capabilities(),
            party=self._scorer.party,
            instance=self._me.name,
            worker=self._me.worker,
            workers=self._me.workers,
            link_port=self.link_port,
        )
        if self._tls is not None and request.nonce:
            proof = self._tls.prove(*hello_words(caller, self._scorer.party), nonce=request.nonce)
            reply.certificate_chain, reply.signature = proof
        return reply

    async def describe_model(
        self, request: participant_pb2.DescribeModelRequest, caller: Identity, deadline_s: float
    ) -> participant_pb2.DescribeModelReply:
        """Describe the newest version of a model that the caller may ask for."""
        # only what passed its check gets into the log
        with self.entrance.refusals("DescribeModel", caller, _DESCRIBE):
            codec.check_protocol_version(request.protocol_version)
            request_id, model_id = codec.check_request_id(request.request_id), check_model_id(request.model_id)
        add_log_context(request_id=request_id, model=model_id)
        try:
            self.audit.check()
            rule = self._policy.admit(caller, _DESCRIBE)
            rule.check_model(model_id)
            self.audit.keep(caller, checkpoints_from_wire(request.checkpoints))
            part = await self._scorer.describe(model_id, deadline_s=deadline_s)
        except BaseException as error:
            self.audit.other("DescribeModel", caller, request_id, model_id, error)
            raise
        self.audit.other("DescribeModel", caller, request_id, model_id, None)
        await self.audit.safe()
        reply = description_to_wire(request.request_id, replace(part, max_samples=rule.max_rows))
        reply.checkpoints.extend(checkpoints_to_wire(self.audit.handed()))
        return reply

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
            self.entrance.misunderstood("Score", caller, error, _SCORE)
            raise
        codec.fill_reply(into, query, await self._answered(query, (), caller, deadline_s))

    async def fill_masked_score(
        self,
        request: masking_pb2.MaskedScoreRequest,
        caller: Identity,
        deadline_s: float,
        into: participant_pb2.ScoreReply,
    ) -> None:
        """Write this party's masked share into an empty message."""
        try:
            query = codec.query_from_wire(request.score)
            rounds = masked_codec.rounds_from_wire(request, query)
        except FedPredictError as error:
            self.entrance.misunderstood("Score", caller, error, _SCORE)
            raise
        masked_codec.fill_masked_reply(into, query, await self._answered(query, rounds, caller, deadline_s))

    async def _answered(
        self, query: ScoreQuery, rounds: tuple[RoundRef, ...], caller: Identity, deadline_s: float
    ) -> PartyReply:
        """Return the answer to a question, masked where it has rounds; whatever comes of it is written down."""
        watched = self._watch.share(caller.name, query)
        try:
            self.audit.check()
            rule = self._policy.admit(caller, _SCORE)
            # who may not ask learns nothing else: not even what is wrong with the request
            admitted = self._admit(query, rounds, rule)
            _check_call(query, rule)
            is_admitted = [not isinstance(each, FedPredictError) for each in admitted]
            asked = await self._distinct.check(caller.name, ids_of_models(query, is_admitted))
            reply = await self._shares(query, admitted, deadline_s)
            if rounds:
                sessions = [each if isinstance(each, MaskSession) else None for each in admitted]
                reply = await self._masked(query, reply, sessions, rounds)
            # last of what can fail: ids of an answer that nobody gets are not counted
            await asked.count(answered_ids(query, reply))
            if watched.scored(reply):
                _log_done(query, reply)
        except BaseException as error:
            # only now: most calls leave no line in the log that would need it
            add_log_context(request_id=query.request_id, model=query.model_id)
            watched.failed(error)
            self.audit.scored(caller, query, error)
            raise
        self.audit.scored(caller, query, reply)
        await self.audit.safe()
        return reply

    async def _masked(
        self,
        query: ScoreQuery,
        reply: PartyReply,
        sessions: Sequence[MaskSession | None],
        rounds: tuple[RoundRef, ...],
    ) -> PartyReply:
        if reply.share.values.size <= INLINE_WORDS:
            return self.masking.masked(query, reply, sessions, rounds)
        return await asyncio.to_thread(self.masking.masked, query, reply, sessions, rounds)

    def _admit(self, query: ScoreQuery, rounds: tuple[RoundRef, ...], rule: Rule) -> list[_Admitted]:
        """Return for each model the session that its shares are masked in, None, or why the caller gets none.

        Of several models, one that the caller may not ask for takes no other's share away; of one alone it is raised.
        """
        admitted: list[_Admitted] = []
        models: Sequence[ModelRef | ScoreQuery] = query.models if query.further else (query,)
        for place, model in enumerate(models):
            try:
                rule.check_model(model.model_id)
                admitted.append(self.masking.admit(rule.caller, model, rounds[place] if rounds else None))
            except FedPredictError as error:
                if not query.further:
                    raise
                admitted.append(error)
        return admitted

    async def _shares(self, query: ScoreQuery, admitted: list[_Admitted], deadline_s: float) -> PartyReply:
        """Return the shares of the models that were admitted."""
        if not any(isinstance(each, FedPredictError) for each in admitted):
            reply = await self._scorer.score(query, deadline_s=deadline_s)
        else:
            queries = split_by_model(query)
            outcomes = [
                each if isinstance(each, FedPredictError) else await self._share_or_error(own, deadline_s)
                for own, each in zip(queries, admitted, strict=True)
            ]
            reply = join_replies(queries, outcomes)
        for place, error in reply.failures.items():
            log_failure(error, request_id=query.request_id, model=query.models[place].model_id)
        return reply

    async def _share_or_error(self, query: ScoreQuery, deadline_s: float) -> PartyReply | FedPredictError:
        try:
            return await self._scorer.score(query, deadline_s=deadline_s)
        except FedPredictError as error:
            return error

    def _capabilities(self) -> list[str]:
        offers = {OFFLINE_TASKS: self.offline is not None, MASKED_SUMS: self.masking.offered}
        return [SCORE_STREAM, SEVERAL_MODELS, *(name for name, is_offered in offers.items() if is_offered)]


def _check_call(query: ScoreQuery, rule: Rule) -> None:
    check_epoch(query.epoch)
    rule.check_mode(query.mode)
    if not query.sample_ids:
        raise EmptyRequestError("a request for a share names no sample id")
    rule.check_rows(len(query.sample_ids))


def _log_done(query: ScoreQuery, reply: PartyReply) -> None:
    add_log_context(request_id=query.request_id, model=query.model_id)
    n_scored = int((reply.share.status == SampleStatus.OK).sum())
    extra = {"n_samples": len(query.sample_ids), "n_scored": n_scored, "elapsed_s": round(reply.elapsed_s, 6)}
    logger.info("score.done", extra=extra)
