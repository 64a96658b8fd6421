"""What follows from pins and from what the parties said; no server, no clock."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from fedpredict.errors import ModelNotFoundError, ModelNotReadyError
from fedpredict.initiator.catalogue import INCOMPATIBLE, NOT_READY, Catalogue, Problem, Sighting
from fedpredict.initiator.settings import ModelSettings, PolicyName
from fedpredict.model.kinds import Kind, own_link
from fedpredict.model.links import Link
from fedpredict.model.manifest import PartDescription, build_manifest


def part_of(party: str, model_id: str = "m", **changes: Any) -> PartDescription:
    part = PartDescription(
        party=party,
        model_id=model_id,
        params_sha256=party[0] * 64,
        training_run="run-1",
        kind=Kind.LINEAR,
        link=own_link(Kind.LINEAR),
        classes=(),
        n_scores=1,
        holds_intercept=False,
        fit_intercept=False,
    )
    return replace(part, **changes)


LAB, SHOP = part_of("lab"), part_of("shop")
BOTH = build_manifest({"lab": LAB, "shop": SHOP})


@pytest.fixture
def catalogue() -> Catalogue:
    return Catalogue({"m": ModelSettings(parties=("lab", "shop")), "a": ModelSettings(parties=("lab",))})


def meet(catalogue: Catalogue) -> None:
    catalogue.record("m", "lab", Sighting(LAB))
    catalogue.record("m", "shop", Sighting(SHOP))


def test_models_are_listed_sorted_and_by_party(catalogue: Catalogue) -> None:
    assert catalogue.model_ids == ("a", "m")
    assert catalogue.models_of("lab") == ("a", "m")
    assert catalogue.models_of("shop") == ("m",)
    assert catalogue.models_of("stranger") == ()


def test_an_unknown_model_is_not_found(catalogue: Catalogue) -> None:
    for ask in (catalogue.info, catalogue.answerable, catalogue.settings, catalogue.pin_of):
        with pytest.raises(ModelNotFoundError):
            ask("nosuch")


def test_a_party_never_met_is_waited_for(catalogue: Catalogue) -> None:
    catalogue.record("m", "lab", Sighting(LAB))
    assert catalogue.problem("m") == Problem("party shop has not been met yet", NOT_READY)
    assert catalogue.offered("m").manifest is None


def test_parts_that_are_known_are_offered_and_pin_nothing(catalogue: Catalogue) -> None:
    meet(catalogue)
    assert catalogue.offered("m").manifest == BOTH
    problem = catalogue.problem("m")
    assert problem is not None
    assert "fedpredict catalogue pin m" in problem.told
    with pytest.raises(ModelNotReadyError, match="nothing is pinned"):
        catalogue.answerable("m")


def test_a_pin_makes_the_model_answerable(catalogue: Catalogue) -> None:
    meet(catalogue)
    assert catalogue.record_pins({"m": BOTH, "unknown": BOTH}) == ("m",)
    assert catalogue.record_pins({"m": BOTH}) == ()
    assert catalogue.problem("m") is None
    assert catalogue.answerable("m") == BOTH
    info = catalogue.info("m")
    assert (info.ready, info.problem, info.parties) == (True, "", ("lab", "shop"))


def test_a_party_that_is_away_keeps_its_part_and_the_policy_decides(catalogue: Catalogue) -> None:
    meet(catalogue)
    catalogue.record_pins({"m": BOTH})
    catalogue.record_away("m", "shop", Problem("connection refused", "party shop is unavailable"))
    assert catalogue.offered("m").manifest == BOTH
    assert catalogue.info("m").problem == "party shop is unavailable"
    assert catalogue.answerable("m") == BOTH


def test_parts_that_do_not_fit_are_told_with_names_and_shown_without(catalogue: Catalogue) -> None:
    catalogue.record("m", "lab", Sighting(LAB))
    catalogue.record("m", "shop", Sighting(replace(SHOP, training_run="run-2")))
    told = "the parts differ in training_run: lab says run-1; shop says run-2"
    assert catalogue.offered("m").problem == Problem(told, INCOMPATIBLE)
    assert catalogue.info("m").problem == INCOMPATIBLE


def test_a_pin_that_is_gone_from_the_store_is_gone(catalogue: Catalogue) -> None:
    meet(catalogue)
    catalogue.record_pins({"m": BOTH})
    assert catalogue.record_pins({}) == ("m",)
    with pytest.raises(ModelNotReadyError):
        catalogue.answerable("m")


def test_a_pin_for_other_parties_is_not_used() -> None:
    catalogue = Catalogue({"m": ModelSettings(parties=("lab",))})
    catalogue.record_pins({"m": BOTH})
    with pytest.raises(ModelNotReadyError, match="pinned for lab, shop, but the settings say lab"):
        catalogue.answerable("m")


def test_constants_must_be_as_wide_as_the_pinned_model() -> None:
    policy = PolicyName.DEFAULT_PARTIAL
    settings = ModelSettings(parties=("lab", "shop"), policy=policy, defaults={"lab": (0.0, 1.0)})
    catalogue = Catalogue({"m": settings})
    catalogue.record_pins({"m": BOTH})
    with pytest.raises(ModelNotReadyError, match=r"defaults\.lab has 2 numbers; the pinned model has 1 scores"):
        catalogue.answerable("m")


@pytest.mark.parametrize(
    ("kind", "usable"), [(Kind.ONE_VS_REST, True), (Kind.MULTINOMIAL, True), (Kind.DECISION, False)]
)
def test_a_decision_value_is_no_fallback_for_a_probability(kind: Kind, usable: bool) -> None:
    shared: dict[str, Any] = {"classes": ("a", "b", "c"), "n_scores": 3}
    catalogue = Catalogue(
        {
            "m": ModelSettings(parties=("lab",), policy=PolicyName.FALLBACK_MODEL, fallback_model="own"),
            "own": ModelSettings(parties=("bank",)),
        }
    )
    ours = part_of("lab", kind=Kind.MULTINOMIAL, link=own_link(Kind.MULTINOMIAL), **shared)
    own = part_of("bank", "own", kind=kind, link=own_link(kind), **shared)
    catalogue.record_pins({"m": build_manifest({"lab": ours}), "own": build_manifest({"bank": own})})

    if usable:
        assert catalogue.answerable("m").kind is Kind.MULTINOMIAL
    else:
        with pytest.raises(ModelNotReadyError, match="a decision value is no probability"):
            catalogue.answerable("m")


def test_parties_that_name_two_links_are_told_with_both(catalogue: Catalogue) -> None:
    catalogue.record("m", "lab", Sighting(LAB))
    catalogue.record("m", "shop", Sighting(replace(SHOP, link=Link("power", 0.5))))

    assert catalogue.offered("m").problem == Problem(
        "the parts differ in link: lab says identity; shop says power:0.5", INCOMPATIBLE
    )


@pytest.mark.parametrize(("n_scores", "usable"), [(1, True), (2, False)])
def test_a_fallback_model_must_have_the_same_outputs(n_scores: int, usable: bool) -> None:
    policy = PolicyName.FALLBACK_MODEL
    falling = ModelSettings(parties=("lab", "shop"), policy=policy, fallback_model="own")
    catalogue = Catalogue({"m": falling, "own": ModelSettings(parties=("bank",))})
    own = build_manifest({"bank": part_of("bank", "own", n_scores=n_scores)})
    catalogue.record_pins({"m": BOTH, "own": own})
    if usable:
        assert catalogue.answerable("m") == BOTH
    else:
        with pytest.raises(ModelNotReadyError, match="the fallback model own has other classes"):
            catalogue.answerable("m")
