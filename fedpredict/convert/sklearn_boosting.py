"""scikit-learn's gradient boosting: what its first estimator predicts for every sample, and shrunken trees."""

from __future__ import annotations

import numpy as np

from fedpredict.convert.nodes import Node
from fedpredict.convert.sklearn_nodes import FittedTrees, join_trees, read_classes, read_tree, whole_number
from fedpredict.convert.sklearn_state import Estimator, read_estimator
from fedpredict.convert.values import clipped, described
from fedpredict.errors import ModelFileError, UnsupportedModelError
from fedpredict.model.arrays import Floats
from fedpredict.model.kinds import Kind, own_link

_REGRESSION_LOSSES = frozenset({"squared_error", "absolute_error", "huber", "quantile"})
_LOG_LOSSES = frozenset({"log_loss", "deviance"})


def read_boosting(model: Estimator) -> FittedTrees:
    """Return a GradientBoostingClassifier or GradientBoostingRegressor.

    Raises:
        UnsupportedModelError: Not fitted, with a loss or a first estimator that is not known, or of a single class.
        ModelFileError: It is damaged.
    """
    if model.state.get("estimators_") is None:
        raise UnsupportedModelError(f"{model.name} is not fitted: it has no trees")
    classes = read_classes(model) if model.name.endswith("Classifier") else ()
    kind, factor = _kind(model, len(classes))
    stages = model.arrays.objects(model.state["estimators_"], f"{model.name}.estimators_")
    n_scores = len(classes) if len(classes) > 2 else 1
    if len(stages.shape) != 2 or stages.shape[1] != n_scores or not stages.values:
        raise ModelFileError(f"{model.name} has trees of shape {stages.shape} for {n_scores} scores")
    n_features, rate = whole_number(model, "n_features_in_"), _learning_rate(model)
    nodes, leaves = [], []
    for at, each in enumerate(stages.values):
        what = f"tree {at} of {model.name}"
        tree = read_estimator(each, model.arrays, what)
        if (tree.package, tree.name) != ("sklearn.tree", "DecisionTreeRegressor"):
            raise UnsupportedModelError(f"{what} is {clipped(tree.name)}, not DecisionTreeRegressor")
        one, values = read_tree(tree, n_features, what)
        if values.shape[1:] != (1, 1):
            raise ModelFileError(f"{what} has several values at a leaf")
        nodes.append(one)
        leaves.append(values[:, 0])
    with np.errstate(over="ignore"):  # what overflows is refused as a value that is not finite
        values, intercept = factor * (rate * np.concatenate(leaves)), factor * _base_scores(model, n_scores)
    return FittedTrees(
        kind=kind,
        classes=classes,
        link=own_link(kind),
        trees=join_trees(nodes, float32=True),
        output=np.tile(np.arange(n_scores, dtype=np.int32), stages.shape[0]),
        values=values,
        n_features=n_features,
        may_miss=False,  # every version refuses NaN, though its trees would not
        intercept=intercept,
        fit_intercept=True,
    )


def _kind(model: Estimator, n_classes: int) -> tuple[Kind, float]:
    """The kind, and how often a raw score counts: with exponential loss probabilities are the sigmoid of twice it."""
    loss = model.text("loss")
    if not n_classes and loss in _REGRESSION_LOSSES:
        return Kind.LINEAR, 1.0
    if n_classes and loss in _LOG_LOSSES:
        return (Kind.BINARY if n_classes == 2 else Kind.MULTINOMIAL), 1.0
    if n_classes == 2 and loss == "exponential":
        return Kind.BINARY, 2.0
    raise UnsupportedModelError(f"{model.name}(loss='{clipped(loss)}') is unknown")


def _learning_rate(model: Estimator) -> float:
    rate = model.arrays.numbers(model.state.get("learning_rate"), f"{model.name}.learning_rate")
    if rate.shape != () or not np.isfinite(rate):
        raise ModelFileError(f"{model.name}.learning_rate is not a number")
    return float(rate)


def _base_scores(model: Estimator, n_scores: int) -> Floats:
    """What the first estimator predicts for every sample, as a raw score; shape (n_scores,)."""
    first = model.state.get("init_")
    if first == "zero":
        return np.zeros(n_scores)
    dummy = read_estimator(first, model.arrays, f"{model.name}.init_") if _is_of_scikit_learn(first) else None
    if dummy is None or dummy.package != "sklearn.dummy":
        raise UnsupportedModelError(
            f"{model.name} starts from {described(first)}, whose predictions depend on the features: train it without "
            "init, or with init='zero'"
        )
    if dummy.name == "DummyRegressor" and not model.name.endswith("Classifier"):
        constant = dummy.arrays.numbers(dummy.state.get("constant_"), "DummyRegressor.constant_").ravel()
        return _of_size(constant, n_scores, "DummyRegressor.constant_")
    if dummy.name != "DummyClassifier" or dummy.text("strategy") != "prior":
        raise UnsupportedModelError(
            f"{model.name} starts from {clipped(dummy.name)}(strategy='{clipped(dummy.text('strategy'))}'): train it "
            "without init, or with init='zero'"
        )
    prior = dummy.arrays.numbers(dummy.state.get("class_prior_"), "DummyClassifier.class_prior_").ravel()
    return _logits(model, _of_size(prior, max(n_scores, 2), "DummyClassifier.class_prior_"))


def _is_of_scikit_learn(value: object) -> bool:
    return isinstance(value, Node) and value.path.startswith("sklearn.")


def _of_size(values: Floats, size: int, what: str) -> Floats:
    if len(values) != size:
        raise ModelFileError(f"{what} has {len(values)} numbers for {size}")
    return values


def _logits(model: Estimator, prior: Floats) -> Floats:
    """The fractions of the classes -> raw scores, clipped and scaled as in the version that wrote the model."""
    epsilon = float(np.finfo(np.float32 if model.version < (1, 8) else np.float64).eps)
    clipped_prior = np.clip(prior, epsilon, 1.0 - epsilon)
    if len(prior) > 2:
        logs = np.log(clipped_prior)
        return logs if model.version < (1, 4) else logs - logs.mean()
    odds = np.log(clipped_prior[1:] / (1.0 - clipped_prior[1:]))
    return 0.5 * odds if model.text("loss") == "exponential" else odds
