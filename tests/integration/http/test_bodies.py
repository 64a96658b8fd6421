"""What the bodies on all connections may come to: refused beyond the limit, given back, small ones always taken."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import ValidationError

from fedpredict.http.edge import SMALL_BODY_BYTES
from fedpredict.http.settings import HttpSettings
from tests.integration.federation import eventually
from tests.integration.http.edge import PREDICT, Edge, HeldPredictor, Reply, Wire, open_edge, post

PATHS = ["/v1/predict", "/v1/predict?", "/v1/nothing"]
SENT, LEFT = 100_000, 50_000
"""Bytes of a body that a slow caller has sent, and that it keeps back."""
BODY = json.dumps(PREDICT).encode().ljust(SENT + LEFT)
LIMITS: dict[str, Any] = {"max_body_bytes": 200_000, "max_body_bytes_total": 1_000_000}


def begun(path: str, *, chunked: bool = False) -> bytes:
    """Return the beginning of a request whose body does not end."""
    whole = post(BODY, path=path)
    if not chunked:
        return whole[:-LEFT]
    head = whole[: -len(BODY)].replace(b"Content-Length: %d" % len(BODY), b"Transfer-Encoding: chunked")
    return head + b"%x\r\n" % len(BODY) + BODY[:SENT]


def held(edge: Edge) -> int:
    """Return what the server says that bodies come to."""
    return edge.server._edge.bodies.held_bytes


async def is_held(edge: Edge, n_bytes: int) -> None:
    async def so() -> bool:
        return held(edge) == n_bytes

    await eventually(so)


async def slow_callers(edge: Edge, n_callers: int, start: bytes) -> tuple[list[Wire], list[Wire]]:
    """Open connections on which most of a body is sent, one after the other; return those that wait, those answered."""
    waiting: list[Wire] = []
    answered: list[Wire] = []
    for _ in range(n_callers):
        wire = await (await edge.connect()).send(start)

        async def settled(wire: Wire = wire) -> bool:
            return held(edge) == (len(waiting) + 1) * SENT or bool(wire.reader._buffer)  # type: ignore[attr-defined]

        await eventually(settled)
        (answered if wire.reader._buffer else waiting).append(wire)  # type: ignore[attr-defined]
    return waiting, answered


def is_no_room(reply: Reply) -> bool:
    return reply.problem == (503, "no_room_for_body") and int(reply.headers["retry-after"]) >= 1


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(("chunked", "n_fit"), [(False, 9), (True, 10)], ids=["length", "chunked"])
async def test_bodies_beyond_the_limit_of_all_connections_are_refused_and_small_requests_served(
    path: str, chunked: bool, n_fit: int
) -> None:
    async with open_edge(**LIMITS) as edge:
        # a length is looked at before the body is sent, chunks as they come
        waiting, answered = await slow_callers(edge, 25, begun(path, chunked=chunked))

        assert (len(waiting), len(answered), held(edge)) == (n_fit, 25 - n_fit, n_fit * SENT)
        for wire in answered:
            assert is_no_room(await wire.read())
            assert await wire.is_closed()
        small = json.dumps(PREDICT).encode().ljust(SMALL_BODY_BYTES)
        async with await edge.connect() as wire:
            assert [(await wire.ask(post(small))).status for _ in range(3)] == [200] * 3
            assert is_no_room(await wire.ask(post(BODY)))
        assert await edge.serves_others()
        for wire in (*waiting, *answered):
            wire.writer.close()


async def test_what_is_held_is_given_back_when_connections_go_or_are_answered() -> None:
    async with open_edge(**LIMITS) as edge:
        waiting, _ = await slow_callers(edge, 9, begun("/v1/predict"))
        async with await edge.connect() as wire:
            assert is_no_room(await wire.ask(post(BODY)))
        for each in waiting[:4]:
            each.writer.close()
        await is_held(edge, 5 * SENT)

        async with await edge.connect() as wire:
            assert [(await wire.ask(post(BODY))).status for _ in range(3)] == [200] * 3
        assert [(await each.ask(BODY[SENT:])).status for each in waiting[4:]] == [200] * 5
        assert held(edge) == 0
        for each in waiting[4:]:
            each.writer.transport.abort()


async def test_a_caller_that_holds_its_body_back_is_told_before_it_sends() -> None:
    async with open_edge(**LIMITS) as edge:
        waiting, _ = await slow_callers(edge, 9, begun("/v1/predict"))
        head = post(BODY, "Expect: 100-continue")[: -len(BODY)]

        assert is_no_room(await edge.ask(head))
        waiting[0].writer.close()
        await is_held(edge, 8 * SENT)
        async with await edge.connect() as wire:
            assert (await wire.ask(head)).status == 100
            assert (await wire.ask(BODY)).status == 200
        for each in waiting[1:]:
            each.writer.close()


async def test_a_body_counts_until_it_is_answered_or_its_caller_has_left() -> None:
    predictor = HeldPredictor()
    async with open_edge(predictor, **LIMITS) as edge:
        async with await edge.connect() as answered, await edge.connect() as leaves:
            await answered.send(post(BODY))
            await leaves.send(post(BODY))
            await predictor.until_begun(2)
            assert held(edge) == 2 * len(BODY)
        # both have closed now
        await is_held(edge, 0)
        async with await edge.connect() as wire:
            await wire.send(post(BODY))
            await predictor.until_begun(3)
            assert held(edge) == len(BODY)
            predictor.release()
            assert (await wire.read()).status == 200
            assert held(edge) == 0


@pytest.mark.parametrize(
    ("limits", "more", "problem"),
    [
        ({"request_timeout_s": 0.3}, b"", (408, "request_timeout")),
        ({"max_body_bytes": SENT + 10}, BODY[:11], (413, "body_too_large")),
        ({}, b" " * LEFT + b"bad", (400, "malformed_http")),
    ],
)
async def test_a_body_that_is_refused_counts_no_more(
    limits: dict[str, Any], more: bytes, problem: tuple[int, str]
) -> None:
    async with open_edge(**{**LIMITS, **limits}) as edge, await edge.connect() as wire:
        await wire.send(begun("/v1/predict", chunked=True))

        assert (await wire.ask(more)).problem == problem
        assert held(edge) == 0


def test_a_total_below_the_longest_body_is_refused_by_name() -> None:
    with pytest.raises(ValidationError, match="max_body_bytes_total = 1000000 is less than max_body_bytes = 2000000"):
        HttpSettings(max_body_bytes=2_000_000, max_body_bytes_total=1_000_000)
