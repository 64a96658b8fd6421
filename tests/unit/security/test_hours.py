"""Hours of the day, held against tables written by hand and against a calendar that counts minutes one by one."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedpredict.security.hours import Hours, Opening, check_zone, parse_hours

BERLIN = ZoneInfo("Europe/Berlin")
WORKDAYS = frozenset(range(5))


@pytest.mark.parametrize(
    ("utc", "is_open"),
    [
        ("2026-11-27 06:59", False),  # a Friday; Berlin is an hour ahead in winter
        ("2026-11-27 07:00", True),
        ("2026-11-27 16:59", True),
        ("2026-11-27 17:00", False),
        ("2026-11-28 09:00", False),  # Saturday
        ("2026-07-03 05:59", False),  # and two hours ahead in summer
        ("2026-07-03 06:00", True),
        ("2026-07-03 15:59", True),
        ("2026-07-03 16:00", False),
    ],
)
def test_hours_are_those_of_the_zones_own_clock(utc: str, *, is_open: bool) -> None:
    hours = Hours(*parse_hours("08:00-18:00"), WORKDAYS, BERLIN)

    assert hours.includes(datetime.fromisoformat(utc).replace(tzinfo=UTC)) is is_open


@pytest.mark.parametrize(
    ("local", "is_open"),
    [
        ("2026-11-27 21:59", False),
        ("2026-11-27 22:00", True),  # Friday evening
        ("2026-11-28 05:59", True),  # the same night
        ("2026-11-28 06:00", False),
        ("2026-11-28 23:00", False),  # Saturday's own night is not among the days
        ("2026-11-27 05:00", False),  # nor Thursday's
    ],
)
def test_a_night_belongs_to_the_day_on_which_it_begins(local: str, *, is_open: bool) -> None:
    nights = Hours(*parse_hours("22:00-06:00"), frozenset({4}), BERLIN)

    assert nights.includes(datetime.fromisoformat(local).replace(tzinfo=BERLIN)) is is_open


minutes = st.integers(0, 1439)


@given(minutes, st.integers(1, 1440), st.frozensets(st.integers(0, 6), min_size=1), st.integers(0, 7 * 1440 - 1))
def test_a_span_is_the_minutes_from_its_begin_to_its_end(first: int, end: int, days: frozenset[int], at: int) -> None:
    """Counted over a week whose minutes are numbered, in which a span that ends early ends a day later."""
    if first == end:
        return
    n_minutes = (end - first) % 1440 or 1440
    inside = {(1440 * day + first + step) % (7 * 1440) for day in days for step in range(n_minutes)}
    monday = datetime(2026, 11, 23, tzinfo=UTC)

    assert Hours(first, end, days, UTC).includes(monday + timedelta(minutes=at)) is (at in inside)


def test_an_opening_changes_with_the_minute() -> None:
    opening = Opening(Hours(*parse_hours("08:00-18:00"), frozenset(range(7)), UTC))
    eight = datetime(2026, 11, 27, 8, tzinfo=UTC).timestamp()

    seen = [opening.is_open(eight + shift) for shift in (-0.001, 0.0, 59.9, -1.0, 36_000.0, 35_999.9)]

    assert seen == [False, True, True, False, False, True]


@pytest.mark.parametrize("text", ["8:00-18:00", "08:00", "08:00-24:01", "24:00-08:00", "08:60-09:00", "٠٨:00-18:00"])
def test_what_is_no_span_of_hours_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no span of hours"):
        parse_hours(text)


def test_a_span_that_begins_where_it_ends_is_refused() -> None:
    with pytest.raises(ValueError, match="leave it out for the whole day"):
        parse_hours("08:00-08:00")


@pytest.mark.parametrize("zone", ["Mars/Olympus", "", "../../etc/passwd"])
def test_a_zone_that_is_none_is_refused(zone: str) -> None:
    with pytest.raises(ValueError, match="there is no time zone"):
        check_zone(zone)
