"""Two sides measured in turn, in one thread, in processor time; numbers are compared before anything is timed."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from threadpoolctl import threadpool_info, threadpool_limits

from fedpredict.model.arrays import Floats
from fedpredict.model.part import Part

Fields = dict[str, Any]
Scorer = Callable[[Floats], Floats]
"""Features, shape (n_samples, n_features) -> scores or predictions, shape (n_samples,) or (n_samples, n_scores)."""

TOLERANCE = 1e-9
SINGLES = 1_000
"""So many different rows are asked for one by one: a processor learns the path of a row that comes again."""


@dataclass(frozen=True)
class Effort:
    """How much is measured.

    Attributes:
        rounds: How often each side has its turn.
        part: One row of so many is measured.
    """

    rounds: int
    part: int

    def some(self, features: Floats) -> Floats:
        """Return the rows that are measured."""
        return features[: len(features) // self.part]


@dataclass(frozen=True)
class Taken:
    """What two sides took, in seconds of processor time.

    Attributes:
        ours: The least of the rounds.
        theirs: The same.
        ratio: Their least over our least; above 1: ours is faster.
        ratio_median: The median of the rounds' own ratios. Where it is far from `ratio`, the machine was not quiet.
    """

    ours: float
    theirs: float
    ratio: float
    ratio_median: float


def in_turn(rounds: int, *calls: Callable[[], object]) -> list[list[float]]:
    """Return the processor seconds of each call in each round; who is first changes from round to round.

    Whatever libraries have been loaded by then, none has more than one thread.

    Raises:
        RuntimeError: One has.
    """
    taken: list[list[float]] = [[0.0] * rounds for _ in calls]
    with threadpool_limits(1):
        if any(each["num_threads"] > 1 for each in threadpool_info()):
            raise RuntimeError("a library keeps more than one thread")
        for call in calls:
            call()
        for number in range(rounds):
            order = range(len(calls)) if number % 2 == 0 else reversed(range(len(calls)))
            for which in order:
                began = time.process_time()
                calls[which]()
                taken[which][number] = time.process_time() - began
    return taken


def both(rounds: int, ours: Callable[[], object], theirs: Callable[[], object]) -> Taken:
    """Measure two sides in turn."""
    our_times, their_times = in_turn(rounds, ours, theirs)
    pairs = [their / our for our, their in zip(our_times, their_times, strict=True)]
    return Taken(min(our_times), min(their_times), min(their_times) / min(our_times), statistics.median(pairs))


def least(rounds: int, call: Callable[[], object]) -> float:
    """Return the least processor seconds of a call."""
    return min(in_turn(rounds, call)[0])


def each_single(call: Callable[[Floats], object], rows: Floats) -> Callable[[], None]:
    """Return what calls with every row by itself, each a matrix of its own."""
    singles = [row[None].copy() for row in rows]

    def all_singles() -> None:
        for single in singles:
            call(single)

    return all_singles


def one_by_one(rounds: int, call: Callable[[Floats], object], rows: Floats) -> float:
    """Return the least of the rounds of the mean microseconds for one row of the first `SINGLES`."""
    rows = rows[:SINGLES]
    return round(least(rounds, each_single(call, rows)) / len(rows) * 1e6, 1)


def beside(effort: Effort, ours: Scorer, theirs: Scorer, features: Floats, to_reach: float) -> Fields:
    """Measure two sides over all rows.

    Args:
        effort: How much.
        ours: What is held to theirs.
        theirs: The measure.
        features: Of all rows.
        to_reach: The ratio that is wanted, for the reader.

    Returns:
        Milliseconds and ratios; or `problem`, where the numbers differ.
    """
    rows = effort.some(features)
    difference = _difference(ours(rows), theirs(rows))
    if not difference <= TOLERANCE:
        return {"rows": len(rows), "problem": "WRONG", "max_rel": difference}
    taken = both(effort.rounds, lambda: ours(rows), lambda: theirs(rows))
    return {
        "rows": len(rows),
        "ours_ms": round(taken.ours * 1e3, 1),
        "theirs_ms": round(taken.theirs * 1e3, 1),
        "ratio": round(taken.ratio, 2),
        "ratio_median": round(taken.ratio_median, 2),
        "to_reach": to_reach,
        "max_rel": difference,
    }


def one_row(effort: Effort, part: Part, theirs: Scorer, features: Floats, to_reach_us: float = 100.0) -> Fields:
    """Measure one row through a part: what a lone request costs, which is scores and statuses.

    Of theirs a tenth of the rows is asked, because libraries take up to a hundred times as long.
    """
    return {
        "one_row_us": one_by_one(effort.rounds, part.scores_and_statuses, features),
        "scores_us": one_by_one(effort.rounds, part.partial_scores, features),
        "their_one_row_us": one_by_one(effort.rounds, theirs, features[: SINGLES // 10]),
        "to_reach_us": to_reach_us,
    }


def _difference(found: Floats, expected: Floats) -> float:
    """Return the largest difference relative to the largest number; NaN where shapes differ."""
    found, expected = (np.asarray(each, dtype=np.float64).reshape(len(each), -1) for each in (found, expected))
    if found.shape != expected.shape:
        return float("nan")
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def names(count: int) -> tuple[str, ...]:
    """Return names for columns."""
    return tuple(f"f{number}" for number in range(count))


def columns(features: Sequence[Floats]) -> Floats:
    """Return columns side by side."""
    return np.column_stack(features)
