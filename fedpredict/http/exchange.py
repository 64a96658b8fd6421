"""One request and its answer, as the fast path sees them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Protocol, TypeAlias

from fedpredict.http.problem import CONTENT_TYPE, Problem

STATUS_LINES = {status: f"HTTP/1.1 {int(status)} {status.phrase}\r\n".encode() for status in HTTPStatus}
_OK_JSON = STATUS_LINES[HTTPStatus.OK] + b"content-type: application/json\r\n"

LARGE_PIECE = 16 * 1024
"""Smaller pieces of a body are put together at once: as objects of their own they can take many times their bytes."""

GiveUp: TypeAlias = Callable[[], None]
"""Ends what was begun; harmless when that has ended."""


class Head:
    """What stands before a body: the request line and the headers, names in lower case.

    A caller sends the same head again and again, so heads are kept and shared (see `Edge.heads`): nothing in it changes
    but `memo`, which is for what a route made of the head alone.
    """

    __slots__ = ("fields", "headers", "length", "memo", "method", "route", "url", "version")

    def __init__(
        self,
        method: bytes,
        url: bytes,
        version: str = "1.1",
        headers: list[tuple[bytes, bytes]] | None = None,
        route: FastRoute | None = None,
    ) -> None:
        self.method = method
        self.url = url
        self.version = version
        self.headers = headers or []
        self.fields = dict(self.headers)
        self.route = route
        self.length = -1
        """The content-length of a head that is kept."""
        self.memo: object = None


class Connection(Protocol):
    """What an exchange needs of the connection that it is on."""

    @property
    def peer_uris(self) -> tuple[str, ...] | None:
        """The URIs among the names of the peer's certificate; None without TLS."""

    def finish(self, exchange: Exchange, head: bytes, body: bytes) -> None:
        """Write an answer, unless the caller has left; it is this exchange's turn.

        Args:
            exchange: The exchange.
            head: Status line and headers, without what the connection itself adds.
            body: The body.
        """


class Exchange:
    """A request that has arrived; `answer` is called once, at once or later, in this event loop."""

    __slots__ = (
        "_body",
        "_connection",
        "_more",
        "answered",
        "expects_continue",
        "give_up",
        "head",
        "held",
        "keep_alive",
        "refusal",
        "size",
    )

    def __init__(self, connection: Connection, head: Head, body: bytes = b"", *, keep_alive: bool = False) -> None:
        self._connection = connection
        self._body = body
        self._more: list[bytes | bytearray] = []
        self.head = head
        self.size = len(body)
        self.held = 0
        """Bytes of the body that count among those of all connections; see `Bodies`."""
        self.keep_alive = keep_alive
        self.expects_continue = False
        self.refusal: Problem | None = None
        self.give_up: GiveUp | None = None
        self.answered = False

    @property
    def peer_uris(self) -> tuple[str, ...] | None:
        """The URIs among the names of the caller's certificate; None without TLS."""
        return self._connection.peer_uris

    @property
    def body(self) -> bytes:
        """The whole body."""
        if self._more:
            self._body, self._more = b"".join((self._body, *self._more)), []
        return self._body

    def add(self, data: bytes) -> None:
        """Take over the next piece of the body; all are put together once, when somebody wants to see it."""
        if not self.size:
            self._body = data
        elif self._more and len(data) < LARGE_PIECE and isinstance(self._more[-1], bytearray):
            self._more[-1] += data
        else:
            self._more.append(data if len(data) >= LARGE_PIECE else bytearray(data))
        self.size += len(data)

    def drop_body(self) -> None:
        """Let the body go: the request is answered, or nobody will work on it."""
        self._body, self.size = b"", 0

    def header(self, name: bytes) -> str | None:
        """Return a header by its name in lower case; None where it is missing."""
        value = self.head.fields.get(name)
        return None if value is None else value.decode("latin-1")

    def answer(
        self,
        status: HTTPStatus,
        content_type: str,
        body: bytes,
        request_id: str,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Answer; nothing happens where the caller has left."""
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items()) if headers else ""
        head = f"content-type: {content_type}\r\ncontent-length: {len(body)}\r\nx-request-id: {request_id}\r\n{lines}"
        self._connection.finish(self, STATUS_LINES[status] + head.encode("latin-1"), body)

    def answer_json(self, body: bytes, request_id: str) -> None:
        """Answer with what was asked for, as JSON."""
        head = b"%bcontent-length: %d\r\nx-request-id: %b\r\n" % (_OK_JSON, len(body), request_id.encode("latin-1"))
        self._connection.finish(self, head, body)

    def refuse(self, problem: Problem, request_id: str) -> None:
        """Answer with a problem."""
        body = problem.to_json(request_id, self.head.url.decode("latin-1"))
        self.answer(problem.status, CONTENT_TYPE, body, request_id, problem.headers)


FastRoute: TypeAlias = Callable[[Exchange], GiveUp | None]
"""Begins to answer an exchange; returns what gives it up when the caller leaves, None where it is answered already."""
