"""What a process says of itself: how late its event loop is, how long it collects garbage, what it is."""

from __future__ import annotations

import asyncio
import gc
import platform
import time
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Literal, Self

from typing_extensions import override

from fedpredict import __version__
from fedpredict.observe import metrics
from fedpredict.observe.counting import Distribution, Reading, Source, one
from fedpredict.observe.queued import dropped_lines

LOOK_S = 0.1
"""Seconds between two looks at the event loop's lag."""
THRESHOLDS = (5_000, 10, 10)
"""For the garbage collector, which has 700, 10, 10: see ADR 0015."""


@contextmanager
def settled_memory() -> Iterator[None]:
    """Collect the garbage of starting once, and inside the block never look again at what has been loaded before it.

    Modules, settings and generated messages live as long as the process; without this every full collection walks all
    of them, for tens of milliseconds.
    """
    before = gc.get_threshold()
    gc.collect()
    gc.freeze()
    gc.set_threshold(*THRESHOLDS)
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()  # native libraries look for what was not freed at the end of the process, and print it


class ProcessMetrics(Source):
    """Watches this process inside an `async with` block, in its event loop."""

    def __init__(self, role: Literal["initiator", "participant"], party: str, worker: int) -> None:
        """Prepare.

        Args:
            role: Which daemon this is.
            party: Whose.
            worker: Its number among the workers, from 0.
        """
        self._info = (__version__, platform.python_version(), role, party, str(worker))
        self._lag = Distribution(metrics.LOOP_LAG_SECONDS.bounds)
        self._pauses = [Distribution(metrics.GC_PAUSE_SECONDS.bounds) for _ in range(3)]
        self._began = 0.0
        self._due = 0.0
        self._timer: asyncio.TimerHandle | None = None

    async def __aenter__(self) -> Self:
        gc.callbacks.append(self._collected)
        self._look_again(asyncio.get_running_loop())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        gc.callbacks.remove(self._collected)
        if self._timer is not None:
            self._timer.cancel()

    @override
    def read(self) -> Iterable[Reading]:
        """Return everything, in the order of the declarations."""
        yield one(metrics.LOOP_LAG_SECONDS, self._lag)
        pauses = [((str(generation),), each) for generation, each in enumerate(self._pauses)]
        yield Reading(metrics.GC_PAUSE_SECONDS, pauses)
        yield one(metrics.LOG_DROPPED, dropped_lines())
        yield one(metrics.BUILD_INFO, 1.0, *self._info)

    def _look_again(self, loop: asyncio.AbstractEventLoop) -> None:
        self._due = loop.time() + LOOK_S
        self._timer = loop.call_at(self._due, self._look, loop)

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        self._lag.observe(max(0.0, loop.time() - self._due))
        self._look_again(loop)

    def _collected(self, phase: str, info: dict[str, int]) -> None:
        # runs inside every collection, on whichever thread it happens: as little as can be
        if phase == "start":
            self._began = time.perf_counter()
            return
        seconds = time.perf_counter() - self._began
        pauses = self._pauses[info["generation"]]
        pauses.counts[bisect_left(pauses.bounds, seconds)] += 1
        pauses.total += seconds
