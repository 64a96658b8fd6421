"""The audit log's lines: each is bound to all before it, so that none can be changed, moved or taken out unseen.

A line is a JSON object whose last field, `h`, is the SHA-256 over the hash of the line before and the line up to there.
The lines of a worker are one chain, over any number of files, each named after the number of its first line. A chain
alone cannot show that its end was cut off: checkpoints, signed and kept elsewhere, do.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

FORMAT = 1
GENESIS = "0" * 64
"""The hash before a chain's first line."""
SUFFIX = ".jsonl"
_SEAL = len(',"h":"') + 64 + len('"}')


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A signed word on how far a chain has come.

    Attributes:
        chain: Which: `<party>/<worker>`.
        n: The number of the last line before it.
        sha256: That line's hash, in hex.
        signature: Over the three, by the party's audit key, in base64.
    """

    chain: str
    n: int
    sha256: str
    signature: str

    @property
    def text(self) -> str:
        """One line for an outside anchor; `parse_checkpoint` reads it."""
        return f"fedpredict-audit {self.chain} {self.n} {self.sha256} {self.signature}"


def seal(body: Mapping[str, object], before: str) -> tuple[bytes, str]:
    r"""Return the line of a body, with its line end, and its hash in hex.

    Args:
        body: At least one field, none of them `h`.
        before: The hash of the line before, in hex.

    >>> line, sha256 = seal({"n": 1}, GENESIS)
    >>> line == b'{"n":1,"h":"' + sha256.encode() + b'"}\n'
    True
    """
    text = json.dumps(body, separators=(",", ":"), ensure_ascii=True).encode()[:-1]
    sha256 = hashlib.sha256(before.encode() + text).hexdigest()
    return text + b',"h":"' + sha256.encode() + b'"}\n', sha256


def sign(key: Ed25519PrivateKey, chain: str, n: int, sha256: str) -> Checkpoint:
    """Return a checkpoint behind line `n`, whose hash is `sha256`."""
    signature = base64.b64encode(key.sign(_signed(chain, n, sha256))).decode()
    return Checkpoint(chain, n, sha256, signature)


def is_signed(checkpoint: Checkpoint, key: Ed25519PublicKey) -> bool:
    """Return whether a checkpoint was signed with the private half of `key`."""
    try:
        key.verify(
            base64.b64decode(checkpoint.signature, validate=True),
            _signed(checkpoint.chain, checkpoint.n, checkpoint.sha256),
        )
    except (InvalidSignature, ValueError):
        return False
    return True


def parse_checkpoint(line: str) -> Checkpoint | None:
    """Return the checkpoint in a line of an anchor, whatever stands before it there, or None."""
    words = line.partition("fedpredict-audit ")[2].split()
    if len(words) < 4 or not words[1].isdigit():
        return None
    return Checkpoint(words[0], int(words[1]), words[2], words[3])


@dataclass(slots=True)
class ChainReport:
    """What became of a chain.

    Attributes:
        chain: Its name.
        lines: How many were read.
        last: The number and hash of the last good line.
        checkpoints: Good ones, in the chain.
        problems: What is wrong, with the file and line.
        notes: What is odd but no sign of tampering, such as a line that a killed process did not finish.
    """

    chain: str
    lines: int = 0
    last: tuple[int, str] = (0, GENESIS)
    checkpoints: int = 0
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def verify_chain(folder: Path, chain: str, key: Ed25519PublicKey, anchors: Iterable[Checkpoint] = ()) -> ChainReport:
    """Check every line of a chain, and that it has what the anchors say.

    Args:
        folder: Its files.
        chain: Its name.
        key: The party's audit key.
        anchors: Checkpoints that were kept elsewhere, of this chain and others.

    Raises:
        OSError: A file cannot be read.
    """
    report, walk = ChainReport(chain), _Walk(chain, key)
    for path in chain_files(folder):
        walk.file(path, report)
    if not report.lines:
        report.problems.append(f"{folder}: no line")
    for each in anchors:
        if each.chain == chain:
            _check_anchor(each, key, walk.hashes, report)
    report.problems += walk.unexplained()
    return report


def chain_files(folder: Path) -> list[Path]:
    """Return the files of a chain, in order."""
    return sorted(path for path in folder.iterdir() if path.suffix == SUFFIX and path.stem.isdigit())


def read_lines(path: Path) -> tuple[list[bytes], bytes]:
    """Return the lines of a file, without line ends, and what stands behind the last line end."""
    *lines, rest = path.read_bytes().split(b"\n")
    return lines, rest


def parse_line(line: bytes) -> dict[str, Any] | None:
    """Return the fields of a line, or None where it is no JSON object."""
    try:
        body = json.loads(line)
    except ValueError:
        return None
    return body if isinstance(body, dict) else None


class _Walk:
    """Goes through a chain's files."""

    def __init__(self, chain: str, key: Ed25519PublicKey) -> None:
        self._chain = chain
        self._key = key
        self._torn = 0
        self._start: tuple[str, int, str] | None = None
        self._pruned: list[tuple[int, str]] = []
        self.hashes: dict[int, str] = {}

    def file(self, path: Path, report: ChainReport) -> None:
        lines, rest = read_lines(path)
        for number, line in enumerate(lines, start=1):
            where = f"{path.name} line {number}"
            body = parse_line(line)
            if body is None or not isinstance(body.get("n"), int):
                report.problems.append(f"{where}: is damaged: no JSON object with a number")
                continue
            if not report.lines:
                self._begin(where, body, report)
            self._line(where, line, body, report)
        if rest and self._torn:
            report.problems.append(f"{path.name}: two unfinished lines follow each other")
        self._torn = len(rest)
        if rest:
            what = f"the last {len(rest)} bytes are an unfinished line: a process was killed, or is at work"
            report.notes.append(f"{path.name}: {what}")

    def _begin(self, where: str, body: Mapping[str, Any], report: ChainReport) -> None:
        before = body.get("before")
        if body.get("kind") != "begin" or not isinstance(before, str):
            report.problems.append(f"{where}: the first line does not begin a file: what stood before was removed")
            return
        if body["n"] != 1:
            self._start = (where, body["n"] - 1, before)
        report.last = (body["n"] - 1, before)

    def _line(self, where: str, line: bytes, body: Mapping[str, Any], report: ChainReport) -> None:
        report.lines += 1
        n, before = report.last
        sha256 = hashlib.sha256(before.encode() + line[:-_SEAL]).hexdigest()
        if body["n"] != n + 1:
            report.problems.append(f"{where}: number {body['n']} follows {n}: lines were removed, added or moved")
        elif body.get("h") != sha256:
            report.problems.append(f"{where}: number {n + 1} was changed, or the line before it: its hash is another")
        if body.get("kind") == "begin":
            self._check_torn(where, body, report)
        elif body.get("kind") == "checkpoint":
            self._check_checkpoint(where, body, (n, before), report)
        elif body.get("kind") == "pruned":
            self._pruned.append((int(body.get("upto", 0)), str(body.get("sha256"))))
        report.last = (int(body["n"]), str(body.get("h")))
        self.hashes[report.last[0]] = report.last[1]

    def _check_torn(self, where: str, body: Mapping[str, Any], report: ChainReport) -> None:
        if int(body.get("torn", 0)) != self._torn:
            report.problems.append(f"{where}: {body.get('torn', 0)} unfinished bytes stood before it, now {self._torn}")
        self._torn = 0

    def _check_checkpoint(
        self, where: str, body: Mapping[str, Any], last: tuple[int, str], report: ChainReport
    ) -> None:
        if is_signed(Checkpoint(self._chain, *last, str(body.get("signature"))), self._key):
            report.checkpoints += 1
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


def _check_anchor(anchor: Checkpoint, key: Ed25519PublicKey, hashes: Mapping[int, str], report: ChainReport) -> None:
    if not is_signed(anchor, key):
        report.notes.append(f"an anchor of line {anchor.n} is not signed by this party's audit key, and says nothing")
        return
    there = hashes.get(anchor.n)
    if there == anchor.sha256 or (there is None and hashes and anchor.n < min(hashes)):
        return
    if there is None:
        what = f"the chain ends at {max(hashes, default=0)}: its end was cut off"
    else:
        what = "the chain has another line there"
    report.problems.append(f"an anchor has line {anchor.n}; {what}")


def calls(folders: Sequence[Path]) -> Iterator[dict[str, Any]]:
    """Give the calls in the files of chains, chain by chain, in order; what is no line is passed over.

    Raises:
        OSError: A file cannot be read.
    """
    for folder in folders:
        for path in chain_files(folder):
            with path.open("rb") as file:
                for line in file:
                    body = parse_line(line)
                    if body is not None and body.get("kind") == "call":
                        yield body


def _signed(chain: str, n: int, sha256: str) -> bytes:
    return f"fedpredict-audit-{FORMAT}\n{chain}\n{n}\n{sha256}\n".encode()
