"""Trees cut by party: shares add up, nobody gets what is another's, and what cannot be cut so is told."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedpredict.convert.split import split_model
from fedpredict.errors import FeatureNamesError, ModelConflictError
from fedpredict.model.kinds import Kind
from fedpredict.model.partial import PartialModel, largest_difference
from fedpredict.model.trees import LEAF, Ints, Trees, TreesPart
from tests.tree_parts import Shape, random_part, random_rows, trees_part

NAMES = ("a", "b", "c")


def joint_of(parts: list[TreesPart], order: list[int]) -> TreesPart:
    """Return one part with the trees of parts of the same shape, over all of their features, in an order."""
    features = tuple(f"{name}{feature}" for name, part in zip(NAMES, parts, strict=False) for feature in part.features)
    width = len(parts[0].features)
    listed = [(at, tree) for at, part in enumerate(parts) for tree in range(part.trees.n_trees)]
    chosen = [listed[at] for at in order]
    first = parts[0].trees
    columns: dict[str, list[Any]] = {name: [] for name in (
        "threshold", "missing_left", "zero_is_missing", "unknown_left",
        "feature", "left", "right", "left_set", "known_set",
    )}  # fmt: skip
    values, start = [], [0]
    sets: list[Ints] = []
    for at, tree in chosen:
        trees = parts[at].trees
        nodes = slice(trees.start[tree], trees.start[tree + 1])
        moves = {
            "feature": at * width, "left": start[-1] - trees.start[tree], "right": start[-1] - trees.start[tree],
            "left_set": len(sets), "known_set": len(sets),
        }  # fmt: skip
        for name, column in columns.items():
            own = getattr(trees, name)[nodes]
            column.append(np.where(own == LEAF, LEAF, own + moves[name]).astype(own.dtype) if name in moves else own)
        sets += trees.sets
        values.append(parts[at].values[nodes])
        start.append(start[-1] + trees.start[tree + 1] - trees.start[tree])
    arrays: dict[str, Any] = {name: np.concatenate(column) for name, column in columns.items()}
    return TreesPart(
        features=features,
        categories={
            f"{name}{feature}": texts
            for name, part in zip(NAMES, parts, strict=False)
            for feature, texts in part.categories.items()
        },
        may_miss=np.concatenate([part.may_miss for part in parts]),
        trees=replace(first, start=np.array(start), sets=tuple(sets), **arrays),
        n_scores=parts[0].n_scores,
        output=np.concatenate([part.output for part in parts])[order],
        values=np.concatenate(values),
        intercept=parts[0].intercept,
    )


def partial_of(part: TreesPart) -> PartialModel:
    return PartialModel("m", "run-1", "joint", Kind.LINEAR, (), part.intercept is not None, part)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.booleans(), st.booleans(), st.booleans())
def test_the_shares_add_up_to_the_joint_models_scores(seed: int, wide: bool, with_sets: bool, base: bool) -> None:
    random = np.random.default_rng(seed)
    shape = Shape(3, 3, n_numbers=2, n_texts=1, n_scores=2, wide=wide, with_sets=with_sets, base=base)
    parts = [random_part(random, shape) for _ in NAMES]
    joint = joint_of(parts, random.permutation(9).tolist())
    rows = random_rows(random, joint, 30)
    owned = {name: [feature for feature in joint.features if feature.startswith(name)] for name in NAMES}

    cut = split_model(partial_of(joint), owned, "b" if base else None, rows=rows)

    place = {name: at for at, name in enumerate(joint.features)}
    shares = [each.part.partial_scores(rows[:, [place[name] for name in each.part.features]]) for each in cut.values()]
    close = 1e-12 * joint.magnitudes(rows)
    assert (np.abs(sum(shares) - joint.partial_scores(rows)) <= close).all()
    assert sum(trees_part(each.part).trees.n_trees for each in cut.values()) == 9
    assert [each.holds_intercept for each in cut.values()] == [False, base, False]
    for each in cut.values():
        assert largest_difference(each) == (0.0, 0.0)
        held = trees_part(each.part).trees
        used = {*held.left_set.tolist(), *held.known_set.tolist()} - {LEAF}
        assert used == set(range(len(held.sets)))


def stump(feature: int, n_features: int = 2) -> Trees:
    part = random_part(np.random.default_rng(0), Shape(1, 1, n_numbers=n_features))
    return replace(part.trees, feature=np.array([feature, LEAF, LEAF], dtype=np.int32))


def test_a_party_without_a_tree_gets_a_part_without_features_whose_share_is_zero() -> None:
    part = random_part(np.random.default_rng(0), Shape(1, 1, n_numbers=2))
    part = replace(part, trees=stump(0))

    cut = split_model(partial_of(part), {"a": ["n0"], "b": ["n1"], "c": []}, "a", rows=np.zeros((3, 2)))

    for name in ("b", "c"):
        assert cut[name].part.features == ()
        assert cut[name].part.partial_scores(np.zeros((3, 0))).tolist() == [[0.0]] * 3
        assert cut[name].part.statuses(np.zeros((3, 0))) is None


def test_a_lone_leaf_goes_to_the_party_of_the_base_score_or_to_the_first() -> None:
    part = random_part(np.random.default_rng(0), Shape(2, 0, n_numbers=2))

    cut = split_model(partial_of(part), {"a": ["n0"], "b": ["n1"]}, "b")
    without = split_model(partial_of(replace(part, intercept=None)), {"a": ["n0"], "b": ["n1"]}, None)

    assert [trees_part(cut[name].part).trees.n_trees for name in "ab"] == [0, 2]
    assert [trees_part(without[name].part).trees.n_trees for name in "ab"] == [2, 0]
    assert cut["b"].part.features == ()


def test_a_tree_that_asks_two_parties_is_named_with_them() -> None:
    part = random_part(np.random.default_rng(1), Shape(2, 2, n_numbers=2))
    feature = part.trees.feature.copy()
    feature[part.trees.start[1]] = 0
    inner = np.flatnonzero(feature != LEAF)
    feature[inner[inner > part.trees.start[1]]] = 1
    feature[inner[inner < part.trees.start[1]]] = 0
    mixed = replace(part, trees=replace(part.trees, feature=feature))

    with pytest.raises(ModelConflictError, match=r"tree 1 asks for features of 2 parties \('a', 'b'\).*--head"):
        split_model(partial_of(mixed), {"a": ["n0"], "b": ["n1"]}, "a")


def test_every_feature_still_needs_a_party() -> None:
    part = random_part(np.random.default_rng(1), Shape(2, 2, n_numbers=2))

    with pytest.raises(FeatureNamesError, match="at no party: 'n1'"):
        split_model(partial_of(part), {"a": ["n0"], "b": []}, "a")
