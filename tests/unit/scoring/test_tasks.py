from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression

from fedpredict.errors import InputError, ModelNotReadyError
from fedpredict.features.base import OnlineStore
from fedpredict.features.mapped import MappedStore
from fedpredict.features.memory import MemoryStore
from fedpredict.model.arrays import Floats
from fedpredict.model.buckets import buckets_of
from fedpredict.model.kinds import Kind
from fedpredict.model.linear import LinearPart
from fedpredict.model.partial import PartialModel
from fedpredict.model.scorer import ScoreQuery
from fedpredict.model.share import Mode, SampleStatus
from fedpredict.scoring.counting import counted
from fedpredict.scoring.leased import prune_shares_alone, score_name
from fedpredict.scoring.loader import ModelLoader
from fedpredict.scoring.local_party import LocalParty
from fedpredict.scoring.task_report import report_of
from fedpredict.scoring.tasks import damaged_buckets, outdated, previous_state, score_day
from fedpredict.state.lease_files import FolderLeases
from fedpredict.state.leases import Alone
from fedpredict.tables.model_pruning import remove_version
from fedpredict.tables.models import ModelVersion, publish_model
from fedpredict.tables.shares import SHARES, TASKS, ShareTask, finished_buckets, list_tasks, write_task
from fedpredict.tables.views import FeatureView, ViewFeature, publish_snapshot, snapshot_name
from fedpredict.warehouse.base import ColumnType
from fedpredict.warehouse.local import LocalWarehouse
from tests.tree_parts import of_forest

NAMES = ("age", "income", "visits")
VIEW = FeatureView("people", 1, tuple(ViewFeature(name, name, ColumnType.DOUBLE) for name in NAMES), "id", "seen")
DAY = date(2026, 3, 1)
MORNING = datetime(2026, 3, 1, 6, tzinfo=UTC)
N = 400


@pytest.fixture
def warehouse(tmp_path: Path) -> LocalWarehouse:
    return LocalWarehouse(tmp_path / "warehouse")


def people(n: int = N, seed: int = 1) -> tuple[list[str], Floats]:
    return [f"person-{row}" for row in range(n)], np.random.default_rng(seed).normal(size=(n, 3))


def load(
    warehouse: LocalWarehouse,
    ids: list[str],
    features: Floats,
    at: datetime = MORNING,
    seen: list[datetime] | None = None,
) -> None:
    rows = {"sample_id": pa.array(ids), "event_time": pa.array(seen or [at] * len(ids), pa.timestamp("us", tz="UTC"))}
    rows |= {name: pa.array(column, from_pandas=False) for name, column in zip(NAMES, features.T, strict=True)}
    publish_snapshot(warehouse, VIEW, snapshot_name(at), pa.table(rows))


def convert(
    warehouse: LocalWarehouse, weights: Floats, intercept: Floats, *, model_id: str = "m", source: str = "1"
) -> ModelVersion:
    part = LinearPart(NAMES, weights, intercept, np.zeros(weights.shape[1]))
    classes = ("a", "b", "c") if weights.shape[1] == 3 else ()
    kind = Kind.MULTINOMIAL if classes else Kind.LINEAR
    return publish_model(warehouse, PartialModel(model_id, "run", "lab", kind, classes, True, part), VIEW, source * 64)[
        0
    ]


def simple(warehouse: LocalWarehouse, *, source: str = "1", weight: float = 2.0) -> ModelVersion:
    return convert(warehouse, np.array([[weight], [-1.0], [0.5]]), np.array([1.0]), source=source)


def stored(warehouse: LocalWarehouse, task: ShareTask) -> dict[str, Mapping[str, object]]:
    names = ["sample_id", "status", "scores", "event_time", "bucket"]
    rows = warehouse.read(SHARES.name, names, task.partition).to_pylist()
    assert len({row["sample_id"] for row in rows}) == len(rows)
    return {row["sample_id"]: row for row in rows}


