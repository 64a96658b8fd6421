"""The file in which one party keeps the checkpoints of another: read by its end alone, and bounded.

Everything here blocks; several workers append to one file.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from fedpredict.security.audit_chain import Checkpoint, parse_checkpoint
from fedpredict.security.files import PRIVATE, write_file

TAIL_BYTES = 512 * 1024
"""So far back from the file's end it is looked what was kept last."""
MOST_BYTES = 16 * 2**20
"""A file that has more is thinned out to half of it at most: 290 bytes a minute for each chain, so after weeks."""
_DAY = len("2026-11-27")


@dataclass(frozen=True, slots=True)
class _Line:
    """A line of the file, with its end."""

    at: int
    text: bytes
    day: str
    key: str
    made: Checkpoint


class KeptCheckpoints:
    """The file of one other party."""

    def __init__(self, path: Path) -> None:
        """Name the file, which need not be there yet."""
        self._path = path

    def last_words(self, chain: str) -> list[str]:
        """Return the words of the last line about a chain, as far back as the file's end goes; none where it has none.

        Raises:
            OSError: The file cannot be read.
        """
        try:
            with self._path.open("rb") as file:
                first = max(0, file.seek(0, os.SEEK_END) - TAIL_BYTES)
                file.seek(first)
                lines = file.read(TAIL_BYTES).decode(errors="replace").splitlines()
        except FileNotFoundError:
            return []
        for line in reversed(lines[1:] if first else lines):
            words = line.split()
            if len(words) == 8 and words[4] == chain:
                return words
        return []

    def append(self, line: str) -> None:
        """Append a line; thin the file out, where it has grown too large.

        Raises:
            OSError: It cannot be written.
            CertificateError: What is left of it cannot be; it is as it was.
        """
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with self._alone():
            descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, PRIVATE)
            try:
                os.write(descriptor, line.encode())
                size = os.fstat(descriptor).st_size
            finally:
                os.close(descriptor)
            if size > MOST_BYTES:
                left = thinned(self._path.read_bytes().splitlines(keepends=True), MOST_BYTES // 2)
                write_file(self._path, b"".join(left), mode=PRIVATE, force=True)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep other workers off the file: what they append must not go into one that is being replaced."""
        lock = os.open(self._path.with_name(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, PRIVATE)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)


def thinned(lines: Iterable[bytes], most_bytes: int) -> list[bytes]:
    """Return the lines that say most, in their order.

    Of each chain and day these are the first and the last, and wherever a chain goes back, or has another line or key,
    that line and the one before it. Where even they are too many, each chain has an equal part, and its newest stay.

    Args:
        lines: With their ends; what is no checkpoint goes.
        most_bytes: That they may have together.
    """
    chains: dict[str, list[_Line]] = {}
    for at, text in enumerate(lines):
        line = _parsed(at, text)
        if line is not None:
            chains.setdefault(line.made.chain, []).append(line)
    part = most_bytes // max(1, len(chains))
    kept = [line for chain in chains.values() for line in _newest(_telling(chain), part)]
    return [line.text for line in sorted(kept, key=lambda line: line.at)]


def _parsed(at: int, text: bytes) -> _Line | None:
    line = text.decode(errors="replace")
    words, made = line.split(), parse_checkpoint(line)
    return None if made is None or len(words) != 8 else _Line(at, text, words[0][:_DAY], words[2], made)


def _telling(chain: Sequence[_Line]) -> list[_Line]:
    ends = {0, len(chain) - 1}
    for place in range(1, len(chain)):
        before, line = chain[place - 1], chain[place]
        if line.day != before.day or line.key != before.key or line.made.n <= before.made.n:
            ends |= {place - 1, place}
    return [chain[place] for place in sorted(ends)]


def _newest(lines: Sequence[_Line], most_bytes: int) -> list[_Line]:
    kept, left = [], most_bytes
    for line in reversed(lines):
        left -= len(line.text)
        if left < 0:
            break
        kept.append(line)
    return kept
