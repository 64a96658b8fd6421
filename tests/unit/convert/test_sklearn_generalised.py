"""Generalised linear models and classifiers without probabilities, against scikit-learn's own predictions."""

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
from sklearn.linear_model import (
    ElasticNetCV,
    GammaRegressor,
    LassoCV,
    LogisticRegressionCV,
    Perceptron,
    PoissonRegressor,
    RidgeClassifier,
    RidgeClassifierCV,
    RidgeCV,
    SGDClassifier,
    TweedieRegressor,
)
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC, LinearSVR

from fedpredict.convert.child import read_content
from fedpredict.convert.options import Limits
from fedpredict.convert.simulate import simulate
from fedpredict.convert.sklearn_linear import SUPPORTED
from fedpredict.convert.split import split_model
from fedpredict.errors import ModelFileError, UnsupportedModelError
from fedpredict.model.arrays import Floats
from fedpredict.model.kinds import Kind
from fedpredict.model.links import Link
from fedpredict.model.partial import PartialModel
from tests.linear_parts import linear
from tests.unit.convert.support import assert_same_scores, options_for, predictions_of, read_estimator

CANCER, WINE, DIABETES = (load(return_X_y=True) for load in (load_breast_cancer, load_wine, load_diabetes))
COUNTS = DIABETES[0], np.round(DIABETES[1])
LOSSES = ("hinge", "squared_hinge", "modified_huber", "perceptron", "squared_error", "huber", "epsilon_insensitive")


