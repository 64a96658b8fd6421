"""Trees laid out for the compiled kernel: made once from checked arrays, then only read."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fedpredict.model.arrays import Bools, Floats
from fedpredict.model.kernel.library import LIBRARY, TreesStruct

if TYPE_CHECKING:
    from fedpredict.model.trees import Trees

LEAVES_PER_WORD = 52
"""A word of a leaf mask is then a whole number that float64 holds exactly."""
MAX_COLUMNS = 2**26
ZERO = float(np.float32(1e-35))

# as in trees.c
_END, _FOREIGN, _UNKNOWN_RIGHT, _CATEGORICAL, _ZERO_IS_MISSING, _MISSING_RIGHT = (1 << bit for bit in range(26, 32))
_NODE = np.dtype([("threshold", np.float64), ("child", np.int32), ("what", np.uint32)])
_QUIET_NAN = 0x7FF8 << 48
_FLOAT64 = np.dtype(np.float64)
_FEWEST_WORDS = 16
"""A set of categories takes so many words of bits, or one per code; codes beyond that stand in a list."""


def packed(array: Floats) -> Floats:
    """Return the numbers row-major, aligned and in the machine's own float64: as they are, or copied."""
    flags = array.flags
    if array.dtype is _FLOAT64 and flags.c_contiguous and flags.aligned:
        return array
    return np.array(array, dtype=np.float64, order="C")


def largest_left(threshold: Floats, *, strict: bool, float32: bool) -> Floats:
    """Return the largest float64 that goes left of each threshold, so that `x <= it` is all there is to ask.

    With `float32`, that is the last number which float32 rounds to something that goes left: the one half way to the
    next float32 where ties are rounded down (to the even one), else the one before.

    >>> largest_left(np.array([1.0]), strict=False, float32=True) == 1 + 2.0**-24
    array([ True])
    >>> largest_left(np.array([1.0]), strict=True, float32=False) == 1 - 2.0**-53
    array([ True])
    """
    if not float32:
        return np.nextafter(threshold, -np.inf) if strict else threshold
    with np.errstate(over="ignore", under="ignore"):
        last = threshold.astype(np.float32)
        beyond = last >= threshold if strict else last > threshold
        last = np.where(beyond, np.nextafter(last, np.float32(-np.inf)), last)
        following = np.nextafter(last, np.float32(np.inf))
    low, high = (np.clip(each.astype(np.float64), -(2.0**128), 2.0**128) for each in (last, following))
    middle = (low + high) / 2
    even = (last.view(np.uint32) & 1) == 0
    return np.where(even, middle, np.nextafter(middle, -np.inf))


