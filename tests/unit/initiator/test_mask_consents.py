"""What an initiator keeps of the parties' consents, and which sums it asks for because of it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from fedpredict.initiator.mask_consents import KeptConsents
from fedpredict.initiator.masking import MaskedSum, MaskedSums
from fedpredict.initiator.settings import InitiatorSettings
from fedpredict.initiator.unmasking import open_defaults
from fedpredict.model.fixed_point import FixedPoint
from fedpredict.wire.v1 import masking_pb2

VERSION, OTHER = "ab" * 32, "cd" * 32
MANIFEST = cast(Any, SimpleNamespace(manifest_sha256=VERSION))


def consent(party: str, valid_until: int = 100) -> masking_pb2.MaskConsent:
    return masking_pb2.MaskConsent(party=party, valid_until=valid_until)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_the_newest_consent_of_a_party_to_a_version_is_kept_until_it_is_over() -> None:
    clock = Clock()
    kept = KeptConsents(clock)
    kept.keep(VERSION, ("lab", "post", "shop"), {"post": consent("post")})
    assert kept.of(VERSION, ["post"]) == (consent("post"),)
    assert kept.of(VERSION, ["lab"]) is None
    assert kept.of(VERSION, ["lab", "post"]) is None
    assert kept.of(OTHER, ["post"]) is None
    kept.keep(VERSION, ("lab", "post", "shop"), {"post": consent("post", 200), "shop": consent("shop")})
    assert kept.of(VERSION, ["post", "shop"]) == (consent("post", 200), consent("shop"))
    clock.now = 100.0
    assert kept.of(VERSION, ["post", "shop"]) is None
    assert kept.of(VERSION, ["post"]) == (consent("post", 200),)
    clock.now = 200.0
    assert kept.of(VERSION, ["post"]) is None


def test_a_party_that_says_nothing_any_more_has_taken_its_consent_back() -> None:
    kept = KeptConsents(Clock())
    kept.keep(VERSION, ("lab", "post", "shop"), {"post": consent("post"), "shop": consent("shop")})
    kept.keep(VERSION, ("lab", "shop"), {})  # a session without post says nothing of it
    assert kept.of(VERSION, ["post"]) == (consent("post"),)
    assert kept.of(VERSION, ["shop"]) is None
    kept.keep(VERSION, ("lab", "post", "shop"), {})
    assert kept.of(VERSION, ["post"]) is None


async def sum_over(may_lack: tuple[str, ...], linked: tuple[str, ...], *consents: str) -> MaskedSum:
    sums = cast(Any, MaskedSums({}))
    parties = ("lab", "mill", "post", "shop")
    sums._remotes = {
        party: SimpleNamespace(pool=SimpleNamespace(masking=(party,) if party in linked else (), carriers={}))
        for party in parties
    }
    sums.consents = KeptConsents(Clock())
    sums.consents.keep(VERSION, parties, {party: consent(party) for party in consents})
    return MaskedSum(sums, parties, FixedPoint(32, 4), frozenset(may_lack))


async def test_parties_that_are_away_and_consented_are_left_out() -> None:
    full = await sum_over(("mill", "post"), ("lab", "mill", "shop"), "mill", "post")
    smaller = full.present(MANIFEST)
    assert (smaller.parties, smaller.lacking, smaller.fixed.n_parties) == (("lab", "mill", "shop"), ("post",), 3)
    last = smaller.without({"mill"}, MANIFEST)
    assert last is not None
    assert (last.parties, last.lacking) == (("lab", "shop"), ("mill", "post"))
    assert last.without({"mill"}, MANIFEST) is None  # nothing is gained by asking again
    assert last.without(set(), MANIFEST) is None


@pytest.mark.parametrize(
    ("may_lack", "linked", "consents"),
    [
        (("post",), ("lab", "mill", "post", "shop"), ("post",)),
        ((), ("lab", "mill", "shop"), ("post",)),
        (("post",), ("lab", "mill", "shop"), ()),
        (("post",), ("lab", "mill", "shop"), ("mill",)),
        (("post",), ("lab", "shop"), ("mill", "post")),
        (("mill", "post"), ("lab", "shop"), ("post",)),
    ],
    ids=["nobody is away", "no constant", "no consent", "of another", "another is away, too", "one of two consents"],
)
async def test_else_the_full_sum_is_asked_for(
    may_lack: tuple[str, ...], linked: tuple[str, ...], consents: tuple[str, ...]
) -> None:
    full = await sum_over(may_lack, linked, *consents)
    assert full.present(MANIFEST) is full


async def test_constants_stand_in_for_nobody_whose_masks_are_in_the_sum() -> None:
    defaults = {"bank": (0.0,), "mill": (1.0,), "post": (2.0,)}
    full = await sum_over(("mill", "post"), ("lab", "mill", "shop"), "post")
    assert open_defaults(None, defaults) == defaults
    assert open_defaults(full, defaults) == {"bank": (0.0,)}
    assert open_defaults(full.present(MANIFEST), defaults) == {"bank": (0.0,), "post": (2.0,)}


def settings(**model: Any) -> InitiatorSettings:
    tls = {"ca": "ca.pem", "certificate": "bank.pem", "key": "bank.key"}
    parties = {party: {"address": "127.0.0.1:1"} for party in ("lab", "post", "shop")}
    base = {"party": "bank", "tls": tls, "warehouse": {"path": "w"}, "parties": parties}
    masked = {"parties": ["bank", *parties], "masked": True, "policy": "default_partial"}
    return InitiatorSettings.model_validate({**base, "models": {"m": {**masked, **model}}})


def test_constants_leave_two_parties_in_every_sum() -> None:
    settings(defaults={"post": [0.0]})
    settings(defaults={"bank": [0.0], "post": [0.0]})
    with pytest.raises(ValueError, match=r"models.m.defaults: .* only lab has no constant"):
        settings(defaults={"post": [0.0], "shop": [0.0]})
