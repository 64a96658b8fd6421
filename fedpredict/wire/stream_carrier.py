"""Frames over a gRPC stream, at either end of it: for peers or networks that take no sockets of ours (ADR 0011)."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any, Protocol

import grpc
from typing_extensions import override

from fedpredict.wire.ending import Ending, told
from fedpredict.wire.link import CLOSE_S, MAX_QUEUED_BYTES, Carrier, LinkEnd


class Stream(Protocol):
    """What gRPC's calls and contexts have in common; frames as bytes."""

    async def read(self) -> Any:
        """Return the next frame; something that is no bytes at the end."""

    async def write(self, data: Any) -> None:
        """Send a frame; one at a time."""


class StreamCarrier(Carrier):
    """One stream. gRPC takes one write at a time, so that a task of its own writes what is queued."""

    name = "grpc"

    def __init__(self, stream: Stream, peer: str) -> None:
        """Wrap a stream; `run` carries until it ends.

        Args:
            stream: A call, or the context of one.
            peer: The other side, for messages.
        """
        self.peer = peer
        self.ended = asyncio.Event()
        """Set when the stream is gone."""
        self._stream = stream
        self._ending = Ending(stream) if isinstance(stream, grpc.aio.Call) else None
        self._queue: deque[bytes] = deque()
        self._queued = 0
        self._blocked = False
        self._wake = asyncio.Event()
        self._may_read = asyncio.Event()
        self._may_read.set()
        self._reason = ""
        self._closing: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._end: LinkEnd | None = None

    async def run(self, end: LinkEnd) -> None:
        """Deliver frames to `end` until either side closes; `end.closed` has been called when this returns."""
        self._end = end
        reading = asyncio.ensure_future(self._read(end))
        writing = asyncio.ensure_future(self._write(end))
        try:
            await asyncio.wait({reading, writing, self._closing}, return_when=asyncio.FIRST_COMPLETED)
            if self._ending:
                await self._ending.settle()
            if not writing.done():
                # a write that is given up half way keeps gRPC from ending the call: its caller would wait in vain
                self._reason = self._reason or self._told(reading) or "the peer closed the stream"
                self._wake.set()
                await asyncio.wait({writing}, timeout=CLOSE_S)
        finally:
            self._reason = self._reason or self._told(reading) or self._told(writing) or "the peer closed the stream"
            for task in (reading, writing):
                task.cancel()
            self._end = None
            self.ended.set()
            end.closed(self._reason)
            await asyncio.wait({reading, writing})

    @override
    def send(self, data: bytes) -> None:
        if self._reason:
            return
        self._queue.append(data)
        self._queued += len(data)
        self._wake.set()
        if self._queued > MAX_QUEUED_BYTES and not self._blocked and self._end is not None:
            self._blocked = True
            self._end.pause_sending()

    @override
    def pause_reading(self) -> None:
        self._may_read.clear()

    @override
    def resume_reading(self) -> None:
        self._may_read.set()

    @override
    def close(self, reason: str) -> None:
        if not self._reason:
            self._reason = reason
            self._wake.set()
            self._closing.set_result(None)

    async def _read(self, end: LinkEnd) -> None:
        while not self._reason:
            data = await self._stream.read()
            if not isinstance(data, bytes):
                return
            self.heard += 1
            if not self._may_read.is_set():
                await self._may_read.wait()
            end.received(data)

    async def _write(self, end: LinkEnd) -> None:
        while self._queue or not self._reason:
            if not self._queue:
                self._wake.clear()
                await self._wake.wait()
                continue
            data = self._queue.popleft()
            await self._stream.write(data)
            self._queued -= len(data)
            if self._blocked and self._queued <= MAX_QUEUED_BYTES // 2:
                self._blocked = False
                end.resume_sending()

    def _told(self, task: asyncio.Future[None]) -> str:
        if not task.done() or task.cancelled():
            return ""
        error = task.exception()
        if self._ending and self._ending.told and isinstance(error, grpc.aio.AioRpcError | asyncio.InvalidStateError):
            return self._ending.told
        if isinstance(error, grpc.aio.AioRpcError):
            return told(error.code(), error.details())
        return "" if error is None else f"{type(error).__name__}: {error}"
