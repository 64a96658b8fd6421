"""What trees that are split across parties have in common: their shape, and nothing that a split asks."""

from __future__ import annotations

import hashlib

import numpy as np

from fedpredict.model.kernel.masker import number_leaves
from fedpredict.model.trees import LEAF, Trees

_FORMAT = b"fedpredict-tree-shapes-1"


def structure_sha256(trees: Trees) -> str:
    """Return the digest (hex) of the trees' shapes: which nodes have children; neither features nor thresholds.

    It is the same in whatever order the nodes of a tree stand.
    """
    left, right, count = trees.left.tolist(), trees.right.tolist(), number_leaves(trees)[1].tolist()
    inner = np.flatnonzero(trees.feature != LEAF)
    place = np.zeros(len(left), dtype=np.int64)
    place[trees.start[:-1]] = trees.start[:-1]
    for node in inner.tolist():  # each tree from the root down, left before right
        place[left[node]] = place[node] + 1
        place[right[node]] = place[node] + 2 * count[left[node]]
    shape = np.zeros(len(left), dtype=np.uint8)
    shape[place[inner]] = 1
    n_leaves = trees.n_leaves.astype(">u8").tobytes()
    fields = (_FORMAT, len(n_leaves).to_bytes(8, "big"), n_leaves, np.packbits(shape).tobytes())
    return hashlib.sha256(b"".join(fields)).hexdigest()
