"""The event loop that the blocking clients of a process share, in a thread of its own (ADR 0014)."""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
from collections.abc import Callable, Coroutine
from queue import SimpleQueue
from typing import Any, TypeVar

import uvloop

from fedpredict.errors import ConfigError

T = TypeVar("T")


class Background:
    """An event loop in a thread, for the process that made it.

    It runs until the process ends: grpc.aio may still have something to tell a loop after the last of its channels has
    closed, and a closed loop there disturbs every other loop of the process.
    """

    def __init__(self) -> None:
        """Start the loop."""
        self._process = os.getpid()
        self._loop = uvloop.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="fedpredict-client", daemon=True).start()

    @property
    def is_here(self) -> bool:
        """Whether this is its process: a forked one has the parent's objects and none of its threads."""
        return self._process == os.getpid()

    def stop(self) -> None:
        """Stop the loop: the process ends."""
        self._loop.call_soon_threadsafe(self._loop.stop)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run `work` in the loop and wait for it; whoever is interrupted while waiting ends it.

        Raises:
            ConfigError: The client comes from before a fork of the process.
        """
        future = asyncio.run_coroutine_threadsafe(work, self._running(work))
        try:
            return future.result()
        finally:
            future.cancel()

    def run_telling(
        self,
        work: Callable[[Callable[[int, int], None]], Coroutine[Any, Any, T]],
        tell: Callable[[int, int], None],
    ) -> T:
        """Run `work` as `run` does; what it tells is told in this thread, so that no slow listener holds up others."""
        told: SimpleQueue[tuple[int, int] | None] = SimpleQueue()
        telling = work(lambda done, total: told.put((done, total)))
        future = asyncio.run_coroutine_threadsafe(telling, self._running(telling))
        future.add_done_callback(lambda _: told.put(None))
        try:
            while (progress := told.get()) is not None:
                tell(*progress)
            return future.result()
        finally:
            future.cancel()

    def _running(self, work: Coroutine[Any, Any, T]) -> asyncio.AbstractEventLoop:
        if not self.is_here:
            work.close()
            raise ConfigError("this client was made before the process was forked; make one in each process")
        return self._loop


_LOCK = threading.Lock()
_started: list[Background] = []
"""The last is of this process, or of one that it was forked from."""


def background() -> Background:
    """Return the event loop of this process; the first client starts it."""
    with _LOCK:
        if not (_started and _started[-1].is_here):
            _started.append(Background())
        return _started[-1]


@atexit.register
def _stop() -> None:
    if _started and _started[-1].is_here:
        _started[-1].stop()
