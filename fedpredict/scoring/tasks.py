"""Scoring all ids of a day ahead: bucket by bucket, in the warehouse's engine, resumable after any crash (ADR 0030)."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from sqlglot import exp

from fedpredict.errors import InputError, ModelNotReadyError
from fedpredict.features.memory import MemoryStore
from fedpredict.model.buckets import bucket_count, check_bucket_count
from fedpredict.model.combination import combination_of
from fedpredict.model.distribution import N_BINS, bins_around
from fedpredict.model.part import Part
from fedpredict.model.sample_ids import SampleIds
from fedpredict.model.share import SampleStatus
from fedpredict.scoring.row_shares import share_of_rows
from fedpredict.scoring.tally import CHECK, Bins, Tally
from fedpredict.scoring.texts import TextCodes
from fedpredict.tables import shares
from fedpredict.tables.models import ModelVersion, load_model
from fedpredict.tables.names import column_names
from fedpredict.tables.shares import SHARES, BucketRecord, ShareTask, TaskState
from fedpredict.tables.shares_sql import bucket_rows, bucket_shares, count_rows, counts, moments, with_checks
from fedpredict.tables.views import Snapshot, find_snapshot, snapshot_of_day
from fedpredict.warehouse.base import (
    ARROW_TYPES,
    ColumnType,
    Partition,
    SummedWriter,
    Value,
    Warehouse,
    WatchedWriter,
)

logger = logging.getLogger(__name__)

BUCKET_ROWS = 4_000_000

_Counts = tuple[Mapping[SampleStatus, int], tuple[tuple[int, ...], ...], int]


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
        advance: Told the buckets done and all of them.
        still_ours: Called right before each bucket is begun, and before it or the task is recorded as done; what it
            raises keeps it from that.

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
    done = shares.finished_buckets(warehouse, task)
    for bucket in range(task.n_buckets):
        advance(len(done), task.n_buckets)
        if bucket not in done:
            if snapshot is None:
                raise InputError(
                    f"snapshot {task.snapshot} of view {task.view} is gone, and {task.n_buckets - len(done)} buckets "
                    f"of {day} are not done: begin again with --again"
                )
            still_ours()
            task, done[bucket] = _score_bucket(warehouse, version, part, task, snapshot, bucket=bucket)
            _record_bucket(warehouse, task, done[bucket], still_ours)
    advance(len(done), task.n_buckets)
    if task.finished_at is None:
        still_ours()
        task = replace(task, n_ids=sum(each.n_ids for each in done.values()), finished_at=datetime.now(UTC))
        shares.write_task(warehouse, task)
        extra = {"model": task.model_id, "day": day.isoformat(), "ids": task.n_ids, "buckets": task.n_buckets}
        logger.info("task.finished", extra=extra)
    return TaskState(task, done)


def _record_bucket(warehouse: Warehouse, task: ShareTask, record: BucketRecord, still_ours: Callable[[], None]) -> None:
    """Record a bucket, unless its rows may have gone while they were read: of a snapshot the pointer goes first."""
    if find_snapshot(warehouse, task.view, task.view_version, task.snapshot) is None:
        raise InputError(
            f"snapshot {task.snapshot} of view {task.view} was removed, or somebody erased from it, while {task.day} "
            "was scored: repeat"
        )
    still_ours()
    shares.write_bucket(warehouse, task, record)
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
    engine = engine_name(warehouse)
    others = sorted({each.engine for each in state.buckets.values()} - {engine})
    if others:
        raise InputError(
            f"the checksums are those of {', '.join(others)}, and this is {engine}: score again to renew them"
        )
    damaged = []
    for bucket, record in state.buckets.items():
        partition = {**state.task.partition, "bucket": bucket}
        _, _, checksum, n_ids = counted(warehouse, partition, (), record.n_ids)
        if (checksum, n_ids) != (record.checksum, record.n_ids):
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


def _score_bucket(
    warehouse: Warehouse, version: ModelVersion, part: Part, task: ShareTask, snapshot: Snapshot, *, bucket: int
) -> tuple[ShareTask, BucketRecord]:
    start = time.perf_counter()
    partition: Partition = {**task.partition, "bucket": bucket}
    chooses = combination_of(part) is None
    if warehouse.engine.name in version.engines:
        shares_of = bucket_shares(version, snapshot, bucket, task.n_buckets)
        n_ids, bins, counts = _written(warehouse, task, partition, *shares_of, chooses=chooses)
    else:
        rows = shares_in_process(warehouse, version, part, snapshot, (bucket, task.n_buckets))
        warehouse.replace(SHARES.name, partition, rows)
        n_ids = rows.num_rows
        bins, counts = _looked_at(warehouse, task, partition, n_ids, chooses=chooses)
    if bins != task.bins:
        task = replace(task, bins=bins)
        shares.write_task(warehouse, task)
    statuses, histograms, checksum = counts
    record = BucketRecord(
        bucket=bucket,
        generation=task.generation,
        n_rows=rows_of(warehouse, snapshot, bucket, task.n_buckets, n_ids),
        n_ids=n_ids,
        statuses=statuses,
        histograms=histograms,
        checksum=checksum,
        engine=engine_name(warehouse),
        seconds=time.perf_counter() - start,
        finished_at=datetime.now(UTC),
    )
    return task, record


def _written(
    warehouse: Warehouse,
    task: ShareTask,
    partition: Partition,
    statement: exp.Select,
    params: Mapping[str, Value],
    *,
    chooses: bool,
) -> tuple[int, Bins, _Counts]:
    """Have the engine write shares; return how many, the bins, and what `counted` counts: in one pass if it can."""
    if isinstance(warehouse, SummedWriter) and (task.bins or not chooses):
        summary = _counting(warehouse, partition, task.bins)
        first = warehouse.replace_from_summed(SHARES.name, partition, statement, params, summary=summary)
        n_ids = sum(first.column("n").to_pylist())
        return n_ids, task.bins, counted(warehouse, partition, task.bins, n_ids, first=first)[:3]
    if not isinstance(warehouse, WatchedWriter):
        n_ids = warehouse.replace_from(SHARES.name, partition, statement, params)
        return n_ids, *_looked_at(warehouse, task, partition, n_ids, chooses=chooses)
    tally = Tally(task.bins, task.n_scores, chooses=chooses)
    checked = with_checks(statement, warehouse.engine.name, CHECK.name)
    n_ids = warehouse.replace_from_watched(SHARES.name, partition, checked, params, watch=tally)
    counts = tally.counts()
    return n_ids, tally.bins, counts


def _looked_at(
    warehouse: Warehouse, task: ShareTask, partition: Partition, n_ids: int, *, chooses: bool
) -> tuple[Bins, _Counts]:
    """Return the bins, and what `counted` counts of shares that are stored."""
    bins = _bins(warehouse, partition, task.n_scores, n_ids) if chooses and not task.bins else task.bins
    return bins, counted(warehouse, partition, bins, n_ids)[:3]


def rows_of(warehouse: Warehouse, snapshot: Snapshot, bucket: int, n_buckets: int, n_ids: int) -> int:
    """Return how many rows of a snapshot are in a bucket that has so many ids."""
    if snapshot.n_ids == snapshot.n_rows:
        return n_ids
    return int(warehouse.run(*count_rows(snapshot, bucket, n_buckets)).column("n")[0].as_py())


def _bins(warehouse: Warehouse, partition: Partition, n_scores: int, n_ids: int) -> Bins:
    """Return bins around what a bucket holds; none where it has no scores."""
    if not n_ids:
        return ()
    found = warehouse.run(*moments(partition, n_scores)).to_pylist()[0]
    pairs = [(found[f"mean_{at}"], found[f"deviation_{at}"]) for at in range(min(n_scores, shares.MAX_BINNED))]
    if any(value is None for pair in pairs for value in pair):
        return ()
    return tuple(bins_around(float(mean), float(deviation)) for mean, deviation in pairs)


def counted(
    warehouse: Warehouse,
    partition: Partition,
    bins: tuple[tuple[float, float], ...],
    n_ids: int,
    table: str = SHARES.name,
    *,
    first: pa.Table | None = None,
) -> tuple[dict[SampleStatus, int], tuple[tuple[int, ...], ...], int, int]:
    """Return the ids by status, the scores by output and bin, the checksum, and the number of ids that are stored.

    Args:
        warehouse: Which.
        partition: Where in it.
        bins: For each output whose scores are counted by bin.
        n_ids: How many there should be; of none nothing is asked.
        table: The table of the partition.
        first: What the query of the first output gave, where it was asked already.
    """
    if not n_ids:
        return {}, tuple((0,) * (N_BINS + 2) for _ in bins), 0, 0
    statuses: Counter[SampleStatus] = Counter()
    histograms, checksum = [], 0
    for output in range(max(1, len(bins))):
        histogram = [0] * (N_BINS + 2)
        statuses.clear()
        checksum = 0
        found = first if output == 0 else None
        if found is None:
            found = warehouse.run(*_counting(warehouse, partition, bins, output, table))
        for row in found.to_pylist():
            status = SampleStatus(int(row["status"]))
            statuses[status] += int(row["n"])
            checksum += int(row["fp_check"])
            if status is SampleStatus.OK:
                histogram[int(row["fp_bin"])] += int(row["n"])
        histograms.append(tuple(histogram))
    return dict(sorted(statuses.items())), tuple(histograms) if bins else (), checksum, sum(statuses.values())


def _counting(
    warehouse: Warehouse, partition: Partition, bins: Bins, output: int = 0, table: str = SHARES.name
) -> tuple[exp.Select, dict[str, Value]]:
    first, width = bins[output] if bins else (0.0, 1.0)
    return counts(partition, warehouse.engine.name, output if bins else None, (first, width, N_BINS), table)


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


def engine_name(warehouse: Warehouse) -> str:
    """Return what computes checksums, which are compared with its own alone."""
    return f"{warehouse.engine.name} {warehouse.engine.version}"
