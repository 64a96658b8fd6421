"""Trees in the warehouse's engine: the embedded one, Spark and Hive give the libraries' and numpy's numbers."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import lightgbm
import numpy as np
import pyarrow as pa
import pytest
from sklearn.datasets import load_wine
from sklearn.ensemble import RandomForestClassifier

from fedpredict.model.arrays import Floats
from fedpredict.model.kinds import Kind
from fedpredict.model.partial import PartialModel
from fedpredict.model.share import SampleStatus, all_ok_statuses
from fedpredict.model.trees import CodeRule, TreesPart
from fedpredict.tables.models import ModelVersion, load_model, publish_model
from fedpredict.tables.names import column_names
from fedpredict.tables.statements import score_in_engine
from fedpredict.tables.views import FeatureView, Snapshot, ViewFeature, publish_snapshot, snapshot_name
from fedpredict.warehouse.base import ColumnType, Warehouse
from tests.contract.conftest import Place, cases_by_place
from tests.tree_parts import Shape, as_cells, full_trees, of_forest, of_lightgbm, random_part, random_rows

pytestmark = pytest.mark.timeout(600)  # Hive walks a level in several seconds

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)
COLOURS = ("red", "a|b", "", "~", "ag'e", "back\\slash", "年龄")


def publish(warehouse: Warehouse, part: TreesPart, rows: Floats) -> tuple[ModelVersion, Snapshot]:
    """Publish a part, and rows of its features whose sample ids count from s0."""
    kinds = {name: ColumnType.STRING if name in part.categories else ColumnType.DOUBLE for name in part.features}
    columns = column_names(part.features)
    described = tuple(ViewFeature(name, columns[name], kinds[name]) for name in part.features)
    view = FeatureView(f"v_{uuid.uuid4().hex}", 1, described, "id", "seen")
    types = {ColumnType.DOUBLE: pa.float64(), ColumnType.STRING: pa.string()}
    cells = {columns[name]: pa.array(cell, types[kinds[name]]) for name, cell in as_cells(part, rows).items()}
    ids = pa.array([f"s{at}" for at in range(len(rows))], pa.string())
    moments = pa.array([NOON] * len(rows), pa.timestamp("us", tz="UTC"))
    table = pa.table({"sample_id": ids, "event_time": moments, **cells})
    snapshot = publish_snapshot(warehouse, view, snapshot_name(NOON), table)
    fit, model_id = part.intercept is not None, f"m-{uuid.uuid4().hex}"
    partial = PartialModel(model_id, "run-1", "lab", Kind.LINEAR, (), fit, part)
    return publish_model(warehouse, partial, view, "5" * 64)[0], snapshot


def scored(warehouse: Warehouse, part: TreesPart, rows: Floats) -> tuple[list[SampleStatus], list[list[float] | None]]:
    """Return statuses and scores of the engine, in the order of the rows."""
    version, snapshot = publish(warehouse, part, rows)
    by_id = {row["sample_id"]: row for row in score_in_engine(warehouse, version, snapshot).to_pylist()}
    ordered = [by_id[f"s{at}"] for at in range(len(rows))]
    return [SampleStatus(row["status"]) for row in ordered], [row["scores"] for row in ordered]


def assert_as_numpy(warehouse: Warehouse, part: TreesPart, rows: Floats) -> None:
    """Hold statuses to those of numpy, and scores to 1e-12 of the sum of the absolute terms."""
    statuses, scores = scored(warehouse, part, rows)
    expected = part.statuses(rows)
    assert statuses == list(all_ok_statuses(len(rows)) if expected is None else expected)
    is_ok = np.array(statuses) == SampleStatus.OK
    assert [each is None for each in scores] == (~is_ok).tolist()
    found = np.array([each for each in scores if each is not None]).reshape(-1, part.n_scores)
    assert np.all(np.abs(found - part.partial_scores(rows)[is_ok]) <= 1e-12 * part.magnitudes(rows)[is_ok])


SHAPES = {
    "float32, zero is missing, wide": Shape(3, 3, n_scores=2, wide=True, float32=True, zero_is_missing=True),
    "texts and sets": Shape(4, 3, n_texts=2, n_scores=2, with_sets=True),
    "all at once, by <": Shape(
        3, 3, n_texts=1, with_sets=True, strict=True, float32=True, zero_is_missing=True, may_miss=False, base=False,
        codes=CodeRule.CUT_FROM_ZERO,
    ),
    "closed, whole codes": Shape(
        4, 3, n_numbers=2, n_texts=2, with_sets=True, float32=True, codes=CodeRule.WHOLE, closed=True
    ),
    "byte codes": Shape(4, 2, n_numbers=1, with_sets=True, codes=CodeRule.BYTE),
    "texts alone": Shape(3, 2, n_numbers=0, n_texts=1),
    "no tree": Shape(0, n_scores=2),
}  # fmt: skip


ON_SERVERS = ("float32, zero is missing, wide", "all at once, by <", "whole codes", "no tree")


@pytest.mark.parametrize(("place", "shape"), cases_by_place(list(SHAPES), ON_SERVERS), indirect=["place"])
def test_random_trees_give_the_numbers_and_statuses_of_scoring_in_process(warehouse: Warehouse, shape: str) -> None:
    random = np.random.default_rng(23)
    part = random_part(random, SHAPES[shape])

    assert_as_numpy(warehouse, part, random_rows(random, part, 120))


def test_a_part_of_nothing_gives_zero_to_every_sample(warehouse: Warehouse) -> None:
    part = random_part(np.random.default_rng(1), Shape(0, n_numbers=0, base=False))

    assert scored(warehouse, part, np.zeros((2, 0))) == ([SampleStatus.OK] * 2, [[0.0]] * 2)


def test_lightgbms_numbers_come_out_for_missing_values_and_categories(embedded: Warehouse) -> None:
    random = np.random.default_rng(3)
    rows = np.column_stack([random.normal(size=(300, 2)), random.integers(0, len(COLOURS), 300)])
    rows[random.random(rows.shape) < 0.1] = np.nan
    target = np.nan_to_num(rows[:, 0]) + np.nan_to_num(rows[:, 2] % 3)
    settings = {"num_leaves": 7, "verbose": -1, "min_data_per_group": 5, "cat_smooth": 1, "seed": 1}
    booster = lightgbm.train(settings, lightgbm.Dataset(rows, target, categorical_feature=[2]), 5)

    statuses, scores = scored(embedded, of_lightgbm(booster, ["a", "b", "colour"], {"colour": COLOURS}), rows)

    assert set(statuses) == {SampleStatus.OK}
    expected = booster.predict(rows, raw_score=True)
    assert np.allclose(np.array(scores, dtype=np.float64)[:, 0], expected, rtol=0, atol=1e-12 * np.abs(expected).max())


def test_a_forests_probabilities_are_scikit_learns_next_to_its_thresholds(embedded: Warehouse) -> None:
    wine = load_wine()
    forest = RandomForestClassifier(5, max_depth=4, random_state=2).fit(wine.data, wine.target)
    part = of_forest(forest, [str(name) for name in wine.feature_names])
    rows = np.repeat(wine.data[::10], 3, axis=0)
    for at in range(len(rows)):  # a float64 on each side of a threshold that rounds to it, and next to those
        split = np.flatnonzero(part.trees.feature >= 0)[at % (part.trees.feature >= 0).sum()]
        half = np.spacing(np.float32(part.trees.threshold[split])) / 2
        rows[at, part.trees.feature[split]] = part.trees.threshold[split] + half * [-0.9, 0.9, 1.1][at % 3]

    statuses, scores = scored(embedded, part, rows)

    assert set(statuses) == {SampleStatus.OK}
    assert np.allclose(np.array(scores, dtype=np.float64), forest.predict_proba(rows), rtol=0, atol=1e-12)


@pytest.fixture
def roomy(place: Place, tmp_path: Path) -> Iterator[Warehouse]:
    """The warehouse, with a way for many rows to it."""
    if place.settings is None:
        yield place.warehouse
        return
    from fedpredict.warehouse.hive import HiveWarehouse

    warehouse = HiveWarehouse(replace(place.settings, staging=str(tmp_path)))
    yield warehouse
    warehouse.close()


def test_500_trees_of_depth_8_are_scored(roomy: Warehouse) -> None:
    random = np.random.default_rng(8)
    part = full_trees(random, n_trees=500, depth=8, n_features=20)
    rows = random.normal(size=(20, 20))
    rows[random.random(rows.shape) < 0.05] = np.nan

    assert_as_numpy(roomy, part, rows)


def test_every_engine_keeps_the_trees_under_the_same_digest(
    warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fedpredict.tables.models.secrets.token_bytes", lambda count: bytes(range(count)))
    random = np.random.default_rng(6)
    part = random_part(random, Shape(n_texts=2, with_sets=True, zero_is_missing=True))
    version, _ = publish(warehouse, part, random_rows(random, part, 2))

    loaded = load_model(warehouse, version).part

    assert isinstance(loaded, TreesPart)
    assert loaded.values.tobytes() == part.values.tobytes()
    assert loaded.trees.threshold.tobytes() == part.trees.threshold.tobytes()
