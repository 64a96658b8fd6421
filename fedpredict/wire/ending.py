"""How a stream that we opened ended: where a write fails, gRPC forgets what the server said."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from typing import Any, TypeAlias, TypeVar

import grpc

T = TypeVar("T")
_Metadata: TypeAlias = "grpc.aio.Metadata"

NOT_TOLD = "Internal error from Core"
"""What stands in the place of a status that the server did not give."""
_SETTLES_IN_S, _LOOK_S = 1.0, 0.01


class Ending:
    """The end of a call, from before the first write.

    A server ends a stream that is written to. The status comes, the write fails, and grpc.aio puts INTERNAL over the
    status, for whoever asks the call: what it was when it came is the server's word. Or the write fails first, and the
    status takes the place of INTERNAL a moment later, of which no release tells.
    """

    def __init__(self, call: grpc.aio.Call) -> None:
        """Listen to a call."""
        self._call = call
        self._status: tuple[grpc.StatusCode, str, _Metadata] | None = None
        call.add_done_callback(self._note)

    async def settle(self) -> None:
        """Wait for the server's word where a write failed before it came; for a second, for it may never."""
        waits_until = time.monotonic() + _SETTLES_IN_S
        while self._status is not None and self._status[1] == NOT_TOLD and time.monotonic() < waits_until:
            await asyncio.sleep(_LOOK_S)
            self._status = _status_of(self._call)

    async def error(self) -> grpc.aio.AioRpcError:
        """Return what the call ended with, also where that is OK; wait for the end."""
        first = await self._call.initial_metadata()
        await self._call.code()
        await self.settle()
        given = await self._call.code(), await self._call.details(), await self._call.trailing_metadata()
        code, details, trailers = self._status or given
        return grpc.aio.AioRpcError(code, first, trailers, details, None)

    @property
    def told(self) -> str:
        """What the call ended with, in a line; empty before its end."""
        return told(self._status[0], self._status[1]) if self._status else ""

    def _note(self, call: Any) -> None:
        if self._status is None:
            self._status = _status_of(call)


def told(code: grpc.StatusCode, details: str | None) -> str:
    """Return a status in a line that is not too long."""
    return f"{code.name}: {str(details)[:500]}"


def _status_of(call: Any) -> tuple[grpc.StatusCode, str, _Metadata]:
    """Return the status of a call that has ended."""
    return _at_once(call.code()), _at_once(call.details()), _at_once(call.trailing_metadata())


def _at_once(known: Coroutine[Any, Any, T]) -> T:
    """Return what a coroutine gives that has nothing to wait for, as a call's that has ended."""
    try:
        known.send(None)
    except StopIteration as end:
        value: T = end.value
        return value
    known.close()
    raise AssertionError("a call that has ended knows its status")
