"""How a node decides, in the form that the kernel reads: thresholds, flags and sets of categories."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fedpredict.model.arrays import Floats
from fedpredict.model.kernel.library import Rules

if TYPE_CHECKING:
    from fedpredict.model.trees import Trees

MAX_COLUMNS = 2**26
NODE = np.dtype([("threshold", np.float64), ("child", np.int32), ("what", np.uint32)])
_ZERO = np.array([np.float32(1e-35)], dtype=np.float64)
# as in trees.c
_CODES = ("cut", "cut_from_zero", "whole", "byte")
_LEAF, _UNKNOWN_RIGHT, _CATEGORICAL, _ZERO_IS_MISSING, _MISSING_RIGHT = (1 << bit for bit in range(26, 31))
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


def nodes_of(trees: Trees) -> NDArray[np.void]:
    """Return the nodes of `NODE`, in their order; `child` is 0."""
    leaf = trees.left < 0
    categorical = trees.left_set >= 0
    nodes = np.zeros(len(leaf), dtype=NODE)
    threshold = largest_left(trees.threshold, strict=trees.strict, float32=trees.float32)
    sets = np.column_stack([trees.left_set, trees.known_set]).astype(np.int32).view(np.float64)[:, 0]
    nodes["threshold"] = np.where(leaf, np.inf, np.where(categorical, sets, threshold))
    what = nodes["what"]
    what[:] = np.maximum(trees.feature, 0)
    for flag, where in (
        (_LEAF, leaf),
        (_UNKNOWN_RIGHT, ~trees.unknown_left),
        (_CATEGORICAL, categorical),
        (_ZERO_IS_MISSING, trees.zero_is_missing & ~leaf),
        (_MISSING_RIGHT, ~trees.missing_left & ~leaf),
    ):
        what[where] |= np.uint32(flag)
    return nodes


def rules_of(trees: Trees) -> tuple[Rules, tuple[NDArray[np.generic], ...]]:
    """Return the rules that hold for all nodes, and the arrays to keep alive for them."""
    arrays = _sets(trees)
    zero = float(largest_left(_ZERO, strict=False, float32=trees.float32)[0])
    return Rules(*(each.ctypes.data for each in arrays), zero, int(trees.float32), _CODES.index(trees.codes)), arrays


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
