"""Trees of a file, in whatever order its library keeps their nodes, as the trees of the model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedpredict.errors import ModelFileError
from fedpredict.model.arrays import Bools, Floats
from fedpredict.model.trees import LEAF, MAX_CODE, NO_SET, CodeRule, Ints, Trees

Indices = NDArray[np.int64]


class CodeSets:
    """The distinct sets of category codes of a file."""

    def __init__(self) -> None:
        self._numbers: dict[bytes, int] = {}
        self._sets: list[Ints] = []

    def number_of(self, codes: Indices) -> int:
        """Return the position of a set among `all`, which it is added to when it is new.

        Args:
            codes: In any order; none negative.

        Raises:
            ModelFileError: A code is negative or above `MAX_CODE`.
        """
        distinct = np.unique(codes)
        if distinct.size and (distinct[0] < 0 or distinct[-1] > MAX_CODE):
            raise ModelFileError("a category's code is negative or beyond 32 bits")
        found = distinct.astype(np.int32)
        number = self._numbers.setdefault(found.tobytes(), len(self._sets))
        if number == len(self._sets):
            self._sets.append(found)
        return number

    @property
    def all(self) -> tuple[Ints, ...]:
        """The sets, each sorted, in the order of their numbers."""
        return tuple(self._sets)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class FileNodes:
    """The nodes of one tree as a file has them, in its order; or, after `joined`, those of several trees.

    Attributes:
        feature: Shape (n_nodes,); whatever at leaves.
        threshold: Shape (n_nodes,); whatever at leaves and at categorical nodes.
        left: Shape (n_nodes,): the position of the child in its tree, whatever at leaves.
        right: The same.
        leaf: Shape (n_nodes,): whether the node is a leaf.
        missing_left: Shape (n_nodes,).
        zero_is_missing: Shape (n_nodes,).
        left_set: Shape (n_nodes,): the number of a set of codes, or `NO_SET`.
        values: Shape (n_nodes, 1) or (n_nodes, n_scores); whatever at nodes that are no leaf.
    """

    feature: Indices
    threshold: Floats
    left: Indices
    right: Indices
    leaf: Bools
    missing_left: Bools
    zero_is_missing: Bools
    left_set: Indices
    values: Floats


def build_trees(
    nodes: Sequence[FileNodes], sets: CodeSets, *, n_features: int, strict: bool, float32: bool, codes: CodeRule
) -> tuple[Trees, Floats]:
    """Return the trees, and the values of their nodes (0.0 at those that are no leaf).

    Children are put behind their parents, and nodes that no path reaches (what a trainer has pruned) are left out.

    Args:
        nodes: Of each tree, its root first.
        sets: What `left_set` counts.
        n_features: How many features there are.
        strict: As in `Trees`.
        float32: As in `Trees`.
        codes: As in `Trees`.

    Raises:
        ModelFileError: No tree, a child that does not exist, a circle, a node with two parents, a feature that does not
            exist, a threshold or a value that is not finite. The message names the first such tree.
    """
    if not nodes:
        raise ModelFileError("the model has no trees")
    sizes = np.array([len(tree.feature) for tree in nodes], dtype=np.int64)
    starts = np.cumsum([0, *sizes.tolist()])[:-1]
    tree_of = np.repeat(np.arange(len(nodes)), sizes)
    joined = _joined(nodes)
    inner, last = ~joined.leaf, sizes[tree_of] - 1
    for child in (joined.left, joined.right):
        _check(inner & ((child < 0) | (child > last)), tree_of, "has a child that does not exist")
    _check(inner & ((joined.feature < 0) | (joined.feature >= n_features)), tree_of, "has an unknown feature")
    left, right = (np.where(inner, child + starts[tree_of], 0) for child in (joined.left, joined.right))
    order = _order(starts, left, right, joined.leaf, tree_of)
    place = np.zeros(len(tree_of), dtype=np.int32)
    place[order] = np.arange(len(order), dtype=np.int32)
    ordered = FileNodes(**{name: getattr(joined, name)[order] for name in FileNodes.__slots__})
    return _checked(ordered, place[left[order]], place[right[order]], tree_of[order], sets, (strict, float32, codes))


def _checked(  # noqa: PLR0917  the pieces of one result
    nodes: FileNodes, left: Ints, right: Ints, tree_of: Indices, sets: CodeSets, how: tuple[bool, bool, CodeRule]
) -> tuple[Trees, Floats]:
    """The trees of nodes that are in order already, with children counted over all of them."""
    strict, float32, codes = how
    leaf = nodes.leaf
    numeric = ~leaf & (nodes.left_set == NO_SET)
    _check(numeric & ~np.isfinite(nodes.threshold), tree_of, "has a threshold that is NaN or infinite")
    _check(leaf & ~np.isfinite(nodes.values).all(axis=1), tree_of, "has a leaf that is NaN or infinite")
    n_trees = int(tree_of[-1]) + 1
    trees = Trees(
        start=np.searchsorted(tree_of, np.arange(n_trees + 1)).astype(np.int64),
        feature=np.where(leaf, LEAF, nodes.feature).astype(np.int32),
        threshold=np.where(numeric, nodes.threshold, 0.0),
        left=np.where(leaf, LEAF, left).astype(np.int32),
        right=np.where(leaf, LEAF, right).astype(np.int32),
        missing_left=nodes.missing_left & ~leaf,
        zero_is_missing=nodes.zero_is_missing & ~leaf,
        left_set=np.where(leaf, NO_SET, nodes.left_set).astype(np.int32),
        known_set=np.full(len(leaf), NO_SET, dtype=np.int32),
        unknown_left=np.zeros(len(leaf), dtype=np.bool_),
        sets=sets.all,
        strict=strict,
        float32=float32,
        codes=codes,
    )
    return trees, np.where(leaf[:, None], nodes.values, 0.0)


def _joined(nodes: Sequence[FileNodes]) -> FileNodes:
    if len({tree.values.shape[1] for tree in nodes}) > 1:
        raise ModelFileError("the trees differ in how many values a leaf has")
    return FileNodes(**{name: np.concatenate([getattr(tree, name) for tree in nodes]) for name in FileNodes.__slots__})


def _check(wrong: Bools, tree_of: Indices, what: str) -> None:
    if wrong.any():
        raise ModelFileError(f"tree {tree_of[int(wrong.argmax())]} {what}")


def _order(roots: Indices, left: Indices, right: Indices, leaf: Bools, tree_of: Indices) -> Indices:
    """The nodes that are reached, tree after tree, in each by their depth."""
    level = roots
    levels, n_found = [roots], len(roots)
    while True:
        inner = level[~leaf[level]]
        if not inner.size:
            break
        level = np.column_stack([left[inner], right[inner]]).ravel()
        n_found += len(level)
        if n_found > len(leaf):
            raise ModelFileError("a tree has a circle, or a node with two parents")
        levels.append(level)
    found = np.concatenate(levels)
    if len(np.unique(found)) != len(found):
        raise ModelFileError("a tree has a circle, or a node with two parents")
    return found[np.argsort(tree_of[found], kind="stable")]
