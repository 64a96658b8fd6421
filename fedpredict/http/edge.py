"""What all connections of an HTTP server share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from fedpredict.http.exchange import Exchange, FastRoute, Head
from fedpredict.http.settings import HttpSettings

MAX_HEADS, MAX_HEAD_KEPT = 1024, 1024
"""Heads that are kept, and most bytes of each."""
END_OF_HEAD = b"\r\n\r\n"
_NOT_KEPT = (b"x-request-id", b"traceparent", b"expect", b"transfer-encoding")
"""Heads with these are of one request, or say more about the body than its length."""


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
    """

    settings: HttpSettings
    fast_route: Callable[[bytes], FastRoute | None]
    name_request: Callable[[str | None], str]
    draining: bool = False
    heads: dict[bytes, Head] = field(default_factory=dict)
    dates: tuple[list[tuple[bytes, bytes]], bytes] = field(default_factory=lambda: ([], b""))

    def date_line(self, headers: list[tuple[bytes, bytes]]) -> bytes:
        """Return uvicorn's default headers, which it renews every second, as bytes."""
        if self.dates[0] is not headers:
            self.dates = (headers, b"".join(b"%b: %b\r\n" % header for header in headers))
        return self.dates[1]

    def keep(self, exchange: Exchange, data: bytes) -> None:
        """Keep the head of a request that came alone and whole as `data`, if it is likely to come again.

        Args:
            exchange: What the parser made of it.
            data: Its bytes, and nothing else.
        """
        head = exchange.head
        if head.route is None or not exchange.keep_alive:
            return
        fields, end = head.fields, data.find(END_OF_HEAD) + len(END_OF_HEAD)
        if end > MAX_HEAD_KEPT or not exchange.size or any(name in fields for name in _NOT_KEPT):
            return
        # the body must be all behind the first empty line, else the parser has read these bytes in another way
        if fields.get(b"content-length") == b"%d" % exchange.size and exchange.body == data[end:]:
            if len(self.heads) >= MAX_HEADS:
                self.heads.clear()
            head.length = exchange.size
            self.heads[data[:end]] = head
