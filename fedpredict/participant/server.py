"""The participant's daemon: everything put together, started, and stopped without losing a call."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import AsyncExitStack
from types import TracebackType
from typing import TYPE_CHECKING

import grpc

from fedpredict.errors import ConfigError, ModelNotFoundError
from fedpredict.features.base import OnlineStore
from fedpredict.features.memory import MemoryStore
from fedpredict.model.manifest import PartDescription
from fedpredict.observe.counting import Source
from fedpredict.observe.heap import giving_back
from fedpredict.observe.measuring import measuring
from fedpredict.observe.process import settled_memory
from fedpredict.observe.request_log import RequestLog
from fedpredict.observe.scoring import NO_PARTICIPANT_METRICS, DistinctMetrics, ParticipantMetrics, StoreMetrics
from fedpredict.observe.traces import tracing
from fedpredict.observe.watch import ShareWatch
from fedpredict.participant.answered import AnsweredRecords
from fedpredict.participant.answers import Answers
from fedpredict.participant.attach import Attacher
from fedpredict.participant.audited import CallAudit
from fedpredict.participant.distinct import DistinctLimit
from fedpredict.participant.links import LinkServer
from fedpredict.participant.masking import Masking
from fedpredict.participant.methods import METHODS
from fedpredict.participant.offline import OfflineAnswers
from fedpredict.participant.policy import ParticipantPolicy
from fedpredict.participant.populations import StandingPopulations
from fedpredict.participant.service import ParticipantService
from fedpredict.participant.settings import Connect, ParticipantSettings
from fedpredict.scoring.loader import ModelLoader
from fedpredict.scoring.local_party import LocalParty
from fedpredict.scoring.open_buckets import open_buckets
from fedpredict.scoring.poll import Poller
from fedpredict.scoring.readings import store_readings
from fedpredict.scoring.realtime import no_views
from fedpredict.security.audit_waiting import Audit
from fedpredict.security.live import following, party_tls
from fedpredict.security.tls import TlsFiles
from fedpredict.state.distinct_ids import DistinctIds
from fedpredict.warehouse.base import Warehouse
from fedpredict.wire.channel import server_options
from fedpredict.wire.handlers import Context, Guarded
from fedpredict.wire.health import CHECK, Health
from fedpredict.wire.link import Instance
from fedpredict.wire.server import bind, stopping

if TYPE_CHECKING:
    from fedpredict.http.server import HttpServer
    from fedpredict.scoring.realtime_views import RealtimeViews

logger = logging.getLogger(__name__)


class ParticipantServer:
    """A participant that serves inside an `async with` block, and drains at its end."""

    _server: grpc.aio.Server | None = None
    _event_edge: HttpServer | None = None

    def __init__(
        self,
        settings: ParticipantSettings,
        warehouse: Warehouse,
        tls: TlsFiles | None,
        *,
        store: OnlineStore | None = None,
        realtime: RealtimeViews | None = None,
        me: Instance | None = None,
        counted: Source | None = None,
        audit: Audit | None = None,
        distinct: DistinctIds | None = None,
        policy: ParticipantPolicy | None = None,
    ) -> None:
        """Prepare; nothing listens before the block is entered.

        Args:
            settings: The participant's.
            warehouse: Where its models and features are; the caller closes it.
            tls: This party's certificate and key; None exactly where `settings.insecure`.
            store: Where features are served from; default: this process's memory.
            realtime: The views that are computed when they are asked for; the caller closes it. Default: none.
            me: This process among the party's workers; default: the only one.
            counted: Further metrics to show.
            audit: Where calls are written down; the caller closes it. Default: nowhere.
            distinct: Where ids of callers with a limit are counted; the caller closes it. Default: they get no answer.
            policy: Who may do what, which the caller may replace meanwhile; default: what the settings say.

        Raises:
            ConfigError: TLS material and `insecure` do not fit, or the certificate is another party's.
            CertificateError: The certificate files cannot be used.
        """
        self._settings = settings
        self.tls = party_tls(settings.party, tls, insecure=settings.insecure)
        """What this process proves and whom it believes; None for plain text."""
        store = MemoryStore() if store is None else store
        self.loader = _loader(settings, warehouse, store, realtime)
        """What is loaded; `loader.refresh()` looks at the warehouse at once."""
        self._policy = policy or ParticipantPolicy(settings)
        self._realtime = realtime
        self._me = me or Instance()
        measured = settings.metrics.listen is not None
        self._distinct = DistinctLimit(distinct, lambda: self._policy.callers.distinct_ids)
        self._metrics = ParticipantMetrics(self._policy.callers, self._knows) if measured else NO_PARTICIPANT_METRICS
        self._stores = StoreMetrics(store_readings(self.loader, store))
        self._counted = (counted,) if counted is not None else ()
        self._watch = ShareWatch(self._metrics, log=RequestLog(settings.log))
        self._answered = AnsweredRecords(warehouse, settings.tasks.keep_days)
        self._audit = CallAudit(audit, self._policy.callers.purpose_of)
        self._answers = self._answering(self._scorer(store), warehouse)
        self._links = LinkServer(self._answers, self.wait_read if self._me.shares_ports else None, self.tls)
        self._attacher = Attacher(settings.party, settings.initiators, self._links, self.tls)
        self._service = ParticipantService(self._answers, self._links, live=self.tls)
        self._health = Health(process=lambda: self.loader.state.read_once, model=self._is_ready)
        self._poller = Poller(self._refresh, settings.poll_s)
        self._address = settings.listen
        self._link_address = ""
        self._observed = AsyncExitStack()
        self.metrics_address = ""
        """host:port of the metrics; empty where there are none."""

    @property
    def address(self) -> str:
        """host:port that the server listens at."""
        return self._address

    @property
    def link_address(self) -> str:
        """host:port that links over sockets are taken at; empty where none are."""
        return self._link_address

    @property
    def http_address(self) -> str:
        """host:port that raw events are taken at; empty where none are."""
        return "" if self._event_edge is None else self._event_edge.address

    @property
    def n_links(self) -> int:
        """The number of standing links."""
        return self._links.n_links

    async def __aenter__(self) -> ParticipantServer:
        """Listen, then begin to read the warehouse; calls are answered meanwhile, models as not ready.

        Raises:
            ConfigError: The port is taken, or the address is not of this machine.
        """
        await self._observe()
        try:
            await self._listen()
            await self._listen_events()
        except ConfigError:
            await self._stop_listening(0.0)
            await self._observed.aclose()
            raise
        self._poller.start()
        self._answered.start()
        self._attacher.start()
        extra = {"party": self._settings.party, "address": self._address, "links": self._link_address or "grpc"}
        logger.info("participant.listening", extra=extra)
        if self.tls is None:
            logger.warning("participant.insecure", extra={"meaning": "plain text; callers state who they are"})
        if not self._settings.callers:
            logger.warning("participant.no_callers", extra={"meaning": "nobody may ask; see [callers]"})
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Say NOT_SERVING, take no new calls, and give those under way `drain_s` seconds."""
        self._health.draining = True
        logger.info("participant.draining", extra={"drain_s": self._settings.drain_s})
        await self._attacher.stop()
        await self._stop_listening(self._settings.drain_s)
        await self._attacher.wait_closed()
        await self._answered.stop()
        await asyncio.to_thread(self._poller.stop)
        await asyncio.to_thread(self._distinct.close)
        await self._observed.aclose()
        logger.info("participant.stopped")

    async def _stop_listening(self, drain_s: float) -> None:
        """Take no new call or message anywhere, and give those under way the same time."""
        stopping = [asyncio.create_task(self._links.drain(drain_s))]
        if self._server is not None:
            stopping.append(asyncio.ensure_future(self._server.stop(drain_s)))
        if self._event_edge is not None:
            stopping.append(asyncio.create_task(self._event_edge.__aexit__(None, None, None)))
        await asyncio.gather(*stopping)

    def _scorer(self, store: OnlineStore) -> LocalParty:
        settings, views = self._settings, self._realtime or no_views
        return LocalParty(
            settings.party, lambda: self.loader.state, store, freshness=settings.freshness, realtime=views
        )

    def _answering(self, scorer: LocalParty, warehouse: Warehouse) -> Answers:
        masking = self._masking()
        return Answers(
            scorer,
            self._policy.callers,
            self.tls,
            self._me,
            watch=self._watch,
            offline=self._offline(scorer, warehouse, masking),
            audit=self._audit,
            distinct=self._distinct,
            masking=masking,
        )

    def _masking(self) -> Masking:
        def describe(model_id: str, params_sha256: str) -> PartDescription:
            return self.loader.state.version(model_id, params_sha256).description

        settings = self._settings
        return Masking(settings.party, settings.masked, self._policy.callers, self.tls, describe, audit=self._audit)

    def _offline(self, scorer: LocalParty, warehouse: Warehouse, masking: Masking) -> OfflineAnswers:
        settings = self._settings
        populations = StandingPopulations(warehouse, settings.populations, self._policy.callers, poll_s=settings.poll_s)
        part = open_buckets(
            settings.tasks,
            warehouse,
            scorer,
            lambda: self.loader.state,
            poll_s=settings.poll_s,
            at_once=settings.buckets_at_once,
        )
        return OfflineAnswers(
            part,
            self._policy.callers,
            populations,
            buckets_at_once=settings.buckets_at_once,
            answered=self._answered.add,
            metrics=self._metrics,
            audit=self._audit,
            distinct=self._distinct,
            masking=masking,
        )

    async def _observe(self) -> None:
        settings = self._settings
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(following(self.tls))
            self._watch.traces = await stack.enter_async_context(
                tracing(settings.traces, "participant", settings.party)
            )
            shown = measuring(
                settings.metrics,
                "participant",
                settings.party,
                worker=self._me.worker,
                sources=(self._metrics, self._stores, DistinctMetrics(self._distinct.readings), *self._counted),
                healthy=lambda: self.loader.state.read_once and not self._health.draining,
            )
            self.metrics_address = await stack.enter_async_context(shown)
            self._observed = stack.pop_all()

    async def _listen(self) -> None:
        handlers = [self._health.handlers()]
        if self._settings.connect is Connect.IN:
            handlers.append(self._service.handlers())
        server = grpc.aio.server(options=server_options(shares_port=self._me.shares_ports))
        server.add_generic_rpc_handlers((Guarded(handlers, METHODS),))
        self._address = bind(server, self._settings.listen, self.tls.server_credentials() if self.tls else None)
        try:
            await self._listen_links()
        except ConfigError:
            await server.stop(None)
            raise
        await server.start()
        self._server = server

    async def _listen_links(self) -> None:
        listen = self._settings.link_listen
        if listen is not None:
            context = self.tls.listening_context() if self.tls else None
            self._link_address = await self._links.listen(listen, context, reuse_port=self._me.shares_ports)
            self._answers.link_port = int(self._link_address.rpartition(":")[2])

    def _refresh(self) -> None:
        state = self.loader.refresh()
        if self._realtime is not None:
            self._realtime.refresh(state.views)
        self._distinct.refresh()

    async def _listen_events(self) -> None:
        settings, realtime = self._settings, self._realtime
        if settings.http_listen is None or realtime is None or realtime.events is None:
            return
        # who takes no events needs no parser of SQL, which is large
        from fedpredict.participant.events import build_event_edge, event_edge_settings  # noqa: PLC0415

        senders, audit = self._policy.senders, self._audit
        edge_settings = event_edge_settings(settings, self.tls, senders, audit, shares_port=self._me.shares_ports)
        edge = build_event_edge(edge_settings, realtime.events, realtime.feed)
        await edge.__aenter__()
        self._event_edge = edge
        logger.info("participant.listening_http", extra={"address": edge.address})
        if not settings.events.senders:
            logger.warning("participant.no_senders", extra={"meaning": "nobody may send events; see [events]"})

    async def wait_read(self) -> None:
        """Return when the warehouse has been looked at once, whether or not it could be read."""
        await asyncio.shield(asyncio.wrap_future(self._poller.first))

    def _knows(self, model_id: str) -> bool:
        return model_id in self.loader.state.current or model_id in self.loader.state.problems

    def _is_ready(self, model_id: str, context: Context) -> bool:
        with self._answers.entrance.look_up(CHECK, self._service.caller(context), model_id):
            if not self._knows(model_id):
                raise ModelNotFoundError(f"no model {model_id} in the warehouse")
        if self.loader.is_ready(model_id):
            return True
        model = self.loader.state.current.get(model_id)
        realtime = self._realtime
        return model is not None and realtime is not None and realtime.is_ready(model.view, model.view_version)


