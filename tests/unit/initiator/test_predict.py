"""What predictions keep to while what is known of their parties and models changes."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pytest
from typing_extensions import override

from fedpredict.errors import ModelNotReadyError, PartyUnavailableError
from fedpredict.initiator import lane as lanes
from fedpredict.initiator.admission import Access, Admission
from fedpredict.initiator.catalogue import Catalogue, Sighting
from fedpredict.initiator.predict import Predictor
from fedpredict.initiator.settings import ClientSettings, LimitSettings, ModelSettings, PolicyName
from fedpredict.model.kinds import Kind, own_link
from fedpredict.model.manifest import Manifest, PartDescription
from fedpredict.model.prediction import Prediction, PredictTask
from fedpredict.model.scorer import PartyReply, PartyScorer, ScoreQuery
from fedpredict.model.share import Mode, SampleStatus, build_share
from fedpredict.security.identity import Identity, IdentityKind

DESK = Identity(IdentityKind.CLIENT, "desk")


@dataclass
class ThreeParty(PartyScorer):
    """A party whose share of every sample is 3.0, once it is let.

    Attributes:
        name: Who it is.
        held: While not set, a Score waits for it.
        away: Whether it is unavailable.
        asked: For which models it was asked, and for how many rows.
    """

    name: str
    held: asyncio.Event = field(default_factory=asyncio.Event)
    away: bool = False
    asked: list[tuple[str, int]] = field(default_factory=list)

    @property
    @override
    def party(self) -> str:
        """The party's id."""
        return self.name

    @override
    async def describe(self, model_id: str, *, deadline_s: float) -> PartDescription:
        """Say nothing: predictions do not ask."""
        raise ModelNotReadyError(model_id)

    @override
    async def score(self, query: ScoreQuery, *, deadline_s: float) -> PartyReply:
        """Answer, once let."""
        n_rows = len(query.sample_ids)
        self.asked.append((query.model_id, n_rows))
        await self.held.wait()
        if self.away:
            raise PartyUnavailableError("gone", party=self.name)
        share = build_share(np.full((n_rows, 1), 3.0), np.full(n_rows, SampleStatus.OK, np.uint8))
        return PartyReply(share=share, oldest_event_time=None, elapsed_s=0.0)


def manifest_of(model_id: str, classes: tuple[str, ...], **digests: str) -> Manifest:
    return Manifest(
        model_id=model_id,
        training_run="run-1",
        kind=Kind.BINARY,
        link=own_link(Kind.BINARY),
        classes=classes,
        n_scores=1,
        fit_intercept=False,
        intercept_party=None,
        digests=tuple((party, digest * 64) for party, digest in digests.items()),
    )


def part_of(party: str, max_samples: int) -> PartDescription:
    return PartDescription(
        party=party,
        model_id="m",
        params_sha256="a" * 64,
        training_run="run-1",
        kind=Kind.BINARY,
        link=own_link(Kind.BINARY),
        classes=("bad", "good"),
        n_scores=1,
        holds_intercept=False,
        fit_intercept=False,
        max_samples=max_samples,
    )


M = manifest_of("m", ("bad", "good"), bank="a", shop="b")
OWN = manifest_of("own", ("bad", "good"), bank="c")


class Bureau:
    """A predictor for model "m", of which the bank and the shop hold parts; "own" is the bank's alone."""

    def __init__(self, **policy: object) -> None:
        settings: Mapping[str, ModelSettings] = {
            "m": ModelSettings.model_validate({"parties": ["bank", "shop"], **policy}),
            "own": ModelSettings(parties=("bank",)),
        }
        self.catalogue = Catalogue(settings)
        self.catalogue.record_pins({"m": M, "own": OWN})
        self.bank, self.shop = ThreeParty("bank"), ThreeParty("shop")
        self.bank.held.set()
        access = Access({"desk": ClientSettings(models=("*",))})
        self.admission = Admission(access, LimitSettings(), max_samples=10_000)
        scorers = {"bank": self.bank, "shop": self.shop}
        self.predictor = Predictor(self.catalogue, scorers, self.admission, own_party="bank", deadline_s=30.0)

    async def predict(self, n_rows: int, deadline_s: float | None = None) -> Prediction:
        ids = [b"u%d" % number for number in range(n_rows)]
        task = PredictTask(request_id="r-1", model_id="m", mode=Mode.NEARLINE, sample_ids=ids)
        return await self.predictor.predict(task, DESK, deadline_s=deadline_s)

    async def shop_asked(self, n_rounds: int) -> None:
        async with asyncio.timeout(20):
            while len(self.shop.asked) < n_rounds:
                await asyncio.sleep(0)


@pytest.mark.parametrize("n_rows", [200, 2_000], ids=["small", "large"])
async def test_a_party_that_takes_fewer_samples_by_now_is_asked_for_no_more(n_rows: int) -> None:
    bureau = Bureau()
    bureau.shop.held.set()
    await bureau.predict(n_rows)
    bureau.catalogue.record("m", "shop", Sighting(part_of("shop", 150)))
    asked_before = len(bureau.shop.asked)

    answer = await bureau.predict(n_rows)

    assert (answer.status == SampleStatus.OK).all()
    sizes = [rows for _, rows in bureau.shop.asked[asked_before:]]
    assert max(sizes) <= 150
    assert sum(sizes) == n_rows


async def test_a_fallback_model_that_has_other_classes_by_now_gives_no_number(caplog: pytest.LogCaptureFixture) -> None:
    bureau = Bureau(policy=PolicyName.FALLBACK_MODEL, fallback_model="own")
    answer = asyncio.ensure_future(bureau.predict(1))
    await bureau.shop_asked(1)
    bureau.catalogue.record_pins({"m": M, "own": manifest_of("own", ("good", "bad"), bank="d")})
    bureau.shop.away = True
    bureau.shop.held.set()

    assert (await answer).status.tolist() == [SampleStatus.PARTY_UNAVAILABLE]
    assert np.isnan((await answer).predictions).all()
    assert bureau.bank.asked == [("m", 1)]
    assert "fallback.failed" in caplog.messages
    assert bureau.admission.requests == 0


@pytest.mark.parametrize("n_rows", [3_000, 4_096])
async def test_a_large_request_whose_time_ran_out_makes_room_for_others_once(
    n_rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lanes, "MAX_ROUNDS", 1)
    bureau = Bureau()
    first = asyncio.ensure_future(bureau.predict(300))
    await bureau.shop_asked(1)
    patient = asyncio.ensure_future(bureau.predict(300))
    large = asyncio.ensure_future(bureau.predict(n_rows, deadline_s=0.2))
    await asyncio.sleep(0)
    assert bureau.admission.requests == 3
    first.cancel()

    answer = await large

    assert (answer.status == SampleStatus.PARTY_UNAVAILABLE).all()
    assert (bureau.admission.requests, bureau.admission.rows) == (1, 300)
    bureau.shop.held.set()
    assert ((await patient).status == SampleStatus.OK).all()
    assert (bureau.admission.requests, bureau.admission.rows) == (0, 0)
