"""Leaf masks: which leaves of a tree some party's splits still allow, as whole numbers of 52 bits in float64.

The leaves of a tree are numbered from left to right. A mask is the trees' words one after another; leaf j of a tree is
bit j % 52 of the tree's word j // 52. So many bits are exact in a float64, and masks travel as every other share.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedpredict.model.arrays import Bools, Floats
from fedpredict.model.trees import LEAF, Trees

WORD_BITS = 52
"""Leaves in one word."""

_STRUCTURE = b"fedpredict-tree-shapes-1"
_Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class LeafWords:
    """Where the leaves of trees stand in a mask.

    Attributes:
        n_leaves: Shape (n_trees,), each at least 1.
        first_word: Shape (n_trees + 1,): the first word of each tree, and the number of words.
        first_leaf: Shape (n_trees + 1,): the leaves of all trees counted one after another.
    """

    n_leaves: _Ints
    first_word: _Ints
    first_leaf: _Ints

    @property
    def n_words(self) -> int:
        """The number of words in a mask."""
        return int(self.first_word[-1])


def leaf_words(n_leaves: _Ints) -> LeafWords:
    """Return where the leaves of trees with so many leaves stand.

    >>> leaf_words(np.array([2, 53])).first_word
    array([0, 1, 3])
    """
    return LeafWords(n_leaves, _starts(-(-n_leaves // WORD_BITS)), _starts(n_leaves))


@dataclass(frozen=True, slots=True, eq=False)
class LeafNumbers:
    """The leaves of trees, numbered from left to right in each tree.

    Attributes:
        first: Shape (n_nodes,): the number of the first leaf under a node, in its tree; a leaf's own number.
        count: Shape (n_nodes,): the leaves under a node; 1 for a leaf.
        tree: Shape (n_nodes,): the tree of a node.
        words: Where they stand in a mask.
    """

    first: _Ints
    count: _Ints
    tree: _Ints
    words: LeafWords


def number_leaves(trees: Trees) -> LeafNumbers:
    """Return the leaves of trees by number."""
    left, right = trees.left.tolist(), trees.right.tolist()
    inner = np.flatnonzero(trees.feature != LEAF).tolist()
    count = [1] * len(left)
    for node in reversed(inner):  # children stand after their parents
        count[node] = count[left[node]] + count[right[node]]
    first = [0] * len(left)
    for node in inner:
        first[left[node]] = first[node]
        first[right[node]] = first[node] + count[left[node]]
    counts = np.array(count, dtype=np.int64)
    tree = np.repeat(np.arange(trees.n_trees), np.diff(trees.start))
    return LeafNumbers(np.array(first, dtype=np.int64), counts, tree, leaf_words(counts[trees.start[:-1]]))


def structure_sha256(trees: Trees, leaves: LeafNumbers) -> str:
    """Return the digest (hex) of the trees' shapes: which nodes have children; neither features nor thresholds.

    It is the same in whatever order the nodes of a tree stand.
    """
    left, right = trees.left.tolist(), trees.right.tolist()
    inner = np.flatnonzero(trees.feature != LEAF)
    place = np.zeros(len(left), dtype=np.int64)
    place[trees.start[:-1]] = trees.start[:-1]
    for node in inner.tolist():  # each tree from the root down, left before right
        place[left[node]] = place[node] + 1
        place[right[node]] = place[node] + 2 * leaves.count[left[node]]
    shape = np.zeros(len(left), dtype=np.uint8)
    shape[place[inner]] = 1
    counts = leaves.words.n_leaves.astype(">u8").tobytes()
    fields = (_STRUCTURE, len(counts).to_bytes(8, "big"), counts, np.packbits(shape).tobytes())
    return hashlib.sha256(b"".join(fields)).hexdigest()


def allowed_leaves(masks: Floats) -> _Ints:
    """Return masks as whole numbers, 0 for a word that is none: negative, fractional, or of more than 52 bits.

    Args:
        masks: Shape (n_samples, n_words), finite.
    """
    is_word = (masks >= 0.0) & (masks < 2.0**WORD_BITS) & (masks == np.floor(masks))
    return np.where(is_word, masks, 0.0).astype(np.int64)


def surviving_leaves(allowed: _Ints, words: LeafWords) -> tuple[_Ints, Bools]:
    """Return the leaf that each mask leaves in each tree, and whether it is the only one.

    Args:
        allowed: Shape (n_samples, n_words): as `allowed_leaves`, of all parties, joined by AND.
        words: Where leaves stand.

    Returns:
        Two arrays of shape (n_samples, n_trees): the leaf's number in its tree, which means nothing where the second
        is false.
    """
    starts = words.first_word[:-1]
    bit = np.frexp(allowed.astype(np.float64))[1] - 1  # of the highest leaf in the word
    word = np.arange(words.n_words) - np.repeat(starts, np.diff(words.first_word))
    leaf = np.add.reduceat(np.where(allowed > 0, word * WORD_BITS + bit, 0), starts, axis=1)
    odd = np.add.reduceat((allowed & (allowed - 1)) != 0, starts, axis=1, dtype=np.int64)
    n_words = np.add.reduceat(allowed > 0, starts, axis=1, dtype=np.int64)
    return leaf, (n_words == 1) & (odd == 0) & (leaf < words.n_leaves)


def count_leaves(allowed: _Ints) -> int:
    """Return how many leaves the words of one tree allow."""
    return sum(int(word).bit_count() for word in allowed.tolist())


def _starts(counts: _Ints) -> _Ints:
    return np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(counts, dtype=np.int64)])
