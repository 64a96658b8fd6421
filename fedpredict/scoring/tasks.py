"""Scoring all ids of a day ahead: bucket by bucket, in the warehouse's engine, resumable after any crash (ADR 0030)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

from fedpredict.errors import InputError, ModelNotReadyError
from fedpredict.model.buckets import bucket_count, check_bucket_count
from fedpredict.scoring.bucket_writing import BucketWriter
from fedpredict.scoring.counting import bins_of_checksum, counted, engine_names
from fedpredict.tables import shares
from fedpredict.tables.models import ModelVersion, list_versions, load_model
from fedpredict.tables.shares import SHARES, BucketRecord, ShareTask, TaskState
from fedpredict.tables.views import Snapshot, find_snapshot, is_there, snapshot_of_day
from fedpredict.warehouse.base import Partition, Warehouse

logger = logging.getLogger(__name__)

BUCKET_ROWS = 4_000_000


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
        still_ours: Called right before each bucket is begun, before one without rows is removed, and before the task is
            written again or buckets are recorded as done; what it raises keeps them from that.

    Raises:
        InputError: The day has not come, another number of buckets was begun with, or the snapshot is gone, also where
            that happens meanwhile.
        ModelNotReadyError: There is no snapshot.
        TableCorruptError: The parameters are not those of the version's digest.
        WarehouseError: As the warehouse says; the buckets that are done stay.
    """
    part = load_model(warehouse, version).part
    shares.ensure_tables(warehouse)
    task, snapshot, done = _begun(warehouse, version, day, rows_per_bucket, n_buckets, again=again)
    waiting = [bucket for bucket in range(task.n_buckets) if bucket not in done]
    writer = None if snapshot is None else BucketWriter(warehouse, version, part, snapshot, still_ours)
    of = task.n_buckets

    def begun(n_written: int) -> None:
        advance(len(done) + n_written, of)

    while waiting:
        if writer is None:
            raise _gone(task, len(waiting))
        task, records = writer.write(task, waiting, begun)
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
    """Record buckets, unless rows may have gone while they were read: of a snapshot the pointer goes first.

    Then what was written goes as well: it may have somebody who was erased before it could be found here.
    """
    if not is_there(warehouse, task.view, task.view_version, task.snapshot):
        still_ours()
        for record in records:
            partition: Partition = {**task.partition, "bucket": record.bucket}
            warehouse.replace(SHARES.name, partition, SHARES.arrow_schema.empty_table())
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

    The newest finished one of each digest that a model version has is not among them, however old it is: mode offline
    serves it. Shares of versions that were removed go by their age alone.
    """
    oldest = today - timedelta(days=keep_days - 1)
    tasks = shares.list_tasks(warehouse)
    finished = [each for each in tasks if each.finished_at is not None]
    newest = {(each.model_id, each.params_sha256): each for each in sorted(finished, key=lambda each: each.day)}
    served = [newest.get((each.model_id, each.params_sha256)) for each in list_versions(warehouse)]
    return [each for each in tasks if each.day < oldest and each not in served]


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
        bins = bins_of_checksum(record.engine, state.task.bins)
        found = counted(warehouse, partition, bins, record.n_ids, engine=record.engine)
        # a checksum by value has neither statuses in it nor which score has which part of the sum
        is_same = (found.checksum, found.statuses) == (record.checksum, record.statuses)
        if not (is_same and found.histograms in ((), record.histograms)):
            damaged.append(bucket)
    return damaged


def previous_state(warehouse: Warehouse, task: ShareTask) -> TaskState | None:
    """Return the finished task of the same model of the newest day before; None where there is none to compare with."""
    before = _previous(shares.list_tasks(warehouse, model_id=task.model_id), task.day, task.n_scores)
    return None if before is None else TaskState(before, shares.finished_buckets(warehouse, before))


def _begun(
    warehouse: Warehouse, version: ModelVersion, day: date, rows_per_bucket: int, n_buckets: int | None, *, again: bool
) -> tuple[ShareTask, Snapshot | None, dict[int, BucketRecord]]:
    """Return the task that is there, or a new one, its snapshot, and its finished buckets."""
    known = shares.list_tasks(warehouse, model_id=version.model_id)
    there = [each for each in known if (each.params_sha256, each.day) == (version.params_sha256, day)]
    if there and not again:
        task = there[0]
        if n_buckets not in (None, task.n_buckets):
            raise InputError(f"{day} was begun with {task.n_buckets} buckets: keep to them, or begin anew with --again")
        snapshot = find_snapshot(warehouse, task.view, task.view_version, task.snapshot)
        return task, snapshot, dict(shares.finished_buckets(warehouse, task))
    if day > datetime.now(UTC).date():
        raise InputError(f"{day} has not come yet (UTC)")
    snapshot = snapshot_of_day(warehouse, version.view, version.view_version, day)
    if snapshot is None:
        raise ModelNotReadyError(
            f"view {version.view} version {version.view_version} has no snapshot of {day} or before; load its features"
        )
    before = _previous(known, day, version.n_scores)
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
    return task, snapshot, {}


def _previous(tasks: Sequence[ShareTask], day: date, n_scores: int) -> ShareTask | None:
    """Return the newest of a model's tasks that are finished, of a day before, with as many scores."""
    found = [each for each in tasks if each.finished_at is not None and each.day < day and each.n_scores == n_scores]
    return max(found, key=lambda each: (each.day, each.finished_at), default=None)
