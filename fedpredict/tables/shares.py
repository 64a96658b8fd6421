"""Stored shares of a party and the records of the tasks that made them (ADR 0030).

A task is one model's parameters, scored on one day: its row in `fp_tasks` is written first, binding it to a snapshot
and a number of buckets, and again with `finished_at` when the last bucket is done. A bucket is done when its row in
`fp_task_buckets` says so, which is written after its rows in `fp_partial_scores`. So whatever is killed at any moment
leaves finished buckets and others, and the others are made again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

import pyarrow as pa

from fedpredict.errors import InputError, NameRefusedError, StatementError, TableCorruptError
from fedpredict.model.share import SampleStatus
from fedpredict.tables.views import FeatureView, Snapshot, ViewFeature, instant_of, snapshot_name
from fedpredict.warehouse.base import Column, ColumnType, Partition, TableSchema, Warehouse

_INT, _BIGINT, _DOUBLE = ColumnType.INT, ColumnType.BIGINT, ColumnType.DOUBLE
_STRING, _TIMESTAMP = ColumnType.STRING, ColumnType.TIMESTAMP

TASK_KEYS = (Column("dt", _STRING), Column("model_id", _STRING), Column("params_sha256", _STRING))

SHARES = TableSchema(
    "fp_partial_scores",
    (
        Column("sample_id", _STRING),
        Column("status", _INT),
        Column("scores", ColumnType.DOUBLES),
        Column("event_time", _TIMESTAMP),
    ),
    (*TASK_KEYS, Column("bucket", _INT)),
)
"""One row per sample id."""

TASKS = TableSchema(
    "fp_tasks",
    (
        Column("generation", _INT),
        Column("view", _STRING),
        Column("view_version", _INT),
        Column("snapshot", _STRING),
        Column("n_rows", _BIGINT),
        Column("n_scores", _INT),
        Column("n_buckets", _INT),
        Column("bins", _STRING),
        Column("started_at", _TIMESTAMP),
        Column("n_ids", _BIGINT),
        Column("finished_at", _TIMESTAMP),
        Column("erased", _INT),
    ),
    TASK_KEYS,
)

TASK_BUCKETS = TableSchema(
    "fp_task_buckets",
    (
        Column("generation", _INT),
        Column("n_rows", _BIGINT),
        Column("n_ids", _BIGINT),
        Column("statuses", _STRING),
        Column("histograms", _STRING),
        Column("checksum", _BIGINT),
        Column("engine", _STRING),
        Column("seconds", _DOUBLE),
        Column("finished_at", _TIMESTAMP),
    ),
    (*TASK_KEYS, Column("bucket", _INT)),
)

MAX_BINNED = 8
"""Of so many outputs the distribution of the scores is recorded."""
MAX_GENERATION = 999_999
_TEXT_INSTANT = "%Y-%m-%d %H:%M:%S.%f"
"""What every engine casts to a timestamp, in UTC as its session is."""
VIEW_VERSION = 1
"""Of the view that stored shares are served as."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShareTask:
    """One day's shares of one model's parameters.

    Attributes:
        day: The day.
        model_id: The model.
        params_sha256: The digest of the parameters.
        generation: How often the day was begun again, with another snapshot.
        view, view_version, snapshot: The snapshot whose ids are scored.
        n_rows: Its rows.
        n_scores: The width of a share.
        n_buckets: Into how many buckets its ids are cut.
        bins: For each output whose distribution is recorded, where its inner bins begin and how wide each is.
        started_at: When the task was begun.
        n_ids: Sample ids with a share; None until the last bucket is done.
        finished_at: When it was; None until then.
        erased: How often somebody's shares were taken out of it, or of what was here before.
    """

    day: date
    model_id: str
    params_sha256: str
    generation: int
    view: str
    view_version: int
    snapshot: str
    n_rows: int
    n_scores: int
    n_buckets: int
    bins: tuple[tuple[float, float], ...] = ()
    started_at: datetime
    n_ids: int | None = None
    finished_at: datetime | None = None
    erased: int = 0

    @property
    def partition(self) -> Partition:
        """Where its row is, and below that the buckets."""
        return {"dt": self.day.isoformat(), "model_id": self.model_id, "params_sha256": self.params_sha256}


@dataclass(frozen=True, slots=True, kw_only=True)
class BucketRecord:
    """What is known of a bucket that is done.

    Attributes:
        bucket: Which.
        generation: Of the task that made it.
        n_rows: Rows of the snapshot in it.
        n_ids: Sample ids, each a row of `fp_partial_scores`.
        statuses: How many ids have each status.
        histograms: For each output with bins, the scores by bin: below, the inner ones, above.
        checksum: Over ids, statuses and scores, whatever their order; by the hash function of `engine`.
        engine: What computed it, with its version, and that ids are left out where they are.
        seconds: How long it took.
        finished_at: When it was done.
    """

    bucket: int
    generation: int
    n_rows: int
    n_ids: int
    statuses: Mapping[SampleStatus, int]
    histograms: tuple[tuple[int, ...], ...]
    checksum: int
    engine: str
    seconds: float
    finished_at: datetime


