"""`InitiatorService.PredictStream`: many calls on one stream, answered as they are ready.

A stream costs no task per call: what it reads is submitted, and what is ready is written, one message after the other,
because a stream of grpc.aio takes one write at a time (ADR 0014).
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial
from importlib import import_module
from types import ModuleType

import grpc

from fedpredict.errors import CertificateRefusedError, DeadlineExceededError, ProtocolError, ServerUnavailableError
from fedpredict.initiator.audited import WHAT, RequestAudit
from fedpredict.initiator.predict import Predicts
from fedpredict.initiator.submit import GiveUp
from fedpredict.model.prediction import Prediction, PredictTask
from fedpredict.observe.logs import add_log_context
from fedpredict.security.entrance import Entrance
from fedpredict.security.identity import Identity
from fedpredict.security.live import Standing
from fedpredict.wire import task_codec
from fedpredict.wire.batching import BATCH_METADATA, MAX_BATCH, take_batch
from fedpredict.wire.channel import MAX_MESSAGE_BYTES, STREAM_METADATA
from fedpredict.wire.handlers import Context, always, log_failure, parse
from fedpredict.wire.status import abort, failure_to_wire
from fedpredict.wire.v1 import initiator_pb2, link_pb2

MAX_BYTES_UNDER_WAY = 4 * MAX_MESSAGE_BYTES
"""Bytes of requests that one stream may have under way before it is not read for a while."""

SWEEP_S = 0.05
"""How often the calls of a stream are held to their deadlines; one timer for all of them."""

WhoCalls = Callable[[Context], Identity]
Holds = Callable[[Context, Standing], None]
"""Has a stream closed when its caller is believed no more."""


class PredictStreams:
    """Every open `PredictStream` of a process."""

    def __init__(
        self,
        predictor: Predicts,
        who_calls: WhoCalls,
        *,
        max_calls: int,
        wants: Callable[[BaseException], bool] = always,
        entrance: Entrance | None = None,
        holds: Holds | None = None,
    ) -> None:
        """Prepare.

        Args:
            predictor: The use case.
            who_calls: Stream -> the caller's identity; raises `UnauthenticatedError`.
            max_calls: Calls that one stream may have under way; at the limit it is not read, and the caller waits.
            wants: Whether a call that ended in an error gets a line in the log.
            entrance: Told of what is refused before `predictor` has it; default: nobody is.
            holds: Told of every stream; default: nobody is.
        """
        self._holds = holds
        self._predictor = predictor
        self._who_calls = who_calls
        self._max_calls = max_calls
        self._wants = wants
        self._entrance = entrance or Entrance(None, RequestAudit(None))
        self._open: set[_Stream] = set()
        self._draining = False

    def handler(self) -> grpc.RpcMethodHandler[bytes, bytes]:
        """Return the method for `wire.handlers.service`."""
        return grpc.stream_stream_rpc_method_handler(self._serve)

    def drain(self) -> None:
        """Tell every stream that it gets no further calls; each ends when those under way are answered."""
        self._draining = True
        for stream in self._open:
            stream.drain()

    async def _serve(self, _requests: object, context: Context) -> None:
        """Serve one stream until its caller has had everything."""
        try:
            caller = self._who_calls(context)
            add_log_context(caller=caller.name)
            # tells the caller, before it sends anything, that there is such a method and that it may use it
            await context.send_initial_metadata((STREAM_METADATA, BATCH_METADATA))
            stream = _Stream(self._predictor, caller, context, self._max_calls, self._wants, entrance=self._entrance)
            self._open.add(stream)
            if self._holds is not None:
                self._holds(context, stream)
            if self._draining:
                stream.drain()
            try:
                await stream.serve()
            except ProtocolError as error:
                self._entrance.misunderstood(WHAT["stream"], caller, error)
                raise
            finally:
                self._open.discard(stream)
        except asyncio.CancelledError:
            raise
        except Exception as error:  # noqa: BLE001  an edge: nothing but a public status may leave
            if context.done():
                return
            log_failure(error)
            await abort(context, error)


@dataclass(slots=True)
class _Call:
    """A call under way."""

    task: PredictTask
    n_bytes: int
    give_up: GiveUp
    ends: float


class _Stream:
    """One stream: a task that reads, and the handler itself, which writes."""

    def __init__(
        self,
        predictor: Predicts,
        caller: Identity,
        context: Context,
        max_calls: int,
        wants: Callable[[BaseException], bool],
        *,
        entrance: Entrance,
    ) -> None:
        self._predictor = predictor
        self._wants = wants
        self._entrance = entrance
        self._caller = caller
        self._context = context
        self._max_calls = max_calls
        self._under_way: dict[int, _Call] = {}
        self._bytes_under_way = 0
        self._answers: deque[bytes] = deque()
        self._to_write = asyncio.Event()
        self._has_room = asyncio.Event()
        self._draining = False
        self._closed_because = ""
        self._in_batches = BATCH_METADATA in tuple(context.invocation_metadata() or ())

    def drain(self) -> None:
        """Take no further calls, and end when those under way are answered."""
        self._draining = True
        self._answer(initiator_pb2.PredictAnswer(drain=link_pb2.Drain()))

    def close(self, reason: str) -> None:
        """End at once: the caller is believed no more."""
        self._closed_because = reason
        self._to_write.set()

    async def serve(self) -> None:
        """Answer until the caller has closed its side, or this process stops, and nothing is under way.

        Raises:
            ProtocolError: The caller sent what is no call.
            CertificateRefusedError: The stream was closed.
        """
        reader = asyncio.ensure_future(self._read())
        reader.add_done_callback(lambda _: self._to_write.set())
        self._sweep()
        try:
            while not (reader.done() and reader.exception()):
                if self._closed_because:  # perhaps before this began
                    raise CertificateRefusedError(self._closed_because)
                await self._write_ready()
                if (reader.done() or self._draining) and not self._under_way and not self._answers:
                    break
                await self._to_write.wait()
            if reader.done():
                reader.result()
        finally:
            reader.cancel()
            self._sweeper.cancel()
            for call in self._under_way.values():
                call.give_up()

    async def _write_ready(self) -> None:
        self._to_write.clear()
        while self._answers:
            await self._context.write(take_batch(self._answers) if self._in_batches else self._answers.popleft())
            self._has_room.set()

    async def _read(self) -> None:
        while (data := await self._context.read()) is not grpc.aio.EOF:  # type: ignore[attr-defined]
            message = parse(initiator_pb2.PredictCall, data)
            if len(message.more) > MAX_BATCH:
                raise ProtocolError(f"{len(message.more)} further calls in one message; at most {MAX_BATCH} are taken")
            if any(each.more for each in message.more):
                raise ProtocolError("a further call in a message has further calls of its own")
            n_bytes = len(data) // (1 + len(message.more))
            for each in (message, *message.more):
                self._take(each, n_bytes)
                while self._is_full():
                    self._has_room.clear()
                    await self._has_room.wait()

    def _is_full(self) -> bool:
        n_calls = len(self._under_way) + len(self._answers)
        return n_calls >= self._max_calls or self._bytes_under_way >= MAX_BYTES_UNDER_WAY

    def _take(self, message: initiator_pb2.PredictCall, n_bytes: int) -> None:
        body = message.WhichOneof("body")
        if body is None or not message.id or (body != "cancel" and message.id in self._under_way):
            raise ProtocolError("a call on a stream without a body, or whose id is 0 or of a call under way")
        if body == "cancel":
            self._end(message.id)
            return
        try:
            task = self._understood(message)
        except Exception as error:  # noqa: BLE001  an edge: nothing but a public status may leave
            self._fail(message.id, error)
            return
        try:
            self._begin(message, task, n_bytes)
        except Exception as error:  # noqa: BLE001  as above
            self._fail(message.id, error, request_id=task.request_id, model=task.model_id)

    def _understood(self, message: initiator_pb2.PredictCall) -> PredictTask:
        try:
            return self._task(message)
        except Exception as error:
            self._entrance.misunderstood(WHAT["stream"], self._caller, error)
            raise

    def _task(self, message: initiator_pb2.PredictCall) -> PredictTask:
        if self._draining:
            raise ServerUnavailableError("a call on a stream that is draining")
        is_arrow = message.WhichOneof("body") == "arrow"
        task: PredictTask = (
            _arrow().task_from_arrow(message.arrow) if is_arrow else task_codec.task_from_wire(message.predict)
        )
        return replace(task, traceparent=message.traceparent) if message.traceparent else task

    def _begin(self, message: initiator_pb2.PredictCall, task: PredictTask, n_bytes: int) -> None:
        is_arrow = message.WhichOneof("body") == "arrow"
        remaining_s = message.remaining_ms / 1000 if message.remaining_ms else None
        done = partial(self._finish, message.id, is_arrow)
        give_up = self._predictor.submit(task, self._caller, deadline_s=remaining_s, done=done)
        ends = math.inf if remaining_s is None else asyncio.get_running_loop().time() + remaining_s
        self._under_way[message.id] = _Call(task, n_bytes, give_up, ends)
        self._bytes_under_way += n_bytes

    def _finish(self, call_id: int, is_arrow: bool, outcome: Prediction | BaseException) -> None:
        try:
            answer = outcome if isinstance(outcome, BaseException) else _answer_of(call_id, is_arrow, outcome)
        except Exception as error:  # noqa: BLE001  an edge: nothing but a public status may leave
            answer = error
        if isinstance(answer, BaseException):
            task = self._under_way[call_id].task
            self._fail(call_id, answer, request_id=task.request_id, model=task.model_id)
        else:
            self._answer(answer)
        self._end(call_id)

    def _sweep(self) -> None:
        """End the calls whose callers no longer wait; the predictor is to be in time, and this does not trust it."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        for call_id, call in [each for each in self._under_way.items() if each[1].ends <= now]:
            error = DeadlineExceededError("the caller's time on a stream is over")
            self._fail(call_id, error, request_id=call.task.request_id, model=call.task.model_id)
            self._end(call_id)
        self._sweeper = loop.call_later(SWEEP_S, self._sweep)

    def _fail(self, call_id: int, error: BaseException, **fields: object) -> None:
        if self._wants(error):
            log_failure(error, **fields)
        self._answer(initiator_pb2.PredictAnswer(id=call_id, failure=failure_to_wire(error)))

    def _answer(self, answer: initiator_pb2.PredictAnswer) -> None:
        self._answers.append(answer.SerializeToString())
        self._to_write.set()

    def _end(self, call_id: int) -> None:
        call = self._under_way.pop(call_id, None)
        if call is not None:
            self._bytes_under_way -= call.n_bytes
            self._has_room.set()
            self._to_write.set()
            call.give_up()


def _answer_of(call_id: int, is_arrow: bool, prediction: Prediction) -> initiator_pb2.PredictAnswer:
    if is_arrow:
        return initiator_pb2.PredictAnswer(id=call_id, arrow=_arrow().prediction_to_arrow(prediction))
    return initiator_pb2.PredictAnswer(id=call_id, reply=task_codec.prediction_to_wire(prediction))


@cache
def _arrow() -> ModuleType:
    """Return the codec of Arrow tables, imported with the first of them: a process without any saves 44 MB."""
    return import_module("fedpredict.wire.arrow_codec")
