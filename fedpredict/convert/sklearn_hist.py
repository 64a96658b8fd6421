"""scikit-learn's histogram gradient boosting: a baseline, and trees with splits by categories and missing values."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fedpredict.convert.nodes import Node
from fedpredict.convert.sklearn_categories import TreeFeatures, tree_features
from fedpredict.convert.sklearn_nodes import FileNodes, FittedTrees, OneTree, join_trees, read_classes, whole_number
from fedpredict.convert.sklearn_state import Estimator
from fedpredict.convert.values import clipped, described, mapping
from fedpredict.errors import ModelFileError, UnsupportedModelError
from fedpredict.model.arrays import Bools, Floats
from fedpredict.model.kinds import Kind, own_link
from fedpredict.model.links import Link
from fedpredict.model.trees import NO_SET, Ints

_LINKS = {
    "squared_error": "identity",
    "absolute_error": "identity",
    "quantile": "identity",
    "poisson": "log",
    "gamma": "log",
}
_LOG_LOSSES = frozenset({"log_loss", "auto", "binary_crossentropy", "categorical_crossentropy"})
_FIELDS = (
    "value", "feature_idx", "num_threshold", "missing_go_to_left", "left", "right", "is_leaf", "is_categorical",
    "bitset_idx",
)  # fmt: skip
_PREDICTOR = "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor"
_WORDS = 8
"""A set of codes is so many words of 32 bits."""


def read_hist_boosting(model: Estimator) -> FittedTrees:
    """Return a HistGradientBoostingClassifier or HistGradientBoostingRegressor.

    Raises:
        UnsupportedModelError: Not fitted, with a loss that is not known, with categories that cannot be codes, or of
            a single class.
        ModelFileError: It is damaged.
    """
    stages = model.state.get("_predictors")
    if stages is None:
        raise UnsupportedModelError(f"{model.name} is not fitted: it has no trees")
    classes = read_classes(model) if model.name.endswith("Classifier") else ()
    kind, link = _kind(model, len(classes))
    n_scores, n_features = len(classes) if len(classes) > 2 else 1, whole_number(model, "n_features_in_")
    baseline = model.arrays.numbers(model.state.get("_baseline_prediction"), f"{model.name}._baseline_prediction")
    if not isinstance(stages, list) or not stages or baseline.size != n_scores:
        raise ModelFileError(
            f"{model.name} has no trees, or {baseline.size} baseline predictions for {n_scores} scores"
        )
    reader = _Reader(model, tree_features(model, n_features))
    trees: list[OneTree] = []
    leaves: list[Floats] = []
    for stage in stages:
        if not isinstance(stage, list) or len(stage) != n_scores:
            raise ModelFileError(f"{model.name} has an iteration that is not {n_scores} trees")
        for each in stage:
            tree, values = reader.read(each, f"tree {len(trees)} of {model.name}")
            trees.append(tree)
            leaves.append(values)
    return FittedTrees(
        kind=kind,
        classes=classes,
        link=link,
        trees=join_trees(trees, tuple(reader.sets), float32=False, codes=reader.features.rule),
        output=np.tile(np.arange(n_scores, dtype=np.int32), len(stages)),
        values=np.concatenate(leaves)[:, None],
        n_features=n_features,
        may_miss=True,
        intercept=baseline.ravel(),
        fit_intercept=True,
        categories=reader.features.texts,
    )


def _kind(model: Estimator, n_classes: int) -> tuple[Kind, Link]:
    loss = model.state.get("loss")
    if not isinstance(loss, str):
        raise UnsupportedModelError(f"{model.name} was trained with a loss of its own, {described(loss)}")
    if not n_classes and loss in _LINKS:
        return Kind.LINEAR, Link(_LINKS[loss])
    if n_classes and loss in _LOG_LOSSES:
        kind = Kind.BINARY if n_classes == 2 else Kind.MULTINOMIAL
        return kind, own_link(kind)
    raise UnsupportedModelError(f"{model.name}(loss='{clipped(loss)}') is unknown")


class _Reader:
    """Reads the trees of one model, and collects their sets of categories.

    Attributes:
        features: How the trees count features.
        sets: What the trees read so far refer to.
    """

    def __init__(self, model: Estimator, features: TreeFeatures) -> None:
        self._arrays = model.arrays
        self.features = features
        self.sets: list[Ints] = []
        self._position: dict[bytes, int] = {}

    def read(self, value: object, what: str) -> tuple[OneTree, Floats]:
        """Return a tree, and what each node adds, 0.0 where it is no leaf; shape (n_nodes,)."""
        if not isinstance(value, Node) or value.path != _PREDICTOR:
            raise ModelFileError(f"{what} is {described(value)}")
        state = mapping(value.state, f"the state of {what}")
        records = self._arrays.records(state.get("nodes"), f"the nodes of {what}", _FIELDS)
        is_leaf, feature = records["is_leaf"] != 0, records["feature_idx"].astype(np.int64)
        n_features = len(self.features.columns)
        if ((feature < 0) | (feature >= n_features))[~is_leaf].any():
            raise ModelFileError(f"{what} splits by a feature that is not among its {n_features}")
        is_set = (records["is_categorical"] != 0) & ~is_leaf
        left_set, known_set = self._sets_of(state, records, is_set, what)
        nodes = FileNodes(
            is_leaf=is_leaf,
            feature=self.features.columns[np.where(is_leaf, 0, feature)].astype(np.int64),
            threshold=records["num_threshold"].astype(np.float64),
            left=records["left"].astype(np.int64),
            right=records["right"].astype(np.int64),
            missing_left=records["missing_go_to_left"] != 0,
            left_set=left_set,
            known_set=known_set,
        )
        return nodes.checked(n_features, what), np.where(is_leaf, records["value"], 0.0)

    def _sets_of(
        self, state: dict[str, object], records: NDArray[np.void], is_set: Bools, what: str
    ) -> tuple[Ints, Ints]:
        """The sets of the nodes that split by categories, as `Trees.left_set` and `Trees.known_set`."""
        left_set, known_set = (np.full(len(records), NO_SET, dtype=np.int32) for _ in range(2))
        if not is_set.any():
            return left_set, known_set
        words = self._arrays.numbers(state.get("raw_left_cat_bitsets"), f"the categories of {what}")
        if words.ndim != 2 or words.shape[1] != _WORDS or not ((words >= 0) & (words < 2.0**32)).all():
            raise ModelFileError(f"{what} has damaged sets of categories")
        bits = np.unpackbits(np.ascontiguousarray(words, dtype="<u4").view(np.uint8), axis=1, bitorder="little")
        for node in np.flatnonzero(is_set).tolist():
            feature, row = int(records["feature_idx"][node]), int(records["bitset_idx"][node])
            codes = self.features.codes.get(feature)
            left = np.flatnonzero(bits[row]) if row < len(bits) else None
            if codes is None or left is None or (left >= len(codes)).any():
                raise ModelFileError(f"{what} splits by categories that there are not")
            # the library looks at the left set first, and at the known ones after
            known = np.union1d(self.features.known[feature], left)
            left_set[node], known_set[node] = self._stored(codes[left]), self._stored(codes[known])
        return left_set, known_set

    def _stored(self, codes: Ints) -> int:
        """The position of a set among `sets`."""
        key = codes.tobytes()
        if key not in self._position:
            self._position[key] = len(self.sets)
            self.sets.append(codes.astype(np.int32))
        return self._position[key]
