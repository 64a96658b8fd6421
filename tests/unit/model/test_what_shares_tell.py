"""What a share says, by kind of model: an initiator that knows enough turns it around, as the threat model says."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.ensemble import RandomForestClassifier

from fedpredict.model.activations import Activation
from fedpredict.model.combination import Combination, Combining
from fedpredict.model.dense import Dense
from fedpredict.model.linear import LinearPart
from fedpredict.model.network import NetworkPart
from fedpredict.model.split_trees import SplitTreesPart
from fedpredict.model.trees import FOREIGN, LEAF, NO_SET, Trees
from tests.tree_parts import of_forest

WEIGHTS = np.array([[0.5], [-2.0], [3.25]])
LAB = LinearPart(("a", "b", "c"), WEIGHTS, None, np.zeros(1))
SQUARE = np.array([[1.0, 2.0, -1.0], [0.0, 1.0, 3.0], [2.0, -1.0, 1.0]])
"""Weights of as many neurons as features; they can be solved for either."""


def test_who_knows_as_many_people_as_there_are_weights_solves_for_the_weights_and_not_with_fewer() -> None:
    known = np.array([[1.0, 0.0, 2.0], [0.0, 3.0, 1.0], [4.0, 1.0, 0.0]])
    shares = LAB.partial_scores(known)

    np.testing.assert_allclose(np.linalg.solve(known, shares), WEIGHTS, rtol=1e-12)
    # of two people the same shares follow from weights that are quite different ones
    others = WEIGHTS + np.linalg.svd(known[:2])[2][2:].T
    explains = LinearPart(LAB.features, others, None, np.zeros(1))
    np.testing.assert_allclose(explains.partial_scores(known[:2]), shares[:2], atol=1e-12)


def test_a_share_of_a_linear_model_is_one_equation_about_the_features() -> None:
    """Equal features have equal shares, and other features the same share, too: none of them is told by itself."""
    shares = LAB.partial_scores(np.array([[4.0, 1.0, 0.0], [4.0, 1.0, 0.0], [0.0, 0.0, 0.0], [0.0, 1.625, 1.0]]))

    assert shares.tolist() == [[0.0], [0.0], [0.0], [0.0]]


def test_of_a_sum_the_features_of_all_parties_have_to_be_known_together() -> None:
    shop = LinearPart(("d",), np.array([[2.0]]), None, np.zeros(1))
    of_lab, of_shop = np.array([[1.0, 0.0, 2.0], [0.0, 3.0, 1.0], [4.0, 1.0, 0.0]]), np.array([[1.0], [-1.0], [5.0]])
    sums = LAB.partial_scores(of_lab) + shop.partial_scores(of_shop)

    wrong = LinearPart(("a", "b", "c"), np.array([[9.0], [9.0], [9.0]]), None, np.zeros(1))
    elsewhere = np.array([[-9.0], [-20.375], [-17.5]])
    # with what the shop knows left open, weights of the laboratory that are quite wrong explain the same sums
    np.testing.assert_allclose(wrong.partial_scores(of_lab) + shop.partial_scores(elsewhere), sums)


def test_a_share_of_summed_trees_is_the_sum_of_leaves_and_with_one_tree_says_the_leaf() -> None:
    random = np.random.default_rng(3)
    rows = random.normal(size=(300, 3)).astype(np.float32).astype(np.float64)
    labels = (rows.sum(axis=1) + 2 * random.normal(size=300) > 0).astype(int)
    for n_trees in (1, 2):
        forest = RandomForestClassifier(n_trees, max_depth=2, random_state=0).fit(rows, labels)
        shares = of_forest(forest, ["a", "b", "c"]).partial_scores(rows)[:, 1]

        values = [tree.predict_proba(rows)[:, 1] / n_trees for tree in forest.estimators_]
        np.testing.assert_allclose(shares, np.sum(values, axis=0), rtol=1e-12)
        assert len(np.unique(shares.round(12))) <= 4**n_trees < len(rows)
        if n_trees == 1:
            leaves = forest.estimators_[0].apply(rows)
            pairs = {(leaf, share) for leaf, share in zip(leaves.tolist(), shares.round(12).tolist(), strict=True)}
            assert len(pairs) == len({leaf for leaf, _ in pairs}) == len({share for _, share in pairs})


def test_a_leaf_mask_tells_the_outcome_of_every_split_that_the_party_itself_has_not_shut_off() -> None:
    """One tree: the laboratory asks a <= 1 at the root and b <= 2 to its right; the bank asks to its left."""
    none, no = np.full(7, NO_SET, dtype=np.int32), np.zeros(7, dtype=np.bool_)
    trees = Trees(
        start=np.array([0, 7]),
        feature=np.array([0, FOREIGN, 1, LEAF, LEAF, LEAF, LEAF], dtype=np.int32),
        threshold=np.array([1.0, 0.0, 2.0, 0.0, 0.0, 0.0, 0.0]),
        left=np.array([1, 3, 5, LEAF, LEAF, LEAF, LEAF], dtype=np.int32),
        right=np.array([2, 4, 6, LEAF, LEAF, LEAF, LEAF], dtype=np.int32),
        missing_left=no, zero_is_missing=no, left_set=none, known_set=none, unknown_left=no, sets=(), strict=False,
        float32=False,
    )  # fmt: skip
    lab = SplitTreesPart(("a", "b"), {}, np.zeros(2, dtype=np.bool_), trees, 1)

    masks = lab.partial_scores(np.array([[0.0, 0.0], [0.0, 9.0], [9.0, 0.0], [9.0, 9.0]]))

    # leaves from left to right are 1, 2, 4, 8; behind a <= 1 the answer to b <= 2 is not told
    assert masks.tolist() == [[1 + 2], [1 + 2], [4], [8]]


@pytest.mark.parametrize("combining", [None, Combining.TOP_SUM, Combining.TOP_CONCAT])
def test_as_many_neurons_as_features_with_known_weights_give_the_features(combining: Combining | None) -> None:
    """Of a summed network and of an embedding, whose share is all of it."""
    combination = None if combining is None else Combination(combining, "ab" * 32, 1)
    layers = (Dense(SQUARE, np.array([0.5, -0.5, 0.0]), Activation.TANH),)
    features = np.array([[0.1, -0.2, 0.3], [0.0, 0.25, -0.5]])

    shares = NetworkPart(("a", "b", "c"), {}, {}, layers, None, combination).partial_scores(features)

    assert shares.shape == (2, 3)
    found = (np.arctanh(shares) - [0.5, -0.5, 0.0]) @ np.linalg.inv(SQUARE)
    np.testing.assert_allclose(found, features, rtol=1e-9, atol=1e-12)


def test_fewer_neurons_than_features_leave_the_features_open() -> None:
    narrow = NetworkPart(("a", "b", "c"), {}, {}, (Dense(SQUARE[:, :2], np.zeros(2), Activation.IDENTITY),), None)
    features = np.array([[0.1, -0.2, 0.3]])

    others = features + np.linalg.svd(SQUARE[:, :2].T)[2][2:]

    np.testing.assert_allclose(narrow.partial_scores(others), narrow.partial_scores(features))
    assert np.abs(others - features).max() > 0.1