def test_stored_scores_are_scikit_learns_and_stand_in_their_ids_buckets(warehouse: LocalWarehouse) -> None:
    ids, features = people()
    labels = np.random.default_rng(2).integers(0, 3, N)
    model = LogisticRegression().fit(features, labels)
    load(warehouse, ids, features)

    state = score_day(warehouse, convert(warehouse, model.coef_.T, model.intercept_), DAY, n_buckets=8)

    rows = stored(warehouse, state.task)
    found = np.array([rows[name]["scores"] for name in ids])
    np.testing.assert_allclose(found, model.decision_function(features), rtol=0, atol=1e-12)
    assert [rows[name]["bucket"] for name in ids] == buckets_of([each.encode() for each in ids], 8).tolist()
    assert {row["event_time"] for row in rows.values()} == {MORNING}
    assert sum(each.n_ids for each in state.buckets.values()) == N == state.task.n_ids


@pytest.mark.parametrize("n_buckets", [1, 2, 8])
def test_buckets_of_many_groups_of_rows_have_their_ids_and_no_others(
    warehouse: LocalWarehouse, monkeypatch: pytest.MonkeyPatch, n_buckets: int
) -> None:
    monkeypatch.setattr("fedpredict.warehouse.local.GROUP_ROWS", 60)
    ids, features = people()
    load(warehouse, ids, features)

    state = score_day(warehouse, simple(warehouse), DAY, n_buckets=n_buckets)

    rows = stored(warehouse, state.task)
    assert [rows[name]["bucket"] for name in ids] == buckets_of([each.encode() for each in ids], n_buckets).tolist()
    found = np.array([rows[name]["scores"] for name in ids])[:, 0]
    np.testing.assert_allclose(found, features @ np.array([2.0, -1.0, 0.5]) + 1.0, rtol=0, atol=1e-12)


def test_what_is_counted_while_shares_are_written_is_what_the_engine_counts_of_what_is_stored(
    warehouse: LocalWarehouse,
) -> None:
    ids, features = people(3_000)
    features[:5], features[7, 0] = np.nan, np.inf
    load(warehouse, ids, features * np.exp(people(3_000, seed=3)[1]))  # with tails
    weights = np.random.default_rng(3).normal(size=(3, 3))
    version = convert(warehouse, weights, np.zeros(3))

    state = score_day(warehouse, version, DAY, n_buckets=2)

    assert len(state.task.bins) == 3
    for bucket, record in state.buckets.items():
        partition = {**state.task.partition, "bucket": bucket}
        found = counted(warehouse, partition, state.task.bins, record.n_ids)
        assert found == (record.statuses, record.histograms, record.checksum, record.n_ids)
        assert sum(record.histograms[0]) == record.statuses[SampleStatus.OK] < record.n_ids
    outer = [histogram[at] for record in state.buckets.values() for histogram in record.histograms for at in (0, -1)]
    assert sum(outer) > 0


def test_trees_are_scored_in_buckets_too(warehouse: LocalWarehouse) -> None:
    ids, features = people(60)
    forest = RandomForestClassifier(3, max_depth=3, random_state=1).fit(features, np.arange(60) % 3)
    load(warehouse, ids, features)
    partial = PartialModel("woods", "run", "lab", Kind.PROBABILITY, ("a", "b", "c"), False, of_forest(forest, NAMES))
    version = publish_model(warehouse, partial, VIEW, "1" * 64)[0]

    state = score_day(warehouse, version, DAY, n_buckets=4)

    found = stored(warehouse, state.task)
    scores = [found[name]["scores"] for name in ids]
    np.testing.assert_allclose(np.array(scores), forest.predict_proba(features), rtol=1e-9)


@pytest.mark.parametrize("engines", [("duckdb",), ("numpy",)])
def test_statuses_and_duplicates_are_those_of_scoring_in_process(
    warehouse: LocalWarehouse, engines: tuple[str, ...]
) -> None:
    later = MORNING - timedelta(hours=1)
    ids = ["good", "gone", "odd", "big", "twice", "twice", "tied", "tied"]
    nan, inf = float("nan"), float("inf")
    features = np.array(
        [[1, 1, 1], [nan, 1, 1], [inf, nan, 1], [1.7e308, 1, 1], [1, 1, 1], [2, 2, 2], [1, 1, 1], [1, 1, 1]]
    )
    load(warehouse, ids, features, seen=[MORNING] * 4 + [later, MORNING] + [MORNING] * 2)
    version = replace(simple(warehouse), engines=engines)

    state = score_day(warehouse, version, DAY, n_buckets=2)

    rows = stored(warehouse, state.task)
    assert {name: SampleStatus(int(str(row["status"]))).name for name, row in rows.items()} == {
        "good": "OK", "gone": "FEATURE_MISSING", "odd": "FEATURE_INVALID", "big": "OUT_OF_RANGE",
        "twice": "OK", "tied": "FEATURE_INVALID",
    }  # fmt: skip
    assert rows["twice"]["scores"] == [2 * 2 - 2 + 1 + 1]
    assert all((row["scores"] is None) == (row["status"] != SampleStatus.OK) for row in rows.values())
    report = report_of(state, None, limit=0.25)
    assert (report["rows"], report["ids"], report["duplicate"], report["scored"]) == (8, 6, 2, 2)


