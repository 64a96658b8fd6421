"""When something is allowed: hours of the day and days of the week, in a time zone. Pure but for the zones' tables."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

WEEKDAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
DAY_MINUTES = 24 * 60
_HOURS = re.compile(r"([01]\d|2[0-3]):([0-5]\d)-(?:([01]\d|2[0-3]):([0-5]\d)|(24):(00))")


@dataclass(frozen=True, slots=True)
class Hours:
    """A span of the day on some days of the week.

    Attributes:
        first: The first minute of the day that is in it, 0 to 1439.
        end: The first minute after it, 1 to 1440; where it is not behind `first`, on the day after.
        days: Days on which it begins, 0 for Monday.
        zone: Whose clock is meant.
    """

    first: int
    end: int
    days: frozenset[int]
    zone: tzinfo

    def includes(self, at: datetime) -> bool:
        """Return whether an instant, which has a time zone, is in the span.

        >>> nights = Hours(*parse_hours("22:00-06:00"), frozenset({4}), UTC)  # of Friday
        >>> [nights.includes(datetime(2026, 11, day, hour, tzinfo=UTC)) for day, hour in ((27, 23), (28, 5), (27, 5))]
        [True, True, False]
        """
        local = at.astimezone(self.zone)
        minute, day = 60 * local.hour + local.minute, local.weekday()
        if self.first < self.end:
            return self.first <= minute < self.end and day in self.days
        return (minute >= self.first and day in self.days) or (minute < self.end and (day - 1) % 7 in self.days)


class Opening:
    """Whether it is within some hours now, looked at once a minute: spans begin and end with minutes."""

    __slots__ = ("_hours", "_is_open", "_minute")

    def __init__(self, hours: Hours) -> None:
        self._hours = hours
        self._minute = -1
        self._is_open = False

    def is_open(self, now_s: float) -> bool:
        """Return whether an instant, in seconds since 1970, is within the hours."""
        minute = int(now_s // 60)
        if minute != self._minute:
            self._is_open = self._hours.includes(datetime.fromtimestamp(60 * minute, UTC))
            self._minute = minute
        return self._is_open


def parse_hours(text: str) -> tuple[int, int]:
    """Return the first minute of a span, and the one after it; raise `ValueError`.

    >>> parse_hours("08:30-18:00"), parse_hours("00:00-24:00")
    ((510, 1080), (0, 1440))
    """
    match = _HOURS.fullmatch(text)
    if match is None:
        raise ValueError(f'"{text}" is no span of hours: write one such as "08:00-18:00"; 24:00 may be its end')
    first_h, first_min, *end = match.groups()
    end_h, end_min = (each for each in end if each is not None)
    first_at, end_at = 60 * int(first_h) + int(first_min), 60 * int(end_h) + int(end_min)
    if first_at == end_at:
        raise ValueError(f'"{text}" begins where it ends: leave it out for the whole day')
    return first_at, end_at


def check_zone(zone: str) -> str:
    """Return the name of a time zone, or raise `ValueError`."""
    try:
        ZoneInfo(zone)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise ValueError(f'there is no time zone "{zone}"; write one such as "Europe/Berlin" or "UTC"') from error
    return zone
