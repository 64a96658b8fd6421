"""A server of HTTP for the load generator's tests: it answers as `POST /v1/predict` does, or misbehaves as told."""

from __future__ import annotations

import asyncio
import json
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httptools
from typing_extensions import override

Reply = tuple[int, dict[str, str], bytes]
"""Status, headers, body."""


def predictions(body: bytes) -> Reply:
    """Answer half for every sample; `nobody` gets no number, and only model `m` is known."""
    asked = json.loads(body)
    if asked["model"] != "m":
        return 404, {}, b'{"title":"no such model"}'
    values = [None if each == "nobody" else 0.5 for each in asked["sample_ids"]]
    return 200, {}, json.dumps({"predictions": values}).encode()


@dataclass
class StubServer:
    """What the server does, and what it saw.

    Attributes:
        reply: Body -> reply.
        delay: Number of the request, from 0 -> seconds before it is answered.
        hang_up_after: Answers on one connection before it is closed without a word; 0: never.
        tls: Its side of TLS; None for plain text.
        bodies: Of the requests so far.
        heads: Their headers.
    """

    reply: Callable[[bytes], Reply] = predictions
    delay: Callable[[int], float] = lambda _: 0.0
    hang_up_after: int = 0
    tls: ssl.SSLContext | None = None
    bodies: list[bytes] = field(default_factory=list)
    heads: list[dict[str, str]] = field(default_factory=list)
    connections: list[_Connection] = field(default_factory=list)
    port: int = 0

    @property
    def url(self) -> str:
        """Where it is."""
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}"


class _Connection(asyncio.Protocol):
    def __init__(self, server: StubServer) -> None:
        self.server, self.parser, self.body, self.answered = server, httptools.HttpRequestParser(self), b"", 0
        self.head: dict[str, str] = {}
        self.transport: Any = None

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.server.connections.append(self)

    @override
    def data_received(self, data: bytes) -> None:
        self.parser.feed_data(data)

    def on_header(self, name: bytes, value: bytes) -> None:
        self.head[name.decode().lower()] = value.decode()

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        body, self.body = self.body, b""
        delay = self.server.delay(len(self.server.bodies))
        self.server.bodies.append(body)
        self.server.heads.append(self.head)
        self.head = {}
        asyncio.get_running_loop().call_later(delay, self.answer, body)

    def answer(self, body: bytes) -> None:
        if self.server.hang_up_after and self.answered == self.server.hang_up_after:
            self.transport.abort()
            return
        self.answered += 1
        status, headers, content = self.server.reply(body)
        lines = [f"HTTP/1.1 {status} X", *(f"{name}: {value}" for name, value in headers.items())]
        lines += [f"content-length: {len(content)}", "", ""]
        self.transport.write("\r\n".join(lines).encode() + content)


@contextmanager
def serving(server: StubServer) -> Iterator[StubServer]:
    """Serve on a thread of its own while the block runs."""
    ready, stop = threading.Event(), asyncio.Event()
    loops: list[asyncio.AbstractEventLoop] = []

    async def serve() -> None:
        loop = asyncio.get_running_loop()
        loops.append(loop)
        listening = await loop.create_server(lambda: _Connection(server), "127.0.0.1", 0, ssl=server.tls)
        server.port = listening.sockets[0].getsockname()[1]
        ready.set()
        await stop.wait()
        listening.close()
        for connection in list(server.connections):
            connection.transport.abort()
        await asyncio.sleep(0.01)

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    ready.wait(10.0)
    try:
        yield server
    finally:
        loops[0].call_soon_threadsafe(stop.set)
        thread.join()
