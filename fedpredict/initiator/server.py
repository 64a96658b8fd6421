"""The initiator as a process: everything started in order, and stopped in the other."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Mapping
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

import grpc

from fedpredict.errors import ConfigError
from fedpredict.initiator.admission import Access, Admission
from fedpredict.initiator.catalogue import Catalogue
from fedpredict.initiator.fanout import Dialler
from fedpredict.initiator.own import open_own_part
from fedpredict.initiator.predict import Predictor, Predicts
from fedpredict.initiator.service import HealthService, InitiatorService, Models
from fedpredict.initiator.settings import InitiatorSettings
from fedpredict.initiator.simulate import Simulator
from fedpredict.initiator.watcher import Watcher
from fedpredict.model.scorer import PartyScorer
from fedpredict.security.tls import TlsFiles, peer_identity, server_credentials
from fedpredict.state.base import PinStore
from fedpredict.warehouse.base import Warehouse
from fedpredict.wire.channel import server_options

logger = logging.getLogger(__name__)


class InitiatorServer:
    """A running initiator, as an async context manager: it listens from enter to exit."""

    def __init__(
        self,
        settings: InitiatorSettings,
        store: PinStore,
        *,
        base: Path = Path(),
        warehouse: Warehouse | None = None,
        simulate: bool = False,
    ) -> None:
        """Prepare; nothing is opened yet.

        Args:
            settings: What `initiator.toml` says.
            store: Pins and offers; stays open after exit.
            base: The folder that relative paths in the settings start at.
            warehouse: Where this initiator's own part is, needed where a model lists its party; stays open.
            simulate: Answer without partners, marked as such.
        """
        self._settings = settings
        self._store = store
        self._tls = settings.tls.files(base) if settings.tls and not settings.insecure else None
        self._warehouse = warehouse
        self._simulate = simulate
        self._stack = AsyncExitStack()
        self._port = 0
        self._watching: asyncio.Task[None] | None = None

    @property
    def address(self) -> str:
        """Where it listens, as host:port, with the port that was really taken."""
        return f"{self._settings.listen.rpartition(':')[0]}:{self._port}"

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            predictor, models = await (self._simulated() if self._simulate else self._federated(stack))
            await self._listen(stack, predictor, models)
            self._stack = stack.pop_all()
        logger.info("initiator.started", extra={"address": self.address, "simulate": self._simulate})
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()
        logger.info("initiator.stopped")

    async def watch(self) -> None:
        """Return when the tasks behind the catalogue end, which they do only by an error; it is raised."""
        if self._watching is None:
            await asyncio.get_running_loop().create_future()
        else:
            await asyncio.shield(self._watching)

    @property
    def _access(self) -> Access:
        return Access(self._settings.clients)

    @property
    def _admission(self) -> Admission:
        return Admission(self._access, self._settings.max_samples)

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
        self._watching = asyncio.create_task(watcher.run())
        stack.push_async_callback(_cancel, self._watching)
        predictor = Predictor(catalogue, scorers, self._admission, deadline_s=self._settings.deadline_s)
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
        health = HealthService(models, self._access, who_calls)
        server = grpc.aio.server(options=server_options())
        service = InitiatorService(predictor, models, self._access, who_calls)
        server.add_generic_rpc_handlers((service.handlers, health.handlers))
        self._port = _bind(server, self._settings.listen, self._tls)
        await server.start()
        stack.push_async_callback(self._drain, server, health)

    async def _drain(self, server: grpc.aio.Server, health: HealthService) -> None:
        health.serving = False
        await server.stop(self._settings.drain_s)


async def serve(
    settings: InitiatorSettings,
    store: PinStore,
    *,
    base: Path = Path(),
    warehouse: Warehouse | None = None,
    simulate: bool = False,
) -> None:
    """Serve until SIGTERM or SIGINT, then let calls under way finish (`drain_s`) and return.

    Args:
        settings: What `initiator.toml` says.
        store: Pins and offers; stays open.
        base: The folder that relative paths in the settings start at.
        warehouse: Where this initiator's own part is; stays open.
        simulate: Answer without partners.

    Raises:
        ConfigError: The port is taken, or the settings do not fit.
        CertificateError: The TLS files cannot be used.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with InitiatorServer(settings, store, base=base, warehouse=warehouse, simulate=simulate) as server:
        stopped, watched = asyncio.create_task(stop.wait()), asyncio.create_task(server.watch())
        done, pending = await asyncio.wait({stopped, watched}, return_when=asyncio.FIRST_COMPLETED)
        for task in pending:
            await _cancel(task)
        for task in done:
            task.result()


async def _cancel(task: asyncio.Task[object]) -> None:
    task.cancel()
    await asyncio.wait({task})


def _bind(server: grpc.aio.Server, listen: str, tls: TlsFiles | None) -> int:
    try:
        if tls is None:
            logger.warning("initiator.insecure", extra={"address": listen, "meaning": "no identity is proved"})
            return server.add_insecure_port(listen)
        return server.add_secure_port(listen, server_credentials(tls))
    except RuntimeError as error:
        raise ConfigError(
            f"listen: {listen} cannot be used: taken by another process, or not this machine's"
        ) from error
