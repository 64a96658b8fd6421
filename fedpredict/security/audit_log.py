"""The audit log of one process: who asked for what, written behind the answers by a thread, line by line (ADR 0039)."""

from __future__ import annotations

import hmac
import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import takewhile
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from fedpredict.errors import AuditUnavailableError, ConfigError
from fedpredict.model.arrays import Statuses
from fedpredict.model.populations import digest_of
from fedpredict.model.sample_ids import SampleIds
from fedpredict.model.share import SampleStatus
from fedpredict.security.audit_anchor import Anchoring
from fedpredict.security.audit_chain import chain_files, encoded
from fedpredict.security.audit_file import ChainFile, ChainTakenError, end_of_file, text_of, written_at
from fedpredict.security.audit_keys import AuditKeys
from fedpredict.security.audit_settings import AuditSettings

logger = logging.getLogger(__name__)

MOST_WAITING = 100_000
"""Calls that wait to be written; beyond them calls are refused, where the log is required."""
MOST_WAITING_BYTES = 64 << 20
"""The same for the bytes of their lines."""
_LINES = 64
"""So many are written at a time; a file is at most so much larger than it should be."""
_TEXT = 256
"""Characters that a line has of any one text."""
_MOST_CHAINS = 1_000
_COUNTED_CALLERS = 100
_STATUSES = tuple(SampleStatus(number).name for number in range(len(SampleStatus)))


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
        ids_sha256: The digest of the samples in hex (`digest_of`), where it is known; empty: it is computed if needed.
        population: The population and its version; empty where there is none.
        purpose: What the caller asks for, as the policy says; empty where it does not.
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
    ids_sha256: str = ""
    population: str = ""
    purpose: str = ""


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
        self._parent = folder
        self._party = party
        self._worker = worker
        self._folder = folder / f"worker-{worker}"
        self._keys = keys
        self._now = now
        self._anchoring = Anchoring(settings, now)
        # finished lines but for their numbers: small, whatever the calls were about
        self._waiting: deque[bytes] = deque()
        # two counters, because each has one thread that changes it
        self._added_bytes, self._written_bytes = 0, 0
        self._unlisted = _Unlisted()
        self._wake, self._stopping = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None
        self._problem = ""

    def __enter__(self) -> Self:
        """Continue this worker's chain, or begin one; the next that is free, where another daemon's worker writes it.

        Raises:
            ConfigError: The folder cannot be used, or the chain is not as it was written.
        """
        file = self._open_chain()
        self._anchoring.start()
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
        self._anchoring.stop()

    def _open_chain(self) -> ChainFile:
        for number in range(self._worker, self._worker + _MOST_CHAINS):
            self._folder = self._parent / f"worker-{number}"
            name = f"{self._party}/worker-{number}"
            try:
                return ChainFile(self._folder, name, self._keys, self._settings.checkpoint_s, self._now())
            except ChainTakenError:
                continue
            except OSError as error:
                told = error.strerror or error
                what = f"audit: {self._folder}: {told}; [audit] path names a folder that can be written"
                raise ConfigError(what) from error
        raise ConfigError(f"audit: {self._parent}: {_MOST_CHAINS} processes write chains there")

    def check(self) -> None:
        """Raise `AuditUnavailableError` where calls must not be answered, because they could not be written down."""
        if not self._settings.required:
            return
        trouble = self._trouble() or ("too much waits" if self._is_full() else "")
        if trouble:
            raise AuditUnavailableError(f"the audit log cannot be written: {trouble}")

    def add(self, call: AuditedCall) -> None:
        """Have a call written down, within `write_s` seconds.

        Calls that passed `check` find room, however much waits. Of calls that were refused, while nothing can be
        written, only the number is kept.
        """
        is_full = self._is_full()
        if call.outcome != "ok" and (is_full or self._trouble()):
            self._unlisted.add("refused", call.caller, self._now())
        elif is_full and not self._settings.required:
            logger.error("audit.lost", extra={"caller": call.caller, "model": call.model_id})
            self._unlisted.add("lost", call.caller, self._now())
        else:
            line = encoded(self._body(call))
            self._added_bytes += len(line)
            self._waiting.append(line)

    def _is_full(self) -> bool:
        waiting_bytes = self._added_bytes - self._written_bytes
        return len(self._waiting) >= MOST_WAITING or waiting_bytes >= MOST_WAITING_BYTES

    def _trouble(self) -> str:
        if self._thread is None or not self._thread.is_alive():
            return "its thread has ended"
        return self._problem

    def _run(self, file: ChainFile) -> None:
        signed_at = time.monotonic()
        while True:
            stopping = self._wake.wait(self._settings.write_s) and self._stopping.is_set()
            try:
                self._write(file)
                # what waited long is signed at once
                if stopping or self._problem or time.monotonic() - signed_at > self._settings.checkpoint_s:
                    signed_at = time.monotonic()
                    self._checkpoint(file, ends=stopping)
                if self._problem:
                    logger.info("audit.recovered")
                self._problem = ""
            except Exception as error:
                reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
                if not self._problem:
                    is_defect = not isinstance(error, OSError)
                    logger.error("audit.not_written", extra={"reason": reason}, exc_info=is_defect)  # noqa: TRY400
                self._problem = reason
            if stopping:
                break
        if self._waiting:
            logger.error("audit.lost", extra={"calls": len(self._waiting)})
        file.close()

    def _write(self, file: ChainFile) -> None:
        """Write what waits; what cannot be written goes on waiting."""
        may_rotate = True
        self._write_unlisted(file)
        while self._waiting:
            some = [self._waiting[at] for at in range(min(len(self._waiting), _LINES))]
            file.write(some)
            for _ in some:
                self._waiting.popleft()
            self._written_bytes += sum(map(len, some))
            if may_rotate and file.size > self._settings.file_mb << 20:
                may_rotate = self._rotated(file)

    def _rotated(self, file: ChainFile) -> bool:
        try:
            file.next(self._now())
        except OSError as error:
            logger.warning("audit.not_rotated", extra={"reason": str(error)})
            return False
        return True

    def _write_unlisted(self, file: ChainFile) -> None:
        counted = self._unlisted.take()
        if not counted:
            return
        try:
            file.write([encoded({"kind": kind, "t": text_of(self._now()), **body}) for kind, body in counted.items()])
        except OSError:
            self._unlisted.put_back(counted)
            raise

    def _checkpoint(self, file: ChainFile, *, ends: bool) -> None:
        if ends:
            file.write([encoded({"kind": "end", "t": text_of(self._now())})])
        if not file.grew:
            return
        self._prune(file)
        self._anchoring.give(file.checkpoint(self._now()))

    def _prune(self, file: ChainFile) -> None:
        """Remove files that are too old; the line that says so is safe on the disk before."""
        if self._settings.keep_days is None:
            return
        before = self._now() - timedelta(days=self._settings.keep_days)
        files = takewhile(lambda path: path != file.path and written_at(path) < before, chain_files(self._folder))
        gone = list(files)
        end = end_of_file(gone[-1]) if gone else None
        if end is None:
            return
        file.write([encoded({"kind": "pruned", "t": text_of(self._now()), "upto": end[0], "sha256": end[1]})])
        file.flush()
        for path in gone:
            path.unlink()

    def _body(self, call: AuditedCall) -> dict[str, object]:
        # it is on the way of every answer: plain statements take half of what a table of names would
        body: dict[str, object] = {"kind": "call", "t": text_of(self._now()), "what": call.what}
        body["caller"] = call.caller[:_TEXT]
        if call.request_id:
            body["request"] = call.request_id[:_TEXT]
        if call.model_id:
            body["model"] = call.model_id[:_TEXT]
        if call.manifest_sha256:
            body["manifest"] = call.manifest_sha256[:_TEXT]
        if call.mode:
            body["mode"] = call.mode[:_TEXT]
        if call.population or call.purpose:
            said = (("population", call.population), ("purpose", call.purpose))
            body |= {name: text[:_TEXT] for name, text in said if text}
        body["rows"], body["epoch"], body["outcome"] = call.rows, call.epoch, call.outcome
        if call.status is not None:
            counts = np.bincount(call.status, minlength=len(_STATUSES)).tolist()
            body["statuses"] = {name: n for name, n in zip(_STATUSES, counts, strict=True) if n}
        if call.sample_ids is not None or call.ids_sha256:
            body |= self._ids(call)
        return body

    def _ids(self, call: AuditedCall) -> Mapping[str, object]:
        key, ids = self._keys.ids, call.sample_ids
        if ids is not None and len(ids) <= self._settings.ids_per_line:
            return {"ids": [hashed_id(key, each) for each in ids]}
        digest = call.ids_sha256 or digest_of(SampleIds.of(ids or ()))
        return {"root": hmac.digest(key, bytes.fromhex(digest), "sha256").hex()}


