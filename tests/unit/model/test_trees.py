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
from fedpredict.model.part import UNKNOWN_CATEGORY
from fedpredict.model.share import SampleStatus
from fedpredict.model.trees import FOREIGN, LEAF, NO_SET, CodeRule, Trees, TreesPart
from tests.tree_parts import Shape, random_part
from tests.unit.model.random_trees import code_of, random_features, random_trees, walk

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


def numeric(
    structures: list[list[tuple[int, float, int, int]]], *, missing_left: bool = False, **options: bool
) -> Trees:
    """Trees of (feature, threshold, left, right) a node; a leaf has the feature `LEAF`."""
    starts = np.cumsum([0, *(len(nodes) for nodes in structures)])
    rows = [
        (feature, threshold, *(LEAF if feature == LEAF else child + start for child in children))
        for nodes, start in zip(structures, starts.tolist(), strict=False)
        for feature, threshold, *children in nodes
    ]
    feature, threshold, left, right = (np.array(column) for column in zip(*rows, strict=True))
    n = len(rows)
    return Trees(
        start=starts,
        feature=feature.astype(np.int32),
        threshold=threshold.astype(np.float64),
        left=left.astype(np.int32),
        right=right.astype(np.int32),
        missing_left=np.full(n, missing_left),
        zero_is_missing=np.zeros(n, dtype=bool),
        left_set=np.full(n, NO_SET, dtype=np.int32),
        known_set=np.full(n, NO_SET, dtype=np.int32),
        unknown_left=np.zeros(n, dtype=bool),
        sets=(),
        strict=options.get("strict", False),
        float32=options.get("float32", False),
    )


def test_a_tree_of_scikit_learn_gives_its_predictions() -> None:
    from sklearn.tree import DecisionTreeRegressor

    rng = np.random.default_rng(5)
    features = rng.normal(size=(2000, 4)).round(1) / 3
    outcome = np.column_stack([features.sum(axis=1) + rng.normal(size=2000), features[:, 0]])
    tree = DecisionTreeRegressor(max_depth=9).fit(features, outcome).tree_
    nodes = list(zip(np.maximum(tree.feature, LEAF), tree.threshold, tree.children_left, tree.children_right))  # noqa: B905
    trees = numeric([nodes], float32=True)
    asked = np.concatenate([features, tree.threshold[rng.integers(0, tree.node_count, (500, 4))]])

    part = part_of(trees, 4, tree.value[:, :, 0], np.array([-1]), 2)

    expected = tree.predict(asked.astype(np.float32))[:, :, 0]
    assert (part.partial_scores(asked) == expected - 0.75).all()
    assert (trees.leaves(asked)[:, 0] == tree.apply(asked.astype(np.float32))).all()


def test_trees_of_xgboost_compare_as_it_does_between_float32_and_float64() -> None:
    xgboost = pytest.importorskip("xgboost")

    rng = np.random.default_rng(6)
    features = rng.choice(np.linspace(-1, 1, 7), (1500, 3))
    features[rng.random((1500, 3)) < 0.1] = np.nan
    data = xgboost.DMatrix(features, label=np.nan_to_num(features).sum(axis=1))
    booster = xgboost.train({"max_depth": 4, "nthread": 1}, data, num_boost_round=5)
    frame = booster.trees_to_dataframe()
    frame["leaf"] = frame["Feature"] == "Leaf"
    structures = []
    for _, own in frame.groupby("Tree"):
        place = {name: number for number, name in enumerate(own["ID"])}
        structures.append(
            [
                (LEAF, 0.0, 0, 0) if each.leaf else (int(each.Feature[1:]), each.Split, place[each.Yes], place[each.No])
                for each in own.itertuples()
            ]
        )
    trees = numeric(structures, strict=True, float32=True)
    default_left = (~frame["leaf"] & (frame["Missing"] == frame["Yes"])).to_numpy()
    trees = replace(trees, missing_left=default_left, threshold=trees.threshold.astype(np.float32).astype(np.float64))
    inner = trees.feature != LEAF
    cuts = trees.threshold[inner].astype(np.float32)
    near = [cuts.astype(np.float64)]
    for side in (-np.inf, np.inf):
        other = np.nextafter(cuts, np.float32(side)).astype(np.float64)
        near += [other, (near[0] + other) / 2, np.nextafter((near[0] + other) / 2, side)]
    asked = rng.choice(np.concatenate([*near, [np.nan]]), (2000, 3))

    leaves = booster.predict(xgboost.DMatrix(asked), pred_leaf=True).astype(int)

    assert inner.sum() > 20
    assert (trees.leaves(asked) - trees.start[:-1] == leaves).all()


