"""scikit-learn's decision trees and forests: every leaf's value, divided by the number of trees."""

from __future__ import annotations

import numpy as np

from fedpredict.convert.sklearn_nodes import FittedTrees, join_trees, read_classes, read_tree, whole_number
from fedpredict.convert.sklearn_state import Estimator, read_estimator
from fedpredict.convert.values import clipped
from fedpredict.errors import ModelFileError, UnsupportedModelError
from fedpredict.model.arrays import Floats
from fedpredict.model.kinds import Kind, own_link

_CRITERIA_WITH_MISSING = frozenset({"gini", "entropy", "log_loss", "squared_error", "friedman_mse", "poisson"})
"""Those whose trees took missing values before 1.9 ended the distinction."""

_TREE_OF = {
    "RandomForestClassifier": "DecisionTreeClassifier",
    "RandomForestRegressor": "DecisionTreeRegressor",
    "ExtraTreesClassifier": "ExtraTreeClassifier",
    "ExtraTreesRegressor": "ExtraTreeRegressor",
}


def read_single_tree(model: Estimator) -> FittedTrees:
    """Return a decision tree as a model of one tree.

    Raises:
        UnsupportedModelError: Not fitted, or a classifier of several labels or of a single class.
        ModelFileError: It is damaged.
    """
    return _mean_of(model, [model], may_miss=takes_missing(model))


def read_forest(model: Estimator) -> FittedTrees:
    """Return a forest.

    Raises:
        UnsupportedModelError: Not fitted, or a classifier of several labels or of a single class.
        ModelFileError: It is damaged.
    """
    listed = model.state.get("estimators_")
    if listed is None:
        raise UnsupportedModelError(f"{model.name} is not fitted: it has no trees")
    if not isinstance(listed, list) or not listed:
        raise ModelFileError(f"{model.name} has no list of trees")
    trees = [read_estimator(each, model.arrays, f"tree {at} of {model.name}") for at, each in enumerate(listed)]
    for tree in trees:
        if (tree.package, tree.name) != ("sklearn.tree", _TREE_OF[model.name]):
            raise UnsupportedModelError(f"{model.name} of {clipped(tree.name)}: its trees are {_TREE_OF[model.name]}")
    # the first tree decides for all; forests ask it since 1.4
    return _mean_of(model, trees, may_miss=model.version >= (1, 4) and takes_missing(trees[0]))


def takes_missing(tree: Estimator) -> bool:
    """Return whether the version that wrote a decision tree predicts for a sample without a feature.

    It does so, or refuses, whether or not values were missing in training.
    """
    if tree.version < (1, 3):
        return False
    constrained = tree.state.get("monotonic_cst") is not None
    if tree.version < (1, 9) and (constrained or tree.text("criterion") not in _CRITERIA_WITH_MISSING):
        return False
    if tree.version < (1, 6):
        return tree.text("splitter") == "best"
    takes_both = tree.name.startswith("DecisionTree") or (tree.name, tree.version) == ("ExtraTreeRegressor", (1, 6))
    return takes_both or tree.text("splitter") == "random"


def _mean_of(model: Estimator, trees: list[Estimator], *, may_miss: bool) -> FittedTrees:
    classifies, n_outputs = model.name.endswith("Classifier"), whole_number(model, "n_outputs_")
    if classifies and n_outputs > 1:
        raise UnsupportedModelError(
            f"{model.name} predicts {n_outputs} labels at once: train one model for each label, and serve each"
        )
    classes = read_classes(model) if classifies else ()
    n_features = whole_number(model, "n_features_in_")
    expected = (n_outputs, len(classes) or 1)
    nodes, leaves = [], []
    for at, tree in enumerate(trees):
        what = model.name if tree is model else f"tree {at} of {model.name}"
        each, values = read_tree(tree, n_features, what)
        if values.shape[1:] != expected:
            raise ModelFileError(f"{what} has values for {values.shape[1:]} outputs and classes, not for {expected}")
        nodes.append(each)
        leaves.append(_probabilities(values[:, 0]) if classifies else values[:, :, 0])
    values = np.concatenate(leaves) / len(trees)
    n_scores = values.shape[1]
    kind = Kind.PROBABILITY if classifies else Kind.LINEAR
    return FittedTrees(
        kind=kind,
        classes=classes,
        link=own_link(kind),
        trees=join_trees(nodes, float32=True),
        output=np.full(len(trees), 0 if n_scores == 1 else -1, dtype=np.int32),
        values=values,
        n_features=n_features,
        may_miss=may_miss,
        intercept=np.zeros(n_scores),
        fit_intercept=False,
    )


def _probabilities(values: Floats) -> Floats:
    """Weights of the classes (up to 1.3), or fractions, -> the probabilities that are scores; (n_nodes, n_scores)."""
    total = values.sum(axis=1, keepdims=True)
    fractions: Floats = np.divide(values, total, out=values.copy(), where=total != 0.0)
    return fractions[:, 1:] if values.shape[1] == 2 else fractions
