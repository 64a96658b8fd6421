from __future__ import annotations

import asyncio
from typing import cast

import pytest

from fedpredict.errors import EmptyRequestError, OverloadedError
from fedpredict.http.exchange import Exchange
from fedpredict.http.problem import Problem
from fedpredict.initiator.http.refusals import PER_TURN, Refusals
from fedpredict.observe.request_log import RequestLog
from fedpredict.observe.settings import LogSettings

FULL = OverloadedError("full", retry_after_ms=7)


class Answered:
    """Stands for exchanges; keeps whose answer was given, in order."""

    def __init__(self) -> None:
        self.given: list[str] = []

    def refuse(self, problem: Problem, request_id: str) -> None:
        if request_id == "broken":
            raise RuntimeError("an exchange that breaks")
        self.given.append(request_id)


def pair() -> tuple[Refusals, Answered, Exchange]:
    answered = Answered()
    return Refusals(RequestLog(LogSettings(requests="errors"))), answered, cast("Exchange", answered)


async def test_refusals_for_overload_leave_turns_of_the_loop_to_others() -> None:
    refusals, answered, exchange = pair()
    asked = [str(number) for number in range(10 * PER_TURN)]
    for name in asked:
        refusals.refuse(exchange, name, FULL)
    assert answered.given == []  # those who come in this turn are all read first

    steps = []
    while len(answered.given) < len(asked):
        before = len(answered.given)
        await asyncio.sleep(0)
        steps.append(len(answered.given) - before)

    assert max(steps) == PER_TURN
    assert answered.given == asked


async def test_any_other_refusal_is_given_at_once() -> None:
    refusals, answered, exchange = pair()
    refusals.refuse(exchange, "full", FULL)
    refusals.refuse(exchange, "empty", EmptyRequestError("no ids"))
    assert answered.given == ["empty"]


@pytest.mark.parametrize("others", [0, 3 * PER_TURN])
async def test_an_exchange_that_breaks_keeps_nobody_from_a_refusal(others: int) -> None:
    refusals, answered, exchange = pair()
    told: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: told.append(context))
    for name in ("broken", *map(str, range(others))):
        refusals.refuse(exchange, name, FULL)
    async with asyncio.timeout(20):
        while len(answered.given) < others or not told:
            await asyncio.sleep(0)
    refusals.refuse(exchange, "later", FULL)
    async with asyncio.timeout(20):
        while "later" not in answered.given:
            await asyncio.sleep(0)
    assert len(told) == 1
