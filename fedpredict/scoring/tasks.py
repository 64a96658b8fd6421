"""Scoring all ids of a day ahead: bucket by bucket, in the warehouse's engine, resumable after any crash (ADR 0030)."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from sqlglot import exp

from fedpredict.errors import InputError, ModelNotReadyError
from fedpredict.features.memory import MemoryStore
from fedpredict.model.buckets import bucket_count, check_bucket_count
from fedpredict.model.combination import combination_of
from fedpredict.model.part import Part
from fedpredict.model.sample_ids import SampleIds
from fedpredict.model.share import SampleStatus
from fedpredict.scoring.counting import (
    Counts,
    bins_of_sample,
    bins_of_stored,
    counted,
    counted_each,
    engine_name,
    engine_names,
    rows_of,
)
from fedpredict.scoring.row_shares import share_of_rows
from fedpredict.scoring.tally import CHECK, Bins, Tally
from fedpredict.scoring.texts import TextCodes
from fedpredict.tables import shares
from fedpredict.tables.models import ModelVersion, load_model
from fedpredict.tables.names import column_names
from fedpredict.tables.shares import SHARES, BucketRecord, ShareTask, TaskState
from fedpredict.tables.shares_sql import bucket_rows, bucket_shares, with_checks
from fedpredict.tables.views import Snapshot, find_snapshot, snapshot_of_day
from fedpredict.warehouse.base import (
    ARROW_TYPES,
    ColumnType,
    Filling,
    Partition,
    SeriesWriter,
    Value,
    Warehouse,
    WatchedWriter,
)

logger = logging.getLogger(__name__)

BUCKET_ROWS = 4_000_000

TOGETHER_S = 30.0
"""Behind a server, buckets begun within it are counted and recorded together: what a kill undoes (ADR 0040)."""
MOST_TOGETHER = 64


class SeriesWarehouse(SeriesWriter, Warehouse, Protocol):
    """A warehouse behind a server."""


def score_day(
    warehouse: Warehouse,
    version: ModelVersion,
    day: date,
    *,
    rows_per_bucket: int = BUCKET_ROWS,
    n_buckets: int | None = None,
    again: bool = False,
    advance: Callable[[int, int], None] = lambda _done, _of: None,
    still_ours: Callable[[], None] = lambda: None,
) -> TaskState:
    """Compute a version's shares of all ids of a day and store them; what is there already is left as it is.

    A call that was killed is finished by another with the same arguments: buckets that are done stay.

    Args:
        warehouse: The party's.
        version: Whose shares.
        day: UTC. The ids and features are those of the newest snapshot that was made by its end, when
            the task was begun.
        rows_per_bucket: Decides the number of buckets, where that is not given.
        n_buckets: The number of buckets.
        again: Begin anew with the snapshot that is the newest now, whatever is there.
        advance: Told the buckets whose rows are there and all of them.
        still_ours: Called right before each bucket is begun, and before buckets or the task are recorded as done; what
            it raises keeps them from that.

    Raises:
        InputError: The day has not come, another number of buckets was begun with, or the snapshot is gone, also where
            that happens meanwhile.
        ModelNotReadyError: There is no snapshot.
        TableCorruptError: The parameters are not those of the version's digest.
        WarehouseError: As the warehouse says; the buckets that are done stay.
    """
    part = load_model(warehouse, version).part
    shares.ensure_tables(warehouse)
    task, snapshot = _begun(warehouse, version, day, rows_per_bucket, n_buckets, again=again)
    done = dict(shares.finished_buckets(warehouse, task))
    waiting = [bucket for bucket in range(task.n_buckets) if bucket not in done]

    def begin(n_written: int) -> None:
        advance(len(done) + n_written, task.n_buckets)
        still_ours()

    while waiting:
        if snapshot is None:
            raise _gone(task, len(waiting))
        task, records = _score_buckets(warehouse, version, part, task, snapshot, waiting=waiting, begin=begin)
        _record_buckets(warehouse, task, records, still_ours)
        done |= {each.bucket: each for each in records}
        waiting = waiting[len(records) :]
    advance(len(done), task.n_buckets)
    if task.finished_at is None:
        still_ours()
        task = replace(task, n_ids=sum(each.n_ids for each in done.values()), finished_at=datetime.now(UTC))
        shares.write_task(warehouse, task)
        extra = {"model": task.model_id, "day": day.isoformat(), "ids": task.n_ids, "buckets": task.n_buckets}
        logger.info("task.finished", extra=extra)
    return TaskState(task, done)


def _gone(task: ShareTask, n_waiting: int) -> InputError:
    return InputError(
        f"snapshot {task.snapshot} of view {task.view} is gone, and {n_waiting} buckets of {task.day} are not done: "
        "begin again with --again"
    )


def _record_buckets(
    warehouse: Warehouse, task: ShareTask, records: Sequence[BucketRecord], still_ours: Callable[[], None]
) -> None:
    """Record buckets, unless rows may have gone while they were read: of a snapshot the pointer goes first."""
    if find_snapshot(warehouse, task.view, task.view_version, task.snapshot) is None:
        raise InputError(
            f"snapshot {task.snapshot} of view {task.view} was removed, or somebody erased from it, while {task.day} "
            "was scored: repeat"
        )
    still_ours()
    shares.write_buckets(warehouse, task, records)
    for record in records:
        logger.info("task.bucket", extra={"model": task.model_id, "bucket": record.bucket, "ids": record.n_ids})


def outdated(warehouse: Warehouse, keep_days: int, today: date) -> list[ShareTask]:
    """Return the tasks of all days but the last `keep_days`.

    The newest finished one of each model version is not among them, however old it is: mode offline serves it.
    """
    oldest = today - timedelta(days=keep_days - 1)
    tasks = shares.list_tasks(warehouse)
    finished = [each for each in tasks if each.finished_at is not None]
    newest = {(each.model_id, each.params_sha256): each for each in sorted(finished, key=lambda each: each.day)}
    return [each for each in tasks if each.day < oldest and newest.get((each.model_id, each.params_sha256)) != each]


def damaged_buckets(warehouse: Warehouse, state: TaskState) -> list[int]:
    """Return the finished buckets whose stored shares are not those that were recorded.

    Raises:
        InputError: Another engine, or another version of it, computed the checksums, so that they cannot be compared.
    """
    own = engine_names(warehouse)
    others = sorted({each.engine for each in state.buckets.values()} - {*own})
    if others:
        raise InputError(
            f"the checksums are those of {', '.join(others)}, and this is {own[0]}: score again to renew them"
        )
    damaged = []
    for bucket, record in state.buckets.items():
        partition = {**state.task.partition, "bucket": bucket}
        found = counted(warehouse, partition, (), record.n_ids, engine=record.engine)
        if (found.checksum, found.n_ids) != (record.checksum, record.n_ids):
            damaged.append(bucket)
    return damaged


def previous_state(warehouse: Warehouse, task: ShareTask) -> TaskState | None:
    """Return the finished task of the same model of the newest day before; None where there is none to compare with."""
    before = _previous(warehouse, task.model_id, task.day, task.n_scores)
    return None if before is None else TaskState(before, shares.finished_buckets(warehouse, before))


def _begun(
    warehouse: Warehouse, version: ModelVersion, day: date, rows_per_bucket: int, n_buckets: int | None, *, again: bool
) -> tuple[ShareTask, Snapshot | None]:
    """Return the task that is there, or a new one, and its snapshot."""
    there = shares.list_tasks(warehouse, model_id=version.model_id, params_sha256=version.params_sha256, day=day)
    if there and not again:
        task = there[0]
        if n_buckets not in (None, task.n_buckets):
            raise InputError(f"{day} was begun with {task.n_buckets} buckets: keep to them, or begin anew with --again")
        return task, find_snapshot(warehouse, task.view, task.view_version, task.snapshot)
    if day > datetime.now(UTC).date():
        raise InputError(f"{day} has not come yet (UTC)")
    snapshot = snapshot_of_day(warehouse, version.view, version.view_version, day)
    if snapshot is None:
        raise ModelNotReadyError(
            f"view {version.view} version {version.view_version} has no snapshot of {day} or before; load its features"
        )
    before = _previous(warehouse, version.model_id, day, version.n_scores)
    task = ShareTask(
        day=day,
        model_id=version.model_id,
        params_sha256=version.params_sha256,
        generation=there[0].generation + 1 if there else 0,
        erased=there[0].erased if there else 0,
        view=version.view,
        view_version=version.view_version,
        snapshot=snapshot.snapshot,
        n_rows=snapshot.n_rows,
        n_scores=version.n_scores,
        n_buckets=bucket_count(snapshot.n_rows, rows_per_bucket)
        if n_buckets is None
        else check_bucket_count(n_buckets),
        bins=() if before is None else before.bins,
        started_at=datetime.now(UTC),
    )
    shares.write_task(warehouse, task)
    if there:
        shares.remove_buckets(warehouse, there[0], task.n_buckets)
    return task, snapshot


def _previous(warehouse: Warehouse, model_id: str, day: date, n_scores: int) -> ShareTask | None:
    found = [
        each
        for each in shares.list_tasks(warehouse, model_id=model_id)
        if each.finished_at is not None and each.day < day and each.n_scores == n_scores
    ]
    return max(found, key=lambda each: (each.day, each.finished_at), default=None)


def _score_buckets(
    warehouse: Warehouse,
    version: ModelVersion,
    part: Part,
    task: ShareTask,
    snapshot: Snapshot,
    *,
    waiting: Sequence[int],
    begin: Callable[[int], None],
) -> tuple[ShareTask, list[BucketRecord]]:
    """Write the first of the buckets that wait, one or several, and return the task and their records.

    `begin` is told before each how many were written here.
    """
    chooses = combination_of(part) is None
    is_computed = warehouse.engine.name in version.engines
    if is_computed and isinstance(warehouse, SeriesWriter):
        bins = task.bins
        if chooses and not bins and snapshot.has_places:
            bins = bins_of_sample(warehouse, version, snapshot)
        if bins or not chooses:
            task = _with_bins(warehouse, task, bins)
            return _in_series(warehouse, version, task, snapshot, waiting=waiting, begin=begin)
    begin(0)
    start = time.perf_counter()
    partition: Partition = {**task.partition, "bucket": waiting[0]}
    if is_computed:
        shares_of = bucket_shares(version, snapshot, waiting[0], task.n_buckets)
        bins, found = _written(warehouse, task, partition, *shares_of, chooses=chooses)
    else:
        rows = shares_in_process(warehouse, version, part, snapshot, (waiting[0], task.n_buckets))
        warehouse.replace(SHARES.name, partition, rows)
        bins, found = _looked_at(warehouse, task, partition, rows.num_rows, chooses=chooses)
    task = _with_bins(warehouse, task, bins)
    seconds = time.perf_counter() - start
    return task, [_record_of(warehouse, task, snapshot, waiting[0], found=found, seconds=seconds)]


def _in_series(
    warehouse: SeriesWarehouse,
    version: ModelVersion,
    task: ShareTask,
    snapshot: Snapshot,
    *,
    waiting: Sequence[int],
    begin: Callable[[int], None],
) -> tuple[ShareTask, list[BucketRecord]]:
    """Have a server write buckets one after the other, as many as end soon, and count them all by one statement."""
    start = time.perf_counter()
    written: list[int] = []

    def fillings() -> Iterator[Filling]:
        for bucket in waiting[:MOST_TOGETHER]:
            if written and time.perf_counter() - start > TOGETHER_S:
                return
            begin(len(written))
            written.append(bucket)
            query, params = bucket_shares(version, snapshot, bucket, task.n_buckets)
            yield Filling({**task.partition, "bucket": bucket}, query, params)

    warehouse.replace_series_from(SHARES.name, fillings())
    found = counted_each(warehouse, task.partition, written, task.bins)
    for bucket, counts in found.items():
        if counts.n_ids == 0:
            warehouse.replace(SHARES.name, {**task.partition, "bucket": bucket}, SHARES.arrow_schema.empty_table())
    seconds = (time.perf_counter() - start) / len(written)
    return task, [
        _record_of(warehouse, task, snapshot, bucket, found=found[bucket], seconds=seconds) for bucket in written
    ]


def _with_bins(warehouse: Warehouse, task: ShareTask, bins: Bins) -> ShareTask:
    """Return a task with bins, which its row has too."""
    if bins == task.bins:
        return task
    task = replace(task, bins=bins)
    shares.write_task(warehouse, task)
    return task


def _record_of(
    warehouse: Warehouse, task: ShareTask, snapshot: Snapshot, bucket: int, *, found: Counts, seconds: float
) -> BucketRecord:
    return BucketRecord(
        bucket=bucket,
        generation=task.generation,
        n_rows=rows_of(warehouse, snapshot, bucket, task.n_buckets, found.n_ids),
        n_ids=found.n_ids,
        statuses=found.statuses,
        histograms=found.histograms,
        checksum=found.checksum,
        engine=engine_name(warehouse),
        seconds=seconds,
        finished_at=datetime.now(UTC),
    )


def _written(
    warehouse: Warehouse,
    task: ShareTask,
    partition: Partition,
    statement: exp.Select,
    params: Mapping[str, Value],
    *,
    chooses: bool,
) -> tuple[Bins, Counts]:
    """Have the engine write shares; return the bins, and what is counted of the rows: in one pass if it can."""
    if not isinstance(warehouse, WatchedWriter):
        n_ids = warehouse.replace_from(SHARES.name, partition, statement, params)
        return _looked_at(warehouse, task, partition, n_ids, chooses=chooses)
    tally = Tally(task.bins, task.n_scores, chooses=chooses)
    checked = with_checks(statement, warehouse.engine.name, CHECK.name)
    n_ids = warehouse.replace_from_watched(SHARES.name, partition, checked, params, watch=tally)
    counts = tally.counts()
    return tally.bins, Counts(*counts, n_ids)


def _looked_at(
    warehouse: Warehouse, task: ShareTask, partition: Partition, n_ids: int, *, chooses: bool
) -> tuple[Bins, Counts]:
    """Return the bins, and what `counted` counts of shares that are stored."""
    bins = task.bins
    if chooses and not bins:
        bins = bins_of_stored(warehouse, partition, task.n_scores, n_ids)
    return bins, counted(warehouse, partition, bins, n_ids)


def shares_in_process(
    warehouse: Warehouse, version: ModelVersion, part: Part, snapshot: Snapshot, bucket: tuple[int, int]
) -> pa.Table:
    """Return the shares of a bucket (number, how many), computed by numpy: what no engine computes passes through here.

    The rows are as `bucket_shares` says.
    """
    column_of = column_names(version.features)
    columns = tuple(column_of[name] for name in version.features)
    rows = warehouse.run(*bucket_rows(["sample_id", "event_time", *columns], snapshot, *bucket))
    names = pc.unique(rows.column("sample_id"))
    if not len(names):
        return SHARES.arrow_schema.empty_table()
    sample_ids = SampleIds.of([each.encode() for each in names.to_pylist()])
    store = MemoryStore()
    store.publish(snapshot, rows)
    found = store.lookup(snapshot.view.name, snapshot.view.version, columns, sample_ids)
    if part.categories:
        found = replace(found, values=TextCodes(part, columns).translated(found))
    share, _ = share_of_rows(part, found, sample_ids)
    offsets = pa.array(np.arange(len(names) + 1) * part.n_scores, pa.int32())
    values = pa.array(np.ascontiguousarray(share.values).reshape(-1))
    instants = pa.array(found.event_time, pa.int64(), mask=~found.found).cast(ARROW_TYPES[ColumnType.TIMESTAMP])
    return pa.table(
        {
            "sample_id": names,
            "status": pa.array(share.status.astype(np.int32)),
            "scores": pa.ListArray.from_arrays(offsets, values, mask=pa.array(share.status != SampleStatus.OK)),
            "event_time": instants,
        }
    )
