"""A party's part of a linear model: parameters as arrays, features -> partial scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextvars import Context
from dataclasses import dataclass, field

import numpy as np

from fedpredict.model.arrays import Floats, Statuses
from fedpredict.model.part import Family, statuses_of_numbers
from fedpredict.model.share import SampleStatus, all_ok_statuses

_FEW_WEIGHTS = 1_000
"""Of larger parts, copying the weights of many side by side takes longer than a product each."""
_QUIET = Context()
_QUIET.run(np.seterr, over="ignore", invalid="ignore", divide="ignore")
"""Where numpy does not warn of overflows; `np.errstate` does the same, and takes two microseconds each time."""


@dataclass(frozen=True, slots=True, eq=False)
class LinearPart:
    """The weights of one party's features, with whatever preprocessing there was folded in.

    Attributes:
        features: The feature names, in the order of the rows of `weights`.
        weights: Shape (n_features, n_scores), in raw score per unit of feature.
        intercept: Shape (n_scores,), or None where another party holds the intercept or the model has none.
        constant: Shape (n_scores,): what folded preprocessing leaves behind; any party may have one.
        exposure: The feature that enters every score by its natural logarithm, with weight 1; it must be above zero.
    """

    features: tuple[str, ...]
    weights: Floats
    intercept: Floats | None
    constant: Floats
    exposure: str | None = None
    offset: Floats = field(init=False)
    """What is added to every sample: the constant, and the intercept where this party holds it; shape (n_scores,)."""
    _first_offset: float = field(init=False)
    _exposure: int = field(init=False)
    """The column of the exposure; negative where there is none."""

    def __post_init__(self) -> None:
        if self.weights.ndim != 2 or self.weights.shape[0] != len(self.features):
            raise ValueError(f"weights of shape {self.weights.shape} for {len(self.features)} features")
        if len(set(self.features)) != len(self.features):
            raise ValueError("repeated feature names")
        for name, vector in (("intercept", self.intercept), ("constant", self.constant)):
            if vector is not None and vector.shape != (self.n_scores,):
                raise ValueError(f"{name} of shape {vector.shape} for {self.n_scores} outputs")
        for name, numbers in (
            ("a weight", self.weights),
            ("the intercept", self.intercept),
            ("a constant", self.constant),
        ):
            if numbers is not None and not np.isfinite(numbers).all():
                raise ValueError(f"{name} is NaN or infinite")
        object.__setattr__(self, "_exposure", self._column_of_exposure())
        with np.errstate(over="ignore"):  # samples get OUT_OF_RANGE then
            offset = self.constant if self.intercept is None else self.intercept + self.constant
        object.__setattr__(self, "offset", offset)
        object.__setattr__(self, "_first_offset", float(offset[0]) if len(offset) else 0.0)

    def _column_of_exposure(self) -> int:
        if self.exposure is None:
            return -1
        if self.exposure not in self.features:
            raise ValueError(f"the exposure {self.exposure[:100]!a} is none of the features")
        column = self.features.index(self.exposure)
        if (self.weights[column] != 1.0).any():
            raise ValueError(f"the exposure {self.exposure[:100]!a} has a weight other than 1")
        return column

    @property
    def family(self) -> Family:
        """Linear."""
        return Family.LINEAR

    @property
    def categories(self) -> Mapping[str, tuple[str, ...]]:
        """None: every feature is a number."""
        return {}

    @property
    def n_scores(self) -> int:
        """The number of partial scores per sample."""
        return int(self.weights.shape[1])

    @property
    def n_bytes(self) -> int:
        """The memory that its arrays take."""
        return self.weights.nbytes + 2 * self.constant.nbytes + (0 if self.intercept is None else self.intercept.nbytes)

    def statuses(self, features: Floats) -> Statuses | None:
        """Return why samples cannot be scored, as `Part.statuses`: every feature must be a finite number.

        An exposure that is not above zero is invalid, as it has no logarithm.
        """
        status = statuses_of_numbers(features)
        if self._exposure < 0:
            return status
        with np.errstate(invalid="ignore"):
            without_log = features[:, self._exposure] <= 0.0
        if without_log.any():
            status = all_ok_statuses(len(features)) if status is None else status
            status[without_log] = SampleStatus.FEATURE_INVALID
        return status

    def scores_and_statuses(self, features: Floats) -> tuple[Floats, Statuses | None]:
        """Return scores and statuses, as `Part.scores_and_statuses`."""
        return self.partial_scores(features), self.statuses(features)

    def magnitudes(self, features: Floats) -> Floats:
        """Return the sum of the absolute terms of each score, as `Part.magnitudes`."""
        with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
            if self._exposure >= 0:
                features = self._with_logarithm(features)
            return np.asarray(np.abs(features) @ np.abs(self.weights) + np.abs(self.offset), dtype=np.float64)

    def partial_scores(self, features: Floats) -> Floats:
        """Return this party's share of the raw score.

        Args:
            features: Shape (n_samples, n_features), this party's columns in the order of `self.features`, as they
                stand in the feature table (unscaled). NaN and infinities go through, and an overflow becomes one,
                without a warning; the caller gives a status.

        Returns:
            Shape (n_samples, n_scores), before the link, in the order of `features`.

        Raises:
            ValueError: The number of columns is not the number of weights.

        >>> part = LinearPart(("a", "b"), np.array([[0.5], [-0.25]]), np.array([0.1]), np.zeros(1))
        >>> part.partial_scores(np.array([[1.0, 2.0]]))
        array([[0.1]])
        """
        if features.ndim != 2 or features.shape[1] != len(self.features):
            raise ValueError(f"features of shape {features.shape} for {len(self.features)} weights")
        return _QUIET.copy().run(self._partial_scores, features)

    def _with_logarithm(self, features: Floats) -> Floats:
        """Return a copy in which the exposure is its logarithm; not finite where that is none, warnings aside."""
        features = features.copy()
        features[:, self._exposure] = np.log(features[:, self._exposure])
        return features

    def _partial_scores(self, features: Floats) -> Floats:
        if self._exposure >= 0:
            features = self._with_logarithm(features)
        scores: Floats = features.dot(self.weights)  # as `features @ self.weights`, in half the time for one row
        if scores.size == 1:  # plain Python adds two numbers five times as fast
            scores[0, 0] = scores.item() + self._first_offset
        else:
            scores += self.offset
        return scores


def partial_scores_of(parts: Sequence[LinearPart], n_rows: Sequence[int], features: Floats) -> Floats:
    """Return the shares of several parts that have the same features, each for rows of its own.

    Args:
        parts: All of one width and without an exposure.
        n_rows: How many rows each has, in the order of `features`.
        features: Shape (sum of `n_rows`, n_features), as for `LinearPart.partial_scores`.

    Returns:
        Shape (sum of `n_rows`, n_scores).

    Raises:
        ValueError: The number of columns is not that of a part's weights, or a part has an exposure.
    """
    if any(features.shape[1] != len(part.features) or part.exposure is not None for part in parts):
        raise ValueError(f"features of shape {features.shape} for parts with other features, or with an exposure")
    return _QUIET.copy().run(_partial_scores_of, parts, n_rows, features)


def _partial_scores_of(parts: Sequence[LinearPart], n_rows: Sequence[int], features: Floats) -> Floats:
    if len(parts) == len(features) and parts[0].weights.size <= _FEW_WEIGHTS:  # one row each: one product of all
        scores: Floats = np.einsum("nf,nfk->nk", features, np.array([part.weights for part in parts]))
        scores += np.array([part.offset for part in parts])
        return scores
    scores = np.empty((len(features), parts[0].n_scores))
    start = 0
    for part, n_own in zip(parts, n_rows, strict=True):
        own = slice(start, start + n_own)
        np.dot(features[own], part.weights, out=scores[own])
        scores[own] += part.offset
        start += n_own
    return scores
