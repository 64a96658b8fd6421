"""Load over gRPC: unary calls, or many calls on one standing stream."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress

import grpc
from google.protobuf.message import DecodeError
from typing_extensions import override

from fedpredict.client.connection import Deadline, Target
from fedpredict.client.core import PREDICT
from fedpredict.client.failures import translate
from fedpredict.client.load.record import LOST, NO_NUMBER, OK
from fedpredict.client.load.target import Answer, Done, LoadTarget
from fedpredict.errors import RetryLaterError
from fedpredict.model.share import SampleStatus
from fedpredict.wire.batching import BATCH_METADATA, take_batch
from fedpredict.wire.ending import Ending
from fedpredict.wire.status import error_from_rpc
from fedpredict.wire.v1 import initiator_pb2

PREDICT_STREAM = PREDICT + "Stream"
NOT_UNDERSTOOD = "not understood"
ASK_S = 10.0
NO_HINT = " without a retry hint"

_CODE_NAMES = {code.value[0]: code.name for code in grpc.StatusCode}


class OverGrpc(LoadTarget):
    """An initiator and the `PredictRequest`s that it is sent in turn, each as a unary call."""

    def __init__(self, target: Target, messages: Sequence[bytes], *, model_id: str, timeout_s: float) -> None:
        """Take what is asked; nothing is connected yet.

        Args:
            target: Where.
            messages: What: request n is message n modulo their number.
            model_id: What they ask for, to name it.
            timeout_s: Of each call; travels with it.
        """
        self._target, self._messages, self._model_id, self._timeout_s = target, messages, model_id, timeout_s
        self._channel = target.open_channel()
        self._method = self._channel.unary_unary(PREDICT, None, None)
        self._calls: dict[int, asyncio.Task[None]] = {}

    @override
    async def ask(self, number: int) -> Answer:
        try:
            reply = await self._method(
                self._messages[number % len(self._messages)], timeout=ASK_S, metadata=self._target.metadata
            )
        except grpc.RpcError as error:
            raise translate(error, self._target, Deadline(ASK_S), self._model_id) from error
        return Answer(judge_reply(reply), code="OK")

    @override
    def start(self, number: int, done: Done) -> None:
        self._calls[number] = asyncio.ensure_future(self._call(number, done))

    @override
    def abandon(self, number: int) -> None:
        call = self._calls.pop(number, None)
        if call is not None:
            call.cancel()

    @override
    async def close(self) -> None:
        calls = list(self._calls.values())
        self._calls.clear()
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        await self._channel.close(None)

    def _message(self, number: int) -> bytes:
        return self._messages[number % len(self._messages)]

    async def _call(self, number: int, done: Done) -> None:
        try:
            reply = await self._method(self._message(number), timeout=self._timeout_s, metadata=self._target.metadata)
            kind = judge_reply(reply)
        except grpc.RpcError as error:
            kind = _kind_of(error)
        del self._calls[number]
        done(number, kind)


class OverStream(LoadTarget):
    """The same over `PredictStream`: one standing stream, any number of calls on it."""

    def __init__(self, target: Target, calls: Sequence[initiator_pb2.PredictCall], *, model_id: str) -> None:
        """Take what is asked; nothing is connected yet.

        Args:
            target: Where.
            calls: What, each with its `predict` or `arrow` body and `remaining_ms`; the id is set here.
            model_id: What they ask for, to name it.
        """
        self._target, self._calls, self._model_id = target, calls, model_id
        self._channel = target.open_channel()
        self._method = self._channel.stream_stream(PREDICT_STREAM, None, None)
        self._queue: asyncio.Queue[bytes] = asyncio.Queue()
        self._under_way: dict[int, tuple[int, Done]] = {}
        self._lost: dict[int, asyncio.TimerHandle] = {}
        self._in_batches = False
        self._stream: asyncio.Task[None] | None = None

    @override
    async def ask(self, number: int) -> Answer:
        call = self._method(self._once(number), timeout=ASK_S, metadata=self._target.metadata)
        try:
            async for data in call:
                return Answer(judge_answer(initiator_pb2.PredictAnswer.FromString(data)), code="OK")
        except grpc.RpcError as error:
            raise translate(error, self._target, Deadline(ASK_S), self._model_id) from error
        return Answer(LOST)

    @override
    def start(self, number: int, done: Done) -> None:
        if self._stream is None or self._stream.done():
            self._stream = asyncio.ensure_future(self._hold_stream())
        self._under_way[number + 1] = (number, done)
        self._queue.put_nowait(self._message(number))

    @override
    def abandon(self, number: int) -> None:
        lost = self._lost.pop(number, None)
        if lost is not None:
            lost.cancel()
        if self._under_way.pop(number + 1, None) is not None:
            cancel = initiator_pb2.PredictCall(id=number + 1)
            cancel.cancel.SetInParent()
            self._queue.put_nowait(cancel.SerializeToString())

    @override
    async def close(self) -> None:
        self._under_way.clear()
        if self._stream is not None:
            self._stream.cancel()
            await asyncio.gather(self._stream, return_exceptions=True)
        for lost in self._lost.values():
            lost.cancel()
        self._lost.clear()
        await self._channel.close(None)

    def _message(self, number: int) -> bytes:
        call = self._calls[number % len(self._calls)]
        call.id = number + 1  # 0 names no call
        return call.SerializeToString()

    async def _once(self, number: int) -> AsyncIterator[bytes]:
        yield self._message(number)

    async def _hold_stream(self) -> None:
        call = self._method(None, metadata=(*self._target.metadata, BATCH_METADATA))
        ending, problem = Ending(call), LOST
        writer = asyncio.ensure_future(self._write(call))
        self._in_batches = False
        try:
            async for data in call:
                # known with the first answer; before it, calls leave one by one, since a server may say nothing earlier
                self._in_batches = self._in_batches or BATCH_METADATA in tuple(await call.initial_metadata())
                self._settle(data)
        except grpc.RpcError:
            problem = (await ending.error()).code().name
        finally:
            writer.cancel()
            call.cancel()
            self._fail_all(problem)

    async def _write(self, call: grpc.aio.StreamStreamCall[bytes, bytes]) -> None:
        # a stream takes one write at a time
        with suppress(grpc.RpcError, asyncio.InvalidStateError):
            while True:
                ready = deque([await self._queue.get()])
                while not self._queue.empty():
                    ready.append(self._queue.get_nowait())
                while ready:
                    await call.write(take_batch(ready) if self._in_batches else ready.popleft())

    def _settle(self, data: bytes) -> None:
        answer = initiator_pb2.PredictAnswer.FromString(data)
        for each in (answer, *answer.more):
            number, done = self._under_way.pop(each.id, (0, None))
            if done is not None:
                done(number, judge_answer(each))

    def _fail_all(self, problem: str) -> None:
        lost, self._under_way = self._under_way, {}
        self._queue = asyncio.Queue()
        self._stream = None
        loop = asyncio.get_running_loop()
        for number, done in lost.values():
            # later: whoever is told may start the next call, which must not end in this stream's ruins
            self._lost[number] = loop.call_later(0.05, self._tell_lost, number, done, problem)

    def _tell_lost(self, number: int, done: Done, problem: str) -> None:
        del self._lost[number]
        done(number, problem)


def judge_reply(data: bytes) -> str:
    """Return whether a `PredictReply` has a number for every sample."""
    try:
        reply = initiator_pb2.PredictReply.FromString(data)
    except DecodeError:
        return NOT_UNDERSTOOD
    return _judge_status(reply.status)


def judge_answer(answer: initiator_pb2.PredictAnswer) -> str:
    """Return whether a `PredictAnswer` has a number for every sample, or the name of its failure."""
    body = answer.WhichOneof("body")
    if body == "reply":
        return _judge_status(answer.reply.status)
    if body == "arrow":
        return OK if answer.arrow.table else NO_NUMBER
    return failure_name(answer) if body == "failure" else NOT_UNDERSTOOD


def failure_name(answer: initiator_pb2.PredictAnswer) -> str:
    """Return the status of a failed answer in a word or two."""
    name = _CODE_NAMES.get(answer.failure.code, NOT_UNDERSTOOD)
    is_hinted = "retry_after_ms" in answer.failure.detail.fields
    return name if is_hinted or name != grpc.StatusCode.RESOURCE_EXHAUSTED.name else name + NO_HINT


def _kind_of(error: grpc.RpcError) -> str:
    name = str(error.code().name)
    if error.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED or isinstance(error_from_rpc(error), RetryLaterError):
        return name
    return name + NO_HINT


def _judge_status(status: bytes) -> str:
    return OK if status and status.count(SampleStatus.OK) == len(status) else NO_NUMBER