def test_without_duplicates_one_pass_gives_the_same_statuses(warehouse: LocalWarehouse) -> None:
    nan, inf = float("nan"), float("inf")
    features = np.array([[1, 1, 1], [nan, 1, 1], [inf, nan, 1], [-inf, inf, 1], [1.7e308, 1, 1]])
    load(warehouse, ["good", "gone", "odd", "both", "big"], features)

    rows = stored(warehouse, score_day(warehouse, simple(warehouse), DAY).task)

    assert {name: SampleStatus(int(str(row["status"]))).name for name, row in rows.items()} == {
        "good": "OK", "gone": "FEATURE_MISSING", "odd": "FEATURE_INVALID", "both": "FEATURE_INVALID",
        "big": "OUT_OF_RANGE",
    }  # fmt: skip


def test_the_same_day_again_changes_nothing_and_a_new_snapshot_counts_only_when_asked(
    warehouse: LocalWarehouse,
) -> None:
    ids, features = people(50)
    load(warehouse, ids, features)
    version = simple(warehouse)
    first = score_day(warehouse, version, DAY, n_buckets=4)
    before = stored(warehouse, first.task)
    load(warehouse, ids[:20], features[:20] + 1, at=MORNING + timedelta(hours=3))

    assert score_day(warehouse, version, DAY) == first
    assert stored(warehouse, first.task) == before
    with pytest.raises(InputError, match="4 buckets"):
        score_day(warehouse, version, DAY, n_buckets=2)
    again = score_day(warehouse, version, DAY, n_buckets=2, again=True)
    assert (again.task.generation, again.task.n_ids) == (1, 20)
    assert len(stored(warehouse, again.task)) == 20
    assert {row["bucket"] for row in stored(warehouse, again.task).values()} == {0, 1}


def test_a_day_without_a_snapshot_or_in_the_future_is_refused(warehouse: LocalWarehouse) -> None:
    load(warehouse, *people(5))
    version = simple(warehouse)
    with pytest.raises(ModelNotReadyError, match="no snapshot of 2026-02-28"):
        score_day(warehouse, version, DAY - timedelta(days=1))
    with pytest.raises(InputError, match="not come"):
        score_day(warehouse, version, datetime.now(UTC).date() + timedelta(days=2))
    assert list_tasks(warehouse) == []


KILLED = """
import os, signal, sys
from datetime import date
from pathlib import Path
from fedpredict.scoring import tasks
from fedpredict.tables import shares
from fedpredict.tables.models import current_versions
from fedpredict.warehouse.local import LocalWarehouse

warehouse = LocalWarehouse(Path(sys.argv[1]))
calls, last = 0, int(sys.argv[2])

def counting(name):
    original = getattr(warehouse, name)
    def call(*arguments):
        global calls
        calls += 1
        if calls > last:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*arguments)
    return call

for name in ("replace", "replace_from"):
    setattr(warehouse, name, counting(name))
tasks.score_day(warehouse, current_versions(warehouse)["m"], date(2026, 3, 1), n_buckets=4)
"""


@pytest.mark.parametrize("writes", [2, 5])
def test_a_killed_task_goes_on_where_it_stopped(warehouse: LocalWarehouse, tmp_path: Path, writes: int) -> None:
    ids, features = people()
    load(warehouse, ids, features)
    version = simple(warehouse)
    command = [sys.executable, "-c", KILLED, str(tmp_path / "warehouse"), str(writes)]
    killed = subprocess.run(command, check=False, env={**os.environ, "PYTHONPATH": str(Path.cwd())})
    assert killed.returncode == -signal.SIGKILL
    left = list_tasks(warehouse)[0]
    done = finished_buckets(warehouse, left)
    assert left.finished_at is None
    assert len(done) < 4

    state = score_day(warehouse, version, DAY)

    assert {bucket: state.buckets[bucket] for bucket in done} == done  # not made again
    expected = features @ np.array([2.0, -1.0, 0.5]) + 1.0
    rows = stored(warehouse, state.task)
    np.testing.assert_allclose(np.array([rows[name]["scores"] for name in ids]), expected[:, None], rtol=1e-12)
    assert state.task.n_ids == N


