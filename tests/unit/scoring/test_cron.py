"""When cron expressions are due: by hand-written calendars, by the clock's changes, and by a walk over minutes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedpredict.scoring.cron import parse_cron

BERLIN = "Europe/Berlin"
FIELDS = (
    ("*", "*/15", "0", "7,37", "10-20/5"),
    ("*", "2", "*/6", "22-23"),
    ("*", "1", "29", "*/10", "13,14"),
    ("*", "2", "jan-mar", "*/5"),
    ("*", "0", "7", "MON-fri", "*/2"),
)


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)


def due(text: str, start: str, n: int, zone: str = BERLIN) -> list[str]:
    """The next `n` due instants after `start`, as the zone's own clock shows them."""
    cron, instant, found = parse_cron(text, zone), at(start), []
    for _ in range(n):
        instant = cron.after(instant)
        found.append(instant.astimezone(ZoneInfo(zone)).strftime("%m-%d %H:%M%z"))
    return found


def test_a_day_in_spring_has_23_hours() -> None:
    assert due("30 2 * * *", "2026-03-28T00:00+01:00", 3) == [
        "03-28 02:30+0100",
        "03-29 03:30+0200",
        "03-30 02:30+0200",
    ]
    assert due("0 * * * *", "2026-03-29T00:30+01:00", 3) == ["03-29 01:00+0100", "03-29 03:00+0200", "03-29 04:00+0200"]
    assert (
        len(parse_cron("0 * * * *", BERLIN).between(at("2026-03-28T23:30+01:00"), at("2026-03-29T23:30+02:00"))) == 23
    )


def test_a_day_in_autumn_has_25_hours_and_a_time_that_comes_twice_is_due_once() -> None:
    assert due("30 2 * * *", "2026-10-24T12:00+02:00", 2) == ["10-25 02:30+0200", "10-26 02:30+0100"]
    assert due("*/30 * * * *", "2026-10-25T01:45+02:00", 5) == [
        "10-25 02:00+0200",
        "10-25 02:30+0200",
        "10-25 02:00+0100",
        "10-25 02:30+0100",
        "10-25 03:00+0100",
    ]
    assert (
        len(parse_cron("0 * * * *", BERLIN).between(at("2026-10-24T23:30+02:00"), at("2026-10-25T23:30+01:00"))) == 25
    )


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ("0 0 * * 0", "11-29"),
        ("0 0 * * 7", "11-29"),
        ("0 0 * * sun", "11-29"),
        ("0 0 * * 1", "11-30"),
        ("0 0 1 * 1", "11-30"),  # either day is enough
        ("0 0 */2 * mon", "12-07"),  # both, where one begins with *: the first odd Monday
        ("0 0 29 2 *", "02-29"),
        ("0 0 1 dec *", "12-01"),
    ],
)
def test_days_are_those_of_cron(text: str, first: str) -> None:
    assert due(text, "2026-11-27T12:00+00:00", 1, "UTC")[0][:5] == first


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("0 * * *", "is no cron expression"),
        ("0 * * * * *", "is no cron expression"),
        ("60 * * * *", 'minute: "60" is not within 0 to 59'),
        ("0 24 * * *", 'hour: "24" is not within 0 to 23'),
        ("0 0 0 * *", "day of the month"),
        ("0 0 * 13 *", "month"),
        ("0 0 * * 8", "day of the week"),
        ("*/0 * * * *", "is empty"),
        ("0 5-2 * * *", "is empty"),
        ("a * * * *", "minute"),
        ("- * * * *", 'minute: "-" is none'),
        ("0 0 30 2 *", "is never due"),
        ("٣ * * * *", "minute"),
    ],
)
def test_what_is_no_expression_is_refused_with_its_field(text: str, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        parse_cron(text, "UTC")


@pytest.mark.parametrize("zone", ["Europe/Berlim", "", "../etc/passwd", "Europe"])
def test_a_zone_that_is_none_is_refused(zone: str) -> None:
    with pytest.raises(ValueError, match="there is no time zone"):
        parse_cron("0 * * * *", zone)


@settings(max_examples=60, deadline=None)
@given(
    fields=st.tuples(*(st.sampled_from(each) for each in FIELDS)),
    minutes=st.integers(0, 4 * 366 * 1440),
    zone=st.sampled_from([BERLIN, "America/St_Johns", "Australia/Lord_Howe", "UTC", "Pacific/Apia"]),
)
def test_the_last_one_is_the_one_that_the_next_is_reached_from(
    fields: tuple[str, ...], minutes: int, zone: str
) -> None:
    cron = parse_cron(" ".join(fields), zone)
    instant = at("2024-01-01T00:00+00:00") + timedelta(minutes=minutes)

    last, after = cron.last(instant), cron.after(instant)

    assert last <= instant < after
    assert cron.between(last, after) == []
    assert cron.after(last) == after
    assert cron.last(after) == after


@settings(max_examples=30, deadline=None)
@given(
    fields=st.tuples(*(st.sampled_from(each) for each in FIELDS)),
    days=st.integers(0, 1000),
)
def test_without_changes_of_the_clock_it_is_due_where_every_field_matches(fields: tuple[str, ...], days: int) -> None:
    cron, start = parse_cron(" ".join(fields), "UTC"), at("2024-01-01T00:00+00:00") + timedelta(days=days)

    found = cron.between(start - timedelta(minutes=1), start + timedelta(days=3))

    assert found == [each for each in (start + timedelta(minutes=n) for n in range(3 * 1440)) if matches(fields, each)]


def matches(fields: tuple[str, ...], instant: datetime) -> bool:
    """What the few fields above mean, each by a sum of its own."""
    minute, hour, day, month, weekday = (
        instant.minute,
        instant.hour,
        instant.day,
        instant.month,
        instant.isoweekday() % 7,
    )
    meanings = {
        0: {
            "*": True,
            "*/15": minute % 15 == 0,
            "0": minute == 0,
            "7,37": minute in (7, 37),
            "10-20/5": minute in (10, 15, 20),
        },
        1: {"*": True, "2": hour == 2, "*/6": hour % 6 == 0, "22-23": hour > 21},
        2: {"*": True, "1": day == 1, "29": day == 29, "*/10": day % 10 == 1, "13,14": day in (13, 14)},
        3: {"*": True, "2": month == 2, "jan-mar": month < 4, "*/5": month in (1, 6, 11)},
        4: {"*": True, "0": weekday == 0, "7": weekday == 0, "MON-fri": 1 <= weekday <= 5, "*/2": weekday % 2 == 0},
    }
    on_minute, on_hour, on_day, on_month, on_weekday = (meanings[which][text] for which, text in enumerate(fields))
    free = fields[2].startswith("*") or fields[4].startswith("*")
    on_days = (on_day and on_weekday) if free else (on_day or on_weekday)
    return on_minute and on_hour and on_month and on_days
