"""A participant across a gRPC channel, one call of gRPC's own at a time: for peers that offer nothing else."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import TypeAlias, TypeVar

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

_MAX_PROVEN = 8
"""Most certificates of a party that are believed side by side: each of its machines may have another one."""

_Reply = TypeVar("_Reply", bound=Message)
Dial: TypeAlias = Callable[[Sequence[bytes]], grpc.aio.Channel]
"""Returns a channel to the party: to any certificate of its, or, where chains are given, to their leaves alone."""


class UnaryParty:
    """Calls over a channel.

    The first call on a connection is preceded by a hello: the party must speak this protocol, be the party meant, and
    sign a nonce with its certificate's key. The channel connects again by itself, to whoever is there then, and does
    not say so before calls are on their way. So with TLS there are two: a hello on one, which trusts the CA, proves the
    certificate; questions go over another one, which trusts the certificates that were proved and no others.
    """

    def __init__(self, who: Acquaintance, dial: Dial, *, metadata: tuple[tuple[str, str], ...]) -> None:
        """Prepare; nothing connects before the first call.

        Args:
            who: The party that must answer.
            dial: Returns a channel to it, which this object closes.
            metadata: Sent with every call.
        """
        self._who = who
        self._party = who.party
        self._dial = dial
        self._metadata = metadata
        self._greeted = False
        self._instance = ""
        self._takes_buckets = False
        self._proven: tuple[bytes, ...] = ()
        """The chains that the party proved, latest last; empty without TLS."""
        self._pins: tuple[bytes, ...] = ()
        """Those that the channel takes."""
        self._shown = self._who.shown
        """What this side proves on both channels."""
        self._channel: grpc.aio.Channel | None = None
        """For questions; None with TLS until a certificate was proved."""
        self._asking: grpc.aio.Channel | None = None
        """For the hello that proves one."""
        self._left: dict[grpc.aio.Channel, asyncio.Task[None]] = {}
        self._dial_proven()

    @property
    def is_met(self) -> bool:
        """Whether the party has proved who it is, and is still connected."""
        return self._greeted and self._is_ready

    @property
    def _is_ready(self) -> bool:
        return self._channel is not None and self._channel.get_state() is grpc.ChannelConnectivity.READY

    async def close(self) -> None:
        """Close the channels; calls under way end."""
        for channel in (*self._left, self._channel, self._asking):
            if channel is not None:
                await channel.close(None)

    async def redial(self) -> None:
        """Leave the connection for a new one: it may lead nowhere, which gRPC finds out by its keepalive only."""
        for channel in self._replace():
            await channel.close(None)

    async def hello(self, *, deadline_s: float) -> participant_pb2.HelloReply:
        """Ask who answers, and prove it; return the proven answer.

        Raises:
            PartyRefusedError: Another party, another protocol, or no proof.
            PartyError: The party is away, slow, or refuses.
        """
        loop = asyncio.get_running_loop()
        ends = loop.time() + deadline_s
        channel = self._channel
        if channel is None:
            channel = await self._meet(channel, deadline_s)
        try:
            reply = await self._say_hello(channel, ends - loop.time())
        except PartyUnavailableError:
            if self._who.live is None:
                raise
            # it may be there with a certificate that it has not proved yet
            channel = await self._meet(channel, ends - loop.time())
            reply = await self._say_hello(channel, ends - loop.time())
        self._greeted = True
        self._let_go(self._asking)
        self._asking = None
        if reply.instance != self._instance:
            logger.info("party.met", extra={"party": self._party, "restarted": bool(self._instance)})
            self._instance = reply.instance
        return reply

    async def _say_hello(self, channel: grpc.aio.Channel, deadline_s: float) -> participant_pb2.HelloReply:
        request = self._who.hello()
        reply = await self._call_on(channel, "Hello", request, participant_pb2.HelloReply, deadline_s)
        self._takes_buckets = self._who.check(request, reply).takes_buckets
        others = (each for each in self._proven if each != reply.certificate_chain)
        self._proven = (*others, reply.certificate_chain)[-_MAX_PROVEN:]
        return reply

    async def _meet(self, without: grpc.aio.Channel | None, deadline_s: float) -> grpc.aio.Channel:
        """Have the party prove its certificate; return a channel that takes it, in the place of `without`."""
        if self._asking is None:
            self._asking = self._dial(())
        chain = (await self._say_hello(self._asking, deadline_s)).certificate_chain
        # else another call was faster, or the channel takes it already, and will reach it
        if self._channel is None or (self._channel is without and chain not in self._pins):
            self._let_go(self._channel)
            self._dial_proven()
        if self._channel is None:
            raise self._who.refused("its certificate is good no more")
        return self._channel

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
        if self._who.shown is not self._shown or not all(map(self._who.believes, self._pins)):
            for left in self._replace():
                self._let_go(left)
        if not self._is_ready:
            self._greeted = False
        if not self._greeted:
            await self.hello(deadline_s=deadline_s)

    def _let_go(self, left: grpc.aio.Channel | None) -> None:
        """Close a channel when the calls on it have ended."""
        if left is not None:
            self._left[left] = asyncio.create_task(left.close(_LEAVE_S))
            self._left[left].add_done_callback(lambda _: self._left.pop(left, None))

    def _replace(self) -> list[grpc.aio.Channel]:
        """Take a new channel, with what this side proves and believes now; return the old ones."""
        left = [each for each in (self._channel, self._asking) if each is not None]
        self._asking = None
        self._dial_proven()
        return left

    def _dial_proven(self) -> None:
        self._shown, self._greeted = self._who.shown, False
        self._pins = self._proven = tuple(filter(self._who.believes, self._proven)) if self._who.live else ()
        self._channel = self._dial(self._pins) if self._pins or not self._who.live else None

    async def _call(self, method: str, request: Message, reply_type: type[_Reply], deadline_s: float) -> _Reply:
        if self._channel is None:  # it was met, and is not believed any more
            raise PartyUnavailableError(f"party {self._party}: it is not met", party=self._party)
        return await self._call_on(self._channel, method, request, reply_type, deadline_s)

    async def _call_on(
        self, channel: grpc.aio.Channel, method: str, request: Message, reply_type: type[_Reply], deadline_s: float
    ) -> _Reply:
        if deadline_s <= 0.0:
            raise PartyTimeoutError(f"party {self._party}: no time left to ask", party=self._party)
        # The reply is parsed here: gRPC's own deserialiser turns one that does not parse into None.
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
            is_mine = channel is self._channel or channel is self._asking
            if is_mine or (task is not None and task.cancelling()):
                raise
            raise PartyUnavailableError(f"party {self._party}: it did not answer", party=self._party) from error
        try:
            return reply_type.FromString(data)
        except DecodeError as error:
            raise self._who.refused(error) from error
