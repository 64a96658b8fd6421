"""Sending requests when they are due.

**Open loop.** The moments are decided before the first request, and latency counts from them. A generator that waits
for an answer before it sends the next request stops asking while the server stalls: the requests that would have met
the stall are never made, and their waiting is in no percentile (*coordinated omission*). Here they queue, and count.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic
from typing import TypeAlias

from fedpredict.client.load.alarm import Alarm
from fedpredict.client.load.record import TIMEOUT, Record
from fedpredict.client.load.target import LoadTarget
from fedpredict.model.arrays import Floats

Tick: TypeAlias = Callable[["Progress"], None]

SWEEP_S = 0.05
"""How often requests are looked through for those that nobody would wait for any more."""

TICK_S = 0.5
CLOSED_GRACE_S = 30.0
"""How long the last requests of a closed loop may take."""


@dataclass(frozen=True, slots=True)
class Progress:
    """A look at a run under way.

    Attributes:
        elapsed_s: Since its start.
        record: Of what has ended.
        under_way: Requests that were sent and not answered.
        waiting: Requests that are due and found no free connection.
    """

    elapsed_s: float
    record: Record
    under_way: int
    waiting: int


@dataclass(frozen=True, slots=True)
class Run:
    """What came of a run.

    Attributes:
        record: Every request.
        elapsed_s: How long requests were due: less than planned where it was interrupted.
        busy: Part of one processor that this process used.
        interrupted: Whether it ended before its time.
    """

    record: Record
    elapsed_s: float
    busy: float
    interrupted: bool


async def run_open(
    target: LoadTarget, due: Floats, *, slots: int, timeout_s: float, on_tick: Tick | None = None
) -> Run:
    """Send requests at the moments they are due, and return when all have ended; cancelling returns what there is.

    Args:
        target: The server.
        due: Seconds from the start, ascending.
        slots: Requests that may be under way at once; what is due beyond that waits, and its waiting counts.
        timeout_s: How long after it was due anybody would wait for an answer.
        on_tick: Told twice a second how it goes.
    """
    return await _OpenLoop(target, due, slots, timeout_s, on_tick).run()


class _OpenLoop:
    def __init__(self, target: LoadTarget, due: Floats, slots: int, timeout_s: float, on_tick: Tick | None) -> None:
        self._target, self._due, self._timeout_s, self._on_tick = target, due.tolist(), timeout_s, on_tick
        self._free = slots
        self._record = Record()
        self._waiting: deque[int] = deque()
        self._under_way: dict[int, None] = {}  # in the order of sending, so that the oldest stands first
        self._start = 0.0
        self._all_ended = asyncio.Event()

    async def run(self) -> Run:
        cpu, alarm = time.process_time(), Alarm()
        self._start = monotonic()
        watch = asyncio.ensure_future(self._watch())
        interrupted, elapsed = False, 0.0
        try:
            await self._send_all(alarm)
            elapsed = monotonic() - self._start
            await self._all_ended.wait()
        except asyncio.CancelledError:
            interrupted, elapsed = True, elapsed or monotonic() - self._start
        finally:
            alarm.close()
            watch.cancel()
            self._leave()
        busy = (time.process_time() - cpu) / max(monotonic() - self._start, 1e-9)
        return Run(self._record, elapsed, busy, interrupted)

    async def _send_all(self, alarm: Alarm) -> None:
        start, due, lag = self._start, self._due, self._record.lag
        number, count = 0, len(due)
        while number < count:
            late = monotonic() - start - due[number]
            if late >= 0.0:
                lag.append(late)
                self._begin(number)
                number += 1
                if number % 64:
                    continue
                await asyncio.sleep(0)  # a generator that is behind must still read answers
            else:
                await alarm.until(start + due[number])
        if len(self._record) == count:
            self._all_ended.set()

    def _begin(self, number: int) -> None:
        if self._free:
            self._free -= 1
            self._under_way[number] = None
            self._target.start(number, self._done)
        else:
            self._waiting.append(number)

    def _done(self, number: int, kind: str) -> None:
        self._under_way.pop(number, None)
        self._end(number, kind)
        self._free += 1
        if self._waiting:
            self._begin(self._waiting.popleft())

    def _end(self, number: int, kind: str) -> None:
        due = self._due[number]
        self._record.add(due, monotonic() - self._start - due, kind)
        if len(self._record) == len(self._due):
            self._all_ended.set()

    async def _watch(self) -> None:
        next_tick = monotonic() + TICK_S
        while True:
            await asyncio.sleep(SWEEP_S)
            self._time_out(monotonic() - self._start - self._timeout_s)
            if self._on_tick is not None and monotonic() >= next_tick:
                next_tick += TICK_S
                elapsed = monotonic() - self._start
                self._on_tick(Progress(elapsed, self._record, len(self._under_way), len(self._waiting)))

    def _time_out(self, due_before: float) -> None:
        """End what was due before a moment; sent or not, nobody waits for it."""
        while self._waiting and self._due[self._waiting[0]] < due_before:
            self._end(self._waiting.popleft(), TIMEOUT)
        for number in [each for each in self._under_way if self._due[each] < due_before]:
            self._target.abandon(number)
            self._done(number, TIMEOUT)

    def _leave(self) -> None:
        for number in self._under_way:
            self._target.abandon(number)


async def run_closed(target: LoadTarget, *, slots: int, seconds: float) -> Run:
    """Keep `slots` requests under way, each answer sending the next, and return when all have ended.

    For capacity, never for latency at a rate: latency counts from sending, and a stalled server is asked less.
    """
    return await _ClosedLoop(target, seconds).run(slots)


class _ClosedLoop:
    def __init__(self, target: LoadTarget, seconds: float) -> None:
        self._target, self._seconds = target, seconds
        self._record = Record()
        self._sent: dict[int, float] = {}
        self._next, self._start = 0, 0.0
        self._all_ended = asyncio.Event()

    async def run(self, slots: int) -> Run:
        cpu = time.process_time()
        self._start = monotonic()
        interrupted = False
        for _ in range(slots):
            self._begin()
        try:
            await asyncio.wait_for(self._all_ended.wait(), self._seconds + CLOSED_GRACE_S)
        except (asyncio.CancelledError, TimeoutError):
            interrupted = True
        for number in self._sent:
            self._target.abandon(number)
        elapsed = monotonic() - self._start
        busy = (time.process_time() - cpu) / max(elapsed, 1e-9)
        return Run(self._record, min(elapsed, self._seconds), busy, interrupted)

    def _begin(self) -> None:
        number, self._next = self._next, self._next + 1
        self._sent[number] = monotonic()
        self._target.start(number, self._done)

    def _done(self, number: int, kind: str) -> None:
        now, began = monotonic(), self._sent.pop(number)
        self._record.add(began - self._start, now - began, kind)
        if now < self._start + self._seconds:
            self._begin()
        elif not self._sent:
            self._all_ended.set()
