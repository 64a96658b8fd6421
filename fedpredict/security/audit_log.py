"""The audit log of one process: who asked for what, written behind the answers by a thread, line by line (ADR 0039)."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import takewhile
from pathlib import Path
from types import TracebackType
from typing import Self

from fedpredict.errors import AuditUnavailableError, ConfigError
from fedpredict.model.kernel.lines import Bodies, LineKernel, pack_call
from fedpredict.model.sample_ids import SampleIds
from fedpredict.security.audit_anchor import Anchoring
from fedpredict.security.audit_chain import chain_files, encoded
from fedpredict.security.audit_file import ChainFile, ChainTakenError, end_of_file, text_of, written_at
from fedpredict.security.audit_keys import AuditKeys
from fedpredict.security.audit_line import TEXT, AuditedCall, CallPacker
from fedpredict.security.audit_peers import PeerCheckpoints
from fedpredict.security.audit_settings import AuditSettings, Fsync
from fedpredict.security.audit_waiting import Then, Unlisted, WaitingAnswers

logger = logging.getLogger(__name__)

MOST_WAITING = 100_000
"""Calls that wait to be written; beyond them calls are refused, where the log is required."""
MOST_WAITING_BYTES = 64 << 20
"""The same for what they take in memory."""
_LINES = 512
"""So many are made and written at a time: the one that answers calls waits for a part of it."""
_HURRY = 2_048
"""Where so many calls wait, the thread begins at once."""
_LARGE = 1 << 20
"""It begins at once for a call of so many bytes, too, and makes no more lines at a time: a file is at most about so
much larger than it should be."""
_MOST_CHAINS = 1_000
_NOT_OPEN, _ENDED = "it is not open", "its thread has ended"


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
        clock_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        """Prepare; nothing is opened yet.

        Args:
            settings: `[audit]`.
            folder: The party's, with a folder for each worker.
            party: This party's id.
            worker: Which process of the daemon this is.
            keys: The party's.
            clock_ns: Returns the time in nanoseconds since 1970.
        """
        self._settings = settings
        self._parent = folder
        self._party = party
        self._worker = worker
        self._folder = folder / f"worker-{worker}"
        self._keys = keys
        self.holds_answers = settings.fsync is Fsync.EACH
        """Whether an answer waits until the disk has its line."""
        self._is_required = settings.required
        self._clock_ns = clock_ns
        self._anchoring = Anchoring(settings, self._now)
        self.peers = PeerCheckpoints(folder, keys, self._now, hands_out=settings.peers)
        """What other parties are handed, and hand over."""
        self._packer = CallPacker(keys.ids, settings.ids_per_line)
        self._kernel = LineKernel(keys.ids, settings.ids_per_line)
        # calls, packed, for `write_s` at most; then lines but for their numbers: small, whatever the calls were about,
        # for as long as they cannot be written
        self._heard: deque[bytes] = deque()
        self._waiting: deque[Bodies] = deque()
        self._n_waiting = 0
        # two counters, because each has one thread that changes it
        self._added_bytes, self._written_bytes = 0, 0
        self._unlisted = Unlisted()
        self._answers = WaitingAnswers()
        self._wake, self._stopping = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None
        self._problem = _NOT_OPEN
        self._may_rotate = True
        self._signed_at = 0.0

    def __enter__(self) -> Self:
        """Continue this worker's chain, or begin one; the next that is free, where another daemon's worker writes it.

        Raises:
            ConfigError: The folder cannot be used, or the chain is not as it was written.
        """
        file = self._open_chain()
        self._anchoring.start()
        self._problem = ""
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
        self.peers.close()

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
        # on the way of every answer
        if self._is_required and (self._problem or self._is_full()):
            raise AuditUnavailableError(f"the audit log cannot be written: {self._problem or 'too much waits'}")

    def add(self, call: AuditedCall) -> None:
        """Have a call written down, within `write_s` seconds; nothing of it may be changed from here on.

        Calls that passed `check` find room, however much waits. Of calls that were refused, while nothing can be
        written, only the number is kept.
        """
        if self._problem or self._is_full():
            if call.outcome != "ok":
                self._unlisted.add("refused", call.caller, self._now())
                return
            if self._loses(call.caller, call.model_id):
                return
        self._hear(self._packer.pack(self._clock_ns(), call))

    def add_answer(self, text: bytes, request_id: str, sample_ids: SampleIds) -> None:
        """Have a call written down that was answered, as `add` does.

        Args:
            text: Its fields, as `fields_of` returns them.
            request_id: Its id.
            sample_ids: Whom it is about.
        """
        # on the way of every answer
        if not self._is_required and self._is_full():
            fields = json.loads(b"{%b}" % text)
            if self._loses(fields.get("caller", ""), fields.get("model", "")):
                return
        self._hear(pack_call(self._clock_ns(), text, request_id[:TEXT], sample_ids))

    def _loses(self, caller: str, model_id: str) -> bool:
        """Count an answered call that finds no room, and return whether it does not: where the log is not required."""
        if self._is_required or not self._is_full():
            return False
        logger.error("audit.lost", extra={"caller": caller, "model": model_id})
        self._unlisted.add("lost", caller, self._now())
        return True

    def _hear(self, call: bytes) -> None:
        self._added_bytes += len(call)
        self._heard.append(call)
        if len(call) > _LARGE or len(self._heard) == _HURRY:
            self._wake.set()

    def count_refused(self, caller: str) -> None:
        """Count a call that was refused and gets no line of its own; one with the numbers follows within `write_s`."""
        self._unlisted.add("refused", caller, self._now())

    def when_safe(self, then: Then) -> None:
        """Call `then` in this event loop, once the disk has every line so far, or with what keeps it from that."""
        if self._problem:
            then(self._unsafe(self._problem))
            return
        self._answers.add(then)
        self._wake.set()

    def _unsafe(self, trouble: str) -> AuditUnavailableError | None:
        told = f"the audit log cannot be written: {trouble}"
        return AuditUnavailableError(told) if self._is_required else None

    def _is_full(self) -> bool:
        waiting_bytes = self._added_bytes - self._written_bytes
        return waiting_bytes >= MOST_WAITING_BYTES or len(self._heard) + self._n_waiting >= MOST_WAITING

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._clock_ns() // 1_000 / 1e6, UTC)

    def _run(self, file: ChainFile) -> None:
        try:
            self._work(file)
        finally:
            self._problem = _ENDED
            self._answers.end(self._unsafe(_ENDED), self._answers.last)

    def _work(self, file: ChainFile) -> None:
        self._signed_at = time.monotonic()
        stopping = False
        while not stopping:
            self._wake.wait(self._settings.write_s)
            self._wake.clear()
            stopping, held = self._stopping.is_set(), self._answers.last
            try:
                self._turn(file, stopping=stopping)
                self._answers.end(None, held)
            except Exception as error:  # noqa: BLE001  whatever it is, calls are refused until it is over
                self._failed(error)
                self._answers.end(self._unsafe(self._problem), held)
        n_lost = len(self._heard) + self._n_waiting
        if n_lost:
            logger.error("audit.lost", extra={"calls": n_lost})
        file.close()

    def _turn(self, file: ChainFile, *, stopping: bool) -> None:
        self._write(file)
        if self.holds_answers:
            file.flush()
        # what waited long is signed at once
        if stopping or self._problem or time.monotonic() - self._signed_at > self._settings.checkpoint_s:
            self._signed_at = time.monotonic()
            self._checkpoint(file, ends=stopping)
        if self._problem:
            logger.info("audit.recovered")
        self._problem = ""

    def _failed(self, error: Exception) -> None:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        if not self._problem:
            is_defect = not isinstance(error, OSError)
            logger.error("audit.not_written", extra={"reason": reason}, exc_info=is_defect and error)
        self._problem = reason

    def _write(self, file: ChainFile) -> None:
        """Write what waits; what cannot be written goes on waiting, as lines."""
        self._may_rotate = True
        try:
            self._write_unlisted(file)
            while self._waiting:
                self._write_lines(file, self._waiting[0])
                bodies = self._waiting.popleft()
                self._n_waiting -= len(bodies)
                self._written_bytes += len(bodies.data)
            left = len(self._heard)  # what comes meanwhile waits for the next turn
            while left > 0:
                bodies = self._next_lines()
                left -= len(bodies)
                try:
                    self._write_lines(file, bodies)
                except BaseException:
                    self._wait(bodies)
                    raise
        except OSError:
            while self._heard:
                self._wait(self._next_lines())
            raise

    def _next_lines(self) -> Bodies:
        """Return lines of the next calls, which wait no more; good until the next call of this."""
        some, size = list[bytes](), 0
        for at in range(min(len(self._heard), _LINES)):
            some.append(self._heard[at])
            size += len(some[-1])
            if size > _LARGE:
                break
        bodies = self._kernel.bodies(some)
        for _ in some:
            self._heard.popleft()
        self._written_bytes += size
        return bodies

    def _wait(self, bodies: Bodies) -> None:
        self._waiting.append(bodies.copy())
        self._n_waiting += len(bodies)
        self._written_bytes -= len(bodies.data)

    def _write_lines(self, file: ChainFile, bodies: Bodies) -> None:
        file.write(bodies)
        if self._may_rotate and file.size > self._settings.file_mb << 20:
            self._may_rotate = self._rotated(file)

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
            now = text_of(self._now())
            lines = [encoded({"kind": kind, "t": now, **body}) for kind, body in counted.items()]
            file.write(Bodies.of(lines))
        except OSError:
            self._unlisted.put_back(counted)
            raise

    def _checkpoint(self, file: ChainFile, *, ends: bool) -> None:
        if ends:
            file.write(Bodies.of([encoded({"kind": "end", "t": text_of(self._now())})]))
        if not file.grew:
            return
        self._prune(file)
        made = file.checkpoint(self._now())
        self.peers.made(made)
        self._anchoring.give(made)

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
        pruned = encoded({"kind": "pruned", "t": text_of(self._now()), "upto": end[0], "sha256": end[1]})
        file.write(Bodies.of([pruned]))
        file.flush()
        for path in gone:
            path.unlink()