def broken(**changes: list[Any]) -> Trees:
    """A root with two leaves, and a tree of one leaf, with changes."""
    whole = numeric([[(0, 0.5, 1, 2), (LEAF, 0, 0, 0), (LEAF, 0, 0, 0)], [(LEAF, 0, 0, 0)]])
    given: dict[str, Any] = {
        name: tuple(value) if name == "sets" else np.array(value, dtype=getattr(whole, name).dtype)
        for name, value in changes.items()
    }
    return replace(whole, **given)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"left": [2, -1, -1, -1]}, "two parents"),
        ({"left": [0, -1, -1, -1]}, "in a circle"),
        ({"left": [3, -1, -1, -1]}, "same tree"),
        ({"left": [4, -1, -1, -1]}, "dangling"),
        ({"left": [-1, -1, -1, -1]}, "a leaf with children, or a node without"),
        ({"right": [2, -1, -1, 3]}, "a leaf with children"),
        ({"feature": [-3, -1, -1, -1]}, "no feature"),
        ({"feature": [2**26, -1, -1, -1]}, "no feature"),
        ({"feature": [-2, -1, -1, -1], "left_set": [0, -1, -1, -1], "sets": [np.array([1])]}, "another party"),
        ({"start": [0, 3, 5]}, "share the nodes out"),
        ({"start": [0, 4, 4]}, "share the nodes out"),
        ({"start": []}, "share the nodes out"),
        ({"threshold": [np.nan, 0, 0, 0]}, "NaN or infinite"),
        ({"threshold": [0.0]}, "shape"),
        ({"left_set": [0, -1, -1, -1]}, "does not exist"),
        ({"known_set": [-2, -1, -1, -1]}, "does not exist"),
        ({"left_set": [-1, 0, -1, -1], "sets": [np.array([1])]}, "at a leaf"),
        ({"sets": [np.array([1, 1])]}, "not sorted"),
        ({"sets": [np.array([5]), np.array([2, 1])]}, "not sorted"),
        ({"sets": [np.array([-1, 1])]}, "negative"),
        ({"sets": [np.array([[1]])]}, "no list"),
    ],
)
def test_a_structure_that_is_no_tree_is_refused(changes: dict[str, list[Any]], problem: str) -> None:
    broken()
    with pytest.raises(ValueError, match=problem):
        broken(**changes)


def test_a_part_that_does_not_fit_its_trees_is_refused() -> None:
    trees = broken()
    values = np.zeros((4, 1))
    part_of(trees, 1, values, np.array([0, 0]), 1)
    for problem, changes in (
        ("a feature that there is not", {"n_features": 0}),
        ("outputs that are not among", {"output": np.array([0, 1])}),
        ("outputs that are not among", {"output": np.array([0, -1])}),
        ("leaf values of shape", {"values": np.zeros((4, 2))}),
        ("NaN or infinite", {"values": np.full((4, 1), np.inf)}),
        ("another party's splits", {"trees": broken(feature=[FOREIGN, -1, -1, -1])}),
    ):
        given: dict[str, Any] = {"trees": trees, "n_features": 1, "values": values, "output": np.array([0, 0])}
        with pytest.raises(ValueError, match=problem):
            part_of(**(given | changes), n_scores=1)


def test_features_are_read_whatever_their_layout_is() -> None:
    rng = np.random.default_rng(1)
    trees = random_trees(rng, n_trees=4, n_features=3)
    features = random_features(rng, 30, 3)
    part = part_of(trees, 3, np.asfortranarray(rng.normal(size=(len(trees.feature), 2))), np.full(4, -1), 2)
    expected, masks = part.partial_scores(features), trees.masks(features)

    unaligned = np.frombuffer(b"." + features.tobytes(), dtype=np.float64, offset=1).reshape(30, 3)
    for other in (
        np.asfortranarray(features),
        features.astype(">f8"),
        unaligned,
        np.repeat(features, 2, axis=1)[:, ::2],
    ):
        assert (part.partial_scores(other) == expected).all()
        assert (trees.masks(other) == masks).all()
    with np.errstate(over="ignore"):
        narrow: Any = features.astype(np.float32)
    assert (trees.leaves(narrow) == trees.leaves(narrow.astype(np.float64))).all()


def test_too_few_columns_are_refused_before_anything_is_read() -> None:
    trees = numeric([[(2, 0.5, 1, 2), (LEAF, 0, 0, 0), (LEAF, 0, 0, 0)]])
    part = part_of(trees, 3, np.zeros((3, 1)), np.array([0]), 1)
    for features in (np.zeros((5, 2)), np.zeros(3)):
        for call in (trees.leaves, trees.masks, part.partial_scores, part.magnitudes):
            with pytest.raises(ValueError, match="features of shape"):
                call(features)


def test_another_partys_split_has_no_leaf_here() -> None:
    with pytest.raises(ValueError, match="another party's splits"):
        broken(feature=[FOREIGN, -1, -1, -1]).leaves(np.zeros((1, 1)))