@dataclass(frozen=True, slots=True)
class TaskState:
    """A task and its finished buckets, by number."""

    task: ShareTask
    buckets: Mapping[int, BucketRecord] = field(default_factory=dict)


def ensure_tables(warehouse: Warehouse) -> None:
    """Create the tables of this module."""
    for schema in (SHARES, TASKS, TASK_BUCKETS):
        warehouse.ensure(schema)


def list_tasks(
    warehouse: Warehouse, *, model_id: str | None = None, params_sha256: str | None = None, day: date | None = None
) -> list[ShareTask]:
    """Return tasks by day, model id and digest; of one model, digest or day where that is given.

    Raises:
        TableCorruptError: A row that no task gives.
    """
    given = {"dt": None if day is None else day.isoformat(), "model_id": model_id, "params_sha256": params_sha256}
    where: Partition = {name: value for name, value in given.items() if value is not None}
    names = [column.name for column in (*TASKS.columns, *TASKS.partitioned_by)]
    try:
        rows = warehouse.read(TASKS.name, names, where)
    except StatementError:  # a table of before anybody was erased: the next task adds the column
        rows = warehouse.read(TASKS.name, [name for name in names if name != "erased"], where)
    tasks = [_task(row) for row in rows.to_pylist()]
    return sorted(tasks, key=lambda each: (each.day, each.model_id, each.params_sha256))


def write_task(warehouse: Warehouse, task: ShareTask) -> None:
    """Write a task's row, in place of what was there."""
    row = {
        "generation": task.generation,
        "view": task.view,
        "view_version": task.view_version,
        "snapshot": task.snapshot,
        "n_rows": task.n_rows,
        "n_scores": task.n_scores,
        "n_buckets": task.n_buckets,
        "bins": json.dumps(task.bins),
        "started_at": task.started_at,
        "n_ids": task.n_ids,
        "finished_at": task.finished_at,
        "erased": task.erased,
    }
    warehouse.ensure(TASKS)  # one that was made before it had all columns gets them
    warehouse.replace(TASKS.name, task.partition, pa.Table.from_pylist([row], schema=TASKS.arrow_schema))


def finished_buckets(warehouse: Warehouse, task: ShareTask) -> dict[int, BucketRecord]:
    """Return the buckets of a task that are done, of its generation."""
    names = [*(column.name for column in TASK_BUCKETS.columns), "bucket"]
    rows = warehouse.read(TASK_BUCKETS.name, names, task.partition).to_pylist()
    records = [_record(row) for row in rows]
    return {
        each.bucket: each
        for each in sorted(records, key=lambda each: each.bucket)
        if each.generation == task.generation and each.bucket < task.n_buckets
    }


def write_bucket(warehouse: Warehouse, task: ShareTask, record: BucketRecord) -> None:
    """Write the row that makes a bucket done; its shares are there already."""
    rows = pa.Table.from_pylist([_record_row(record)], schema=TASK_BUCKETS.arrow_schema)
    warehouse.replace(TASK_BUCKETS.name, {**task.partition, "bucket": record.bucket}, rows)


def write_buckets(warehouse: Warehouse, task: ShareTask, records: Sequence[BucketRecord]) -> None:
    """Write the rows that make buckets done, in one statement; a call that fails may have written some of them."""
    if len(records) == 1:
        write_bucket(warehouse, task, records[0])
        return
    from fedpredict.tables.shares_sql import given  # noqa: PLC0415  a parser of SQL, which daemons do without

    finished = [f"{each.finished_at.astimezone(UTC):{_TEXT_INSTANT}}" for each in records]
    rows = [
        {**_record_row(each), "finished_at": at, "bucket": each.bucket}
        for each, at in zip(records, finished, strict=True)
    ]
    warehouse.replace_each_from(TASK_BUCKETS.name, task.partition, *given(rows))


def _record_row(record: BucketRecord) -> dict[str, Any]:
    return {
        "generation": record.generation,
        "n_rows": record.n_rows,
        "n_ids": record.n_ids,
        "statuses": json.dumps({status.name: count for status, count in record.statuses.items()}),
        "histograms": json.dumps(record.histograms),
        "checksum": record.checksum,
        "engine": record.engine,
        "seconds": record.seconds,
        "finished_at": record.finished_at,
    }


def remove_task(warehouse: Warehouse, task: ShareTask) -> None:
    """Remove a task and its shares; a call that is killed is finished by another, for the task's row goes last."""
    if task.finished_at is not None:
        write_task(warehouse, replace(task, finished_at=None))  # so that nobody begins to read it
    remove_buckets(warehouse, task, 0)
    warehouse.replace(TASKS.name, task.partition, TASKS.arrow_schema.empty_table())


