"""The highest rate that a server keeps up with: steps upwards, then halving between what held and what did not."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from fedpredict.client.load.arrivals import MAX_RATE
from fedpredict.client.load.record import Summary

KEPT = 0.97
"""Part of the rate asked for that must be answered."""

FAILED = 0.001
"""Part of the requests that may fail."""

MAX_STEPS = 16
MIN_RATE = 0.5
PRECISION = 1.08
"""Where what held and what did not are this close, it is found."""

Step = Callable[[float], Awaitable[Summary]]
"""Measures at one rate."""


@dataclass(frozen=True, slots=True)
class Limit:
    """When a server keeps up.

    Attributes:
        p99_ms: The longest that the 99th percentile may take.
    """

    p99_ms: float

    def holds(self, summary: Summary) -> bool:
        """Return whether the server kept up with what it was asked."""
        p99 = summary.histogram.at_ms(99.0)
        total = summary.ok + summary.failed
        return (
            p99 is not None
            and p99 <= self.p99_ms
            and summary.per_s >= KEPT * min(summary.asked_per_s, total / max(summary.seconds, 1e-9))
            and summary.failed <= FAILED * total
        )


async def find_capacity(step: Step, limit: Limit, start: float, highest: float = MAX_RATE) -> float | None:
    """Return the highest rate that held, None where none did.

    Args:
        step: Measures at one rate; every measurement is the caller's to keep.
        limit: What "held" means.
        start: The first rate, in requests a second.
        highest: No rate above this is tried.
    """
    held: float | None = None
    broke: float | None = None
    rate = start
    for _ in range(MAX_STEPS):
        summary = await step(rate)
        if limit.holds(summary):
            held = rate
        else:
            broke = rate
        if summary.interrupted or (held and broke and broke <= held * PRECISION):
            break
        next_rate = min(_between(held, broke), highest)
        if next_rate == rate or next_rate < MIN_RATE:
            break
        rate = next_rate
    return held


def _between(held: float | None, broke: float | None) -> float:
    if held is None:
        return (broke or 0.0) / 4.0
    return held * 2.0 if broke is None else (held * broke) ** 0.5
