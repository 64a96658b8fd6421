"""The files that one worker's chain of the audit log grows in."""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path

from fedpredict.errors import ConfigError
from fedpredict.model.kernel.lines import Bodies, Sealer
from fedpredict.security.audit_chain import (
    FORMAT,
    GENESIS,
    SUFFIX,
    Checkpoint,
    chain_files,
    encoded,
    parse_line,
    read_lines,
    seal,
    sign,
    stray_files,
)
from fedpredict.security.audit_keys import AuditKeys
from fedpredict.security.audit_verify import ChainReport, Walk
from fedpredict.security.files import flush_folder

_UNFINISHED = ".begin"
"""The name of a file until its first line is safe: what has the name of a chain's file begins as one."""


class ChainTakenError(OSError):
    """Another process writes the chain."""


class ChainFile:
    """The file that a chain grows in; nobody else writes the chain meanwhile."""

    def __init__(self, folder: Path, chain: str, keys: AuditKeys, checkpoint_s: float, now: datetime) -> None:
        """Check the end of the chain that is there, and begin a file with a checkpoint.

        Args:
            folder: The chain's, made when missing.
            chain: Its name.
            keys: The party's.
            checkpoint_s: How often the chain is signed; the first line says so.
            now: The time.

        Raises:
            ChainTakenError: Another process writes the chain.
            OSError: The folder cannot be used.
            ConfigError: The chain is not as it was written.
        """
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._folder = folder
        self._chain = chain
        self._keys = keys
        self._checkpoint_s = checkpoint_s
        self._lock = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._sealer = Sealer()
        self._descriptor = -1
        self._has_rest = False
        self.size = 0
        self.grew = False
        """Whether lines stand behind the last checkpoint."""
        self._is_flushed = True
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.n, self.sha256, torn = _end_of_chain(folder, chain, keys)
            self.path = self._begin(now, torn, is_first=True)
        except BlockingIOError:
            os.close(self._lock)
            raise ChainTakenError(f"another process writes the chain {chain}") from None
        except (OSError, ConfigError):
            os.close(self._lock)
            raise

    def _begin(self, now: datetime, torn: int, *, is_first: bool) -> Path:
        """Begin a file and go on in it; where that fails, all is as it was, and the chain goes on in the old file."""
        first = {"kind": "begin", "t": text_of(now), "format": FORMAT, "chain": self._chain, "pid": os.getpid()}
        first |= {"checkpoint_s": self._checkpoint_s, "before": self.sha256, "torn": torn}
        n, path = self.n + 1, self._folder / f"{self.n + 1:012d}{SUFFIX}"
        data, sha256 = seal(encoded(first if is_first else {**first, "rotated": True}), n, self.sha256)
        if is_first:
            # signs what a killed process left, too: from here on nobody can write that anew
            signature = sign(self._keys.signing, self._chain, n, sha256).signature
            body = encoded({"kind": "checkpoint", "t": text_of(now), "signature": signature})
            line, sha256 = seal(body, n + 1, sha256)
            n, data = n + 1, data + line
        unfinished = self._folder / _UNFINISHED
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC
        descriptor = os.open(unfinished, flags, 0o600)
        try:
            _write_all(descriptor, data)
            os.fsync(descriptor)
            # unlike a renamed file a link never takes the place of another
            os.link(unfinished, path)
        except OSError:
            os.close(descriptor)
            raise
        old, self._descriptor = self._descriptor, descriptor
        self.n, self.sha256, self.size, self.grew = n, sha256, len(data), not is_first
        self._is_flushed = True
        with suppress(OSError):
            unfinished.unlink()
            flush_folder(self._folder)
        if old >= 0:
            os.close(old)
        return path

    def write(self, bodies: Bodies) -> None:
        """Write lines; a write that fails leaves none of them."""
        data, sha256 = self._sealer.seal(bodies, self.n + 1, self.sha256)
        if self._has_rest:
            self._remove_rest()
        try:
            _write_all(self._descriptor, data.data)
        except OSError:
            self._has_rest = True
            with suppress(OSError):  # else before the next line
                self._remove_rest()
            raise
        self.n, self.sha256, self.size, self.grew = self.n + len(bodies), sha256, self.size + len(data), True
        self._is_flushed = False

    def checkpoint(self, now: datetime) -> Checkpoint:
        """Sign the chain, and make it safe on the disk."""
        made = sign(self._keys.signing, self._chain, self.n, self.sha256)
        body = encoded({"kind": "checkpoint", "t": text_of(now), "signature": made.signature})
        self.write(Bodies.of([body]))
        self.flush()
        self.grew = False
        return made

    def flush(self) -> None:
        """Make what was written safe on the disk."""
        if not self._is_flushed:
            os.fsync(self._descriptor)
            self._is_flushed = True

    def next(self, now: datetime) -> None:
        """Go on in another file; raise `OSError` where that fails, and go on in this one."""
        os.fsync(self._descriptor)
        self.path = self._begin(now, 0, is_first=False)

    def close(self) -> None:
        """Let another process write the chain."""
        os.close(self._descriptor)
        os.close(self._lock)

    def _remove_rest(self) -> None:
        os.ftruncate(self._descriptor, self.size)
        self._has_rest = False


