"""Checkpoints in the hands of the other party: ours that are handed out, and theirs that are kept here.

A chain alone cannot show that its end was cut off. The parties talk to each other anyway, and neither can change what
the other keeps: so each hands its newest checkpoint to those it works with.
"""

from __future__ import annotations

import base64
import binascii
import logging
import re
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TypeAlias

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from fedpredict.errors import CertificateError
from fedpredict.security.audit_chain import Checkpoint, is_signed
from fedpredict.security.audit_file import text_of
from fedpredict.security.audit_kept import KeptCheckpoints
from fedpredict.security.audit_keys import AuditKeys
from fedpredict.security.identity import Identity

logger = logging.getLogger(__name__)

FOLDER, SUFFIX = "peers", ".checkpoints"
"""Below a party's folder of the audit log: a file for each party that handed checkpoints to it."""
KEPT_EVERY_S = 60.0
"""Of a chain no more often than that, so that a file grows by half a megabyte a day of each."""
MOST_CHAINS = 128
"""Of one party."""
MOST_WAITING = 1_000
"""Checkpoints that wait for the disk; others are passed over: newer ones come soon, and say more."""
_WORKER = re.compile(r"worker-\d{1,4}")

Handed: TypeAlias = tuple[str, int, bytes, bytes, bytes]
"""Chain, number, hash, signature and public key of a checkpoint."""


@dataclass(slots=True)
class _Last:
    """The last checkpoint that was kept of a chain."""

    n: int
    sha256: bytes
    key: bytes
    at: float

    def says(self, handed: Handed) -> bool:
        """Return whether another says no more than this one."""
        return (self.n, self.sha256, self.key) == (handed[1], handed[2], handed[4])


class PeerCheckpoints:
    """Keeps other parties' checkpoints, and hands out this party's.

    Used by one event loop, which never waits for the files: a thread of its own checks signatures, reads and writes.
    """

    def __init__(self, folder: Path, keys: AuditKeys, now: Callable[[], datetime], *, hands_out: bool) -> None:
        """Prepare.

        Args:
            folder: The party's, of the audit log.
            keys: The party's.
            now: The clock.
            hands_out: Whether others are told how far this party's chains have come.
        """
        self._folder = folder / FOLDER
        self._key = keys.signing.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        self._now = now
        self._hands_out = hands_out
        self._newest: Checkpoint | None = None
        self._last: dict[str, _Last] = {}
        """Changed by the thread alone."""
        self._thread = ThreadPoolExecutor(1, "fedpredict-audit-peers")
        self._waiting: deque[Future[None]] = deque()
        self._is_closed = False

    def close(self) -> None:
        """Return when everything that was handed over is kept; nothing is taken any more."""
        self._is_closed = True
        self._thread.shutdown()

    def made(self, checkpoint: Checkpoint) -> None:
        """Take this process's newest checkpoint."""
        self._newest = checkpoint

    def handed(self) -> list[Handed]:
        """Return what the other party is handed now."""
        newest = self._newest
        if newest is None or not self._hands_out:
            return []
        signature = base64.b64decode(newest.signature)
        return [(newest.chain, newest.n, bytes.fromhex(newest.sha256), signature, self._key)]

    def keep(self, sender: Identity, handed: Sequence[Handed]) -> None:
        """Keep, soon, what a party handed over, where its signature is good and the chain is its own.

        A chain that has another line where it had one, or goes back, or another key is kept as it came, and said in the
        log: that is what checkpoints are for.
        """
        while self._waiting and self._waiting[0].done():
            self._waiting.popleft()
        for each in () if self._is_closed else handed:
            if not self._is_early(each, time.monotonic()) and len(self._waiting) < MOST_WAITING:
                self._waiting.append(self._thread.submit(self._kept, sender, each))

    def _is_early(self, handed: Handed, at: float) -> bool:
        """Return whether a checkpoint says nothing new, or comes too soon after the last one of its chain."""
        last = self._last.get(handed[0])
        return last is not None and (last.says(handed) or at - last.at < KEPT_EVERY_S)

    def _kept(self, sender: Identity, handed: Handed) -> None:
        try:
            self._keep(sender, handed)
        except (OSError, CertificateError) as error:
            logger.warning("audit.peer_not_kept", extra={"peer": str(sender), "reason": str(error)})
        except Exception:  # the edge of a thread that nobody waits for
            logger.exception("audit.peer_not_kept", extra={"peer": str(sender)})

    def _keep(self, sender: Identity, handed: Handed) -> None:
        chain, n, sha256, _, key = handed
        last, at = self._last.get(chain), time.monotonic()
        if self._is_early(handed, at):
            return
        problem = _problem(sender, handed)
        if problem:
            logger.warning("audit.peer_refused", extra={"peer": str(sender), "reason": problem})
            return
        file = KeptCheckpoints(self._folder / f"{sender.kind}-{sender.name}{SUFFIX}")
        if last is None:
            if sum(name.startswith(f"{sender.name}/") for name in self._last) >= MOST_CHAINS:
                return
            last = _known(file.last_words(chain))
        self._last[chain] = _Last(n, sha256, key, at)
        if last is not None and last.says(handed):
            return
        _tell(sender, last, handed)
        made = _checkpoint(handed)
        file.append(f"{text_of(self._now())} {sender.uri} key={base64.b64encode(key).decode()} {made.text}\n")


def _known(words: Sequence[str]) -> _Last | None:
    """Return what an earlier process kept of a chain last, by the words of its line."""
    if not words:
        return None
    try:
        key = base64.b64decode(words[2].removeprefix("key="), validate=True)
        return _Last(int(words[5]), bytes.fromhex(words[6]), key, float("-inf"))
    except (ValueError, binascii.Error):
        return None


def _problem(sender: Identity, handed: Handed) -> str:
    owner, _, worker = handed[0].partition("/")
    if owner != sender.name or not _WORKER.fullmatch(worker):
        return "a chain that is not its own"
    is_good = is_signed(_checkpoint(handed), Ed25519PublicKey.from_public_bytes(handed[4]))
    return "" if is_good else "its signature is wrong"


def _checkpoint(handed: Handed) -> Checkpoint:
    chain, n, sha256, signature, _ = handed
    return Checkpoint(chain, n, sha256.hex(), base64.b64encode(signature).decode())


def _tell(sender: Identity, last: _Last | None, handed: Handed) -> None:
    """Say in the log what a checkpoint shows beside the one before it."""
    if last is None:
        return
    chain, n, sha256, _, key = handed
    told = "the chain has another line there" if n == last.n and sha256 != last.sha256 else ""
    told = told or ("the chain goes back" if n < last.n else "") or ("another audit key" if key != last.key else "")
    if told:
        logger.warning("audit.peer_changed", extra={"peer": str(sender), "chain": chain, "reason": told})
