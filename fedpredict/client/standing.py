"""Standing `PredictStream`s: calls of one event loop that share a stream, each with its own end."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import cast

import grpc
from google.protobuf.message import DecodeError

from fedpredict.client import core
from fedpredict.client.connection import Deadline, Target
from fedpredict.client.failures import from_stream
from fedpredict.errors import DeadlineExceededError
from fedpredict.model.prediction import Prediction, PredictTask
from fedpredict.wire.batching import BATCH_METADATA, take_batch
from fedpredict.wire.channel import STREAM_METADATA
from fedpredict.wire.ending import Ending
from fedpredict.wire.v1 import initiator_pb2, link_pb2

_LAST_ID = 2**32 - 1


class StandingStreams:
    """One stream at a time: opened by the first call, and opened anew by the first call after it ended."""

    def __init__(self, channel: grpc.aio.Channel, target: Target, *, as_tables: bool) -> None:
        """Prepare; nothing is opened yet.

        Args:
            channel: Stays open.
            target: Its metadata go with every stream.
            as_tables: Whether calls travel as Arrow tables.
        """
        self._channel = channel
        self._target = target
        self._as_tables = as_tables
        self._stream: _Stream | None = None

    async def predict(self, task: PredictTask, deadline: Deadline) -> Prediction:
        """Return the answer to one task.

        Raises:
            LostConnectionError: No server took the call, or the stream broke before its answer.
            NoStreamError: The server has no such method.
            TooLargeError: No server takes the call.
            FedPredictError: What the call failed with.
        """
        if self._stream is None or not self._stream.takes_calls:
            method = self._channel.stream_stream(core.PREDICT_STREAM, None, None)
            self._stream = _Stream(method(None, metadata=(*self._target.metadata, BATCH_METADATA)))
        remaining_s = deadline.remaining_s()
        answer = await self._stream.ask(task, remaining_s, as_table=self._as_tables)
        return core.parse_stream_answer(answer, task)

    async def close(self) -> None:
        """End the stream, and with it the calls under way."""
        stream, self._stream = self._stream, None
        if stream is not None:
            await stream.close()


class _Stream:
    """One stream, from its opening to its end."""

    def __init__(self, call: grpc.aio.StreamStreamCall[bytes, bytes]) -> None:
        self.takes_calls = True
        self._call = call
        self._ending = Ending(call)
        self._waiting: dict[int, asyncio.Future[initiator_pb2.PredictAnswer]] = {}
        self._unsent: deque[tuple[int, bytes]] = deque()
        self._to_write = asyncio.Event()
        self._last_id = 0
        self._reader = asyncio.ensure_future(self._read())
        self._writer = asyncio.ensure_future(self._write())

    async def ask(self, task: PredictTask, remaining_s: float, *, as_table: bool) -> initiator_pb2.PredictAnswer:
        """Return what comes back for one task; raise `TooLargeError` where it is not sent."""
        call_id = self._next_id()
        message = core.stream_call(call_id, task, remaining_s, as_table=as_table)
        answer: asyncio.Future[initiator_pb2.PredictAnswer] = asyncio.get_running_loop().create_future()
        self._waiting[call_id] = answer
        self._send(call_id, message)
        try:
            async with asyncio.timeout(remaining_s):
                return await answer
        except TimeoutError as error:
            raise DeadlineExceededError("no answer on the stream") from error
        finally:
            if self._waiting.pop(call_id, None) is not None:
                cancel = initiator_pb2.PredictCall(id=call_id, cancel=link_pb2.Cancel())
                self._send(0, cancel.SerializeToString())

    async def close(self) -> None:
        """End the stream; its calls are lost."""
        self._call.cancel()
        await asyncio.wait({self._reader, self._writer})

    def _next_id(self) -> int:
        self._last_id = self._last_id % _LAST_ID + 1
        while self._last_id in self._waiting:
            self._last_id = self._last_id % _LAST_ID + 1
        return self._last_id

    def _send(self, call_id: int, message: bytes) -> None:
        """Queue a message; a call (id not 0) whose caller leaves before its turn is not sent."""
        self._unsent.append((call_id, message))
        self._to_write.set()

    async def _write(self) -> None:
        # one write at a time, as grpc.aio wants it, and none before the server has shown that it takes the stream
        try:
            offered = tuple(await self._call.initial_metadata())
            if STREAM_METADATA not in offered:
                return
            in_batches = BATCH_METADATA in offered
            while self.takes_calls or self._unsent:
                self._to_write.clear()
                while messages := self._wanted():
                    while messages:
                        await self._call.write(take_batch(messages) if in_batches else messages.popleft())
                await self._to_write.wait()
        except (grpc.RpcError, asyncio.InvalidStateError, asyncio.CancelledError):
            self._call.cancel()

    def _wanted(self) -> deque[bytes]:
        """Take what is unsent, without calls whose callers have left."""
        unsent, self._unsent = self._unsent, deque()
        return deque(message for call_id, message in unsent if not call_id or call_id in self._waiting)

    async def _read(self) -> None:
        try:
            # at run time the end is an object of its own, which the stubs describe as another type
            while (data := cast("bytes", await self._call.read())) is not grpc.aio.EOF:  # type: ignore[attr-defined]
                answer = initiator_pb2.PredictAnswer.FromString(data)
                for each in (answer, *answer.more):
                    self._take(each)
        except (grpc.RpcError, asyncio.CancelledError, DecodeError):
            # a status of the stream, CANCELLED too, which grpc.aio raises as if this task had been cancelled
            self._call.cancel()
        finally:
            self.takes_calls = False
        await self._lose()

    async def _lose(self) -> None:
        """Tell every call that waits why there will be no answer."""
        self._writer.cancel()
        error = await self._ending.error()
        waiting, self._waiting = self._waiting, {}
        for answer in waiting.values():
            if not answer.done():
                answer.set_exception(from_stream(error))

    def _take(self, answer: initiator_pb2.PredictAnswer) -> None:
        if answer.HasField("drain"):
            self.takes_calls = False
        waiting = self._waiting.pop(answer.id, None)
        if waiting is not None and not waiting.done():
            waiting.set_result(answer)