def end_of_file(path: Path) -> tuple[int, str] | None:
    """Return the number and hash of a file's last line, or None where it has none."""
    lines, _ = read_lines(path)
    body = parse_line(lines[-1]) if lines else None
    return None if body is None else (int(body["n"]), str(body["h"]))


def written_at(path: Path) -> datetime:
    """Return when a file was last written."""
    return datetime.fromtimestamp(path.stat().st_mtime, UTC)


def text_of(at: datetime) -> str:
    """Return an instant (UTC) as lines have it: texts sort as instants do.

    >>> text_of(datetime(2026, 11, 27, 8, 0, 5, 70, UTC))
    '2026-11-27T08:00:05.000070Z'
    """
    return f"{_minute(at.year, at.month, at.day, at.hour, at.minute)}:{at.second:02d}.{at.microsecond:06d}Z"


# every line has a time, and writing the same minute again is most of that
@lru_cache(maxsize=16)
def _minute(year: int, month: int, day: int, hour: int, minute: int) -> str:
    return f"{year:04d}-{month:02d}-{day:02d}T{hour:02d}:{minute:02d}"


def check_end(folder: Path, chain: str, keys: AuditKeys) -> None:
    """Raise `ConfigError` where the chain in a folder cannot be gone on with."""
    _end_of_chain(folder, chain, keys)


def _end_of_chain(folder: Path, chain: str, keys: AuditKeys) -> tuple[int, str, int]:
    """Return the number and hash of a chain's last line, and how many bytes behind it are no line.

    The chain is checked from the last checkpoint on: what stands before, that one proves.
    """
    files = chain_files(folder)
    stray = stray_files(folder)
    if stray:
        raise _refused(folder, f"{stray[0].name} was put aside, and may hold lines of the chain")
    if not files:
        return 0, GENESIS, 0
    begin = len(files) - 1
    while begin and b'"kind":"checkpoint"' not in files[begin].read_bytes():
        begin -= 1
    report, walk = ChainReport(), Walk(keys.signing.public_key())
    for path in files[begin:]:
        walk.file(path, report)
    walk.end(report)
    if report.problems:
        raise _refused(folder, report.problems[0])
    if report.chain != chain:
        raise _refused(folder, f"{files[begin].name} is of the chain {report.chain}, not {chain}")
    return *report.last, walk.torn


def _refused(folder: Path, why: str) -> ConfigError:
    return ConfigError(
        f"audit: the log in {folder} is not as this party wrote it: {why}; move that folder away and keep it as "
        "evidence, then start again: a new chain begins"
    )


def _write_all(descriptor: int, data: bytes | memoryview) -> None:
    written = 0
    while written < len(data):
        written += os.write(descriptor, data[written:])
