"""Histogram gradient boosting of the installed scikit-learn, against its own predictions."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_breast_cancer, load_diabetes, load_wine
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from fedpredict.convert.child import read_content
from fedpredict.convert.options import Limits
from fedpredict.convert.portable import from_portable, parse_json, to_json
from fedpredict.errors import ModelFileError, UnsupportedModelError
from fedpredict.model.arrays import Floats
from fedpredict.model.kinds import Kind
from fedpredict.model.links import Link
from fedpredict.model.partial import PartialModel
from fedpredict.model.trees import NO_SET, TreesPart
from tests.unit.convert.support import expected_of, joblib_bytes, options_for, predictions_of, read_estimator

CANCER, WINE, DIABETES = (load(return_X_y=True) for load in (load_breast_cancer, load_wine, load_diabetes))
FEW: dict[str, Any] = {"max_iter": 5, "max_depth": 4, "random_state": 0}
N_ROWS = 240
"""Enough for categories to be split by, which need some ten rows each."""
NAMES = ("u", "v", "a'b", "é", "10", "2", "", "w", "x")


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """Threads that wait for each other on a busy machine take a hundred times as long as one."""
    with threadpool_limits(1):
        yield


def assert_predicts(model: Any, partial: PartialModel, features: Any, coded: Floats | None = None) -> None:
    """Every sample is scored, and its predictions agree to 1e-12 of the largest."""
    matrix = features if coded is None else coded
    expected = expected_of(model, features)
    assert partial.part.statuses(matrix) is None
    assert np.abs(predictions_of(partial, matrix) - expected).max() <= 1e-12 * np.abs(expected).max()


def with_gaps(features: Any) -> Any:
    gaps = np.arange(features.size).reshape(features.shape) % 7 == 3
    return np.where(gaps, np.nan, features)


@pytest.mark.parametrize("gaps", [False, True], ids=["whole", "gaps"])
@pytest.mark.parametrize(
    ("loss", "link"),
    [
        ("squared_error", "identity"),
        ("absolute_error", "identity"),
        ("quantile", "identity"),
        ("poisson", "log"),
        ("gamma", "log"),
    ],
)
def test_a_regression_predicts_as_scikit_learn(loss: str, link: str, gaps: bool) -> None:
    features = with_gaps(DIABETES[0]) if gaps else DIABETES[0]
    model = HistGradientBoostingRegressor(loss=loss, quantile=0.3, monotonic_cst=[0, 1] + [0] * 8, **FEW)
    model.fit(features, DIABETES[1])

    partial = read_estimator(model).partial

    assert (partial.kind, partial.link) == (Kind.LINEAR, Link(link))
    assert partial.holds_intercept
    assert_predicts(model, partial, with_gaps(DIABETES[0]))  # also where none was missing in training


@pytest.mark.parametrize(("data", "kind"), [(CANCER, Kind.BINARY), (WINE, Kind.MULTINOMIAL)], ids=["two", "three"])
def test_a_classifier_gives_its_probabilities(data: Any, kind: Kind) -> None:
    features, labels = with_gaps(data[0]), np.array(["a", "b", "c"])[data[1]]
    model = HistGradientBoostingClassifier(early_stopping=True, **FEW).fit(features, labels)

    partial = read_estimator(model).partial

    assert (partial.kind, partial.classes) == (kind, tuple(model.classes_))
    assert_predicts(model, partial, features)


def test_features_are_compared_in_float64() -> None:
    model = HistGradientBoostingRegressor(min_samples_leaf=1, **FEW).fit(
        np.arange(40.0)[:, None] + 2**26, np.arange(40)
    )
    asked = (np.arange(39.0) + 2**26 + 0.5)[:, None]
    asked = np.concatenate([asked, np.nextafter(asked, np.inf)])

    assert_predicts(model, read_estimator(model).partial, asked)


def table(seed: int) -> tuple[pd.DataFrame, Any]:
    """Numbers with gaps, codes, texts and whether; and a target that depends on all of them."""
    random = np.random.default_rng(seed)
    at, code = random.integers(0, len(NAMES), N_ROWS), random.integers(0, 12, N_ROWS) * 3
    x = np.where(random.random(N_ROWS) < 0.2, np.nan, random.normal(size=N_ROWS))
    texts = pd.Series(np.array(NAMES, dtype=object)[at])
    texts[random.random(N_ROWS) < 0.1] = np.nan
    whether = random.random(N_ROWS) < 0.5
    target = np.isin(at, [1, 4, 7]) * 2.0 + (code % 2) + np.nan_to_num(x) * 0.2 + whether
    frame = pd.DataFrame({"x": x, "text": texts.astype("category"), "y": x * 2, "code": code, "whether": whether})
    return frame, target


def coded(partial: PartialModel, frame: pd.DataFrame) -> Floats:
    """The table as the part wants it."""
    columns = []
    for name in partial.part.features:
        texts = partial.part.categories.get(name)
        if texts is None:
            columns.append(frame[name].to_numpy(dtype=np.float64))
            continue
        codes = {text: float(code) for code, text in enumerate(texts)}
        columns.append(np.array([np.nan if x != x else codes.get(x, -1.0) for x in frame[name].astype(object)]))  # noqa: PLR0124
    return np.array(columns).T


@settings(max_examples=10, deadline=None)
@given(
    seed=st.integers(0, 999), chosen=st.sampled_from([["text", "code"], ["whether", "text"], ["code"], "from_dtype"])
)
def test_splits_by_categories_go_where_scikit_learn_sends_them(seed: int, chosen: Any) -> None:
    frame, target = table(seed)
    if chosen == ["code"]:
        frame = frame.drop(columns="text")
    model = HistGradientBoostingRegressor(categorical_features=chosen, min_samples_leaf=3, max_iter=4)
    model.fit(frame, target)
    asked = frame.copy()
    asked["code"] = asked["code"].astype(float)
    odd = [0, 1, 2, 3, -1, -0.0, -0.5, 0.5, 2.999999, 3.25]  # three of ten are known
    asked.loc[:9, "code"] = odd
    if "text" in asked:
        asked["text"] = asked["text"].cat.add_categories("new")
        asked.loc[5:14, "text"] = "new"

    partial = read_estimator(model, features=None).partial

    assert isinstance(partial.part, TreesPart)
    assert (partial.part.trees.left_set != NO_SET).any()
    assert partial.part.features == tuple(frame.columns)
    assert set(partial.part.categories) == {"text"} & set(frame.columns) - ({"text"} if chosen == ["code"] else set())
    assert_predicts(model, partial, asked, coded(partial, asked))
    again = from_portable(parse_json(to_json(partial)))
    assert (predictions_of(again, coded(again, asked)) == predictions_of(partial, coded(partial, asked))).all()


@pytest.mark.parametrize("compress", [0, 3])
def test_a_joblib_file_gives_the_same_model(compress: int) -> None:
    frame, target = table(0)
    model = HistGradientBoostingRegressor(**FEW).fit(frame, target)

    partial = read_content(joblib_bytes(model, compress), options_for(5, features=None), Limits()).partial

    assert_predicts(model, partial, frame, coded(partial, frame))


@pytest.mark.parametrize("values", [[-1.0, 0.0, 1.0], [0.5, 1.0, 2.0], [0.0, 1.0, 2.0**40]])
def test_categories_that_cannot_be_codes_are_refused_with_the_fix(values: list[float]) -> None:
    features = np.array(values * 20)[:, None]
    model = HistGradientBoostingRegressor(categorical_features=[0], min_samples_leaf=2).fit(features, np.arange(60))

    with pytest.raises(UnsupportedModelError, match="make them texts"):
        read_estimator(model)


def test_a_loss_of_its_own_is_refused() -> None:
    from sklearn._loss.loss import HalfSquaredError

    model = HistGradientBoostingRegressor(loss=HalfSquaredError(), **FEW)
    model.fit(*DIABETES)

    with pytest.raises(UnsupportedModelError, match="loss of its own"):
        read_estimator(model)


def test_an_unfitted_model_is_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="not fitted"):
        read_content(pickle.dumps(HistGradientBoostingClassifier()), options_for(3), Limits())


@pytest.mark.parametrize(
    ("field", "value", "told"),
    [
        ("left", 0, "circle"),
        ("right", 999, "dangling"),
        ("feature_idx", 10, "not among its 10"),
        ("feature_idx", -1, "not among its 10"),
        ("num_threshold", np.nan, "threshold"),
        ("is_leaf", 1, "no binary tree"),
        ("is_categorical", 1, "categories"),
    ],
)
def test_a_damaged_tree_is_refused(field: str, value: float, told: str) -> None:
    model = HistGradientBoostingRegressor(max_iter=1, max_depth=2).fit(*DIABETES)
    model._predictors[0][0].nodes[field][0] = value

    with pytest.raises(ModelFileError, match=told):
        read_estimator(model)


def test_sets_of_categories_that_do_not_fit_are_refused() -> None:
    frame, target = table(0)
    model = HistGradientBoostingRegressor(categorical_features=["code"], min_samples_leaf=3, max_iter=2)
    model.fit(frame[["code", "x"]], target)
    predictor = next(each for stage in model._predictors for each in stage if each.nodes["is_categorical"].any())
    predictor.raw_left_cat_bitsets[:] = 2**32 - 1

    with pytest.raises(ModelFileError, match="categories that there are not"):
        read_estimator(model, features=None)