@pytest.mark.parametrize("depth", [100, 10000])
def test_a_deep_chain_of_nodes_is_walked(depth: int) -> None:
    nodes = [(0, float(depth - level), 2 * level + 2, 2 * level + 1) for level in range(depth)]
    chain = [node for pair in zip(nodes, [(LEAF, 0.0, 0, 0)] * depth, strict=True) for node in pair] + [
        (LEAF, 0.0, 0, 0)
    ]
    trees = numeric([chain])
    features = np.array([[0.5], [depth + 1.0]])
    assert trees.leaves(features).tolist() == [[2 * depth], [1]]
    assert surviving_leaves([trees.masks(features)], trees.n_leaves).tolist() == [[0], [depth]]
    foreign = cut(trees, np.array([False])).masks(features)
    assert surviving_leaves([foreign, trees.masks(features)], trees.n_leaves).tolist() == [[0], [depth]]
    assert surviving_leaves([foreign], trees.n_leaves).tolist() == [[SEVERAL], [SEVERAL]]


def test_sums_that_overflow_do_not_warn() -> None:
    trees = numeric([[(LEAF, 0, 0, 0)]] * 2)
    part = part_of(trees, 0, np.array([[1.7e308], [1.7e308]]), np.array([0, 0]), 1)
    assert part.partial_scores(np.zeros((2, 0))).tolist() == [[np.inf], [np.inf]]


def test_a_number_beyond_float32_is_invalid_where_the_trainer_rounds_to_it() -> None:
    features = np.array([[1.0], [1e39], [np.nan], [-np.inf]])
    for float32, second in ((True, SampleStatus.FEATURE_INVALID), (False, SampleStatus.OK)):
        trees = replace(broken(), float32=float32)
        statuses = part_of(trees, 1, np.zeros((4, 1)), np.array([0, 0]), 1).statuses(features)
        assert statuses is not None
        assert statuses.tolist() == [SampleStatus.OK, second, SampleStatus.OK, SampleStatus.FEATURE_INVALID]


@pytest.mark.parametrize("rule", CodeRule)
def test_an_unknown_category_of_a_closed_feature_is_invalid_and_a_missing_one_is_not(rule: CodeRule) -> None:
    """By the words of `code_of`, whatever the trees ask, and none of it where the feature is not closed."""
    trees = replace(random_trees(np.random.default_rng(0), n_trees=0, n_features=0), codes=rule)
    numbers = [
        0.0,
        -0.0,
        -0.5,
        1.0,
        1.5,
        4.0,
        -1.0,
        2.0**31,
        5e9,
        np.inf,
        -np.inf,
        258.0,
        3.0,
        1.0 + 2.0**-30,
        4.0 - 2.0**-30,
        -1e-50,
        np.nan,
    ]
    rows = np.array([[number, text] for number in numbers for text in (0.0, UNKNOWN_CATEGORY, 1.0, np.nan)])
    known = np.array([0, 1, 4], dtype=np.int32)
    arrays: Any = {"output": np.zeros(0, np.int32), "values": np.zeros((0, 1)), "intercept": None, "n_scores": 1}
    for float32 in (False, True):
        trees = replace(trees, float32=float32)
        part = TreesPart(
            ("n", "t"), {"t": ("x", "y")}, np.array([True, True]), trees, **arrays, closed={"t": None, "n": known}
        )

        def expected(number: float, text: float, trees: Trees = trees) -> bool:
            rounded = float(np.float32(number)) if trees.float32 and trees.codes is not CodeRule.WHOLE else number
            is_known = np.isnan(number) or code_of(trees, rounded) in known.tolist()
            return bool(text < 0 or np.isinf(number) or not is_known)

        found = part.statuses(rows)
        assert found is not None
        assert [status == SampleStatus.FEATURE_INVALID for status in found] == [expected(*row) for row in rows.tolist()]
        assert set(found.tolist()) == {SampleStatus.OK, SampleStatus.FEATURE_INVALID}
        assert replace(part, closed={}).statuses(rows[~np.isinf(rows).any(axis=1)]) is None


@pytest.mark.parametrize(
    ("closed", "problem"),
    [
        ({"z": None}, "names 'z'"),
        ({"n": None}, "codes of 'n'"),
        ({"t": np.array([0], np.int32)}, "codes of 't'"),
        ({"n": np.array([1, 1], np.int32)}, "not sorted"),
        ({"n": np.array([-1, 1], np.int32)}, "negative"),
        ({"n": np.array([[1]], np.int32)}, "not sorted"),
    ],
)
def test_closed_features_that_do_not_fit_are_refused(closed: Any, problem: str) -> None:
    part = random_part(np.random.default_rng(0), Shape(0, n_numbers=0))
    with pytest.raises(ValueError, match=problem):
        replace(part, features=("n", "t"), categories={"t": ("x",)}, may_miss=np.zeros(2, np.bool_), closed=closed)


def test_the_memory_of_what_is_laid_out_counts() -> None:
    trees = broken()
    before = trees.n_bytes
    trees.leaves(np.zeros((0, 1)))
    walked = trees.n_bytes
    trees.masks(np.zeros((0, 1)))
    assert before < walked < trees.n_bytes
