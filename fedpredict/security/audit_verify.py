"""Whether a chain of the audit log is whole: every line is there as it was written, and signed soon after."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from fedpredict.security.audit_chain import (
    GENESIS,
    SEAL_BYTES,
    Checkpoint,
    chain_files,
    is_line,
    is_signed,
    parse_line,
    read_lines,
    stray_files,
)

MARGIN_S = 60.0
"""So much longer than its `checkpoint_s` a process that is killed may have gone without a checkpoint."""


@dataclass(slots=True)
class ChainReport:
    """What became of a chain.

    Attributes:
        chain: Its name, as its first line says it; empty where that cannot be read.
        lines: How many were read.
        last: The number and hash of the last good line.
        checkpoints: Good ones, in the chain.
        unsigned: How many lines stand behind the last good checkpoint: only their hashes speak for them.
        problems: What is wrong, with the file and line.
        notes: What is odd but no sign of tampering, such as a line that a killed process did not finish.
    """

    chain: str = ""
    lines: int = 0
    last: tuple[int, str] = (0, GENESIS)
    checkpoints: int = 0
    unsigned: int = 0
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def verify_chain(folder: Path, key: Ed25519PublicKey, anchors: Sequence[Checkpoint] = ()) -> ChainReport:
    """Check every line of a chain, and that it has what the anchors say.

    Args:
        folder: Its files.
        key: The party's audit key.
        anchors: Checkpoints that were kept elsewhere, of this chain and others.

    Raises:
        OSError: A file cannot be read.
    """
    report, walk = ChainReport(), Walk(key, {each.n for each in anchors})
    for path in chain_files(folder):
        walk.file(path, report)
    walk.end(report)
    report.problems += [f"{path.name}: was put aside: it may hold lines of the chain" for path in stray_files(folder)]
    report.problems += [
        f"{name}: whole lines at its end are damaged: no killed process leaves that" for name in walk.garbled
    ]
    if not report.lines:
        report.problems.append(f"{folder}: no line")
    elif report.chain.rpartition("/")[2] != folder.name:
        report.problems.append(f"{folder}: holds the chain {report.chain}, of another folder: a copy, or it was moved")
    for each in anchors:
        if each.chain == report.chain:
            _check_anchor(each, key, walk, report)
    report.problems += walk.unexplained()
    return report


class Walk:
    """Goes through a chain's files, from the first or from some later one."""

    def __init__(self, key: Ed25519PublicKey, wanted: Collection[int] = ()) -> None:
        """Prepare.

        Args:
            key: The party's audit key.
            wanted: Numbers of lines whose hashes are kept.
        """
        self._key = key
        self._wanted = wanted
        self._start: tuple[str, int, str] | None = None
        self._pruned: list[tuple[object, object]] = []
        self._stretch = _Stretch()
        self._has_more_than_begins = False
        self.torn = 0
        self.garbled: list[str] = []
        """Files that end in whole lines which are none; a machine that lost power leaves zeros."""
        self.first = 0
        self.hashes: dict[int, str] = {}

    def file(self, path: Path, report: ChainReport) -> None:
        """Check the next file."""
        lines, rest = read_lines(path)
        good = len(lines)
        while good and not is_line(lines[good - 1]):
            good -= 1
        if not good:
            report.problems.append(f"{path.name}: is damaged: it holds no line")
            return
        for number, line in enumerate(lines[:good], start=1):
            where = f"{path.name} line {number}"
            body = parse_line(line) if is_line(line) else None
            if body is None:
                report.problems.append(f"{where}: is damaged: no JSON object with a number")
                continue
            if number == 1:
                self._begin(where, body, report)
            self._line(where, line, body, report)
        self.torn = sum(len(line) + 1 for line in lines[good:]) + len(rest)
        if any(b"\x00" not in line for line in lines[good:]):
            self.garbled.append(path.name)
        if self.torn:
            what = f"the last {self.torn} bytes are an unfinished line: a process was killed, or is at work"
            report.notes.append(f"{path.name}: {what}")

    def end(self, report: ChainReport) -> None:
        """Judge the end of the chain."""
        self._stretch.judge("the end of the chain", report)
        if self._has_more_than_begins and not report.checkpoints:
            report.problems.append("no checkpoint is signed by this party's audit key: anybody could have written this")

    def _begin(self, where: str, body: Mapping[str, Any], report: ChainReport) -> None:
        before = body.get("before")
        if body.get("kind") != "begin" or not isinstance(before, str):
            report.problems.append(f"{where}: the first line does not begin a file: what stood before was removed")
        elif not report.lines:
            report.chain, self.first = str(body.get("chain", "")), body["n"]
            if body["n"] != 1:
                self._start = (where, body["n"] - 1, before)
            report.last = (body["n"] - 1, before)

    def _line(self, where: str, line: bytes, body: Mapping[str, Any], report: ChainReport) -> None:
        report.lines += 1
        n, before = report.last
        sha256 = hashlib.sha256(before.encode() + line[:-SEAL_BYTES]).hexdigest()
        if body["n"] != n + 1:
            report.problems.append(f"{where}: number {body['n']} follows {n}: lines were removed, added or moved")
        elif body["h"] != sha256:
            report.problems.append(f"{where}: number {n + 1} was changed, or the line before it: its hash is another")
        kind = body.get("kind")
        report.unsigned += 1
        if kind == "begin":
            self._check_begin(where, body, report)
        elif kind == "checkpoint":
            self._check_checkpoint(where, body, (n, before), report)
        elif kind == "pruned":
            self._pruned.append((body.get("upto"), body.get("sha256")))
        self._has_more_than_begins |= kind != "begin"
        self._stretch.add(where, body, report)
        report.last = (body["n"], body["h"])
        if body["n"] in self._wanted:
            self.hashes[body["n"]] = body["h"]

    def _check_begin(self, where: str, body: Mapping[str, Any], report: ChainReport) -> None:
        if body.get("torn", 0) != self.torn:
            report.problems.append(f"{where}: {body.get('torn', 0)} unfinished bytes stood before it, now {self.torn}")
        if body.get("chain") != report.chain:
            report.problems.append(f"{where}: begins a file of {body.get('chain')} in the chain {report.chain}")
        self.torn = 0

    def _check_checkpoint(
        self, where: str, body: Mapping[str, Any], last: tuple[int, str], report: ChainReport
    ) -> None:
        if is_signed(Checkpoint(report.chain, *last, str(body.get("signature"))), self._key):
            report.checkpoints += 1
            report.unsigned = 0
            self._stretch.signed()
        else:
            report.problems.append(f"{where}: its checkpoint is not signed by this party's audit key")

    def unexplained(self) -> list[str]:
        """Return what is wrong with where the chain begins: files may be pruned, and the chain says which."""
        if self._start is None:
            return []
        where, n, before = self._start
        if (n, before) in self._pruned:
            return []
        return [f"{where}: lines 1 to {n} are gone, and no line says that they were pruned"]


