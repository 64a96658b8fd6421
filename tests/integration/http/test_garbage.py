"""What a request leaves behind: nothing that only the garbage collector could free, on both event loops."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterator

import pytest
from starlette.responses import PlainTextResponse

from fedpredict.http.exchange import Exchange, GiveUp
from fedpredict.http.server import HttpServer
from fedpredict.http.settings import HttpSettings
from fedpredict.initiator.http.decode import name_request
from tests.integration.federation import eventually
from tests.integration.http.edge import Edge, Wire, post


@pytest.fixture
def uncollected() -> Iterator[None]:
    """Keep the collector from running."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def serving(*, answers: bool = True) -> HttpServer:
    """Return a server whose route knows the exchange from what gives it up, as predictions do."""

    def route(exchange: Exchange) -> GiveUp:
        def give_up() -> None:
            exchange.head.memo = "given up"

        if answers:
            asyncio.get_running_loop().call_soon(exchange.answer_json, b"{}", "r-1")
        return give_up

    return HttpServer(
        "127.0.0.1:0",
        PlainTextResponse("by ASGI"),
        fast_route={b"/p": route}.get,
        name_request=name_request,
        settings=HttpSettings(),
        tls=None,
        drain_s=1.0,
    )


def n_exchanges() -> int:
    return sum(isinstance(each, Exchange) for each in gc.get_objects())


async def ask_some(wire: Wire, path: str) -> None:
    for _ in range(3):
        assert (await wire.ask(post({}, path=path))).status == 200


@pytest.mark.usefixtures("uncollected")
@pytest.mark.parametrize("path", ["/p", "/by-asgi"])
async def test_an_answered_request_is_gone_at_once(path: str) -> None:
    async with serving() as server, await Edge(server).connect() as wire:
        await ask_some(wire, path)

        async def gone() -> bool:
            return n_exchanges() == 0

        await eventually(gone)


@pytest.mark.usefixtures("uncollected")
async def test_a_request_whose_caller_left_is_gone_at_once() -> None:
    async with serving(answers=False) as server:
        async with await Edge(server).connect() as wire:
            await wire.send(post({}, path="/p"))

            async def arrived() -> bool:
                return n_exchanges() == 1

            await eventually(arrived)

        async def gone() -> bool:
            return n_exchanges() == 0

        await eventually(gone)
