"""Links that this participant dials, where no port may be opened inwards (ADR 0012); whoever dials, it answers."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field

import grpc

from fedpredict.errors import (
    CertificateError,
    FedPredictError,
    PartyUnavailableError,
    SecurityError,
    UnauthenticatedError,
)
from fedpredict.participant.links import LinkServer
from fedpredict.participant.settings import InitiatorPeerSettings
from fedpredict.security.callers import hold, socket_server
from fedpredict.security.hello import ATTACH, NONCE_BYTES
from fedpredict.security.identity import Identity, IdentityKind
from fedpredict.security.live import LiveTls, as_live
from fedpredict.security.meeting import Sight
from fedpredict.security.tls import TlsFiles, server_name, stated_identity
from fedpredict.security.trouble import Trouble
from fedpredict.security.verdicts import Presented, check_same
from fedpredict.wire.channel import Compression, channel_options
from fedpredict.wire.link import HANDSHAKE_S, NONCE_METADATA, RECHECK_S, SEARCH_S, SETTLED_S, Backoff, search_tries
from fedpredict.wire.link_answerer import LinkAnswerer
from fedpredict.wire.socket_carrier import Preface, SocketCarrier, dial_socket
from fedpredict.wire.stream_carrier import StreamCarrier
from fedpredict.wire.v1 import participant_pb2

logger = logging.getLogger(__name__)

MAX_ASKED = 256
"""Most wishes for links that wait; the initiator repeats its own."""
_ATTACH = "/fedpredict.wire.v1.InitiatorService/Attach"


class Attacher:
    """Keeps this participant linked to every worker of every initiator that its settings list."""

    def __init__(
        self,
        party: str,
        initiators: Mapping[str, InitiatorPeerSettings],
        links: LinkServer,
        tls: TlsFiles | LiveTls | None,
    ) -> None:
        """Prepare; nothing is dialled before `start`.

        Args:
            party: This participant's party.
            initiators: By the party that each must prove to be.
            links: Answers on the links.
            tls: What this participant proves and believes; None for plain text.
        """
        self._me = Identity(IdentityKind.PARTY, party)
        self._initiators = initiators
        self._links = links
        self._tls = as_live(tls)
        self._tasks: list[asyncio.Task[None]] = []
        self._places: list[_Place] = []

    def start(self) -> None:
        """Begin to dial, for ever."""
        for party, peer in self._initiators.items():
            sockets = peer.link_addresses or (None,) * len(peer.addresses)
            for address, link_address in zip(peer.addresses, sockets, strict=True):
                place = _Place(self._me, party, address, link_address, peer.compression, self._links, self._tls)
                self._places.append(place)
                self._tasks += (asyncio.create_task(place.run()), asyncio.create_task(place.run_offline()))

    async def stop(self) -> None:
        """Dial no more; open links stay open."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def wait_closed(self) -> None:
        """Return when the links' connections are gone; `LinkServer.drain` closes the links."""
        await asyncio.gather(*(task for place in self._places for task in place.carrying))


