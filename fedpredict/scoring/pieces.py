"""Where the shares of a piece of a party's ids come from: stored of a day, or computed over a snapshot."""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import pyarrow as pa
from typing_extensions import override

from fedpredict.errors import ModelNotReadyError, StatementError, TableCorruptError
from fedpredict.model.buckets import bucket_count
from fedpredict.model.share import Mode
from fedpredict.scoring.bucket_writing import shares_in_process
from fedpredict.scoring.state import LoadedModel
from fedpredict.tables.models import ModelVersion, list_versions
from fedpredict.tables.shares import SHARES, ShareTask, finished_buckets, list_tasks, shares_snapshot, source_of_day
from fedpredict.tables.shares_sql import bucket_shares
from fedpredict.tables.views import Snapshot, find_snapshot, latest_snapshot
from fedpredict.warehouse.base import Warehouse

_TRIES, _AGAIN_S = 3, 1.0
COLUMNS = ("sample_id", "status", "scores", "event_time")


class PieceSource(ABC):
    """The shares of a model's ids, in pieces: piece `number` of n has the ids of bucket `number` of n."""

    def __init__(self, key: tuple[str, ...], source: str, n_scores: int, n_pieces: int) -> None:
        """Read nothing yet.

        Args:
            key: The same for the same shares, and no others.
            source: Names for people what it is.
            n_scores: The width of a share.
            n_pieces: How many pieces there are, a power of two.
        """
        self.key = key
        self.source = source
        self.n_scores = n_scores
        self._n_pieces = n_pieces

    def numbers_of(self, bucket: int, n_buckets: int) -> Sequence[int]:
        """Return the pieces that hold the ids of a bucket of `n_buckets`: one, or several where pieces are smaller."""
        return range(bucket % self._n_pieces, self._n_pieces, n_buckets)

    @abstractmethod
    def read(self, number: int) -> pa.Table:
        """Return the rows of a piece: sample_id (each once), status, scores and event_time, in any order.

        Raises:
            ModelNotReadyError: What it is read from has gone, or changed, meanwhile: ask again.
            WarehouseError: As the warehouse says.
        """


class Pieces:
    """Finds the newest shares of a model in a party's warehouse; calls may come from any thread."""

    def __init__(
        self, warehouse: Warehouse, *, rows: int, poll_s: float, now: Callable[[], float] = time.monotonic
    ) -> None:
        """Prepare; nothing is read yet.

        Args:
            warehouse: The party's.
            rows: Of a piece that is computed, at most on average. Stored shares come in the buckets of their task.
            poll_s: How long what was found counts, before it is looked for anew.
            now: In seconds, from any beginning.
        """
        self._warehouse = warehouse
        self._rows = rows
        self._poll_s = poll_s
        self._now = now
        self._lock = threading.Lock()
        self._found: dict[tuple[str, str, Mode], tuple[float, PieceSource]] = {}

    def source(self, model: LoadedModel, mode: Mode) -> PieceSource:
        """Return where a model's shares come from.

        Raises:
            ModelNotReadyError: No day's shares are stored of it, or there is no snapshot of its features.
            WarehouseError: As the warehouse says.
        """
        key, now = (model.description.model_id, model.description.params_sha256, mode), self._now()
        with self._lock:
            known = self._found.get(key)
        if known is not None and now - known[0] <= self._poll_s:
            return known[1]
        before = None if known is None else known[1]
        source = self._stored(model, before) if mode is Mode.OFFLINE else self._computed(model)
        with self._lock:
            self._found = {each: found for each, found in self._found.items() if now - found[0] <= self._poll_s}
            self._found[key] = (now, source)
        return source

    def forget(self, source: PieceSource) -> None:
        """Look anew for what a source was found for: it could not be read."""
        with self._lock:
            self._found = {key: found for key, found in self._found.items() if found[1] is not source}

    def _stored(self, model: LoadedModel, before: PieceSource | None) -> PieceSource:
        """Return the newest day that is whole; where that is `before`, so that its records are not all read again."""
        about = model.description
        tasks = list_tasks(self._warehouse, model_id=about.model_id, params_sha256=about.params_sha256)
        finished = [each for each in tasks if each.finished_at is not None]
        if not finished:
            raise ModelNotReadyError(
                f"model {about.model_id}: no day's shares of version {about.params_sha256[:12]} are stored; "
                "`fedpredict task score` stores them"
            )
        if any(each.finished_at is None and each.day >= finished[-1].day and each.generation for each in tasks):
            raise ModelNotReadyError(f"a day of model {about.model_id} is being scored again, newer than what is whole")
        newest = finished[-1]
        return before if before is not None and before.key == _key_of(newest) else _StoredDay(self._warehouse, newest)

    def _computed(self, model: LoadedModel) -> PieceSource:
        about = model.description
        versions = list_versions(self._warehouse, about.model_id)
        same = [each for each in versions if each.params_sha256 == about.params_sha256]
        snapshot = latest_snapshot(self._warehouse, model.view, model.view_version)
        if not same or snapshot is None:
            what = f"model {about.model_id} is gone" if snapshot else f"view {model.view} has no snapshot"
            raise ModelNotReadyError(f"{what}: version {model.view_version} of the view, {about.params_sha256[:12]}")
        return _Computed(self._warehouse, same[-1], model, snapshot, bucket_count(snapshot.n_rows, self._rows))


