"""How scores are distributed, by bins, and how far that is from how they were distributed before."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

N_BINS = 32
"""The inner bins; there is one more below them and one above."""
_SPREAD = 4.0
"""The inner bins reach so many standard deviations to both sides of the mean."""
_GROUPS = 10
_LEAST = 1e-4
"""What a group that has no scores counts as, so that the index stays finite."""
_LEAST_LEFT = 0.75
"""What must be left of the share of ids that had scores before; less is told."""


def bins_around(mean: float, deviation: float) -> tuple[float, float]:
    """Return where the inner bins begin, and the width of each.

    >>> bins_around(1.0, 2.0)
    (-7.0, 0.5)
    """
    spread = _SPREAD * deviation
    if not (spread > abs(mean) * 1e-9 and math.isfinite(spread)):
        spread = max(abs(mean) * 1e-6, 1e-6)
    return mean - spread, 2.0 * spread / N_BINS


def stability_index(before: Sequence[int], now: Sequence[int]) -> float | None:
    """Return the population stability index of two histograms over the same bins; None where one is empty.

    Bins are joined to about ten groups that had the same number of scores before. Below 0.1 little has changed; above
    0.25 much has. That one is empty is for `scored_warnings` to tell.

    >>> stability_index([10, 10, 10], [20, 20, 20]), stability_index([], [])
    (0.0, None)
    >>> round(stability_index([50, 50], [90, 10]), 3)
    0.879
    """
    old, new = np.asarray(before, dtype=np.float64), np.asarray(now, dtype=np.float64)
    if len(old) != len(new) or not old.sum() or not new.sum():
        return None
    # the bin that takes the sum past a tenth ends a group
    passed = np.floor((np.cumsum(old) - 0.5 * old) / old.sum() * _GROUPS)
    starts = np.flatnonzero(np.concatenate([[True], passed[1:] != passed[:-1]]))
    shares = [np.maximum(np.add.reduceat(each, starts) / each.sum(), _LEAST) for each in (old, new)]
    return float(((shares[1] - shares[0]) * np.log(shares[1] / shares[0])).sum())


def scored_warnings(scored: int, ids: int, before: tuple[int, int] | None, since: str) -> list[str]:
    """Return warnings where few of the ids that were asked about have scores; a histogram says nothing of the others.

    Args:
        scored: Ids that have a score.
        ids: All that were asked about.
        before: The same two numbers of what is compared with; None: there is nothing.
        since: What that is, for people.

    >>> scored_warnings(74, 100, (10, 10), "task t")
    ['74 of 100 ids have a score, 74.0 %; of task t it was 100.0 %']
    >>> scored_warnings(75, 100, (10, 10), "task t"), scored_warnings(0, 10, None, "")
    ([], ['none of the 10 ids has a score'])
    """
    if not ids:
        return []
    was = before[0] / before[1] if before is not None and before[1] else 0.0
    if scored / ids < _LEAST_LEFT * was:
        return [f"{scored} of {ids} ids have a score, {100 * scored / ids:.1f} %; of {since} it was {100 * was:.1f} %"]
    return [] if scored else [f"none of the {ids} ids has a score"]
