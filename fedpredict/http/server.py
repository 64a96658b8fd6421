"""An HTTP server in the running event loop: uvicorn's, without its signal handlers, logs and lifespan."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Self, cast

import uvicorn
from typing_extensions import override

from fedpredict.errors import ConfigError
from fedpredict.http.edge import Admits, Edge
from fedpredict.http.exchange import FastRoute
from fedpredict.http.protocol import EdgeProtocol
from fedpredict.http.settings import HttpSettings

if TYPE_CHECKING:
    from starlette.types import ASGIApp
    from uvicorn._types import ASGI3Application

BACKLOG = 16_384
_LOOK_S = 0.01
_SWEEPS = 4
"""How often the shortest of the timeouts is looked at; at least once a second."""


class HttpServer:
    """A running HTTP server, as an async context manager: it listens from enter to exit."""

    def __init__(
        self,
        listen: str,
        application: ASGIApp,
        *,
        fast_route: Callable[[bytes], FastRoute | None],
        name_request: Callable[[str | None], str],
        settings: HttpSettings,
        tls: ssl.SSLContext | None,
        drain_s: float,
        shares_port: bool = False,
        admits: Admits | None = None,
    ) -> None:
        """Prepare; nothing is opened yet.

        Args:
            listen: host:port; port 0 takes any free one.
            application: Answers whatever has no fast route.
            fast_route: The target of a POST -> what answers it without ASGI; None where the application does.
            name_request: Header `x-request-id` (None without it) -> the request's id.
            settings: The limits.
            tls: The server's side of mutual TLS; None for plain text.
            drain_s: How long requests under way may take at exit.
            shares_port: Whether other processes listen at the same port (SO_REUSEPORT).
            admits: Asked with every connection that has TLS; None: all are admitted.
        """
        self._listen = listen
        self._shares_port = shares_port
        self._edge = Edge(settings, fast_route, name_request, admits=admits)
        config = uvicorn.Config(
            cast("ASGI3Application", application),
            interface="asgi3",
            lifespan="off",
            ws="none",
            log_config=None,
            access_log=False,
            server_header=False,
            backlog=BACKLOG,
        )
        config.load()
        self._server = _Server(config, self._edge, tls, drain_s)
        self._address = listen
        self._serving: asyncio.Task[None] | None = None

    @property
    def address(self) -> str:
        """host:port that the server listens at."""
        return self._address

    @property
    def draining(self) -> bool:
        """Whether the server stops."""
        return self._edge.draining

    @property
    def n_connections(self) -> int:
        """How many connections are open."""
        return len(self._server.server_state.connections)

    async def __aenter__(self) -> Self:
        bound = _bind(self._listen, shares_port=self._shares_port)
        self._address = f"{self._listen.rpartition(':')[0]}:{bound.getsockname()[1]}"
        self._serving = asyncio.create_task(self._server.serve(sockets=[bound]))
        await self._server.listening.wait()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._edge.draining = True
        self._server.should_exit = True
        if self._serving is not None:
            await self._serving


class _Server(uvicorn.Server):
    """uvicorn's server with our protocol on one socket."""

    def __init__(self, config: uvicorn.Config, edge: Edge, tls: ssl.SSLContext | None, drain_s: float) -> None:
        super().__init__(config)
        self.listening = asyncio.Event()
        self._edge = edge
        self._tls = tls
        self._drain_s = drain_s

    @override
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals to the process."""
        yield

    @override
    async def _serve(self, sockets: list[socket.socket] | None = None) -> None:
        self.lifespan = self.config.lifespan_class(self.config)
        await self.startup(sockets)
        sweeping = asyncio.create_task(self._sweep())
        try:
            await self.main_loop()
            await self.shutdown(sockets)
        finally:
            sweeping.cancel()
            for connection in self._connections():
                connection.transport.abort()
            await self._until_no_connections()

    @override
    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        loop = asyncio.get_running_loop()
        timeout_s = self._edge.settings.request_timeout_s if self._tls else None
        await self.on_tick(0)
        self.servers = [
            await loop.create_server(
                lambda: EdgeProtocol(self.config, self.server_state, self._edge, loop),
                sock=bound,
                ssl=self._tls,
                backlog=self.config.backlog,
                ssl_handshake_timeout=timeout_s,
            )
            for bound in sockets or ()
        ]
        self.started = True
        self.listening.set()

    @override
    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for server in self.servers:
            server.close()
        for connection in self._connections():
            connection.shutdown()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._drain_s):
                await self._until_no_connections()

    async def _until_no_connections(self) -> None:
        while self.server_state.connections:
            await asyncio.sleep(_LOOK_S)

    async def _sweep(self) -> None:
        settings, loop = self._edge.settings, asyncio.get_running_loop()
        pause_s = min(1.0, settings.request_timeout_s / _SWEEPS, settings.keep_alive_s / _SWEEPS)
        while True:
            await asyncio.sleep(pause_s)
            now = loop.time()
            for connection in self._connections():
                connection.sweep(now)

    def _connections(self) -> list[EdgeProtocol]:
        return cast("list[EdgeProtocol]", list(self.server_state.connections))


def _bind(listen: str, *, shares_port: bool) -> socket.socket:
    """Take the port; raise `ConfigError` where it is taken, or the address is not of this machine."""
    host, _, port = listen.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    try:
        family, _, _, _, address = socket.getaddrinfo(host, int(port), type=socket.SOCK_STREAM)[0]
        bound = socket.create_server(address[:2], family=family, backlog=BACKLOG, reuse_port=shares_port)
    except OSError as error:
        raise ConfigError(
            f"http_listen: {listen} cannot be bound; the port is taken, or the address is not of this machine"
        ) from error
    bound.setblocking(False)
    return bound
