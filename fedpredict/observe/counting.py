"""Plain numbers that a hot path adds to, and that are read when Prometheus asks (ADR 0015).

There are no locks: an addition to a slot or list item has no call in it, and CPython hands the GIL over only at calls
and loops. A reader may see a count whose sum comes a moment later, which no rate notices.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeAlias, TypeVar

from typing_extensions import override

from fedpredict.observe.metrics import UNKNOWN, Metric

MAX_CHILDREN = 2_000
"""Label sets of one metric; what comes after them counts under `UNKNOWN`, so that a page never grows without end."""


class Tally:
    """A number that is added to, or set."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0.0


class Distribution:
    """How often each bucket was hit, and the sum."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        """Begin with nothing; the last of the counts is for what is above every bound."""
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Count `value`; hot paths write these two lines themselves."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value


Value: TypeAlias = float | Distribution


@dataclass(frozen=True, slots=True)
class Reading:
    """One metric at one moment: values of labels, in the declaration's order, and what is counted under them."""

    metric: Metric
    values: Sequence[tuple[tuple[str, ...], Value]]


class Source(Protocol):
    """Something whose metrics go to the page."""

    def read(self) -> Iterable[Reading]:
        """Return what is counted at this moment, a reading per metric."""


class Together(Source):
    """Several sources as one."""

    def __init__(self, *sources: Source | None) -> None:
        """Put sources together; None is none."""
        self._sources = tuple(each for each in sources if each is not None)

    @override
    def read(self) -> Iterable[Reading]:
        for each in self._sources:
            yield from each.read()


T = TypeVar("T", bound=Tally | Distribution)


class Family(Generic[T]):
    """One metric's numbers, by the values of its labels."""

    def __init__(self, metric: Metric, make: Callable[[], T]) -> None:
        self.metric = metric
        self._make = make
        self._children: dict[tuple[str, ...], T] = {}

    def child(self, *labels: str) -> T:
        """Return the number of these labels, to be kept and added to; the same one every time."""
        found = self._children.get(labels)
        if found is not None:
            return found
        if len(self._children) >= MAX_CHILDREN:
            labels = (UNKNOWN,) * len(labels)
        return self._children.setdefault(labels, self._make())

    def __iter__(self) -> Iterator[tuple[tuple[str, ...], T]]:
        return iter(tuple(self._children.items()))

    def reading(self) -> Reading:
        """Return all of its numbers."""
        values = [(labels, child.value if isinstance(child, Tally) else child) for labels, child in self]
        return Reading(self.metric, values)


def tallies(metric: Metric) -> Family[Tally]:
    """Return a family of counters or gauges."""
    return Family(metric, Tally)


def distributions(metric: Metric) -> Family[Distribution]:
    """Return a family of histograms."""
    return Family(metric, lambda: Distribution(metric.bounds))


def one(metric: Metric, value: Value, *labels: str) -> Reading:
    """Return the reading of a metric with a single value."""
    return Reading(metric, ((labels, value),))
