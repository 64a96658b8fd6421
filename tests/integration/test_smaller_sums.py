"""Masked sums of real daemons without a party that is away: with everybody's consent a number, and without it none."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedpredict.initiator import masking
from fedpredict.model.arrays import Floats
from fedpredict.model.offline import OfflineState
from fedpredict.model.prediction import Origin, Prediction
from fedpredict.model.share import Mode, SampleStatus
from tests.integration.federation import Certificates, Federation, eventually
from tests.integration.test_masked_sums import World, client_of

OK, NOT_FOUND, MISSING = SampleStatus.OK, SampleStatus.NOT_FOUND, SampleStatus.FEATURE_MISSING
AWAY = SampleStatus.PARTY_UNAVAILABLE
CONSTANT = 0.375
"""Stands in for post's share."""


@pytest.fixture
async def world(tmp_path: Path, certificates: Certificates) -> AsyncIterator[World]:
    async with Federation(tmp_path, certificates) as federation:
        yield World(federation, ("lab", "post", "shop"))


async def serve(world: World, party: str, may_lack: tuple[str, ...] = ("post",), **changes: Any) -> None:
    others = [each for each in world.others if each != party]
    await world.serve(party, masked={"m": {"parties": others, "may_lack": may_lack}}, **changes)


async def start(world: World, may_lack: Mapping[str, tuple[str, ...]] | None = None, **model: Any) -> None:
    """Start everything, and wait for a number of the full sum; all consent to sums without post but for `may_lack`."""
    for party in world.others:
        await serve(world, party, (may_lack or {}).get(party, ("post",)))
    own = world.warehouses["bank"]
    masked = {"parties": list(world.parties), "masked": True, "policy": "default_partial"}
    models = {"m": {**masked, "defaults": {"post": [CONSTANT]}, **model}}
    await world.federation.initiator(models, warehouse=own, task_warehouse=own)
    await world.federation.ready()
    await world.answered(b"id-0")


def rounds_of(monkeypatch: pytest.MonkeyPatch, cuts: str = "") -> list[tuple[str, ...]]:
    """Return whom each round from here on asks, as they come; the link to `cuts` is lost in the first of them."""
    rounds: list[tuple[str, ...]] = []
    original = masking._Round.send

    def sent(self: Any, sessions: Any) -> None:
        rounds.append(tuple(self._asked_of))
        original(self, sessions)
        if cuts and len(rounds) == 1:
            self._group.links[cuts].close("cut by the test")

    monkeypatch.setattr(masking._Round, "send", sent)
    return rounds


async def stop(world: World, party: str) -> None:
    await world.servers[party].__aexit__(None, None, None)


def with_constant(world: World) -> Floats:
    """Return scikit-learn's raw scores, with the constant in the place of post's terms."""
    expected: Floats = world.expected - world.share_of("post") + CONSTANT
    return expected


def check_without_post(world: World, prediction: Prediction) -> None:
    """Check the answer for all samples, of which shop has not the second."""
    scored = np.arange(len(world.ids)) != 1
    assert prediction.status[scored].tolist() == [OK] * (len(world.ids) - 1)
    assert set(prediction.origin[scored].tolist()) == {Origin.DEFAULT_PARTIAL}
    assert np.abs(prediction.predictions - with_constant(world))[scored].max() <= world.error_bound
    assert prediction.status[1] == MISSING
    assert np.isnan(prediction.predictions[1]).all()
    statuses = {report.party: report.status for report in prediction.parties}
    assert statuses["lab"] is None
    assert statuses["post"] is not None
    assert set(statuses["post"].tolist()) == {AWAY}


