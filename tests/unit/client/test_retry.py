"""What is made again, when, and how often in all."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedpredict.client.failures import LostConnectionError
from fedpredict.client.pooled import first_answer
from fedpredict.client.retry import (
    EXTRA_SHARE,
    FIRST_BACKOFF_S,
    LEAST_PER_S,
    MAX_BACKOFF_S,
    RetryBudget,
    backoff_s,
    is_worth_retrying,
)
from fedpredict.errors import (
    DeadlineExceededError,
    FedPredictError,
    ModelNotFoundError,
    OverloadedError,
    RateLimitedError,
    RetryLaterError,
    ServerUnavailableError,
)
from fedpredict.public_status import STATUS


class Clock:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@given(st.lists(st.tuples(st.floats(0.0, 0.1), st.integers(0, 4)), max_size=300))
def test_extra_calls_are_a_tenth_of_all_and_a_few_a_second(calls: list[tuple[float, int]]) -> None:
    clock = Clock()
    budget = RetryBudget(clock)

    taken = 0
    for pause_s, retries in calls:
        clock.now += pause_s
        budget.count_call()
        taken += sum(budget.take() for _ in range(retries))

    assert taken <= EXTRA_SHARE * len(calls) + LEAST_PER_S * (1.0 + clock.now - 100.0) + 1e-6


def test_a_client_that_asks_rarely_may_always_ask_again() -> None:
    clock = Clock()
    budget = RetryBudget(clock)

    granted = []
    for _ in range(50):
        clock.now += 1.0
        budget.count_call()
        granted += [budget.take() for _ in range(3)]

    assert all(granted)


def test_a_budget_that_is_used_up_grows_again_with_time() -> None:
    clock = Clock()
    budget = RetryBudget(clock)
    while budget.take():
        pass

    clock.now += 0.5
    granted = [budget.take() for _ in range(6)]

    assert granted == [True] * 5 + [False]


def test_a_busy_client_saves_up_for_a_restart_and_not_more_than_that() -> None:
    clock = Clock()
    budget = RetryBudget(clock)
    for _ in range(100_000):
        budget.count_call()

    granted = sum(budget.take() for _ in range(1_000))

    assert granted == 100


@pytest.mark.parametrize(
    "cls", [cls for cls in STATUS if not issubclass(cls, RetryLaterError)], ids=lambda cls: cls.__name__
)
def test_an_answer_is_not_asked_for_twice(cls: type[FedPredictError]) -> None:
    error = cls.__new__(cls)

    assert not is_worth_retrying(error)


def test_a_lost_connection_and_a_full_server_are_worth_another_try() -> None:
    assert is_worth_retrying(LostConnectionError("gone"))
    assert is_worth_retrying(OverloadedError("full", retry_after_ms=1))
    assert is_worth_retrying(RateLimitedError("often", retry_after_ms=1))
    assert not is_worth_retrying(ServerUnavailableError("told already"))
    assert not is_worth_retrying(DeadlineExceededError("over"))


@given(st.integers(1, 40), st.floats(0.0, 1.0))
def test_the_wait_is_anywhere_below_a_limit_that_doubles(attempt: int, chance: float) -> None:
    waited = backoff_s(LostConnectionError("gone"), attempt, lambda: chance)

    assert 0.0 <= waited <= min(MAX_BACKOFF_S, FIRST_BACKOFF_S * 2 ** (attempt - 1))


def test_the_servers_hint_is_waited_for_and_clients_are_spread_behind_it() -> None:
    full = OverloadedError("full", retry_after_ms=300)

    assert backoff_s(full, 1, lambda: 0.0) == pytest.approx(0.3)
    assert backoff_s(full, 1, lambda: 1.0) == pytest.approx(0.3 + FIRST_BACKOFF_S)


async def test_of_an_answer_and_an_error_at_once_the_answer_wins() -> None:
    for _ in range(50):
        moment = asyncio.Event()

        async def call(outcome: str | Exception, moment: asyncio.Event = moment) -> str:
            await moment.wait()
            if isinstance(outcome, Exception):
                raise outcome
            return outcome

        errors = OverloadedError("full", retry_after_ms=1), ModelNotFoundError("m")
        calls = {asyncio.ensure_future(call(outcome)) for outcome in (*errors, "answer")}
        asyncio.get_running_loop().call_soon(moment.set)

        assert await first_answer(calls) == "answer"
        await asyncio.gather(*calls, return_exceptions=True)
