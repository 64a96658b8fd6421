"""scikit-learn's linear models: coefficients, intercept, and what the version that wrote them predicts with them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from fedpredict.convert.labels import label_text
from fedpredict.convert.nodes import Node
from fedpredict.convert.sklearn_state import Estimator
from fedpredict.convert.values import clipped
from fedpredict.errors import ModelFileError, UnsupportedModelError
from fedpredict.model.arrays import Floats
from fedpredict.model.kinds import Kind


@dataclass(frozen=True, slots=True, eq=False)
class Fitted:
    """A linear model as its trainer scores it.

    Attributes:
        kind: What raw scores mean.
        classes: In the order of the scores; empty for a regression.
        weights: Shape (n_features, n_scores), for features as the last step of a pipeline sees them.
        intercept: Shape (n_scores,).
        fit_intercept: Whether an intercept was fitted.
    """

    kind: Kind
    classes: tuple[str, ...]
    weights: Floats
    intercept: Floats
    fit_intercept: bool


def read_linear(model: Estimator) -> Fitted:
    """Return the linear model that an estimator holds.

    Raises:
        UnsupportedModelError: Another class, not fitted, sparse, or with a loss that gives no probabilities.
        ModelFileError: Its arrays do not fit each other.
    """
    reader = READERS.get(model.name) if model.package == "sklearn.linear_model" else None
    if reader is None:
        raise UnsupportedModelError(
            f"{clipped(model.package)}...{clipped(model.name)} is not served; supported are "
            f"{', '.join(READERS)}, alone or as the last step of a Pipeline of scalers"
        )
    return reader(model)


def _regression(model: Estimator) -> Fitted:
    weights = _weights(model)
    return Fitted(Kind.LINEAR, (), weights, _intercept(model, weights.shape[1]), model.flag("fit_intercept"))


def _logistic_regression(model: Estimator) -> Fitted:
    classes, weights, intercept = _classifier(model)
    kind, doubled = _probabilities(model, len(classes))
    factor = 2.0 if doubled else 1.0
    return Fitted(kind, classes, factor * weights, factor * intercept, model.flag("fit_intercept"))


def _sgd_classifier(model: Estimator) -> Fitted:
    loss = model.text("loss")
    if loss not in {"log_loss", "log"}:
        raise UnsupportedModelError(
            f"SGDClassifier(loss='{clipped(loss)}') gives no probabilities by a sigmoid: train it with loss='log_loss'"
        )
    classes, weights, intercept = _classifier(model)
    kind = Kind.BINARY if len(classes) == 2 else Kind.ONE_VS_REST
    return Fitted(kind, classes, weights, intercept, model.flag("fit_intercept"))


def _probabilities(model: Estimator, n_classes: int) -> tuple[Kind, bool]:
    """The kind, and whether the scores count twice.

    Up to 1.7 `multi_class` decides. Two classes trained as multinomial are a softmax over (-s, s), which is the
    sigmoid of 2s. From 1.8 on there is no such setting; where an old file was written again by a new version, the two
    would predict different numbers, and neither is known to be meant.
    """
    today = Kind.BINARY if n_classes == 2 else Kind.MULTINOMIAL
    if "multi_class" not in model.state:
        if model.version < (1, 8):
            raise ModelFileError("LogisticRegression lacks multi_class")
        return today, False
    by_setting = _by_multi_class(model, n_classes)
    if model.version >= (1, 8) and by_setting != (today, False):
        raise UnsupportedModelError(
            f"LogisticRegression was trained with multi_class by an older scikit-learn and written again by "
            f"{model.version_text}, which predicts otherwise: give the original file"
        )
    return by_setting


def _by_multi_class(model: Estimator, n_classes: int) -> tuple[Kind, bool]:
    """As `LogisticRegression.predict_proba` of scikit-learn 0.22 to 1.7 decides it."""
    setting, solver = model.text("multi_class"), model.text("solver")
    if setting not in {"auto", "deprecated", "ovr", "warn", "multinomial"}:
        raise UnsupportedModelError(f"LogisticRegression(multi_class='{clipped(setting)}') is unknown")
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


READERS: dict[str, Callable[[Estimator], Fitted]] = {
    "LinearRegression": _regression,
    "Ridge": _regression,
    "Lasso": _regression,
    "ElasticNet": _regression,
    "SGDRegressor": _regression,
    "LogisticRegression": _logistic_regression,
    "SGDClassifier": _sgd_classifier,
}
