"""The circuit, moved by hand."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedpredict.client.circuit import FAILURES_TO_OPEN, FIRST_OPEN_S, MAX_OPEN_S, Breaker, CircuitState
from tests.unit.client.test_retry import Clock


@pytest.fixture
def clock() -> Clock:
    return Clock()


def opened(clock: Clock) -> Breaker:
    breaker = Breaker(clock)
    for _ in range(FAILURES_TO_OPEN):
        assert breaker.wait_s() == 0.0
        breaker.failed()
    return breaker


def test_it_opens_after_failures_in_a_row_and_calls_fail_at_once(clock: Clock) -> None:
    breaker = opened(clock)
    clock.now += 0.25

    assert breaker.circuit.state is CircuitState.OPEN
    assert breaker.wait_s() == pytest.approx(FIRST_OPEN_S - 0.25)


def test_an_answer_between_failures_begins_the_count_anew(clock: Clock) -> None:
    breaker = Breaker(clock)

    for number in range(4 * FAILURES_TO_OPEN):
        breaker.failed()
        if number % (FAILURES_TO_OPEN - 1) == 0:
            breaker.succeeded()

    assert breaker.circuit.state is CircuitState.CLOSED


def test_after_a_while_one_call_tries_and_the_others_still_fail(clock: Clock) -> None:
    breaker = opened(clock)
    clock.now += FIRST_OPEN_S

    waits = [breaker.wait_s() for _ in range(3)]

    assert waits[0] == 0.0
    assert min(waits[1:]) > 0.0
    assert breaker.circuit.state is CircuitState.HALF_OPEN


def test_a_try_that_is_answered_closes_it(clock: Clock) -> None:
    breaker = opened(clock)
    clock.now += FIRST_OPEN_S
    breaker.wait_s()

    breaker.succeeded()

    assert (breaker.circuit.state, breaker.circuit.failures, breaker.wait_s()) == (CircuitState.CLOSED, 0, 0.0)


def test_a_try_that_fails_opens_it_for_longer_and_never_for_ever(clock: Clock) -> None:
    breaker = opened(clock)

    open_for = []
    for _ in range(10):
        open_for.append(breaker.wait_s())
        clock.now += open_for[-1]
        assert breaker.wait_s() == 0.0
        breaker.failed()

    assert open_for == pytest.approx([1.0, 2.0, 4.0, 8.0, 16.0, *[MAX_OPEN_S] * 5])


def test_a_try_that_its_caller_gave_up_lets_the_next_call_try(clock: Clock) -> None:
    breaker = opened(clock)
    clock.now += FIRST_OPEN_S
    breaker.wait_s()

    breaker.left()

    assert breaker.circuit.state is CircuitState.OPEN
    assert breaker.wait_s() == 0.0


def test_a_caller_that_gives_up_says_nothing_of_the_server(clock: Clock) -> None:
    breaker = Breaker(clock)

    for _ in range(3 * FAILURES_TO_OPEN):
        breaker.left()

    assert (breaker.circuit.state, breaker.circuit.failures) == (CircuitState.CLOSED, 0)


def test_since_is_the_moment_that_the_state_began(clock: Clock) -> None:
    breaker = opened(clock)
    clock.now += 0.5

    told = breaker.circuit

    assert told.failures == FAILURES_TO_OPEN
    assert abs(datetime.now(UTC) - timedelta(seconds=0.5) - told.since) < timedelta(seconds=5)


@given(st.lists(st.sampled_from(["ask", "ok", "fail", "leave", "wait"]), max_size=60))
def test_whatever_happens_a_server_that_is_well_is_asked_again(events: list[str]) -> None:
    clock = Clock()
    breaker = Breaker(clock)
    for event in events:
        if event == "wait":
            clock.now += 1.0
        elif event == "ask":
            breaker.wait_s()
        else:
            {"ok": breaker.succeeded, "fail": breaker.failed, "leave": breaker.left}[event]()

    # whoever tries has an end, told or not
    breaker.left()
    clock.now += MAX_OPEN_S

    assert breaker.wait_s() == 0.0
