"""Whole trees laid out for the compiled kernel, and their sums: made once from checked arrays, then only read."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fedpredict.model.arrays import Floats
from fedpredict.model.kernel.library import LIBRARY, TreesStruct
from fedpredict.model.kernel.rules import NODE, nodes_of, packed, rules_of

if TYPE_CHECKING:
    from fedpredict.model.trees import Trees


class Walker:
    """The nodes of whole trees as the kernel reads them. Any thread may call."""

    __slots__ = ("_arrays", "_struct", "address", "n_trees")

    def __init__(self, trees: Trees) -> None:
        start = np.ascontiguousarray(trees.start, dtype=np.int64)
        position = _positions(start, trees)
        original = np.empty(len(position), dtype=np.int32)
        original[position] = np.arange(len(position))
        nodes = np.empty(len(position), dtype=NODE)
        nodes[position] = nodes_of(trees)
        nodes["child"][position] = np.where(trees.left < 0, position, position[np.maximum(trees.left, 0)])
        special = np.concatenate([[0], np.cumsum((trees.left_set >= 0) | trees.zero_is_missing)])
        plain = (np.diff(special[start]) == 0).astype(np.uint8)
        rules, sets = rules_of(trees)
        own = (nodes, start, original, plain)
        self.n_trees = trees.n_trees
        self._arrays = (*own, *sets)
        self._struct = TreesStruct(rules, *(each.ctypes.data for each in own), self.n_trees)
        self.address = ctypes.addressof(self._struct)

    @property
    def n_bytes(self) -> int:
        """The memory of its arrays."""
        return sum(each.nbytes for each in self._arrays)

    def leaves(self, features: Floats) -> NDArray[np.int64]:
        """Return the leaf of every sample in every tree, (n_samples, n_trees).

        Args:
            features: Shape (n_samples, n_features), with every column that a node names.
        """
        features = packed(features)
        found = np.empty((len(features), self.n_trees), dtype=np.int64)
        LIBRARY.fp_leaves(self.address, features.ctypes.data, *features.shape, found.ctypes.data)
        return found


def _positions(start: NDArray[np.int64], trees: Trees) -> NDArray[np.int64]:
    """Where each node stands for the kernel: a root first, then pairs of siblings in the order of their parents."""
    inner = np.flatnonzero(trees.left >= 0)
    before = np.concatenate([[0], np.cumsum(trees.left >= 0)])
    tree = np.searchsorted(start, inner, side="right") - 1
    pair = start[tree] + 1 + 2 * (before[inner] - before[start[tree]])
    position = np.empty(len(trees.left), dtype=np.int64)
    position[start[:-1]] = start[:-1]
    position[trees.left[inner]] = pair
    position[trees.right[inner]] = pair + 1
    return position


class LeafSums:
    """Sums of leaf values over checked trees. Any thread may call.

    Args:
        walker: The trees.
        values: Shape (n_nodes, n_scores), or (n_nodes, 1) with an `output`.
        output: Shape (n_trees,): the score that each tree adds to; None where every leaf has a value for each.
        base: Shape (n_scores,), or None for nothing.
        n_scores: The width.
    """

    __slots__ = ("_arrays", "_n_scores", "_walker")

    def __init__(
        self, walker: Walker, values: Floats, output: NDArray[np.int32] | None, base: Floats | None, n_scores: int
    ) -> None:
        self._walker, self._n_scores = walker, n_scores
        self._arrays = (
            packed(values),
            None if output is None else np.ascontiguousarray(output, dtype=np.int32),
            None if base is None else packed(base),
        )

    def of(self, features: Floats, *, absolute: bool = False) -> Floats:
        """Return the sums in the order of the trees, then of `base`, (n_samples, n_scores); without signs on demand."""
        features = packed(features)
        scores = np.empty((len(features), self._n_scores))
        LIBRARY.fp_sums(
            self._walker.address,
            features.ctypes.data,
            *features.shape,
            *(None if each is None else each.ctypes.data for each in self._arrays),
            self._n_scores,
            absolute,
            scores.ctypes.data,
        )
        return scores