class _Stretch:
    """The lines since the last checkpoint.

    What a checkpoint follows is proved by it, however late it comes: while a disk is full none can be written. What a
    new process found without one, and the end of the chain, could be written anew by anybody; so it must be short, and
    every process begins with a checkpoint.
    """

    def __init__(self) -> None:
        self._limit_s: float | None = None
        self._next_limit_s: float | None = None
        self._first: datetime | None = None
        self._last: datetime | None = None
        self._begins = False
        self._is_judged = False

    def signed(self) -> None:
        """Begin anew behind a checkpoint; only what is signed says how often checkpoints come."""
        self._limit_s = self._next_limit_s
        self._first = self._last = None
        self._begins = self._is_judged = False

    def add(self, where: str, body: Mapping[str, Any], report: ChainReport) -> None:
        """Take a line."""
        kind = body.get("kind")
        if kind == "checkpoint":
            return
        if kind == "begin":
            self._begin(where, body, report)
        elif self._begins and not self._is_judged:
            self._is_judged = True
            report.problems.append(f"{where}: a process began before it, and no checkpoint follows that")
        try:
            at = datetime.fromisoformat(str(body.get("t")))
            self._first = at if self._first is None else min(at, self._first)
            self._last = at if self._last is None else max(at, self._last)
        except (ValueError, TypeError):
            report.problems.append(f"{where}: its time cannot be read")

    def _begin(self, where: str, body: Mapping[str, Any], report: ChainReport) -> None:
        every = body.get("checkpoint_s")
        self._next_limit_s = every + MARGIN_S if isinstance(every, int | float) else None
        if not body.get("rotated"):
            self.judge(where, report)
            self._first = self._last = None
            self._begins = True

    def judge(self, where: str, report: ChainReport) -> None:
        """Say so where the lines up to here went too long without a checkpoint."""
        if self._limit_s is None or self._first is None or self._last is None:
            return
        lasted_s = (self._last - self._first).total_seconds()
        if lasted_s > self._limit_s:
            report.problems.append(
                f"{where}: the lines before it have no checkpoint for {lasted_s:.0f} s, and "
                f"{self._limit_s - MARGIN_S:.0f} s are usual: they may have been written anew"
            )


def _check_anchor(anchor: Checkpoint, key: Ed25519PublicKey, walk: Walk, report: ChainReport) -> None:
    there, last = walk.hashes.get(anchor.n), report.last[0]
    if not is_signed(anchor, key):
        what = "is not signed by this audit key: the key is another one, or the anchor was forged"
        report.problems.append(f"an anchor of line {anchor.n} {what}")
        return
    if there == anchor.sha256 or (there is None and anchor.n < walk.first):
        return
    if there is None and anchor.n > last:
        what = f"the chain ends at {last}: its end was cut off"
    else:
        what = "the chain has another line there, or none"
    report.problems.append(f"an anchor has line {anchor.n}; {what}")
