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
    """An event loop in a thread.

    It starts with the first client and runs until the process ends: grpc.aio may still have something to tell a loop
    after the last of its channels has closed, and a closed loop there disturbs every other loop of the process.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._process = os.getpid()

    def start(self) -> None:
        """Start the loop, unless it runs."""
        with self._lock:
            if self._loop is None or self._process != os.getpid():
                # a forked process has the parent's objects and none of its threads
                self._process, self._loop = os.getpid(), uvloop.new_event_loop()
                threading.Thread(target=self._loop.run_forever, name="fedpredict-client", daemon=True).start()

    def stop(self) -> None:
        """Stop the loop: the process ends."""
        loop = self._loop
        if loop is not None and self._process == os.getpid():
            loop.call_soon_threadsafe(loop.stop)

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
        if self._process != os.getpid() or self._loop is None:
            work.close()
            raise ConfigError("this client was made before the process was forked; make one in each process")
        return self._loop


BACKGROUND = Background()
atexit.register(BACKGROUND.stop)