def test_a_bucket_that_was_changed_behind_the_records_is_found(warehouse: LocalWarehouse) -> None:
    load(warehouse, *people(50))
    state = score_day(warehouse, simple(warehouse), DAY, n_buckets=2)
    assert damaged_buckets(warehouse, state) == []
    rows = warehouse.read(
        SHARES.name, [column.name for column in SHARES.columns], {**state.task.partition, "bucket": 1}
    )
    scores = rows.column("scores").to_pylist()
    changed = rows.set_column(2, "scores", pa.array([[scores[0][0] + 1e-9], *scores[1:]]))
    warehouse.replace(SHARES.name, {**state.task.partition, "bucket": 1}, changed)
    assert damaged_buckets(warehouse, state) == [1]


def test_a_shifted_population_is_warned_of_and_the_same_one_is_not(warehouse: LocalWarehouse) -> None:
    ids, _ = people(2_000)
    version = simple(warehouse)
    for day, shift in enumerate((0.0, 0.0, 1.5)):
        load(warehouse, ids, people(2_000, seed=day)[1] + shift, at=MORNING + timedelta(days=day))
    states = [score_day(warehouse, version, DAY + timedelta(days=day), n_buckets=2) for day in range(3)]
    reports = [report_of(each, previous_state(warehouse, each.task), limit=0.25) for each in states]
    assert reports[0]["stability"] is None
    assert reports[1]["warnings"] == []
    assert len(reports[2]["warnings"]) == 1
    assert sum(reports[1]["histograms"][0]["counts"]) == 2_000


def test_a_day_on_which_few_ids_or_none_can_be_scored_is_warned_of(warehouse: LocalWarehouse) -> None:
    ids, features = people(100)
    version = simple(warehouse)
    for day, n_missing in enumerate((0, 20, 50, 100)):
        load(warehouse, ids, np.where(np.arange(100)[:, None] < n_missing, np.nan, features), MORNING + timedelta(day))
    states = [score_day(warehouse, version, DAY + timedelta(day), n_buckets=2) for day in range(4)]
    told = [report_of(each, previous_state(warehouse, each.task), limit=99.0)["warnings"] for each in states]
    assert told[:2] == [[], []]
    assert told[2] == ["50 of 100 ids have a score, 50.0 %; of 2026-03-02 it was 80.0 %"]
    assert told[3] == ["0 of 100 ids have a score, 0.0 %; of 2026-03-03 it was 50.0 %"]
    assert report_of(states[3], None, limit=0.25)["warnings"] == ["none of the 100 ids has a score"]


def test_pruning_leaves_the_newest_days(warehouse: LocalWarehouse, tmp_path: Path) -> None:
    version = simple(warehouse)
    for day in range(3):
        load(warehouse, *people(20), at=MORNING + timedelta(days=day))
        score_day(warehouse, version, DAY + timedelta(days=day), n_buckets=2)
    alone = Alone(FolderLeases(tmp_path / "leases"))
    assert outdated(warehouse, 3, DAY + timedelta(days=2)) == []
    # the newest stays, though all of them are long past: nothing else of the model is served
    with alone.hold(score_name(version.model_id, version.params_sha256, DAY)):
        removed = prune_shares_alone(alone, warehouse, 1)
    assert [each.day for each in removed] == [DAY + timedelta(days=1)]
    assert [each.day for each in prune_shares_alone(alone, warehouse, 1)] == [DAY]
    assert set(warehouse.read(SHARES.name, ["dt"], {}).column("dt").to_pylist()) == {"2026-03-03"}
    assert prune_shares_alone(alone, warehouse, 1) == []


