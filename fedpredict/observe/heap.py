"""What a process keeps of the memory that it has freed: bounded, and given back to the operating system after a burst.

What is freed stays with the allocators, the C library's and Arrow's, so that a process would seem to need for ever what
it needed once: to read a snapshot, or to serve thousands of connections.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa

LOOK_S = 5.0
"""Seconds between two looks at how much memory the process has."""
GROWN_BYTES = 8 << 20
"""So much more than before is worth giving back."""
STEADY_BYTES = 1 << 20
"""A process that has grown by less than this since the last look is no longer growing."""
MAX_PAUSE = 64
"""Looks between two attempts at most: some five minutes."""
_ARENA_MAX = -8
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_STATM = Path("/proc/self/statm")


def share_heap() -> None:
    """Let all threads use one heap; the C library would make eight for every processor.

    What is free at the end of any other heap is never given back: 30 MB after a second snapshot of a million ids. Call
    it before the first thread is started. Python's own small objects are elsewhere and not concerned.
    """
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)  # glibc's; other C libraries have none
    if set_option is not None:
        set_option(_ARENA_MAX, 1)


def give_back_memory() -> None:
    """Return what is freed to the operating system; takes 10 ms for 30 MB, so call it after something large only."""
    arrow: pa | None = sys.modules.get("pyarrow")  # who has not loaded it has nothing in its pool
    if arrow is not None:
        arrow.default_memory_pool().release_unused()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's, as above
    if trim is not None:
        trim(0)


@contextmanager
def giving_back() -> Iterator[None]:
    """Give memory back after bursts, inside the block, in the running event loop."""
    loop, keeper = asyncio.get_running_loop(), HeapKeeper(own_bytes, give_back_memory)
    timer: asyncio.TimerHandle

    def look_later() -> None:
        nonlocal timer
        timer = loop.call_later(LOOK_S, look)

    def look() -> None:
        keeper.look()
        look_later()

    look_later()
    try:
        yield
    finally:
        timer.cancel()


class HeapKeeper:
    """Says when there may be much to give back: the process has grown, and grows no longer.

    What was in use then may be free later, so it is tried again, after twice as long each time.
    """

    def __init__(self, own: Callable[[], int], give_back: Callable[[], None]) -> None:
        """Take what the process has now as what it needs.

        Args:
            own: Returns the bytes that the process has.
            give_back: Gives back what of them is free.
        """
        self._own = own
        self._give_back = give_back
        self._least = self._last = self._left = own()
        self._wait, self._pause = 0, 1

    def look(self) -> None:
        """Look how much the process has, and give back if it is worth it."""
        now = self._own()
        is_steady = now - self._last < STEADY_BYTES
        if now - self._least <= GROWN_BYTES:
            self._wait, self._pause = 0, 1
        elif is_steady and (not self._wait or now - self._left > GROWN_BYTES):
            self._give_back()
            now = self._left = self._own()
            self._wait, self._pause = self._pause, min(2 * self._pause, MAX_PAUSE)
        elif self._wait:
            self._wait -= 1
        self._least = min(self._least, now)
        self._last = now


def own_bytes() -> int:
    """Return the resident bytes of this process that are no file's; 0 where the system does not tell."""
    try:
        _, resident, of_files, *_ = map(int, _STATM.read_text().split())
    except (OSError, ValueError):  # no Linux
        return 0
    return (resident - of_files) * _PAGE_BYTES