def remove_buckets(warehouse: Warehouse, task: ShareTask, first: int) -> None:
    """Remove the shares and records of all buckets from a number on, also those that were never recorded."""
    recorded = warehouse.read(TASK_BUCKETS.name, ["bucket"], task.partition).column("bucket").to_pylist()
    for bucket in sorted({*range(first, task.n_buckets), *(each for each in recorded if each >= first)}):
        partition = {**task.partition, "bucket": bucket}
        warehouse.replace(SHARES.name, partition, SHARES.arrow_schema.empty_table())
        warehouse.replace(TASK_BUCKETS.name, partition, TASK_BUCKETS.arrow_schema.empty_table())


def shares_view(model_id: str, params_sha256: str) -> str:
    """Return the name that the shares of a model's parameters have among the views of an online store.

    >>> shares_view("credit", "0" * 64)
    'fp_shares_f79ff3965e3cfebf3e668ddf5f22b2d1'
    """
    return f"fp_shares_{hashlib.sha256(f'{model_id} {params_sha256}'.encode()).hexdigest()[:32]}"


def shares_columns(n_scores: int) -> tuple[str, ...]:
    """Return the columns of that view: the status, and the scores."""
    return ("status", *(f"score_{output}" for output in range(n_scores)))


def shares_snapshot(task: ShareTask) -> Snapshot:
    """Return a finished task's shares as a snapshot of a view; what is stored later has a later name."""
    features = tuple(ViewFeature(name, name, ColumnType.DOUBLE) for name in shares_columns(task.n_scores))
    view = FeatureView(
        shares_view(task.model_id, task.params_sha256), VIEW_VERSION, features, "sample_id", "event_time"
    )
    # names are in the order of day, erasures (kept through generations) and generation
    instant = datetime.combine(task.day, time(), UTC) + timedelta(seconds=task.erased, microseconds=task.generation)
    return Snapshot(view, snapshot_name(instant), task.n_ids or 0, task.n_ids)


def source_of_day(snapshot: str) -> str:
    """Return the day, and how often it was begun again, of a name that `shares_snapshot` gives.

    >>> source_of_day("20260301T000000.000000Z"), source_of_day("20260301T000007.000002Z")
    ('day 2026-03-01', 'day 2026-03-01, scored again: 2')
    """
    named = instant_of(snapshot)
    again = f", scored again: {named.microsecond}" if named.microsecond else ""
    return f"day {named.date().isoformat()}{again}"


def parse_day(text: str) -> date:
    """Return the day of a text like 2026-11-26.

    Raises:
        InputError: It is none.
    """
    try:
        return date.fromisoformat(text)
    except ValueError as error:
        raise InputError(f"{text!r} is no day: write it like 2026-11-26") from error


def _task(row: Mapping[str, object]) -> ShareTask:
    try:
        return ShareTask(
            day=date.fromisoformat(str(row["dt"])),
            model_id=str(row["model_id"]),
            params_sha256=str(row["params_sha256"]),
            generation=int(str(row["generation"])),
            view=str(row["view"]),
            view_version=int(str(row["view_version"])),
            snapshot=str(row["snapshot"]),
            n_rows=int(str(row["n_rows"])),
            n_scores=int(str(row["n_scores"])),
            n_buckets=int(str(row["n_buckets"])),
            bins=tuple((float(first), float(width)) for first, width in json.loads(str(row["bins"]))),
            started_at=_instant(row["started_at"]),
            n_ids=None if row["n_ids"] is None else int(str(row["n_ids"])),
            finished_at=None if row["finished_at"] is None else _instant(row["finished_at"]),
            erased=int(str(row.get("erased") or 0)),
        )
    except (ValueError, KeyError, TypeError, NameRefusedError) as error:
        raise TableCorruptError(
            f"{TASKS.name} has a damaged row for {row['model_id']} of {row['dt']} ({error}); delete that partition"
        ) from error


def _record(row: Mapping[str, object]) -> BucketRecord:
    try:
        statuses = {SampleStatus[name]: int(count) for name, count in json.loads(str(row["statuses"])).items()}
        histograms = json.loads(str(row["histograms"]))
        return BucketRecord(
            bucket=int(str(row["bucket"])),
            generation=int(str(row["generation"])),
            n_rows=int(str(row["n_rows"])),
            n_ids=int(str(row["n_ids"])),
            statuses=statuses,
            histograms=tuple(tuple(int(count) for count in histogram) for histogram in histograms),
            checksum=int(str(row["checksum"])),
            engine=str(row["engine"]),
            seconds=float(str(row["seconds"])),
            finished_at=_instant(row["finished_at"]),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise TableCorruptError(
            f"{TASK_BUCKETS.name} has a damaged row for bucket {row['bucket']} ({error}); delete that partition"
        ) from error


def _instant(value: object) -> datetime:
    if not isinstance(value, datetime):
        raise TypeError(f"{value!r} is no instant")
    return value.astimezone(UTC)


def totals_of(records: Sequence[BucketRecord]) -> dict[SampleStatus, int]:
    """Return how many ids of some buckets have each status, in the order of the statuses."""
    return {
        status: total for status in SampleStatus if (total := sum(each.statuses.get(status, 0) for each in records))
    }
