"""Trees split across parties, laid out for the compiled kernel: one party's splits, and the leaf masks they leave."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fedpredict.model.arrays import Floats
from fedpredict.model.kernel.library import LIBRARY, MasksStruct
from fedpredict.model.kernel.rules import NODE, nodes_of, packed, rules_of

if TYPE_CHECKING:
    from fedpredict.model.trees import Trees

LEAVES_PER_WORD = 52
"""A word of a leaf mask is then a whole number that float64 holds exactly."""
_GROUP = 32
"""As in trees.c."""
_SIDE = np.dtype([("place", np.uint32), ("n_leaves", np.int32), ("below", np.int32), ("n_below", np.int32)])
_SPLIT = np.dtype([("node", NODE), ("sides", _SIDE, (2,))])


class Masker:
    """A party's splits as the kernel reads them. Any thread may call."""

    __slots__ = ("_address", "_arrays", "_struct", "n_words")

    def __init__(self, trees: Trees) -> None:
        start = np.ascontiguousarray(trees.start, dtype=np.int64)
        words = word_starts(trees.n_leaves)
        self.n_words = int(words[-1])
        order, below, split_start, n_roots = _order(trees, start)
        splits = np.zeros(len(order), dtype=_SPLIT)
        splits["node"] = nodes_of(trees)[order]
        first, count = number_leaves(trees)
        tree = np.searchsorted(start, order, side="right") - 1
        word = words[tree] - words[tree // _GROUP * _GROUP]
        for side, other in enumerate((trees.right[order], trees.left[order])):
            places = splits["sides"][:, side]
            places["place"] = (word + first[other] // LEAVES_PER_WORD) * 64 + first[other] % LEAVES_PER_WORD
            places["n_leaves"] = count[other]
            places["below"] = below[:, side]
            places["n_below"] = below[:, side + 1] - below[:, side]
        rules, sets = rules_of(trees)
        own = (splits, split_start, n_roots, words, _all_leaves(trees.n_leaves, words))
        groups = np.append(np.arange(0, trees.n_trees, _GROUP), trees.n_trees)
        most = (int(np.diff(each[groups]).max(initial=0)) for each in (split_start, words))
        self._arrays = (*own, *sets)
        self._struct = MasksStruct(rules, *(each.ctypes.data for each in own), trees.n_trees, *most)
        self._address = ctypes.addressof(self._struct)

    @property
    def n_bytes(self) -> int:
        """The memory of its arrays."""
        return sum(each.nbytes for each in self._arrays)

    def masks(self, features: Floats) -> Floats:
        """Return the leaf masks, (n_samples, n_words).

        Args:
            features: Shape (n_samples, n_features), with every column that a node names.
        """
        features = packed(features)
        words = np.empty((len(features), self.n_words))
        if LIBRARY.fp_masks(self._address, features.ctypes.data, *features.shape, words.ctypes.data):
            raise MemoryError("no memory for making leaf masks")
        return words


def word_starts(n_leaves: NDArray[np.integer]) -> NDArray[np.int64]:
    """Return the first word of each tree in a mask, and the number of words; shape (n_trees + 1,).

    >>> word_starts(np.array([1, 52, 53]))
    array([0, 1, 2, 4])
    """
    return np.concatenate([[0], np.cumsum(-(-n_leaves // LEAVES_PER_WORD))]).astype(np.int64)


def number_leaves(trees: Trees) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Return for each node the number of its first leaf among those of its tree, and how many leaves it has."""
    left, right = (np.ascontiguousarray(each, dtype=np.int32) for each in (trees.left, trees.right))
    first, count = np.zeros(len(left), dtype=np.int32), np.zeros(len(left), dtype=np.int32)
    LIBRARY.fp_number_leaves(len(left), *(each.ctypes.data for each in (left, right, first, count)))
    return first, count


def _order(
    trees: Trees, start: NDArray[np.int64]
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int64], NDArray[np.int32]]:
    """The nodes of our own splits, those below one side of a split side by side; as `fp_order_splits` says."""
    shape = [np.ascontiguousarray(each, dtype=np.int32) for each in (trees.feature, trees.left, trees.right)]
    n_splits = int((trees.feature >= 0).sum())
    stack = np.empty(len(trees.feature), dtype=np.int32)
    order = np.empty(n_splits, dtype=np.int32)
    below = np.empty((n_splits, 3), dtype=np.int32)
    split_start = np.empty(len(start), dtype=np.int64)
    n_roots = np.empty(trees.n_trees, dtype=np.int32)
    arrays: tuple[NDArray[Any], ...] = (start, *shape, stack, order, below, split_start, n_roots)
    LIBRARY.fp_order_splits(trees.n_trees, *(each.ctypes.data for each in arrays))
    return order, below, split_start, n_roots


def _all_leaves(n_leaves: NDArray[np.int64], words: NDArray[np.int64]) -> NDArray[np.uint64]:
    """A mask with every leaf."""
    everything = np.full(words[-1], 2**LEAVES_PER_WORD - 1, dtype=np.uint64)
    everything[words[1:] - 1] = (1 << ((n_leaves - 1) % LEAVES_PER_WORD + 1)) - 1
    return everything
