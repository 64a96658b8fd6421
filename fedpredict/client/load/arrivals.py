"""When requests are due, decided before the first is sent: nothing that the server does moves them."""

from __future__ import annotations

from enum import StrEnum

import numpy as np

from fedpredict.errors import InputError
from fedpredict.model.arrays import Floats

MAX_RATE = 200_000.0
MAX_REQUESTS = 5_000_000
"""Of one run: what is kept of each takes 17 bytes."""


class Arrival(StrEnum):
    """How requests come."""

    POISSON = "poisson"
    """As from many people who know nothing of each other: the gaps are exponential."""
    CONSTANT = "constant"
    """Evenly spaced."""


def highest_rate(duration_s: float) -> float:
    """Return the highest rate that can be measured for so long, in requests a second."""
    return min(MAX_RATE, MAX_REQUESTS / duration_s)


def due_times(arrival: Arrival, rate: float, duration_s: float, seed: int) -> Floats:
    """Return the seconds from the start at which requests are due, ascending, all below `duration_s`.

    Args:
        arrival: How they come.
        rate: Requests a second.
        duration_s: How long they come.
        seed: Of the gaps; the same seed gives the same times.

    Raises:
        InputError: There would be too many, or the rate is out of range; it says what is allowed.

    >>> due_times(Arrival.CONSTANT, 4.0, 1.0, seed=0)
    array([0.  , 0.25, 0.5 , 0.75])
    """
    if not 0.0 < rate <= MAX_RATE:
        raise InputError(f"a rate of {rate:g} requests a second; allowed: above 0, at most {MAX_RATE:,.0f}")
    if rate > highest_rate(duration_s):
        raise InputError(
            f"{rate:g} requests a second for {duration_s:g} s are {rate * duration_s:,.0f}; at most "
            f"{MAX_REQUESTS:,} in one run: shorten it, or lower the rate"
        )
    if arrival is Arrival.CONSTANT:
        return np.arange(int(np.ceil(rate * duration_s - 1e-9))) / rate
    random = np.random.default_rng(seed)
    mean = rate * duration_s
    count = int(mean + 8.0 * np.sqrt(mean) + 16.0)  # beyond what chance needs
    times = np.cumsum(random.exponential(1.0 / rate, count))
    return times[times < duration_s]
