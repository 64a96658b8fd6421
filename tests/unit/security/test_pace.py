"""Calls per second, held against a bucket of tokens in exact fractions, and against what the rule promises."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedpredict.security.pace import Pace

paces = st.builds(Pace, interval_ns=st.integers(1, 10**10), burst=st.integers(1, 1_000))


@st.composite
def calls(draw: st.DrawFn, pace: Pace) -> list[int]:
    """Instants that do not go back, about as far apart as the pace allows."""
    gaps = draw(st.lists(st.integers(0, 2 * pace.interval_ns) | st.just(0), max_size=60))
    start, instants = draw(st.integers(0, 10**18)), []
    for gap in gaps:
        start += gap
        instants.append(start)
    return instants


def admitted(pace: Pace, instants: list[int]) -> list[bool]:
    full_at, seen = 0, []
    for now in instants:
        full_at, wait = pace.take(full_at, now)
        seen.append(not wait)
    return seen


@given(st.data(), paces)
def test_the_same_calls_are_taken_as_by_a_bucket_of_tokens(data: st.DataObject, pace: Pace) -> None:
    instants = data.draw(calls(pace))
    tokens, seen, expected = Fraction(pace.burst), None, []
    for now in instants:
        if seen is not None:
            tokens = min(Fraction(pace.burst), tokens + Fraction(now - seen, pace.interval_ns))
        seen = now
        expected.append(tokens >= 1)
        tokens -= tokens >= 1

    assert admitted(pace, instants) == expected


@given(st.data(), paces)
def test_no_span_of_time_has_more_calls_than_the_burst_and_its_share(data: st.DataObject, pace: Pace) -> None:
    instants = data.draw(calls(pace))
    taken = [now for now, is_taken in zip(instants, admitted(pace, instants), strict=True) if is_taken]

    for first, begin in enumerate(taken):
        for last, end in enumerate(taken[first:], start=first):
            assert last - first + 1 <= pace.burst + Fraction(end - begin, pace.interval_ns)


@given(st.data(), paces)
def test_who_waits_as_long_as_was_said_is_taken_and_no_sooner(data: st.DataObject, pace: Pace) -> None:
    full_at = 0
    for now in data.draw(calls(pace)):
        full_at, wait = pace.take(full_at, now)
        if wait:
            assert pace.take(full_at, now + wait)[1] == 0
            assert pace.take(full_at, now + wait - 1)[1] == 1


@given(paces, st.integers(0, 2**62), st.integers(0, 10**18))
def test_whatever_is_in_the_memory_nobody_waits_longer_than_for_an_empty_bucket(
    pace: Pace, full_at: int, now: int
) -> None:
    assert pace.take(full_at, now)[1] <= pace.interval_ns


@pytest.mark.parametrize(("calls_per_s", "expected"), [(3.0, 333_333_334), (1e6, 1_000), (1e-4, 10**13)])
def test_an_interval_is_never_shorter_than_the_rate_says(calls_per_s: float, expected: int) -> None:
    assert Pace.of(calls_per_s).interval_ns == expected
