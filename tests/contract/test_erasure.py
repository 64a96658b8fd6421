"""One person's rows go, and nobody else's, in every engine: from raw partitions, snapshots and stored shares."""

from __future__ import annotations

import uuid
from datetime import timedelta

import numpy as np
import pyarrow as pa
import pytest

from fedpredict.features.refresh import refresh_view
from fedpredict.features.registration import register_view
from fedpredict.model.kinds import Kind
from fedpredict.model.linear import LinearPart
from fedpredict.model.partial import PartialModel
from fedpredict.model.sample_ids import SampleIds
from fedpredict.scoring.erase import bucket_of, rows_in, update_task
from fedpredict.scoring.tasks import damaged_buckets, score_day
from fedpredict.tables.erasure import (
    CopiedFrom,
    Copy,
    copies_left,
    copy_without,
    count_rows,
    forget_copies,
    partitions_with,
    put_back,
    snapshot_without,
)
from fedpredict.tables.models import publish_model
from fedpredict.tables.populations import POPULATION_IDS, ensure_tables, read_bucket, remove_buckets, write_bucket
from fedpredict.tables.ranking_sql import top_query
from fedpredict.tables.results import (
    RESULTS,
    UNCHECKED,
    ensure_results,
    read_results,
    results_digest,
    results_partition,
    stored_results,
    write_results,
)
from fedpredict.tables.results_erasure import blank_copy, put_blanked
from fedpredict.tables.share_rows import read_shares
from fedpredict.tables.shares import SHARES, TaskState, finished_buckets, list_tasks
from fedpredict.tables.views import list_snapshots, read_snapshot_rows
from fedpredict.warehouse.base import Column, ColumnType, Partition, TableSchema, Warehouse
from tests.raw_transactions import AS_OF, Event, Merchant, example, renamed, store

pytestmark = pytest.mark.timeout(600)

_, DEFINITION, SCRIPT = example("transactions")
WHO, OTHERS = "it's a1", ["a0", "a2"]


def test_a_person_is_taken_out_of_raw_rows_snapshots_and_shares(warehouse: Warehouse) -> None:
    suffix = f"_{uuid.uuid4().hex[:12]}"
    people = [OTHERS[0], WHO, OTHERS[1]]
    events = [Event(f"e{who}", AS_OF - timedelta(hours=1), who, "m0", "1.50", "web") for who in people]
    store(warehouse, [*events, Event("e", None, None, "m0", "1.00", "web")], [Merchant("m0", "food", None)], suffix)
    view, definition = renamed(DEFINITION, suffix)
    registered, _ = register_view(warehouse, view, definition, SCRIPT)
    snapshot = refresh_view(warehouse, registered, AS_OF).snapshot
    part = LinearPart(("n_30d",), np.array([[2.0]]), None, np.array([0.0]))
    model = PartialModel(f"m{suffix}", "run", "lab", Kind.LINEAR, (), False, part)
    version = publish_model(warehouse, model, registered.view.feature_view(1), "a" * 64, lambda _: {})[0]
    task = score_day(warehouse, version, AS_OF.date(), n_buckets=1).task

    raw = warehouse.describe(f"raw_transactions{suffix}")
    assert raw is not None
    ((partition, n_rows),) = partitions_with(warehouse, raw, WHO, "account")
    copy_without(warehouse, raw, partition, WHO, "account")
    put_back(warehouse, raw, partition)
    made = snapshot_without(warehouse, snapshot, WHO)
    (shares_of,) = [each for each, _ in partitions_with(warehouse, SHARES, WHO) if each["model_id"] == task.model_id]
    update_task(warehouse, task, {0: shares_of}, WHO, made.snapshot)

    assert n_rows == 1
    assert warehouse.describe(f"no_such_table{suffix}") is None
    left = warehouse.read(raw.name, ["account", "id"], {}).to_pylist()
    assert sorted((row["account"] or "", row["id"]) for row in left) == [("", "e"), ("a0", "ea0"), ("a2", "ea2")]
    assert [each.snapshot for each in list_snapshots(warehouse) if each.view.name == view.name] == [made.snapshot]
    rows = read_snapshot_rows(warehouse, made, ["sample_id", "spent_30d", "event_time"]).to_pylist()
    assert sorted((row["sample_id"], row["spent_30d"], row["event_time"]) for row in rows) == [
        (who, 1.5, AS_OF) for who in OTHERS
    ]
    (after,) = list_tasks(warehouse, model_id=task.model_id)
    state = TaskState(after, finished_buckets(warehouse, after))
    assert damaged_buckets(warehouse, state) == []
    assert (after.n_ids, after.n_rows, after.snapshot, after.erased) == (2, 2, made.snapshot, 1)
    stored = read_shares(warehouse, after).to_pylist()
    assert sorted((row["sample_id"], row["score_0"]) for row in stored) == [(who, 2.0) for who in OTHERS]
    assert [each for each, _ in partitions_with(warehouse, raw, WHO, "account")] == []


def test_what_is_left_in_a_table_of_work_is_counted_and_goes(warehouse: Warehouse) -> None:
    left_in_work(warehouse, (Column("part", ColumnType.STRING),))