class Walker:
    """What the kernel reads of `Trees`, and its calls. Any thread may call."""

    __slots__ = ("_arrays", "_struct", "address", "n_columns", "n_trees", "n_words", "summable")

    def __init__(self, trees: Trees) -> None:
        start = np.ascontiguousarray(trees.start, dtype=np.int64)
        leaf = trees.left < 0
        foreign = (trees.feature < 0) & ~leaf
        self.n_trees = len(start) - 1
        self.n_columns = int(trees.feature.max(initial=-1)) + 1
        self.summable = not foreign.any()
        first, count, own, waiting = number_leaves(trees)
        position = _positions(start, leaf, trees)
        original = np.empty(len(leaf), dtype=np.int32)
        original[position] = np.arange(len(leaf))
        nodes = np.empty(len(leaf), dtype=_NODE)
        nodes["threshold"][position] = _thresholds(trees, leaf | ~own, first)
        nodes["child"][position] = np.where(
            leaf, position, np.where(foreign & ~own, count, position[np.maximum(trees.left, 0)])
        )
        nodes["what"][position] = _what(trees, leaf, foreign, own)
        special = np.concatenate([[0], np.cumsum((trees.left_set >= 0) | trees.zero_is_missing)])
        plain = np.diff(special[start]) == 0
        words = word_starts((np.diff(start) + 1) // 2)
        self.n_words = int(words[-1])
        self._arrays = (nodes, start, original, plain.astype(np.uint8), *_sets(trees), words)
        zero = largest_left(np.array([ZERO]), strict=False, float32=trees.float32)
        self._struct = TreesStruct(
            *(each.ctypes.data for each in self._arrays),
            self.n_trees,
            int(waiting.max(initial=0)) + 1,
            float(zero[0]),
            int(trees.float32),
        )
        self.address = ctypes.addressof(self._struct)

    @property
    def n_bytes(self) -> int:
        """The memory of its arrays."""
        return sum(each.nbytes for each in self._arrays)

    def leaves(self, features: Floats) -> NDArray[np.int64]:
        """Return the leaf of every sample in every tree, (n_samples, n_trees); only where `summable`."""
        features = self.checked(features)
        found = np.empty((len(features), self.n_trees), dtype=np.int64)
        LIBRARY.fp_trees_leaves(self.address, features.ctypes.data, len(features), features.shape[1], found.ctypes.data)
        return found

    def masks(self, features: Floats) -> Floats:
        """Return the leaf masks, (n_samples, n_words)."""
        features = self.checked(features)
        words = np.empty((len(features), self.n_words))
        if LIBRARY.fp_trees_masks(
            self.address, features.ctypes.data, len(features), features.shape[1], words.ctypes.data
        ):
            raise MemoryError("no memory for walking the trees")
        return words

    def checked(self, features: Floats) -> Floats:
        """Return the features as the kernel can read them.

        Raises:
            ValueError: Fewer columns than the trees refer to.
        """
        if features.ndim != 2 or features.shape[1] < self.n_columns:
            raise ValueError(f"features of shape {features.shape} for trees over {self.n_columns} columns")
        return packed(features)


class LeafSums:
    """Sums of leaf values over checked trees. Any thread may call.

    Args:
        walker: Trees that are `summable`.
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
        features = self._walker.checked(features)
        scores = np.empty((len(features), self._n_scores))
        LIBRARY.fp_trees_sum(
            self._walker.address,
            features.ctypes.data,
            len(features),
            features.shape[1],
            *(None if each is None else each.ctypes.data for each in self._arrays),
            self._n_scores,
            absolute,
            scores.ctypes.data,
        )
        return scores


def number_leaves(trees: Trees) -> tuple[NDArray[np.int32], NDArray[np.int32], Bools, NDArray[np.int32]]:
    """Return for each node the number of its first leaf in its tree, and how many leaves it has.

    And whether there is a split of our own at or below it, and how many nodes wait while a walk of the masks is there.
    """
    n_nodes = len(trees.feature)
    shape = [np.ascontiguousarray(each, dtype=np.int32) for each in (trees.feature, trees.left, trees.right)]
    first, count, waiting = (np.zeros(n_nodes, dtype=np.int32) for _ in range(3))
    own = np.zeros(n_nodes, dtype=bool)
    LIBRARY.fp_trees_number(n_nodes, *(each.ctypes.data for each in (*shape, first, count, own, waiting)))
    return first, count, own, waiting


def word_starts(n_leaves: NDArray[np.integer]) -> NDArray[np.int64]:
    """Return the first word of each tree in a mask, and the number of words; shape (n_trees + 1,).

    >>> word_starts(np.array([1, 52, 53]))
    array([0, 1, 2, 4])
    """
    return np.concatenate([[0], np.cumsum(-(-n_leaves // LEAVES_PER_WORD))]).astype(np.int64)


def _positions(start: NDArray[np.int64], leaf: Bools, trees: Trees) -> NDArray[np.int64]:
    """Where each node stands for the kernel: a root first, then pairs of siblings in the order of their parents."""
    inner = np.flatnonzero(~leaf)
    before = np.concatenate([[0], np.cumsum(~leaf)])
    tree = np.searchsorted(start, inner, side="right") - 1
    pair = start[tree] + 1 + 2 * (before[inner] - before[start[tree]])
    position = np.empty(len(leaf), dtype=np.int64)
    position[start[:-1]] = start[:-1]
    position[trees.left[inner]] = pair
    position[trees.right[inner]] = pair + 1
    return position


def _thresholds(trees: Trees, end: Bools, first: NDArray[np.int32]) -> Floats:
    threshold = largest_left(trees.threshold, strict=trees.strict, float32=trees.float32)
    sets = np.column_stack([trees.left_set, trees.known_set]).astype(np.int32).view(np.float64)[:, 0]
    word, bit = np.divmod(first.astype(np.int64), LEAVES_PER_WORD)
    place = (word * 64 + bit | _QUIET_NAN).view(np.float64)
    return np.where(end, place, np.where(trees.left_set >= 0, sets, threshold))


def _what(trees: Trees, leaf: Bools, foreign: Bools, own: Bools) -> NDArray[np.uint32]:
    what = np.maximum(trees.feature, 0).astype(np.uint32)
    for flag, where in (
        (_END, leaf | ~own),
        (_FOREIGN, foreign),
        (_UNKNOWN_RIGHT, ~trees.unknown_left),
        (_CATEGORICAL, trees.left_set >= 0),
        (_ZERO_IS_MISSING, trees.zero_is_missing),
        (_MISSING_RIGHT, ~trees.missing_left & ~leaf),
    ):
        what |= np.where(where, np.uint32(flag), np.uint32(0))
    return what


def _sets(
    trees: Trees,
) -> tuple[NDArray[np.uint64], NDArray[np.int64], NDArray[np.int32], NDArray[np.int64]]:
    """Each set's low codes as bits, and where they begin; its other codes as a list, and where they begin."""
    n_codes = np.array([len(each) for each in trees.sets], dtype=np.int64)
    codes = np.concatenate([np.zeros(0, dtype=np.int64), *trees.sets]).astype(np.int64)
    owner = np.repeat(np.arange(len(n_codes)), n_codes)
    n_words = np.zeros(len(n_codes), dtype=np.int64)
    np.maximum.at(n_words, owner, codes // 64 + 1)
    n_words = np.minimum(n_words, np.maximum(n_codes, _FEWEST_WORDS))
    first_word = np.concatenate([[0], np.cumsum(n_words)])
    low = codes < 64 * n_words[owner]
    words = np.zeros(first_word[-1], dtype=np.uint64)
    bits = np.left_shift(np.uint64(1), (codes[low] % 64).astype(np.uint64))
    np.bitwise_or.at(words, first_word[owner[low]] + codes[low] // 64, bits)
    n_listed = np.bincount(owner[~low], minlength=len(n_codes))
    return words, first_word, codes[~low].astype(np.int32), np.concatenate([[0], np.cumsum(n_listed)]).astype(np.int64)
