"""A day's shares behind a server: buckets in series, leases that are lost, and how many statements there are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pytest
from sqlglot import exp

from fedpredict.errors import LeaseLostError
from fedpredict.model.buckets import buckets_of
from fedpredict.model.kinds import Kind
from fedpredict.model.linear import LinearPart
from fedpredict.model.partial import PartialModel
from fedpredict.model.share import SampleStatus
from fedpredict.scoring import bucket_writing
from fedpredict.scoring.task_report import report_of
from fedpredict.scoring.tasks import damaged_buckets, score_day
from fedpredict.tables.models import ModelVersion, publish_model
from fedpredict.tables.shares import SHARES, TASK_BUCKETS, TASKS, BucketRecord, ShareTask, finished_buckets, list_tasks
from fedpredict.tables.views import FeatureView, ViewFeature, publish_snapshot, snapshot_name
from fedpredict.warehouse.base import (
    ColumnType,
    EngineInfo,
    Filling,
    Partition,
    SeriesWriter,
    TableSchema,
    Value,
    WatchedWriter,
)
from fedpredict.warehouse.local import LocalWarehouse

VIEW = FeatureView("people", 1, (ViewFeature("age", "age", ColumnType.DOUBLE),), "id", None)
NOW = datetime.now(UTC)
DAY = NOW.date()


class Server:
    """A warehouse that writes series, as one behind a server, and remembers what was asked of it.

    Attributes:
        name: What it says that its engine is; empty: DuckDB.
        gathers: Whether it counts rows while it writes them, as Hive, or leaves that to a query, as Spark.
        log: What was done, and where: ("series" or "replace", table, bucket), and ("run", "", None).
        before: Called before each bucket of a series is written.
        after_count: Called after each query.
    """

    def __init__(self, folder: Path, *, gathers: bool = False, name: str = "") -> None:
        self.embedded = LocalWarehouse(folder)
        self.gathers = gathers
        self.name = name
        self.log: list[tuple[str, str, Any]] = []
        self.before: Callable[[int], None] = lambda _bucket: None
        self.after_count: Callable[[], None] = lambda: None
        self.left = pa.table({"bucket": pa.array([], pa.int64())})

    @property
    def engine(self) -> EngineInfo:
        own = self.embedded.engine
        return replace(own, name=self.name) if self.name else own

    def ensure(self, schema: TableSchema) -> None:
        self.embedded.ensure(schema)

    def describe(self, table: str) -> TableSchema | None:
        return self.embedded.describe(table)

    def read(self, table: str, columns: Sequence[str], where: Partition) -> pa.Table:
        return self.embedded.read(table, columns, where)

    def replace(self, table: str, partition: Partition, rows: pa.Table) -> None:
        self.log.append(("replace", table, partition.get("bucket")))
        self.embedded.replace(table, partition, rows)

    def replace_from(
        self, table: str, partition: Partition, statement: exp.Expression, params: Mapping[str, Value]
    ) -> int:
        return self.embedded.replace_from(table, partition, statement, params)

    def replace_each_from(
        self, table: str, partition: Partition, statement: exp.Expression, params: Mapping[str, Value]
    ) -> None:
        self.embedded.replace_each_from(table, partition, statement, params)

    def replace_series_from(self, table: str, fillings: Iterable[Filling]) -> list[Sequence[pa.Table]]:
        gathered: list[Sequence[pa.Table]] = []
        for each in fillings:
            if table == SHARES.name:
                self.before(int(each.partition["bucket"]))
            self.log.append(("series", table, each.partition["bucket"]))
            columns = [f'"{column.name}"' for column in SHARES.columns] if table == SHARES.name else ["*"]
            rows = cast(exp.Select, each.statement.copy())
            own = exp.select(*columns).from_(rows.subquery("r"), dialect="duckdb") if each.beside else rows
            self.embedded.replace_from(table, each.partition, own, each.params)
            gathered.append([self.summary(each, one) for one in each.summaries] if self.gathers else [])
        return gathered

    def has_partition(self, table: str, partition: Partition) -> bool:
        return bool(self.embedded.read(table, [*partition], partition).num_rows)

    def summary(self, filling: Filling, summary: exp.Select) -> pa.Table:
        """Return what a query without a FROM gathers; of a bucket without rows, what was left of another."""
        rows = cast(exp.Select, filling.statement.copy())
        found = self.embedded.run(summary.copy().from_(rows.subquery("r")), filling.params)
        if found.num_rows:
            self.left = found
        return found if found.num_rows else self.left

    def run(self, statement: exp.Expression, params: Mapping[str, Value]) -> pa.Table:
        self.log.append(("run", "", None))
        found = self.embedded.run(statement, params)
        self.after_count()
        return found

    def close(self) -> None:
        self.embedded.close()

    def count(self, what: str, table: str = "") -> int:
        return Counter((each[0], each[1]) for each in self.log)[what, table]


class Lease:
    """A lease that can be lost."""

    is_lost = False

    def check(self) -> None:
        if self.is_lost:
            raise LeaseLostError("another process took it over")


@pytest.fixture
def server(tmp_path: Path) -> Server:
    return Server(tmp_path / "warehouse")


def load(server: Server, ids: Sequence[str], ages: Sequence[float | None]) -> ModelVersion:
    instants = pa.array([NOW] * len(ids), pa.timestamp("us", tz="UTC"))
    rows = pa.table({"sample_id": list(ids), "event_time": instants, "age": pa.array(ages, pa.float64())})
    publish_snapshot(server, VIEW, snapshot_name(NOW), rows)
    part = LinearPart(("age",), np.array([[2.0]]), None, np.zeros(1))
    partial = PartialModel("credit", "run-1", "bank", Kind.LINEAR, (), False, part)
    version = publish_model(server, partial, VIEW, "0" * 64)[0]
    server.log.clear()
    return version


def people(server: Server, n: int = 100) -> ModelVersion:
    return load(server, [f"u{row}" for row in range(n)], [float(row) for row in range(n)])


def task_of(server: Server) -> ShareTask:
    (task,) = list_tasks(server)
    return task


def scores_of(server: Server) -> dict[str, list[float] | None]:
    rows = server.read(SHARES.name, ["sample_id", "scores"], task_of(server).partition).to_pylist()
    assert len(rows) == len({row["sample_id"] for row in rows})
    return {row["sample_id"]: row["scores"] for row in rows}


def test_a_day_takes_one_count_and_one_statement_of_records_for_each_series(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert isinstance(server, SeriesWriter)
    assert not isinstance(server, WatchedWriter)
    monkeypatch.setattr(bucket_writing, "MOST_TOGETHER", 2)
    version = people(server)

    state = score_day(server, version, DAY, n_buckets=4)

    assert [each[2] for each in server.log if each[:2] == ("series", SHARES.name)] == [0, 1, 2, 3]
    assert server.count("run") == 1 + 2  # the sample, and a count for each of two series
    assert scores_of(server) == {f"u{row}": [2.0 * row] for row in range(100)}
    buckets = buckets_of([f"u{row}".encode() for row in range(100)], 4)
    assert [state.buckets[bucket].n_ids for bucket in range(4)] == np.bincount(buckets, minlength=4).tolist()
    assert sum(map(sum, (each.histograms[0] for each in state.buckets.values()))) == 100
    assert damaged_buckets(server, state) == []


@pytest.mark.parametrize("name", ["", "hive"])
@pytest.mark.parametrize("ages", [[float(row) for row in range(30)], [None] * 15 + [1.5] * 15, [None] * 30])
def test_rows_that_are_counted_while_they_are_written_are_counted_as_what_is_stored(
    tmp_path: Path, ages: Sequence[float | None], name: str
) -> None:
    servers = [Server(tmp_path / str(gathers), gathers=gathers, name=name) for gathers in (False, True)]
    states = []
    for server in servers:
        version = load(server, [f"u{row}" for row in range(30)], ages)
        states.append(score_day(server, version, DAY, n_buckets=64))
        assert server.count("run") == (1 if server.gathers else 2)  # the sample, and a count where there must be one

    counted, gathered = ({bucket: told(each) for bucket, each in state.buckets.items()} for state in states)
    assert gathered == counted
    of_buckets = np.bincount(buckets_of([f"u{row}".encode() for row in range(30)], 64), minlength=64)
    assert [states[1].buckets[bucket].n_ids for bucket in range(64)] == of_buckets.tolist()
    n_scored = sum(age is not None for age in ages)
    assert sum(map(sum, (each.histograms[0] for each in states[1].buckets.values() if each.histograms))) == n_scored
    assert damaged_buckets(servers[1], states[1]) == []


@pytest.mark.parametrize("name", ["", "hive"])
@pytest.mark.parametrize(
    ("before", "after"),
    [
        ((1, [20.0]), (1, [20.00000000000002])),
        ((1, [0.0]), (3, None)),
        ((3, None), (4, None)),
        ((3, None), (1, [0.0])),
    ],
)
def test_a_row_that_another_hand_changed_is_found(
    tmp_path: Path, name: str, before: tuple[int, list[float] | None], after: tuple[int, list[float] | None]
) -> None:
    server = Server(tmp_path, gathers=True, name=name)
    version = load(server, [f"u{row}" for row in range(30)], [None, *map(float, range(29))])
    state = score_day(server, version, DAY, n_buckets=2)
    assert {each.engine.removeprefix(f"{name or 'duckdb'} ") for each in state.buckets.values()} == {
        f"{server.engine.version}, {'by value' if name else 'without ids'}"
    }
    changed = []
    for bucket in state.buckets:
        partition = {**state.task.partition, "bucket": bucket}
        rows = server.read(SHARES.name, [column.name for column in SHARES.columns], partition).to_pylist()
        for row in rows:
            if (row["status"], row["scores"]) == before:
                row["status"], row["scores"] = after
                changed.append(bucket)
        server.replace(SHARES.name, partition, pa.Table.from_pylist(rows, schema=SHARES.arrow_schema))

    assert len(changed) == 1
    assert damaged_buckets(server, state) == changed


@pytest.mark.parametrize("name", ["", "hive"])
def test_what_was_taken_from_one_row_and_added_to_another_is_found(tmp_path: Path, name: str) -> None:
    server = Server(tmp_path, gathers=True, name=name)
    state = score_day(server, people(server, 30), DAY, n_buckets=1)
    partition = {**state.task.partition, "bucket": 0}
    rows = server.read(SHARES.name, [column.name for column in SHARES.columns], partition).to_pylist()
    for row in rows:
        row["scores"] = {"u1": [0.0], "u20": [42.0]}.get(row["sample_id"], row["scores"])

    server.replace(SHARES.name, partition, pa.Table.from_pylist(rows, schema=SHARES.arrow_schema))

    assert damaged_buckets(server, state) == [0]


def told(record: BucketRecord) -> tuple[object, ...]:
    """Return what a record says of the rows."""
    return record.n_rows, record.n_ids, record.statuses, record.histograms, record.checksum


def test_a_series_that_was_killed_is_written_again_and_what_is_recorded_is_not(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bucket_writing, "MOST_TOGETHER", 2)
    version = people(server)

    def end_at(bucket: int) -> None:
        if bucket == 3:
            raise KeyboardInterrupt

    server.before = end_at
    with pytest.raises(KeyboardInterrupt):
        score_day(server, version, DAY, n_buckets=4)
    assert sorted(finished_buckets(server, task_of(server))) == [0, 1]
    server.before = lambda _bucket: None
    server.log.clear()

    state = score_day(server, version, DAY, n_buckets=4)

    assert [each[2] for each in server.log if each[:2] == ("series", SHARES.name)] == [2, 3]
    assert state.task.n_ids == 100 == len(scores_of(server))


def test_a_lease_that_was_lost_while_bins_were_chosen_leaves_the_day_that_another_finished(server: Server) -> None:
    version = people(server)
    lease = Lease()

    def overtaken() -> None:
        server.after_count = lambda: None
        score_day(server, version, DAY, n_buckets=4)
        lease.is_lost = True

    server.after_count = overtaken  # the first query is the sample's
    with pytest.raises(LeaseLostError):
        score_day(server, version, DAY, n_buckets=4, still_ours=lease.check)

    assert task_of(server).n_ids == 100
    assert task_of(server).finished_at is not None


def test_a_lease_that_was_lost_while_the_first_bucket_was_written_leaves_what_another_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = Server(tmp_path / "warehouse")
    version, warehouse, lease = people(server), server.embedded, Lease()
    watched = warehouse.replace_from_watched

    def overtaken(*args: Any, **more: Any) -> int:
        n_rows = watched(*args, **more)
        monkeypatch.setattr(warehouse, "replace_from_watched", watched)
        score_day(warehouse, version, DAY, n_buckets=4, again=True)
        lease.is_lost = True
        return n_rows

    monkeypatch.setattr(warehouse, "replace_from_watched", overtaken)
    with pytest.raises(LeaseLostError):
        score_day(warehouse, version, DAY, n_buckets=4, still_ours=lease.check)

    (task,) = list_tasks(warehouse)
    assert (task.generation, task.n_ids) == (1, 100)
    assert task.finished_at is not None


def test_empty_buckets_leave_no_partition_and_stay_where_the_lease_was_lost(server: Server) -> None:
    version, lease = people(server, 2), Lease()
    filled = set(buckets_of([b"u0", b"u1"], 8).tolist())
    queries: list[str] = []

    def lose_at_the_count() -> None:
        queries.append("")
        lease.is_lost = len(queries) == 2  # the first is the sample's

    server.after_count = lose_at_the_count
    with pytest.raises(LeaseLostError):
        score_day(server, version, DAY, n_buckets=8, still_ours=lease.check)
    assert len(queries) == 2
    assert server.count("replace", SHARES.name) == 0
    lease.is_lost, server.after_count = False, lambda: None

    state = score_day(server, version, DAY, n_buckets=8, still_ours=lease.check)

    removed = {each[2] for each in server.log if each[:2] == ("replace", SHARES.name)}
    assert removed == set(range(8)) - filled
    assert {bucket for bucket, each in state.buckets.items() if each.n_ids} == filled
    assert state.task.n_ids == 2


def test_a_day_without_scores_is_sampled_once_and_written_in_series(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bucket_writing, "MOST_TOGETHER", 4)
    version = load(server, [f"u{row}" for row in range(100)], [None] * 100)

    state = score_day(server, version, DAY, n_buckets=8)

    assert server.count("run") == 1 + 2
    assert server.count("replace", TASKS.name) == 2  # begun, and finished
    assert server.count("series", SHARES.name) == 8
    assert state.task.bins == ()
    assert sum(each.statuses[SampleStatus.FEATURE_MISSING] for each in state.buckets.values()) == 100
    assert report_of(state, None, limit=0.25)["histograms"] == []


@pytest.mark.parametrize("n_buckets", [1, 2, 32])
def test_rows_of_a_snapshot_with_duplicates_are_counted_once_for_all_buckets(server: Server, n_buckets: int) -> None:
    ids = [*(f"u{row}" for row in range(100)), "u1", "u1", "u7"]
    version = load(server, ids, [1.0] * len(ids))

    state = score_day(server, version, DAY, n_buckets=n_buckets)

    assert server.count("run") == 3  # the sample, the count of shares, the count of rows
    expected = np.bincount(buckets_of([each.encode() for each in ids], n_buckets), minlength=n_buckets)
    assert [state.buckets[bucket].n_rows for bucket in range(n_buckets)] == expected.tolist()
    report = report_of(state, None, limit=0.25)
    assert (report["rows"], report["ids"], report["duplicate"], report["without_id"]) == (103, 100, 3, 0)
    assert server.read(TASK_BUCKETS.name, ["n_rows"], state.task.partition).num_rows == n_buckets
