"""The audit log of one process: who asked for what, written behind the answers by a thread, line by line (ADR 0039)."""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import logging
import os
import secrets
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from fedpredict.errors import AuditUnavailableError, ConfigError
from fedpredict.model.arrays import Statuses
from fedpredict.model.sample_ids import SampleIds
from fedpredict.model.share import SampleStatus
from fedpredict.security.audit_chain import (
    FORMAT,
    GENESIS,
    SUFFIX,
    Checkpoint,
    chain_files,
    parse_line,
    read_lines,
    seal,
    sign,
)
from fedpredict.security.audit_keys import AuditKeys
from fedpredict.security.audit_settings import AuditSettings

logger = logging.getLogger(__name__)

MOST_WAITING = 100_000
"""Calls that wait to be written; beyond them calls are refused, where the log is required."""
_LINES = 64
"""So many are written at a time; a file is at most so much larger than it should be."""
_SYSLOG_AUTH_NOTICE = 10 * 8 + 5


@dataclass(slots=True)
class AuditedCall:
    """One call, as its line has it.

    Attributes:
        what: The method.
        caller: Who asked.
        request_id: Names the call in every log.
        model_id: The model; empty where there is none.
        manifest_sha256: The version; empty where there is none.
        mode: The freshness asked for; empty where there is none.
        rows: How many samples.
        epoch: As in a `ScoreQuery`.
        outcome: "ok", or the kind of the error.
        sample_ids: The samples; None where the call names none.
        status: Of each, `SampleStatus` values; None where there is no answer.
    """

    what: str
    caller: str
    request_id: str = ""
    model_id: str = ""
    manifest_sha256: str = ""
    mode: str = ""
    rows: int = 0
    epoch: int = 0
    outcome: str = "ok"
    sample_ids: Sequence[bytes] | None = None
    status: Statuses | None = None