def _loader(
    settings: ParticipantSettings, warehouse: Warehouse, store: OnlineStore, realtime: RealtimeViews | None
) -> ModelLoader:
    return ModelLoader(
        warehouse,
        settings.party,
        store,
        keep_versions=settings.keep_versions,
        fills_store=settings.store.kind != "none",
        computed=() if realtime is None else realtime.names,
    )


async def serve(
    settings: ParticipantSettings,
    warehouse: Warehouse,
    tls: TlsFiles | None,
    *,
    me: Instance | None = None,
    store: OnlineStore | None = None,
    realtime: RealtimeViews | None = None,
    ready: Callable[[str], None] | None = None,
    ready_http: Callable[[str], None] | None = None,
    counted: Source | None = None,
    audit: Audit | None = None,
    distinct: DistinctIds | None = None,
    policy: ParticipantPolicy | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT, then drain and return.

    Args:
        settings: The participant's.
        warehouse: Where its models and features are; the caller closes it.
        tls: This party's certificate and key; None exactly where `settings.insecure`.
        me: This process among the daemon's; default: the only one.
        store: Where features are served from; default: this process's memory.
        realtime: The views that are computed when they are asked for; the caller closes it. Default: none.
        ready: Called once with the address, when the server listens and the warehouse has been looked at.
        ready_http: Called then with the address that raw events are taken at, where they are.
        counted: Further metrics to show.
        audit: Where calls are written down; the caller closes it. Default: nowhere.
        distinct: Where sample ids of callers with a limit are counted; the caller closes it. Default: nowhere.
        policy: Who may do what, which the caller may replace meanwhile; default: what the settings say.

    Raises:
        ConfigError: The settings do not fit, or the port is taken.
        CertificateError: The certificate files cannot be used.
    """
    with stopping() as stop:
        server = ParticipantServer(
            settings,
            warehouse,
            tls,
            store=store,
            realtime=realtime,
            me=me,
            counted=counted,
            audit=audit,
            distinct=distinct,
            policy=policy,
        )
        async with server:
            read, stopped = asyncio.create_task(server.wait_read()), asyncio.create_task(stop.wait())
            await asyncio.wait((read, stopped), return_when=asyncio.FIRST_COMPLETED)
            read.cancel()
            with settled_memory(), giving_back():
                if ready is not None and not stopped.done():
                    ready(server.address)
                    if ready_http is not None and server.http_address:
                        ready_http(server.http_address)
                await stopped
