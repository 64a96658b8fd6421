"""What memory processes take, second by second: of each named process and all that it starts."""

from __future__ import annotations

import contextlib
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from typing_extensions import override

FIELDS = {"RssAnon:": "anon_mb", "VmRSS:": "rss_mb"}


@dataclass
class Series:
    """One name's memory over time.

    Attributes:
        at_s: Seconds from the start of watching.
        anon_mb: Anonymous resident memory (RssAnon): what the process itself holds.
        rss_mb: All resident memory, pages of mapped files among it, which the kernel may drop.
        phase: In which phase it was.
    """

    at_s: list[float] = field(default_factory=list)
    anon_mb: list[int] = field(default_factory=list)
    rss_mb: list[int] = field(default_factory=list)
    phase: list[str] = field(default_factory=list)

    def peaks(self, phases: tuple[str, ...] | None = None) -> dict[str, int]:
        """Return the largest of both; of some phases alone where they are given."""
        kept = [at for at, phase in enumerate(self.phase) if phases is None or phase in phases]
        return {name: max((getattr(self, name)[at] for at in kept), default=0) for name in ("anon_mb", "rss_mb")}


class MemoryWatch(threading.Thread):
    """Looks at /proc once every `every_s`, from `with` to its end."""

    def __init__(self, every_s: float = 1.0) -> None:
        super().__init__(daemon=True)
        self.series: dict[str, Series] = {}
        self.phase = ""
        self._every_s, self._began = every_s, time.monotonic()
        self._roots: dict[str, int] = {}
        self._ended = threading.Event()

    def follow(self, name: str, pid: int) -> None:
        """Look at a process, and its children, from now on until it is gone."""
        self.series.setdefault(name, Series())
        self._roots[name] = pid

    @override
    def run(self) -> None:
        while not self._ended.wait(self._every_s):
            self.look()

    def look(self) -> None:
        """Take one sample of every process that is followed."""
        roots = dict(self._roots)
        for name, pid in roots.items():
            found = {"anon_mb": 0, "rss_mb": 0}
            # who else is followed by a name of its own, such as a daemon that the caller started, is not counted twice
            others = set(roots.values()) - {pid}
            for each in _family(pid, others):
                for key, value in _memory_kb(each).items():
                    found[key] += value
            if found["rss_mb"]:
                series = self.series[name]
                series.at_s.append(round(time.monotonic() - self._began, 1))
                series.phase.append(self.phase)
                series.anon_mb.append(found["anon_mb"] // 1024)
                series.rss_mb.append(found["rss_mb"] // 1024)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, _kind: type[BaseException] | None, _e: BaseException | None, _t: TracebackType | None) -> None:
        self._ended.set()
        self.join()


def _family(pid: int, others: set[int]) -> list[int]:
    found = [pid]
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in map(int, (task / "children").read_text().split()):
                if child not in others:
                    found += _family(child, others)
    return found


def _memory_kb(pid: int) -> dict[str, int]:
    """Return the memory of one process in kB, zero where it is gone."""
    found: dict[str, int] = {}
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            name, _, value = line.partition("\t")
            if name in FIELDS:
                found[FIELDS[name]] = int(value.split()[0])
    return found
