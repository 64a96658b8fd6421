"""Scoring in the warehouse's engine: the embedded one, Spark and Hive give scikit-learn's and numpy's numbers."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest
from sklearn.datasets import load_wine
from sklearn.linear_model import LogisticRegression

from fedpredict.model.arrays import Floats
from fedpredict.model.kinds import Kind
from fedpredict.model.linear import LinearPart
from fedpredict.model.partial import PartialModel
from fedpredict.model.share import SampleStatus
from fedpredict.tables.models import ModelVersion, load_model, publish_model
from fedpredict.tables.names import column_names
from fedpredict.tables.statements import score_in_engine
from fedpredict.tables.views import FeatureView, Snapshot, ViewFeature, publish_snapshot, snapshot_name
from fedpredict.warehouse.base import ColumnType, Warehouse
from tests.linear_parts import linear

pytestmark = pytest.mark.timeout(300)  # Hive's first INSERT in a session alone takes up to 35 s

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)
SOURCE = "5" * 64
ODD_NAMES = ("Mean radius (mm)", "年龄", "order", "status")


def new_view(features: Sequence[str], texts: Sequence[str] = ()) -> FeatureView:
    columns = column_names([*features, *texts])
    kinds = {name: ColumnType.STRING if name in texts else ColumnType.DOUBLE for name in columns}
    described = tuple(ViewFeature(name, column, kinds[name]) for name, column in columns.items())
    return FeatureView(f"v_{uuid.uuid4().hex}", 1, described, "id", "seen")


def rows_of(
    view: FeatureView, ids: Sequence[str], values: Mapping[str, Sequence[object]], instants: Sequence[datetime] = ()
) -> pa.Table:
    moments = pa.array(instants or [NOON] * len(ids), pa.timestamp("us", tz="UTC"))
    kinds = {ColumnType.DOUBLE: pa.float64(), ColumnType.STRING: pa.string()}
    columns = {each.column: pa.array(values[each.name], kinds[each.type]) for each in view.features}
    return pa.table({"sample_id": pa.array(ids, pa.string()), "event_time": moments, **columns})


def snapshot_of(
    warehouse: Warehouse,
    view: FeatureView,
    ids: Sequence[str],
    values: Mapping[str, Sequence[object]],
    instants: Sequence[datetime] = (),
) -> Snapshot:
    return publish_snapshot(warehouse, view, snapshot_name(NOON), rows_of(view, ids, values, instants))


def publish(
    warehouse: Warehouse, view: FeatureView, features: Sequence[str], weights: Floats, intercept: Floats | None = None
) -> ModelVersion:
    part = LinearPart(tuple(features), weights, intercept, np.zeros(weights.shape[1]))
    fit = intercept is not None
    partial = PartialModel(f"m-{uuid.uuid4().hex}", "run-1", "lab", Kind.LINEAR, (), fit, part)
    return publish_model(warehouse, partial, view, SOURCE)[0]


def scores_of(rows: pa.Table, ids: Sequence[str]) -> Floats:
    """Return the engine's scores in the order of `ids`; NaN where there is none."""
    by_id = {row["sample_id"]: row["scores"] for row in rows.to_pylist()}
    width = max(len(scores) for scores in by_id.values() if scores)
    return np.array([by_id[name] or [np.nan] * width for name in ids])


def statuses_of(rows: pa.Table) -> dict[str, SampleStatus]:
    return {row["sample_id"]: SampleStatus(row["status"]) for row in rows.to_pylist()}


def assert_close(found: Floats, expected: Floats, features: Floats, weights: Floats, offset: Floats) -> None:
    """Hold the scores to 1e-12 of the sum of the absolute terms."""
    terms = np.abs(features) @ np.abs(weights) + np.abs(offset)
    assert np.all(np.abs(found - expected) <= 1e-12 * terms)


