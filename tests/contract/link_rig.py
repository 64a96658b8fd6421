"""An initiator and a participant linked in one of the ways there are, for the contract suite of party links.

The participant's scorer does as the test says; everything between it and `RemoteParty` is real: TLS, sockets, gRPC.
Between the two stands a balancer, which can cut connections and lead each new one to the next worker.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import numpy as np
from typing_extensions import override

from fedpredict.errors import FedPredictError, ManifestMismatchError
from fedpredict.initiator.attach import Attachments
from fedpredict.initiator.fanout import Dialler, RemoteParty
from fedpredict.model.kinds import Kind, own_link
from fedpredict.model.manifest import PartDescription
from fedpredict.model.scorer import ModelRef, PartyReply, PartyScorer, ScoreQuery
from fedpredict.model.several import join_replies, split_by_model
from fedpredict.model.share import Mode, SampleStatus, build_share
from fedpredict.participant.answers import Answers
from fedpredict.participant.attach import Attacher
from fedpredict.participant.links import LinkServer
from fedpredict.participant.offline import OfflineAnswers
from fedpredict.participant.policy import CallerPolicy
from fedpredict.participant.populations import StandingPopulations
from fedpredict.participant.service import ParticipantService
from fedpredict.participant.settings import CallerSettings, InitiatorPeerSettings, PopulationSettings
from fedpredict.scoring.buckets import StoreBuckets
from fedpredict.security import certs
from fedpredict.security.identity import Identity, IdentityKind
from fedpredict.security.live import LiveTls, as_live
from fedpredict.security.tls import TlsFiles
from fedpredict.warehouse.local import LocalWarehouse
from fedpredict.wire.channel import Compression, server_options
from fedpredict.wire.handlers import service, stream
from fedpredict.wire.link import Instance, search_tries

DIGEST = "ab" * 32
DEADLINE_S = 20.0


async def eventually(what: Callable[[], bool]) -> None:
    """Return as soon as `what` is true; fail after half a minute."""
    async with asyncio.timeout(30.0):
        while not what():
            await asyncio.sleep(0.01)


class Certificates:
    """One authority, a stranger, and certificates made when they are asked for."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._ca = certs.create_ca(folder / "ca", "test CA")
        self._issued: dict[str, TlsFiles] = {}
        other = certs.create_ca(folder / "other", "another CA")
        stranger = certs.issue(other, Identity(IdentityKind.PARTY, "bank"), folder / "stranger")
        self.stranger = stranger
        """A bank, says another authority."""

    def of(self, party: str) -> TlsFiles:
        if party not in self._issued:
            self._issued[party] = certs.issue(self._ca, Identity(IdentityKind.PARTY, party), self._folder / party)
        return self._issued[party]


@dataclass
class ScriptedScorer(PartyScorer):
    """A party that does as it is told: the share of sample id "12" is 12.0; other ids are unknown.

    Of model "m-100" it is 112.0; what is called "bad" has no share.

    Attributes:
        name: Who it is.
        raises: What every call ends in.
        lacks: What every model of a call for several ends in.
        held: While set, a Score waits for it.
        begun: How many Scores began.
        left: Set when a Score that waits is cancelled.
    """

    name: str = "lab"
    raises: BaseException | None = None
    lacks: FedPredictError | None = None
    held: asyncio.Event | None = None
    begun: int = 0
    left: asyncio.Event = field(default_factory=asyncio.Event)
    deadlines_s: list[float] = field(default_factory=list)

    @property
    @override
    def party(self) -> str:
        return self.name

    @override
    async def describe(self, model_id: str, *, deadline_s: float) -> PartDescription:
        if self.raises is not None:
            raise self.raises
        return PartDescription(
            party=self.name,
            model_id=model_id,
            params_sha256=DIGEST,
            training_run="run-1",
            kind=Kind.LINEAR,
            link=own_link(Kind.LINEAR),
            classes=(),
            n_scores=1,
            holds_intercept=False,
            fit_intercept=False,
        )

    @override
    async def score(self, query: ScoreQuery, *, deadline_s: float) -> PartyReply:
        self.begun += 1
        self.deadlines_s.append(deadline_s)
        if self.held is not None:
            await self._wait(self.held)
        if self.raises is not None:
            raise self.raises
        if self.lacks is not None and query.further:
            queries = split_by_model(query)
            return join_replies(queries, [self.lacks] * len(queries))
        return answer_to(query)

    async def _wait(self, held: asyncio.Event) -> None:
        try:
            await held.wait()
        except asyncio.CancelledError:
            self.left.set()
            raise


