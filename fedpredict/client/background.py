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
    """An event loop in a thread: started for its first user, stopped after its last."""

    def __init__(self) -> None:
        # a finalizer may run in the middle of any of this, in the same thread
        self._lock = threading.RLock()
        self._users = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._process = os.getpid()

    def acquire(self) -> None:
        """Keep the loop running, until `release` or `drop`."""
        with self._lock:
            if self._process != os.getpid():
                # a forked process has the parent's objects and none of its threads
                self._process, self._users, self._loop = os.getpid(), 0, None
            self._users += 1
            if self._loop is None:
                self._loop = uvloop.new_event_loop()
                self._thread = threading.Thread(
                    target=_run_loop, args=(self._loop,), name="fedpredict-client", daemon=True
                )
                self._thread.start()

    def release(self) -> None:
        """Give the loop up; after its last user it has stopped when this returns."""
        thread = self._thread
        if self.drop() and thread is not None and thread is not threading.current_thread():
            thread.join()

    def drop(self) -> bool:
        """Give the loop up without waiting, as a finalizer must; return whether that was its last user."""
        with self._lock:
            if self._process != os.getpid() or not self._users:
                return False
            self._users -= 1
            if self._users:
                return False
            self._stop()
            return True

    def stop(self) -> None:
        """Stop the loop, whoever uses it: the process ends."""
        thread = self._thread
        with self._lock:
            if self._process != os.getpid() or self._loop is None:
                return
            self._stop()
        if thread is not None:
            thread.join()

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

    def _stop(self) -> None:
        loop, self._loop, self._users = self._loop, None, 0
        if loop is not None:
            loop.call_soon_threadsafe(loop.stop)


def _run_loop(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    loop.run_forever()
    left = asyncio.all_tasks(loop)
    for task in left:
        task.cancel()
    loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
    loop.close()


BACKGROUND = Background()
atexit.register(BACKGROUND.stop)
