"""A top model over embeddings: what plain numpy and scikit-learn give for the whole network."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedpredict.convert.network_top_cut import split_under_top
from fedpredict.errors import IncompatiblePartsError, NameRefusedError
from fedpredict.model.activations import Activation
from fedpredict.model.combination import Combining, combination_of, structure_of
from fedpredict.model.combine import combine
from fedpredict.model.dense import Dense
from fedpredict.model.head import HeadModel, HeadShelf, LoadedHead
from fedpredict.model.kinds import Kind
from fedpredict.model.links import Link
from fedpredict.model.manifest import Manifest, PartDescription, build_manifest
from fedpredict.model.network import NetworkPart
from fedpredict.model.partial import PartialModel
from fedpredict.model.share import SampleStatus, all_ok_statuses, build_share
from fedpredict.model.top_head import TopHead
from tests.split_networks import block_network, masked_classifier

STRUCTURE = structure_of(Combining.TOP_CONCAT, "two parties")
PARTIES = ("lab", "shop")
CONCAT = TopHead(Combining.TOP_CONCAT, STRUCTURE, ("shop", "lab"), (1, 2), (Dense(np.eye(3), np.zeros(3)),))
SUM = TopHead(Combining.TOP_SUM, STRUCTURE, PARTIES, (2, 2), (Dense(np.ones((2, 1)), np.zeros(1), Activation.TANH),))


def answered(head: TopHead, **shares: list[list[float]]) -> Any:
    """What an initiator makes of shares."""
    made = {party: build_share(np.array(rows), all_ok_statuses(len(rows))) for party, rows in shares.items()}
    return combine(Link("identity"), made, head)


def test_a_concatenation_is_in_the_heads_order_and_without_what_is_behind_a_partys_width() -> None:
    found = answered(CONCAT, lab=[[1.0, 2.0]], shop=[[3.0, 99.0]])

    assert found.raw.tolist() == [[3.0, 1.0, 2.0]]


def test_a_sum_goes_into_the_first_layer() -> None:
    found = answered(SUM, lab=[[0.25, -0.5]], shop=[[0.5, 0.125]])

    assert found.raw.tolist() == [[np.tanh(0.375)]]


def test_where_a_sum_overflows_the_sample_has_no_number_whatever_an_activation_makes_of_it() -> None:
    found = answered(SUM, lab=[[1e308, 0.0], [1.0, 0.0]], shop=[[1e308, 0.0], [1.0, 0.0]])

    assert found.status.tolist() == [SampleStatus.OUT_OF_RANGE, SampleStatus.OK]
    assert np.isnan(found.predictions[0]).all()
    assert found.predictions[1] == np.tanh(2.0)


def test_where_the_last_layer_overflows_the_sample_has_no_number() -> None:
    huge = replace(CONCAT, layers=(Dense(np.full((3, 1), 1e308), np.zeros(1)),))

    assert answered(huge, lab=[[1.0, 1.0]], shop=[[1.0, 0.0]]).status.tolist() == [SampleStatus.OUT_OF_RANGE]


def test_a_sample_that_a_party_cannot_score_keeps_its_status() -> None:
    status = np.array([SampleStatus.OK, SampleStatus.FEATURE_MISSING], dtype=np.uint8)
    bad = build_share(np.array([[1.0, 1.0], [np.nan, np.nan]]), status)
    good = build_share(np.ones((2, 2)), all_ok_statuses(2))

    found = combine(Link("identity"), {"lab": bad, "shop": good}, CONCAT)

    assert found.status.tolist() == [SampleStatus.OK, SampleStatus.FEATURE_MISSING]
    assert np.isnan(found.raw[1]).all()


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"combining": Combining.LEAF_MASKS}, "over leaf_masks"),
        ({"parties": ("lab", "lab")}, "one twice"),
        ({"parties": ()}, "without parties"),
        ({"widths": (3,)}, "2 parties with embeddings"),
        ({"widths": (3, 0)}, "2 parties with embeddings"),
        ({"widths": (2, 2)}, "the embeddings give 4"),
        ({"layers": ()}, "without a layer"),
        ({"layers": (*CONCAT.layers, Dense(np.eye(2), np.zeros(2)))}, "layer 2 takes 2 inputs"),
        ({"combining": Combining.TOP_SUM}, "cannot be added up"),
    ],
)
def test_a_head_that_does_not_fit_together_is_refused(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        replace(CONCAT, **changes)


def test_a_head_of_a_party_that_cannot_be_one_is_refused() -> None:
    with pytest.raises(NameRefusedError):
        replace(CONCAT, parties=("lab", "no party"))


def test_a_part_for_a_head_has_no_intercept() -> None:
    layers = (Dense(np.ones((1, 2)), np.zeros(2)),)

    with pytest.raises(ValueError, match="with an intercept"):
        NetworkPart(("a",), {}, {}, layers, np.zeros(2), CONCAT.combination)
    part = NetworkPart(("a",), {}, {}, layers, None, CONCAT.combination)
    assert combination_of(part) == CONCAT.combination
    with pytest.raises(ValueError, match="fit_intercept must be false"):
        PartialModel("m", "run-1", "lab", Kind.LINEAR, (), True, part)


def pinned(*parties: str, head: TopHead = CONCAT, **changes: Any) -> Manifest:
    parts = {
        party: PartDescription(
            party=party,
            model_id="m",
            params_sha256="a" * 64,
            training_run="run-1",
            kind=Kind.LINEAR,
            link=Link("identity"),
            classes=(),
            n_scores=2,
            holds_intercept=False,
            fit_intercept=False,
            combination=CONCAT.combination,
        )
        for party in parties
    }
    parts = {party: replace(part, **changes) for party, part in parts.items()}
    model = HeadModel("m", "run-1", "bank", Kind.LINEAR, (), Link("identity"), head)
    return build_manifest(parts, HeadShelf({"m": (LoadedHead(model, "e" * 64),)}))


def test_the_models_parties_must_be_those_of_the_head() -> None:
    assert pinned("lab", "shop").n_raw == 3
    with pytest.raises(IncompatiblePartsError, match=r"takes shares of lab, shop, .* parties are lab$") as missing:
        pinned("lab")
    assert missing.value.parties == ("shop",)
    with pytest.raises(IncompatiblePartsError, match="parties are bank, lab, shop") as surplus:
        pinned("lab", "shop", "bank")
    assert surplus.value.parties == ("bank",)
    with pytest.raises(IncompatiblePartsError, match="parties are lab, store"):
        pinned("lab", "store")


def test_parts_of_another_width_or_structure_do_not_fit_the_head() -> None:
    with pytest.raises(IncompatiblePartsError, match="shares of 2 numbers, the parts have 3"):
        pinned("lab", "shop", n_scores=3)
    other = replace(CONCAT, structure_sha256=structure_of(Combining.TOP_CONCAT, "others"))
    with pytest.raises(IncompatiblePartsError, match="no head for them"):
        pinned("lab", "shop", head=other)


NAMES = ("bank", "lab", "shop", "agency")


@settings(max_examples=30, deadline=None)
@given(
    sizes=st.lists(st.tuples(st.integers(1, 3), st.integers(1, 4)), min_size=1, max_size=4),
    hidden=st.lists(st.sampled_from(["relu", "sigmoid", "leaky_relu", "gelu"]), max_size=2),
    top=st.lists(st.sampled_from(["tanh", "softplus", "softmax"]), max_size=2),
    n_outputs=st.integers(1, 3),
    seed=st.integers(0, 1000),
)
def test_bottoms_and_top_give_the_numbers_of_the_whole_network(
    sizes: list[tuple[int, int]], hidden: list[str], top: list[str], n_outputs: int, seed: int
) -> None:
    owners = dict(zip(NAMES, sizes, strict=False))
    joint = block_network(owners, hidden=hidden, top=(*top, "identity"), n_outputs=n_outputs, seed=seed)

    cut = split_under_top(joint.model, joint.owners, "bank")

    names = list(joint.model.part.features)
    shares = {}
    for party, part in cut.parts.items():
        columns = [names.index(name) for name in part.part.features]
        shares[party] = build_share(part.part.partial_scores(joint.rows[:, columns]), all_ok_statuses(len(joint.rows)))
    found = combine(cut.head.link, shares, cut.head.head)
    terms = joint.model.part.magnitudes(joint.rows)
    assert (np.abs(found.raw - joint.raw) <= 1e-9 * np.maximum(terms, 1.0)).all()
    is_unmixed = bool(hidden) or (len(sizes) == 1 and bool(top))
    expected = Combining.TOP_CONCAT if is_unmixed else Combining.TOP_SUM
    assert cut.head.head.combination.combining is expected


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("owners", [{"lab": (2, 3), "shop": (3, 2)}, {"a": (1, 1), "b": (1, 2), "c": (2, 3)}])
def test_parts_and_a_head_written_by_hand_give_the_probabilities_of_scikit_learn(
    owners: dict[str, tuple[int, int]], n_classes: int
) -> None:
    model, rows = masked_classifier(owners, n_classes=n_classes)
    feature = unit = 0
    shares, widest = {}, max(units for _, units in owners.values())
    for party, (n_features, n_units) in owners.items():
        weights = model.coefs_[0][feature : feature + n_features, unit : unit + n_units]
        bias = model.intercepts_[0][unit : unit + n_units]
        values = np.tanh(rows[:, feature : feature + n_features] @ weights + bias)
        padded = np.pad(values, ((0, 0), (0, widest - n_units)), constant_values=7.0)
        shares[party] = build_share(padded, all_ok_statuses(len(rows)))
        feature, unit = feature + n_features, unit + n_units
    top = (
        Dense(model.coefs_[1], model.intercepts_[1], Activation.TANH),
        Dense(model.coefs_[2], model.intercepts_[2]),
    )
    widths = tuple(units for _, units in owners.values())
    head = TopHead(Combining.TOP_CONCAT, STRUCTURE, tuple(owners), widths, top)

    found = combine(Link("logit" if n_classes == 2 else "softmax"), shares, head)

    expected = model.predict_proba(rows)
    if n_classes == 2:
        expected = expected[:, 1:]
    np.testing.assert_allclose(found.predictions, expected, rtol=1e-9)