def answer_to(query: ScoreQuery) -> PartyReply:
    """Return what a scripted party answers."""
    if query.further:
        queries = split_by_model(query)
        return join_replies(queries, [answer_or_error(each) for each in queries])
    if query.model_id == "bad":
        raise ManifestMismatchError("another version of bad")
    more = float(query.model_id.partition("-")[2] or 0)
    known = [sample_id.isdigit() for sample_id in query.sample_ids]
    values = np.array([[float(each) + more if each.isdigit() else np.nan] for each in query.sample_ids])
    status = np.where(known, np.uint8(SampleStatus.OK), np.uint8(SampleStatus.NOT_FOUND))
    times = np.arange(1, 1 + len(query.segments)) if query.segments else None
    oldest = 1 if query.segments else None
    share = build_share(values, status)
    return PartyReply(share=share, oldest_event_time=oldest, elapsed_s=0.25, segment_event_times=times)


def answer_or_error(query: ScoreQuery) -> PartyReply | FedPredictError:
    try:
        return answer_to(query)
    except FedPredictError as error:
        return error


def several(*asked: tuple[str, Sequence[bytes]]) -> ScoreQuery:
    """Return a sub-task for several models: their ids, and the sample ids of each, every one a request of its own."""
    first, *further = [ModelRef(model_id, f"{place:02x}" * 32, DIGEST) for place, (model_id, _) in enumerate(asked)]
    sample_ids = [each for _, ids in asked for each in ids]
    return ScoreQuery(
        request_id="r-1",
        model_id=first.model_id,
        manifest_sha256=first.manifest_sha256,
        params_sha256=first.params_sha256,
        mode=Mode.NEARLINE,
        sample_ids=sample_ids,
        segments=(1,) * len(sample_ids),
        further=tuple(further),
        model_rows=tuple(len(ids) for _, ids in asked),
    )


def query_of(*sample_ids: bytes, model_id: str = "m") -> ScoreQuery:
    return ScoreQuery(
        request_id="r-1",
        model_id=model_id,
        manifest_sha256="5c" * 32,
        params_sha256=DIGEST,
        mode=Mode.NEARLINE,
        sample_ids=sample_ids,
    )


