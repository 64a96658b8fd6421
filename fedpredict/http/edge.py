"""What all connections of an HTTP server share."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

from fedpredict.http.exchange import Exchange, FastRoute, Head
from fedpredict.http.problem import NO_ROOM_FOR_BODY, RefusedError
from fedpredict.http.settings import HttpSettings

MAX_HEADS, MAX_HEAD_KEPT = 1024, 1024
"""Heads that are kept, and most bytes of each."""
END_OF_HEAD = b"\r\n\r\n"
SMALL_BODY_BYTES = 16 * 1024
"""Bodies up to this size are always taken: `max_connections` bounds what they come to."""
_NOT_KEPT = (b"x-request-id", b"traceparent", b"expect", b"transfer-encoding")
"""Heads with these are of one request, or say more about the body than its length."""


class Bodies:
    """What the bodies on all connections of a server come to, from their first byte until they are answered.

    Without it many callers that each send most of a large body, and wait, would fill the memory. A body counts with
    what has come of it, not with what it announces: else announcing would be enough to keep others out.
    """

    def __init__(self, limit_bytes: int) -> None:
        """Prepare; nothing is held.

        Args:
            limit_bytes: Most bytes of bodies above `SMALL_BODY_BYTES` together.
        """
        self.held_bytes = 0
        self._limit_bytes = limit_bytes

    def check_room(self, size: int) -> None:
        """Raise `RefusedError` where a body of so many bytes would not fit now."""
        if size > SMALL_BODY_BYTES and self.held_bytes + size > self._limit_bytes:
            raise RefusedError(NO_ROOM_FOR_BODY)

    def hold(self, exchange: Exchange, size: int) -> None:
        """Count a body that has grown to `size` bytes; raise `RefusedError` where it does not fit."""
        if size > SMALL_BODY_BYTES:
            more = size - exchange.held
            if self.held_bytes + more > self._limit_bytes:
                raise RefusedError(NO_ROOM_FOR_BODY)
            self.held_bytes += more
            exchange.held = size

    def give_back(self, exchange: Exchange | None) -> None:
        """Let go what an exchange holds, if anything."""
        if exchange is not None and exchange.held:
            self.held_bytes -= exchange.held
            exchange.held = 0
            exchange.drop_body()


class Closable(Protocol):
    """A connection."""

    def close(self, reason: str) -> None:
        """Refuse what comes, and close; the reason is for logs."""


Admits: TypeAlias = Callable[[ssl.SSLObject, Closable], None]


@dataclass(slots=True)
class Edge:
    """What all connections of a server share.

    Attributes:
        settings: The limits.
        fast_route: The target of a POST -> its fast route; None where ASGI answers.
        name_request: Header `x-request-id` (None without it) -> the request's id.
        draining: Whether the server stops: answers then close their connections.
        heads: What the parser made of heads for fast routes, by their bytes: callers send few different ones, and to
            parse one costs more than all the rest of the edge.
        bodies: What the bodies on all connections come to.
        admits: Asked with every connection that has TLS; raises where its caller is not believed, and closes it when
            that is so later. None: all are.
    """

    settings: HttpSettings
    fast_route: Callable[[bytes], FastRoute | None]
    name_request: Callable[[str | None], str]
    draining: bool = False
    heads: dict[bytes, Head] = field(default_factory=dict)
    dates: tuple[list[tuple[bytes, bytes]], bytes] = field(default_factory=lambda: ([], b""))
    bodies: Bodies = field(init=False)
    admits: Admits | None = None

    def __post_init__(self) -> None:
        self.bodies = Bodies(self.settings.max_body_bytes_total)

    def date_line(self, headers: list[tuple[bytes, bytes]]) -> bytes:
        """Return uvicorn's default headers, which it renews every second, as bytes."""
        if self.dates[0] is not headers:
            self.dates = (headers, b"".join(b"%b: %b\r\n" % header for header in headers))
        return self.dates[1]

    def keep(self, exchange: Exchange, data: bytes) -> None:
        """Keep the head of a request that came alone and whole as `data`, if it is likely to come again.

        Only with a small body: what goes past the parser is not counted.

        Args:
            exchange: What the parser made of it.
            data: Its bytes, and nothing else.
        """
        head = exchange.head
        if head.route is None or not exchange.keep_alive:
            return
        fields, end = head.fields, data.find(END_OF_HEAD) + len(END_OF_HEAD)
        if (
            end > MAX_HEAD_KEPT
            or not 0 < exchange.size <= SMALL_BODY_BYTES
            or any(name in fields for name in _NOT_KEPT)
        ):
            return
        # the body must be all behind the first empty line, else the parser has read these bytes in another way
        if fields.get(b"content-length") == b"%d" % exchange.size and exchange.body == data[end:]:
            if len(self.heads) >= MAX_HEADS:
                self.heads.clear()
            head.length = exchange.size
            self.heads[data[:end]] = head
