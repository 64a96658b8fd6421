"""The participant's daemon: everything put together, started, and stopped without losing a call."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import AsyncExitStack
from types import TracebackType

import grpc

from fedpredict.errors import ConfigError, ModelNotFoundError
from fedpredict.features.base import OnlineStore
from fedpredict.features.memory import MemoryStore
from fedpredict.observe.heap import giving_back
from fedpredict.observe.measuring import measuring
from fedpredict.observe.process import settled_memory
from fedpredict.observe.request_log import RequestLog
from fedpredict.observe.scoring import NO_PARTICIPANT_METRICS, ParticipantMetrics, StoreMetrics
from fedpredict.observe.traces import tracing
from fedpredict.observe.watch import ShareWatch
from fedpredict.participant.answered import AnsweredRecords
from fedpredict.participant.answers import Answers
from fedpredict.participant.attach import Attacher
from fedpredict.participant.links import LinkServer
from fedpredict.participant.offline import OfflineAnswers
from fedpredict.participant.policy import CallerPolicy
from fedpredict.participant.populations import StandingPopulations
from fedpredict.participant.service import ParticipantService
from fedpredict.participant.settings import Connect, ParticipantSettings
from fedpredict.scoring.loader import ModelLoader
from fedpredict.scoring.local_party import LocalParty
from fedpredict.scoring.poll import Poller
from fedpredict.scoring.readings import store_readings
from fedpredict.security.sockets import listening_context
from fedpredict.security.tls import TlsFiles, party_credentials
from fedpredict.warehouse.base import Warehouse
from fedpredict.wire.channel import server_options
from fedpredict.wire.handlers import Context
from fedpredict.wire.health import Health
from fedpredict.wire.link import Instance
from fedpredict.wire.server import bind, stopping

logger = logging.getLogger(__name__)


class ParticipantServer:
    """A participant that serves inside an `async with` block, and drains at its end."""

    def __init__(
        self,
        settings: ParticipantSettings,
        warehouse: Warehouse,
        tls: TlsFiles | None,
        *,
        store: OnlineStore | None = None,
        me: Instance | None = None,
    ) -> None:
        """Prepare; nothing listens before the block is entered.

        Args:
            settings: The participant's.
            warehouse: Where its models and features are; the caller closes it.
            tls: This party's certificate and key; None exactly where `settings.insecure`.
            store: Where features are served from; default: this process's memory.
            me: This process among the party's workers; default: the only one.

        Raises:
            ConfigError: TLS material and `insecure` do not fit, or the certificate is another party's.
            CertificateError: The certificate files cannot be used.
        """
        self._settings = settings
        self._credentials = party_credentials(settings.party, tls, insecure=settings.insecure)
        store = MemoryStore() if store is None else store
        self.loader = ModelLoader(warehouse, settings.party, store, keep_versions=settings.keep_versions)
        """What is loaded; `loader.refresh()` looks at the warehouse at once."""
        self._policy = CallerPolicy(settings.callers)
        scorer = LocalParty(settings.party, lambda: self.loader.state, store, freshness=settings.freshness)
        self._tls = tls
        self._me = me or Instance()
        measured = settings.metrics.listen is not None
        self._metrics = ParticipantMetrics(settings.callers, self._knows) if measured else NO_PARTICIPANT_METRICS
        self._stores = StoreMetrics(store_readings(self.loader, store))
        self._watch = ShareWatch(self._metrics, log=RequestLog(settings.log))
        self._answered = AnsweredRecords(warehouse, settings.tasks.keep_days)
        self._answers = Answers(
            scorer,
            self._policy,
            tls,
            self._me,
            max_samples=settings.max_samples,
            watch=self._watch,
            offline=self._offline(scorer, warehouse),
        )
        self._links = LinkServer(self._answers, self.wait_read if self._me.shares_ports else None)
        self._attacher = Attacher(settings.party, settings.initiators, self._links, tls)
        self._service = ParticipantService(self._answers, self._links, insecure=tls is None)
        self._health = Health(process=lambda: self.loader.state.read_once, model=self._is_ready)
        self._poller = Poller(self.loader.refresh, settings.poll_s)
        self._server: grpc.aio.Server | None = None
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
        except ConfigError:
            await self._links.drain(0.0)
            await self._observed.aclose()
            raise
        self._poller.start()
        self._answered.start()
        self._attacher.start()
        extra = {"party": self._settings.party, "address": self._address, "links": self._link_address or "grpc"}
        logger.info("participant.listening", extra=extra)
        if self._credentials is None:
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
        stopping_links = asyncio.create_task(self._links.drain(self._settings.drain_s))
        if self._server is not None:
            await self._server.stop(self._settings.drain_s)
        await stopping_links
        await self._attacher.wait_closed()
        await self._answered.stop()
        await asyncio.to_thread(self._poller.stop)
        await self._observed.aclose()
        logger.info("participant.stopped")

    def _offline(self, scorer: LocalParty, warehouse: Warehouse) -> OfflineAnswers:
        settings = self._settings
        populations = StandingPopulations(warehouse, settings.populations, settings.callers, poll_s=settings.poll_s)
        return OfflineAnswers(
            scorer,
            self._policy,
            populations,
            buckets_at_once=settings.buckets_at_once,
            answered=self._answered.add,
            metrics=self._metrics,
        )

    async def _observe(self) -> None:
        settings = self._settings
        async with AsyncExitStack() as stack:
            self._watch.traces = await stack.enter_async_context(
                tracing(settings.traces, "participant", settings.party)
            )
            shown = measuring(
                settings.metrics,
                "participant",
                settings.party,
                worker=self._me.worker,
                sources=(self._metrics, self._stores),
                healthy=lambda: self.loader.state.read_once and not self._health.draining,
            )
            self.metrics_address = await stack.enter_async_context(shown)
            self._observed = stack.pop_all()

    async def _listen(self) -> None:
        handlers = [self._health.handlers()]
        if self._settings.connect is Connect.IN:
            handlers.append(self._service.handlers())
        server = grpc.aio.server(options=server_options(shares_port=self._me.shares_ports))
        server.add_generic_rpc_handlers(tuple(handlers))
        self._address = bind(server, self._settings.listen, self._credentials)
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
            context = listening_context(self._tls) if self._tls else None
            self._link_address = await self._links.listen(listen, context, reuse_port=self._me.shares_ports)
            self._answers.link_port = int(self._link_address.rpartition(":")[2])

    async def wait_read(self) -> None:
        """Return when the warehouse has been looked at once, whether or not it could be read."""
        await asyncio.shield(asyncio.wrap_future(self._poller.first))

    def _knows(self, model_id: str) -> bool:
        return model_id in self.loader.state.current or model_id in self.loader.state.problems

    def _is_ready(self, model_id: str, context: Context) -> bool:
        self._policy.check(self._service.caller(context), model_id)
        if not self._knows(model_id):
            raise ModelNotFoundError(f"no model {model_id} in the warehouse")
        return self.loader.is_ready(model_id)


async def serve(
    settings: ParticipantSettings,
    warehouse: Warehouse,
    tls: TlsFiles | None,
    *,
    me: Instance | None = None,
    store: OnlineStore | None = None,
    ready: Callable[[str], None] | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT, then drain and return.

    Args:
        settings: The participant's.
        warehouse: Where its models and features are; the caller closes it.
        tls: This party's certificate and key; None exactly where `settings.insecure`.
        me: This process among the daemon's; default: the only one.
        store: Where features are served from; default: this process's memory.
        ready: Called once with the address, when the server listens and the warehouse has been looked at.

    Raises:
        ConfigError: The settings do not fit, or the port is taken.
        CertificateError: The certificate files cannot be used.
    """
    with stopping() as stop:
        async with ParticipantServer(settings, warehouse, tls, store=store, me=me) as server:
            read, stopped = asyncio.create_task(server.wait_read()), asyncio.create_task(stop.wait())
            await asyncio.wait((read, stopped), return_when=asyncio.FIRST_COMPLETED)
            read.cancel()
            with settled_memory(), giving_back():
                if ready is not None and not stopped.done():
                    ready(server.address)
                await stopped
