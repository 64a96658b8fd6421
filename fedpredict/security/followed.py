"""Files that are looked at again and again, and read when they have changed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(slots=True)
class Followed:
    """Some files, and as which they were last seen and taken.

    Attributes:
        paths: The files.
        settles: Whether a change counts only once two looks in a row find the same.
        seen: What the last look found.
        taken: What was found when they were last read.
    """

    paths: Sequence[Path]
    settles: bool
    seen: object = None
    taken: object = None

    def has_changed(self, *, at_once: bool = False) -> bool:
        """Look at the files; return whether they are to be read, with `at_once` although they may not have settled."""
        before, self.seen = self.seen, _stamps(self.paths)
        return self.seen != self.taken and (at_once or not self.settles or self.seen == before)

    def take(self) -> None:
        """Note that the files are about to be read as they are now."""
        self.taken = self.seen = _stamps(self.paths)


def _stamps(paths: Sequence[Path]) -> tuple[object, ...]:
    """Return what changes with the files' content; None for one that is not there."""

    def stamp(path: Path) -> object:
        try:
            status = path.stat()
        except OSError:
            return None
        return status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino

    return tuple(stamp(path) for path in paths)