def test_what_is_left_of_a_table_without_partitions_is_counted_and_goes(embedded: Warehouse) -> None:
    """Servers have none: tables are made with partitions there."""
    left_in_work(embedded, ())


def left_in_work(warehouse: Warehouse, partitioned_by: tuple[Column, ...]) -> None:
    name = f"t_{uuid.uuid4().hex}"
    schema = TableSchema(name, (Column("who", ColumnType.STRING),), partitioned_by)
    partition: Partition = {each.name: "a" for each in partitioned_by}
    warehouse.ensure(schema)
    warehouse.replace(name, partition, pa.table({"who": [*OTHERS, WHO, WHO]}))
    there = copies_left(warehouse, CopiedFrom(name, "who"), WHO)
    copy_without(warehouse, schema, partition, OTHERS[0], "who")

    (copy,) = copies_left(warehouse, CopiedFrom(name, "who"), WHO)
    counts = [count_rows(warehouse, table, partition) for table in (name, f"{name}_none")]
    forget_copies(warehouse, copy)

    assert (there, copy) == ([], Copy(name, partition, 3, 2))
    assert counts == [4, None]
    assert copies_left(warehouse, CopiedFrom(name, "who"), WHO) == []
    assert count_rows(warehouse, name, partition) == 4


RESULT_IDS = [b"a0", WHO.encode(), "é2".encode(), b"a3"]
NUMBERS = np.array([[0.1, 1.0 / 3.0], [0.25, 0.5], [np.nan, np.nan], [-2.5e-300, 7.0]])
STATUS, ORIGIN = np.array([1, 1, 2, 1], np.uint8), np.array([1, 2, 0, 1], np.uint8)


def test_a_row_of_results_is_blanked_in_its_place(warehouse: Warehouse) -> None:
    ensure_results(warehouse)
    task_id = f"t-{uuid.uuid4().hex}"
    before = write_results(
        warehouse, task_id, 3, SampleIds.of(RESULT_IDS), predictions=NUMBERS, status=STATUS, origin=ORIGIN
    )
    old = read_results(warehouse, task_id, 3, 4, before)

    digest = results_digest(blank_copy(warehouse, task_id, 3, WHO, with_rank=False))
    untouched = results_digest(stored_results(warehouse, task_id, 3))
    put_blanked(warehouse, task_id, 3)

    assert untouched == before
    new = read_results(warehouse, task_id, 3, 4, digest).to_pylist()
    blank = {"sample_id": "", "status": 6, "origin": 0, "predictions": None}
    expected = [blank if row["sample_id"] == WHO else row for row in old.to_pylist()]
    assert [row["sample_id"] for row in new] == ["a0", "", "é2", "a3"]
    assert new == expected
    assert read_results(warehouse, task_id, 3, 4, before, others={digest}).to_pylist() == expected
    assert [each for each in rows_in(warehouse, RESULTS, WHO) if each[0]["task_id"] == task_id] == []


def test_a_blanked_row_keeps_its_rank(warehouse: Warehouse) -> None:
    ensure_results(warehouse)
    task_id = f"t-{uuid.uuid4().hex}"
    rows = pa.table(
        [
            pa.array([0, 1, 2], pa.int32()),
            pa.array(["a0", WHO, "a3"]),
            pa.array([1, 1, 1], pa.int32()),
            pa.array([1, 1, 1], pa.int32()),
            pa.array([[0.5], [0.75], [0.25]], pa.list_(pa.float64())),
            pa.array([2, 1, 3], pa.int64()),
        ],
        names=[each.name for each in RESULTS.columns],
    ).cast(RESULTS.arrow_schema)
    warehouse.replace(RESULTS.name, results_partition(task_id, 0), rows)

    blank_copy(warehouse, task_id, 0, WHO, with_rank=True)
    put_blanked(warehouse, task_id, 0)

    kept = read_results(warehouse, task_id, 0, 3, UNCHECKED, with_rank=True).to_pylist()
    assert [(row["sample_id"], row["status"], row["predictions"], row["rank"]) for row in kept] == [
        ("a0", 1, [0.5], 2),
        ("", 6, None, 1),
        ("a3", 1, [0.25], 3),
    ]
    first = warehouse.run(*top_query(task_id, 1, 2)).sort_by("rank")
    assert first.column("sample_id").to_pylist() == ["", "a0"]


def test_a_bucket_of_ids_goes_and_others_of_the_population_stay(warehouse: Warehouse) -> None:
    ensure_tables(warehouse)
    population = f"p{uuid.uuid4().hex[:12]}"
    digests = [
        write_bucket(warehouse, "bank", population, bucket, SampleIds.of(ids))
        for bucket, ids in enumerate([[WHO.encode(), b"a1"], [b"a2"]])
    ]

    found = [each for each in rows_in(warehouse, POPULATION_IDS, WHO) if each[0]["population"] == population]
    remove_buckets(warehouse, "bank", population, [bucket_of(each) for each in found])

    assert [(bucket_of(each), each[1]) for each in found] == [((0, digests[0]), 1)]
    assert [each for each in rows_in(warehouse, POPULATION_IDS, WHO) if each[0]["population"] == population] == []
    assert list(read_bucket(warehouse, "bank", population, 1, digests[1])) == [b"a2"]