def fit(model: Any, features: Any, target: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # convergence is not what is tested
        return model.fit(features, target)


def scaled(model: Any) -> Any:
    return make_pipeline(StandardScaler(), model)


def assert_predicts(partial: PartialModel, features: Floats, expected: Any) -> None:
    """Predictions agree to 1e-9, relative to the sum of the absolute terms of a raw score where that is larger."""
    ours, theirs = predictions_of(partial, features), np.asarray(expected, dtype=np.float64)
    terms = np.abs(features) @ np.abs(linear(partial.part).weights) + np.abs(linear(partial.part).offset)
    theirs = theirs.reshape(ours.shape)
    assert (np.abs(ours - theirs) <= 1e-9 * np.maximum(terms, np.abs(theirs))).all()


@pytest.mark.parametrize(
    ("model", "link"),
    [
        pytest.param(PoissonRegressor(), "log", id="poisson"),
        pytest.param(PoissonRegressor(alpha=0.1, fit_intercept=False), "log", id="poisson_no_intercept"),
        pytest.param(scaled(PoissonRegressor(alpha=0.1)), "log", id="poisson_scaled"),
        pytest.param(GammaRegressor(), "log", id="gamma"),
        pytest.param(scaled(GammaRegressor(alpha=0.01, solver="newton-cholesky")), "log", id="gamma_newton"),
        pytest.param(TweedieRegressor(power=0), "identity", id="tweedie_normal"),
        pytest.param(TweedieRegressor(power=-1), "identity", id="tweedie_below_0"),
        pytest.param(TweedieRegressor(power=1.5), "log", id="tweedie_compound"),
        pytest.param(TweedieRegressor(power=np.float64(3)), "log", id="tweedie_numpy_power"),
        pytest.param(TweedieRegressor(power=0, link="log"), "log", id="tweedie_normal_log"),
        pytest.param(TweedieRegressor(power=1, link="identity", alpha=10), "identity", id="tweedie_poisson_identity"),
    ],
)
def test_generalised_linear_models_predict_as_scikit_learn(model: Any, link: str) -> None:
    model = fit(model, *COUNTS)

    partial = read_estimator(model).partial

    assert (partial.kind, partial.link) == (Kind.LINEAR, Link(link))
    assert_predicts(partial, COUNTS[0], model.predict(COUNTS[0]))


@pytest.mark.parametrize(
    "model",
    [
        RidgeCV(),
        RidgeCV(alphas=(1e-3, 1.0), fit_intercept=False),
        LassoCV(cv=3),
        ElasticNetCV(cv=3),
        LinearSVR(random_state=0),
        LinearSVR(random_state=0, fit_intercept=False),
        scaled(LinearSVR(random_state=0)),
    ],
    ids=lambda model: type(model).__name__,
)
def test_other_regressions_predict_as_scikit_learn(model: Any) -> None:
    model = fit(model, *DIABETES)

    partial = read_estimator(model).partial

    assert (partial.kind, partial.link) == (Kind.LINEAR, Link("identity"))
    assert_same_scores(model, partial, DIABETES[0])
    assert_predicts(partial, DIABETES[0], model.predict(DIABETES[0]))


@pytest.mark.parametrize(("data", "kind"), [(CANCER, Kind.BINARY), (WINE, Kind.MULTINOMIAL)], ids=["two", "three"])
def test_logistic_regression_by_cross_validation_gives_its_probabilities(data: Any, kind: Kind) -> None:
    model = fit(scaled(LogisticRegressionCV(Cs=3, cv=3)), *data)
    expected = model.predict_proba(data[0])

    partial = read_estimator(model).partial

    assert partial.kind is kind
    assert_same_scores(model, partial, data[0])
    assert_predicts(partial, data[0], expected[:, 1:] if kind is Kind.BINARY else expected)


@pytest.mark.parametrize("data", [CANCER, WINE], ids=["two", "three"])
@pytest.mark.parametrize(
    "model",
    [
        LinearSVC(random_state=0),
        LinearSVC(random_state=0, fit_intercept=False),
        LinearSVC(random_state=0, multi_class="crammer_singer"),
        Perceptron(),
        RidgeClassifier(),
        RidgeClassifier(fit_intercept=False),
        RidgeClassifierCV(),
        *(SGDClassifier(loss=loss, random_state=0) for loss in LOSSES),
    ],
    ids=lambda model: f"{type(model).__name__}-{getattr(model, 'loss', '')}",
)
def test_a_classifier_without_probabilities_gives_its_decision_values(model: Any, data: Any) -> None:
    features, target = data
    labels = np.array(["a", "b", "c"])[target]
    model = fit(scaled(model), features, labels)

    partial = read_estimator(model).partial

    assert (partial.kind, partial.link) == (Kind.DECISION, Link("identity"))
    assert partial.classes == tuple(model.classes_)
    assert partial.part.n_scores == (1 if len(partial.classes) == 2 else len(partial.classes))
    assert_same_scores(model, partial, features)
    decisions = predictions_of(partial, features)
    assert_predicts(partial, features, model.decision_function(features))
    chosen = (decisions[:, 0] > 0).astype(int) if decisions.shape[1] == 1 else decisions.argmax(axis=1)
    assert (np.array(partial.classes)[chosen] == model.predict(features)).all()  # as docs/portable-model.md says


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize(
    "model",
    [PoissonRegressor(max_iter=5), RidgeClassifier(), LinearSVC(random_state=0)],
    ids=lambda model: type(model).__name__,
)
def test_every_protocol_gives_the_same_model(model: Any, protocol: int) -> None:
    model = fit(model, *CANCER)

    partial = read_estimator(model, protocol).partial

    assert (linear(partial.part).weights[:, 0] == model.coef_.ravel()).all()


@functools.cache
def tweedie(power: float) -> Any:
    return fit(scaled(TweedieRegressor(power=power, link="log", max_iter=20)), *COUNTS)


@settings(max_examples=40, deadline=None)
@given(owners=st.lists(st.integers(0, 3), min_size=10, max_size=10), power=st.sampled_from([0, 1, 1.5, 2, 3]))
def test_parties_together_predict_as_scikit_learn_on_the_joined_table(owners: list[int], power: float) -> None:
    features, model = COUNTS[0], tweedie(power)
    reading = read_estimator(model)
    names = reading.partial.part.features
    holders = {f"party-{who}": [names[at] for at in range(10) if owners[at] == who] for who in sorted(set(owners))}

    parts = split_model(reading.partial, holders, f"party-{owners[0]}", feature_constants=reading.feature_constants)
    report = simulate(parts, reading.partial, features, names)

    assert {part.link for part in parts.values()} == {Link("log")}
    assert report.n_scored == len(features)
    np.testing.assert_allclose(report.combined.predictions[:, 0], model.predict(features), rtol=1e-9)


@pytest.mark.parametrize(
    ("name", "value", "error", "told"),
    [
        ("link", "sqrt", UnsupportedModelError, r"TweedieRegressor\(link='sqrt'\)"),
        ("link", 3, ModelFileError, "TweedieRegressor.link"),
        ("power", "high", ModelFileError, "TweedieRegressor.power"),
        ("power", None, ModelFileError, "TweedieRegressor.power"),
        ("power", float("nan"), ModelFileError, "TweedieRegressor.power"),
        ("power", np.zeros(2), ModelFileError, "TweedieRegressor.power"),
    ],
)
def test_a_tweedie_setting_that_is_not_known_is_refused(name: str, value: Any, error: Any, told: str) -> None:
    model = fit(TweedieRegressor(), *COUNTS)
    setattr(model, name, value)

    with pytest.raises(error, match=told):
        read_estimator(model)


@pytest.mark.parametrize(("power", "link"), [(-1, "identity"), (0, "identity"), (1, "log"), (1.5, "log"), (3, "log")])
@pytest.mark.parametrize("version", ["0.23.2", "1.0.2"])
def test_a_file_from_before_losses_were_objects_has_the_link_of_its_setting(
    version: str, power: float, link: str
) -> None:
    model = fit(TweedieRegressor(), *COUNTS)
    model.power, model._family_instance = power, None
    del model._base_loss
    data = pickle.dumps(model, protocol=0).replace(b"V1.9.1\n", f"V{version}\n".encode())

    assert read_content(data, options_for(10), Limits()).partial.link == Link(link)


def test_a_loss_that_is_not_known_is_refused_with_those_that_are() -> None:
    model = fit(SGDClassifier(), *CANCER)
    model.loss = "tilted"

    with pytest.raises(UnsupportedModelError, match=r"tilted.*log_loss.*hinge"):
        read_estimator(model)


def test_a_ridge_classifier_for_several_labels_at_once_is_refused() -> None:
    several = np.c_[WINE[1] == 0, WINE[1] == 1, WINE[1] == 2].astype(int)

    with pytest.raises(UnsupportedModelError, match="multilabel-indicator"):
        read_estimator(fit(RidgeClassifier(), WINE[0], several))


def test_a_ridge_classifier_that_is_not_fitted_or_damaged_is_refused() -> None:
    model = fit(RidgeClassifier(), *CANCER)
    with pytest.raises(UnsupportedModelError, match="not fitted"):
        read_content(pickle.dumps(RidgeClassifier()), options_for(2), Limits())

    model._label_binarizer.classes_ = None
    with pytest.raises(ModelFileError, match=r"RidgeClassifier\.classes_"):
        read_estimator(model)
    model._label_binarizer = "nothing"
    with pytest.raises(UnsupportedModelError, match="_label_binarizer"):
        read_estimator(model)


def test_every_class_that_is_supported_is_named_once() -> None:
    assert len(set(SUPPORTED)) == len(SUPPORTED)