@dataclass(slots=True, eq=False)
class _Place:
    """One address of one initiator, behind which one process listens, or several workers do."""

    me: Identity
    party: str
    address: str
    link_address: str | None
    compression: Compression
    links: LinkServer
    tls: LiveTls | None
    workers: int = 1
    linked: dict[int, LinkAnswerer] = field(default_factory=dict)
    """By the initiator's worker."""
    lost: asyncio.Event = field(default_factory=asyncio.Event)
    linked_offline: dict[int, LinkAnswerer] = field(default_factory=dict)
    """By the initiator's worker: the links for offline tasks alone."""
    asked: asyncio.Queue[int] = field(default_factory=asyncio.Queue)
    """Workers of the initiator that want such a link."""
    told: str = ""
    trouble: Trouble = field(init=False)
    sight: Sight = field(init=False)
    carrying: set[asyncio.Task[None]] = field(default_factory=set)

    def __post_init__(self) -> None:
        fields = {"party": self.party}
        files = self.tls.files if self.tls else None
        self.sight = Sight(self.address, self.party, self.tls)
        self.trouble = Trouble("initiator.unreachable", fields, self.address, server_name(self.party), files)

    async def run(self) -> None:
        """Keep linked until cancelled."""
        backoff, search, loop = Backoff(), Backoff(longest_s=SEARCH_S), asyncio.get_running_loop()
        while True:
            self.lost.clear()
            try:
                await self._attach_all()
            except (FedPredictError, OSError) as error:
                self._say(f"{type(error).__name__}: {error}")
                self.trouble.failed(error)
                await asyncio.sleep(backoff.next_s())
                continue
            except Exception:  # the edge of a background task: it must go on, and say what happened
                logger.exception("attach.failed")
                await asyncio.sleep(backoff.next_s())
                continue
            self._say("")
            self.trouble.over()
            began = loop.time()
            if len(self.linked) >= self.workers:
                search.reset()
            with suppress(TimeoutError):
                async with asyncio.timeout(RECHECK_S if len(self.linked) >= self.workers else search.next_s()):
                    await self.lost.wait()
            if loop.time() - began >= SETTLED_S:
                backoff.reset()
            else:
                await asyncio.sleep(backoff.next_s())

    async def run_offline(self) -> None:
        """Dial links for offline tasks to the workers that ask for them, until cancelled; who got none asks again."""
        while True:
            worker = await self.asked.get()
            self.linked_offline.pop(worker, None)  # whoever asks has none, whatever it looks like here
            tries = search_tries(self.workers, 0)
            try:
                while worker not in self.linked_offline and tries:
                    tries -= 1
                    await self._attach(for_offline=True)
            except (FedPredictError, OSError) as error:
                extra = {"party": self.party, "address": self.address, "reason": str(error)}
                logger.info("attach.no_offline_link", extra=extra)
            except Exception:  # the edge of a background task: it must go on, and say what happened
                logger.exception("attach.failed")

    async def _attach_all(self) -> None:
        """Dial until every worker of the initiator was met; go on with those met where one hides or starts again."""
        tries, n_linked = 0, len(self.linked)
        while len(self.linked) < self.workers and tries < search_tries(self.workers, n_linked):
            tries += 1
            try:
                await self._attach()
            except (FedPredictError, OSError):
                if not self.linked:
                    raise
                return

    async def _attach(self, *, for_offline: bool = False) -> None:
        self.links.check_room(Identity(IdentityKind.PARTY, self.party))
        if self.link_address is not None:
            try:
                await self._attach_socket(self.link_address, _Meeting(self, for_offline=for_offline))
            except (FedPredictError, OSError) as error:
                extra = {"party": self.party, "address": self.link_address, "reason": str(error)}
                logger.info("attach.no_socket", extra=extra)
            else:
                return
        await self._attach_stream(_Meeting(self, for_offline=for_offline))

    async def _attach_socket(self, address: str, meeting: _Meeting) -> None:
        def opened(carrier: SocketCarrier) -> LinkAnswerer:
            shown = socket_server(carrier.tls, self.party, self.tls)
            link = meeting.answerer(carrier, address)
            hold(self.tls, link, shown)
            return link

        context = self.tls.dialling_context() if self.tls else None
        own = Preface("" if self.tls else self.me.uri, compress=self.compression is not Compression.NONE)
        await dial_socket(address, context, server_name(self.party), own=own, opened=opened)
        await meeting.greeted()

    async def _attach_stream(self, meeting: _Meeting) -> None:
        pin = await self.sight.pin(HANDSHAKE_S)
        channel, metadata = self._channel(pin)
        meeting.shown = pin
        metadata = (*metadata, *self.compression.metadata)
        if self.tls is not None:
            meeting.nonce = secrets.token_bytes(NONCE_BYTES)
            metadata = (*metadata, (NONCE_METADATA, meeting.nonce))
        # the stubs know calls with an iterator of requests only
        call = channel.stream_stream(_ATTACH, None, None)(metadata=metadata)  # type: ignore[call-arg]
        carrier = StreamCarrier(call, self.address)

        async def carry() -> None:
            try:
                await carrier.run(meeting.answerer(carrier, self.address))
            finally:
                call.cancel()
                await channel.close(None)

        task = asyncio.create_task(carry())
        self.carrying.add(task)
        task.add_done_callback(self.carrying.discard)
        try:
            await meeting.greeted()
        except FedPredictError:
            self.sight.failed()
            raise

    def _channel(self, pin: bytes) -> tuple[grpc.aio.Channel, tuple[tuple[str, str | bytes], ...]]:
        """Return a channel of its own, and so a connection of its own, which may reach another worker.

        With TLS it leads to the certificate of `pin`, a chain in PEM, or nowhere.
        """
        compression = self.compression.of_grpc
        if self.tls is None:
            options = channel_options()
            return grpc.aio.insecure_channel(self.address, options, compression), stated_identity(self.me)
        options = channel_options(server_name(self.party))
        return grpc.aio.secure_channel(self.address, self.tls.channel_credentials((pin,)), options, compression), ()

    def _say(self, problem: str) -> None:
        if problem and problem != self.told:
            extra = {"party": self.party, "address": self.address, "reason": problem}
            logger.warning("initiator.away", extra=extra)
        self.told = problem


