"""A party's part of a scorecard: points for the bin that each feature falls into, and where points were lost."""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from fedpredict.model.arrays import Floats, Statuses
from fedpredict.model.part import Family
from fedpredict.model.share import SampleStatus, all_ok_statuses

MAX_REASONS = 20
MAX_REASON = 200
"""Characters of a reason code. Codes may travel with every answer, so both are bounded where a model enters."""

_FEW = 16
"""Values that are looked up one by one."""

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
    _few: tuple[list[float], list[float]] = field(init=False, repr=False)
    """The same two as lists: for a few values plain Python takes a twentieth of numpy's time."""

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
        object.__setattr__(self, "_few", (starts, points))
        object.__setattr__(self, "_starts", np.array(starts, dtype=np.float64))
        object.__setattr__(self, "_points", np.array(points, dtype=np.float64))

    @property
    def best(self) -> float:
        """The most points that a sample can get here."""
        return max(self._all_points())

    @property
    def n_bytes(self) -> int:
        """The memory of its arrays."""
        return self._starts.nbytes + self._points.nbytes

    def points(self, values: Floats) -> Floats:
        """Return the points of values, shape (n_samples,); NaN where a value is not scored. An infinity gets any."""
        if_missing = math.nan if self.missing is None else self.missing
        if len(values) <= _FEW:
            starts, of_bins = self._few
            return np.array(
                [
                    if_missing if value != value else of_bins[bisect.bisect_right(starts, value)]  # noqa: PLR0124
                    for value in values.tolist()
                ]
            )
        points = self._points[np.searchsorted(self._starts, values, side="right")]
        points[np.isnan(values)] = if_missing
        return np.asarray(points, dtype=np.float64)


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
        """The memory that its arrays take."""
        return sum(each.n_bytes for each in self.scored) + self._by_name.nbytes + self._best.nbytes

    def partial_scores(self, features: Floats) -> Floats:
        """Return the sum of the points in the order of the features, and the base points; as `Part.partial_scores`."""
        return self._total(self._points(features))

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
        return _statuses_of(features, self._points(features))

    def scores_and_statuses(self, features: Floats) -> tuple[Floats, Statuses | None]:
        """Return scores and statuses of points that are looked up once, as `Part.scores_and_statuses`."""
        points = self._points(features)
        return self._total(points), _statuses_of(features, points)

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

    def _total(self, points: Floats) -> Floats:
        total = np.zeros(len(points))
        with np.errstate(over="ignore", invalid="ignore"):
            for column in points.T:
                total += column
            return (total + (0.0 if self.intercept is None else self.intercept.item()))[:, None]

    def _points(self, features: Floats) -> Floats:
        """Return each feature's points, shape (n_samples, n_features); NaN where a value is not scored."""
        if features.ndim != 2 or features.shape[1] != len(self.scored):
            raise ValueError(f"features of shape {features.shape} for {len(self.scored)} features")
        if not self.scored:
            return np.zeros((len(features), 0))
        return np.column_stack([each.points(column) for each, column in zip(self.scored, features.T, strict=True)])


def _statuses_of(features: Floats, points: Floats) -> Statuses | None:
    """Return why samples cannot be scored, by their values and the points of each; None where all can."""
    unscored = np.isnan(points)
    infinite = np.isinf(features)
    if not (unscored.any() or infinite.any()):
        return None
    missing = np.isnan(features)
    status = all_ok_statuses(len(features))
    status[(unscored & missing).any(axis=1)] = SampleStatus.FEATURE_MISSING
    status[((unscored & ~missing) | infinite).any(axis=1)] = SampleStatus.FEATURE_INVALID
    return status