def test_pruning_leaves_nothing_old_of_a_version_that_is_gone(warehouse: LocalWarehouse, tmp_path: Path) -> None:
    old, new = simple(warehouse), simple(warehouse, source="2", weight=3.0)
    load(warehouse, *people(20))
    for version in (old, new):
        score_day(warehouse, version, DAY)
    alone = Alone(FolderLeases(tmp_path / "leases"))
    assert prune_shares_alone(alone, warehouse, 1) == []

    remove_version(warehouse, old)

    assert [each.params_sha256 for each in prune_shares_alone(alone, warehouse, 1)] == [old.params_sha256]
    assert [each.params_sha256 for each in list_tasks(warehouse)] == [new.params_sha256]


def test_pruning_leaves_the_newest_whole_day_of_every_version(warehouse: LocalWarehouse, tmp_path: Path) -> None:
    old, new = simple(warehouse), simple(warehouse, source="2", weight=3.0)
    for day in range(2):
        load(warehouse, *people(20), at=MORNING + timedelta(days=day))
    score_day(warehouse, old, DAY)
    score_day(warehouse, new, DAY)
    begun = replace(score_day(warehouse, new, DAY + timedelta(days=1)).task, finished_at=None)
    write_task(warehouse, begun)  # as a run that was killed leaves it

    removed = prune_shares_alone(Alone(FolderLeases(tmp_path / "leases")), warehouse, 1)

    assert [(each.params_sha256, each.day) for each in removed] == [(new.params_sha256, DAY + timedelta(days=1))]
    assert {(each.params_sha256, each.day) for each in list_tasks(warehouse)} == {
        (old.params_sha256, DAY),
        (new.params_sha256, DAY),
    }


def query(version: ModelVersion, *ids: bytes) -> ScoreQuery:
    return ScoreQuery(
        request_id="r", model_id=version.model_id, manifest_sha256="0" * 64, params_sha256=version.params_sha256,
        mode=Mode.OFFLINE, sample_ids=list(ids),
    )  # fmt: skip


@pytest.mark.parametrize("is_mapped", [False, True])
async def test_stored_shares_of_each_version_are_looked_up(
    warehouse: LocalWarehouse, tmp_path: Path, *, is_mapped: bool
) -> None:
    store: OnlineStore = MappedStore(tmp_path / "store") if is_mapped else MemoryStore()
    loader = ModelLoader(warehouse, "lab", store)
    party = LocalParty("lab", lambda: loader.state, store)
    load(warehouse, ["a", "b"], np.array([[1.0, 1.0, 1.0], [np.nan, 1.0, 1.0]]))
    old = simple(warehouse)
    score_day(warehouse, old, DAY)
    new = simple(warehouse, source="2", weight=3.0)
    loader.refresh()
    with pytest.raises(ModelNotReadyError, match="task score"):
        await party.score(query(new, b"a"), deadline_s=1)

    score_day(warehouse, new, DAY)
    loader.refresh()
    load(warehouse, ["a"], np.array([[9.0, 9.0, 9.0]]), at=MORNING + timedelta(hours=1))  # not scored: not seen
    loader.refresh()

    for version, expected in ((old, 2.5), (new, 3.5)):
        reply = await party.score(query(version, b"a", b"b", b"nobody", b"\n"), deadline_s=1)
        assert reply.share.values[0].tolist() == [expected]
        assert [SampleStatus(each).name for each in reply.share.status] == [
            "OK", "FEATURE_MISSING", "NOT_FOUND", "ID_INVALID",
        ]  # fmt: skip
        assert reply.oldest_event_time == int(MORNING.timestamp() * 1e6)
    assert loader.state.problems == {}


def test_a_table_of_before_anybody_was_erased_is_read_and_gets_its_column(warehouse: LocalWarehouse) -> None:
    older = replace(TASKS, columns=tuple(each for each in TASKS.columns if each.name != "erased"))
    warehouse.ensure(older)
    row = {"generation": 0, "view": "people", "view_version": 1, "snapshot": "s", "n_rows": 1, "n_scores": 1}
    row |= {"n_buckets": 1, "bins": "[]", "started_at": MORNING}
    partition = {"dt": DAY.isoformat(), "model_id": "m", "params_sha256": "0" * 64}
    warehouse.replace(TASKS.name, partition, pa.Table.from_pylist([row], schema=older.arrow_schema))

    (read,) = list_tasks(warehouse)
    write_task(warehouse, replace(read, erased=read.erased + 1))

    assert read.erased == 0
    assert [each.erased for each in list_tasks(warehouse)] == [1]