class _StoredDay(PieceSource):
    """What a task has stored of a day."""

    def __init__(self, warehouse: Warehouse, task: ShareTask) -> None:
        source = source_of_day(shares_snapshot(task).snapshot)
        super().__init__(_key_of(task), source, task.n_scores, task.n_buckets)
        self._warehouse = warehouse
        self._task = task
        self._sizes = _sizes(warehouse, task)

    @override
    def read(self, number: int) -> pa.Table:
        task = self._task
        rows = self._rows(number)
        for _ in range(_TRIES):
            if rows.num_rows == self._sizes.get(number):
                return rows
            time.sleep(_AGAIN_S)  # somebody is taken out, perhaps: the record comes before the rows
            self._sizes = _sizes(self._warehouse, task)
            rows = self._rows(number)
        raise TableCorruptError(
            f"{SHARES.name}: bucket {number} of {task.model_id} of {task.day} has {rows.num_rows} shares instead of"
            f" {self._sizes.get(number)}; `fedpredict task score --again` makes them again"
        )

    def _rows(self, number: int) -> pa.Table:
        try:
            rows = self._warehouse.read(SHARES.name, list(COLUMNS), {**self._task.partition, "bucket": number})
        except StatementError as error:  # files that were there at its beginning
            self._check_state(error)
            raise
        self._check_state(None)
        return rows

    def _check_state(self, error: StatementError | None) -> None:
        """Raise where the day is not any more what it was."""
        task = self._task
        there = list_tasks(self._warehouse, model_id=task.model_id, params_sha256=task.params_sha256, day=task.day)
        if [_state_of(each) for each in there] != [_state_of(task)]:
            told = f"the shares of {task.model_id} of {task.day} changed while they were read"
            raise ModelNotReadyError(told) from error


class _Computed(PieceSource):
    """What the warehouse's engine computes from a snapshot, or numpy, where the engine cannot."""

    def __init__(
        self, warehouse: Warehouse, version: ModelVersion, model: LoadedModel, snapshot: Snapshot, n_pieces: int
    ) -> None:
        key = ("computed", version.model_id, version.params_sha256, snapshot.snapshot)
        super().__init__(key, f"snapshot {snapshot.snapshot}", version.n_scores, n_pieces)
        self._warehouse = warehouse
        self._version = version
        self._part = model.part
        self._snapshot = snapshot

    @override
    def read(self, number: int) -> pa.Table:
        try:
            rows = self._rows(number)
        except StatementError as error:  # files that were there at its beginning
            self._check_snapshot(error)
            raise
        self._check_snapshot(None)
        return rows

    def _rows(self, number: int) -> pa.Table:
        version, snapshot = self._version, self._snapshot
        if self._warehouse.engine.name in version.engines:
            return self._warehouse.run(*bucket_shares(version, snapshot, number, self._n_pieces))
        bucket = (number, self._n_pieces)
        return shares_in_process(self._warehouse, version, self._part, snapshot, bucket)

    def _check_snapshot(self, error: StatementError | None) -> None:
        """Raise where the snapshot is gone: its pointer goes first, so where it is there, the rows were."""
        snapshot, view = self._snapshot, self._snapshot.view
        if find_snapshot(self._warehouse, view.name, view.version, snapshot.snapshot) is None:
            told = f"snapshot {snapshot.snapshot} of view {view.name} went while it was read"
            raise ModelNotReadyError(told) from error


def _sizes(warehouse: Warehouse, task: ShareTask) -> dict[int, int]:
    return {number: each.n_ids for number, each in finished_buckets(warehouse, task).items()}


def _key_of(task: ShareTask) -> tuple[str, ...]:
    return ("stored", task.model_id, task.params_sha256, *_state_of(task))


def _state_of(task: ShareTask) -> tuple[str, ...]:
    return (task.day.isoformat(), str(task.generation), str(task.erased), str(task.finished_at))
