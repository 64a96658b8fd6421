"""Leaf masks of trees that are split across parties: which leaf every party allows.

A tree's leaves are numbered from left to right. Each tree takes one word for every `LEAVES_PER_WORD` leaves begun; word
w of a tree is the sum of 2**j over the allowed leaves 52 * w + j, as float64. `Trees.masks` makes them.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fedpredict.model.arrays import Floats
from fedpredict.model.kernel.library import LIBRARY
from fedpredict.model.kernel.masker import LEAVES_PER_WORD, word_starts
from fedpredict.model.kernel.rules import packed

__all__ = ["LEAVES_PER_WORD", "NONE", "NO_MASK", "SEVERAL", "surviving_leaves", "word_starts"]

NONE = -1
"""In `surviving_leaves`: no leaf is allowed by every party."""
SEVERAL = -2
"""In `surviving_leaves`: more than one leaf is."""
NO_MASK = -3
"""In `surviving_leaves`: a party's word is not a whole number from 0 to 2**52 - 1."""


def surviving_leaves(masks: Sequence[Floats], n_leaves: NDArray[np.integer]) -> NDArray[np.int32]:
    """Return the number of the one leaf that every party allows, for each sample and tree; or what is wrong.

    What a party sends may be anything: leaves beyond a tree's last are never allowed.

    Args:
        masks: Of each party, shape (n_samples, n_words).
        n_leaves: Shape (n_trees,), each at least 1.

    Returns:
        Shape (n_samples, n_trees): the leaf's number in its tree, or `NONE`, `SEVERAL` or `NO_MASK`.

    Raises:
        ValueError: No masks, or of another shape than the trees need.

    >>> surviving_leaves([np.array([[3.0, 1.0, 7.0]]), np.array([[6.0, 2.0, 3.0]])], np.array([3, 2, 3]))
    array([[ 1, -1, -2]], dtype=int32)
    """
    counts = np.ascontiguousarray(n_leaves, dtype=np.int32)
    n_words = int((-(-counts // LEAVES_PER_WORD)).sum())
    if not masks or any(each.shape != (len(masks[0]), n_words) for each in masks):
        raise ValueError(f"masks of shapes {[each.shape for each in masks]} for {n_words} words")
    if counts.min(initial=1) < 1:
        raise ValueError("a tree without leaves")
    given = [packed(each) for each in masks]
    addresses = (ctypes.c_void_p * len(given))(*(each.ctypes.data for each in given))
    leaves = np.empty((len(given[0]), len(counts)), dtype=np.int32)
    LIBRARY.fp_surviving_leaves(
        ctypes.addressof(addresses),
        len(given),
        len(given[0]),
        len(counts),
        counts.ctypes.data,
        leaves.ctypes.data,
    )
    return leaves
