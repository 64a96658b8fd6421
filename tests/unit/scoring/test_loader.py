from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from typing_extensions import override

from fedpredict.features.base import OnlineStore
from fedpredict.features.mapped import MappedStore
from fedpredict.features.memory import MemoryStore
from fedpredict.model.kinds import Kind
from fedpredict.model.linear import LinearPart
from fedpredict.model.partial import PartialModel
from fedpredict.scoring.loader import ModelLoader
from fedpredict.tables.models import ModelVersion, delete_model, publish_model, rollback
from fedpredict.tables.views import FeatureView, Snapshot, ViewFeature, publish_snapshot
from fedpredict.warehouse.base import ColumnType
from fedpredict.warehouse.local import LocalWarehouse
from tests.linear_parts import linear

VIEW = FeatureView(
    "people",
    1,
    (
        ViewFeature("Age", "age", ColumnType.DOUBLE),
        ViewFeature("city", "city", ColumnType.STRING),
        ViewFeature("inc", "inc", ColumnType.DOUBLE),
    ),
    "id",
    None,
)
FIRST, SECOND = "20260101T000000.000000Z", "20260102T000000.000000Z"


class World:
    """A warehouse on the disk, and a loader that reads it."""

    def __init__(
        self, folder: Path, keep_versions: int = 3, *, is_mapped: bool = False, store: OnlineStore | None = None
    ) -> None:
        self.folder = folder
        self.warehouse = LocalWarehouse(folder)
        own: OnlineStore = MappedStore(folder.with_name("store")) if is_mapped else MemoryStore()
        self.store = own if store is None else store
        self.loader = ModelLoader(self.warehouse, "lab", self.store, keep_versions=keep_versions)

    def convert(
        self, model_id: str, weight: float, *, party: str = "lab", features: tuple[str, ...] = ("inc", "Age")
    ) -> ModelVersion:
        part = LinearPart(features, np.full((len(features), 1), weight), np.array([1.0]), np.zeros(1))
        partial = PartialModel(model_id, f"run-{model_id}", party, Kind.LINEAR, (), True, part)
        return publish_model(self.warehouse, partial, VIEW, f"{int(weight):064x}")[0]

    def load(self, snapshot: str, age: float) -> None:
        rows = pa.table(
            {
                "sample_id": pa.array(["a"]),
                "event_time": pa.array([datetime(2026, 1, 1, tzinfo=UTC)], pa.timestamp("us", tz="UTC")),
                "age": pa.array([age]),
                "city": pa.array(["Graz"]),
                "inc": pa.array([2.0]),
            }
        )
        publish_snapshot(self.warehouse, VIEW, snapshot, rows)

    def weights(self) -> dict[str, float]:
        """Model id -> the weight of its current version."""
        return {each: float(linear(model.part).weights[0, 0]) for each, model in self.loader.state.current.items()}

    def damage(self, table: str, model_id: str, content: bytes = b"no Parquet") -> list[tuple[Path, bytes]]:
        """Overwrite the files of a model; return what they held."""
        files = [*(self.folder / table / f"model_id={model_id}").rglob("*.parquet")]
        before = [(file, file.read_bytes()) for file in files]
        assert before
        for file in files:
            file.write_bytes(content)
        return before


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "warehouse")


