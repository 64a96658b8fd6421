"""One HTTP connection: uvicorn's httptools protocol, with paths that are answered without ASGI.

A request becomes an `Exchange`. It is begun when it is whole and every earlier one on the connection is answered: a
fast path by its route, in the same event loop and without a task; anything else by the ASGI application. So pipelined
requests are answered in order, and whatever is wrong with a request is known before anybody works on it.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

import httptools
from typing_extensions import override
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from fedpredict.errors import CertificateRefusedError, FedPredictError
from fedpredict.http import problem as problems
from fedpredict.http.asgi_cycle import AsgiCycle, build_scope
from fedpredict.http.edge import END_OF_HEAD, Edge
from fedpredict.http.exchange import Exchange, Head
from fedpredict.http.problem import Problem, RefusedError
from fedpredict.http.settings import MAX_HEAD_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable

    from uvicorn.config import Config
    from uvicorn.server import ServerState

logger = logging.getLogger(__name__)

LINGER_S = 2.0
"""How long what a refused caller still sends is read and thrown away, so that the answer reaches it."""
MAX_WAITING, MAX_WAITING_BYTES = 32, 64 * 1024
"""Pipelined requests, and bytes of their bodies, that wait on one connection before it is read no further."""
MAX_FRAMING_BYTES = 64 * 1024
"""Bytes of chunk framing and trailers beyond the size of the body itself."""
_SINGLE = frozenset({
    b"host", b"content-type", b"x-request-id", b"traceparent", b"x-fedpredict-client", b"x-fedpredict-deadline-ms",
    b"authorization", b"expect", b"inference-header-content-length", b"content-encoding",
})  # fmt: skip


class EdgeProtocol(HttpToolsProtocol):
    """A connection."""

    def __init__(self, config: Config, server_state: ServerState, edge: Edge, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(config, server_state, {}, loop)
        self._edge = edge
        self._uris: tuple[str, ...] | None = None
        self._incoming: Exchange | None = None
        self._waiting: deque[Exchange] = deque()
        self._turn: Exchange | None = None
        self._cycle: AsgiCycle | None = None
        """What answers it, where that is the application."""
        self._began: float | None = None
        """When the first byte of the request that is arriving came; None between requests."""
        self._since = 0.0
        """Since when the connection is idle, or lingers."""
        self._in_head = False
        self._head_bytes = self._received = self._n_whole = 0
        self._deaf = self._advancing = False
        self._reusable = True
        """Whether the parser takes another request after the last one."""

    @property
    def peer_uris(self) -> tuple[str, ...] | None:
        """The URIs among the names of the peer's certificate; None without TLS."""
        return self._uris

    # the transport's side

    @override
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        super().connection_made(transport)
        self._since = self.loop.time()
        if transport.get_extra_info("sslcontext") is not None:
            # a caller without a certificate has no names; he is not one without TLS, who may state his
            certificate = cast("Mapping[str, Any]", transport.get_extra_info("peercert") or {})
            names = certificate.get("subjectAltName", ())
            self._uris = tuple(value for kind, value in names if kind == "URI")
        most = self._edge.settings.max_connections
        if len(self.connections) > 2 * most:
            transport.abort()
        elif len(self.connections) > most:
            self._refuse(problems.TOO_MANY_CONNECTIONS)
        elif self._uris is not None and self._edge.admits is not None:
            try:
                self._edge.admits(transport.get_extra_info("ssl_object"), self)
            except FedPredictError as error:
                self._refuse(problems.problem_of(error))

    def close(self, reason: str) -> None:
        """Answer what comes next, if anything, with a refusal, and close."""
        if not self._deaf:
            self._refuse(problems.problem_of(CertificateRefusedError(reason)))

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._deaf = True
        for exchange in (self._turn, self._incoming, *self._waiting):
            self._edge.bodies.give_back(exchange)
        self._waiting.clear()
        turn, self._turn, self._incoming, self._cycle = self._turn, None, None, None
        if turn is not None and not turn.answered:
            turn.answered = True
            if turn.give_up is not None:
                turn.give_up()
                turn.give_up = None

    @override
    def data_received(self, data: bytes) -> None:
        if self._deaf:
            return
        if self._began is None and self._reusable:
            end = data.find(END_OF_HEAD) + 4
            head = self._edge.heads.get(data[:end])
            if head is not None and len(data) == end + head.length:
                self._arrived(Exchange(self, head, data[end:], keep_alive=True))
                return
        self._parse(data)

    def _arrived(self, exchange: Exchange) -> None:
        """Take a request that came whole, with a head that is known."""
        flow = self.flow
        if (
            self._turn is not None
            or self._waiting
            or flow.write_paused
            or flow.read_paused
            or self.transport.is_closing()
        ):
            self._waiting.append(exchange)
            self._advance()
            return
        self._turn = exchange
        self._begin(exchange)

    def _parse(self, data: bytes) -> None:
        n_whole, alone = self._n_whole, self._began is None
        if self._feed(data):
            if self._began is not None:
                if n_whole == self._n_whole:
                    self._check_growth(len(data))
            elif alone and n_whole + 1 == self._n_whole and len(self._waiting) == 1:
                self._edge.keep(self._waiting[0], data)
        if self._waiting:
            self._advance()

    def _feed(self, data: bytes) -> bool:
        """Hand bytes to the parser; return whether it took them."""
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserCallbackError as error:
            self._refuse(self._problem_in_callback(error))
        except httptools.HttpParserUpgrade:
            self._refuse(problems.UPGRADE)
        except httptools.HttpParserError:
            self._refuse(problems.MALFORMED)
        else:
            return True
        return False

    @override
    def resume_writing(self) -> None:
        super().resume_writing()
        self._advance()

    @override
    def shutdown(self) -> None:
        if self._cycle is not None:
            self._cycle.keep_alive = False  # it was begun before anybody knew
        if self._turn is None and not self._waiting and self._began is None:
            self.transport.close()

    def sweep(self, now: float) -> None:
        """End what takes too long: a request that does not arrive, an idle connection, one that was refused."""
        settings, idle_s = self._edge.settings, now - self._since
        if self._deaf or self.transport.is_closing():
            if self._turn is None and idle_s > LINGER_S:
                self.transport.abort()
        elif self._began is not None and not self.flow.read_paused:
            if now - self._began > settings.request_timeout_s:
                self._refuse(problems.TOO_SLOW)
        elif self._turn is None and idle_s > settings.keep_alive_s:
            # what is still unsent has not been read for as long: nothing to wait for
            if self.transport.get_write_buffer_size():
                self.transport.abort()
            else:
                self.transport.close()

    # the parser's side

    @override
    def on_message_begin(self) -> None:
        self.url = b""
        self.headers = []
        self._in_head = True
        self._head_bytes = self._received = 0
        self._began = self.loop.time()

    @override
    def on_url(self, url: bytes) -> None:
        self.url += url
        self._head_bytes += len(url)

    @override
    def on_header(self, name: bytes, value: bytes) -> None:
        self._head_bytes += len(name) + len(value) + 4
        if self._in_head:
            self.headers.append((name.lower(), value))
        elif self._head_bytes > MAX_HEAD_BYTES + MAX_FRAMING_BYTES:
            raise RefusedError(problems.WASTEFUL_CHUNKS)

    @override
    def on_headers_complete(self) -> None:
        self._in_head = False
        if self._head_bytes > MAX_HEAD_BYTES:
            raise RefusedError(problems.HEAD_TOO_LARGE)
        parser, version, method = self.parser, self.parser.get_http_version(), self.parser.get_method()
        route = self._edge.fast_route(self.url) if method == b"POST" else None
        head = Head(method, self.url, version, self.headers, route)
        exchange = self._incoming = Exchange(self, head)
        self._check_head(head)
        self._reusable = exchange.keep_alive = version == "1.1" and parser.should_keep_alive()
        if b"expect" in head.fields:
            self._expect(exchange)

    @override
    def on_body(self, body: bytes) -> None:
        exchange = self._incoming
        if exchange is None:
            return
        size = exchange.size + len(body)
        if size > self._edge.settings.max_body_bytes:
            raise RefusedError(problems.body_too_large(self._edge.settings.max_body_bytes))
        self._edge.bodies.hold(exchange, size)
        exchange.add(body)

    @override
    def on_message_complete(self) -> None:
        exchange, self._incoming, self._began = self._incoming, None, None
        self._n_whole += 1
        if exchange is not None:
            self._waiting.append(exchange)

    def _check_head(self, head: Head) -> None:
        fields = head.fields
        if len(fields) != len(head.headers):
            names = [name for name, _ in head.headers if name in _SINGLE]
            if len(names) != len(set(names)):
                raise RefusedError(problems.REPEATED_HEADER)
        if self.parser.should_upgrade():
            raise RefusedError(problems.UPGRADE)
        if head.version != "1.1":
            _check_old(head)
        elif b"host" not in fields:
            raise RefusedError(problems.NO_HOST)
        length = fields.get(b"content-length")
        if length is not None:
            if int(length) > self._edge.settings.max_body_bytes:
                raise RefusedError(problems.body_too_large(self._edge.settings.max_body_bytes))
            self._edge.bodies.check_room(int(length))

    def _check_growth(self, n_bytes: int) -> None:
        """Refuse a request that is arriving where what came of it, all of the last read included, is too much."""
        self._received += n_bytes
        if self._in_head:
            if self._received > MAX_HEAD_BYTES:
                self._refuse(problems.HEAD_TOO_LARGE)
        elif self._incoming is not None:
            size = self._incoming.size
            if self._received - size > size + MAX_HEAD_BYTES + MAX_FRAMING_BYTES:
                self._refuse(problems.WASTEFUL_CHUNKS)

    def _expect(self, exchange: Exchange) -> None:
        if exchange.head.fields[b"expect"].lower() != b"100-continue":
            raise RefusedError(problems.EXPECTATION)
        exchange.expects_continue = exchange.head.version == "1.1"
        self._continue()

    def _continue(self) -> None:
        """Ask for the body that a caller holds back, once everything before it is answered."""
        exchange = self._incoming
        if exchange is None or not exchange.expects_continue or self._turn is not None or self._waiting:
            return
        exchange.expects_continue = False
        if not exchange.size:
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _problem_in_callback(self, error: httptools.HttpParserCallbackError) -> Problem:
        cause = error.__context__
        if isinstance(cause, RefusedError):
            return cause.problem
        logger.error("http.failed", extra={"error": type(cause).__name__}, exc_info=cause)
        return problems.problem_of(RuntimeError())

    # turns

    def _advance(self) -> None:
        """Begin what waits, in order, as long as answers are there at once; not from within itself."""
        if self._advancing:
            return
        self._advancing = True
        while self._turn is None and self._waiting and not self.flow.write_paused and not self.transport.is_closing():
            self._turn = self._waiting.popleft()
            self._begin(self._turn)
        self._advancing = False
        if self._turn is not None or self._waiting:
            if self._waiting or self.flow.read_paused:
                self._limit_reading()
        else:
            self.flow.resume_reading()
            if self._incoming is not None:
                self._continue()

    def _limit_reading(self) -> None:
        waiting = self._waiting
        if len(waiting) > MAX_WAITING or sum(exchange.size for exchange in waiting) > MAX_WAITING_BYTES:
            self.flow.pause_reading()
        elif self.flow.read_paused:
            self._began = self.loop.time() if self._began is not None else None
            self.flow.resume_reading()

    def _begin(self, exchange: Exchange) -> None:
        if exchange.refusal is not None:
            exchange.refuse(exchange.refusal, self._edge.name_request(exchange.header(b"x-request-id")))
            return
        route = exchange.head.route
        exchange.give_up = self._begin_asgi(exchange) if route is None else route(exchange)

    def _begin_asgi(self, exchange: Exchange) -> Callable[[], None] | None:
        try:
            scope = build_scope(exchange, self.server, self.client, self.scheme)
        except httptools.HttpParserInvalidURLError:
            self._deaf, exchange.keep_alive, exchange.refusal = True, False, problems.MALFORMED
            exchange.refuse(problems.MALFORMED, self._edge.name_request(exchange.header(b"x-request-id")))
            return None
        cycle = self._cycle = AsgiCycle(
            scope,
            self.transport,
            self.flow,
            self.server_state.default_headers,
            keep_alive=exchange.keep_alive and not self._edge.draining,
            on_response=lambda: self._finished(exchange),
        )
        task = self.loop.create_task(cycle.run_asgi(self.app))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        return lambda: cycle.leave(task)

    def finish(self, exchange: Exchange, head: bytes, body: bytes) -> None:
        """Write an answer; the connection is closed after it where it has to be."""
        if exchange.answered:
            return
        keep = exchange.keep_alive and not self._edge.draining
        date = self._edge.date_line(self.server_state.default_headers)
        end = b"\r\n" if keep else b"connection: close\r\n\r\n"
        self.transport.write(b"".join((head, date, end, b"" if exchange.head.method == b"HEAD" else body)))
        if exchange.refusal is not None:
            if self.transport.can_write_eof():
                self.transport.write_eof()
        elif not keep:
            self.transport.close()
        self._finished(exchange)

    def _finished(self, exchange: Exchange) -> None:
        if exchange.answered:
            return
        exchange.answered = True
        exchange.give_up = None  # it leads back to the exchange: a circle that only the garbage collector would free
        if exchange.held:
            self._edge.bodies.give_back(exchange)
        self._turn = self._cycle = None
        self._since = self.loop.time()
        self.server_state.total_requests += 1
        if self._waiting or self._incoming is not None or self.flow.read_paused:
            self._advance()

    def _refuse(self, problem: Problem) -> None:
        """Answer `problem` when it is its turn, hear nothing more, and close."""
        exchange = self._incoming or Exchange(self, Head(b"", self.url if self._in_head else b""))
        exchange.refusal, exchange.keep_alive = problem, False
        self._edge.bodies.give_back(exchange)
        self._deaf, self._incoming, self._began = True, None, None
        self._since = self.loop.time()
        self._waiting.append(exchange)
        self._advance()


def _check_old(head: Head) -> None:
    if head.version != "1.0":
        raise RefusedError(problems.MALFORMED)
    if b"transfer-encoding" in head.fields:
        raise RefusedError(problems.OLD_CHUNKS)
