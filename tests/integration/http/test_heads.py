"""Heads that come again: what was parsed once is kept, and nobody can tell, on both event loops."""

from __future__ import annotations

from fedpredict.http.edge import MAX_HEADS
from tests.integration.http.edge import PREDICT, HeldPredictor, Wire, get, open_edge, places, post


def named(name: str, *headers: str) -> bytes:
    """Return a request whose id is in its body: its head is the same for all names of one length."""
    return post({**PREDICT, "request_id": name}, *headers)


async def ask_in_turn(wire: Wire, *names: str) -> list[str]:
    return places([await wire.ask(named(name)) for name in names])


async def test_requests_with_one_head_get_each_its_own_answer_on_every_connection() -> None:
    async with open_edge() as edge, await edge.connect() as one, await edge.connect() as other:
        assert await ask_in_turn(one, "r-1", "r-2", "r-3") == ["r-1", "r-2", "r-3"]
        assert await ask_in_turn(other, "r-4", "r-5") == ["r-4", "r-5"]
        assert (await one.ask(get("/v1/models"))).status == 200
        assert await ask_in_turn(one, "r-6") == ["r-6"]


async def test_a_request_with_a_known_head_may_come_in_pieces_or_with_others() -> None:
    async with open_edge() as edge, await edge.connect() as wire:
        await ask_in_turn(wire, "r-1", "r-2")
        head, _, body = named("r-3").partition(b"\r\n\r\n")

        assert places([await wire.ask(head + b"\r\n\r\n", body)]) == ["r-3"]
        assert places([await wire.ask(head + b"\r\n\r\n" + body[:5], body[5:])]) == ["r-3"]
        assert places([await wire.ask(b"\r\n" + named("r-4"))]) == ["r-4"]
        await wire.send(named("r-5") + named("r-6") + get("/v1/models", "X-Request-Id: r-7") + named("r-8"))
        assert places([await wire.read() for _ in range(4)]) == ["r-5", "r-6", "r-7", "r-8"]


async def test_a_known_head_waits_for_its_turn() -> None:
    predictor = HeldPredictor(held=False)
    async with open_edge(predictor) as edge, await edge.connect() as wire:
        await ask_in_turn(wire, "r-1", "r-2")
        predictor.held = True
        await wire.send(named("r-3"))
        await predictor.until_begun(3)
        await wire.send(named("r-4"))
        assert await edge.serves_others()

        assert len(predictor.begun) == 3
        predictor.held = False
        predictor.release()
        assert places([await wire.read(), await wire.read()]) == ["r-3", "r-4"]


async def test_nothing_is_answered_after_a_request_that_ends_the_connection() -> None:
    predictor = HeldPredictor(held=False)
    async with open_edge(predictor) as edge, await edge.connect() as wire:
        await ask_in_turn(wire, "r-1", "r-2")
        predictor.held = True
        await wire.send(named("r-3", "Connection: close"))
        await predictor.until_begun(3)
        await wire.send(named("r-4"))
        assert await edge.serves_others()
        predictor.release()

        assert places([await wire.read()]) == ["r-3"]
        assert [task.request_id for task in predictor.begun] == ["r-1", "r-2", "r-3"]


async def test_a_known_head_is_judged_as_before() -> None:
    async with open_edge() as edge, await edge.connect() as wire:
        for _ in range(3):
            assert (await wire.ask(post(PREDICT, "X-Fedpredict-Client: other"))).problem == (404, "model_not_found")
            assert (await wire.ask(post(PREDICT, "Content-Encoding: gzip"))).problem == (415, "unsupported_media_type")
            assert (await wire.ask(post(PREDICT, "X-Fedpredict-Deadline-Ms: soon"))).problem == (400, "field")
            assert (await wire.ask(post(b"not json"))).problem == (400, "field")


async def test_any_number_of_different_heads_is_answered() -> None:
    async with open_edge() as edge, await edge.connect() as wire:
        replies = [await wire.ask(post(PREDICT, f"X-Number: {number}")) for number in range(MAX_HEADS + 10)]

        assert {reply.status for reply in replies} == {200}
