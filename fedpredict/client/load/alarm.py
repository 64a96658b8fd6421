"""Waking an event loop at a moment, to some 50 µs.

A loop's own timers are whole milliseconds (epoll's, libuv's). Requests would start up to one too late, and as latency
counts from the moment that they were due, a fast server would look a millisecond slower than it is.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import struct
from time import monotonic

_CLOCK_MONOTONIC, _NONBLOCK_CLOEXEC, _ABSOLUTE = 1, 0o2004000, 1
_LIBC = ctypes.CDLL(None, use_errno=True)


class Alarm:
    """A timer of Linux's (timerfd) in the running event loop; `close` it when done.

    Where the system has none, the loop's own timer is used.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._rung: asyncio.Future[None] | None = None
        create = getattr(_LIBC, "timerfd_create", None)
        self._file = create(_CLOCK_MONOTONIC, _NONBLOCK_CLOEXEC) if create is not None else -1
        if self._file >= 0:
            self._loop.add_reader(self._file, self._ring)

    async def until(self, moment: float) -> None:
        """Return at `moment` of `time.monotonic`, or at once where it has passed."""
        delay = moment - monotonic()
        if delay <= 0.0:
            return
        if self._file < 0:
            await asyncio.sleep(delay)
            return
        self._rung = self._loop.create_future()
        seconds = int(moment)
        nanoseconds = int((moment - seconds) * 1e9)
        _LIBC.timerfd_settime(self._file, _ABSOLUTE, struct.pack("qqqq", 0, 0, seconds, nanoseconds), None)
        await self._rung

    def close(self) -> None:
        """Give the timer back; closing twice is harmless."""
        if self._file >= 0:
            self._loop.remove_reader(self._file)
            os.close(self._file)
            self._file = -1

    def _ring(self) -> None:
        try:
            os.read(self._file, 8)
        except BlockingIOError:
            return
        if self._rung is not None and not self._rung.done():
            self._rung.set_result(None)
