"""Trees, forests and gradient boosting of the installed scikit-learn, against its own predictions."""

from __future__ import annotations

import functools
import pickle
import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_breast_cancer, load_diabetes, load_wine
from sklearn.dummy import DummyClassifier, DummyRegressor
from sklearn.ensemble import (
    ExtraTreesClassifier,
    ExtraTreesRegressor,
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.linear_model import LinearRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor, ExtraTreeClassifier, ExtraTreeRegressor

from fedpredict.convert.child import read_content
from fedpredict.convert.options import Limits
from fedpredict.errors import ModelConflictError, ModelFileError, UnsupportedModelError
from fedpredict.model.arrays import Floats
from fedpredict.model.kinds import Kind
from fedpredict.model.links import Link
from fedpredict.model.partial import PartialModel
from fedpredict.model.share import SampleStatus
from fedpredict.model.trees import TreesPart
from tests.unit.convert.support import expected_of, joblib_bytes, options_for, predictions_of, read_estimator

CANCER, WINE, DIABETES = (load(return_X_y=True) for load in (load_breast_cancer, load_wine, load_diabetes))
TARGETS = DIABETES[0], np.c_[DIABETES[1], DIABETES[1] ** 2]
SMALL: dict[str, Any] = {"max_depth": 4, "random_state": 0}
FEW: dict[str, Any] = {**SMALL, "n_estimators": 5}


def fit(model: Any, features: Any, target: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated settings are read as well
        return model.fit(features, target)


def with_gaps(features: Any) -> Any:
    """The features with every seventh value missing."""
    gaps = np.arange(features.size).reshape(features.shape) % 7 == 3
    return np.where(gaps, np.nan, features)


def assert_predicts(model: Any, partial: PartialModel, features: Any) -> None:
    """Every sample is scored, and its predictions agree to 1e-12 of the largest."""
    expected = expected_of(model, features)
    assert partial.part.statuses(features) is None
    assert np.abs(predictions_of(partial, features) - expected).max() <= 1e-12 * np.abs(expected).max()


def trees(partial: PartialModel) -> TreesPart:
    assert isinstance(partial.part, TreesPart)
    return partial.part


@pytest.mark.parametrize("data", [CANCER, WINE], ids=["two", "three"])
@pytest.mark.parametrize(
    "model",
    [
        DecisionTreeClassifier(**SMALL),
        DecisionTreeClassifier(criterion="entropy", splitter="random", class_weight="balanced", **SMALL),
        ExtraTreeClassifier(**SMALL),
        RandomForestClassifier(oob_score=True, **{**FEW, "n_estimators": 20}),
        ExtraTreesClassifier(**FEW),
    ],
    ids=lambda model: type(model).__name__,
)
def test_a_classifier_of_trees_gives_its_probabilities(model: Any, data: Any) -> None:
    features, target = with_gaps(data[0]), np.array(["a", "b", "c"])[data[1]]
    model = fit(model, features, target)

    partial = read_estimator(model).partial

    assert (partial.kind, partial.link) == (Kind.PROBABILITY, Link("identity"))
    assert partial.classes == tuple(model.classes_)
    assert (partial.fit_intercept, partial.part.intercept) == (False, None)
    assert_predicts(model, partial, features)


@pytest.mark.parametrize("data", [DIABETES, TARGETS], ids=["one", "two"])
@pytest.mark.parametrize(
    "model",
    [
        DecisionTreeRegressor(max_leaf_nodes=9, random_state=0),
        DecisionTreeRegressor(criterion="absolute_error", **SMALL),
        DecisionTreeRegressor(ccp_alpha=0.5, random_state=0),
        ExtraTreeRegressor(**SMALL),
        RandomForestRegressor(criterion="poisson", **FEW),
        ExtraTreesRegressor(bootstrap=True, **FEW),
    ],
    ids=lambda model: f"{type(model).__name__}-{model.criterion}",
)
def test_a_regression_of_trees_predicts_as_scikit_learn(model: Any, data: Any) -> None:
    features, target = with_gaps(data[0]), data[1]
    model = fit(model, features, target)

    partial = read_estimator(model).partial

    assert (partial.kind, partial.link) == (Kind.LINEAR, Link("identity"))
    assert partial.part.n_scores == target.ndim
    assert_predicts(model, partial, features)


@pytest.mark.parametrize(
    "model",
    [
        *(
            GradientBoostingRegressor(loss=loss, alpha=0.3, **FEW)
            for loss in ("squared_error", "absolute_error", "huber", "quantile")
        ),
        GradientBoostingRegressor(init="zero", learning_rate=np.float64(0.3), subsample=0.5, **FEW),
        GradientBoostingRegressor(init=DummyRegressor(strategy="quantile", quantile=0.2), **FEW),
        GradientBoostingRegressor(n_iter_no_change=2, **{**FEW, "n_estimators": 50}),
    ],
    ids=lambda model: f"{model.loss}-{model.init}",
)
def test_a_boosted_regression_predicts_as_scikit_learn(model: Any) -> None:
    model = fit(model, *DIABETES)

    partial = read_estimator(model).partial

    assert (partial.kind, partial.link) == (Kind.LINEAR, Link("identity"))
    assert partial.fit_intercept
    assert partial.holds_intercept
    assert_predicts(model, partial, DIABETES[0])


@pytest.mark.parametrize(
    ("model", "data", "kind"),
    [
        (GradientBoostingClassifier(**FEW), CANCER, Kind.BINARY),
        (GradientBoostingClassifier(**FEW), WINE, Kind.MULTINOMIAL),
        (GradientBoostingClassifier(init="zero", **FEW), WINE, Kind.MULTINOMIAL),
        (GradientBoostingClassifier(init=DummyClassifier(strategy="prior"), **FEW), CANCER, Kind.BINARY),
        (GradientBoostingClassifier(loss="exponential", **FEW), CANCER, Kind.BINARY),
        (GradientBoostingClassifier(loss="exponential", init="zero", **FEW), CANCER, Kind.BINARY),
    ],
)
def test_a_boosted_classifier_gives_its_probabilities(model: Any, data: Any, kind: Kind) -> None:
    model = fit(model, *data)

    partial = read_estimator(model).partial

    assert partial.kind is kind
    assert_predicts(model, partial, data[0])


def test_raw_scores_of_a_boosted_classifier_are_its_decision_values() -> None:
    model = fit(GradientBoostingClassifier(**FEW), *WINE)

    partial = read_estimator(model).partial

    ours, theirs = partial.part.partial_scores(WINE[0]), model.decision_function(WINE[0])
    assert (np.abs(ours - theirs) <= 1e-12 * partial.part.magnitudes(WINE[0])).all()


def test_a_class_that_hardly_weighs_has_the_clipped_prior_of_the_version() -> None:
    target = np.repeat([0, 1, 2], [160, 16, 2])
    weights = np.where(target == 2, 1e-18, 1.0)
    model = GradientBoostingClassifier(**FEW).fit(WINE[0], target, sample_weight=weights)

    assert_predicts(model, read_estimator(model).partial, WINE[0])


@pytest.mark.parametrize(
    "model",
    [
        DecisionTreeRegressor(**SMALL),
        DecisionTreeRegressor(criterion="absolute_error", monotonic_cst=[1] + [0] * 9, **SMALL),
        ExtraTreeRegressor(**SMALL),
        ExtraTreeRegressor(splitter="best", **SMALL),
        RandomForestRegressor(**FEW),
        ExtraTreesRegressor(**FEW),
        GradientBoostingRegressor(**FEW),
    ],
    ids=lambda model: f"{type(model).__name__}-{getattr(model, 'splitter', '')}",
)
def test_missing_values_are_scored_where_scikit_learn_scores_them(model: Any) -> None:
    model = fit(model, *DIABETES)  # without missing values
    features = with_gaps(DIABETES[0])
    partial = read_estimator(model).partial

    try:
        model.predict(features)
    except ValueError:
        status = partial.part.statuses(features)
        assert status is not None
        assert (status == np.where(np.isnan(features).any(axis=1), SampleStatus.FEATURE_MISSING, 0)).all()
    else:
        assert_predicts(model, partial, features)


def test_features_between_the_float32_and_the_float64_threshold_go_where_scikit_learn_sends_them() -> None:
    # odd in the last bit: halfway to the next float32 rounds up, beyond the threshold that stands there
    base = np.nextafter(np.array([0.125, 1.0, 4096.0, 1e-40], dtype=np.float32), np.float32(np.inf)).astype(np.float64)
    near = np.concatenate([base, np.nextafter(base, np.inf), np.nextafter(base, -np.inf)])
    halves = (base + np.nextafter(base.astype(np.float32), np.float32(np.inf)).astype(np.float64)) / 2
    train = np.concatenate([base, np.nextafter(base.astype(np.float32), np.float32(np.inf))])[:, None]
    model = fit(DecisionTreeRegressor(), train, np.arange(len(train), dtype=np.float64))
    asked = np.concatenate([near, halves, np.nextafter(halves, np.inf), np.nextafter(halves, -np.inf)])[:, None]

    partial = read_estimator(model).partial

    assert_predicts(model, partial, asked)
    as_float64 = trees(partial).trees.threshold[None, :] >= asked
    as_float32 = trees(partial).trees.threshold[None, :] >= asked.astype(np.float32)
    assert (as_float64 != as_float32).any()  # else nothing was tested


def test_a_number_beyond_float32_is_refused_as_scikit_learn_refuses_it() -> None:
    model = fit(DecisionTreeRegressor(**SMALL), *DIABETES)
    features = DIABETES[0][:2].copy()
    features[1, 0] = 1e39

    with np.errstate(over="ignore"), pytest.raises(ValueError, match="too large"):
        model.predict(features)
    status = read_estimator(model).partial.part.statuses(features)
    assert status is not None
    assert status.tolist() == [SampleStatus.OK, SampleStatus.FEATURE_INVALID]


ODD = st.sampled_from([np.nan, 0.0, -0.0, 1.0, 1.0, 2.0, -3.0, 1e-45, 1e-300, 3e38, -3e38, 0.1, 16777217.0])


@settings(max_examples=25, deadline=None)
@given(
    rows=st.lists(st.tuples(ODD, ODD, st.floats(-1e3, 1e3)), min_size=12, max_size=30),
    seed=st.integers(0, 99),
    kind=st.sampled_from([DecisionTreeRegressor, RandomForestRegressor, ExtraTreeRegressor, DecisionTreeClassifier]),
)
def test_any_features_are_scored_as_scikit_learn_scores_them(rows: list[Any], seed: int, kind: Any) -> None:
    features = np.array(rows)
    target = np.random.default_rng(seed).integers(0, 3, len(features))
    options = {"n_estimators": 3} if kind is RandomForestRegressor else {}
    with np.errstate(invalid="ignore"):  # scikit-learn adds up all numbers, beyond float32 in both directions
        model = fit(kind(random_state=seed, **options), features, target)
        if kind is DecisionTreeClassifier and len(model.classes_) < 2:
            return

        assert_predicts(model, read_estimator(model).partial, features[::-1])


@functools.cache
def forest() -> Any:
    return fit(RandomForestRegressor(**FEW), *DIABETES)


@pytest.mark.parametrize("protocol", range(2, 6))
@pytest.mark.parametrize("model", [forest(), fit(GradientBoostingRegressor(**FEW), *DIABETES)], ids=["forest", "gb"])
def test_every_protocol_gives_the_same_model(model: Any, protocol: int) -> None:
    partial = read_estimator(model, protocol).partial

    assert_predicts(model, partial, DIABETES[0])


@pytest.mark.parametrize("compress", [0, 3])
@pytest.mark.parametrize("model", [forest(), fit(GradientBoostingClassifier(**FEW), *WINE)], ids=["forest", "gb"])
def test_a_joblib_file_gives_the_same_model(model: Any, compress: int) -> None:
    partial = read_content(joblib_bytes(model, compress), options_for(model.n_features_in_), Limits()).partial

    assert_predicts(model, partial, (WINE if model.n_features_in_ == 13 else DIABETES)[0])


def test_names_of_the_file_are_kept_also_those_of_features_that_no_tree_uses() -> None:
    import pandas as pd

    table = pd.DataFrame({"x": [0.0, 1.0, 2.0, 3.0], "unused": 1.0})
    model = fit(DecisionTreeRegressor(), table, [0.0, 1.0, 2.0, 3.0])

    assert read_estimator(model, features=None).partial.part.features == ("x", "unused")


def test_a_forest_has_no_intercept_but_the_joint_model_may() -> None:
    partial = read_estimator(forest(), fit_intercept=True, holds_intercept=False).partial

    assert (partial.fit_intercept, partial.holds_intercept) == (True, False)
    with pytest.raises(ModelConflictError, match="holds no intercept"):
        read_estimator(forest(), holds_intercept=True)


def test_a_base_score_cannot_be_said_away() -> None:
    with pytest.raises(ModelConflictError, match="not zero"):
        read_estimator(fit(GradientBoostingRegressor(**FEW), *DIABETES), holds_intercept=False)


class OwnForest(RandomForestRegressor):  # type: ignore[misc]
    """A subclass that could predict anything."""


@pytest.mark.parametrize(
    ("model", "data", "told"),
    [
        (OwnForest(**FEW), DIABETES, "OwnForest"),
        (make_pipeline(Normalizer(), RandomForestRegressor(**FEW)), DIABETES, "Normalizer"),
        (DecisionTreeClassifier(**SMALL), (TARGETS[0], TARGETS[1].astype(int) % 3), "2 labels at once"),
        (RandomForestClassifier(**FEW), (CANCER[0], np.zeros(len(CANCER[0]))), "1 class"),
        (GradientBoostingRegressor(init=LinearRegression(), **FEW), DIABETES, "without init"),
        (GradientBoostingClassifier(init=DummyClassifier(strategy="stratified"), **FEW), CANCER, "stratified"),
    ],
    ids=["subclass", "pipeline", "labels", "class", "init", "dummy"],
)
def test_what_cannot_be_served_exactly_is_refused_with_the_fix(model: Any, data: Any, told: str) -> None:
    with pytest.raises(UnsupportedModelError, match=told):
        read_estimator(fit(model, *data))


@pytest.mark.parametrize("model", [DecisionTreeRegressor(), RandomForestRegressor(), GradientBoostingRegressor()])
def test_an_unfitted_model_is_refused(model: Any) -> None:
    with pytest.raises((UnsupportedModelError, ModelFileError), match="not fitted"):
        read_content(pickle.dumps(model), options_for(3), Limits())


def damaged(model: Any, **columns: tuple[int, float]) -> bytes:
    """A file of a decision tree, with one node's field changed: field=(node, value)."""
    state = model.tree_.__getstate__()
    nodes = state["nodes"].copy()
    for name, (node, value) in columns.items():
        nodes[name][node] = value
    data, old = pickle.dumps(model, protocol=4), state["nodes"].tobytes()
    assert data.count(old) == 1
    return data.replace(old, nodes.tobytes())


@pytest.mark.parametrize(
    ("field", "told"),
    [
        ({"left_child": (0, 0)}, "circle"),
        ({"left_child": (0, 99)}, "dangling"),
        ({"right_child": (0, -5)}, "dangling|circle"),
        ({"right_child": (0, 2**40)}, "dangling"),
        ({"left_child": (0, -1)}, "no binary tree"),
        ({"right_child": (0, 1)}, "two parents"),
        ({"feature": (0, 10)}, "not among its 10"),
        ({"feature": (0, -2)}, "not among its 10"),
        ({"threshold": (0, np.nan)}, "threshold"),
    ],
)
def test_a_damaged_tree_is_refused(field: Any, told: str) -> None:
    model = fit(DecisionTreeRegressor(max_depth=2), *DIABETES)

    with pytest.raises(ModelFileError, match=told):
        read_content(damaged(model, **field), options_for(10), Limits())


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"n_features_in_": 9}, "another number of features"),
        ({"n_outputs_": 3}, "not for"),
        ({"n_outputs_": 1.5}, "no count"),
        ({"estimators_": []}, "no list of trees"),
    ],
)
def test_a_forest_that_does_not_fit_its_trees_is_refused(change: dict[str, Any], told: str) -> None:
    model = pickle.loads(pickle.dumps(forest()))
    model.__dict__.update(change)

    with pytest.raises(ModelFileError, match=told):
        read_content(pickle.dumps(model), options_for(10), Limits())


def test_a_tree_whose_nodes_and_count_differ_is_refused() -> None:
    model = fit(DecisionTreeRegressor(max_depth=1), *DIABETES)
    data = pickle.dumps(model, protocol=4)
    key = b"\x8c\x0anode_count\x94K\x03"
    assert data.count(key) == 1

    with pytest.raises(ModelFileError, match="another node_count"):
        read_content(data.replace(key, key[:-1] + b"\x04"), options_for(10), Limits())


def test_a_leaf_that_is_not_finite_is_refused() -> None:
    model = fit(DecisionTreeRegressor(max_depth=1), *DIABETES)
    data, old = pickle.dumps(model, protocol=4), model.tree_.value.tobytes()
    assert data.count(old) == 1
    values: Floats = model.tree_.value.copy()
    values[1] = np.inf

    with pytest.raises(ModelFileError, match="NaN or infinite"):
        read_content(data.replace(old, values.tobytes()), options_for(10), Limits())
