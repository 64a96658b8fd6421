"""scikit-learn's linear models: coefficients, intercept, and what the version that wrote them predicts with them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from fedpredict.convert.labels import label_text
from fedpredict.convert.nodes import Node
from fedpredict.convert.sklearn_state import Estimator, read_estimator
from fedpredict.convert.values import clipped
from fedpredict.errors import ModelFileError, UnsupportedModelError
from fedpredict.model.arrays import Floats
from fedpredict.model.kinds import Kind, own_link
from fedpredict.model.links import Link


@dataclass(frozen=True, slots=True, eq=False)
class Fitted:
    """A linear model as its trainer scores it.

    Attributes:
        kind: What raw scores mean.
        classes: In the order of the scores; empty for a regression.
        weights: Shape (n_features, n_scores), for features as the last step of a pipeline sees them.
        intercept: Shape (n_scores,).
        fit_intercept: Whether an intercept was fitted.
        link: What relates raw scores and predictions.
    """

    kind: Kind
    classes: tuple[str, ...]
    weights: Floats
    intercept: Floats
    fit_intercept: bool
    link: Link


def read_linear(model: Estimator) -> Fitted:
    """Return the linear model that an estimator holds.

    Raises:
        UnsupportedModelError: Another class, not fitted, sparse, or with a loss or link that is not known.
        ModelFileError: Its arrays do not fit each other.
    """
    reader = READERS.get(model.package, {}).get(model.name)
    if reader is None:
        raise UnsupportedModelError(
            f"{clipped(model.package)}...{clipped(model.name)} is not served; supported are "
            f"{', '.join(sorted(SUPPORTED))}, alone or as the last step of a Pipeline of scalers; and decision trees, "
            "forests and gradient boosting"
        )
    return reader(model)


def _regression(model: Estimator) -> Fitted:
    return _mean(model, own_link(Kind.LINEAR))


def _log_linear(model: Estimator) -> Fitted:
    return _mean(model, Link("log"))


def _tweedie(model: Estimator) -> Fitted:
    """The link is a setting; `auto` is the identity up to a power of 0 (a normal distribution), else the logarithm."""
    setting = model.text("link")
    if setting not in {"auto", "identity", "log"}:
        raise UnsupportedModelError(f"TweedieRegressor(link='{clipped(setting)}') is unknown")
    power = model.arrays.numbers(model.state.get("power"), "TweedieRegressor.power")
    if power.shape != () or np.isnan(power):
        raise ModelFileError("TweedieRegressor.power is not a number")
    chosen = setting if setting != "auto" else "log" if power > 0.0 else "identity"
    return _mean(model, Link(chosen))


def _mean(model: Estimator, link: Link) -> Fitted:
    weights = _weights(model)
    intercept = _intercept(model, weights.shape[1])
    return Fitted(Kind.LINEAR, (), weights, intercept, model.flag("fit_intercept"), link)


def _logistic_regression(model: Estimator) -> Fitted:
    classes, weights, intercept = _classifier(model)
    kind, doubled = _probabilities(model, len(classes))
    factor = 2.0 if doubled else 1.0
    return Fitted(kind, classes, factor * weights, factor * intercept, model.flag("fit_intercept"), own_link(kind))


def _sgd_classifier(model: Estimator) -> Fitted:
    loss = model.text("loss")
    if loss in _LOSSES_OF_DECISIONS:
        return _decision(model)
    if loss not in {"log_loss", "log"}:
        raise UnsupportedModelError(
            f"SGDClassifier(loss='{clipped(loss)}') is unknown; log_loss gives probabilities, decision values give "
            f"{', '.join(sorted(_LOSSES_OF_DECISIONS))}"
        )
    classes, weights, intercept = _classifier(model)
    kind = Kind.BINARY if len(classes) == 2 else Kind.ONE_VS_REST
    return Fitted(kind, classes, weights, intercept, model.flag("fit_intercept"), own_link(kind))


def _decision(model: Estimator) -> Fitted:
    """A classifier whose scores are no log-odds: what is served is its `decision_function`."""
    classes, weights, intercept = _classifier(model)
    fit_intercept = model.flag("fit_intercept")
    return Fitted(Kind.DECISION, classes, weights, intercept, fit_intercept, own_link(Kind.DECISION))


def _ridge_classifier(model: Estimator) -> Fitted:
    """Its classes stand in the encoder of its labels, which also says whether a sample may have several of them."""
    if "_label_binarizer" not in model.state:
        raise UnsupportedModelError(f"{model.name} is not fitted: it has no classes")
    encoder = read_estimator(model.state.get("_label_binarizer"), model.arrays, f"{model.name}._label_binarizer")
    if encoder.text("y_type_") not in {"binary", "multiclass"}:
        raise UnsupportedModelError(
            f"{model.name} was fitted to labels of the type '{clipped(encoder.text('y_type_'))}': a sample may have "
            "several; train one model for each label"
        )
    return _decision(replace(model, state={**model.state, "classes_": encoder.state.get("classes_")}))


def _probabilities(model: Estimator, n_classes: int) -> tuple[Kind, bool]:
    """The kind, and whether the scores count twice.

    Up to 1.7 `multi_class` decides. Two classes trained as multinomial are a softmax over (-s, s), which is the
    sigmoid of 2s. From 1.8 on there is no such setting; where an old file was written again by a new version, the two
    would predict different numbers, and neither is known to be meant.
    """
    today = Kind.BINARY if n_classes == 2 else Kind.MULTINOMIAL
    if "multi_class" not in model.state:
        if model.version < (1, 8):
            raise ModelFileError(f"{model.name} lacks multi_class")
        return today, False
    by_setting = _by_multi_class(model, n_classes)
    if model.version >= (1, 8) and by_setting != (today, False):
        raise UnsupportedModelError(
            f"{model.name} was trained with multi_class by an older scikit-learn and written again by "
            f"{model.version_text}, which predicts otherwise: give the original file"
        )
    return by_setting


def _by_multi_class(model: Estimator, n_classes: int) -> tuple[Kind, bool]:
    """As `LogisticRegression.predict_proba` of scikit-learn 0.22 to 1.7 decides it."""
    setting, solver = model.text("multi_class"), model.text("solver")
    if setting not in {"auto", "deprecated", "ovr", "warn", "multinomial"}:
        raise UnsupportedModelError(f"{model.name}(multi_class='{clipped(setting)}') is unknown")
    # newton-cholesky could do one-vs-rest only, until 1.6
    separate = {"liblinear"} if model.version >= (1, 6) else {"liblinear", "newton-cholesky"}
    if setting in {"ovr", "warn"} or (setting != "multinomial" and (n_classes == 2 or solver in separate)):
        return (Kind.BINARY if n_classes == 2 else Kind.ONE_VS_REST), False
    return (Kind.BINARY, True) if n_classes == 2 else (Kind.MULTINOMIAL, False)


def _classifier(model: Estimator) -> tuple[tuple[str, ...], Floats, Floats]:
    weights = _weights(model)
    labels = model.arrays.labels(model.state.get("classes_"), f"{model.name}.classes_")
    classes = tuple(label_text(label) for label in labels)
    expected = 1 if len(classes) == 2 else len(classes)
    if len(classes) < 2 or weights.shape[1] != expected:
        raise ModelFileError(f"{model.name} has {len(classes)} classes and {weights.shape[1]} rows of coefficients")
    return classes, weights, _intercept(model, weights.shape[1])


def _weights(model: Estimator) -> Floats:
    """The coefficients as (n_features, n_scores); scikit-learn has them the other way, and flat for one score."""
    value = model.state.get("coef_")
    if value is None:
        raise UnsupportedModelError(f"{model.name} is not fitted: it has no coefficients")
    if isinstance(value, Node) and value.path.startswith("scipy.sparse"):
        raise UnsupportedModelError(f"the coefficients of {model.name} are sparse: call densify() before saving it")
    array = model.arrays.numbers(value, f"{model.name}.coef_")
    if not array.size:
        raise ModelFileError(f"{model.name} has no coefficients: a party without features has no part of a model")
    if array.ndim not in {1, 2}:
        raise ModelFileError(f"{model.name}.coef_ has shape {array.shape}")
    weights = np.ascontiguousarray(np.atleast_2d(array).T)
    model.check_n_features(weights.shape[0])
    return weights


def _intercept(model: Estimator, n_scores: int) -> Floats:
    """The intercept as (n_scores,); without one scikit-learn keeps a single 0.0 for any number of scores."""
    array = model.arrays.numbers(model.state.get("intercept_"), f"{model.name}.intercept_").ravel()
    if array.shape == (1,) and (n_scores == 1 or array[0] == 0.0):
        return np.repeat(array, n_scores)
    if array.shape != (n_scores,):
        raise ModelFileError(f"{model.name}.intercept_ has {array.size} numbers for {n_scores} scores")
    return array


_LOSSES_OF_DECISIONS = frozenset(
    {
        "hinge",
        "squared_hinge",
        "modified_huber",
        "perceptron",
        "squared_loss",
        "squared_error",
        "huber",
        "epsilon_insensitive",
        "squared_epsilon_insensitive",
    }
)
"""Losses of SGDClassifier whose scores are no log-odds. `modified_huber` has probabilities of a form of its own."""

READERS: dict[str, dict[str, Callable[[Estimator], Fitted]]] = {
    "sklearn.linear_model": {
        "LinearRegression": _regression,
        "Ridge": _regression,
        "RidgeCV": _regression,
        "Lasso": _regression,
        "LassoCV": _regression,
        "ElasticNet": _regression,
        "ElasticNetCV": _regression,
        "SGDRegressor": _regression,
        "PoissonRegressor": _log_linear,
        "GammaRegressor": _log_linear,
        "TweedieRegressor": _tweedie,
        "LogisticRegression": _logistic_regression,
        "LogisticRegressionCV": _logistic_regression,
        "SGDClassifier": _sgd_classifier,
        "Perceptron": _decision,
        "RidgeClassifier": _ridge_classifier,
        "RidgeClassifierCV": _ridge_classifier,
    },
    "sklearn.svm": {
        "LinearSVC": _decision,
        "LinearSVR": _regression,
    },
}
"""By package and class."""

SUPPORTED = tuple(name for readers in READERS.values() for name in readers)
