"""Trees whose splits belong to several parties: masks and head give scikit-learn's numbers, or no number."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedpredict.convert.split_trees_cut import HeadedCut, split_with_head
from fedpredict.errors import IncompatiblePartsError, ModelConflictError
from fedpredict.model.arrays import Floats
from fedpredict.model.combination import Combination, Combining
from fedpredict.model.combine import Combined, combine
from fedpredict.model.head import HeadModel, HeadShelf, LoadedHead
from fedpredict.model.leaf_masks import LEAVES_PER_WORD
from fedpredict.model.linear import LinearPart
from fedpredict.model.manifest import (
    HeadRef,
    Manifest,
    PartDescription,
    build_manifest,
    manifest_from_json,
    manifest_to_json,
)
from fedpredict.model.partial import PartialModel, largest_difference
from fedpredict.model.share import SampleStatus, Share, all_ok_statuses, build_share
from fedpredict.model.split_trees import SplitTreesPart
from fedpredict.model.tree_head import TreeHead
from fedpredict.model.tree_shape import structure_sha256
from fedpredict.model.trees import FOREIGN, Trees, TreesPart
from tests.split_trees import Trained, boosted_classifier, boosted_regressor, forest

MODELS: dict[str, Callable[[int], Trained]] = {
    "boosted classifier": boosted_classifier,
    "boosted regressor": boosted_regressor,
    "forest": forest,
}
DIGEST = "d" * 64


def share_of(part: PartialModel, joint: PartialModel, rows: Floats) -> Share:
    own = rows[:, [joint.part.features.index(name) for name in part.part.features]]
    status = part.part.statuses(own)
    return build_share(part.part.partial_scores(own), all_ok_statuses(len(own)) if status is None else status)


def played(cut: HeadedCut, joint: PartialModel, rows: Floats) -> Combined:
    shares = {party: share_of(part, joint, rows) for party, part in cut.parts.items()}
    return combine(joint.link, shares, cut.head.head)


def owners(n_features: int, parties: list[int]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for at in range(n_features):
        found.setdefault(f"p{parties[at]}", []).append(f"f{at}")
    return found


def split_of(part: PartialModel) -> SplitTreesPart:
    assert isinstance(part.part, SplitTreesPart)
    return part.part


def describe(part: PartialModel, **changes: object) -> PartDescription:
    described = PartDescription(
        party=part.party,
        model_id=part.model_id,
        params_sha256=DIGEST,
        training_run=part.training_run,
        kind=part.kind,
        link=part.link,
        classes=part.classes,
        n_scores=part.part.n_scores,
        holds_intercept=part.holds_intercept,
        fit_intercept=part.fit_intercept,
        combination=split_of(part).combination,
    )
    return replace(described, **changes)  # type: ignore[arg-type]


def shelf_of(head: HeadModel) -> HeadShelf:
    return HeadShelf({head.model_id: (LoadedHead(head, "e" * 64),)})


@pytest.fixture(scope="module")
def trained() -> Trained:
    return boosted_classifier()


@pytest.fixture(scope="module")
def cut(trained: Trained) -> HeadedCut:
    return split_with_head(trained.joint, {"bank": ["f0", "f1", "f2"], "lab": ["f3", "f4", "f5"]}, "bank")


@settings(max_examples=12, deadline=None)
@given(
    st.sampled_from(sorted(MODELS)),
    st.integers(0, 3),
    st.lists(st.integers(0, 4), min_size=6, max_size=6),
)
def test_any_cut_gives_the_predictions_of_scikit_learn(name: str, seed: int, parties: list[int]) -> None:
    trained = MODELS[name](seed)

    combined = played(split_with_head(trained.joint, owners(6, parties), "bank"), trained.joint, trained.rows)

    assert combined.all_ok
    np.testing.assert_allclose(combined.predictions, trained.expected, rtol=1e-9, atol=1e-12)


def test_masks_are_whole_numbers_and_each_alone_leaves_several_leaves(trained: Trained, cut: HeadedCut) -> None:
    for part in cut.parts.values():
        masks = share_of(part, trained.joint, trained.rows).values

        assert (masks == np.floor(masks)).all()
        assert (masks > 0).all()
        assert (masks < 2.0**LEAVES_PER_WORD).all()
        assert np.log2(masks).max() > 1


def test_trees_of_more_leaves_than_a_word_holds_take_several() -> None:
    trained = forest()
    part = split_of(split_with_head(trained.joint, {"lab": [f"f{at}" for at in range(6)]}, "bank").parts["lab"])

    n_leaves = part.trees.n_leaves

    assert n_leaves.max() > LEAVES_PER_WORD
    assert part.n_scores == int(np.ceil(n_leaves / LEAVES_PER_WORD).sum())


def test_a_part_knows_nothing_of_the_other_partys_splits(trained: Trained, cut: HeadedCut) -> None:
    joint, trees = trained.joint.part, split_of(cut.parts["bank"]).trees
    assert isinstance(joint, TreesPart)
    foreign = joint.trees.feature >= 3

    assert (trees.feature[foreign] == FOREIGN).all()
    assert not trees.threshold[foreign].any()
    assert not trees.missing_left[foreign].any()
    assert "values" not in SplitTreesPart.__slots__


def test_a_party_no_tree_asks_for_allows_every_leaf(trained: Trained) -> None:
    joint = trained.joint.part
    assert isinstance(joint, TreesPart)
    wider = replace(joint, features=(*joint.features, "unused"), may_miss=np.zeros(7, dtype=np.bool_))
    parties = {"bank": list(joint.features), "idle": ["unused"]}

    cut = split_with_head(replace(trained.joint, part=wider), parties, "bank")
    idle = split_of(cut.parts["idle"])

    assert not idle.n_splits
    words = idle.partial_scores(np.zeros((1, 0)))[0].tolist()
    assert sum(int(word).bit_count() for word in words) == idle.trees.n_leaves.sum()
    shares = {
        "bank": build_share(cut.parts["bank"].part.partial_scores(trained.rows), all_ok_statuses(len(trained.rows))),
        "idle": build_share(idle.partial_scores(trained.rows[:, :0]), all_ok_statuses(len(trained.rows))),
    }
    np.testing.assert_allclose(
        combine(trained.joint.link, shares, cut.head.head).predictions, trained.expected, rtol=1e-9
    )


def test_a_sample_that_one_party_cannot_score_has_its_status_and_no_number(trained: Trained, cut: HeadedCut) -> None:
    rows = trained.rows[:4].copy()
    rows[1, 4], rows[2, 0] = np.nan, np.inf

    combined = played(cut, trained.joint, rows)

    assert combined.status.tolist() == [
        SampleStatus.OK,
        SampleStatus.FEATURE_MISSING,
        SampleStatus.FEATURE_INVALID,
        SampleStatus.OK,
    ]
    np.testing.assert_allclose(combined.predictions[[0, 3]], trained.expected[[0, 3]], rtol=1e-9)
    assert np.isnan(combined.predictions[[1, 2]]).all()
    assert combined.problem == ""


@pytest.mark.parametrize(
    ("word", "told"),
    [
        (0.0, "tree 2: the masks of lab leave no leaf"),
        (float(2**52), "tree 2: the masks of lab leave no leaf"),
        (2.5, "tree 2: the masks of lab leave no leaf"),
        (-1.0, "tree 2: the masks of lab leave no leaf"),
        (1e300, "tree 2: the masks of lab leave no leaf"),
    ],
)
def test_a_mask_that_leaves_no_leaf_is_refused_and_names_tree_and_party(
    trained: Trained, cut: HeadedCut, word: float, told: str
) -> None:
    shares = {party: share_of(part, trained.joint, trained.rows[:5]) for party, part in cut.parts.items()}
    broken = shares["lab"].values.copy()
    head = cut.head.head
    assert isinstance(head, TreeHead)
    broken[3, head.first_word[2]] = word
    shares["lab"] = Share(broken, shares["lab"].status)

    combined = combine(trained.joint.link, shares, cut.head.head)

    assert combined.status.tolist() == [1, 1, 1, SampleStatus.REFUSED, 1]
    assert np.isnan(combined.predictions[3]).all()
    assert np.isfinite(combined.predictions[[0, 1, 2, 4]]).all()
    assert combined.problem.startswith(told)
    assert combined.n_misfits == 1


def test_masks_that_contradict_each_other_or_leave_several_leaves_are_refused(trained: Trained, cut: HeadedCut) -> None:
    shares = {party: share_of(part, trained.joint, trained.rows[:2]) for party, part in cut.parts.items()}
    one = np.ones_like(shares["bank"].values)
    everything = split_of(cut.parts["bank"]).trees.n_leaves
    several = np.tile(2.0**everything - 1.0, (2, 1))

    contradiction = {"bank": Share(one, all_ok_statuses(2)), "lab": Share(2.0 * one, all_ok_statuses(2))}
    undecided = dict.fromkeys(("bank", "lab"), Share(several, all_ok_statuses(2)))

    for given_shares, left in ((contradiction, "no leaf"), (undecided, "more than one leaf")):
        combined = combine(trained.joint.link, given_shares, cut.head.head)
        assert (combined.status == SampleStatus.REFUSED).all()
        assert np.isnan(combined.predictions).all()
        assert combined.problem == f"tree 0: the masks of bank, lab leave {left}, where one must be left"


def test_a_leaf_that_there_is_not_is_refused(trained: Trained, cut: HeadedCut) -> None:
    beyond = np.full((1, cut.head.head.n_scores), 2.0**51)
    share = Share(beyond, all_ok_statuses(1))

    combined = combine(trained.joint.link, {"bank": share, "lab": share}, cut.head.head)

    assert combined.status.tolist() == [SampleStatus.REFUSED]
    assert "leave no leaf" in combined.problem


def test_shares_of_another_width_are_no_masks_of_these_trees(trained: Trained, cut: HeadedCut) -> None:
    share = Share(np.ones((1, 3)), all_ok_statuses(1))

    with pytest.raises(ValueError, match="width"):
        combine(trained.joint.link, {"bank": share}, cut.head.head)


def test_the_structure_is_the_same_in_whatever_order_nodes_stand_and_another_for_another_shape() -> None:
    def chain(left: list[int], right: list[int]) -> Trees:
        n_nodes = len(left)
        inner = np.array(left) >= 0
        none = np.full(n_nodes, -1, dtype=np.int32)
        no = np.zeros(n_nodes, dtype=np.bool_)
        return Trees(
            start=np.array([0, n_nodes]),
            feature=np.where(inner, 0, -1).astype(np.int32),
            threshold=np.zeros(n_nodes),
            left=np.array(left, dtype=np.int32),
            right=np.array(right, dtype=np.int32),
            missing_left=no,
            zero_is_missing=no,
            left_set=none,
            known_set=none,
            unknown_left=no,
            sets=(),
            strict=False,
            float32=False,
        )

    deep_left = chain([1, 2, -1, -1, -1], [4, 3, -1, -1, -1])
    same_in_breadth = chain([1, 3, -1, -1, -1], [2, 4, -1, -1, -1])
    deep_right = chain([1, -1, 3, -1, -1], [2, -1, 4, -1, -1])
    digests = [structure_sha256(each) for each in (deep_left, same_in_breadth, deep_right)]

    assert digests[0] == digests[1]
    assert digests[0] != digests[2]
    assert same_in_breadth.leaf_numbers[[3, 4, 2]].tolist() == [0, 1, 2]


def test_a_manifest_names_structure_and_head_and_reads_back(cut: HeadedCut) -> None:
    parts = {party: describe(part) for party, part in cut.parts.items()}

    manifest = build_manifest(parts, shelf_of(cut.head))

    assert manifest.head == HeadRef("bank", "e" * 64)
    assert manifest.n_outputs == 1
    assert manifest.n_scores == cut.head.head.n_scores
    assert manifest_from_json(manifest_to_json(manifest)) == manifest
    assert '"format":"fedpredict-manifest-2"' in manifest_to_json(manifest)


def test_parts_of_another_structure_and_parts_without_their_head_make_no_manifest(cut: HeadedCut) -> None:
    parts = {party: describe(part) for party, part in cut.parts.items()}
    other = Combination(Combining.LEAF_MASKS, "0" * 64, 1)

    with pytest.raises(IncompatiblePartsError, match="differ in combination"):
        build_manifest({**parts, "lab": describe(cut.parts["lab"], combination=other)}, shelf_of(cut.head))
    with pytest.raises(IncompatiblePartsError, match="differ in combination"):
        build_manifest({**parts, "lab": describe(cut.parts["lab"], combination=None)}, shelf_of(cut.head))
    with pytest.raises(IncompatiblePartsError, match="no head for them"):
        build_manifest(parts)
    with pytest.raises(IncompatiblePartsError, match="no head for them"):
        build_manifest(parts, shelf_of(replace(cut.head, training_run="run-2")))
    with pytest.raises(IncompatiblePartsError, match="differ in classes"):
        build_manifest(parts, shelf_of(replace(cut.head, classes=("no", "yes"))))


def test_a_manifest_has_a_head_exactly_where_shares_are_combined(cut: HeadedCut) -> None:
    manifest = build_manifest({p: describe(each) for p, each in cut.parts.items()}, shelf_of(cut.head))

    with pytest.raises(ValueError, match="a head without"):
        replace(manifest, combination=None)
    assert isinstance(manifest, Manifest)


def test_verification_rows_hold_masks_that_must_be_the_same_bit_for_bit(trained: Trained) -> None:
    parties = {"bank": ["f0", "f1", "f2"], "lab": ["f3", "f4", "f5"]}
    part = split_with_head(trained.joint, parties, "bank", rows=trained.rows).parts["lab"]
    rows = part.verification
    assert rows is not None
    assert largest_difference(part) == (0.0, 0.0)

    masks = rows.partial_scores.copy()
    masks[0, 0] = 1.0 if masks[0, 0] != 1.0 else 2.0
    assert largest_difference(replace(part, verification=replace(rows, partial_scores=masks)))[1] == np.inf


def test_only_trees_can_be_split_so() -> None:
    joint = PartialModel(
        model_id="m",
        training_run="run-1",
        party="joint-model",
        kind=boosted_regressor().joint.kind,
        classes=(),
        fit_intercept=False,
        part=LinearPart(("a", "b"), np.ones((2, 1)), None, np.zeros(1)),
    )

    with pytest.raises(ModelConflictError, match="no trees"):
        split_with_head(joint, {"p": ["a"], "q": ["b"]}, "p")