class _Unlisted:
    """Counts calls that get no line of their own, by caller."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._since: dict[str, str] = {}
        self._calls: dict[str, Counter[str]] = {}

    def add(self, kind: str, caller: str, now: datetime) -> None:
        """Count a call; "refused" or "lost"."""
        with self._lock:
            self._since.setdefault(kind, text_of(now))
            calls = self._calls.setdefault(kind, Counter())
            name = caller[:_TEXT]
            calls[name if name in calls or len(calls) < _COUNTED_CALLERS else ""] += 1

    def take(self) -> dict[str, dict[str, object]]:
        """Return what was counted since the last time, as fields of a line, by kind."""
        if not self._calls:
            return {}
        with self._lock:
            taken: dict[str, dict[str, object]] = {
                kind: {"since": self._since[kind], "calls": dict(calls)} for kind, calls in self._calls.items()
            }
            self._since, self._calls = {}, {}
        return taken

    def put_back(self, taken: Mapping[str, Mapping[str, object]]) -> None:
        """Count again what could not be written."""
        with self._lock:
            for kind, body in taken.items():
                self._since[kind] = str(body["since"])
                calls: object = body["calls"]
                self._calls.setdefault(kind, Counter()).update(calls if isinstance(calls, dict) else {})


def hashed_id(key: bytes, sample_id: bytes) -> str:
    """Return what the log has in place of a sample id: the first half of its HMAC-SHA-256, in hex."""
    return hmac.digest(key, sample_id, "sha256")[:16].hex()
