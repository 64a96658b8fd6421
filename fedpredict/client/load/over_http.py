"""Load over HTTP/1.1: one request at a time on each of a fixed number of kept connections."""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TypeAlias, cast
from urllib.parse import urlsplit

import httptools
from typing_extensions import override

from fedpredict.client.load.record import LOST, NO_NUMBER, OK
from fedpredict.client.load.target import Answer, Done, LoadTarget
from fedpredict.errors import ConfigError, ServerUnavailableError
from fedpredict.security.tls import TlsFiles, read_tls, server_name

CONNECT_S = 5.0
UNREACHABLE = "cannot connect"
NOT_HTTP = "not HTTP"
MAX_TEXT = 400

Judge: TypeAlias = Callable[[bytes], bool]
"""Whether the body of a 200 has a number for every sample."""


@dataclass(frozen=True, slots=True)
class Site:
    """Where requests go.

    Attributes:
        host: Name or address.
        port: Port.
        path: Path and query.
        context: For https; None for plain text.
        server_name: The name that the certificate must carry; None: the host's.
    """

    host: str
    port: int
    path: str
    context: ssl.SSLContext | None = field(default=None, repr=False)
    server_name: str | None = None


def parse_site(url: str, path: str, *, tls: TlsFiles | None = None, server_party: str | None = None) -> Site:
    """Return where a URL points.

    Args:
        url: `http://host:port` or `https://host:port`, with a path of its own or without.
        path: The path where the URL has none.
        tls: For https: the CA, this caller's certificate and its key.
        server_party: For https: the party that the server's certificate must name.

    Raises:
        ConfigError: It is no such URL, or lacks what it needs.
        CertificateError: A file of `tls` cannot be used.

    >>> parse_site("http://127.0.0.1:7480", "/v1/predict").path
    '/v1/predict'
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ConfigError(f"{url!r} is no URL: {error}") from error
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(f"{url!r} is no URL of a server; write http://host:port or https://host:port")
    path = (parts.path if parts.path not in ("", "/") else path) + (f"?{parts.query}" if parts.query else "")
    if parts.scheme == "http":
        return Site(parts.hostname, port or 80, path)
    if tls is None or server_party is None:
        raise ConfigError(
            "https needs the CA, a certificate and its key (`[tls]` in client.toml), and server_party: the party that "
            "the server's certificate must name"
        )
    read_tls(tls)  # says what is wrong with the files, which ssl does not
    context = ssl.create_default_context(cafile=str(tls.ca))
    context.load_cert_chain(tls.certificate, tls.key)
    return Site(parts.hostname, port or 443, path, context, server_name(server_party))


class OverHttp(LoadTarget):
    """A server of HTTP and the bodies that it is sent in turn."""

    def __init__(
        self, site: Site, bodies: Sequence[bytes], judge: Judge, headers: Mapping[str, str] | None = None
    ) -> None:
        """Take what is asked; nothing is connected yet.

        Args:
            site: Where.
            bodies: What: request n has body n modulo their number.
            judge: Whether an answer has all numbers.
            headers: Further ones.
        """
        self._site, self._bodies, self._judge = site, bodies, judge
        lines = [f"POST {site.path} HTTP/1.1", f"Host: {site.host}:{site.port}"]
        lines += [f"{name}: {value}" for name, value in {"Content-Type": "application/json", **(headers or {})}.items()]
        self._head = ("\r\n".join(lines) + "\r\nContent-Length: ").encode("latin-1")
        self._idle: deque[_Connection] = deque()
        self._busy: dict[int, _Connection] = {}

    @override
    async def ask(self, number: int) -> Answer:
        answered: asyncio.Future[_Reply] = asyncio.get_running_loop().create_future()
        connection = self._take()
        connection.send(self._request(number), answered.set_result)
        try:
            reply = await asyncio.wait_for(answered, CONNECT_S * 2)
        except TimeoutError:
            connection.drop()
            raise ServerUnavailableError(f"{self._place} does not answer within {CONNECT_S * 2:g} s") from None
        if not reply.status:
            hint = "is it running?" if self._site.context is None else "is it running, and do its certificates fit?"
            raise ServerUnavailableError(f"{self._place}: {reply.problem}; {hint}")
        self._keep(connection)
        return Answer(self._kind(reply), reply.body[:MAX_TEXT].decode("utf-8", "replace"), str(reply.status))

    @override
    def start(self, number: int, done: Done) -> None:
        connection = self._busy[number] = self._take()

        def ended(reply: _Reply) -> None:
            del self._busy[number]
            self._keep(connection)
            done(number, self._kind(reply))

        connection.send(self._request(number), ended)

    @override
    def abandon(self, number: int) -> None:
        connection = self._busy.pop(number, None)
        if connection is not None:
            connection.drop()

    @override
    async def close(self) -> None:
        for connection in (*self._idle, *self._busy.values()):
            connection.drop()
        self._idle.clear()
        self._busy.clear()
        await asyncio.sleep(0)

    @property
    def _place(self) -> str:
        return f"the server at {self._site.host}:{self._site.port}"

    def _take(self) -> _Connection:
        while self._idle:
            connection = self._idle.pop()  # the one used last: where few are needed, few are open
            if connection.is_open:
                return connection
        return _Connection(self._site)

    def _keep(self, connection: _Connection) -> None:
        if connection.is_open:
            self._idle.append(connection)

    def _request(self, number: int) -> bytes:
        body = self._bodies[number % len(self._bodies)]
        return b"%b%d\r\n\r\n%b" % (self._head, len(body), body)

    def _kind(self, reply: _Reply) -> str:
        if reply.status == 200:
            return OK if self._judge(reply.body) else NO_NUMBER
        if not reply.status:
            return reply.problem
        hint = "" if reply.status != 429 or reply.retry_after else " without Retry-After"
        return f"HTTP {reply.status}{hint}"


@dataclass(slots=True)
class _Reply:
    """What came back: a status and a body, or 0 and a problem."""

    status: int = 0
    body: bytes = b""
    retry_after: bool = False
    problem: str = ""


_Replied: TypeAlias = Callable[[_Reply], object]


class _Connection(asyncio.Protocol):
    """A connection, made when the first request is sent; once lost, it is of no further use."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._transport: asyncio.Transport | None = None
        self._replied: _Replied | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._parser, self._reply = httptools.HttpResponseParser(self), _Reply()

    @property
    def is_open(self) -> bool:
        """Whether another request can be sent on it."""
        return self._transport is not None and not self._transport.is_closing()

    def send(self, request: bytes, replied: _Replied) -> None:
        """Send a request; one at a time. `replied` is called once, later."""
        self._replied = replied
        if self._transport is None:
            self._connecting = asyncio.ensure_future(self._connect_and_send(request))
        else:
            self._transport.write(request)

    def drop(self) -> None:
        """Close it; whoever waits is not told."""
        self._replied = None
        if self._connecting is not None:
            self._connecting.cancel()
        if self._transport is not None:
            self._transport.abort()
            self._transport = None

    async def _connect_and_send(self, request: bytes) -> None:
        site, loop = self._site, asyncio.get_running_loop()
        try:
            await asyncio.wait_for(
                loop.create_connection(
                    lambda: self, site.host, site.port, ssl=site.context, server_hostname=site.server_name
                ),
                CONNECT_S,
            )
        except (OSError, TimeoutError):  # ssl's errors are OSErrors
            self._settle(_Reply(problem=UNREACHABLE))
            return
        finally:
            self._connecting = None
        if self._transport is not None and self._replied is not None:
            self._transport.write(request)

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # what create_connection gives; uvloop's is its own class

    @override
    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._lose(NOT_HTTP)

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        self._lose(LOST)

    def on_header(self, name: bytes, value: bytes) -> None:  # noqa: ARG002  the parser's protocol
        """Take a header of a reply."""
        if name.lower() == b"retry-after":
            self._reply.retry_after = True

    def on_body(self, body: bytes) -> None:
        """Take a part of a reply's body."""
        self._reply.body += body

    def on_message_complete(self) -> None:
        """Hand over a whole reply."""
        reply, self._reply = self._reply, _Reply()
        reply.status = self._parser.get_status_code()
        if not self._parser.should_keep_alive() and self._transport is not None:
            self._transport.close()
            self._transport = None
        self._settle(reply)

    def _lose(self, problem: str) -> None:
        if self._transport is not None:
            with suppress(RuntimeError):
                self._transport.abort()
            self._transport = None
        self._settle(_Reply(problem=problem))

    def _settle(self, reply: _Reply) -> None:
        replied, self._replied = self._replied, None
        if replied is not None:
            replied(reply)
