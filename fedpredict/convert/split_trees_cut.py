"""Cuts trees whose splits ask for features of several parties: leaf masks for the parties, a head for the initiator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from fedpredict.convert.split import columns_of, verification_of
from fedpredict.errors import FeatureNamesError, ModelConflictError
from fedpredict.model.arrays import Floats
from fedpredict.model.head import HeadModel
from fedpredict.model.partial import PartialModel
from fedpredict.model.split_trees import SplitTreesPart
from fedpredict.model.tree_head import TreeHead
from fedpredict.model.tree_shape import structure_sha256
from fedpredict.model.trees import FOREIGN, LEAF, NO_SET, Ints, Trees, TreesPart

_VERIFICATION_NUMBERS = 200_000
"""Masks are wide: so many numbers of them at most become verification rows of a part."""


@dataclass(frozen=True, slots=True, eq=False)
class HeadedCut:
    """A jointly trained model, cut.

    Attributes:
        parts: Party id -> its part.
        head: What finishes their shares.
    """

    parts: Mapping[str, PartialModel]
    head: HeadModel


def split_with_head(
    joint: PartialModel, parties: Mapping[str, Sequence[str]], head_party: str, *, rows: Floats | None = None
) -> HeadedCut:
    """Return one part per party that says which leaves its splits allow, and the head with the leaves' values.

    Every part holds the shape of all trees, and the splits of its own features; a party none of whose features is
    split by gets a part that allows every leaf.

    Args:
        joint: The model over all features: trees.
        parties: Party id -> the names of its features, in the order that its part shall have.
        head_party: The initiator, which gets the head; it need not be one of the parties.
        rows: Shape (n_rows, n_features), columns in the joint model's order: each part gets its columns of some of
            them, and its masks, as verification rows.

    Raises:
        ModelConflictError: The model is not one of trees, or has none.
        FeatureNamesError: A feature is at no party, at two, twice at one, or not in the model.
        NameRefusedError: A party's name breaks the naming rules.
    """
    part = joint.part
    if not isinstance(part, TreesPart) or not part.trees.n_trees:
        raise ModelConflictError(
            f"model {joint.model_id} has no trees to be split across parties: cut it without a head, by columns"
        )
    columns = columns_of(part.features, parties)
    if rows is not None and (rows.ndim != 2 or rows.shape[1] != len(part.features)):
        raise FeatureNamesError(f"rows of shape {rows.shape} for {len(part.features)} features")
    parts: dict[str, PartialModel] = {}
    for party, chosen in columns.items():
        own = _part(part, chosen)
        few = None if rows is None else rows[: max(1, _VERIFICATION_NUMBERS // own.n_scores)]
        parts[party] = replace(
            joint,
            party=party,
            part=own,
            fit_intercept=False,
            verification=None if few is None else verification_of(own, few[:, chosen if own.features else []]),
            metadata=dict(joint.metadata),
        )
    return HeadedCut(parts, _head_model(joint, part, head_party))


def _part(joint: TreesPart, columns: Sequence[int]) -> SplitTreesPart:
    """Return a party's part; without features where no tree asks for one of them."""
    chosen = columns if np.isin(joint.trees.feature, columns).any() else []
    names = tuple(joint.features[at] for at in chosen)
    return SplitTreesPart(
        features=names,
        categories={name: joint.categories[name] for name in names if name in joint.categories},
        may_miss=joint.may_miss[list(chosen)],
        trees=_own_splits(joint.trees, chosen),
        n_outputs=joint.n_scores,
        closed={name: joint.closed[name] for name in names if name in joint.closed},
    )


def _own_splits(trees: Trees, chosen: Sequence[int]) -> Trees:
    """Return the trees without what the splits of other features ask."""
    place = np.full(max([int(trees.feature.max(initial=LEAF)), *chosen], default=LEAF) + 2, FOREIGN, dtype=np.int32)
    place[list(chosen)] = np.arange(len(chosen))
    place[-1] = LEAF  # where `LEAF` itself looks
    feature = place[trees.feature]
    own = feature >= 0
    sets, (left_set, known_set) = _used_sets(trees, own)
    return replace(
        trees,
        feature=feature,
        threshold=np.where(own, trees.threshold, 0.0),
        missing_left=trees.missing_left & own,
        zero_is_missing=trees.zero_is_missing & own,
        left_set=left_set,
        known_set=known_set,
        unknown_left=trees.unknown_left & own,
        sets=sets,
    )


def _used_sets(trees: Trees, own: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> tuple[tuple[Ints, ...], list[Ints]]:
    """Return the sets of some nodes, and which each of those nodes has; another party's sets must not travel along."""
    columns = [np.where(own, column, NO_SET) for column in (trees.left_set, trees.known_set)]
    used = np.unique(np.concatenate(columns))
    used = used[used != NO_SET]
    number = np.full(len(trees.sets) + 1, NO_SET, dtype=np.int32)
    number[used] = np.arange(len(used))
    return tuple(trees.sets[at] for at in used), [number[column] for column in columns]


def _head_model(joint: PartialModel, part: TreesPart, party: str) -> HeadModel:
    n_leaves, number = part.trees.n_leaves, part.trees.leaf_numbers
    is_leaf = number >= 0
    first = np.repeat(np.cumsum(n_leaves) - n_leaves, np.diff(part.trees.start))
    values = np.zeros((int(n_leaves.sum()), part.values.shape[1]))
    values[(first + number)[is_leaf]] = part.values[is_leaf]
    head = TreeHead(
        n_leaves=n_leaves,
        n_outputs=part.n_scores,
        output=part.output,
        values=values,
        intercept=np.zeros(part.n_scores) if part.intercept is None else part.intercept,
        structure_sha256=structure_sha256(part.trees),
    )
    return HeadModel(
        model_id=joint.model_id,
        training_run=joint.training_run,
        party=party,
        kind=joint.kind,
        classes=joint.classes,
        link=joint.link,
        head=head,
        metadata=dict(joint.metadata),
    )