class AuditLog:
    """Writes the chain of one worker, from `with` to its end."""

    def __init__(
        self,
        settings: AuditSettings,
        folder: Path,
        party: str,
        worker: int,
        keys: AuditKeys,
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """Prepare; nothing is opened yet.

        Args:
            settings: `[audit]`.
            folder: The party's, with a folder for each worker.
            party: This party's id.
            worker: Which process of the daemon this is.
            keys: The party's.
            now: The clock.
        """
        self._settings = settings
        self._folder = folder / f"worker-{worker}"
        self._chain = f"{party}/worker-{worker}"
        self._keys = keys
        self._now = now
        self._waiting: deque[tuple[datetime, AuditedCall]] = deque()
        self._wake, self._stopping = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None
        self._problem = ""

    def __enter__(self) -> Self:
        """Continue the chain that is there, or begin one.

        Raises:
            ConfigError: The folder cannot be used, or another process writes this worker's chain.
        """
        try:
            file = _ChainFile(self._folder, self._chain, self._now())
        except OSError as error:
            raise ConfigError(f"audit: {self._folder}: {error.strerror or error}") from error
        self._thread = threading.Thread(target=self._run, args=(file,), name="fedpredict-audit", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join()

    def check(self) -> None:
        """Raise `AuditUnavailableError` where calls must not be answered, because they could not be written down."""
        if self._settings.required and (self._problem or len(self._waiting) >= MOST_WAITING):
            raise AuditUnavailableError(f"the audit log cannot be written: {self._problem or 'too much waits'}")

    def add(self, call: AuditedCall) -> None:
        """Have a call written down, within `write_s` seconds."""
        if len(self._waiting) >= MOST_WAITING:
            logger.error("audit.lost", extra={"caller": call.caller, "model": call.model_id})
            return
        self._waiting.append((self._now(), call))

    def _run(self, file: _ChainFile) -> None:
        signed_at = time.monotonic()
        while True:
            stopping = self._wake.wait(self._settings.write_s) and self._stopping.is_set()
            try:
                self._write(file)
                if stopping or time.monotonic() - signed_at > self._settings.checkpoint_s:
                    signed_at = time.monotonic()
                    self._checkpoint(file, ends=stopping)
                if self._problem:
                    logger.info("audit.recovered")
                self._problem = ""
            except OSError as error:
                if not self._problem:
                    logger.error("audit.not_written", extra={"reason": str(error)})  # noqa: TRY400
                self._problem = error.strerror or str(error)
            if stopping:
                break
        file.close()

    def _write(self, file: _ChainFile) -> None:
        """Write what waits; what cannot be written goes on waiting."""
        while self._waiting:
            some = [self._waiting[at] for at in range(min(len(self._waiting), _LINES))]
            file.write([self._body(at, call) for at, call in some])
            for _ in some:
                self._waiting.popleft()
            if file.size > self._settings.file_mb << 20:
                file.next(self._now())

    def _checkpoint(self, file: _ChainFile, *, ends: bool) -> None:
        if ends:
            file.write([{"kind": "end", "t": _text(self._now())}])
        if not file.grew:
            return
        self._prune(file)
        made = sign(self._keys.signing, self._chain, file.n, file.sha256)
        file.write([{"kind": "checkpoint", "t": _text(self._now()), "signature": made.signature}])
        file.flush()
        self._hand_out(made)

    def _prune(self, file: _ChainFile) -> None:
        """Remove files that are too old; the line that says so is safe on the disk before."""
        if self._settings.keep_days is None:
            return
        before = self._now() - timedelta(days=self._settings.keep_days)
        gone = [path for path in chain_files(self._folder) if path != file.path and _written_at(path) < before]
        last = gone[-1] if gone else None
        end = None if last is None else _end_of(last)
        if end is None:
            return
        file.write([{"kind": "pruned", "t": _text(self._now()), "upto": end[0], "sha256": end[1]}])
        file.flush()
        for path in gone:
            path.unlink()

    def _hand_out(self, made: Checkpoint) -> None:
        """Give a checkpoint to whoever keeps it elsewhere; that this fails is told, and stops nothing."""
        try:
            if self._settings.anchor is not None:
                with self._settings.anchor.open("a") as anchor:
                    anchor.write(made.text + "\n")
                    anchor.flush()
                    os.fsync(anchor.fileno())
            if self._settings.syslog is not None:
                host, _, port = self._settings.syslog.rpartition(":")
                stamp = self._now().strftime("%b %d %H:%M:%S")
                message = f"<{_SYSLOG_AUTH_NOTICE}>{stamp} {socket.gethostname()} {made.text}"
                kind = socket.AF_INET6 if ":" in host else socket.AF_INET
                with socket.socket(kind, socket.SOCK_DGRAM) as sender:
                    sender.sendto(message.encode(), (host.strip("[]"), int(port)))
        except OSError as error:
            logger.warning("audit.not_anchored", extra={"reason": str(error)})

    def _body(self, at: datetime, call: AuditedCall) -> dict[str, object]:
        body: dict[str, object] = {"kind": "call", "t": _text(at), "what": call.what, "caller": call.caller}
        named = {
            "request": call.request_id,
            "model": call.model_id,
            "manifest": call.manifest_sha256,
            "mode": call.mode,
        }
        body |= {name: value for name, value in named.items() if value}
        body |= {"rows": call.rows, "epoch": call.epoch, "outcome": call.outcome}
        if call.status is not None:
            counts = np.bincount(call.status, minlength=len(SampleStatus))
            body["statuses"] = {each.name: int(counts[each]) for each in SampleStatus if counts[each]}
        if call.sample_ids is not None:
            body |= self._ids(call.sample_ids)
        return body

    def _ids(self, sample_ids: Sequence[bytes]) -> Mapping[str, object]:
        key = self._keys.ids
        if len(sample_ids) <= self._settings.ids_per_line:
            return {"ids": [hashed_id(key, each) for each in sample_ids]}
        packed = SampleIds.of(sample_ids)
        every = hashlib.sha256(len(packed).to_bytes(8, "little"))
        every.update(np.ascontiguousarray(packed.offsets, dtype="<u8").data)
        every.update(packed.data)
        return {"root": hmac.digest(key, every.digest(), "sha256").hex()}


def hashed_id(key: bytes, sample_id: bytes) -> str:
    """Return what the log has in place of a sample id: the first half of its HMAC-SHA-256, in hex."""
    return hmac.digest(key, sample_id, "sha256")[:16].hex()


class _ChainFile:
    """The file that a chain grows in; nobody else writes the chain meanwhile."""

    def __init__(self, folder: Path, chain: str, now: datetime) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._folder = folder
        self._chain = chain
        self._lock = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._lock)
            raise OSError(f"another process writes the chain {chain}") from None
        self.n, self.sha256, torn = _last_of(folder)
        self._descriptor = -1
        self.size = 0
        self.grew = False
        self._begin(now, torn)

    def _begin(self, now: datetime, torn: int) -> None:
        self.path = self._folder / f"{self.n + 1:012d}{SUFFIX}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC
        self._descriptor = os.open(self.path, flags, 0o600)
        self.size = 0
        first = {"kind": "begin", "t": _text(now), "format": FORMAT, "chain": self._chain, "pid": os.getpid()}
        self.write([{**first, "before": self.sha256, "torn": torn}])

    def write(self, bodies: Sequence[Mapping[str, object]]) -> None:
        """Write lines; a write that fails leaves none of them."""
        n, sha256, lines = self.n, self.sha256, list[bytes]()
        for body in bodies:
            n += 1
            line, sha256 = seal({"n": n, **body}, sha256)
            lines.append(line)
        data = b"".join(lines)
        written = 0
        try:
            while written < len(data):
                written += os.write(self._descriptor, data[written:])
        except OSError:
            os.ftruncate(self._descriptor, self.size)
            raise
        self.n, self.sha256, self.size, self.grew = n, sha256, self.size + len(data), True

    def flush(self) -> None:
        """Make what was written safe on the disk."""
        os.fsync(self._descriptor)
        self.grew = False

    def next(self, now: datetime) -> None:
        """Go on in another file."""
        os.fsync(self._descriptor)
        os.close(self._descriptor)
        self._begin(now, 0)

    def close(self) -> None:
        os.close(self._descriptor)
        os.close(self._lock)


def _last_of(folder: Path) -> tuple[int, str, int]:
    """Return the number and hash of a chain's last line, and how many bytes of an unfinished one stand behind it."""
    files = chain_files(folder)
    if not files:
        return 0, GENESIS, 0
    lines, rest = read_lines(files[-1])
    body = parse_line(lines[-1]) if lines else None
    if body is None:
        if lines or len(files) > 1 or rest:
            # a file whose first line was never finished: its bytes stay, under a name that is no chain's
            files[-1].rename(files[-1].with_suffix(f".torn-{secrets.token_hex(4)}"))
            return _last_of(folder)
        files[-1].unlink()
        return _last_of(folder)
    return int(body["n"]), str(body["h"]), len(rest)


def _end_of(path: Path) -> tuple[int, str] | None:
    lines, _ = read_lines(path)
    body = parse_line(lines[-1]) if lines else None
    return None if body is None else (int(body["n"]), str(body["h"]))


def _written_at(path: Path) -> datetime:
    return datetime.fromtimestamp(path.stat().st_mtime, UTC)


def _text(at: datetime) -> str:
    return at.isoformat(timespec="microseconds").replace("+00:00", "Z")
