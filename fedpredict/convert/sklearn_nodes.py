"""The nodes of scikit-learn's trees, checked and joined; and a fitted model of trees."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from fedpredict.convert.labels import label_text
from fedpredict.convert.nodes import Node
from fedpredict.convert.sklearn_state import Estimator
from fedpredict.convert.values import mapping
from fedpredict.errors import ModelFileError, UnsupportedModelError
from fedpredict.model.arrays import Bools, Floats
from fedpredict.model.kinds import Kind
from fedpredict.model.links import Link
from fedpredict.model.trees import LEAF, NO_SET, CodeRule, Ints, Trees, TreesPart

_LARGEST = float(np.finfo(np.float64).max)
_FIELDS = ("left_child", "right_child", "feature", "threshold")


@dataclass(frozen=True, slots=True, eq=False)
class FittedTrees:
    """A model of trees as its trainer scores it.

    Attributes:
        kind: What raw scores mean.
        classes: In the order of the scores; empty for a regression.
        link: What relates raw scores and predictions.
        trees: The nodes.
        output: As `TreesPart.output`.
        values: As `TreesPart.values`.
        n_features: The number of features that the model was trained on.
        may_miss: Whether its trainer scores a sample without a feature.
        intercept: Shape (n_scores,): the base score.
        fit_intercept: Whether models of this class have a base score.
        categories: Position of a text feature -> its texts in the order of their codes.
    """

    kind: Kind
    classes: tuple[str, ...]
    link: Link
    trees: Trees
    output: Ints
    values: Floats
    n_features: int
    may_miss: bool
    intercept: Floats
    fit_intercept: bool
    categories: Mapping[int, tuple[str, ...]] = field(default_factory=dict)

    def part(self, features: tuple[str, ...], intercept: Floats | None) -> TreesPart:
        """Return the part over named features that holds the intercept, or none.

        Raises:
            ValueError: Its arrays do not fit each other.
        """
        return TreesPart(
            features=features,
            categories={features[at]: texts for at, texts in self.categories.items()},
            may_miss=np.full(self.n_features, self.may_miss),
            trees=self.trees,
            n_scores=len(self.intercept),
            output=self.output,
            values=self.values,
            intercept=intercept,
        )


@dataclass(frozen=True, slots=True, eq=False)
class OneTree:
    """The nodes of one tree: children as positions in this tree, otherwise as `Trees` has them.

    Attributes:
        feature: `LEAF` at leaves.
        threshold: Finite; 0.0 at leaves and at categorical nodes.
        left: `LEAF` at leaves.
        right: The same.
        missing_left: False at leaves.
        left_set: `NO_SET` at leaves and numeric nodes.
        known_set: The same.
    """

    feature: Ints
    threshold: Floats
    left: Ints
    right: Ints
    missing_left: Bools
    left_set: Ints
    known_set: Ints


@dataclass(frozen=True, slots=True, eq=False)
class FileNodes:
    """The nodes of one tree as the file has them, each shape (n_nodes,); at leaves only `is_leaf` counts."""

    is_leaf: Bools
    feature: NDArray[np.int64]
    threshold: Floats
    left: NDArray[np.int64]
    right: NDArray[np.int64]
    missing_left: Bools
    left_set: Ints | None = None
    known_set: Ints | None = None

    def checked(self, n_features: int, what: str) -> OneTree:
        """Return the nodes as `Trees` has them.

        Raises:
            ModelFileError: They are no tree, or refer to a feature that there is not; names the tree as `what`.
        """
        self._check_children(what)
        leaf, n_nodes = self.is_leaf, len(self.is_leaf)
        inner = ~leaf
        if ((self.feature < 0) | (self.feature >= n_features))[inner].any():
            raise ModelFileError(f"{what} splits by a feature that is not among its {n_features}")
        left_set = np.full(n_nodes, NO_SET, np.int32) if self.left_set is None else self.left_set
        known_set = np.full(n_nodes, NO_SET, np.int32) if self.known_set is None else self.known_set
        numeric = inner & (left_set == NO_SET)
        if (np.isnan(self.threshold) | np.isneginf(self.threshold))[numeric].any():
            raise ModelFileError(f"{what} has a threshold that is NaN or -inf")
        return OneTree(
            feature=np.where(inner, self.feature, LEAF).astype(np.int32),
            # an infinite threshold sends all numbers left and missing ones right; infinite numbers are never scored
            threshold=np.where(numeric, np.minimum(self.threshold, _LARGEST), 0.0),
            left=np.where(inner, self.left, LEAF).astype(np.int32),
            right=np.where(inner, self.right, LEAF).astype(np.int32),
            missing_left=self.missing_left & inner,
            left_set=np.where(inner, left_set, NO_SET).astype(np.int32),
            known_set=np.where(inner, known_set, NO_SET).astype(np.int32),
        )

    def _check_children(self, what: str) -> None:
        n_nodes = len(self.is_leaf)
        inner = np.flatnonzero(~self.is_leaf)
        children = np.concatenate([self.left[inner], self.right[inner]])
        if not n_nodes or len(children) != n_nodes - 1:
            raise ModelFileError(f"{what} has {len(inner)} splits among {n_nodes} nodes, which is no binary tree")
        if ((children <= np.tile(inner, 2)) | (children >= n_nodes)).any():
            raise ModelFileError(f"{what} has a child that does not come after its parent: dangling, or in a circle")
        if len(np.unique(children)) != len(children):
            raise ModelFileError(f"{what} has a node with two parents")


def join_trees(
    trees: Sequence[OneTree], sets: tuple[Ints, ...] = (), *, float32: bool, codes: CodeRule = CodeRule.CUT
) -> Trees:
    """Return the trees one after another.

    Args:
        trees: At least one.
        sets: What `left_set` and `known_set` refer to.
        float32: Whether features are rounded to float32 before they are compared.
        codes: Which numbers are the code of a category.

    Raises:
        ValueError: A set is not sorted, or repeats a code.
    """
    sizes = [len(tree.feature) for tree in trees]
    start = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    shift = np.repeat(start[:-1], sizes).astype(np.int32)
    feature = np.concatenate([tree.feature for tree in trees])
    leaf = feature == LEAF
    missing_left = np.concatenate([tree.missing_left for tree in trees])
    left_set = np.concatenate([tree.left_set for tree in trees])
    return Trees(
        start=start,
        feature=feature,
        threshold=np.concatenate([tree.threshold for tree in trees]),
        left=np.where(leaf, LEAF, np.concatenate([tree.left for tree in trees]) + shift).astype(np.int32),
        right=np.where(leaf, LEAF, np.concatenate([tree.right for tree in trees]) + shift).astype(np.int32),
        missing_left=missing_left,
        zero_is_missing=np.zeros(len(feature), dtype=np.bool_),
        left_set=left_set,
        known_set=np.concatenate([tree.known_set for tree in trees]),
        unknown_left=missing_left & (left_set != NO_SET),
        sets=sets,
        strict=False,
        float32=float32,
        codes=codes,
    )


def read_tree(tree: Estimator, n_features: int, what: str) -> tuple[OneTree, Floats]:
    """Return the nodes of a fitted decision tree, and what each of its leaves holds.

    Args:
        tree: A decision tree.
        n_features: The number of features that the whole model was trained on.
        what: Names the tree in messages.

    Returns:
        The nodes, and shape (n_nodes, n_outputs, n_classes), n_classes 1 for a regression; 0.0 at nodes that are no
        leaf.

    Raises:
        UnsupportedModelError: It is not fitted.
        ModelFileError: It is damaged.
    """
    node = tree.state.get("tree_")
    if node is None:
        raise UnsupportedModelError(f"{what} is not fitted: it has no nodes")
    if not isinstance(node, Node) or node.path != "sklearn.tree._tree.Tree" or len(node.args) != 3 or not node.built:
        raise ModelFileError(f"{what} is damaged: it has no nodes")
    state = mapping(node.state, f"the state of {what}")
    # before 1.3 trees knew no missing values
    fields = _FIELDS if tree.version < (1, 3) else (*_FIELDS, "missing_go_to_left")
    records = tree.arrays.records(state.get("nodes"), f"the nodes of {what}", fields)
    values = tree.arrays.numbers(state.get("values"), f"the values of {what}")
    if node.args[0] != n_features:
        raise ModelFileError(f"{what} was grown on another number of features than {n_features}")
    if state.get("node_count") != len(records) or values.ndim != 3 or len(values) != len(records):
        raise ModelFileError(f"{what} has {len(records)} nodes, but another node_count, or values of other nodes")
    is_leaf = records["left_child"] == LEAF
    nodes = FileNodes(
        is_leaf=is_leaf,
        feature=records["feature"].astype(np.int64),
        threshold=records["threshold"].astype(np.float64),
        left=records["left_child"].astype(np.int64),
        right=records["right_child"].astype(np.int64),
        missing_left=records["missing_go_to_left"] != 0 if len(fields) > len(_FIELDS) else np.zeros_like(is_leaf),
    )
    return nodes.checked(n_features, what), np.where(is_leaf[:, None, None], values, 0.0)


def whole_number(model: Estimator, key: str) -> int:
    """Return an attribute that is a whole number of at least one, Python's or numpy's.

    Raises:
        ModelFileError: It is something else, or missing.
    """
    value = model.state.get(key)
    number = model.arrays.numbers(value, f"{model.name}.{key}")
    if isinstance(value, bool) or number.shape != () or not 1 <= number < 2**31 or number != np.floor(number):
        raise ModelFileError(f"{model.name}.{key} is no count")
    return int(number)


def read_classes(model: Estimator) -> tuple[str, ...]:
    """Return the labels of a classifier of one label.

    Raises:
        UnsupportedModelError: There is only one class.
        ModelFileError: They are damaged.
    """
    labels = model.arrays.labels(model.state.get("classes_"), f"{model.name}.classes_")
    if len(labels) < 2:
        raise UnsupportedModelError(f"{model.name} was trained on {len(labels)} class: it predicts nothing else")
    return tuple(label_text(label) for label in labels)
