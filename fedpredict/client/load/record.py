"""What became of every request, and what that says: percentiles, errors by kind, and whether the generator kept up."""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from fedpredict.client.load.histogram import Histogram, histogram_of
from fedpredict.model.arrays import Floats

OK = "ok"
TIMEOUT = "timeout"
LOST = "connection lost"
NO_NUMBER = "no number"
"""Answered, but at least one sample of the request has no prediction."""

WAITED = frozenset({OK, NO_NUMBER, TIMEOUT})
"""Whose time counts: answers, and callers who gave up (their time is a lower bound); a quick refusal is no answer."""

LAG_LIMIT_S = 0.005
BUSY_LIMIT = 0.9


class Record:
    """One run as it happens; appended to in the order in which requests end.

    Attributes:
        due: Seconds from the start at which each request was due.
        took: Seconds from then to its end.
        lag: Seconds by which the generator looked at each due request too late.
    """

    def __init__(self) -> None:
        self.due, self.took, self.lag = array("d"), array("d"), array("d")
        self._kind = array("B")
        self._kinds: dict[str, int] = {OK: 0}

    def __len__(self) -> int:
        return len(self.due)

    def add(self, due_s: float, took_s: float, kind: str) -> None:
        """Take down one request.

        Args:
            due_s: When it was due, in seconds from the start.
            took_s: Seconds from then to its end.
            kind: `OK`, or what went wrong, in a word or two.
        """
        self.due.append(due_s)
        self.took.append(took_s)
        # a server that invents statuses must not overflow a byte
        counted = kind if kind in self._kinds or len(self._kinds) < 200 else "other"
        self._kind.append(self._kinds.setdefault(counted, len(self._kinds)))

    def table(self, since_s: float = 0.0) -> Requests:
        """Return the requests that were due at `since_s` or later, as columns."""
        due, took = np.array(self.due, dtype=np.float64), np.array(self.took, dtype=np.float64)
        kinds = np.array(self._kind, dtype=np.uint8)
        kept = due >= since_s
        return Requests(due[kept] - since_s, took[kept], kinds[kept], tuple(self._kinds))

    def recent_ms(self, count: int = 1_000) -> float:
        """Return the 99th percentile of the last `count` requests, in milliseconds, to watch a run by."""
        last = self.took[-count:]
        return float(np.percentile(np.array(last), 99.0)) * 1e3 if last else 0.0

    def failures(self) -> int:
        """Return how many requests were not answered with numbers."""
        return len(self._kind) - self._kind.count(0)


@dataclass(frozen=True, slots=True)
class Requests:
    """Requests as columns.

    Attributes:
        due_s: Seconds from the start of what is measured.
        took_s: Seconds from when it was due to its end.
        kind: Index into `kinds`.
        kinds: What became of them.
    """

    due_s: Floats
    took_s: Floats
    kind: np.typing.NDArray[np.uint8]
    kinds: tuple[str, ...]

    def waited(self) -> Requests:
        """Return those whose time counts: see `WAITED`."""
        counted = [number for number, name in enumerate(self.kinds) if name in WAITED]
        kept = np.isin(self.kind, counted)
        return Requests(self.due_s[kept], self.took_s[kept], self.kind[kept], self.kinds)

    def counts(self) -> dict[str, int]:
        """Return how many there are of each kind that occurred, the most first."""
        found = np.bincount(self.kind, minlength=len(self.kinds))
        pairs = sorted(zip(self.kinds, found.tolist(), strict=True), key=lambda pair: -pair[1])
        return {name: count for name, count in pairs if count}


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """What one run says.

    Attributes:
        asked_per_s: The rate that was asked for; 0: as fast as answers came.
        seconds: How long was measured.
        ok: Requests due in that time that were answered with a number for every sample.
        answered: Such answers that came in that time.
        errors: What went wrong -> how often.
        histogram: Of the times from when requests were due, in microseconds.
        lag_p99_s: How late the generator itself was.
        busy: Part of one processor that the generator used.
        interrupted: It ended before its time.
    """

    asked_per_s: float
    seconds: float
    ok: int
    answered: int
    errors: Mapping[str, int] = field(default_factory=dict)
    histogram: Histogram
    lag_p99_s: float
    busy: float
    interrupted: bool = False

    @property
    def per_s(self) -> float:
        """Answers with numbers a second, as they came: a server that falls behind shows here."""
        return self.answered / self.seconds if self.seconds else 0.0

    @property
    def failed(self) -> int:
        """Requests that were not."""
        return sum(self.errors.values())

    @property
    def generator_limited(self) -> bool:
        """Whether the generator, not the server, may be what is seen here."""
        return self.lag_p99_s > LAG_LIMIT_S or self.busy > BUSY_LIMIT


def summarise(
    record: Record, *, asked_per_s: float, since_s: float, until_s: float, busy: float, interrupted: bool = False
) -> Summary:
    """Return what a record says about the requests that were due between two moments of its run.

    A request that was due in that time and answered after it counts, and its time says how late it was.
    """
    everything = record.table()
    ended = everything.due_s + everything.took_s
    answered = (everything.kind == 0) & (ended >= since_s) & (ended < until_s)
    requests = record.table(since_s)
    counts = requests.counts()
    lag = np.array(record.lag, dtype=np.float64)
    return Summary(
        asked_per_s=asked_per_s,
        seconds=max(until_s - since_s, 0.0),
        ok=counts.pop(OK, 0),
        answered=int(np.count_nonzero(answered)),
        errors=counts,
        histogram=histogram_of(requests.waited().took_s),
        lag_p99_s=float(np.percentile(lag, 99.0)) if len(lag) else 0.0,
        busy=busy,
        interrupted=interrupted,
    )