class ForgetfulStore(MemoryStore):
    """As if at another server: what was seen last is told, whatever became of it there."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Snapshot | None = None

    @property
    @override
    def is_remote(self) -> bool:
        return True

    @override
    def serve(self, snapshot: Snapshot, read: Callable[[], pa.Table]) -> None:
        super().serve(snapshot, read)
        self.seen = snapshot

    @override
    def snapshot_of(self, view: str, view_version: int) -> Snapshot | None:
        return self.seen


def test_what_a_remote_store_lost_is_published_again_at_the_next_look_and_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    world = World(tmp_path / "warehouse", store=ForgetfulStore())
    world.load(FIRST, 30.0)
    world.convert("credit", 2.0)
    for _ in range(3):
        world.loader.refresh()
        assert world.store.lookup("people", 1, ["age"], [b"a"]).values[0, 0] == 30.0
    assert [record.message for record in caplog.records].count("snapshot.loaded") == 1
    world.store.drop("people", 1)
    world.loader.refresh()
    assert world.store.lookup("people", 1, ["age"], [b"a"]).values[0, 0] == 30.0


def test_models_and_the_snapshot_they_need_are_loaded(world: World) -> None:
    world.load(FIRST, 30.0)
    version = world.convert("credit", 2.0)
    world.convert("fraud", 3.0)
    state = world.loader.refresh()
    assert state.read_once
    assert (dict(state.problems), state.warehouse_problem) == ({}, "")
    assert world.weights() == {"credit": 2.0, "fraud": 3.0}
    model = state.current["credit"]
    assert model.columns == ("inc", "age")
    assert model.description.params_sha256 == version.params_sha256
    assert (model.description.party, model.description.training_run) == ("lab", "run-credit")
    np.testing.assert_array_equal(world.store.lookup("people", 1, model.columns, [b"a"]).values, [[2.0, 30.0]])
    assert world.loader.is_ready("credit")


def test_nothing_is_found_before_the_first_look(world: World) -> None:
    assert not world.loader.state.read_once
    assert not world.loader.is_ready("credit")


def test_a_new_version_is_current_and_the_last_few_stay(tmp_path: Path) -> None:
    world = World(tmp_path / "w", keep_versions=2)
    world.load(FIRST, 1.0)
    digests = [world.convert("credit", float(weight)).params_sha256 for weight in (1, 2, 3)]
    world.loader.refresh()
    assert world.weights() == {"credit": 3.0}
    assert set(world.loader.state.loaded) == {("credit", digest) for digest in digests[1:]}
    newest = world.convert("credit", 4.0).params_sha256
    world.loader.refresh()
    assert set(world.loader.state.loaded) == {("credit", digests[2]), ("credit", newest)}


def test_a_rollback_is_followed_and_counts_as_no_further_digest(tmp_path: Path) -> None:
    world = World(tmp_path / "w", keep_versions=2)
    world.load(FIRST, 1.0)
    world.convert("credit", 1.0)
    world.convert("credit", 2.0)
    world.loader.refresh()
    rollback(world.warehouse, "credit")
    world.loader.refresh()
    assert world.weights() == {"credit": 1.0}
    assert len(world.loader.state.loaded) == 2


def test_a_version_that_is_loaded_is_not_read_again(world: World) -> None:
    world.load(FIRST, 1.0)
    world.convert("credit", 1.0)
    model = world.loader.refresh().current["credit"]
    world.damage("fp_linear_people", "credit")
    assert world.loader.refresh().current["credit"] is model


def test_a_new_snapshot_replaces_the_old_one(world: World) -> None:
    world.load(FIRST, 1.0)
    world.convert("credit", 1.0)
    world.loader.refresh()
    world.load(SECOND, 7.0)
    world.loader.refresh()
    assert world.store.lookup("people", 1, ["age"], [b"a"]).values[0, 0] == 7.0


def test_a_view_that_is_computed_when_it_is_asked_for_needs_no_snapshot(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    world = World(tmp_path / "warehouse")
    world.convert("credit", 2.0)
    loader = ModelLoader(world.warehouse, "lab", world.store, computed={VIEW.name})

    with caplog.at_level("INFO"):
        state = loader.refresh()

    assert (list(state.current), dict(state.problems)) == (["credit"], {})
    assert not loader.is_ready("credit")  # for what is looked up
    assert "model.problem" not in caplog.messages


def test_a_model_without_features_waits_for_them(world: World) -> None:
    world.convert("credit", 1.0)
    state = world.loader.refresh()
    assert "load its features" in state.problems["credit"]
    assert "credit" in state.current
    assert not world.loader.is_ready("credit")
    world.load(FIRST, 1.0)
    assert not world.loader.refresh().problems
    assert world.loader.is_ready("credit")


def test_a_deleted_model_is_unloaded_and_its_features_with_the_last_one(world: World) -> None:
    world.load(FIRST, 1.0)
    world.convert("credit", 1.0)
    world.convert("fraud", 2.0)
    world.loader.refresh()
    delete_model(world.warehouse, "credit")
    world.loader.refresh()
    assert world.weights() == {"fraud": 2.0}
    assert world.store.snapshot_of("people", 1) is not None
    delete_model(world.warehouse, "fraud")
    state = world.loader.refresh()
    assert (dict(state.loaded), state.warehouse_problem) == ({}, "")
    assert world.store.snapshot_of("people", 1) is None


def test_a_damaged_model_does_not_take_the_others_down_and_heals(world: World) -> None:
    world.load(FIRST, 1.0)
    world.convert("credit", 1.0)
    world.convert("fraud", 2.0)
    before = world.damage("fp_linear_people", "credit")
    state = world.loader.refresh()
    assert list(state.problems) == ["credit"]
    assert world.weights() == {"fraud": 2.0}
    for file, content in before:
        file.write_bytes(content)
    assert not world.loader.refresh().problems
    assert world.weights() == {"credit": 1.0, "fraud": 2.0}


def test_a_damaged_new_version_leaves_the_old_one_serving(world: World) -> None:
    world.load(FIRST, 1.0)
    world.convert("credit", 1.0)
    world.loader.refresh()
    digest = world.convert("credit", 2.0).params_sha256
    for file in (world.folder / "fp_linear_people").rglob(f"params_sha256={digest}/*.parquet"):
        file.write_bytes(b"no Parquet")
    state = world.loader.refresh()
    assert world.weights() == {"credit": 1.0}
    assert "version 2" in state.problems["credit"]
    assert world.loader.is_ready("credit")


def test_rows_that_were_changed_are_noticed_by_their_digest(world: World) -> None:
    world.load(FIRST, 1.0)
    first, second = (world.convert("credit", weight).params_sha256 for weight in (1.0, 2.0))
    files = {
        digest: next((world.folder / "fp_linear_people").rglob(f"params_sha256={digest}/*.parquet"))
        for digest in (first, second)
    }
    files[second].write_bytes(files[first].read_bytes())
    state = world.loader.refresh()
    assert "digest" in state.problems["credit"]
    assert world.weights() == {"credit": 1.0}


@pytest.mark.parametrize("loaded_before", [True, False])
def test_a_damaged_row_of_versions_is_the_problem_of_its_model_alone(world: World, *, loaded_before: bool) -> None:
    world.load(FIRST, 1.0)
    world.convert("credit", 1.0)
    world.convert("fraud", 2.0)
    if loaded_before:
        world.loader.refresh()
    files = [*(world.folder / "fp_models" / "model_id=credit").rglob("*.parquet")]
    rows = pa.parquet.read_table(files[0], partitioning=None)
    broken = rows.set_column(rows.column_names.index("kind"), "kind", pa.array(["none such"]))
    pa.parquet.write_table(broken, files[0])
    state = world.loader.refresh()
    assert list(state.problems) == ["credit"]
    assert world.weights() == ({"credit": 1.0, "fraud": 2.0} if loaded_before else {"fraud": 2.0})
    world.convert("fraud", 3.0)
    world.loader.refresh()
    assert world.weights()["fraud"] == 3.0


def test_a_file_of_versions_that_is_no_parquet_leaves_the_other_models_alone(world: World) -> None:
    world.load(FIRST, 1.0)
    world.convert("credit", 1.0)
    world.convert("fraud", 2.0)
    world.loader.refresh()
    before = world.damage("fp_models", "credit")
    state = world.loader.refresh()
    assert list(state.problems) == ["credit"]
    assert world.weights() == {"credit": 1.0, "fraud": 2.0}
    for file, content in before:
        file.write_bytes(content)
    assert not world.loader.refresh().problems


def test_versions_that_cannot_be_listed_at_the_start_are_a_problem_of_the_warehouse(world: World) -> None:
    world.convert("credit", 1.0)
    world.damage("fp_models", "credit")
    state = world.loader.refresh()
    assert "damaged" in state.warehouse_problem
    assert not state.read_once


def test_a_model_whose_feature_is_not_in_the_snapshot_is_told(world: World) -> None:
    world.load(FIRST, 1.0)
    world.convert("credit", 1.0)
    view = FeatureView("people", 1, (ViewFeature("Age", "age", ColumnType.DOUBLE),), "id", None)
    rows = pa.table(
        {
            "sample_id": pa.array(["a"]),
            "event_time": pa.array([datetime(2026, 1, 1, tzinfo=UTC)], pa.timestamp("us", tz="UTC")),
            "age": pa.array([1.0]),
        }
    )
    publish_snapshot(world.warehouse, view, SECOND, rows)
    assert "no column inc" in world.loader.refresh().problems["credit"]


def test_a_part_of_another_party_is_refused(world: World) -> None:
    world.load(FIRST, 1.0)
    world.convert("credit", 1.0, party="imaging")
    state = world.loader.refresh()
    assert "party imaging" in state.problems["credit"]
    assert not state.current


def test_damaged_features_leave_the_old_snapshot_serving(world: World) -> None:
    world.load(FIRST, 1.0)
    world.convert("credit", 1.0)
    world.loader.refresh()
    world.load(SECOND, 7.0)
    for file in (world.folder / "fp_features_people").rglob(f"snapshot={SECOND}/*.parquet"):
        file.write_bytes(b"no Parquet")
    state = world.loader.refresh()
    assert "view people version 1" in state.problems["credit"]
    assert world.store.lookup("people", 1, ["age"], [b"a"]).values[0, 0] == 1.0


def test_a_warehouse_that_goes_away_and_comes_back_changes_nothing_meanwhile(world: World, tmp_path: Path) -> None:
    assert "does not exist" in world.loader.refresh().warehouse_problem
    assert not world.loader.state.read_once
    world.load(FIRST, 1.0)
    world.convert("credit", 1.0)
    assert world.loader.refresh().warehouse_problem == ""
    world.folder.rename(tmp_path / "elsewhere")
    state = world.loader.refresh()
    assert "does not exist" in state.warehouse_problem
    assert world.loader.is_ready("credit")
    # a mount point without its disk: the folder is there, and empty
    world.folder.mkdir()
    assert "fp_models is gone" in world.loader.refresh().warehouse_problem
    assert world.loader.is_ready("credit")
    world.folder.rmdir()
    (tmp_path / "elsewhere").rename(world.folder)
    world.convert("credit", 2.0)
    assert world.loader.refresh().warehouse_problem == ""
    assert world.weights() == {"credit": 2.0}


def test_a_problem_is_logged_when_it_comes_changes_or_goes(
    world: World, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "fedpredict.scoring.loader")
    world.load(FIRST, 1.0)
    world.convert("credit", 1.0)
    world.convert("fraud", 1.0, party="imaging")
    for _ in range(3):
        world.loader.refresh()
    world.folder.rename(tmp_path / "elsewhere")
    for _ in range(3):
        world.loader.refresh()
    (tmp_path / "elsewhere").rename(world.folder)
    delete_model(world.warehouse, "fraud")
    for _ in range(3):
        world.loader.refresh()
    assert [record.message for record in caplog.records] == [
        "snapshot.loaded",
        "model.problem",
        "model.loaded",
        "warehouse.problem",
        "warehouse.recovered",
        "model.recovered",
    ]


def test_a_second_process_serves_the_files_of_the_first(tmp_path: Path) -> None:
    first = World(tmp_path / "warehouse", is_mapped=True)
    first.load(FIRST, 30.0)
    first.convert("credit", 2.0)
    first.loader.refresh()
    for file in (first.folder / "fp_features_people").rglob("*.parquet"):
        file.write_bytes(b"whoever reads this has not looked at the files of the store")

    second = World(tmp_path / "warehouse", is_mapped=True)

    assert not second.loader.refresh().problems
    assert second.store.lookup("people", 1, ["age"], [b"a"]).values[0, 0] == 30.0


def test_files_of_views_that_nothing_reads_any_more_are_removed_once_the_warehouse_was_read(tmp_path: Path) -> None:
    first = World(tmp_path / "warehouse", is_mapped=True)
    first.load(FIRST, 30.0)
    first.convert("credit", 2.0)
    first.loader.refresh()
    first.folder.rename(tmp_path / "away")
    second = World(tmp_path / "warehouse", is_mapped=True)

    assert second.loader.refresh().warehouse_problem
    assert second.store.held == {("people", 1)}

    (tmp_path / "away").rename(first.folder)
    delete_model(first.warehouse, "credit")
    third = World(tmp_path / "warehouse", is_mapped=True)
    third.loader.refresh()
    assert third.store.held == frozenset()
    assert list((tmp_path / "store").glob("*.arrow")) == []


def test_a_store_that_cannot_be_written_is_the_problem_of_its_models(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("a file where the folder should be")
    world = World(tmp_path / "warehouse", is_mapped=True)
    world.load(FIRST, 30.0)
    world.convert("credit", 2.0)
    assert "cannot be used" in world.loader.refresh().problems["credit"]
    (tmp_path / "store").unlink()
    assert not world.loader.refresh().problems
