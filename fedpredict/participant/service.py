"""The participant's side of `ParticipantService`: each call to `Answers`, or to a standing link."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

import grpc
from google.protobuf.message import Message

from fedpredict.observe.logs import add_log_context
from fedpredict.participant.answers import Answers
from fedpredict.participant.links import MAX_DEADLINE_S, LinkServer
from fedpredict.participant.methods import METHODS, SERVICE
from fedpredict.participant.offline import MAX_BUCKET_DEADLINE_S, OfflineAnswers
from fedpredict.security.callers import caller_identity, shown_in
from fedpredict.security.identity import Identity
from fedpredict.security.live import LiveTls
from fedpredict.wire.handlers import Context, compress_like_caller, service, stream, unary
from fedpredict.wire.v1 import participant_pb2

_Request = TypeVar("_Request", bound=Message)


class ParticipantService:
    """Answers initiators over gRPC."""

    def __init__(self, answers: Answers, links: LinkServer, *, live: LiveTls | None) -> None:
        """Serve one party.

        Args:
            answers: What calls are answered with.
            links: Takes standing streams.
            live: What callers' certificates are held to; None where there is no TLS, and they state who they are.
        """
        self._answers = answers
        self._links = links
        self._live = live

    def handlers(self) -> grpc.GenericRpcHandler[bytes, bytes]:
        """Return the service for `server.add_generic_rpc_handlers`."""
        methods = {
            "Hello": self._unary("Hello", participant_pb2.HelloRequest, self.hello),
            "DescribeModel": self._unary("DescribeModel", participant_pb2.DescribeModelRequest, self.describe_model),
            "Score": self._unary("Score", participant_pb2.ScoreRequest, self.score),
            "ScoreStream": stream(self.score_stream),
        }
        if self._answers.offline is not None:
            methods |= self._offline(self._answers.offline)
        return service(SERVICE, methods)

    def _unary(
        self, name: str, request_type: type[_Request], method: Callable[[_Request, Context], Awaitable[Message]]
    ) -> grpc.RpcMethodHandler[bytes, bytes]:
        unread = self._answers.entrance.unread(name, METHODS[f"{SERVICE}/{name}"], self.caller)
        return unary(request_type, method, unread=unread)

    def _offline(self, offline: OfflineAnswers) -> dict[str, grpc.RpcMethodHandler[bytes, bytes]]:
        async def score_bucket(request: participant_pb2.BucketRequest, context: Context) -> Message:
            deadline_s = _remaining_s(context, request.remaining_ms, MAX_BUCKET_DEADLINE_S)
            reply = participant_pb2.BucketReply()
            await offline.score_bucket(request, self.caller(context), deadline_s, reply)
            return reply

        async def population(request: participant_pb2.PopulationRequest, context: Context) -> Message:
            return await offline.population(request, self.caller(context))

        async def put_bucket(request: participant_pb2.PopulationBucket, context: Context) -> Message:
            return await offline.put_bucket(request, self.caller(context))

        return {
            "ScoreBucket": self._unary("ScoreBucket", participant_pb2.BucketRequest, score_bucket),
            "RegisterPopulation": self._unary("RegisterPopulation", participant_pb2.PopulationRequest, population),
            "PutPopulationBucket": self._unary("PutPopulationBucket", participant_pb2.PopulationBucket, put_bucket),
        }

    def caller(self, context: Context) -> Identity:
        """Return who is calling, from here on in the call's log lines; raise `SecurityError` for nobody."""
        with self._answers.audit.strangers("gRPC"):
            caller = caller_identity(context, self._live)
        compress_like_caller(context)
        add_log_context(caller=caller.name)
        return caller

    async def hello(self, request: participant_pb2.HelloRequest, context: Context) -> participant_pb2.HelloReply:
        """Say who answers here."""
        caller = self.caller(context)
        with self._answers.entrance.refusals("Hello", caller, METHODS[f"{SERVICE}/Hello"]):
            return await self._answers.hello(request, caller)

    async def describe_model(
        self, request: participant_pb2.DescribeModelRequest, context: Context
    ) -> participant_pb2.DescribeModelReply:
        """Describe a model."""
        return await self._answers.describe_model(request, self.caller(context), _remaining_s(context, 0))

    async def score(self, request: participant_pb2.ScoreRequest, context: Context) -> participant_pb2.ScoreReply:
        """Return a share."""
        return await self._answers.score(request, self.caller(context), _remaining_s(context, request.remaining_ms))

    async def score_stream(self, context: Context) -> None:
        """Serve a standing link until it ends."""
        await self._links.serve_stream(context, self.caller(context), shown_in(context))
        # where the link ended because nobody believes the caller any more, the status says so
        caller_identity(context, self._live)


def _remaining_s(context: Context, remaining_ms: int, most_s: float = MAX_DEADLINE_S) -> float:
    """Return how long the caller waits: the shortest of what gRPC, the message and our own limit say."""
    # the stubs say float; a call without a deadline has None
    of_call: float | None = context.time_remaining()
    of_message = remaining_ms / 1000.0 if remaining_ms else most_s
    return min(most_s, of_message, most_s if of_call is None else of_call)