class _Meeting:
    """One link, until the initiator's hello says which worker it leads to."""

    def __init__(self, place: _Place, *, for_offline: bool) -> None:
        self._place = place
        self._for_offline = for_offline
        self._linked = place.linked_offline if for_offline else place.linked
        self._met: asyncio.Future[participant_pb2.HelloRequest] = asyncio.get_running_loop().create_future()
        self._link: LinkAnswerer | None = None
        self.nonce = b""
        """What the initiator's first hello must sign; empty where its certificate is seen, or there is none."""
        self.shown: Presented = b""
        """What the stream leads to, in PEM; the hello must prove the same."""

    def answerer(self, carrier: SocketCarrier | StreamCarrier, peer: str) -> LinkAnswerer:
        """Return the link's end, which listens for the hello."""
        caller = Identity(IdentityKind.PARTY, self._place.party)
        self._link = self._place.links.answerer(
            carrier, caller, peer, greeted=self._greet, closed=self._close, for_offline=self._for_offline
        )
        return self._link

    async def greeted(self) -> None:
        """Return when the initiator said hello.

        Raises:
            PartyUnavailableError: It closed the link, or was silent.
        """
        place = self._place
        try:
            async with asyncio.timeout(HANDSHAKE_S):
                hello = await self._met
        except TimeoutError as error:
            if self._link is not None:
                self._link.close(f"no hello within {HANDSHAKE_S:.0f} s")
            raise PartyUnavailableError(f"party {place.party}: no hello", party=place.party) from error
        place.workers = min(max(1, hello.workers), 256)
        carrier = self._link.carrier.name if self._link else ""
        extra = {"party": place.party, "address": place.address, "carrier": carrier, "peer_worker": hello.worker}
        calls = "offline" if self._for_offline else "online"
        logger.info("participant.attached", extra={**extra, "calls": calls})

    def _greet(self, hello: participant_pb2.HelloRequest) -> None:
        # a later hello on the same link asks whether we are still there, or for another link
        if not self._met.done() and self._link is not None:
            self._check_proof(hello, self._link)
            self._linked[hello.worker] = self._link
            self._met.set_result(hello)
        wanted = hello.wants_offline_link and not self._for_offline and self._place.links.offers_offline
        if wanted and self._place.asked.qsize() < MAX_ASKED:
            self._place.asked.put_nowait(hello.worker)

    def _check_proof(self, hello: participant_pb2.HelloRequest, link: LinkAnswerer) -> None:
        """Hold the initiator to the certificate that gRPC verified and does not show.

        Raises:
            SecurityError: It does not prove one, or one that is refused.
        """
        place, live = self._place, self._place.tls
        if live is None or not self.nonce:
            return
        proof = (hello.certificate_chain, hello.signature)
        try:
            if not hello.certificate_chain:
                raise UnauthenticatedError("its hello shows no certificate")
            live.check_proof(place.party, ATTACH, place.party, place.me.name, nonce=self.nonce, proof=proof)
            check_same(hello.certificate_chain, self.shown)
            live.hold(link, hello.certificate_chain)
        except SecurityError as error:
            link.close(str(error))
            if isinstance(error, CertificateError):  # which says to a peer that something of our own is wrong
                raise UnauthenticatedError(str(error)) from error
            raise

    def _close(self, link: LinkAnswerer, reason: str) -> None:
        place = self._place
        if not self._met.done():
            self._met.set_exception(PartyUnavailableError(f"party {place.party}: {reason}", party=place.party))
            self._met.exception()  # the waiter may have left
        for worker in [each for each, held in self._linked.items() if held is link]:
            del self._linked[worker]
            if not self._for_offline:
                place.lost.set()
