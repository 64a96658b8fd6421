"""The parity certificate: what verification rows come to in process and in each engine, and what a wrong one does."""

from __future__ import annotations

import uuid
from collections.abc import Mapping

import numpy as np
import pytest
from sklearn.datasets import load_wine
from sklearn.linear_model import LogisticRegression

from fedpredict.convert.certify import certificate_of, replay
from fedpredict.errors import ModelNotFoundError, VerificationError
from fedpredict.model.arrays import Floats
from fedpredict.model.kinds import Kind
from fedpredict.model.linear import LinearPart
from fedpredict.model.part import UNKNOWN_CATEGORY
from fedpredict.model.partial import PartialModel, VerificationRows
from fedpredict.tables.models import ModelVersion, list_versions, publish_model, rollback
from fedpredict.tables.names import column_names
from fedpredict.tables.views import FeatureView, ViewFeature, list_snapshots
from fedpredict.warehouse.base import ColumnType, Warehouse
from tests.tree_parts import Shape, random_part

pytestmark = pytest.mark.timeout(300)

WINE = load_wine()
NAMES = tuple(str(name) for name in WINE.feature_names)


def new_view() -> FeatureView:
    columns = column_names([*NAMES, "unused text"])
    kinds = {name: ColumnType.STRING if name == "unused text" else ColumnType.DOUBLE for name in columns}
    features = tuple(ViewFeature(name, column, kinds[name]) for name, column in columns.items())
    return FeatureView(f"v_{uuid.uuid4().hex}", 1, features, "id", None)


def trained(change: float = 0.0) -> tuple[PartialModel, Floats]:
    """A model with verification rows of scikit-learn's scores, the first one changed; the last row has none."""
    model = LogisticRegression(max_iter=5000).fit(WINE.data, WINE.target)
    rows = np.vstack([WINE.data[:20], np.full(13, np.nan)])
    scores = np.vstack([model.decision_function(WINE.data[:20]), np.full(3, np.nan)])
    scores[0, 0] += change
    part = LinearPart(NAMES, model.coef_.T, model.intercept_, np.zeros(3))
    classes = tuple(str(each) for each in WINE.target_names)
    name = f"m-{uuid.uuid4().hex}"
    verification = VerificationRows(rows, scores)
    return PartialModel(name, "run-1", "lab", Kind.MULTINOMIAL, classes, True, part, verification), scores


def convert(warehouse: Warehouse, partial: PartialModel, view: FeatureView) -> ModelVersion:
    def certify(version: ModelVersion) -> Mapping[str, object]:
        return certificate_of(replay(warehouse, partial, view, version), partial)

    return publish_model(warehouse, partial, view, "a" * 64, certify)[0]


def test_numpy_and_the_engine_replay_the_rows_and_the_version_keeps_what_they_came_to(warehouse: Warehouse) -> None:
    partial, _ = trained()
    view = new_view()

    convert(warehouse, partial, view)

    kept = list_versions(warehouse, partial.model_id)[0].certificate
    parity = kept["parity"]
    assert isinstance(parity, list)
    assert [each["engine"] for each in parity] == ["numpy", warehouse.engine.name]
    assert [each["version"] for each in parity] == [np.__version__, warehouse.engine.version]
    assert all(each["rows"] == 21 and 0.0 <= each["max_rel"] <= 1e-12 and each["elapsed_s"] > 0.0 for each in parity)
    assert (kept["verification_rows"], kept["tolerance"]) == (21, 1e-9)


def test_the_rows_leave_nothing_behind_that_looks_like_a_snapshot(warehouse: Warehouse) -> None:
    partial, _ = trained()
    view = new_view()

    convert(warehouse, partial, view)

    assert [each for each in list_snapshots(warehouse) if each.view.name == view.name] == []
    assert warehouse.read(view.schema.name, ["sample_id"], {"view_version": 1}).num_rows == 0


