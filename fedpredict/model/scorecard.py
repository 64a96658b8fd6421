"""A party's part of a scorecard: points for the bin that each feature falls into, and where points were lost."""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from fedpredict.model.arrays import Bools, Floats, Statuses, count_up_to
from fedpredict.model.part import Family, statuses_of_numbers
from fedpredict.model.share import SampleStatus, all_ok_statuses

MAX_REASONS = 20
MAX_REASON = 200
"""Characters of a reason code. Codes may travel with every answer, so both are bounded where a model enters."""

_FEW = 8
"""Samples whose values are looked up one by one."""
_FEW_STARTS = 512
"""Of so many bins at most that is prepared: as lists they take four times the memory."""
_OF_FEATURE, _OF_INTERVAL, _OF_TEXT, _OF_START = 600, 168, 200, 40
"""Bytes of Python objects: a feature's, a bin's, a text's, and those of each start that is also in a list."""

Positions = NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Interval:
    """Points for the numbers between two bounds.

    Attributes:
        points: What such a number gets.
        low: The lower bound; minus infinity for none.
        high: The upper bound; infinity for none.
        low_closed: Whether `low` itself belongs to it.
        high_closed: Whether `high` itself belongs to it.
    """

    points: float
    low: float = -math.inf
    high: float = math.inf
    low_closed: bool = True
    high_closed: bool = False

    @property
    def ends(self) -> tuple[float, float]:
        """The least and the largest float64 in it: what is above an open bound is at least the next number."""
        low = self.low if self.low_closed else math.nextafter(self.low, math.inf)
        high = self.high if self.high_closed else math.nextafter(self.high, -math.inf)
        return (-math.inf if self.low == -math.inf else low), (math.inf if self.high == math.inf else high)


@dataclass(frozen=True, slots=True, eq=False)
class FeaturePoints:
    """The points of one feature: of intervals for a number, of texts for a text.

    Attributes:
        name: The feature.
        intervals: In rising order, none overlapping another; empty for a text.
        texts: Text -> points, in the order of their codes; empty for a number.
        missing: What a missing value gets; None: the sample is not scored.
        outside: What a value in no bin gets; None: the sample is not scored.
        reason: The code that tells of points lost here; empty: the feature's name does.
    """

    name: str
    intervals: tuple[Interval, ...] = ()
    texts: Mapping[str, float] = field(default_factory=dict)
    missing: float | None = None
    outside: float | None = None
    reason: str = ""
    _starts: Floats = field(init=False, repr=False)
    """Where a bin begins, or what is between two; rising. Texts are their codes."""
    _points: Floats = field(init=False, repr=False)
    """Of what is below the first start, and from each of them on; NaN where the sample is not scored."""
    _few: tuple[list[float], list[float], float] | None = field(init=False, repr=False)
    """The same two as lists, and what a missing value gets: for a few values plain Python takes a twentieth of numpy's
    time. None where they are many."""

    def __post_init__(self) -> None:
        if bool(self.intervals) == bool(self.texts):
            raise ValueError(f"feature {self.name[:100]!a} needs either intervals or texts with points")
        if len(self.reason) > MAX_REASON or (self.reason and not self.reason.isprintable()):
            raise ValueError(f"the reason code of {self.name[:100]!a} is not up to {MAX_REASON} printable characters")
        if not all(map(math.isfinite, self._all_points())):
            raise ValueError(f"points of {self.name[:100]!a} are NaN or infinite")
        ends = [each.ends for each in self.intervals] or [(float(code), float(code)) for code in range(len(self.texts))]
        if not all(first <= last for first, last in ends):  # NaN as well
            raise ValueError(f"an interval of {self.name[:100]!a} holds no number")
        if not all(last < first for (_, last), (first, _) in itertools.pairwise(ends)):
            raise ValueError(f"the intervals of {self.name[:100]!a} overlap, or do not rise")
        self._lay_out(ends)

    def _all_points(self) -> list[float]:
        bins = [each.points for each in self.intervals] or list(self.texts.values())
        return bins + [each for each in (self.outside, self.missing) if each is not None]

    def _lay_out(self, ends: list[tuple[float, float]]) -> None:
        """Cut the line of numbers at the ends of the bins; what no bin holds is outside."""
        outside = math.nan if self.outside is None else self.outside
        starts: list[float] = []
        points = [outside]
        for (first, last), of_bin in zip(ends, self._all_points(), strict=False):
            if starts and starts[-1] == first:  # nothing lies between this bin and the one before
                points[-1] = of_bin
            else:
                starts.append(first)
                points.append(of_bin)
            starts.append(math.nextafter(last, math.inf))
            points.append(outside)
        if_missing = math.nan if self.missing is None else self.missing
        object.__setattr__(self, "_few", (starts, points, if_missing) if len(starts) <= _FEW_STARTS else None)
        object.__setattr__(self, "_starts", np.array(starts, dtype=np.float64))
        object.__setattr__(self, "_points", np.array(points, dtype=np.float64))

    @property
    def best(self) -> float:
        """The most points that a sample can get here."""
        return max(self._all_points())

    @property
    def has_gaps(self) -> bool:
        """Whether there are finite values that are not scored."""
        edges = np.concatenate([[-np.inf], self._starts, [np.inf]])
        return bool((np.isnan(self._points) & (edges[:-1] < edges[1:])).any())

    @property
    def few(self) -> tuple[list[float], list[float], float] | None:
        """Where bins begin, the points before and from each of them on, and of a missing value; None for many bins."""
        return self._few

    @property
    def n_bytes(self) -> int:
        """The memory of its arrays, and about that of its Python objects, which are most of it."""
        few = _OF_START * len(self._starts) if self._few is not None else 0
        bins = _OF_INTERVAL * len(self.intervals) + _OF_TEXT * len(self.texts)
        return self._starts.nbytes + self._points.nbytes + few + bins + _OF_FEATURE

    def points(self, values: Floats) -> Floats:
        """Return the points of values, shape (n_samples,); NaN where a value is not scored. An infinity gets any."""
        points = self._points.take(count_up_to(self._starts, values))
        points[np.isnan(values)] = math.nan if self.missing is None else self.missing
        return points


