"""The port where Prometheus reads `/metrics`, and anything else `/healthz`: plain HTTP, in the process's event loop."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from http import HTTPStatus
from http.client import HTTPException, parse_headers
from io import BytesIO
from types import TracebackType
from typing import Self

from fedpredict.errors import ConfigError
from fedpredict.observe.page import Page

logger = logging.getLogger(__name__)

MAX_HEAD_BYTES = 8_192
HEAD_S = 5.0
"""How long a reader may take to say what it wants, or to take the answer."""
MAX_READERS = 32
"""Connections served at once; more are closed."""
_TEXT = "text/plain; charset=utf-8"


class MetricsPort:
    """Answers inside an `async with` block, one request a connection."""

    def __init__(self, listen: str, worker: int, page: Page, healthy: Callable[[], bool]) -> None:
        """Prepare; nothing listens before the block is entered.

        Args:
            listen: host:port of worker 0; port 0 takes any free one.
            worker: This worker's number; its port is so many above.
            page: What `/metrics` shows.
            healthy: Whether this process is ready: 200 or 503 at `/healthz`.
        """
        self._host, _, port = listen.rpartition(":")
        self._port = int(port) + worker if int(port) else 0
        self._page = page
        self._healthy = healthy
        self._server: asyncio.Server | None = None
        self._readers: set[asyncio.Task[None]] = set()

    @property
    def address(self) -> str:
        """host:port that it listens at."""
        return f"{self._host}:{self._port}"

    async def __aenter__(self) -> Self:
        """Listen.

        Raises:
            ConfigError: The port is taken, or the address is not of this machine.
        """
        try:
            host = self._host.strip("[]")
            self._server = await asyncio.start_server(self._serve, host, self._port, limit=MAX_HEAD_BYTES)
        except (OSError, OverflowError) as error:
            raise ConfigError(
                f"metrics.listen: {self.address} cannot be bound; the port is taken, or the address is not of this "
                "machine"
            ) from error
        self._port = self._server.sockets[0].getsockname()[1]
        logger.info("metrics.listening", extra={"address": self.address})
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._server is not None:
            self._server.close()
        for reader in self._readers:
            reader.cancel()
        if self._readers:
            await asyncio.wait(self._readers)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        try:
            if task is not None and len(self._readers) < MAX_READERS:
                self._readers.add(task)
                async with asyncio.timeout(HEAD_S):
                    writer.write(await self._answer(reader))
                    await writer.drain()
        except (TimeoutError, OSError, asyncio.IncompleteReadError):
            pass  # the reader left, or is too slow: it sees the connection closed
        except asyncio.CancelledError:
            pass  # the process stops
        finally:
            if task is not None:
                self._readers.discard(task)
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader) -> bytes:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.LimitOverrunError:
            return _response(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, _TEXT, b"the request's head is too long\n")
        line, _, rest = head.partition(b"\r\n")
        words = line.split(b" ")
        accept = _accept(rest)
        if accept is None or len(words) != 3 or not words[2].startswith(b"HTTP/1."):
            return _response(HTTPStatus.BAD_REQUEST, _TEXT, b"this is no HTTP/1 request\n")
        if words[0] not in (b"GET", b"HEAD"):
            return _response(HTTPStatus.METHOD_NOT_ALLOWED, _TEXT, b"only GET\n")
        answer = await self._get(words[1].partition(b"?")[0], accept)
        return answer if words[0] == b"GET" else answer.partition(b"\r\n\r\n")[0] + b"\r\n\r\n"

    async def _get(self, path: bytes, accept: str) -> bytes:
        if path == b"/metrics":
            return _response(HTTPStatus.OK, *await self._page.write(accept))
        if path == b"/healthz":
            if self._healthy():
                return _response(HTTPStatus.OK, _TEXT, b"ok\n")
            return _response(HTTPStatus.SERVICE_UNAVAILABLE, _TEXT, b"not ready\n")
        return _response(HTTPStatus.NOT_FOUND, _TEXT, b"there are /metrics and /healthz\n")


def _accept(headers: bytes) -> str | None:
    """Return what a reader takes; None where these are no headers."""
    try:
        return parse_headers(BytesIO(headers)).get("accept", "")
    except HTTPException:
        return None


def _response(status: HTTPStatus, content_type: str, body: bytes) -> bytes:
    head = (
        f"HTTP/1.1 {status.value} {status.phrase}\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\n"
        "Connection: close\r\nCache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\n\r\n"
    )
    return head.encode("ascii") + body
