"""The trees of a LightGBM model: what its nodes do with a number, a gap, a zero and a category."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedpredict.convert.forest import CodeSets, FileNodes, build_trees
from fedpredict.convert.lightgbm_categories import Categories
from fedpredict.convert.lightgbm_text import Block
from fedpredict.errors import ModelFileError, UnsupportedModelError
from fedpredict.model.arrays import Bools, Floats
from fedpredict.model.trees import NO_SET, Trees

Indices = NDArray[np.int64]
_CATEGORICAL, _DEFAULT_LEFT = 1, 2
_NONE, _ZERO, _NAN = 0, 1, 2
_WORD_BITS = 32
_ZERO_AT = float(np.float32(1e-35))
_LARGEST = float(np.finfo(np.float64).max)


@dataclass(frozen=True, slots=True, eq=False)
class Grown:
    """The trees, as `TreesPart` has them, with the features that every node refuses to miss."""

    trees: Trees
    values: Floats
    may_miss: Bools


def read_trees(blocks: list[Block], n_features: int, categories: Categories) -> Grown:
    """Return the trees.

    A feature may miss unless nodes split by it and none of them was trained with missing values.

    Args:
        blocks: The lines of each tree.
        n_features: As the head says.
        categories: Translate the codes of categories.

    Raises:
        UnsupportedModelError: A leaf is a linear model.
        ModelFileError: The arrays do not fit each other.
    """
    sets = CodeSets()
    seen, missed = np.zeros(n_features, dtype=np.bool_), np.zeros(n_features, dtype=np.bool_)
    nodes = []
    for block in blocks:
        tree, missing = _nodes(block, sets, categories)
        inner = tree.feature[~tree.leaf]
        known = (inner >= 0) & (inner < n_features)  # others are refused below, with the number of their tree
        seen[inner[known]] = True
        missed[inner[known & (missing != _NONE)]] = True
        nodes.append(tree)
    trees, values = build_trees(nodes, sets, n_features=n_features, strict=False, float32=False, codes=categories.rule)
    if len(trees.feature) != sum(len(tree.feature) for tree in nodes):
        raise ModelFileError("a tree of the LightGBM model has nodes that no path reaches")
    return Grown(trees, values, ~seen | missed)


def _nodes(block: Block, sets: CodeSets, categories: Categories) -> tuple[FileNodes, Indices]:
    """One tree: its splits in their order, its leaves behind them; and how each split was trained to miss."""
    n_leaves = block.count("num_leaves")
    if not 1 <= n_leaves <= len(block.text("leaf_value")):
        raise ModelFileError(f"{block.place} of the LightGBM model has {n_leaves} leaves")
    if block.count("is_linear", 0):
        raise UnsupportedModelError(
            "the leaves of the LightGBM model are linear models (linear_tree=true), which are not served: train it "
            "with linear_tree=false"
        )
    n_splits = n_leaves - 1
    threshold = block.numbers("threshold", n_splits)
    decision = block.integers("decision_type", n_splits)
    feature = block.integers("split_feature", n_splits)
    children = [block.integers(key, n_splits) for key in ("left_child", "right_child")]
    leaf = np.arange(n_splits + n_leaves) >= n_splits
    is_set, missing = (decision & _CATEGORICAL) != 0, (decision >> 2) & 3
    if (missing > _NAN).any() or (decision < 0).any() or (decision > 15).any():
        raise ModelFileError(f"decision_type of {block.place} of the LightGBM model is unknown")
    values = np.zeros((len(leaf), 1))
    values[n_splits:, 0] = block.numbers("leaf_value", n_leaves)
    tree = FileNodes(
        feature=_with_leaves(feature, n_leaves),
        threshold=_with_leaves(_as_compared(threshold), n_leaves),
        left=_with_leaves(_places(children[0], n_splits), n_leaves),
        right=_with_leaves(_places(children[1], n_splits), n_leaves),
        leaf=leaf,
        missing_left=_with_leaves(_gap_goes_left(threshold, decision, missing) & ~is_set, n_leaves),
        zero_is_missing=_with_leaves((missing == _ZERO) & ~is_set, n_leaves),
        left_set=_with_leaves(_sets(block, feature, threshold, is_set, sets, categories), n_leaves),
        values=values,
    )
    return tree, missing


def _as_compared(threshold: Floats) -> Floats:
    """The thresholds for numbers as they are: LightGBM takes those within `_ZERO_AT` of zero for zero.

    Up to infinity, which any number is, is up to the largest number.
    """
    found = np.where(threshold == np.inf, _LARGEST, threshold)
    found = np.where((threshold >= 0.0) & (threshold < _ZERO_AT), _ZERO_AT, found)
    return np.where((threshold < 0.0) & (threshold >= -_ZERO_AT), np.nextafter(-_ZERO_AT, -np.inf), found)


def _gap_goes_left(threshold: Floats, decision: Indices, missing: Indices) -> Bools:
    """Where NaN goes: by default where the split knows gaps or counts zeros as such; else it counts as 0."""
    return np.where(missing == _NONE, threshold >= 0.0, (decision & _DEFAULT_LEFT) != 0)


def _places(children: Indices, n_splits: int) -> Indices:
    """A child as a position: LightGBM counts leaves apart, from -1 down."""
    return np.where(children < 0, n_splits - 1 - children, children)


def _with_leaves(of_splits: NDArray[Any], n_leaves: int) -> NDArray[Any]:
    """A column of all nodes; whatever at leaves."""
    return np.concatenate([of_splits, np.zeros(n_leaves, dtype=of_splits.dtype)])


def _sets(  # noqa: PLR0917  the columns of one tree
    block: Block, feature: Indices, threshold: Floats, is_set: Bools, sets: CodeSets, categories: Categories
) -> Indices:
    """The number of each split's set of categories, or `NO_SET`; the threshold of such a split counts the sets."""
    found = np.full(len(feature), NO_SET, dtype=np.int64)
    n_sets = block.count("num_cat", 0)
    if not is_set.any():
        return found
    bounds = block.integers("cat_boundaries", n_sets + 1)
    words = block.integers("cat_threshold", int(bounds[-1]) if bounds[-1] >= 0 else 0)
    if bounds[0] != 0 or (np.diff(bounds) < 0).any() or ((words < 0) | (words >= 2**_WORD_BITS)).any():
        raise ModelFileError(f"the categories of {block.place} of the LightGBM model do not fit together")
    bits = np.unpackbits(words.astype("<u4").view(np.uint8), bitorder="little")
    for split in np.flatnonzero(is_set).tolist():
        number = threshold[split]
        if not (0 <= number < n_sets and number == int(number)):
            raise ModelFileError(f"a split of {block.place} of the LightGBM model has no set of categories")
        start, stop = bounds[int(number)] * _WORD_BITS, bounds[int(number) + 1] * _WORD_BITS
        codes = np.flatnonzero(bits[start:stop])
        found[split] = sets.number_of(categories.values(int(feature[split]), codes))
    return found
