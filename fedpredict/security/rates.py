"""How far everybody's bucket of calls is emptied, in memory that the workers of a daemon share: exact across them.

A file is mapped by every worker. A state is one number, changed under a lock of the kernel on those bytes alone, which
a process that dies lets go: workers wait for each other only over the same caller, for a microsecond.
"""

from __future__ import annotations

import fcntl
import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path
from tempfile import TemporaryDirectory

from fedpredict.errors import ConfigError
from fedpredict.security.pace import Pace

SLOTS = 65_536
"""Most callers that a daemon has known in its life; a slot is kept when its rule goes, for its return."""
TRIES = 2_000
"""After so many a lock counts as held by a process that stands still, and the call is refused."""
STUCK_NS = 100_000_000
_SLOT_BYTES = 16
_SIZE = SLOTS * _SLOT_BYTES


class Rates:
    """The states, by slots. Used from one thread of a process: the event loop's."""

    def __init__(self, path: Path | None = None) -> None:
        """Map the states.

        Args:
            path: A file of `shared_rates` that all workers map; None: this process is alone.
        """
        self._file = -1 if path is None else os.open(path, os.O_RDWR | os.O_CLOEXEC)
        self._map = mmap.mmap(self._file, _SIZE)
        self._words = memoryview(self._map).cast("q")

    def close(self) -> None:
        """Let go of the memory."""
        self._words.release()
        self._map.close()
        if self._file >= 0:
            os.close(self._file)

    def slot(self, name: str) -> int:
        """Return where the state of somebody is, in every process; the same one every time.

        Raises:
            ConfigError: There were too many different ones.
        """
        key = int.from_bytes(blake2b(name.encode(), digest_size=8).digest(), "little", signed=True) or 1
        with self._whole():
            for step in range(SLOTS):
                slot = (key + step) % SLOTS
                if self._words[2 * slot] in (0, key):
                    self._words[2 * slot] = key
                    return slot
        raise ConfigError(f"calls_per_s: more than {SLOTS} callers had one since the daemon started: restart it")

    def take(self, slot: int, pace: Pace, now: int) -> int:
        """Count a call, and return 0; or return how many nanoseconds it comes too early, and do not count it.

        Args:
            slot: Whose.
            pace: How often they may call.
            now: `time.monotonic_ns()`, which is one clock for all processes of a machine.
        """
        words, at = self._words, 2 * slot + 1
        if self._file < 0:
            words[at], wait = pace.take(words[at], now)
            return wait
        if not self._lock(slot):
            return STUCK_NS
        try:
            words[at], wait = pace.take(words[at], now)
        finally:
            fcntl.lockf(self._file, fcntl.LOCK_UN, _SLOT_BYTES, slot * _SLOT_BYTES)
        return wait

    def _lock(self, slot: int) -> bool:
        for _ in range(TRIES):
            try:
                fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, _SLOT_BYTES, slot * _SLOT_BYTES)
            except OSError:
                os.sched_yield()
            else:
                return True
        return False

    @contextmanager
    def _whole(self) -> Iterator[None]:
        if self._file < 0:
            yield
            return
        fcntl.lockf(self._file, fcntl.LOCK_EX, 1, _SIZE)  # a byte behind all states
        try:
            yield
        finally:
            fcntl.lockf(self._file, fcntl.LOCK_UN, 1, _SIZE)


@contextmanager
def shared_rates() -> Iterator[Path]:
    """Give a file for the `Rates` of all workers; it is removed at the end of the block, and all states with it."""
    with TemporaryDirectory(prefix="fedpredict-rates-") as folder:
        path = Path(folder) / "rates"
        path.touch(mode=0o600)
        os.truncate(path, _SIZE)
        yield path
