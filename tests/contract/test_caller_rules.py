"""A caller's rule holds on standing links, whichever carries them and whoever dialled, and changes on them at once."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest

from fedpredict.errors import PartyClosedError, PartyLimitedError, PartyRefusedError
from fedpredict.initiator.fanout import RemoteParty
from fedpredict.participant.settings import CallerSettings
from tests.contract.link_rig import DEADLINE_S, Certificates, Rig, ScriptedScorer, Way, query_of, several

WAYS = [
    pytest.param(Way(carrier, dials), id=f"{carrier}-{dials}-dials")
    for carrier in ("socket", "grpc")
    for dials in ("initiator", "participant")
]


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(params=WAYS)
async def rig(request: pytest.FixtureRequest, certificates: Certificates) -> AsyncIterator[Rig]:
    async with Rig(request.param, certificates) as rig:
        yield rig


def rule(rig: Rig, **keys: object) -> None:
    settings = CallerSettings.model_validate({"models": ["*"], **keys})
    rig.workers[0].policy.replace({"bank": settings})


async def n_scored(remote: RemoteParty) -> int:
    return (await remote.score(query_of(b"7"), deadline_s=DEADLINE_S)).share.n_samples


async def test_a_party_that_takes_no_more_calls_is_asked_once_and_not_again(rig: Rig) -> None:
    scorer = ScriptedScorer()
    remote = await rig.linked(scorer)
    rule(rig, calls_per_s=0.01, burst=2)
    assert [await n_scored(remote) for _ in range(2)] == [1, 1]

    with pytest.raises(PartyLimitedError, match="RESOURCE_EXHAUSTED: too many calls") as first:
        await n_scored(remote)
    rule(rig)  # if it were asked, it would answer now
    with pytest.raises(PartyLimitedError, match="was not asked") as second:
        await n_scored(remote)

    assert 0 < second.value.retry_after_ms <= first.value.retry_after_ms <= 100_000
    assert scorer.begun == 2


async def test_hours_that_end_refuse_at_once_and_hours_that_begin_answer_at_once(rig: Rig) -> None:
    remote = await rig.linked(ScriptedScorer())
    yesterday, tomorrow = (datetime.now(UTC) + timedelta(days=days) for days in (-1, 1))
    shut = [f"{each:%a}".lower() for each in (yesterday - timedelta(days=2), tomorrow + timedelta(days=1))]
    rule(rig, weekdays=shut, time_zone="UTC")

    with pytest.raises(PartyClosedError, match="not at this time"):
        await n_scored(remote)
    rule(rig)

    assert await n_scored(remote) == 1


async def test_a_mode_and_too_many_rows_are_refused_also_in_a_round_of_several_models(rig: Rig) -> None:
    remote = await rig.linked(ScriptedScorer())
    rule(rig, modes=["offline"])
    with pytest.raises(PartyRefusedError, match="PERMISSION_DENIED: mode nearline"):
        await n_scored(remote)
    rule(rig, max_rows=2)

    with pytest.raises(PartyRefusedError, match="the limit is 2"):
        await remote.score(several(("m", [b"7", b"8"]), ("m-1", [b"7"])), deadline_s=DEADLINE_S)

    assert await n_scored(remote) == 1


async def test_a_party_describes_as_many_rows_as_the_callers_rule_has(rig: Rig) -> None:
    remote = await rig.linked(ScriptedScorer())
    rule(rig, max_rows=7)

    part = await remote.describe("m", deadline_s=DEADLINE_S)

    assert part.max_samples == 7
