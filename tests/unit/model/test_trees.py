"""Trees against a plain walk written in `random_trees.py`, and against the libraries that grow them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedpredict.model.arrays import Floats
from fedpredict.model.leaf_masks import LEAVES_PER_WORD, NO_MASK, NONE, SEVERAL, surviving_leaves
from fedpredict.model.trees import FOREIGN, LEAF, NO_SET, Trees, TreesPart
from tests.unit.model.random_trees import random_features, random_trees, walk

shapes = given(
    seed=st.integers(0, 2**32), n_trees=st.integers(0, 6), n_features=st.integers(0, 3), n_samples=st.integers(0, 40)
)


def part_of(trees: Trees, n_features: int, values: Floats, output: np.ndarray[Any, Any], n_scores: int) -> TreesPart:
    return TreesPart(
        features=tuple(f"f{number}" for number in range(n_features)),
        categories={},
        may_miss=np.ones(n_features, dtype=bool),
        trees=trees,
        n_scores=n_scores,
        output=output.astype(np.int32),
        values=values,
        intercept=np.array([-0.75] * n_scores),
    )


@settings(max_examples=150, deadline=None)
@shapes
def test_leaves_are_those_of_a_plain_walk(seed: int, n_trees: int, n_features: int, n_samples: int) -> None:
    rng = np.random.default_rng(seed)
    trees = random_trees(rng, n_trees=n_trees, n_features=n_features)
    features = random_features(rng, n_samples, n_features)

    found = trees.leaves(features)

    expected = [[next(walk(trees, tree, row)) for tree in range(n_trees)] for row in features]
    assert found.shape == (n_samples, n_trees)
    assert found.tolist() == expected


@settings(max_examples=60, deadline=None)
@shapes
def test_sums_are_those_of_a_plain_walk(seed: int, n_trees: int, n_features: int, n_samples: int) -> None:
    rng = np.random.default_rng(seed)
    trees = random_trees(rng, n_trees=n_trees, n_features=n_features)
    features = random_features(rng, n_samples, n_features)
    leaves = [[next(walk(trees, tree, row)) for tree in range(n_trees)] for row in features]

    values = rng.normal(size=(len(trees.feature), 1))
    output = rng.integers(0, 3, n_trees)
    narrow = part_of(trees, n_features, values, output, 3)
    expected, sizes = np.zeros((2, n_samples, 3))
    for row, own in enumerate(leaves):
        for tree, leaf in enumerate(own):
            expected[row, output[tree]] += values[leaf, 0]
            sizes[row, output[tree]] += abs(values[leaf, 0])
    assert (narrow.partial_scores(features) == expected - 0.75).all()
    assert (narrow.magnitudes(features) == sizes + 0.75).all()

    if n_trees:
        values = rng.normal(size=(len(trees.feature), 2))
        wide = part_of(trees, n_features, values, np.full(n_trees, -1), 2)
        expected, sizes = np.zeros((2, n_samples, 2))
        for row, own in enumerate(leaves):
            for leaf in own:
                expected[row] += values[leaf]
                sizes[row] += abs(values[leaf])
        assert (wide.partial_scores(features) == expected - 0.75).all()
        assert (wide.magnitudes(features) == sizes + 0.75).all()


@settings(max_examples=100, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    max_leaves=st.sampled_from([3, 60, 300]),
    foreign=st.sampled_from([0.0, 0.3, 0.7, 1.0]),
)
def test_masks_hold_the_leaves_that_a_plain_walk_reaches(seed: int, max_leaves: int, foreign: float) -> None:
    rng = np.random.default_rng(seed)
    trees = random_trees(rng, n_trees=4, n_features=2, max_leaves=max_leaves, foreign=foreign)
    features = random_features(rng, 10, 2)

    masks = trees.masks(features)

    numbers = trees.leaf_numbers
    assert masks.shape == (10, trees.n_words)
    for row, mask in zip(features, masks, strict=True):
        first = 0
        for tree in range(4):
            words = [0] * -(-int(trees.n_leaves[tree]) // LEAVES_PER_WORD)
            for leaf in walk(trees, tree, row):
                words[numbers[leaf] // LEAVES_PER_WORD] += 2 ** int(numbers[leaf] % LEAVES_PER_WORD)
            assert mask[first : first + len(words)].tolist() == words
            first += len(words)
        assert first == trees.n_words


def in_order(trees: Trees, node: int) -> list[int]:
    if trees.feature[node] == LEAF:
        return [node]
    return in_order(trees, int(trees.left[node])) + in_order(trees, int(trees.right[node]))


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_leaves_are_numbered_from_left_to_right(seed: int) -> None:
    trees = random_trees(np.random.default_rng(seed), n_trees=3, n_features=2, foreign=0.5)

    expected = np.full(len(trees.feature), -1)
    for root in trees.start[:-1].tolist():
        leaves = in_order(trees, root)
        expected[leaves] = range(len(leaves))
    assert trees.leaf_numbers.tolist() == expected.tolist()


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32), n_parties=st.integers(1, 4))
def test_the_masks_of_all_parties_leave_the_leaf_of_the_whole_trees(seed: int, n_parties: int) -> None:
    rng = np.random.default_rng(seed)
    trees = random_trees(rng, n_trees=5, n_features=4, max_leaves=120)
    features = random_features(rng, 8, 4)
    owner = rng.integers(0, n_parties, 4)

    masks = [cut(trees, owner == party).masks(features) for party in range(n_parties)]

    numbers = trees.leaf_numbers[trees.leaves(features)]
    assert surviving_leaves(masks, trees.n_leaves).tolist() == numbers.tolist()


def cut(trees: Trees, own: np.ndarray[Any, Any]) -> Trees:
    """The trees as a party sees them that has the columns `own`."""
    foreign = (trees.feature >= 0) & ~own[np.maximum(trees.feature, 0)]
    return replace(
        trees,
        feature=np.where(foreign, FOREIGN, trees.feature).astype(np.int32),
        threshold=np.where(foreign, 0.0, trees.threshold),
        left_set=np.where(foreign, NO_SET, trees.left_set).astype(np.int32),
        known_set=np.where(foreign, NO_SET, trees.known_set).astype(np.int32),
    )


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([(5.0,), (6.0,)], 2),
        ([(5.0,), (2.0,)], NONE),
        ([(7.0,), (6.0,)], SEVERAL),
        ([(9.0,), (8.0,)], NONE),  # the tree has three leaves
        ([(1.0,), (float("nan"),)], NO_MASK),
        ([(1.0,), (-1.0,)], NO_MASK),
        ([(1.5,), (1.0,)], NO_MASK),
        ([(2.0**52,), (1.0,)], NO_MASK),
        ([(1.0,), (float("inf"),)], NO_MASK),
    ],
)
def test_what_survives_of_masks(words: list[tuple[float]], expected: int) -> None:
    masks = [np.array([own]) for own in words]
    assert surviving_leaves(masks, np.array([3])).tolist() == [[expected]]


@pytest.mark.parametrize(
    ("words", "expected"), [((0, 2), 53), ((1, 1), SEVERAL), ((0, 0), NONE), ((2**51, 0), 51), ((0, -1), NO_MASK)]
)
def test_a_tree_of_several_words_has_one_leaf_in_all(words: tuple[int, int], expected: int) -> None:
    masks = np.array([[1.0, *words, 1.0]])
    assert surviving_leaves([masks, masks], np.array([1, 60, 1])).tolist() == [[0, expected, 0]]


def test_masks_of_another_shape_are_refused() -> None:
    for masks in ([], [np.ones((1, 2))], [np.ones((1, 1)), np.ones((2, 1))], [np.ones(1)]):
        with pytest.raises(ValueError, match="masks of shapes"):
            surviving_leaves(masks, np.array([3]))
    with pytest.raises(ValueError, match="without leaves"):
        surviving_leaves([np.ones((1, 1))], np.array([3, 0]))
