"""The participant's end of a link: each call is answered by its id, in whatever order the answers are there."""

from __future__ import annotations

import asyncio
import types
from collections.abc import Callable, Coroutine, Generator
from contextvars import Context, copy_context
from functools import partial
from typing import Any

from google.protobuf.message import DecodeError
from typing_extensions import override

from fedpredict.wire.channel import MAX_MESSAGE_BYTES
from fedpredict.wire.handlers import log_failure
from fedpredict.wire.link import MAX_BYTES, MAX_TASKS, Carrier, LinkEnd
from fedpredict.wire.link_caller import ANSWERS
from fedpredict.wire.status import TOO_LARGE, failure_to_wire
from fedpredict.wire.v1 import link_pb2

Answer = Callable[[link_pb2.Frame], Coroutine[Any, Any, link_pb2.Frame]]
"""Answers a call with a frame whose id is not filled in; raises what becomes a `Failure`."""

_CALLS = frozenset(ANSWERS)
_BUCKETS = frozenset({"score_bucket", "population_bucket", "masked_bucket"})
"""Calls whose frames, or whose answers, have megabytes."""
_DRAIN = link_pb2.Frame(drain=link_pb2.Drain()).SerializeToString()


class LinkAnswerer(LinkEnd):
    """Answers the calls of one link.

    A call that `is_small` is begun at once and, where its answer waits for nothing, answered in the same turn of the
    event loop; all others get a task. With `MAX_TASKS` of them or `MAX_BYTES` bytes of calls under way, or while the
    peer reads too slowly, nothing more is read. Of calls for buckets some are worked on at a time, and none is begun
    while the peer reads too slowly: so answers never pile up. A peer that breaks the protocol loses the link.
    """

    def __init__(
        self,
        carrier: Carrier,
        answer: Answer,
        *,
        is_small: Callable[[link_pb2.Frame, int], bool],
        closed: Callable[[LinkAnswerer, str], None],
        buckets_at_once: int = 4,
        expects_hello: bool = False,
    ) -> None:
        """Take a carrier that is open; context variables are, for every call, as they are now.

        Args:
            carrier: Carries the frames; this object closes it.
            answer: What the calls are answered with.
            is_small: Whether a call, which came in so many bytes, is computed within the event loop.
            closed: Called when the link is gone, with the reason.
            buckets_at_once: How many calls for buckets are worked on at a time; others wait for their turn.
            expects_hello: Whether the caller proves in a hello who it is, and ends the link by asking before.
        """
        self.carrier = carrier
        self.expects_hello = expects_hello
        """Whether the caller has not said hello yet, and must before it asks anything."""
        self._answer = answer
        self._is_small = is_small
        self._closed = closed
        self._context = copy_context()
        self._loop = asyncio.get_running_loop()
        self._tasks: dict[int, asyncio.Task[link_pb2.Frame]] = {}
        self._buckets_at_once = buckets_at_once
        self._held: dict[int, tuple[link_pb2.Frame, int]] = {}
        """Calls for buckets that wait for their turn, and the bytes of each."""
        self._n_buckets = 0
        """Calls for buckets that are worked on."""
        self._n_calls = self._bytes = 0
        """Of all that are worked on or wait."""
        self._blocked = False
        self._reading = True
        self._gone = asyncio.Event()

    @property
    def calls(self) -> int:
        """The number of calls under way."""
        return self._n_calls

    async def drain(self, drain_s: float) -> None:
        """Ask for no further calls, answer those under way, and return when the caller, or we, closed the link.

        The caller closes it when it has all of its answers, so that calls which crossed our word on the way are
        answered as well; we close it after `drain_s` seconds.
        """
        self.carrier.send(_DRAIN)
        try:
            async with asyncio.timeout(drain_s):
                await self._gone.wait()
        except TimeoutError:
            self.close(f"calls were under way for longer than {drain_s} s" if self.calls else "drained")
        await self.carrier.ended.wait()

    def close(self, reason: str) -> None:
        """Close at once: calls under way end."""
        self.carrier.close(reason)
        self.closed(reason)

    @override
    def received(self, data: bytes) -> None:
        try:
            frame = link_pb2.Frame.FromString(data)
        except DecodeError:
            self._break(f"a frame of {len(data)} bytes does not parse")
            return
        body = frame.WhichOneof("body")
        if self.expects_hello and body != "hello":
            self._break(f"a frame of call {frame.id} with {body} before a hello was taken")
        elif body == "cancel":
            self._cancel(frame.id)
        elif body in _CALLS and frame.id != 0 and frame.id not in self._tasks and frame.id not in self._held:
            if body in _BUCKETS:
                self._hold(frame, len(data))
            else:
                self._begin(frame, len(data))
        else:
            self._break(f"a frame of call {frame.id} with {body}, which no caller sends")

    def _break(self, reason: str) -> None:
        self.carrier.broken = reason
        self.close(reason)

    @override
    def pause_sending(self) -> None:
        self._blocked = True
        self._choose_reading()

    @override
    def resume_sending(self) -> None:
        self._blocked = False
        self._begin_held()
        self._choose_reading()

    @override
    def closed(self, reason: str) -> None:
        if self._gone.is_set():
            return
        self._gone.set()
        tasks, self._tasks = self._tasks, {}
        self._held.clear()
        for task in tasks.values():
            task.cancel()
        self._closed(self, reason)

    def _cancel(self, call_id: int) -> None:
        held = self._held.pop(call_id, None)
        if held is not None:
            self._count(-1, -held[1])
            return
        task = self._tasks.pop(call_id, None)
        if task is not None:
            task.cancel()

    def _begin(self, frame: link_pb2.Frame, n_bytes: int) -> None:
        context = self._context.copy()
        coroutine = self._answer(frame)
        if self._is_small(frame, n_bytes):
            try:
                waits_for = context.run(coroutine.send, None)
            except StopIteration as done:
                self._send(frame.id, done.value)
                return
            except Exception as error:  # noqa: BLE001  an edge: nothing but a public status may leave
                self._fail(frame.id, error, context)
                return
            coroutine = _resumed(coroutine, waits_for)
        self._count(1, n_bytes)
        self._follow(frame.id, coroutine, context, n_bytes)

    def _hold(self, frame: link_pb2.Frame, n_bytes: int) -> None:
        """Begin a call for a bucket when it is its turn."""
        self._count(1, n_bytes)
        self._held[frame.id] = (frame, n_bytes)
        self._begin_held()

    def _begin_held(self) -> None:
        while self._held and not self._blocked and self._n_buckets < self._buckets_at_once:
            call_id = next(iter(self._held))
            frame, n_bytes = self._held.pop(call_id)
            self._n_buckets += 1
            task = self._follow(call_id, self._answer(frame), self._context.copy(), n_bytes)
            task.add_done_callback(self._end_bucket)

    def _end_bucket(self, _task: object) -> None:
        self._n_buckets -= 1
        self._begin_held()

    def _follow(
        self, call_id: int, coroutine: Coroutine[Any, Any, link_pb2.Frame], context: Context, n_bytes: int
    ) -> asyncio.Task[link_pb2.Frame]:
        task = self._loop.create_task(coroutine, context=context)
        self._tasks[call_id] = task
        task.add_done_callback(partial(self._finish, call_id, context, n_bytes))
        return task

    def _finish(self, call_id: int, context: Context, n_bytes: int, task: asyncio.Task[link_pb2.Frame]) -> None:
        if self._tasks.get(call_id) is task:
            del self._tasks[call_id]
        self._count(-1, -n_bytes)
        if task.cancelled():
            return
        error = task.exception()
        if error is None:
            self._send(call_id, task.result())
        else:
            self._fail(call_id, error, context)

    def _count(self, n_calls: int, n_bytes: int) -> None:
        self._n_calls += n_calls
        self._bytes += n_bytes
        self._choose_reading()

    def _fail(self, call_id: int, error: BaseException, context: Context) -> None:
        context.run(log_failure, error)
        self._send(call_id, link_pb2.Frame(failure=failure_to_wire(error)))

    def _send(self, call_id: int, reply: link_pb2.Frame) -> None:
        reply.id = call_id
        data = reply.SerializeToString()
        if len(data) > MAX_MESSAGE_BYTES:
            data = link_pb2.Frame(id=call_id, failure=TOO_LARGE).SerializeToString()
        self.carrier.send(data)

    def _choose_reading(self) -> None:
        """Read while the peer takes answers and little is under way; between the limits, go on as before."""
        share = 1 if self._reading else 2
        has_room = self._n_calls < MAX_TASKS // share and self._bytes < MAX_BYTES // share
        reading = not self._blocked and has_room
        if reading != self._reading:
            self._reading = reading
            if reading:
                self.carrier.resume_reading()
            else:
                self.carrier.pause_reading()


async def _resumed(coroutine: Coroutine[Any, Any, link_pb2.Frame], waits_for: object) -> link_pb2.Frame:
    """Run, as a task, a coroutine that was begun without one and waits for something."""
    return await _rest(coroutine, waits_for)


@types.coroutine
def _rest(coroutine: Coroutine[Any, Any, link_pb2.Frame], waits_for: object) -> Generator[object, Any, link_pb2.Frame]:
    try:
        while True:
            try:
                sent = yield waits_for
            except BaseException as error:  # noqa: BLE001  a cancellation, which the coroutine must see
                waits_for = coroutine.throw(error)
            else:
                waits_for = coroutine.send(sent)
    except StopIteration as done:
        answer: link_pb2.Frame = done.value
        return answer
    finally:
        coroutine.close()
