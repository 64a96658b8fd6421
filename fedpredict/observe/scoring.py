"""What a participant counts: shares by caller and model, rows by status; and what any party's store holds."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from typing_extensions import override

from fedpredict.model.arrays import Statuses
from fedpredict.model.share import SampleStatus
from fedpredict.observe import metrics
from fedpredict.observe.counting import Distribution, Family, Reading, Source, Tally, distributions, tallies
from fedpredict.observe.metrics import UNKNOWN, Outcome

_OK = bytes([SampleStatus.OK])


class Scores:
    """Shares of one caller and model."""

    __slots__ = ("_ok", "_open", "_open_rows", "_seconds")

    def __init__(
        self, open_seconds: Callable[[Outcome], Distribution], open_rows: Callable[[SampleStatus], Tally]
    ) -> None:
        self._open = open_seconds
        self._open_rows = open_rows
        self._seconds: dict[Outcome, Distribution] = {}
        self._ok = open_rows(SampleStatus.OK)

    def done(self, seconds: float, status: Statuses) -> Outcome:
        """Count a share, and return "ok" where every row has a number, else "partial".

        Args:
            seconds: That it took here.
            status: Shape (n_samples,), of the share.
        """
        rows = status.tobytes()
        scored = rows.count(_OK)
        self._ok.value += scored
        if scored == len(rows):
            self._count("ok", seconds)
            return "ok"
        self._count("partial", seconds)
        for code, times in enumerate(np.bincount(status).tolist()):
            if times and code != SampleStatus.OK:
                self._open_rows(SampleStatus(code)).value += times
        return "partial"

    def done_in_full(self, seconds: float, n_rows: int) -> None:
        """Count a share of which every row has a number, as `done` does.

        Args:
            seconds: That it took here.
            n_rows: Its rows.
        """
        self._ok.value += n_rows
        self._count("ok", seconds)

    def failed(self, outcome: Outcome, seconds: float) -> None:
        """Count a request that got no share; `outcome_of` says the outcome of an error."""
        self._count(outcome, seconds)

    def _count(self, outcome: Outcome, seconds: float) -> None:
        latency = self._seconds.get(outcome)
        if latency is None:
            latency = self._seconds[outcome] = self._open(outcome)
        latency.counts[bisect_left(latency.bounds, seconds)] += 1
        latency.total += seconds


class ParticipantMetrics(Source):
    """All of them, of one process."""

    def __init__(self, callers: Container[str], knows: Callable[[str], bool]) -> None:
        """Begin with nothing.

        Args:
            callers: The parties of the settings; any other counts as unknown.
            knows: Whether a model id is one of this party's; any other counts as unknown.
        """
        self._callers = callers
        self._knows = knows
        self._seconds = distributions(metrics.SCORE_SECONDS)
        self._rows = tallies(metrics.SCORE_ROWS)
        self._scores: dict[tuple[str, str], Scores] = {}
        self._bucket_seconds = distributions(metrics.BUCKET_SECONDS)
        self._bucket_rows = tallies(metrics.BUCKET_ROWS)
        self._buckets: dict[tuple[str, str], Scores] = {}

    def score(self, caller: str, model: str) -> Scores:
        """Return the recorder of a caller and model."""
        found = self._scores.get((caller, model))
        return found or self._scores.setdefault(*self._made(caller, model, self._seconds, self._rows))

    def bucket(self, caller: str, model: str) -> Scores:
        """Return the recorder of a caller's offline tasks about a model."""
        found = self._buckets.get((caller, model))
        return found or self._buckets.setdefault(*self._made(caller, model, self._bucket_seconds, self._bucket_rows))

    def _made(
        self, caller: str, model: str, seconds: Family[Distribution], rows: Family[Tally]
    ) -> tuple[tuple[str, str], Scores]:
        who = caller if caller in self._callers else UNKNOWN
        what = model if self._knows(model) else UNKNOWN
        made = Scores(
            lambda outcome: seconds.child(who, what, outcome),
            lambda status: rows.child(who, what, status.name.lower()),
        )
        return (who, what), made

    @override
    def read(self) -> Iterable[Reading]:
        """Return everything, in the order of the declarations."""
        yield self._seconds.reading()
        yield self._rows.reading()
        yield self._bucket_seconds.reading()
        yield self._bucket_rows.reading()


