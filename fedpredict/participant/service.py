"""The participant's side of `ParticipantService`: messages to values, who may ask, and back."""

from __future__ import annotations

import asyncio
import logging
import secrets
from dataclasses import replace

import grpc

from fedpredict.errors import EmptyRequestError, TooManySamplesError
from fedpredict.model.ids import check_model_id
from fedpredict.model.scorer import PartyScorer, ScoreQuery
from fedpredict.model.share import SampleStatus
from fedpredict.observe.logs import add_log_context
from fedpredict.participant.policy import CallerPolicy
from fedpredict.security.hello import sign_hello
from fedpredict.security.identity import Identity
from fedpredict.security.tls import TlsFiles, peer_identity, read_tls
from fedpredict.wire import codec
from fedpredict.wire.handlers import Context, service, unary
from fedpredict.wire.v1 import participant_pb2
from fedpredict.wire.worker import ALONE, Worker

logger = logging.getLogger(__name__)

SERVICE = "fedpredict.wire.v1.ParticipantService"
MAX_DEADLINE_S = 60.0
"""For callers who state no deadline."""


class ParticipantService:
    """Answers initiators that the policy lists, with what `scorer` computes."""

    def __init__(
        self,
        scorer: PartyScorer,
        policy: CallerPolicy,
        tls: TlsFiles | None,
        *,
        max_samples: int,
        worker: Worker = ALONE,
    ) -> None:
        """Serve one party.

        Args:
            scorer: This party.
            policy: Who may ask for what.
            tls: The server's files, to sign hellos; None in plain text, where callers state who they are.
            max_samples: Most sample ids in one call.
            worker: Which of the daemon's processes this is.
        """
        self._scorer = scorer
        self._policy = policy
        self._tls = tls
        self._max_samples = max_samples
        self._worker = worker
        self._instance = secrets.token_hex(8)

    def handlers(self) -> grpc.GenericRpcHandler[bytes, bytes]:
        """Return the service for `server.add_generic_rpc_handlers`."""
        return service(
            SERVICE,
            {
                "Hello": unary(participant_pb2.HelloRequest, self.hello),
                "DescribeModel": unary(participant_pb2.DescribeModelRequest, self.describe_model),
                "Score": unary(participant_pb2.ScoreRequest, self.score),
            },
        )

    def caller(self, context: Context) -> Identity:
        """Return who is calling, from here on in the call's log lines; raise `UnauthenticatedError` for nobody."""
        caller = peer_identity(context, insecure=self._tls is None)
        add_log_context(caller=caller.name)
        return caller

    async def hello(self, request: participant_pb2.HelloRequest, context: Context) -> participant_pb2.HelloReply:
        """Say who answers here, and prove it by signing the caller's nonce."""
        self.caller(context)
        codec.check_protocol_version(request.protocol_version)
        reply = participant_pb2.HelloReply(
            protocol_version=codec.PROTOCOL_VERSION,
            party=self._scorer.party,
            instance=self._instance,
            worker=self._worker.index,
            workers=self._worker.count,
        )
        if self._tls is not None:
            reply.signature = await asyncio.to_thread(sign_hello, self._tls, self._scorer.party, request.nonce)
            reply.certificate_chain = (await asyncio.to_thread(read_tls, self._tls)).chain_pem
        return reply

    async def describe_model(
        self, request: participant_pb2.DescribeModelRequest, context: Context
    ) -> participant_pb2.DescribeModelReply:
        """Describe the newest version of a model that the caller may ask for."""
        caller = self.caller(context)
        codec.check_protocol_version(request.protocol_version)
        add_log_context(request_id=codec.check_request_id(request.request_id), model=check_model_id(request.model_id))
        self._policy.check(caller, request.model_id)
        part = await self._scorer.describe(request.model_id, deadline_s=_remaining_s(context, 0))
        return codec.description_to_wire(request.request_id, replace(part, max_samples=self._max_samples))

    async def score(self, request: participant_pb2.ScoreRequest, context: Context) -> participant_pb2.ScoreReply:
        """Return this party's share for a caller who may ask for the model."""
        caller = self.caller(context)
        query = codec.query_from_wire(request)
        add_log_context(request_id=query.request_id, model=query.model_id)
        self._policy.check(caller, query.model_id)
        self._check_size(query)
        reply = await self._scorer.score(query, deadline_s=_remaining_s(context, request.remaining_ms))
        n_scored = int((reply.share.status == SampleStatus.OK).sum())
        extra = {"n_samples": len(query.sample_ids), "n_scored": n_scored, "elapsed_s": round(reply.elapsed_s, 6)}
        logger.info("score.done", extra=extra)
        return codec.reply_to_wire(query, reply)

    def _check_size(self, query: ScoreQuery) -> None:
        if not query.sample_ids:
            raise EmptyRequestError("a request for a share names no sample id")
        if len(query.sample_ids) > self._max_samples:
            raise TooManySamplesError(
                f"{len(query.sample_ids)} sample ids in one call; max_samples is {self._max_samples}",
                limit=self._max_samples,
            )


def _remaining_s(context: Context, remaining_ms: int) -> float:
    """Return how long the caller waits: the shortest of what gRPC, the message and our own limit say."""
    # the stubs say float; a call without a deadline has None
    of_call: float | None = context.time_remaining()
    of_message = remaining_ms / 1000.0 if remaining_ms else MAX_DEADLINE_S
    return min(MAX_DEADLINE_S, of_message, MAX_DEADLINE_S if of_call is None else of_call)
