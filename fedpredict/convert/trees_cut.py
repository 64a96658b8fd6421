"""Cuts trees by party: each tree goes to the party whose features it asks for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from fedpredict.convert.labels import shown
from fedpredict.errors import ModelConflictError
from fedpredict.model.arrays import Floats
from fedpredict.model.trees import LEAF, NO_SET, Ints, Trees, TreesPart

Places = NDArray[np.int64]


def cut_trees(
    joint: TreesPart,
    columns: Mapping[str, list[int]],
    intercept_party: str | None,
    feature_constants: Floats | None,  # noqa: ARG001 preprocessing folds into no tree
) -> dict[str, TreesPart]:
    """Return each party's trees, as `families.Cut` says; the base score goes to the intercept's party.

    A tree without a split goes there too, or to the first party. A party that no tree falls to gets a part without
    features, whose share is zero.

    Raises:
        ModelConflictError: A tree asks for features of several parties.
    """
    parties = list(columns)
    owner = _owners(joint.trees, columns, parties.index(intercept_party) if intercept_party is not None else 0)
    return {
        party: _part(joint, columns[party], np.flatnonzero(owner == at), holds_intercept=party == intercept_party)
        for at, party in enumerate(parties)
    }


def _owners(trees: Trees, columns: Mapping[str, list[int]], of_leaves: int) -> Ints:
    """Return whose each tree is, as the party's place; shape (n_trees,)."""
    place = np.zeros(sum(map(len, columns.values())), dtype=np.int32)
    for at, chosen in enumerate(columns.values()):
        place[chosen] = at
    owners = np.full(trees.n_trees, of_leaves, dtype=np.int32)
    for tree in range(trees.n_trees):
        asked = trees.feature[trees.start[tree] : trees.start[tree + 1]]
        found = np.unique(place[asked[asked != LEAF]])
        if len(found) > 1:
            names = shown([list(columns)[at] for at in found])
            raise ModelConflictError(
                f"tree {tree} asks for features of {len(found)} parties ({names}): name the initiator that shall "
                "hold the values of the leaves (--head), or, to sum up the parties' trees, train each on one party's"
            )
        owners[tree] = found[0] if len(found) else of_leaves
    return owners


def _part(joint: TreesPart, columns: Sequence[int], trees: Places, *, holds_intercept: bool) -> TreesPart:
    """Return the part with some of the trees, over some of the features."""
    nodes = _nodes(joint.trees, trees)
    chosen = list(columns) if (joint.trees.feature[nodes] != LEAF).any() else []
    names = tuple(joint.features[at] for at in chosen)
    return TreesPart(
        features=names,
        categories={name: joint.categories[name] for name in names if name in joint.categories},
        may_miss=joint.may_miss[chosen],
        trees=_subset(joint.trees, trees, nodes, chosen),
        n_scores=joint.n_scores,
        output=joint.output[trees],
        values=joint.values[nodes] if len(trees) else np.zeros((0, 1)),
        intercept=joint.intercept if holds_intercept else None,
        closed={name: joint.closed[name] for name in names if name in joint.closed},
    )


def _nodes(trees: Trees, chosen: Places) -> Places:
    """Return the nodes of some trees, in order."""
    ranges = [np.arange(trees.start[tree], trees.start[tree + 1]) for tree in chosen]
    return np.concatenate([np.zeros(0, dtype=np.int64), *ranges])


def _subset(trees: Trees, chosen: Places, nodes: Places, columns: Sequence[int]) -> Trees:
    """Return some trees, with features counted by their place in `columns`, and no set that they do not need."""
    place = np.full(max([int(trees.feature.max(initial=LEAF)), *columns], default=LEAF) + 2, LEAF, dtype=np.int32)
    place[list(columns)] = np.arange(len(columns))  # the last element stays LEAF, for leaves
    sizes = np.diff(trees.start)[chosen]
    start = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(sizes)])
    moved = np.repeat(start[:-1] - trees.start[chosen], sizes)
    feature, left, right = trees.feature[nodes], trees.left[nodes], trees.right[nodes]
    used = np.unique(np.concatenate([trees.left_set[nodes], trees.known_set[nodes]]))
    used = used[used != NO_SET]
    number = np.full(len(trees.sets) + 1, NO_SET, dtype=np.int32)
    number[used] = np.arange(len(used))
    return replace(
        trees,
        start=start,
        feature=place[feature],
        threshold=trees.threshold[nodes],
        left=np.where(left == LEAF, LEAF, left + moved).astype(np.int32),
        right=np.where(right == LEAF, LEAF, right + moved).astype(np.int32),
        missing_left=trees.missing_left[nodes],
        zero_is_missing=trees.zero_is_missing[nodes],
        left_set=number[trees.left_set[nodes]],
        known_set=number[trees.known_set[nodes]],
        unknown_left=trees.unknown_left[nodes],
        sets=tuple(trees.sets[at] for at in used),
    )
