"""scikit-learn's models of trees, by class."""

from __future__ import annotations

from collections.abc import Callable

from fedpredict.convert.sklearn_boosting import read_boosting
from fedpredict.convert.sklearn_forest import read_forest, read_single_tree
from fedpredict.convert.sklearn_hist import read_hist_boosting
from fedpredict.convert.sklearn_nodes import FittedTrees
from fedpredict.convert.sklearn_state import Estimator
from fedpredict.errors import UnsupportedModelError

OLDEST_TREES = (1, 2)
"""The first version whose trees are read: no file of an older one was at hand to compare with."""

TREE_READERS: dict[str, dict[str, Callable[[Estimator], FittedTrees]]] = {
    "sklearn.tree": {
        "DecisionTreeClassifier": read_single_tree,
        "DecisionTreeRegressor": read_single_tree,
        "ExtraTreeClassifier": read_single_tree,
        "ExtraTreeRegressor": read_single_tree,
    },
    "sklearn.ensemble": {
        "RandomForestClassifier": read_forest,
        "RandomForestRegressor": read_forest,
        "ExtraTreesClassifier": read_forest,
        "ExtraTreesRegressor": read_forest,
        "GradientBoostingClassifier": read_boosting,
        "GradientBoostingRegressor": read_boosting,
        "HistGradientBoostingClassifier": read_hist_boosting,
        "HistGradientBoostingRegressor": read_hist_boosting,
    },
}
"""By package and class."""


def is_of_trees(model: Estimator) -> bool:
    """Return whether `read_trees` knows the class."""
    return model.name in TREE_READERS.get(model.package, {})


def read_trees(model: Estimator) -> FittedTrees:
    """Return the model of trees that an estimator holds.

    Args:
        model: Of a class that `is_of_trees` knows.

    Raises:
        UnsupportedModelError: Its version is not read, it is not fitted, or cannot be served exactly.
        ModelFileError: It is damaged.
        ValueError: Its nodes do not fit each other.
    """
    if model.version < OLDEST_TREES:
        raise UnsupportedModelError(
            f"{model.name} was written by scikit-learn {model.version_text}; trees are read from 1.2 on"
        )
    return TREE_READERS[model.package][model.name](model)
