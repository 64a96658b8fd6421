"""Dialling a party: over a socket where it offers one, else a gRPC stream, else not; again and again, for ever."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import TypeAlias

import grpc

from fedpredict.errors import FedPredictError, PartyTimeoutError
from fedpredict.initiator.greeting import Acquaintance
from fedpredict.initiator.links import LinkPool
from fedpredict.initiator.unary import UnaryParty
from fedpredict.security.callers import hold, socket_server
from fedpredict.security.live import LiveTls
from fedpredict.security.meeting import Sight
from fedpredict.security.tls import server_name
from fedpredict.security.trouble import Trouble
from fedpredict.security.verdicts import Presented
from fedpredict.wire.link import (
    HANDSHAKE_S,
    PROBE_S,
    RECHECK_S,
    SCORE_STREAM,
    SEARCH_S,
    SETTLED_S,
    Backoff,
    LinkEnd,
    search_tries,
)
from fedpredict.wire.link_caller import LinkCaller
from fedpredict.wire.socket_carrier import Preface, SocketCarrier, dial_socket
from fedpredict.wire.stream_carrier import StreamCarrier
from fedpredict.wire.v1 import participant_pb2

logger = logging.getLogger(__name__)

_STREAM = "/fedpredict.wire.v1.ParticipantService/ScoreStream"

DialChannel: TypeAlias = Callable[[Sequence[bytes]], grpc.aio.Channel]
_Dialled: TypeAlias = tuple[LinkCaller, Presented]
"""A link, and what the party showed in the handshake, where that can be seen."""
Metadata: TypeAlias = tuple[tuple[str, str], ...]


class Linker:
    """Keeps a pool filled with links to every worker of a party that listens."""

    def __init__(
        self,
        who: Acquaintance,
        pool: LinkPool,
        unary: UnaryParty,
        *,
        address: str,
        live: LiveTls | None,
        preface: Preface,
        dial_channel: DialChannel,
        metadata: Metadata,
        trouble: Trouble,
    ) -> None:
        """Prepare; nothing is dialled before `run`.

        Args:
            who: The party that must answer.
            pool: What is filled.
            unary: Tells what the party offers.
            address: Where its gRPC is, host:port; sockets are at the same host, and the port is in its hello.
            live: This side's TLS for sockets; None for plain text.
            preface: What sockets begin with.
            dial_channel: Returns a new channel, with a connection of its own, to the chains given alone.
            metadata: Sent with every stream.
            trouble: Told what fails.
        """
        self._who = who
        self._pool = pool
        self._unary = unary
        self._host = address.rpartition(":")[0]
        self._sight = Sight(address, who.party, live)
        self._live = live
        self._trouble = trouble
        self._preface = preface
        self._dial_channel = dial_channel
        self._metadata = metadata
        self._port = 0
        self._streams = False
        self._workers = 1
        self._no_socket_until = 0.0
        self._told = ""
        self._search = Backoff(longest_s=SEARCH_S)
        self._carrying: set[asyncio.Task[None]] = set()
        self.tried = asyncio.Event()
        """Set when `run` has dialled once, whatever came of it."""

    async def run(self) -> None:
        """Keep the pool filled; returns only by being cancelled."""
        backoff, loop = Backoff(), asyncio.get_running_loop()
        while True:
            self._pool.changed.clear()
            try:
                carrier = await self._link()
            except (FedPredictError, OSError) as error:
                logger.debug("party.not_linked", extra={"party": self._who.party, "reason": str(error)})
                self._trouble.failed(error)
                self.tried.set()
                await asyncio.sleep(backoff.next_s())
                continue
            except Exception:  # the edge of a background task: it must go on, and say what happened
                logger.exception("link.failed")
                self.tried.set()
                await asyncio.sleep(backoff.next_s())
                continue
            self._say(carrier)
            self._trouble.over()
            self.tried.set()
            began = loop.time()
            with suppress(TimeoutError):
                async with asyncio.timeout(self._next_look_s(carrier)):
                    await self._pool.changed.wait()
            if loop.time() - began >= SETTLED_S:
                backoff.reset()
            else:
                await asyncio.sleep(backoff.next_s())

    async def close(self) -> None:
        """Return when the connections of streams are gone; the pool closes their links."""
        await asyncio.gather(*self._carrying)

    def _next_look_s(self, carrier: str) -> float:
        if carrier != "unary" and len(self._pool.workers(carrier)) < self._workers:
            return self._search.next_s()
        self._search.reset()
        return RECHECK_S

    async def _link(self) -> str:
        """Dial what is missing, over the best carrier there is; return its name.

        Raises:
            FedPredictError, OSError: The party is away, or is not the one meant.
        """
        if await self._link_sockets():
            return "socket"
        if not self._streams:
            return "unary"
        try:
            await self._fill("grpc", self._dial_stream)
        except (FedPredictError, OSError):
            self._no_socket_until = 0.0  # it is away altogether: that says nothing against sockets
            raise
        return "grpc"

    async def _link_sockets(self) -> bool:
        """Return whether there are links over sockets now, dialled where they were missing."""
        loop = asyncio.get_running_loop()
        # first where the port is thought to be, then where the party says that it is
        for asks in (not self._port, True):
            if asks:
                hello = await self._ask_unary()
                self._port, self._streams = hello.link_port, SCORE_STREAM in hello.capabilities
            if not self._port or loop.time() < self._no_socket_until:
                return False
            try:
                await self._fill("socket", self._dial_socket)
            except (FedPredictError, OSError) as error:
                if asks:  # else it may only be away, or elsewhere
                    reason = f"{type(error).__name__}: {error}"
                    extra = {"party": self._who.party, "port": self._port, "reason": reason}
                    logger.info("party.no_socket", extra=extra)
                if isinstance(error, TimeoutError):
                    break
            else:
                return True
        self._no_socket_until = loop.time() + RECHECK_S
        return False

    async def _ask_unary(self) -> participant_pb2.HelloReply:
        try:
            return await self._unary.hello(deadline_s=PROBE_S)
        except PartyTimeoutError:
            await self._unary.redial()
            raise

    async def _fill(self, carrier: str, dial: Callable[[], Awaitable[_Dialled]]) -> None:
        """Dial until every worker was met; go on with those met where chance hides one, or it is starting again."""
        tries, n_linked = 0, len(self._pool.workers(carrier))
        while len(self._pool.workers(carrier)) < self._workers and tries < search_tries(self._workers, n_linked):
            tries += 1
            try:
                await self._add(*await dial())
            except (FedPredictError, OSError):
                if not self._pool.workers(carrier):
                    raise
                break
        self._pool.retire_other_carriers(carrier)

    async def _add(self, link: LinkCaller, shown: Presented) -> None:
        try:
            instance = await self._who.greet(link, HANDSHAKE_S, shown=shown)
        except BaseException as error:
            self._sight.failed()
            link.close(f"no hello: {error}")
            raise
        self._workers = instance.workers
        if instance.worker in self._pool.workers(link.carrier.name):
            link.close("this worker is linked already")
        else:
            self._pool.add(link, instance)

    async def _dial_socket(self) -> _Dialled:
        opened: list[_Dialled] = []

        def open_end(carrier: SocketCarrier) -> LinkEnd:
            shown = socket_server(carrier.tls, self._who.party, self._live)
            link = LinkCaller(self._who.party, carrier, changed=self._pool.link_changed)
            hold(self._live, link, shown)
            opened.append((link, shown))
            return link

        await dial_socket(
            f"{self._host}:{self._port}",
            self._live.dialling_context() if self._live else None,
            server_name(self._who.party),
            own=self._preface,
            opened=open_end,
        )
        return opened[0]

    async def _dial_stream(self) -> _Dialled:
        pin = await self._sight.pin(HANDSHAKE_S)
        channel = self._dial_channel((pin,) if pin else ())
        # the stubs know calls with an iterator of requests only
        call = channel.stream_stream(_STREAM, None, None)(metadata=self._metadata)  # type: ignore[call-arg]
        carrier = StreamCarrier(call, self._host)
        link = LinkCaller(self._who.party, carrier, changed=self._pool.link_changed)
        if pin:
            hold(self._live, link, pin)

        async def carry() -> None:
            try:
                await carrier.run(link)
            finally:
                call.cancel()
                await channel.close(None)

        task = asyncio.create_task(carry())
        self._carrying.add(task)
        task.add_done_callback(self._carrying.discard)
        return link, pin

    def _say(self, carrier: str) -> None:
        # the pool tells of links; without any there is one line as well
        if carrier == "unary" != self._told:
            extra = {"party": self._who.party, "carrier": carrier, "calls": self._pool.calls}
            logger.info("party.linked", extra=extra)
        self._told = carrier