async def test_a_party_that_is_away_is_left_out_by_consent_and_taken_in_again(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    await start(world)
    whole = await world.federation.predict(*world.sample_ids)
    scored = np.arange(len(world.ids)) != 1
    assert np.abs(whole.predictions - world.expected)[scored].max() <= world.error_bound
    assert set(whole.origin[scored].tolist()) == {Origin.MODEL}
    await stop(world, "post")

    rounds = rounds_of(monkeypatch)
    caplog.clear()
    check_without_post(world, await world.federation.predict(*world.sample_ids))
    assert rounds == [("lab", "shop")]  # one round trip
    assert {getattr(each, "party", "") for each in caplog.records if each.msg == "party.failed"} == {"post"}

    await serve(world, "post")

    async def is_whole() -> bool:
        prediction = await world.federation.predict(b"id-0", b"id-2")
        known = prediction.status == OK
        right = world.expected if Origin.MODEL in prediction.origin.tolist() else with_constant(world)
        assert np.abs(prediction.predictions - right[[0, 2]])[known].sum() <= 2 * world.error_bound
        return bool(known.all()) and set(prediction.origin.tolist()) == {Origin.MODEL}

    await eventually(is_whole)


async def test_two_parties_that_are_away_are_left_out_together(tmp_path: Path, certificates: Certificates) -> None:
    async with Federation(tmp_path, certificates) as federation:
        world = World(federation, ("lab", "mill", "post", "shop"))
        lacks = dict.fromkeys(world.others, ("mill", "post"))
        await start(world, lacks, defaults={"mill": [-0.5], "post": [CONSTANT]})
        expected = world.expected - world.share_of("mill") - world.share_of("post")
        await stop(world, "mill")
        without_mill = await federation.predict(b"id-0")
        await stop(world, "post")
        without_both = await federation.predict(b"id-0")
    assert without_mill.origin.tolist() == without_both.origin.tolist() == [Origin.DEFAULT_PARTIAL]
    found = np.concatenate([without_mill.predictions, without_both.predictions])
    constants = [[world.share_of("post")[0, 0] - 0.5], [CONSTANT - 0.5]]
    assert np.abs(found - (expected[0] + constants)).max() <= world.error_bound


async def test_a_party_that_is_lost_in_a_round_is_left_out_of_the_next_one_of_the_same_request(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await start(world)
    rounds = rounds_of(monkeypatch, cuts="post")
    check_without_post(world, await world.federation.predict(*world.sample_ids))
    assert rounds == [("lab", "post", "shop"), ("lab", "shop")]


async def test_a_party_that_is_lost_in_a_round_and_did_not_consent_takes_every_number_with_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    nobody: tuple[str, ...] = ()
    await start(world, {"post": nobody})
    rounds = rounds_of(monkeypatch, cuts="post")
    prediction = await world.federation.predict(b"id-0", b"id-2")
    assert rounds == [("lab", "post", "shop")]
    assert prediction.status.tolist() == [AWAY, AWAY]  # though lab and shop answered, and a constant is there
    assert np.isnan(prediction.predictions).all()
    assert {each.party for each in prediction.parties if each.status is not None} == {"post"}


async def test_a_party_that_must_not_be_missing_ends_the_smaller_sum_as_well(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await start(world)
    await stop(world, "post")
    rounds = rounds_of(monkeypatch, cuts="shop")
    prediction = await world.federation.predict(b"id-0", b"id-2")
    assert rounds == [("lab", "shop")]
    assert prediction.status.tolist() == [AWAY, AWAY]
    assert np.isnan(prediction.predictions).all()


@pytest.mark.parametrize("without", ["post", "lab", "shop", "bank"])
async def test_without_one_of_the_consents_there_is_never_a_number(
    world: World, caplog: pytest.LogCaptureFixture, without: str
) -> None:
    nobody: tuple[str, ...] = ()
    changes: dict[str, Any] = {"policy": "fail", "defaults": {}} if without == "bank" else {}
    await start(world, {without: nobody}, **changes)
    await stop(world, "post")
    refused = "the sum is of other parties than this party's settings name"

    async def is_refused() -> bool:
        prediction = await world.federation.predict(b"id-0", b"id-2")
        assert np.isnan(prediction.predictions).all()
        assert OK not in prediction.status.tolist()
        assert prediction.origin.tolist() == [0, 0]
        told = [record for record in caplog.records if record.msg == "masking.not_opened"]
        if without in ("post", "bank"):  # then the others are not even asked
            assert not any(getattr(record, "lacking", ()) for record in told)
            return bool((prediction.status == AWAY).all())
        return any(refused in str(getattr(record, "reason", "")) for record in told)

    await eventually(is_refused)
    for _ in range(3):
        await is_refused()


async def test_an_initiator_that_started_while_a_party_was_away_has_no_consent_to_show(world: World) -> None:
    await start(world)
    await stop(world, "post")
    own = world.warehouses["bank"]
    model = {"parties": list(world.parties), "masked": True, "policy": "default_partial", "defaults": {"post": [1.0]}}
    await world.federation.initiator({"m": model}, warehouse=own)  # of the version that is pinned

    async def is_linked_to_the_others() -> bool:
        prediction = await world.federation.predict(b"id-0")
        assert np.isnan(prediction.predictions).all()
        assert prediction.status.tolist() == [AWAY]
        problem_of = {report.party: report.problem for report in prediction.parties}
        return "post" in problem_of["lab"] and "post" in problem_of["shop"]

    await eventually(is_linked_to_the_others)


async def test_a_sample_that_a_party_cannot_score_which_may_be_left_out_gets_no_constant_either(world: World) -> None:
    lacks_shop = dict.fromkeys(world.others, ("shop",))
    await start(world, lacks_shop, defaults={"shop": [CONSTANT]})
    prediction = await world.federation.predict(b"id-0", b"id-1")
    assert prediction.status.tolist() == [OK, MISSING]
    assert prediction.origin.tolist() == [Origin.MODEL, Origin.UNSPECIFIED]
    assert np.isnan(prediction.predictions[1]).all()


async def test_a_sample_that_a_present_party_cannot_score_gets_no_constant(world: World) -> None:
    await start(world)
    before = await world.federation.predict(b"id-1", b"nobody", b"id-2")
    assert before.status.tolist() == [MISSING, NOT_FOUND, OK]
    await stop(world, "post")
    after = await world.federation.predict(b"id-1", b"nobody", b"id-2", b"")
    assert np.isnan(after.predictions[[0, 1, 3]]).all()
    assert after.status[[2, 3]].tolist() == [OK, SampleStatus.ID_INVALID]
    assert np.abs(after.predictions[2] - with_constant(world)[2]).max() <= world.error_bound


async def test_an_offline_task_waits_for_a_party_that_is_away_though_it_may_be_left_out(world: World) -> None:
    lacks_shop = dict.fromkeys(world.others, ("shop",))
    await start(world, lacks_shop, defaults={"shop": [CONSTANT]})
    await stop(world, "shop")
    async with client_of(world.federation) as client:
        task_id = await client.submit("m", world.ids, mode=Mode.NEARLINE)

        async def is_waiting() -> bool:
            return (await client.task(task_id)).state is OfflineState.WAITING

        await eventually(is_waiting)
        await serve(world, "shop", ("shop",))
        info = await client.wait(task_id, timeout_s=60.0)
        assert (info.state, info.problem) == (OfflineState.DONE, "")
        table = (await client.results_table(task_id)).to_pylist()
    scored = [each for each in table if each["status"] == "ok"]
    rows = [world.ids.index(each["sample_id"]) for each in scored]
    assert len(rows) == len(world.ids) - 1  # shop has not the second, for which no constant stands in either
    assert {each["origin"] for each in scored} == {"model"}
    found = np.array([[each["prediction"]] for each in scored])
    assert np.abs(found - world.expected[rows]).max() <= world.error_bound
