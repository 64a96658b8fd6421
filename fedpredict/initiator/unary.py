"""A participant across a gRPC channel, one call of gRPC's own at a time: for peers that offer nothing else."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TypeVar

import grpc
from google.protobuf.message import DecodeError, Message

from fedpredict.errors import ModelNotFoundError, PartyTimeoutError, PartyUnavailableError
from fedpredict.initiator.greeting import Acquaintance
from fedpredict.model.manifest import PartDescription
from fedpredict.model.scorer import PartyReply, ScoreQuery
from fedpredict.wire import codec
from fedpredict.wire.status import error_from_rpc
from fedpredict.wire.v1 import participant_pb2

logger = logging.getLogger(__name__)

_SERVICE = "/fedpredict.wire.v1.ParticipantService/"

_OFFLINE = {
    "score_bucket": "ScoreBucket",
    "population": "RegisterPopulation",
    "population_bucket": "PutPopulationBucket",
}
"""The body of a frame -> the method that takes the same message."""

_APART = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED, grpc.StatusCode.UNAUTHENTICATED})
"""After these a hello is needed before the party counts as met."""
_LEAVE_S = 60.0
"""So long calls under way may take on a connection that was left for one with a newer certificate."""

_Reply = TypeVar("_Reply", bound=Message)


class UnaryParty:
    """Calls over a channel.

    The first call on a connection is preceded by a hello: the party must speak this protocol, be the party meant, and
    sign a nonce with its certificate's key. The channel connects again by itself; a hello follows then too.
    """

    def __init__(
        self, who: Acquaintance, dial: Callable[[], grpc.aio.Channel], *, metadata: tuple[tuple[str, str], ...]
    ) -> None:
        """Take a channel, which this object closes; it connects at the first call.

        Args:
            who: The party that must answer.
            dial: Returns a channel to it.
            metadata: Sent with every call.
        """
        self._who = who
        self._party = who.party
        self._dial = dial
        self._channel = dial()
        self._metadata = metadata
        self._greeted = False
        self._instance = ""
        self._takes_buckets = False
        self._chain = b""
        """What the party proved."""
        self._shown = self._who.shown
        """What this side proves on the channel."""
        self._left: dict[grpc.aio.Channel, asyncio.Task[None]] = {}

    @property
    def is_met(self) -> bool:
        """Whether the party has proved who it is, and is still connected."""
        return self._greeted and self._channel.get_state() is grpc.ChannelConnectivity.READY

    async def close(self) -> None:
        """Close the channel; calls under way end."""
        for channel in (*self._left, self._channel):
            await channel.close(None)

    async def redial(self) -> None:
        """Leave the connection for a new one: it may lead nowhere, which gRPC finds out by its keepalive only."""
        await self._leave().close(None)

    async def hello(self, *, deadline_s: float) -> participant_pb2.HelloReply:
        """Ask who answers, and prove it; return the proven answer.

        Raises:
            PartyRefusedError: Another party, another protocol, or no proof.
            PartyError: The party is away, slow, or refuses.
        """
        request = self._who.hello()
        reply = await self._call("Hello", request, participant_pb2.HelloReply, deadline_s)
        self._takes_buckets = self._who.check(request, reply).takes_buckets
        self._greeted, self._chain = True, reply.certificate_chain
        if reply.instance != self._instance:
            logger.info("party.met", extra={"party": self._party, "restarted": bool(self._instance)})
            self._instance = reply.instance
        return reply

    async def describe(self, model_id: str, deadline_s: float) -> PartDescription:
        """Return what the party says of its part."""
        await self._greet(deadline_s)
        request = self._who.describe(model_id)
        reply = await self._call("DescribeModel", request, participant_pb2.DescribeModelReply, deadline_s)
        return self._who.description(request, reply)

    async def score(self, query: ScoreQuery, deadline_s: float) -> PartyReply:
        """Return the party's share; the deadline travels with the call."""
        loop = asyncio.get_running_loop()
        ends = loop.time() + deadline_s
        await self._greet(deadline_s)
        remaining_s = ends - loop.time()
        request = codec.query_to_wire(query, int(remaining_s * 1000))
        try:
            reply = await self._call("Score", request, participant_pb2.ScoreReply, remaining_s)
        except ModelNotFoundError as error:
            raise self._who.refused(error) from error
        return self._who.share(query, reply)

    async def ask(self, body: str, request: Message, reply_type: type[_Reply], deadline_s: float) -> _Reply:
        """Make a call of offline tasks: the one that a frame with `body` makes on a link."""
        loop = asyncio.get_running_loop()
        ends = loop.time() + deadline_s
        await self._greet(deadline_s)
        if not self._takes_buckets:
            raise self._who.no_offline_tasks()
        try:
            return await self._call(_OFFLINE[body], request, reply_type, ends - loop.time())
        except ModelNotFoundError as error:
            raise self._who.refused(error) from error

    async def _greet(self, deadline_s: float) -> None:
        if self._who.shown is not self._shown:
            # calls under way end on the connection that they began on
            left = self._leave()
            self._left[left] = asyncio.create_task(left.close(_LEAVE_S))
            self._left[left].add_done_callback(lambda _: self._left.pop(left, None))
        ready = self._channel.get_state() is grpc.ChannelConnectivity.READY
        if not ready or (self._greeted and not self._who.believes(self._chain)):
            self._greeted = False
        if not self._greeted:
            await self.hello(deadline_s=deadline_s)

    def _leave(self) -> grpc.aio.Channel:
        """Take a new channel, with what this side proves now; return the old one."""
        left, self._channel, self._greeted = self._channel, self._dial(), False
        self._shown = self._who.shown
        return left

    async def _call(self, method: str, request: Message, reply_type: type[_Reply], deadline_s: float) -> _Reply:
        if deadline_s <= 0.0:
            raise PartyTimeoutError(f"party {self._party}: no time left to ask", party=self._party)
        # The reply is parsed here: gRPC's own deserialiser turns one that does not parse into None.
        channel = self._channel
        call = channel.unary_unary(_SERVICE + method, None, None)
        try:
            data = await call(request.SerializeToString(), timeout=deadline_s, metadata=self._metadata)
        except grpc.aio.AioRpcError as error:
            if error.code() in _APART:
                self._greeted = False
            raise self._who.translate(error.code(), str(error.details()), error_from_rpc(error)) from error
        except asyncio.CancelledError as error:
            # what grpc.aio raises in calls whose channel is closed, as if the caller had left
            task = asyncio.current_task()
            if channel is self._channel or (task is not None and task.cancelling()):
                raise
            raise PartyUnavailableError(f"party {self._party}: it did not answer", party=self._party) from error
        try:
            return reply_type.FromString(data)
        except DecodeError as error:
            raise self._who.refused(error) from error
