"""How durations are written in settings and views: "90s", "15m", "2h", "3d"."""

from __future__ import annotations

import re

_DURATION = re.compile(r"([0-9]{1,7})(s|m|h|d)")
_MICROS = {"s": 1_000_000, "m": 60_000_000, "h": 3_600_000_000, "d": 86_400_000_000}


def parse_duration(text: object) -> int:
    """Return a duration in microseconds.

    >>> parse_duration("90m")
    5400000000

    Raises:
        ValueError: It is not written so, or is nothing.
    """
    match = _DURATION.fullmatch(text) if isinstance(text, str) else None
    if match is None or not int(match[1]):
        raise ValueError('write a whole number above 0 and s, m, h or d, such as "90m"')
    return int(match[1]) * _MICROS[match[2]]
