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
from fedpredict.initiator.admission import Access, Admission
from fedpredict.initiator.attach import Attachments
from fedpredict.initiator.catalogue import Catalogue
from fedpredict.initiator.fanout import Dialler, RemoteParty
from fedpredict.initiator.own import open_own_part
from fedpredict.initiator.predict import Predictor, Predicts
from fedpredict.initiator.service import InitiatorService, Models
from fedpredict.initiator.settings import InitiatorSettings
from fedpredict.initiator.simulate import Simulator
from fedpredict.initiator.watcher import Watcher
from fedpredict.model.scorer import PartyScorer
from fedpredict.security.sockets import listening_context
from fedpredict.security.tls import TlsFiles, party_credentials, peer_identity
from fedpredict.state.base import PinStore
from fedpredict.warehouse.base import Warehouse
from fedpredict.wire.channel import server_options
from fedpredict.wire.health import Health
from fedpredict.wire.link import Instance
from fedpredict.wire.server import bind, stopping

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
        simulate: bool = False,
        me: Instance | None = None,
    ) -> None:
        """Prepare; nothing is opened yet.

        Args:
            settings: What `initiator.toml` says.
            store: Pins and offers; stays open after exit.
            tls: This party's certificate and key; None exactly where `settings.insecure`.
            warehouse: Where this initiator's own part is, needed where a model lists its party; stays open.
            simulate: Answer without partners, marked as such.
            me: This process among the initiator's workers; default: the only one.

        Raises:
            ConfigError: TLS material and `insecure` do not fit, or the certificate is another party's.
            CertificateError: The certificate files cannot be used.
        """
        self._settings = settings
        self._store = store
        self._tls = tls
        self._credentials = party_credentials(settings.party, tls, insecure=settings.insecure)
        self._warehouse = warehouse
        self._simulate = simulate
        self._me = me or Instance()
        self._attachments: Attachments | None = None
        self._stack = AsyncExitStack()
        self._address = settings.listen
        self._link_address = ""

    @property
    def address(self) -> str:
        """host:port that the server listens at."""
        return self._address

    @property
    def link_address(self) -> str:
        """host:port where participants that dial us may do so over sockets; empty where none is expected."""
        return self._link_address

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
        stack.push_async_callback(_cancel, asyncio.create_task(watcher.run()))
        predictor = Predictor(catalogue, scorers, self._admission, deadline_s=self._settings.deadline_s)
        return predictor, catalogue

    async def _scorers(self, stack: AsyncExitStack) -> Mapping[str, PartyScorer]:
        scorers: dict[str, PartyScorer] = {}
        dialler = Dialler(self._settings.party, self._tls, self._me)
        attached: dict[str, RemoteParty] = {}
        for party, settings in self._settings.parties.items():
            if settings.address is not None:
                remote = dialler.dial(party, settings.address, settings.compression)
            else:
                remote = attached[party] = dialler.expect(party)
            scorers[party] = await stack.enter_async_context(remote)
        if attached:
            await self._await_links(stack, attached)
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

    async def _await_links(self, stack: AsyncExitStack, attached: Mapping[str, RemoteParty]) -> None:
        expected = {party: (remote.who, remote.pool) for party, remote in attached.items()}
        attachments = Attachments(expected, insecure=self._settings.insecure)
        self._attachments = attachments
        if self._settings.link_listen is not None:
            context = listening_context(self._tls) if self._tls else None
            self._link_address = await attachments.listen(self._settings.link_listen, context, stack)

    async def _listen(self, stack: AsyncExitStack, predictor: Predicts, models: Models) -> None:
        who_calls = partial(peer_identity, insecure=self._settings.insecure)
        attach = self._attachments.attach if self._attachments else None
        service = InitiatorService(predictor, models, self._access, who_calls, attach)
        health = Health(process=lambda: True, model=service.is_ready)
        server = grpc.aio.server(options=server_options())
        server.add_generic_rpc_handlers((service.handlers(), health.handlers()))
        self._address = bind(server, self._settings.listen, self._credentials)
        await server.start()
        stack.push_async_callback(self._drain, server, health, service)

    async def _drain(self, server: grpc.aio.Server, health: Health, service: InitiatorService) -> None:
        health.draining = True
        stopping = asyncio.ensure_future(server.stop(self._settings.drain_s))
        if self._attachments is not None:
            idle = asyncio.ensure_future(service.idle.wait())
            await asyncio.wait({stopping, idle}, return_when=asyncio.FIRST_COMPLETED)
            idle.cancel()
            self._attachments.close()
        await stopping


async def serve(
    settings: InitiatorSettings,
    store: PinStore,
    tls: TlsFiles | None,
    *,
    warehouse: Warehouse | None = None,
    simulate: bool = False,
    ready: Callable[[str], None] | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT, then let calls under way finish (`drain_s`) and return.

    Args:
        settings: What `initiator.toml` says.
        store: Pins and offers; stays open.
        tls: This party's certificate and key; None exactly where `settings.insecure`.
        warehouse: Where this initiator's own part is; stays open.
        simulate: Answer without partners.
        ready: Called once with the address, when the server listens; models become ready as their parties are met.

    Raises:
        ConfigError: The port is taken, or the settings do not fit.
        CertificateError: The TLS files cannot be used.
    """
    with stopping() as stop:
        async with InitiatorServer(settings, store, tls, warehouse=warehouse, simulate=simulate) as server:
            if ready is not None:
                ready(server.address)
            await stop.wait()


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait({task})
