"""The initiator as a process: everything started in order, and stopped in the other."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from types import TracebackType
from typing import TYPE_CHECKING, Self

import grpc

from fedpredict.errors import ConfigError
from fedpredict.http.server import HttpServer
from fedpredict.initiator.admission import Access, Admission
from fedpredict.initiator.announce import announce
from fedpredict.initiator.attach import Attachments
from fedpredict.initiator.callers import Callers
from fedpredict.initiator.catalogue import Catalogue
from fedpredict.initiator.fanout import Dialler, RemoteParty
from fedpredict.initiator.http.edge import build_edge, edge_settings_of
from fedpredict.initiator.inference import InferenceService
from fedpredict.initiator.methods import METHODS
from fedpredict.initiator.predict import CheckTypes, Predictor, Predicts
from fedpredict.initiator.predict_stream import PredictStreams
from fedpredict.initiator.service import InitiatorService, Models
from fedpredict.initiator.settings import InitiatorSettings
from fedpredict.initiator.simulate import Simulator
from fedpredict.initiator.watched import watched
from fedpredict.initiator.watcher import Watcher
from fedpredict.model.head import Heads, HeadShelf
from fedpredict.model.scorer import PartyScorer
from fedpredict.observe.counting import Source
from fedpredict.observe.heap import giving_back
from fedpredict.observe.measuring import measuring
from fedpredict.observe.process import settled_memory
from fedpredict.observe.request_log import RequestLog
from fedpredict.observe.scoring import StoreMetrics
from fedpredict.observe.serving import NO_SERVING_METRICS, InProcess, ServingMetrics
from fedpredict.observe.traces import tracing
from fedpredict.observe.watch import PredictionWatch
from fedpredict.security.callers import holding
from fedpredict.security.entrance import Entrance
from fedpredict.security.live import following, party_tls
from fedpredict.security.tls import TlsFiles
from fedpredict.state.base import PinStore
from fedpredict.wire.channel import server_options
from fedpredict.wire.handlers import Guarded
from fedpredict.wire.health import Health
from fedpredict.wire.link import Instance
from fedpredict.wire.server import bind, stopping

if TYPE_CHECKING:
    from fedpredict.features.base import OnlineStore
    from fedpredict.initiator.offline.open import TaskParts
    from fedpredict.scoring.buckets import BucketPart
    from fedpredict.scoring.realtime_views import RealtimeViews
    from fedpredict.warehouse.base import Warehouse

logger = logging.getLogger(__name__)

DRAIN_LOOK_S = 0.02
"""How often a process that stops looks whether predictions are still under way."""


class InitiatorServer:
    """A running initiator, as an async context manager: it listens from enter to exit."""

    _attachments: Attachments | None = None
    _heads: Heads = HeadShelf
    _check_types: CheckTypes | None = None
    _buckets: BucketPart | None = None
    _http_address: str | None = None
    _http_edge: HttpServer | None = None

    def __init__(
        self,
        settings: InitiatorSettings,
        store: PinStore,
        tls: TlsFiles | None,
        *,
        warehouse: Warehouse | None = None,
        features: OnlineStore | None = None,
        realtime: RealtimeViews | None = None,
        tasks: TaskParts | None = None,
        simulate: bool = False,
        me: Instance | None = None,
        counted: Source | None = None,
        callers: Callers | None = None,
    ) -> None:
        """Prepare; nothing is opened yet.

        Args:
            settings: What `initiator.toml` says.
            store: Pins and offers; stays open after exit.
            tls: This party's certificate and key; None exactly where `settings.insecure`.
            warehouse: Where this initiator's own part is, needed where a model lists its party; stays open.
            features: Where its own features are served from; default: this process's memory.
            realtime: Its own views that are computed when they are asked for; the caller closes it. Default: none.
            tasks: What offline tasks are kept in; stays open. None: there are none.
            simulate: Answer without partners, marked as such.
            me: This process among the initiator's workers; default: the only one.
            counted: Further metrics to show.
            callers: Knows who asks, and for what they may; default: certificates, and what the settings say.

        Raises:
            ConfigError: TLS material and `insecure` do not fit, or the certificate is another party's.
            CertificateError: The certificate files cannot be used.
        """
        self._settings = settings
        self._store = store
        self.tls = party_tls(settings.party, tls, insecure=settings.insecure)
        """What this process proves and whom it believes; None for plain text."""
        self._warehouse, self._features, self._realtime = warehouse, features, realtime
        self._tasks, self._simulate = tasks, simulate
        self._offline: Mapping[str, grpc.RpcMethodHandler[bytes, bytes]] = {}
        self._me = me or Instance()
        self._callers = callers or Callers(Access(settings.clients, max_rows=settings.max_samples))
        self._callers.live, access = self.tls, self._callers.access
        self._access = Access(settings.clients, max_rows=settings.max_samples) if access is None else access
        self._admission = Admission(self._access, settings.limits, max_samples=settings.max_samples)
        self._stack = AsyncExitStack()
        self._address = settings.listen
        self._link_address = self._token_address = ""
        serving = NO_SERVING_METRICS if settings.metrics.listen is None else ServingMetrics(settings.models)
        self._watch = PredictionWatch(serving, log=RequestLog(settings.log))
        self._measured = StoreMetrics()
        self._counted = [each for each in (counted, tasks.metrics if tasks else None) if each is not None]
        self._serves = False
        self.metrics_address = ""
        """host:port of the metrics; empty where there are none."""

    @property
    def address(self) -> str:
        """host:port that the server listens at."""
        return self._address

    @property
    def http_address(self) -> str | None:
        """host:port that HTTP is spoken at; None where it is not."""
        return self._http_address

    @property
    def token_address(self) -> str:
        """host:port where gRPC callers come with a token alone; empty where none do."""
        return self._token_address

    @property
    def link_address(self) -> str:
        """host:port where participants that dial us may do so over sockets; empty where none is expected."""
        return self._link_address

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            await self._observe(stack)
            predictor, models = await (self._simulated() if self._simulate else self._federated(stack))
            await self._listen(stack, predictor, models)
            await self._listen_http(predictor, models)
            self._stack = stack.pop_all()
        announce(self._settings, self._address, self._http_address, self._token_address)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def stop(self) -> None:
        """Say NOT_SERVING, take no new calls, give those under way `drain_s` seconds, then let go of the parties."""
        logger.info("initiator.draining", extra={"drain_s": self._settings.drain_s})
        await self._stack.aclose()
        logger.info("initiator.stopped")

    async def _simulated(self) -> tuple[Predicts, Models]:
        logger.warning("initiator.simulates", extra={"meaning": "every answer is made up"})
        histories = await asyncio.to_thread(self._store.pins)
        pinned = {model_id: history[0].manifest for model_id, history in histories.items()}
        simulator = Simulator(self._settings.models, pinned, self._admission)
        return simulator, simulator

    async def _federated(self, stack: AsyncExitStack) -> tuple[Predicts, Models]:
        scorers = await self._scorers(stack)
        catalogue = Catalogue(self._settings.models, self._heads)
        watcher = Watcher(catalogue, scorers, self._store, poll_s=self._settings.poll_s)
        await stack.enter_async_context(watcher.running())
        predictor = Predictor(
            catalogue,
            scorers,
            self._admission,
            own_party=self._settings.party,
            deadline_s=self._settings.deadline_s,
            watch=self._watch,
            check_types=self._check_types,
        )
        if self._tasks is not None:
            from fedpredict.initiator.offline.open import open_offline  # noqa: PLC0415  as in `_scorers`

            offline = open_offline(
                self._settings,
                self._tasks,
                catalogue,
                scorers,
                self._buckets,
                access=self._access,
                who_calls=self._callers.of_call,
                holds=holding(self.tls),
                audit=self._callers.audit,
                worker=self._me.name,
                delivers=self._me.worker == 0,
            )
            self._offline = await stack.enter_async_context(offline)
        if self.metrics_address:
            self._watch.serving.queue(predictor.waiting)
        return predictor, catalogue

    async def _scorers(self, stack: AsyncExitStack) -> Mapping[str, PartyScorer]:
        scorers: dict[str, PartyScorer] = {}
        dialler = Dialler(self._settings.party, self.tls, self._me, self._callers.audit)
        attached: dict[str, RemoteParty] = {}
        for party, settings in self._settings.parties.items():
            if settings.address is not None:
                remote = dialler.dial(party, settings.address, settings.compression)
            else:
                remote = attached[party] = dialler.expect(party)
            scorers[party] = await stack.enter_async_context(remote)
            self._watch.party(party).link = remote
        if attached:
            await self._await_links(stack, attached)
        if self._warehouse is not None:
            # an initiator that holds no part needs neither Arrow nor tables, which are half of its memory
            from fedpredict.features.memory import MemoryStore  # noqa: PLC0415
            from fedpredict.initiator.own import open_own  # noqa: PLC0415

            opened = open_own(
                self._settings,
                self._warehouse,
                MemoryStore() if self._features is None else self._features,
                realtime=self._realtime,
                measured=self._measured,
            )
            own = await stack.enter_async_context(opened)
            scorers[self._settings.party], self._heads, self._check_types = own.part, own.heads, own.check_types
            self._buckets = own.buckets
            self._watch.party(self._settings.party).link = InProcess()
        missing = {party for model in self._settings.models.values() for party in model.parties} - set(scorers)
        if missing:
            raise ConfigError(f"models: nobody answers for {', '.join(sorted(missing))}")
        return scorers

    async def _await_links(self, stack: AsyncExitStack, attached: Mapping[str, RemoteParty]) -> None:
        attachments = Attachments(attached, self.tls, self._callers.audit)
        self._attachments = attachments
        if self._settings.link_listen is not None:
            context = self.tls.listening_context() if self.tls else None
            self._link_address = await attachments.listen(
                self._settings.link_listen, context, stack, reuse_port=self._me.shares_ports
            )

    async def _observe(self, stack: AsyncExitStack) -> None:
        settings = self._settings
        await stack.enter_async_context(following(self.tls))
        self._watch.traces = await stack.enter_async_context(tracing(settings.traces, "initiator", settings.party))
        shown = measuring(
            settings.metrics,
            "initiator",
            settings.party,
            worker=self._me.worker,
            sources=(self._watch.serving, self._measured, *self._counted),
            healthy=lambda: self._serves,
        )
        self.metrics_address = await stack.enter_async_context(shown)

    async def _listen(self, stack: AsyncExitStack, predictor: Predicts, models: Models) -> None:
        who_calls, audit = self._callers.of_call, self._callers.audit
        attach = self._attachments.attach if self._attachments else None
        wants = self._watch.log.wants_error
        streams = PredictStreams(
            watched(predictor, "stream", self._watch, audit),
            who_calls,
            max_calls=self._settings.max_calls_per_stream,
            wants=wants,
            entrance=Entrance(self._access, audit),
            holds=holding(self.tls),
        )
        seen, offline = watched(predictor, "grpc", self._watch, audit), self._offline
        service = InitiatorService(
            seen, models, self._access, who_calls, streams, attach=attach, offline=offline, wants=wants, audit=audit
        )
        health = Health(process=lambda: True, model=service.is_ready)
        seen = watched(predictor, "oip_grpc", self._watch, audit)
        inference = InferenceService(
            seen, models, self._access, who_calls, ready=lambda: not health.draining, wants=wants, audit=audit
        )
        server = grpc.aio.server(options=server_options(shares_port=self._me.shares_ports))
        services = service.handlers(), inference.handlers(), health.handlers()
        server.add_generic_rpc_handlers((Guarded(services, METHODS),))
        self._address = bind(server, self._settings.listen, self.tls.server_credentials() if self.tls else None)
        if self._settings.token_listen is not None and self.tls is not None:
            credentials = self.tls.server_credentials(takes_tokens=True)
            self._token_address = bind(server, self._settings.token_listen, credentials)
        await server.start()
        if self.metrics_address:
            self._watch.serving.ready(lambda: {each: models.info(each).ready for each in models.model_ids})
        self._serves = True
        stack.push_async_callback(self._drain, server, health, service)

    async def _listen_http(self, predictor: Predicts, models: Models) -> None:
        settings = self._settings
        if settings.http_listen is None:
            return
        shares_port, audit = self._me.shares_ports, self._callers.audit
        edge_settings = edge_settings_of(settings, self.tls, audit=audit, shares_port=shares_port)
        edge = build_edge(edge_settings, predictor, models, self._access, self._watch, callers=self._callers)
        await edge.__aenter__()
        self._http_edge, self._http_address = edge, edge.address

    async def _drain(self, server: grpc.aio.Server, health: Health, service: InitiatorService) -> None:
        """Say NOT_SERVING, take no new calls at any edge, and give those under way the same `drain_s` seconds.

        Links that participants dialled are needed until then, also by requests that are still arriving over HTTP; they
        are calls of the gRPC server as well.
        """
        health.draining = True
        self._serves = False
        service.drain()
        stopping = asyncio.ensure_future(server.stop(self._settings.drain_s))
        if self._http_edge is not None:
            await self._http_edge.__aexit__(None, None, None)
        while self._admission.requests and not stopping.done():
            await asyncio.sleep(DRAIN_LOOK_S)
        if self._attachments is not None:
            self._attachments.close()
        await stopping


async def serve(
    settings: InitiatorSettings,
    store: PinStore,
    tls: TlsFiles | None,
    *,
    warehouse: Warehouse | None = None,
    features: OnlineStore | None = None,
    realtime: RealtimeViews | None = None,
    tasks: TaskParts | None = None,
    simulate: bool = False,
    me: Instance | None = None,
    ready: Callable[[str], None] | None = None,
    ready_http: Callable[[str], None] | None = None,
    counted: Source | None = None,
    callers: Callers | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT, then let calls under way finish (`drain_s`) and return.

    Args:
        settings: What `initiator.toml` says.
        store: Pins and offers; stays open.
        tls: This party's certificate and key; None exactly where `settings.insecure`.
        warehouse: Where this initiator's own part is; stays open.
        features: Where its own features are served from; default: this process's memory.
        realtime: Its own views that are computed when they are asked for; the caller closes it. Default: none.
        tasks: What offline tasks are kept in; stays open. None: there are none.
        simulate: Answer without partners.
        me: This process among the daemon's; default: the only one.
        ready: Called once with the address, when the server listens; models become ready as their parties are met.
        ready_http: Called once with the address that HTTP is spoken at, where it is.
        counted: Further metrics to show.
        callers: Knows who asks, and for what they may; default: as `InitiatorServer`.

    Raises:
        ConfigError: The port is taken, or the settings do not fit.
        CertificateError: The TLS files cannot be used.
    """
    with stopping() as stop:
        running = InitiatorServer(
            settings,
            store,
            tls,
            warehouse=warehouse,
            features=features,
            realtime=realtime,
            tasks=tasks,
            simulate=simulate,
            me=me,
            counted=counted,
            callers=callers,
        )
        async with running as server:
            with settled_memory(), giving_back():
                if ready is not None:
                    ready(server.address)
                if ready_http is not None and server.http_address is not None:
                    ready_http(server.http_address)
                await stop.wait()
