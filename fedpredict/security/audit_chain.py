"""The audit log's lines: each is bound to all before it, so that none can be changed, moved or taken out unseen.

A line is a JSON object whose last field, `h`, is the SHA-256 over the hash of the line before and the line up to there.
The lines of a worker are one chain, over any number of files, each named after the number of its first line. A chain
alone cannot show that its end was cut off: checkpoints, signed and kept elsewhere, do.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from fedpredict.errors import AuditBrokenError

FORMAT = 1
_MAX_DIGITS = 18
GENESIS = "0" * 64
"""The hash before a chain's first line."""
SUFFIX = ".jsonl"
_ENCODER = json.JSONEncoder(separators=(",", ":"), ensure_ascii=True)
SEAL_BYTES = len(',"h":"') + 64 + len('"}')
"""How long the end of a line is that its hash does not cover."""


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


def encoded(body: Mapping[str, object]) -> bytes:
    """Return the fields of a line, at least one of them, without `n` and `h`: what `seal` takes."""
    return _ENCODER.encode(body).encode()


def seal(body: bytes, n: int, before: str) -> tuple[bytes, str]:
    r"""Return line `n`, with its line end, and its hash in hex.

    Args:
        body: What `encoded` made.
        n: Its number.
        before: The hash of the line before, in hex.

    >>> line, sha256 = seal(encoded({"kind": "end"}), 1, GENESIS)
    >>> line == b'{"n":1,"kind":"end","h":"' + sha256.encode() + b'"}\n'
    True
    """
    text = b'{"n":%d,%b' % (n, body[1:-1])
    sha256 = hashlib.sha256(b"%b%b" % (before.encode(), text)).hexdigest()
    return b'%b,"h":"%b"}\n' % (text, sha256.encode()), sha256


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
    if len(words) < 4 or not (words[1].isascii() and words[1].isdigit() and len(words[1]) <= _MAX_DIGITS):
        return None
    return Checkpoint(words[0], int(words[1]), words[2], words[3])


def chain_files(folder: Path) -> list[Path]:
    """Return the files of a chain, in order."""
    return sorted(path for path in folder.iterdir() if path.suffix == SUFFIX and path.stem.isdigit())


def stray_files(folder: Path) -> list[Path]:
    """Return files that somebody put aside as damaged: they may hold lines of the chain."""
    return sorted(path for path in folder.iterdir() if ".torn-" in path.name)


def read_lines(path: Path) -> tuple[list[bytes], bytes]:
    """Return the lines of a file, without line ends, and what stands behind the last line end."""
    *lines, rest = path.read_bytes().split(b"\n")
    return lines, rest


def parse_line(line: bytes) -> dict[str, Any] | None:
    """Return the fields of a line, or None where it is no JSON object, or holds half a character (ours never do)."""
    try:
        body = json.loads(line.decode())  # of bytes it would take half a character
        if b"\\u" in line:
            json.dumps(body, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        return None
    return body if isinstance(body, dict) else None


def is_line(line: bytes) -> bool:
    """Return whether these bytes are a line at all, true or forged."""
    body = parse_line(line)
    return body is not None and isinstance(body.get("n"), int) and isinstance(body.get("h"), str)


def calls(folders: Sequence[Path], kinds: Collection[str] = ("call",)) -> Iterator[dict[str, Any]]:
    """Give the calls in the files of chains, chain by chain, in order; what is no line is passed over.

    Args:
        folders: Of the chains.
        kinds: Of the lines that are given.

    Raises:
        OSError: A file cannot be read.
        AuditBrokenError: A field is of another type than ours, or a folder holds the chain of another one.
    """
    for folder in folders:
        for path in chain_files(folder):
            with path.open("rb") as file:
                for number, line in enumerate(file, start=1):
                    body = parse_line(line)
                    if body is None:
                        continue
                    odd = _oddity(body, folder.name)
                    if odd:
                        what = "`fedpredict audit verify` says what else is not as it was written"
                        raise AuditBrokenError(f"{path}: line {number}: {odd}; {what}")
                    if body.get("kind") in kinds:
                        yield body


def _oddity(body: Mapping[str, Any], folder: str) -> str:
    """Return what this party would not have written into a line of a folder's chain; empty for nothing."""
    chain = str(body.get("chain", ""))
    if body.get("kind") == "begin" and chain.rpartition("/")[2] != folder:
        return f"begins the chain {chain!r}, which is of another folder"
    counts = body.get("statuses", {}), body.get("calls", {})
    if type(body.get("rows", 0)) is not int:
        return f"its rows are {body['rows']!r}"
    if not all(isinstance(each, dict) and all(type(n) is int for n in each.values()) for each in counts):
        return "its counts are none"
    ids = body.get("ids", [])
    if not isinstance(ids, list) or not all(isinstance(each, str) for each in ids):
        return "its ids are none"
    return ""


def _signed(chain: str, n: int, sha256: str) -> bytes:
    return f"fedpredict-audit-{FORMAT}\n{chain}\n{n}\n{sha256}\n".encode()
