"""Tests of what an exchange makes of the pieces of a body."""

from __future__ import annotations

import random
import tracemalloc
from typing import cast

import pytest

from fedpredict.http.exchange import LARGE_PIECE, Connection, Exchange, Head


def an_exchange() -> Exchange:
    return Exchange(cast("Connection", None), Head(b"POST", b"/v1/predict"))


@pytest.mark.parametrize(
    "sizes",
    [
        pytest.param([], id="none"),
        pytest.param([5], id="one"),
        pytest.param([1, 2, 3], id="small ones"),
        pytest.param([LARGE_PIECE, LARGE_PIECE + 1], id="large ones"),
        pytest.param([LARGE_PIECE, 1, 2, LARGE_PIECE, LARGE_PIECE - 1, 3], id="a mixture"),
    ],
)
def test_a_body_is_its_pieces_in_order(sizes: list[int]) -> None:
    exchange = an_exchange()
    pieces = [random.randbytes(size) for size in sizes]
    for piece in pieces:
        exchange.add(piece)
    assert exchange.body == b"".join(pieces)
    assert exchange.body is exchange.body
    assert exchange.size == sum(sizes)


def test_a_body_may_go_on_after_somebody_looked_at_it() -> None:
    exchange = an_exchange()
    exchange.add(b"a")
    exchange.add(b"b")
    assert exchange.body == b"ab"
    exchange.add(b"c")
    assert exchange.body == b"abc"


def test_a_body_in_tiny_pieces_takes_no_more_memory_than_its_bytes() -> None:
    exchange = an_exchange()
    tracemalloc.start()
    try:
        for _ in range(50_000):
            exchange.add(bytes(2))
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert taken < 2 * exchange.size