@pytest.fixture
def no_numpy_scores(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Give a function after which any score computed in Python is an error."""

    def refuse(*_: object) -> Floats:
        raise AssertionError("a score was computed in Python")

    return lambda: monkeypatch.setattr(LinearPart, "partial_scores", refuse)


def test_the_engine_gives_scikit_learns_scores_while_python_computes_none(
    embedded: Warehouse, no_numpy_scores: Callable[[], None]
) -> None:
    wine = load_wine()
    model = LogisticRegression(max_iter=5000).fit(wine.data, wine.target)
    expected, weights, intercept = model.decision_function(wine.data), model.coef_.T, model.intercept_
    names = [str(name) for name in wine.feature_names]
    ids = [f"wine-{row}" for row in range(len(wine.data))]
    no_numpy_scores()

    view = new_view(names)
    snapshot = snapshot_of(embedded, view, ids, dict(zip(names, wine.data.T, strict=True)))
    rows = score_in_engine(embedded, publish(embedded, view, names, weights, intercept), snapshot)

    assert set(statuses_of(rows).values()) == {SampleStatus.OK}
    assert rows.column("sample_id").to_pylist() == sorted(ids)
    assert_close(scores_of(rows, ids), expected, wine.data, weights, intercept)


def test_the_engine_gives_the_statuses_of_scoring_in_process(warehouse: Warehouse) -> None:
    nan, inf, big = float("nan"), float("inf"), 1.7e308
    cases: dict[str, tuple[float | None, float | None, SampleStatus]] = {
        "good": (1.0, 2.0, SampleStatus.OK),
        "zeros": (0.0, -0.0, SampleStatus.OK),
        "tiny": (5e-324, -5e-324, SampleStatus.OK),
        "largest": (1.7976931348623157e308, 0.0, SampleStatus.OK),
        "lowest": (-1.7976931348623157e308, 0.0, SampleStatus.OK),
        "null": (None, 2.0, SampleStatus.FEATURE_MISSING),
        "nan": (1.0, nan, SampleStatus.FEATURE_MISSING),
        "null and nan": (None, nan, SampleStatus.FEATURE_MISSING),
        "infinite": (inf, 2.0, SampleStatus.FEATURE_INVALID),
        "minus infinite": (1.0, -inf, SampleStatus.FEATURE_INVALID),
        "infinite and null": (-inf, None, SampleStatus.FEATURE_INVALID),
        "nan and infinite": (nan, inf, SampleStatus.FEATURE_INVALID),
        "too large": (big, big, SampleStatus.OUT_OF_RANGE),
        "too low": (-big, -big, SampleStatus.OUT_OF_RANGE),
    }
    first, second, expected = zip(*cases.values(), strict=True)
    view = new_view(["a", "b"])
    snapshot = snapshot_of(warehouse, view, list(cases), {"a": first, "b": second})
    version = publish(warehouse, view, ["a", "b"], np.array([[1.0, 0.0], [1.0, 0.0]]))

    rows = score_in_engine(warehouse, version, snapshot)

    assert statuses_of(rows) == dict(zip(cases, expected, strict=True))
    by_id = {row["sample_id"]: row["scores"] for row in rows.to_pylist()}
    assert by_id["good"] == [3.0, 0.0]
    assert [name for name, scores in by_id.items() if scores is not None] == sorted(
        name for name, case in cases.items() if case[2] is SampleStatus.OK
    )


def test_the_latest_row_of_a_sample_counts_and_a_tie_is_invalid(warehouse: Warehouse) -> None:
    hour = timedelta(hours=1)
    view = new_view(["a"])
    ids = ["moved", "moved", "moved", "tied", "tied", "old tie", "old tie", "old tie"]
    values = [1.0, 3.0, float("inf"), 1.0, 1.0, 1.0, 2.0, 5.0]
    instants = [NOON, NOON + hour, NOON - hour, NOON, NOON, NOON, NOON, NOON + hour / 3_600_000_000]
    version = publish(warehouse, view, ["a"], np.array([[2.0]]), np.array([0.5]))

    snapshot = snapshot_of(warehouse, view, ids, {"a": values}, instants)
    rows = score_in_engine(warehouse, version, snapshot).to_pylist()

    found = {row["sample_id"]: (row["status"], row["scores"], row["event_time"]) for row in rows}
    assert found["moved"] == (SampleStatus.OK, [6.5], NOON + hour)
    assert found["tied"] == (SampleStatus.FEATURE_INVALID, None, NOON)
    assert found["old tie"][:2] == (SampleStatus.OK, [10.5])
    assert len(rows) == 3


def test_only_the_features_of_the_model_matter_whatever_they_are_called(warehouse: Warehouse) -> None:
    view = new_view([*ODD_NAMES, "unused"], texts=["colour"])
    values: dict[str, list[object]] = {name: [float(place), -0.25] for place, name in enumerate(ODD_NAMES)}
    values |= {"unused": [float("inf"), None], "colour": ["red", None]}
    weights = np.array([[0.5], [-1.0], [2.0], [0.125]])
    version = publish(warehouse, view, ODD_NAMES, weights)

    rows = score_in_engine(warehouse, version, snapshot_of(warehouse, view, ["x", "y"], values))

    assert scores_of(rows, ["x", "y"]).tolist() == [[3.375], [-0.40625]]


def test_ids_come_back_as_they_are(warehouse: Warehouse) -> None:
    ids = ["ag'e", '"', "back\\slash", "年龄", " padded ", "A", "a", "100%"]
    view = new_view(["a"])
    snapshot = snapshot_of(warehouse, view, ids, {"a": [1.0] * len(ids)})

    rows = score_in_engine(warehouse, publish(warehouse, view, ["a"], np.array([[1.0]])), snapshot)

    assert sorted(rows.column("sample_id").to_pylist()) == sorted(ids)


def test_another_version_or_snapshot_is_not_mixed_in(embedded: Warehouse) -> None:
    view = new_view(["a"])
    old = publish_snapshot(embedded, view, snapshot_name(NOON), rows_of(view, ["x", "gone"], {"a": [1.0, 1.0]}))
    new = publish_snapshot(embedded, view, snapshot_name(NOON + timedelta(days=1)), rows_of(view, ["x"], {"a": [10.0]}))
    first = publish(embedded, view, ["a"], np.array([[2.0]]))
    second = publish(embedded, view, ["a"], np.array([[3.0]]))

    assert score_in_engine(embedded, first, old).column("scores").to_pylist() == [[2.0], [2.0]]
    assert score_in_engine(embedded, second, new).column("scores").to_pylist() == [[30.0]]


@pytest.mark.timeout(600)  # a minute of planning and compiling on a server's side, more on a busy machine
def test_a_view_of_2000_features_is_scored(warehouse: Warehouse) -> None:
    random = np.random.default_rng(7)
    names = [f"f{number}" for number in range(2000)]
    features, weights = random.normal(size=(3, 2000)), random.normal(size=(2000, 2))
    features[2, 1999] = np.nan
    offset = np.array([1.5, -2.5])
    view = new_view(names)
    version = publish(warehouse, view, names, weights, offset)
    snapshot = snapshot_of(warehouse, view, ["x", "y", "z"], dict(zip(names, features.T, strict=True)))

    rows = score_in_engine(warehouse, version, snapshot)

    assert list(statuses_of(rows).values()) == [SampleStatus.OK, SampleStatus.OK, SampleStatus.FEATURE_MISSING]
    assert_close(scores_of(rows, ["x", "y"]), features[:2] @ weights + offset, features[:2], weights, offset)


def test_every_engine_keeps_the_parameters_under_the_same_digest(
    warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fedpredict.tables.models.secrets.token_bytes", lambda count: bytes(range(count)))
    names = ("age", "Income", "年龄")
    features = tuple(ViewFeature(name, column, ColumnType.DOUBLE) for name, column in column_names(names).items())
    view = FeatureView("digest", 1, features, "id", None)
    weights = np.array([[0.1, -0.0], [5e-324, 1.7976931348623157e308], [-1e-300, 1 / 3]])
    part = LinearPart(names, weights, np.array([-0.0, 0.1]), np.array([0.0, -2.5]))
    partial = PartialModel("digest-model", "run-1", "lab", Kind.LINEAR, (), True, part)

    version, _ = publish_model(warehouse, partial, view, SOURCE)
    loaded = load_model(warehouse, version)

    # built from the documented bytes by hand, with struct and hashlib: see tests/unit/tables/test_digest.py
    assert version.params_sha256 == "2d7866912c5ffc5e13435dd7e0a6d6d5d85872b4324a8cdf665c68bc3cdabfac"
    assert linear(loaded.part).weights.tobytes() == weights.tobytes()
    assert linear(loaded.part).offset.tobytes() == linear(part).offset.tobytes()
