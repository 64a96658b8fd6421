from __future__ import annotations

from typing_extensions import override

from fedpredict.http.edge import MAX_HEAD_KEPT, MAX_HEADS, Edge
from fedpredict.http.exchange import Connection, Exchange, Head
from fedpredict.http.settings import HttpSettings
from fedpredict.initiator.http.decode import name_request


class NoConnection(Connection):
    @property
    @override
    def peer_uris(self) -> tuple[str, ...] | None:
        return None

    @override
    def finish(self, exchange: Exchange, head: bytes, body: bytes) -> None:
        raise AssertionError("nothing is answered here")


def kept(
    *headers: tuple[bytes, bytes],
    body: bytes = b"{}",
    lines: bytes = b"",
    tail: bytes = b"",
    keep_alive: bool = True,
    edge: Edge | None = None,
) -> Edge:
    """Return an edge after a request for a fast route, of which the parser has read `headers` and `body`."""
    edge = edge or Edge(HttpSettings(), lambda _target: None, name_request)
    head = Head(b"POST", b"/p", "1.1", [*headers, (b"content-length", b"%d" % len(body))], lambda exchange: None)
    edge.keep(
        Exchange(NoConnection(), head, body, keep_alive=keep_alive),
        b"POST /p HTTP/1.1\r\n%bContent-Length: %d\r\n\r\n" % (lines, len(body)) + body + tail,
    )
    return edge


def test_a_head_is_kept_with_the_length_of_its_body() -> None:
    (head,) = kept(body=b"{ }").heads.values()

    assert head.length == 3


def test_heads_that_are_of_one_request_or_say_more_of_the_body_are_not_kept() -> None:
    for name in (b"x-request-id", b"traceparent", b"expect", b"transfer-encoding"):
        assert kept((name, b"x")).heads == {}


def test_heads_that_are_long_or_end_the_connection_or_have_no_body_are_not_kept() -> None:
    assert kept(lines=b"a: %b\r\n" % bytes(MAX_HEAD_KEPT)).heads == {}
    assert kept(keep_alive=False).heads == {}
    assert kept(body=b"").heads == {}


def test_a_head_is_not_kept_where_its_end_is_not_where_the_parser_saw_it() -> None:
    assert kept(lines=b"a: b\r\n\r\n").heads == {}
    assert kept(tail=b"\r\n").heads == {}


def test_so_many_heads_are_kept_and_no_more() -> None:
    edge = kept()
    for number in range(MAX_HEADS):
        kept(lines=b"a: %d\r\n" % number, edge=edge)

    assert len(edge.heads) == 1
