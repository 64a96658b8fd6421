"""Cron expressions of five fields: when they are due, in a time zone, across its changes of the clock.

As cron does it: with both days given, either is enough; Sunday is 0 and 7. Where the clock is put forward, a time that
does not come is due as long after midnight as on other days (02:30 at 03:30); where it is put back, a time that comes
twice is due once, the first time. Expressions of every hour follow the hours that really pass: 23 or 25 of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

from fedpredict.security.hours import check_zone

_DAY = timedelta(days=1)
_HORIZON_DAYS = 8 * 366 + 1
"""Around a century's end a 29 February is eight years from the one before."""
_PART = re.compile(r"(?:\*|(?P<first>\w+)(?:-(?P<last>\w+))?)(?:/(?P<step>[0-9]{1,4}))?")
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_WEEKDAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_FIELDS: tuple[tuple[str, int, int, dict[str, int]], ...] = (
    ("minute", 0, 59, {}),
    ("hour", 0, 23, {}),
    ("day of the month", 1, 31, {}),
    ("month", 1, 12, {name: at for at, name in enumerate(_MONTHS, 1)}),
    ("day of the week", 0, 7, {name: at for at, name in enumerate(_WEEKDAYS)}),
)


@dataclass(frozen=True, slots=True)
class Cron:
    """When something is due; from `parse_cron`.

    Attributes:
        text: The expression.
        zone: The name of the time zone.
        minutes, hours, days, months, weekdays: Those that match; Sunday is 0.
        either_day: Whether a day of the month or of the week is enough; else both must match.
    """

    text: str
    zone: str
    minutes: tuple[int, ...]
    hours: tuple[int, ...]
    days: frozenset[int]
    months: frozenset[int]
    weekdays: frozenset[int]
    either_day: bool

    def after(self, instant: datetime) -> datetime:
        """Return the first due instant after another, both UTC."""
        return next(self._due(instant, 1))

    def last(self, instant: datetime) -> datetime:
        """Return the newest due instant that is not after another, both UTC."""
        return next(self._due(instant, -1))

    def between(self, first: datetime, end: datetime) -> list[datetime]:
        """Return the due instants after `first` and before `end`, oldest first."""
        found = []
        for due in self._due(first, 1):
            if due >= end:
                break
            found.append(due)
        return found

    def _due(self, instant: datetime, direction: int) -> Iterator[datetime]:
        """Yield due instants from one on: later ones, or, backwards, it and earlier ones."""
        zone = ZoneInfo(self.zone)
        # a day earlier, and later: what is due as of a day may be on the day after, and days differ between zones
        day = instant.astimezone(zone).date() - _DAY * direction
        for _ in range(_HORIZON_DAYS):
            if self._is_on(day):
                on_day = _instants(self, day)
                if direction > 0:
                    yield from (each for each in on_day if each > instant)
                else:
                    yield from (each for each in reversed(on_day) if each <= instant)
            day += _DAY * direction
        raise ValueError(f'"{self.text}" is never due')

    def _is_on(self, day: date) -> bool:
        if day.month not in self.months:
            return False
        matches = (day.day in self.days, day.isoweekday() % 7 in self.weekdays)
        return any(matches) if self.either_day else all(matches)


@lru_cache(maxsize=64)
def _instants(cron: Cron, day: date) -> tuple[datetime, ...]:
    """Return the due instants of a day that matches, in order."""
    zone = ZoneInfo(cron.zone)
    hourly = len(cron.hours) == 24
    found = set[datetime]()
    for hour in cron.hours:
        for minute in cron.minutes:
            wall = datetime.combine(day, time(hour, minute))
            first, second = (wall.replace(tzinfo=zone, fold=fold).astimezone(UTC) for fold in (0, 1))
            comes = first.astimezone(zone).replace(tzinfo=None) == wall
            if comes or not hourly:
                found.add(first)
            if comes and hourly:
                found.add(second)
    return tuple(sorted(found))


def parse_cron(text: str, zone: str) -> Cron:
    """Return what an expression and the name of a time zone say.

    >>> parse_cron("30 2 * * *", "Europe/Berlin").after(datetime(2026, 11, 27, tzinfo=UTC)).isoformat()
    '2026-11-27T01:30:00+00:00'

    Raises:
        ValueError: The expression is none, or is never due; the message has the field. Or there is no such zone.
    """
    fields = text.split()
    if len(fields) != len(_FIELDS):
        raise ValueError(
            f'"{text}" is no cron expression: write minute, hour, day of the month, month and day of the week, such as '
            '"30 2 * * *"'
        )
    minutes, hours, days, months, weekdays = (_field(given, *rule) for given, rule in zip(fields, _FIELDS, strict=True))
    cron = Cron(
        text=" ".join(fields),
        zone=check_zone(zone),
        minutes=tuple(sorted(minutes)),
        hours=tuple(sorted(hours)),
        days=days,
        months=months,
        weekdays=frozenset(each % 7 for each in weekdays),
        either_day=not fields[2].startswith("*") and not fields[4].startswith("*"),
    )
    cron.after(datetime(2026, 1, 1, tzinfo=UTC))
    return cron


def _field(text: str, name: str, lowest: int, highest: int, names: dict[str, int]) -> frozenset[int]:
    found = set[int]()
    for part in text.split(","):
        match = _PART.fullmatch(part)
        if match is None:
            raise ValueError(
                f'{name}: "{part}" is none; write *, a number, a range such as 1-5, or a step such as */15'
            )
        first = lowest if match["first"] is None else _number(match["first"], name, lowest, highest, names)
        last = first
        if match["last"] is not None:
            last = _number(match["last"], name, lowest, highest, names)
        elif match["first"] is None or match["step"] is not None:
            last = highest
        step = int(match["step"] or 1)
        if first > last or step == 0:
            raise ValueError(f'{name}: "{part}" is empty')
        found.update(range(first, last + 1, step))
    return frozenset(found)


def _number(text: str, name: str, lowest: int, highest: int, names: dict[str, int]) -> int:
    value = names.get(text.lower(), int(text) if text.isdecimal() and text.isascii() else -1)
    if not lowest <= value <= highest:
        raise ValueError(f'{name}: "{text}" is not within {lowest} to {highest}')
    return value
