"""The status of a stream under whose writes it ended: in whatever order the write fails and the status comes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

import grpc
import pytest

from fedpredict.wire import ending
from fedpredict.wire.ending import NOT_TOLD, Ending

INTERNAL, DENIED = grpc.StatusCode.INTERNAL, grpc.StatusCode.UNAUTHENTICATED


class Call:
    """A call as grpc.aio's are: each status takes the place of the one before, and callbacks are told of the first."""

    def __init__(self) -> None:
        self._callbacks: list[Callable[[Call], None]] = []
        self._status: tuple[grpc.StatusCode, str] | None = None

    def add_done_callback(self, callback: Callable[[Call], None]) -> None:
        self._callbacks.append(callback)

    def ends(self, code: grpc.StatusCode, details: str) -> None:
        self._status = code, details
        callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback(self)

    async def initial_metadata(self) -> grpc.aio.Metadata:
        return grpc.aio.Metadata()

    async def trailing_metadata(self) -> grpc.aio.Metadata:
        return grpc.aio.Metadata()

    async def code(self) -> grpc.StatusCode:
        assert self._status is not None
        return self._status[0]

    async def details(self) -> str:
        assert self._status is not None
        return self._status[1]


@pytest.fixture
def call() -> Call:
    return Call()


async def told_by(of: Ending) -> tuple[grpc.StatusCode, str | None]:
    error = await of.error()
    return error.code(), error.details()


async def test_a_status_that_a_failed_write_covers_is_kept(call: Call) -> None:
    of = Ending(cast("Any", call))
    call.ends(DENIED, "denied")
    call.ends(INTERNAL, NOT_TOLD)
    assert await told_by(of) == (DENIED, "denied")


async def test_a_status_that_comes_behind_a_failed_write_is_waited_for(call: Call) -> None:
    of = Ending(cast("Any", call))
    call.ends(INTERNAL, NOT_TOLD)
    asyncio.get_running_loop().call_later(0.05, call.ends, DENIED, "denied")
    await of.settle()
    assert of.told == "UNAUTHENTICATED: denied"
    assert await told_by(of) == (DENIED, "denied")


async def test_a_status_that_never_comes_is_not_waited_for_without_an_end(
    call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ending, "_SETTLES_IN_S", 0.05)
    of = Ending(cast("Any", call))
    await of.settle()
    call.ends(INTERNAL, NOT_TOLD)
    assert await told_by(of) == (INTERNAL, NOT_TOLD)