class Balancer:
    """A port that leads each connection to the next of its targets."""

    def __init__(self) -> None:
        self.silent = False
        """Swallow what comes on new connections."""
        self.targets: list[str] = []
        self.address = ""
        self.n_led = 0
        self.n_pumped = 0
        """How often bytes were led on, either way."""
        self.n_held = 0
        """How many connections have been stopped by `hold`."""
        self._next = 0
        self._most: float = float("inf")
        self._round = 0
        self._released = asyncio.Event()
        self._released.set()
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()
        self._swallowed: set[asyncio.StreamWriter] = set()
        self._stopping = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.address = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    def cut(self) -> None:
        """End every connection without a word to either side."""
        for writer in self._open:
            writer.transport.abort()

    def fall_silent(self) -> None:
        """Lose the path between the two sides without a word to either.

        Nothing is led on any more, not even that a side has closed, and both are left with connections that look sound
        to their kernels. Connections from before `speak` never come back.
        """
        self.silent = True
        self._swallowed |= self._open

    def hold(self, most_bytes: int) -> None:
        """Lead so many further bytes on, each way on every connection; the rest waits for `release`."""
        self._most, self.n_held = most_bytes, 0
        self._round += 1
        self._released.clear()

    def release(self) -> None:
        """Lead everything on again."""
        self._most = float("inf")
        self._released.set()

    def speak(self) -> None:
        """Lead new connections on again."""
        self.silent = False

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        self.release()
        self._stopping.set()
        self.cut()
        await asyncio.gather(*self._tasks)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._open.add(writer)
        try:
            if self.silent:
                await self._stopping.wait()
            await self._carry(reader, writer)
        finally:
            self._open.discard(writer)
            writer.transport.abort()
            self._tasks.discard(task)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not self.targets:
            return
        target = self.targets[self._next % len(self.targets)]
        self._next += 1
        self.n_led += 1
        host, _, port = target.rpartition(":")
        with contextlib.suppress(OSError):
            far_reader, far_writer = await asyncio.open_connection(host, int(port))
            self._open.add(far_writer)
            try:
                await asyncio.gather(self._pump(reader, far_writer), self._pump(far_reader, writer))
            finally:
                self._open.discard(far_writer)
                far_writer.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry bytes until either side is gone, and end both."""
        carried, in_round = 0, 0
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                if writer in self._swallowed:
                    break
                carried = len(data) + (carried if in_round == self._round else 0)
                in_round = self._round
                if carried > self._most:
                    self.n_held += 1
                    await self._released.wait()
                self.n_pumped += 1
                writer.write(data)
                await writer.drain()
        if writer in self._swallowed:
            await self._stopping.wait()
        writer.transport.abort()


@dataclass(frozen=True)
class Way:
    """One way to link an initiator and a participant."""

    carrier: str
    dials: str
    """Who dials: "initiator" or "participant"."""
    compression: Compression = Compression.NONE
    insecure: bool = False


class Worker:
    """One process of the participant, in this one."""

    def __init__(self, rig: Rig, scorer: PartyScorer, me: Instance) -> None:
        self.rig = rig
        self.live = as_live(rig.tls("lab"))
        self.policy = CallerPolicy({"bank": CallerSettings(models=("*",)), "shop": CallerSettings(models=("other",))})
        offline = (
            OfflineAnswers(StoreBuckets(scorer), self.policy, rig.populations, buckets_at_once=2)
            if rig.offers_offline
            else None
        )
        self.answers = Answers(scorer, self.policy, self.live, me, offline=offline)
        self.links = LinkServer(self.answers, rig.settled, self.live)
        self.attacher = Attacher("lab", rig.peers if rig.way.dials == "participant" else {}, self.links, self.live)
        self.server = grpc.aio.server(options=server_options())
        self.address = ""
        self.link_address = ""

    async def start(self, address: str = "127.0.0.1:0", link_address: str = "127.0.0.1:0") -> None:
        if self.rig.way.dials == "participant":
            self.attacher.start()
            return
        if self.rig.way.carrier == "socket":
            self.link_address = await self.links.listen(
                link_address, self.live.listening_context() if self.live else None
            )
        self.server.add_generic_rpc_handlers((ParticipantService(self.answers, self.links, live=self.live).handlers(),))
        self.address = f"127.0.0.1:{bind(self.server, address, self.live)}"
        await self.server.start()

    async def stop(self, drain_s: float = 5.0) -> None:
        """Drain, as a participant does that is told to stop."""
        await self.attacher.stop()
        draining = asyncio.create_task(self.links.drain(drain_s))
        await self.server.stop(drain_s)
        await draining
        await self.attacher.wait_closed()


def bind(server: grpc.aio.Server, address: str, live: LiveTls | None) -> int:
    if live is None:
        return server.add_insecure_port(address)
    return server.add_secure_port(address, live.server_credentials())


class Rig:
    """A participant "lab" with one or more workers, an initiator "bank", and what links them."""

    def __init__(self, way: Way, certificates: Certificates) -> None:
        self.way = way
        self.certificates = certificates
        self.stack = AsyncExitStack()
        self.balancer, self.link_balancer = Balancer(), Balancer()
        """What lies before the side that listens; where participants dial, before the initiator `bank`."""
        self.places = {"bank": (self.balancer, self.link_balancer)}
        self.workers: list[Worker] = []
        self.settled: Callable[[], Awaitable[None]] | None = None
        """What a worker waits for before it answers a hello on a link."""
        self.peers: dict[str, InitiatorPeerSettings] = {}
        nothing = LocalWarehouse(Path("nothing is read from here"))
        self.populations = StandingPopulations(nothing, PopulationSettings(max_ids=0), {}, poll_s=1.0)
        self.offers_offline = True
        """Whether workers that are started offer offline tasks."""

    def tls(self, party: str) -> TlsFiles | None:
        return None if self.way.insecure else self.certificates.of(party)

    async def __aenter__(self) -> Rig:
        await self._place("bank")
        return self

    async def _place(self, party: str) -> None:
        for balancer in self.places[party]:
            await balancer.start()
            self.stack.push_async_callback(balancer.stop)
        if self.way.dials == "participant":
            grpc_place, socket_place = self.places[party]
            sockets = (socket_place.address,) if self.way.carrier == "socket" else ()
            self.peers[party] = InitiatorPeerSettings(
                addresses=(grpc_place.address,), link_addresses=sockets, compression=self.way.compression
            )

    async def __aexit__(self, *_: object) -> None:
        await self.stack.aclose()

    async def participant(self, *scorers: PartyScorer, number: int = 0, n_workers: int = 0) -> list[Worker]:
        """Start workers, one per scorer."""
        started = []
        for place, scorer in enumerate(scorers):
            me = Instance(worker=number + place, workers=n_workers or len(scorers))
            worker = Worker(self, scorer, me)
            await worker.start()
            started.append(worker)
            self.workers.append(worker)
            self.stack.push_async_callback(worker.stop, 0.0)
        self.point()
        return started

    def point(self) -> None:
        """Lead new connections to the workers that are there, where the initiator dials."""
        if self.way.dials == "initiator":
            self.balancer.targets = [worker.address for worker in self.workers]
            self.link_balancer.targets = [worker.link_address for worker in self.workers if worker.link_address]
            for worker in self.workers:
                port = self.link_balancer.address.rpartition(":")[2]
                worker.answers.link_port = int(port) if worker.link_address else 0

    async def initiator(self, party: str = "bank", me: Instance | None = None) -> RemoteParty:
        """Start an initiator's view of the participant; not linked yet."""
        dialler = Dialler(party, self.tls(party), me or Instance())
        if self.way.dials == "initiator":
            return await self.stack.enter_async_context(
                dialler.dial("lab", self.balancer.address, self.way.compression)
            )
        if party not in self.places:
            self.places[party] = (Balancer(), Balancer())
            await self._place(party)
        remote = await self.stack.enter_async_context(dialler.expect("lab"))
        await self._listen(party, remote)
        return remote

    async def _listen(self, party: str, remote: RemoteParty) -> None:
        live = as_live(self.tls(party))
        attachments = Attachments({"lab": remote}, live)
        context = live.listening_context() if live else None
        if self.way.carrier == "socket":
            self.places[party][1].targets.append(await attachments.listen("127.0.0.1:0", context, self.stack))
        server = grpc.aio.server(options=server_options())
        methods = {"Attach": stream(attachments.attach)}
        server.add_generic_rpc_handlers((service("fedpredict.wire.v1.InitiatorService", methods),))
        self.places[party][0].targets.append(f"127.0.0.1:{bind(server, '127.0.0.1:0', live)}")
        await server.start()
        self.stack.push_async_callback(server.stop, None)

    async def linked(self, *scorers: PartyScorer) -> RemoteParty:
        """Start both sides; return the initiator's view, linked to every worker."""
        if self.way.dials == "initiator":
            await self.participant(*scorers)
            remote = await self.initiator()
        else:
            remote = await self.initiator()
            await self.participant(*scorers)
        await self.wait_linked(remote, len(scorers))
        return remote

    def fall_silent(self) -> None:
        """Lose the path between the two, without a word to either."""
        for places in self.places.values():
            for balancer in places:
                balancer.fall_silent()

    def hold(self, most_bytes: int) -> None:
        """Lead so many further bytes on, each way on every connection; the rest waits for `release`."""
        for balancer in self.balancers:
            balancer.hold(most_bytes)

    def release(self) -> None:
        """Lead everything on again."""
        for balancer in self.balancers:
            balancer.release()

    @property
    def balancers(self) -> list[Balancer]:
        """Whatever lies between the two sides."""
        return [balancer for places in self.places.values() for balancer in places]

    def speak(self) -> None:
        """Have the path again, for new connections."""
        for places in self.places.values():
            for balancer in places:
                balancer.speak()

    async def wait_searched(self) -> None:
        """Return when the side that dials has looked for two workers as long as it does in one go."""
        begun = self.n_led
        await eventually(lambda: self.n_led >= begun + search_tries(2, 0))

    @property
    def n_led(self) -> int:
        """How many connections went through the balancers."""
        return sum(balancer.n_led for places in self.places.values() for balancer in places)

    async def wait_linked(self, remote: RemoteParty, n_links: int = 1) -> None:
        await eventually(lambda: remote.pool.carriers == {self.way.carrier: n_links})

    async def restart(self, worker: Worker, scorer: PartyScorer) -> Worker:
        """Stop a worker as a deployment does, and start another in its place."""
        await worker.stop()
        self.workers.remove(worker)
        (started,) = await self.participant(scorer)
        return started


async def gather_outcomes(calls: Sequence[Awaitable[PartyReply]]) -> list[PartyReply | BaseException]:
    """Return what became of every call."""
    return await asyncio.gather(*calls, return_exceptions=True)
