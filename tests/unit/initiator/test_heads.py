"""What an initiator makes of heads: what is offered, what is refused at settings and pins, and what is not ready."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from pydantic import ValidationError

from fedpredict.errors import ModelNotReadyError
from fedpredict.initiator.catalogue import INCOMPATIBLE, Catalogue, Sighting
from fedpredict.initiator.settings import InitiatorSettings, ModelSettings, PolicyName
from fedpredict.model.head import HeadShelf, LoadedHead
from fedpredict.model.manifest import Manifest, PartDescription, build_manifest
from fedpredict.model.tree_head import TreeHead
from tests.unit.tables.test_heads import NARROW, head_of

HEAD = head_of(model_id="m")
SHELF = HeadShelf({"m": (LoadedHead(HEAD, "e" * 64),)})


def part_of(party: str, head: TreeHead = NARROW, **changes: Any) -> PartDescription:
    part = PartDescription(
        party=party,
        model_id="m",
        params_sha256=party[0] * 64,
        training_run="run-1",
        kind=HEAD.kind,
        link=HEAD.link,
        classes=(),
        n_scores=head.n_scores,
        holds_intercept=False,
        fit_intercept=False,
        combination=head.combination,
    )
    return replace(part, **changes)


PARTS = {"lab": part_of("lab"), "shop": part_of("shop")}
MANIFEST = build_manifest(PARTS, SHELF)


def catalogue_of(shelf: HeadShelf, pinned: Manifest | None = None, **settings: Any) -> Catalogue:
    model = ModelSettings(parties=("lab", "shop"), **{"head": True, **settings})
    catalogue = Catalogue({"m": model, "own": ModelSettings(parties=("bank",))}, lambda: shelf)
    for party, part in PARTS.items():
        catalogue.record("m", party, Sighting(part))
    if pinned is not None:
        catalogue.record_pins({"m": pinned})
    return catalogue


def test_parts_and_the_head_that_fits_them_are_offered() -> None:
    assert catalogue_of(SHELF).offered("m").manifest == MANIFEST


def test_of_several_heads_the_newest_that_fits_is_offered() -> None:
    other_structure = LoadedHead(replace(HEAD, head=replace(NARROW, structure_sha256="6" * 64)), "1" * 64)
    older, newer = LoadedHead(HEAD, "2" * 64), LoadedHead(HEAD, "3" * 64)

    manifest = catalogue_of(HeadShelf({"m": (other_structure, newer, older)})).offered("m").manifest

    assert manifest is not None
    assert manifest.head is not None
    assert manifest.head.head_sha256 == "3" * 64


def test_without_a_head_nothing_is_offered_and_the_operator_is_told_what_to_do() -> None:
    problem = catalogue_of(HeadShelf()).offered("m").problem

    assert problem is not None
    assert problem.public == INCOMPATIBLE
    assert "convert the head" in problem.told


def test_a_head_that_cannot_be_loaded_is_told() -> None:
    problem = catalogue_of(HeadShelf({}, {"m": "its rows give another digest"})).offered("m").problem

    assert problem is not None
    assert "its rows give another digest" in problem.told


def test_a_pinned_version_finds_its_head_and_is_as_wide_as_the_head_makes_it() -> None:
    catalogue = catalogue_of(SHELF, MANIFEST)

    assert catalogue.head_of(catalogue.answerable("m")) is NARROW
    assert catalogue.info("m").ready
    assert catalogue.info("m").n_outputs == 2


def test_a_pinned_version_whose_head_is_not_loaded_is_not_ready() -> None:
    catalogue = catalogue_of(HeadShelf(), MANIFEST)

    with pytest.raises(ModelNotReadyError, match="head eeeeeeeeeeee of the pinned version is not loaded"):
        catalogue.answerable("m")
    with pytest.raises(ModelNotReadyError):
        catalogue.head_of(MANIFEST)
    assert not catalogue.info("m").ready


def test_a_version_whose_shares_are_added_up_has_none() -> None:
    summed = build_manifest({"lab": part_of("lab", combination=None)})

    assert catalogue_of(SHELF).head_of(summed) is None


def test_settings_and_pinned_version_must_agree_on_a_head() -> None:
    with pytest.raises(ModelNotReadyError, match=r"finished by a head, but models.m.head is false"):
        catalogue_of(SHELF, MANIFEST, head=False).answerable("m")
    summed = build_manifest({party: replace(part, combination=None) for party, part in PARTS.items()})
    with pytest.raises(ModelNotReadyError, match=r"added up, but models.m.head is true"):
        catalogue_of(SHELF, summed).answerable("m")


def test_a_constant_can_not_stand_in_for_a_mask() -> None:
    with pytest.raises(ValidationError, match="a constant cannot stand in for a share that a head finishes"):
        ModelSettings(
            parties=("lab", "shop"), head=True, policy=PolicyName.DEFAULT_PARTIAL, defaults={"lab": (0.0, 0.0)}
        )


def test_a_fallback_model_can_stand_in_where_it_has_as_many_outputs() -> None:
    own = replace(part_of("bank", combination=None, n_scores=2), model_id="own")
    catalogue = catalogue_of(SHELF, policy=PolicyName.FALLBACK_MODEL, fallback_model="own")
    catalogue.record_pins({"m": MANIFEST, "own": build_manifest({"bank": own})})

    assert catalogue.answerable("m") is MANIFEST

    catalogue.record_pins({"m": MANIFEST, "own": build_manifest({"bank": replace(own, n_scores=3)})})
    with pytest.raises(ModelNotReadyError, match="another number of outputs"):
        catalogue.answerable("m")


def test_a_fallback_model_is_one_whose_shares_are_added_up() -> None:
    own = replace(MANIFEST, model_id="own")
    catalogue = catalogue_of(SHELF, policy=PolicyName.FALLBACK_MODEL, fallback_model="own")
    catalogue.record_pins({"m": MANIFEST, "own": own})

    with pytest.raises(ModelNotReadyError, match="the fallback model own has a head"):
        catalogue.answerable("m")


def test_a_head_needs_a_warehouse_and_opens_it() -> None:
    content: dict[str, Any] = {
        "party": "bank",
        "insecure": True,
        "parties": {"lab": {"address": "127.0.0.1:7443"}},
        "models": {"m": {"parties": ["lab"], "head": True}},
    }

    with pytest.raises(ValidationError, match=r"models.m.head is in this party's warehouse"):
        InitiatorSettings.model_validate(content)
    settings = InitiatorSettings.model_validate({**content, "warehouse": {"path": "w"}})
    assert settings.holds_a_part
    assert settings.models_with_head == ("m",)
