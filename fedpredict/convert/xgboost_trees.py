"""The trees of an XGBoost model: boosted trees, forests, DART, leaves with several values, splits by category."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedpredict.convert.forest import CodeSets, FileNodes, build_trees
from fedpredict.convert.values import clipped
from fedpredict.convert.xgboost_categories import Categories
from fedpredict.convert.xgboost_document import Section
from fedpredict.errors import ModelFileError, UnsupportedModelError
from fedpredict.model.arrays import Floats
from fedpredict.model.trees import NO_SET, Ints, Trees

Indices = NDArray[np.int64]
_LEAF_CHILD = -1
_FIRST_CATEGORICAL = (1, 7)
"""Before, unknown categories followed the default direction, and only GPUs trained such trees."""


@dataclass(frozen=True, slots=True, eq=False)
class Boosted:
    """The trees, as `TreesPart` has them."""

    trees: Trees
    output: Ints
    values: Floats


@dataclass(frozen=True, slots=True, eq=False)
class Booster:
    """Where the trees stand, and what each counts.

    Attributes:
        model: The section of the trees.
        trees: Each tree.
        weights: Shape (n_trees,): with DART, the weight of each.
    """

    model: Section
    trees: list[Section]
    weights: Floats | None


def read_boosted(  # noqa: PLR0917  what the file says elsewhere
    booster: Booster, learner: Section, version: tuple[int, int, int], n_features: int, n_scores: int,
    rounds: int | None, categories: Categories,
) -> Boosted:  # fmt: skip
    """Return the trees of the first rounds.

    Args:
        booster: The trees.
        learner: Of the document.
        version: Of XGBoost.
        n_features: As the file says.
        n_scores: The scores per sample.
        rounds: How many rounds of boosting count; None for all.
        categories: Translate the codes of categories.

    Raises:
        UnsupportedModelError: They split by categories in a version that is not read, or as no one rule can say.
        ModelFileError: Their arrays do not fit each other.
    """
    trees = booster.trees
    info = booster.model.integers("tree_info")
    if len(info) != len(trees):
        raise ModelFileError(f"the XGBoost model has {len(trees)} trees, but says the class of {len(info)}")
    used = len(trees) if rounds is None else _n_trees(booster.model, learner, rounds, n_scores, len(trees))
    sets = CodeSets()
    nodes = []
    for number, tree in enumerate(trees[:used]):
        if tree.has("categories_nodes") and tree.integers("categories_nodes").size and version < _FIRST_CATEGORICAL:
            raise UnsupportedModelError(
                "the model splits by categories and was written by XGBoost before 1.7, where that was an experiment: "
                "train it again with a newer one"
            )
        weight = 1.0 if booster.weights is None else float(booster.weights[number])
        nodes.append(_nodes(tree, weight, n_scores, sets, categories))
    by_set = {int(column) for tree in nodes for column in np.unique(tree.feature[tree.left_set != NO_SET])}
    rule = categories.rule(by_set)
    built, values = build_trees(nodes, sets, n_features=n_features, strict=True, float32=True, codes=rule)
    wide = values.shape[1] > 1
    output = np.full(used, -1, dtype=np.int32) if wide else info[:used].astype(np.int32)
    if not wide and ((info < 0) | (info >= n_scores)).any():
        raise ModelFileError(f"a tree of the XGBoost model belongs to a class that is not among {n_scores}")
    return Boosted(built, output, values)


def booster_of(learner: Section) -> Booster:
    """Return the trees of a model.

    Raises:
        UnsupportedModelError: Its booster is not of trees.
        ModelFileError: It is damaged.
    """
    booster = learner.section("gradient_booster")
    name = booster.text("name")
    if name == "gbtree":
        return _of_trees(booster.section("model"), None)
    if name == "dart":
        return _of_trees(booster.section("gbtree").section("model"), booster.float32s("weight_drop"))
    if name == "gblinear":
        raise UnsupportedModelError(
            "the XGBoost model is linear (booster gblinear), which is not read: train it with scikit-learn, or give "
            "its weights as a portable partial model"
        )
    raise UnsupportedModelError(f"the XGBoost booster '{clipped(name)}' is not served; supported are gbtree and dart")


def _of_trees(model: Section, weights: Floats | None) -> Booster:
    trees = model.sections("trees")
    if weights is not None and len(weights) != len(trees):
        raise ModelFileError(f"the XGBoost model has {len(trees)} trees, but weights of {len(weights)}")
    return Booster(model, trees, weights)


def _n_trees(model: Section, learner: Section, rounds: int, n_scores: int, n_trees: int) -> int:
    """How many trees the first rounds have: by the list of rounds (from 2.1 on), else by the trees of one round."""
    if model.has("iteration_indptr"):
        ends = model.integers("iteration_indptr")
        if len(ends) < 1 or ends[0] != 0 or ends[-1] != n_trees or (np.diff(ends) < 0).any():
            raise ModelFileError("the rounds of the XGBoost model do not share its trees out")
        return int(ends[min(rounds, len(ends) - 1)])
    return min(rounds * n_scores * _parallel(model, learner), n_trees)


def _parallel(model: Section, learner: Section) -> int:
    """The trees of one round and class. Before 1.6 only the best round tells: how many trees there are up to it."""
    parameters = model.section("gbtree_model_param")
    if parameters.has("num_parallel_tree"):
        return max(parameters.count("num_parallel_tree"), 1)
    attributes = learner.section("attributes")
    best, n_trees = attributes.count("best_iteration") + 1, attributes.count("best_ntree_limit")
    if n_trees < best or n_trees % best:
        raise ModelFileError(f"the XGBoost model says that {n_trees} trees make {best} rounds, which cannot be")
    return n_trees // best


def _nodes(tree: Section, weight: float, n_scores: int, sets: CodeSets, categories: Categories) -> FileNodes:
    left, right = tree.integers("left_children"), tree.integers("right_children")
    feature = tree.integers("split_indices")
    conditions, default_left = tree.float32s("split_conditions"), tree.integers("default_left")
    if len({len(left), len(right), len(feature), len(conditions), len(default_left)}) > 1 or not len(left):
        raise ModelFileError(f"the arrays of {tree.place} of the XGBoost model differ in length, or are empty")
    said = tree.section("tree_param").count("num_nodes", len(left))
    if said != len(left):
        raise ModelFileError(f"{tree.place} of the XGBoost model says that it has {said} nodes, and has {len(left)}")
    leaf = left == _LEAF_CHILD
    left_set = _sets(tree, feature, leaf, sets, categories)
    is_set = left_set != NO_SET
    missing_left = default_left != 0
    return FileNodes(
        feature=feature,
        threshold=conditions,
        # a category of the set goes right in XGBoost, any other left: the two change places
        left=np.where(is_set, right, left),
        right=np.where(is_set, left, right),
        leaf=leaf,
        missing_left=missing_left ^ is_set,
        zero_is_missing=np.zeros(len(left), dtype=np.bool_),
        left_set=left_set,
        values=weight * _leaf_values(tree, conditions, right, leaf, n_scores),
    )


def _leaf_values(tree: Section, conditions: Floats, right: Indices, leaf: NDArray[np.bool_], n_scores: int) -> Floats:
    """The values of all nodes, shape (n_nodes, 1) or (n_nodes, n_scores).

    One value stands where a split has its threshold. Several stand in an array of their own: since 3.1 one of leaves,
    where a leaf's right child is its place; before, one of all nodes.
    """
    width = tree.section("tree_param").count("size_leaf_vector", 1)
    if width <= 1:
        return conditions[:, None]
    if width != n_scores:
        raise ModelFileError(f"the leaves of {tree.place} have {width} values for {n_scores} scores")
    of_leaves = tree.has("leaf_weights")
    table = tree.float32s("leaf_weights" if of_leaves else "base_weights")
    place = np.where(leaf, right, 0) if of_leaves else np.arange(len(leaf))
    if table.size % width or place.min() < 0 or place.max() >= table.size // width:
        raise ModelFileError(f"the leaf values of {tree.place} of the XGBoost model do not fit its leaves")
    return table.reshape(-1, width)[place]


def _sets(tree: Section, feature: Indices, leaf: NDArray[np.bool_], sets: CodeSets, categories: Categories) -> Indices:
    """The number of each node's set of categories, or `NO_SET`."""
    found = np.full(len(feature), NO_SET, dtype=np.int64)
    kinds = tree.integers("split_type") if tree.has("split_type") else np.zeros(len(feature), dtype=np.int64)
    if len(kinds) != len(feature):
        raise ModelFileError(f"the arrays of {tree.place} of the XGBoost model differ in length")
    if not ((kinds != 0) & ~leaf).any():
        return found
    codes, nodes = tree.integers("categories"), tree.integers("categories_nodes")
    starts, sizes = tree.integers("categories_segments"), tree.integers("categories_sizes")
    if len({len(nodes), len(starts), len(sizes)}) > 1 or (sizes < 0).any() or (starts < 0).any():
        raise ModelFileError(f"the categories of {tree.place} of the XGBoost model do not fit together")
    if ((nodes < 0) | (nodes >= len(feature))).any() or (starts + sizes > len(codes)).any():
        raise ModelFileError(f"the categories of {tree.place} of the XGBoost model do not fit together")
    for node, start, size in zip(nodes.tolist(), starts.tolist(), sizes.tolist(), strict=True):
        if not leaf[node]:
            found[node] = sets.number_of(categories.values(int(feature[node]), codes[start : start + size]))
    if (((kinds != 0) & ~leaf) != (found != NO_SET)).any():
        raise ModelFileError(f"a node of {tree.place} of the XGBoost model splits by categories, but has none")
    return found