@dataclass(frozen=True, slots=True, eq=False)
class ScorecardPart:
    """The points of one party's features.

    Attributes:
        scored: Each feature's points, in the order of the columns.
        intercept: Shape (1,): the base points, or None where another party holds them or there are none.
        n_reasons: The largest losses of points that go to the initiator with a sample's share; 0: none do.
    """

    scored: tuple[FeaturePoints, ...]
    intercept: Floats | None
    n_reasons: int = 0
    features: tuple[str, ...] = field(init=False)
    """The feature names, in the order of the columns."""
    _by_name: Positions = field(init=False, repr=False)
    _best: Floats = field(init=False, repr=False)
    _may_miss: Bools = field(init=False, repr=False)
    """Shape (n_features,): which have points for a missing value."""
    _with_gaps: tuple[int, ...] = field(init=False, repr=False)
    """The features that have values without points."""
    _few: tuple[tuple[list[float], list[float], float], ...] | None = field(init=False, repr=False)
    """`FeaturePoints.few` of each; None where one has none."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "features", tuple(each.name for each in self.scored))
        if len(set(self.features)) != len(self.features):
            raise ValueError("repeated feature names")
        if self.intercept is not None and (self.intercept.shape != (1,) or not np.isfinite(self.intercept).all()):
            raise ValueError("base points that are not one finite number")
        if not 0 <= self.n_reasons <= MAX_REASONS:
            raise ValueError(f"{self.n_reasons} reasons a sample; 0 to {MAX_REASONS} are allowed")
        by_name = sorted(range(len(self.features)), key=lambda at: self.features[at])
        object.__setattr__(self, "_by_name", np.array(by_name, dtype=np.intp))
        object.__setattr__(self, "_best", np.array([each.best for each in self.scored], dtype=np.float64))
        may_miss = np.array([each.missing is not None for each in self.scored], dtype=np.bool_)
        object.__setattr__(self, "_may_miss", may_miss)
        object.__setattr__(self, "_with_gaps", tuple(at for at, each in enumerate(self.scored) if each.has_gaps))
        few = [each.few for each in self.scored if each.few is not None]
        object.__setattr__(self, "_few", tuple(few) if len(few) == len(self.scored) else None)

    @property
    def family(self) -> Family:
        """Scorecard."""
        return Family.SCORECARD

    @property
    def categories(self) -> Mapping[str, tuple[str, ...]]:
        """For each text feature, the texts that have points, in the order of their codes."""
        return {each.name: tuple(each.texts) for each in self.scored if each.texts}

    @property
    def n_scores(self) -> int:
        """One: the total of points."""
        return 1

    @property
    def n_bytes(self) -> int:
        """The memory that it takes, by measured averages for what is no array."""
        return sum(each.n_bytes for each in self.scored) + self._by_name.nbytes + self._best.nbytes

    def partial_scores(self, features: Floats) -> Floats:
        """Return the sum of the points in the order of the features, and the base points; as `Part.partial_scores`."""
        self._check(features)
        base = 0.0 if self.intercept is None else self.intercept.item()
        if len(features) <= _FEW and self._few is not None:
            return np.array([[_total(self._few, row) + base] for row in features.tolist()]).reshape(-1, 1)
        total = np.zeros(len(features))
        with np.errstate(over="ignore", invalid="ignore"):
            for each, column in zip(self.scored, features.T, strict=True):
                total += each.points(np.ascontiguousarray(column))
            total += base
        return total[:, None]

    def magnitudes(self, features: Floats) -> Floats:
        """Return the sum of the absolute points, as `Part.magnitudes`."""
        with np.errstate(over="ignore", invalid="ignore"):
            total = np.abs(self._points(features)).sum(axis=1, keepdims=True)
            return np.asarray(total + (0.0 if self.intercept is None else abs(self.intercept.item())))

    def statuses(self, features: Floats) -> Statuses | None:
        """Return why samples cannot be scored, as `Part.statuses`.

        An infinite value is invalid, and so is one in no bin where there are no points for that; a missing one without
        points for that is missing.
        """
        return self.scores_and_statuses(features)[1]

    def scores_and_statuses(self, features: Floats) -> tuple[Floats, Statuses | None]:
        """Return scores and statuses, as `Part.scores_and_statuses`: a value in no bin shows in the score."""
        scores = self.partial_scores(features)
        status = statuses_of_numbers(features, self._may_miss)
        if not self._with_gaps or not np.isnan(scores).any():
            return scores, status
        for place in self._with_gaps:
            values = features[:, place]
            strange = np.isnan(self.scored[place].points(values)) & ~np.isnan(values)
            if strange.any():
                status = all_ok_statuses(len(features)) if status is None else status
                status[strange] = SampleStatus.FEATURE_INVALID
        return scores, status

    def losses(self, features: Floats, count: int) -> tuple[Positions, Floats]:
        """Return where samples lost the most points: the most that a feature can give, less what it gave.

        Args:
            features: Shape (n_samples, n_features).
            count: How many to tell of for each sample.

        Returns:
            Positions of features and their losses, both of shape (n_samples, count), the largest loss first, of equal
            ones by the feature's name. A position is -1 and its loss 0.0 where no more was lost, and where the value is
            not scored.
        """
        lost = np.nan_to_num(self._best - self._points(features), nan=0.0)[:, self._by_name]
        order = np.argsort(-lost, axis=1, kind="stable")[:, :count]
        found = np.take_along_axis(lost, order, axis=1)
        positions = np.where(found > 0.0, self._by_name[order], -1)
        padding = ((0, 0), (0, count - positions.shape[1]))
        return np.pad(positions, padding, constant_values=-1), np.pad(found, padding)

    def reason_of(self, position: int) -> str:
        """Return the code that tells of points lost at a feature."""
        return self.scored[position].reason or self.scored[position].name

    def _points(self, features: Floats) -> Floats:
        """Return each feature's points, shape (n_samples, n_features); NaN where a value is not scored."""
        self._check(features)
        points = np.empty((len(self.scored), len(features)))
        for own, each, column in zip(points, self.scored, features.T, strict=True):
            own[:] = each.points(np.ascontiguousarray(column))
        return points.T

    def _check(self, features: Floats) -> None:
        if features.ndim != 2 or features.shape[1] != len(self.scored):
            raise ValueError(f"features of shape {features.shape} for {len(self.scored)} features")


def _total(features: Iterable[tuple[list[float], list[float], float]], row: list[float]) -> float:
    total = 0.0
    for (starts, points, if_missing), value in zip(features, row, strict=True):
        total += if_missing if value != value else points[bisect.bisect_right(starts, value)]  # noqa: PLR0124  NaN
    return total