class _NoScores(Scores):
    @override
    def done(self, seconds: float, status: Statuses) -> Outcome:
        rows = status.tobytes()
        return "ok" if rows.count(_OK) == len(rows) else "partial"

    @override
    def done_in_full(self, seconds: float, n_rows: int) -> None:
        pass

    @override
    def failed(self, outcome: Outcome, seconds: float) -> None:
        pass


class _NoParticipantMetrics(ParticipantMetrics):
    def __init__(self) -> None:
        super().__init__((), lambda _: False)
        self._none = _NoScores(lambda _: Distribution(()), lambda _: Tally())

    @override
    def score(self, caller: str, model: str) -> Scores:
        return self._none

    @override
    def bucket(self, caller: str, model: str) -> Scores:
        return self._none


NO_PARTICIPANT_METRICS: ParticipantMetrics = _NoParticipantMetrics()
"""Counts nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreReading:
    """What a store holds of one view version.

    Attributes:
        view: The feature view.
        view_version: Its version.
        instant: The snapshot's, in seconds since 1970 UTC.
        rows: Sample ids in it; None where the store does not say.
        n_bytes: That it takes, in memory or mapped; None where the store does not say.
        loaded_at: When it was loaded, in seconds since 1970 UTC; None where the store does not say.
    """

    view: str
    view_version: int
    instant: float
    rows: int | None = None
    n_bytes: int | None = None
    loaded_at: float | None = None


class StoreMetrics(Source):
    """Asks a store when the page is read."""

    def __init__(self, look: Callable[[], Iterable[StoreReading]] = tuple) -> None:
        self.look = look
        """Asked when the page is read; whoever opens a store puts its own function here."""

    @override
    def read(self) -> Iterable[Reading]:
        """Return age, rows, bytes and time of loading of every view version."""
        now = time.time()
        found = [((each.view, str(each.view_version)), each) for each in self.look()]
        yield Reading(metrics.STORE_AGE_SECONDS, [(view, max(0.0, now - each.instant)) for view, each in found])
        yield Reading(metrics.STORE_ROWS, [(view, each.rows) for view, each in found if each.rows is not None])
        yield Reading(metrics.STORE_BYTES, [(view, each.n_bytes) for view, each in found if each.n_bytes is not None])
        yield Reading(
            metrics.STORE_LOADED, [(view, each.loaded_at) for view, each in found if each.loaded_at is not None]
        )


@dataclass(frozen=True, slots=True)
class DistinctReading:
    """How many distinct sample ids a caller asked about today, of how many that it may."""

    caller: str
    used: int
    limit: int


class DistinctMetrics(Source):
    """Asks what keeps the limits when the page is read."""

    def __init__(self, look: Callable[[], Sequence[DistinctReading]]) -> None:
        self._look = look

    @override
    def read(self) -> Iterable[Reading]:
        """Return both of every caller with a limit."""
        found = self._look()
        yield Reading(metrics.DISTINCT_IDS, [((each.caller,), each.used) for each in found])
        yield Reading(metrics.DISTINCT_IDS_LIMIT, [((each.caller,), each.limit) for each in found])


class ScheduleMetrics(Source):
    """How scheduled runs of this process ended."""

    def __init__(self) -> None:
        self._runs = tallies(metrics.SCHEDULE_RUNS)

    def ended(self, job: str, outcome: str) -> None:
        """Count a run of one of the settings' jobs."""
        self._runs.child(job, outcome).value += 1

    @override
    def read(self) -> Iterable[Reading]:
        """Return the counts."""
        yield self._runs.reading()
