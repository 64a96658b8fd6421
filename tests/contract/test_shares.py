"""Hash buckets and stored shares: the same in numpy, in the embedded engine, in Spark and in Hive."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest
import sqlglot
from sqlglot import exp

from fedpredict.errors import InputError
from fedpredict.features.memory import MemoryStore
from fedpredict.model.buckets import buckets_of, hashes_of
from fedpredict.model.populations import BucketQuery, in_order
from fedpredict.model.sample_ids import SampleIds
from fedpredict.model.share import Mode, SampleStatus
from fedpredict.scoring import bucket_writing
from fedpredict.scoring.loader import ModelLoader
from fedpredict.scoring.local_party import LocalParty
from fedpredict.scoring.open_buckets import open_buckets
from fedpredict.scoring.settings import AnswerFrom, TaskSettings
from fedpredict.scoring.tasks import damaged_buckets, score_day
from fedpredict.tables import sql
from fedpredict.tables.buckets import in_bucket, place_of
from fedpredict.tables.models import ModelVersion
from fedpredict.tables.share_rows import read_shares
from fedpredict.tables.shares import finished_buckets, list_tasks
from fedpredict.warehouse.base import Column, ColumnType, SeriesWriter, TableSchema, Warehouse
from tests.contract.test_engine_scores import NOON, new_view, publish, snapshot_of
from tests.contract.test_warehouse import new_table

pytestmark = pytest.mark.timeout(300)  # Hive's first INSERT in a session alone takes up to 35 s

VECTORS = {"u1": 3833023709, "年龄": 2686097763, " padded ": 2458247672, "a" * 256: 2165350124}
"""Sample id -> the hash that docs/offline.md says."""
YESTERDAY = NOON - timedelta(days=1)


def test_the_hash_of_an_id_is_what_the_documents_say() -> None:
    ids = list(VECTORS)
    assert hashes_of([each.encode() for each in ids]).tolist() == list(VECTORS.values())
    assert [int(hashlib.md5(each.encode(), usedforsecurity=False).hexdigest()[:8], 16) for each in ids] == list(
        VECTORS.values()
    )


def test_an_engine_finds_the_ids_of_each_bucket_that_numpy_does(warehouse: Warehouse) -> None:
    schema: TableSchema = new_table(Column("s", ColumnType.STRING))
    ids = [*VECTORS, *(f"person-{row}" for row in range(40))]
    warehouse.ensure(schema)
    rows = pa.table({"n": pa.array(range(len(ids)), pa.int32()), "s": pa.array(ids)})
    warehouse.replace(schema.name, {"part": "a", "version": 1}, rows)
    place = place_of(sql.column("s"))
    buckets: list[exp.Expr] = [
        sql.named(sql.case(sql.number(0), (in_bucket(place, bucket, 8), sql.number(1))), f"b{bucket}")
        for bucket in range(8)
    ]

    found = warehouse.run(exp.Select(expressions=[sql.column("n"), *buckets]).from_(schema.name), {}).sort_by("n")

    flags = np.array([found.column(f"b{bucket}").to_pylist() for bucket in range(8)])
    assert flags.sum(axis=0).tolist() == [1] * len(ids)
    assert flags.argmax(axis=0).tolist() == buckets_of([each.encode() for each in ids], 8).tolist()


@pytest.mark.parametrize("has_repeats", [False, True])
async def test_a_day_is_scored_by_the_engine_into_stored_shares_and_buckets_of_tasks_are_answered(
    warehouse: Warehouse, *, has_repeats: bool
) -> None:
    features = np.random.default_rng(5).normal(size=(12, 2))
    weights, intercept = np.array([[2.0, -1.0], [0.5, 3.0]]), np.array([1.0, -1.0])
    ids = [f"person-{row}" for row in range(12)]
    values: list[list[float | None]] = [[*column.tolist()] for column in features.T]
    values[0][3] = None
    instants = [YESTERDAY] * 12
    if has_repeats:
        ids[11], instants[11] = "person-0", YESTERDAY - timedelta(hours=1)
    view = new_view(("x", "y"))
    snapshot_of(warehouse, view, ids, dict(zip(("x", "y"), values, strict=True)), instants)
    version = publish(warehouse, view, ("x", "y"), weights, intercept)

    state = score_day(warehouse, version, date(2026, 11, 22), n_buckets=2)

    n_ids = 11 if has_repeats else 12
    assert (state.task.n_ids, sum(each.n_rows for each in state.buckets.values())) == (n_ids, 12)
    rows = {row["sample_id"]: row for row in read_shares(warehouse, state.task).to_pylist()}
    expected = features @ weights + intercept
    for at, name in enumerate(ids[:n_ids]):
        row = rows[name]
        assert row["event_time"] == YESTERDAY
        assert row["status"] == (SampleStatus.FEATURE_MISSING if at == 3 else SampleStatus.OK)
        scores = None if at == 3 else pytest.approx(expected[at].tolist(), rel=1e-12)
        assert (None if at == 3 else [row["score_0"], row["score_1"]]) == scores
    counted = [sum(sum(each.histograms[output]) for each in state.buckets.values()) for output in range(2)]
    assert counted == [n_ids - 1] * 2
    assert damaged_buckets(warehouse, state) == []
    assert state.task.finished_at is not None
    assert state.task.finished_at <= datetime.now(UTC)
    statuses = {name: SampleStatus.FEATURE_MISSING if at == 3 else SampleStatus.OK for at, name in enumerate(ids)}
    scores_of = dict(zip(ids[:n_ids], expected.tolist(), strict=False))
    await check_answers(warehouse, version, {name: (statuses[name], scores_of[name]) for name in ids[:n_ids]})


class Interrupted(BaseException):
    """Stands for the end of the process: nothing of ours catches it."""


@pytest.mark.parametrize(("together_s", "n_left"), [(1e9, 0), (-1.0, 2)])
def test_a_day_that_is_broken_off_goes_on_at_the_buckets_that_are_not_recorded(
    warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch, together_s: float, n_left: int
) -> None:
    """Two buckets are written before the end; what a server has written, but not recorded, is written once more."""
    monkeypatch.setattr(bucket_writing, "TOGETHER_S", together_s)
    is_series = isinstance(warehouse, SeriesWriter)
    features = np.random.default_rng(6).normal(size=(40, 1))
    ids = [f"person-{row}" for row in range(40)]
    view = new_view(("x",))
    snapshot_of(warehouse, view, ids, {"x": features[:, 0].tolist()}, [YESTERDAY] * 40)
    version = publish(warehouse, view, ("x",), np.array([[2.0]]), np.array([1.0]))
    begun: list[int] = []

    def end_at_the_third(done: int, _of: int) -> None:
        begun.append(done)
        if len(begun) == 3:
            raise Interrupted

    with pytest.raises(Interrupted):
        score_day(warehouse, version, date(2026, 11, 22), n_buckets=4, advance=end_at_the_third)
    assert begun == [0, 1, 2]
    (left,) = list_tasks(warehouse, model_id=version.model_id)
    done = finished_buckets(warehouse, left)
    assert len(done) == (n_left if is_series else 2)

    state = score_day(warehouse, version, date(2026, 11, 22))

    assert {bucket: state.buckets[bucket] for bucket in done} == done  # not made again
    rows = read_shares(warehouse, state.task).to_pylist()
    assert sorted(row["sample_id"] for row in rows) == sorted(ids)
    scores = {row["sample_id"]: row["score_0"] for row in rows}
    assert [scores[name] for name in ids] == pytest.approx((2 * features[:, 0] + 1).tolist(), rel=1e-12)
    of_buckets = buckets_of([each.encode() for each in ids], 4)
    assert [state.buckets[bucket].n_ids for bucket in range(4)] == np.bincount(of_buckets, minlength=4).tolist()
    assert [sum(state.buckets[bucket].histograms[0]) for bucket in range(4)] == np.bincount(of_buckets).tolist()
    assert damaged_buckets(warehouse, state) == []


def test_a_bucket_without_ids_has_a_record_and_no_rows(warehouse: Warehouse) -> None:
    view = new_view(("x",))
    ids = ["person-1", "person-2"]
    snapshot_of(warehouse, view, ids, {"x": [1.0, 2.0]}, [YESTERDAY] * 2)
    version = publish(warehouse, view, ("x",), np.array([[2.0]]), np.array([1.0]))

    state = score_day(warehouse, version, date(2026, 11, 22), n_buckets=8)

    expected = np.bincount(buckets_of([each.encode() for each in ids], 8), minlength=8).tolist()
    assert [state.buckets[bucket].n_ids for bucket in range(8)] == expected
    assert {expected[bucket] for bucket, record in state.buckets.items() if record.statuses == {}} == {0}
    assert damaged_buckets(warehouse, state) == []


def test_checksums_of_records_that_are_of_ids_too_are_compared_as_they_were_made(warehouse: Warehouse) -> None:
    view = new_view(("x",))
    snapshot_of(warehouse, view, ["person-1", "person-2"], {"x": [1.0, 2.0]}, [YESTERDAY] * 2)
    version = publish(warehouse, view, ("x",), np.array([[2.0]]), np.array([1.0]))
    state = score_day(warehouse, version, date(2026, 11, 22), n_buckets=1)
    engine = f"{warehouse.engine.name} {warehouse.engine.version}"
    query = "SELECT {}(sample_id, status, scores) AS checked FROM fp_partial_scores WHERE model_id = :model_id"
    name = "xxhash64" if warehouse.engine.name == "spark" else "hash"
    asked = sqlglot.parse_one(query.format(name), into=exp.Select)
    numbers = warehouse.run(asked, {"model_id": version.model_id}).column("checked").to_pylist()
    checksum = sum((abs(int(each)) % (2**31 - 1)) * (1 if each >= 0 else -1) for each in numbers)

    old = replace(state.buckets[0], engine=engine, checksum=checksum)
    assert damaged_buckets(warehouse, replace(state, buckets={0: old})) == []
    changed = replace(old, checksum=checksum + 1)
    assert damaged_buckets(warehouse, replace(state, buckets={0: changed})) == [0]
    with pytest.raises(InputError, match="other 1"):
        damaged_buckets(warehouse, replace(state, buckets={0: replace(old, engine="other 1")}))


async def check_answers(
    warehouse: Warehouse, version: ModelVersion, expected: Mapping[str, tuple[SampleStatus, list[float]]]
) -> None:
    """Ask for all ids but one, and for one that nobody knows, in both modes, from the warehouse alone."""
    loader = ModelLoader(warehouse, version.party, MemoryStore(), fills_store=False)
    loader.refresh()
    part = LocalParty(version.party, lambda: loader.state, MemoryStore())
    settings = TaskSettings(answer_from=AnswerFrom.WAREHOUSE)
    buckets = open_buckets(settings, warehouse, part, lambda: loader.state, poll_s=60.0, at_once=2)
    asked = in_order(SampleIds.of([each.encode() for each in (*list(expected)[1:], "nobody")]))
    for mode in (Mode.OFFLINE, Mode.NEARLINE):
        query = BucketQuery(
            request_id="r",
            task_id="t",
            model_id=version.model_id,
            manifest_sha256="1" * 64,
            params_sha256=version.params_sha256,
            mode=mode,
            bucket=0,
            n_buckets=1,
            rows=asked,
        )
        reply = await buckets.answer(query, asked, 240.0)
        for at, sample_id in enumerate(asked):
            status, scores = expected.get(sample_id.decode(), (SampleStatus.NOT_FOUND, []))
            assert reply.share.status[at] == status
            if status is SampleStatus.OK:
                assert reply.share.values[at].tolist() == pytest.approx(scores, rel=1e-12)
        assert reply.oldest_event_time == int(YESTERDAY.timestamp() * 1e6)