@pytest.mark.parametrize("change", [1e-3, float("nan")])
def test_a_score_that_differs_and_nothing_is_published_nor_left(embedded: Warehouse, change: float) -> None:
    partial, _ = trained(change)
    view = new_view()

    with pytest.raises(VerificationError, match="numpy gives other partial scores"):
        convert(embedded, partial, view)

    assert list_versions(embedded, partial.model_id) == []
    table = f"fp_linear_{view.name}"
    assert embedded.read(table, ["params_sha256"], {"model_id": partial.model_id}).num_rows == 0
    with pytest.raises(ModelNotFoundError):
        rollback(embedded, partial.model_id)


def test_an_engine_that_differs_from_numpy_is_caught(embedded: Warehouse, monkeypatch: pytest.MonkeyPatch) -> None:
    """The parameter rows are what the engine computes from: damage them, and only the engine's scores change."""
    partial, scores = trained()
    view = new_view()
    other = PartialModel(
        partial.model_id, "run-1", "lab", partial.kind, partial.classes, True,
        LinearPart(NAMES, partial.part.weights * 1.001, partial.part.intercept, np.zeros(3)),  # type: ignore[attr-defined]
        VerificationRows(np.nan_to_num(WINE.data[:20]), scores[:20]),
    )  # fmt: skip
    version = publish_model(embedded, other, view, "b" * 64)[0]

    with pytest.raises(VerificationError, match=f"{embedded.engine.name} gives other partial scores"):
        replay(embedded, partial, view, version)


@pytest.mark.parametrize("expected", [np.nan, 1.0])
def test_a_row_with_an_unknown_category_has_no_expected_number(embedded: Warehouse, expected: float) -> None:
    """It counts as a row that agrees where the trainer has no number either, and never where it has one."""
    part = random_part(np.random.default_rng(2), Shape(3, 2, n_texts=1, with_sets=True, closed=True))
    known = next(float(each) for each in np.asarray(part.closed["n2"]))
    rows = np.array([[0.5, 0.5, known, 1.0], [0.5, 0.5, known, UNKNOWN_CATEGORY], [0.5, 0.5, 77.0, 1.0]])
    scores = part.partial_scores(rows)
    scores[1:] = [[np.nan], [expected]]
    name, columns = f"m-{uuid.uuid4().hex}", column_names(part.features)
    kinds = {each: ColumnType.STRING if each == "t0" else ColumnType.DOUBLE for each in columns}
    view = FeatureView(
        f"v_{uuid.uuid4().hex}", 1, tuple(ViewFeature(n, c, kinds[n]) for n, c in columns.items()), "id", None
    )
    partial = PartialModel(
        name, "run-1", "lab", Kind.LINEAR, (), True, part, VerificationRows(rows, scores)
    )  # fmt: skip

    if not np.isnan(expected):
        with pytest.raises(
            VerificationError, match=r"numpy gives .*: a row has a score where none is expected, or none"
        ):
            convert(embedded, partial, view)
        return
    kept = convert(embedded, partial, view).certificate["parity"]
    assert isinstance(kept, list)
    assert [(each["engine"], each["rows"]) for each in kept] == [("numpy", 3), (embedded.engine.name, 3)]
    assert all(each["max_rel"] <= 1e-12 for each in kept)


def test_predictions_of_a_whole_model_are_compared_behind_the_link(embedded: Warehouse) -> None:
    model = LogisticRegression(max_iter=5000).fit(WINE.data, WINE.target)
    partial, _ = trained()
    expected = model.predict_proba(WINE.data[:20])
    rows = VerificationRows(WINE.data[:20], np.full((20, 3), np.nan), expected)
    right = PartialModel(
        partial.model_id, "run-1", "lab", partial.kind, partial.classes, True, partial.part, rows
    )  # fmt: skip

    version = convert(embedded, right, new_view())

    parity = version.certificate["parity"]
    assert isinstance(parity, list)
    assert all(each["max_abs"] <= 1e-12 for each in parity)
