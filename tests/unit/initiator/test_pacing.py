"""A party that says to come back later is not asked until then."""

from __future__ import annotations

import asyncio

import pytest

from fedpredict.errors import PartyClosedError, PartyLimitedError, PartyRefusedError
from fedpredict.initiator.offline.failure import PartyFailedError, verdict_on, waiting_reason
from fedpredict.initiator.pacing import MAX_HOLD_S, Pacing
from fedpredict.model.offline import OfflineState
from fedpredict.public_status import Code, public_status


def limited(retry_after_ms: int) -> PartyLimitedError:
    return PartyLimitedError("too often", party="lab", retry_after_ms=retry_after_ms)


def test_no_call_goes_out_before_the_time_that_was_said() -> None:
    now = [100.0]
    pacing = Pacing("lab", lambda: now[0])
    pacing.check()

    pacing.note(limited(500))
    now[0] = 100.25
    pacing.note(limited(50))  # an answer that was on its way says less, and changes nothing

    with pytest.raises(PartyLimitedError) as raised:
        pacing.check()
    assert (raised.value.party, raised.value.retry_after_ms) == ("lab", 250)
    now[0] = 100.5
    pacing.check()


def test_a_hint_of_years_is_believed_for_a_minute() -> None:
    now = [0.0]
    pacing = Pacing("lab", lambda: now[0])
    pacing.note(limited(10**12))

    now[0] = MAX_HOLD_S
    pacing.check()


def test_other_failures_hold_nothing_up() -> None:
    pacing = Pacing("lab", lambda: 0.0)
    pacing.note(PartyRefusedError("no", party="lab"))
    pacing.check()


async def test_calls_of_tasks_wait_and_are_made_again() -> None:
    loop = asyncio.get_running_loop()
    pacing, began, asked = Pacing("lab", loop.time), loop.time(), []

    async def ask(deadline_s: float) -> str:
        asked.append((loop.time() - began, deadline_s))
        if len(asked) < 3:
            raise limited(30)
        return "share"

    assert await pacing.paced(ask, 600.0) == "share"

    waited = [at for at, _ in asked]
    assert len(asked) == 3
    assert waited[1] >= 0.029
    assert waited[2] >= 0.058
    assert [left <= 600.0 - at + 0.001 for at, left in asked] == [True] * 3


async def test_a_call_that_cannot_wait_so_long_fails_at_once() -> None:
    pacing, asked = Pacing("lab", asyncio.get_running_loop().time), []

    async def ask(deadline_s: float) -> str:
        asked.append(deadline_s)
        raise limited(20_000)

    for _ in range(2):
        with pytest.raises(PartyLimitedError):
            await pacing.paced(ask, 5.0)

    assert len(asked) == 1  # the second was not sent


@pytest.mark.parametrize(
    ("error", "told", "reason"),
    [
        (limited(5), "party lab takes no more calls now", "limited"),
        (PartyClosedError("night", party="lab"), "party lab answers at other hours", "closed"),
    ],
)
def test_a_task_waits_for_a_party_that_takes_no_calls_now(error: Exception, told: str, reason: str) -> None:
    assert isinstance(error, PartyLimitedError | PartyClosedError)

    verdict = verdict_on(PartyFailedError("lab", error))

    assert (verdict.state, verdict.why.problem) == (OfflineState.WAITING, told)
    assert waiting_reason(told, "lab") == reason


def test_users_are_told_that_the_party_is_away_for_them() -> None:
    assert public_status(limited(40)).code is Code.RESOURCE_EXHAUSTED
    assert public_status(limited(40)).text == "party lab takes no more calls now; retry in 40 ms"
    assert public_status(PartyClosedError("", party="lab")).code is Code.UNAVAILABLE
