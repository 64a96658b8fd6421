"""The initiator as a process: everything started in order, and stopped in the other."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from functools import partial
from types import TracebackType
from typing import Self

import grpc

from fedpredict.errors import ConfigError
from fedpredict.features.base import OnlineStore
from fedpredict.features.memory import MemoryStore
from fedpredict.initiator.admission import Access, Admission
from fedpredict.initiator.catalogue import Catalogue
from fedpredict.initiator.fanout import Dialler
from fedpredict.initiator.own import open_own_part
from fedpredict.initiator.predict import Predictor, Predicts
from fedpredict.initiator.service import InitiatorService, Models
from fedpredict.initiator.settings import InitiatorSettings
from fedpredict.initiator.simulate import Simulator
from fedpredict.initiator.watcher import Watcher
from fedpredict.model.scorer import PartyScorer
from fedpredict.security.tls import TlsFiles, party_credentials, peer_identity
from fedpredict.state.base import PinStore
from fedpredict.warehouse.base import Warehouse
from fedpredict.wire.channel import server_options
from fedpredict.wire.health import Health
from fedpredict.wire.server import bind, stopping
from fedpredict.wire.worker import ALONE, Worker

logger = logging.getLogger(__name__)


class InitiatorServer:
    """A running initiator, as an async context manager: it listens from enter to exit."""

    def __init__(
        self,
        settings: InitiatorSettings,
        store: PinStore,
        tls: TlsFiles | None,
        *,
        warehouse: Warehouse | None = None,
        features: OnlineStore | None = None,
        simulate: bool = False,
        worker: Worker = ALONE,
    ) -> None:
        """Prepare; nothing is opened yet.

        Args:
            settings: What `initiator.toml` says.
            store: Pins and offers; stays open after exit.
            tls: This party's certificate and key; None exactly where `settings.insecure`.
            warehouse: Where this initiator's own part is, needed where a model lists its party; stays open.
            features: Where its own features are served from; default: this process's memory.
            simulate: Answer without partners, marked as such.
            worker: Which of the daemon's processes this is.

        Raises:
            ConfigError: TLS material and `insecure` do not fit, or the certificate is another party's.
            CertificateError: The certificate files cannot be used.
        """
        self._settings = settings
        self._store = store
        self._tls = tls
        self._credentials = party_credentials(settings.party, tls, insecure=settings.insecure)
        self._warehouse = warehouse
        self._features = MemoryStore() if features is None else features
        self._simulate = simulate
        self._worker = worker
        self._stack = AsyncExitStack()
        self._address = settings.listen

    @property
    def address(self) -> str:
        """host:port that the server listens at."""
        return self._address

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            predictor, models = await (self._simulated() if self._simulate else self._federated(stack))
            await self._listen(stack, predictor, models)
            self._stack = stack.pop_all()
        logger.info("initiator.listening", extra={"party": self._settings.party, "address": self._address})
        if self._credentials is None:
            logger.warning("initiator.insecure", extra={"meaning": "plain text; callers state who they are"})
        if not self._settings.clients:
            logger.warning("initiator.no_clients", extra={"meaning": "nobody may ask; see [clients]"})
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

    @property
    def _access(self) -> Access:
        return Access(self._settings.clients)

    @property
    def _admission(self) -> Admission:
        return Admission(self._access, self._settings.limits, max_samples=self._settings.max_samples)

    async def _simulated(self) -> tuple[Predicts, Models]:
        logger.warning("initiator.simulates", extra={"meaning": "every answer is made up"})
        histories = await asyncio.to_thread(self._store.pins)
        pinned = {model_id: history[0].manifest for model_id, history in histories.items()}
        simulator = Simulator(self._settings.models, pinned, self._admission)
        return simulator, simulator

    async def _federated(self, stack: AsyncExitStack) -> tuple[Predicts, Models]:
        scorers = await self._scorers(stack)
        catalogue = Catalogue(self._settings.models)
        watcher = Watcher(catalogue, scorers, self._store, poll_s=self._settings.poll_s)
        await watcher.read_pins()
        stack.push_async_callback(_cancel, asyncio.create_task(watcher.run()))
        predictor = Predictor(
            catalogue,
            scorers,
            self._admission,
            own_party=self._settings.party,
            deadline_s=self._settings.deadline_s,
        )
        return predictor, catalogue

    async def _scorers(self, stack: AsyncExitStack) -> Mapping[str, PartyScorer]:
        scorers: dict[str, PartyScorer] = {}
        dialler = Dialler(self._settings.party, self._tls)
        for party, settings in self._settings.parties.items():
            scorers[party] = await stack.enter_async_context(dialler.dial(party, settings.address))
        if self._warehouse is not None:
            own = open_own_part(
                self._warehouse,
                self._settings.party,
                self._features,
                poll_s=self._settings.poll_s,
                keep_versions=self._settings.keep_versions,
            )
            scorers[self._settings.party] = await stack.enter_async_context(own)
        missing = {party for model in self._settings.models.values() for party in model.parties} - set(scorers)
        if missing:
            raise ConfigError(f"models: nobody answers for {', '.join(sorted(missing))}")
        return scorers

    async def _listen(self, stack: AsyncExitStack, predictor: Predicts, models: Models) -> None:
        who_calls = partial(peer_identity, insecure=self._settings.insecure)
        service = InitiatorService(predictor, models, self._access, who_calls)
        health = Health(process=lambda: True, model=service.is_ready)
        server = grpc.aio.server(options=server_options(shares_port=self._worker.shares_ports))
        server.add_generic_rpc_handlers((service.handlers(), health.handlers()))
        self._address = bind(server, self._settings.listen, self._credentials)
        await server.start()
        stack.push_async_callback(self._drain, server, health)

    async def _drain(self, server: grpc.aio.Server, health: Health) -> None:
        health.draining = True
        await server.stop(self._settings.drain_s)


async def serve(
    settings: InitiatorSettings,
    store: PinStore,
    tls: TlsFiles | None,
    *,
    warehouse: Warehouse | None = None,
    features: OnlineStore | None = None,
    simulate: bool = False,
    worker: Worker = ALONE,
    ready: Callable[[str], None] | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT, then let calls under way finish (`drain_s`) and return.

    Args:
        settings: What `initiator.toml` says.
        store: Pins and offers; stays open.
        tls: This party's certificate and key; None exactly where `settings.insecure`.
        warehouse: Where this initiator's own part is; stays open.
        features: Where its own features are served from; default: this process's memory.
        simulate: Answer without partners.
        worker: Which of the daemon's processes this is.
        ready: Called once with the address, when the server listens; models become ready as their parties are met.

    Raises:
        ConfigError: The port is taken, or the settings do not fit.
        CertificateError: The TLS files cannot be used.
    """
    with stopping() as stop:
        running = InitiatorServer(
            settings, store, tls, warehouse=warehouse, features=features, simulate=simulate, worker=worker
        )
        async with running as server:
            if ready is not None:
                ready(server.address)
            await stop.wait()


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait({task})
