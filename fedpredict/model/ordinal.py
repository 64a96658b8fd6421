"""Cumulative links: class probabilities of ordinal models from one raw score and K - 1 thresholds (McCullagh 1980).

P(y <= k) = F(threshold_k - raw), as in statsmodels' OrderedModel, mord and R's polr: a higher raw score makes higher
classes likelier. A class's probability is a difference of two values of F; it is written as products and exponentials
here, so that it keeps its digits where both values are nearly 0 or nearly 1.

The functions take raw scores of shape (n_samples, 1) and return probabilities of shape (n_samples, K), K being one more
than the thresholds; they are finite for all finite scores.
"""

from __future__ import annotations

import itertools
import math

import numpy as np

from fedpredict.model.arrays import Floats

MAX_THRESHOLDS = 255
"""Thresholds stand in the text of the link, which manifests, messages and tables carry."""


def check_thresholds(numbers: tuple[float, ...]) -> None:
    """Check that numbers are thresholds.

    Raises:
        ValueError: None or too many, one that is not finite, or one that is not above the one before.
    """
    if not 1 <= len(numbers) <= MAX_THRESHOLDS:
        raise ValueError(f"a cumulative link has 1 to {MAX_THRESHOLDS} thresholds, not {len(numbers)}")
    if not all(map(math.isfinite, numbers)):
        raise ValueError("a threshold of a cumulative link is not finite")
    if any(low >= high for low, high in itertools.pairwise(numbers)):
        raise ValueError("the thresholds of a cumulative link do not rise: each must be above the one before")


def cumulative_logit(raw: Floats, *thresholds: float) -> Floats:
    """Return sigmoid(t_k - raw) - sigmoid(t_(k-1) - raw), as sigmoid(a) * sigmoid(-b) * (1 - exp(b - a)).

    >>> cumulative_logit(np.array([[0.0]]), 0.0)
    array([[0.5, 0.5]])
    """
    predictions = np.ones((len(raw), len(thresholds) + 1))
    with np.errstate(over="ignore", under="ignore", divide="ignore"):
        odds = np.exp(np.array(thresholds) - raw)  # one pass of exp for both sigmoids of a threshold
        predictions[:, 1:] /= 1.0 + odds
        np.divide(1.0, odds, out=odds)
        odds += 1.0
        predictions[:, :-1] /= odds
    predictions *= _gaps(thresholds)
    return predictions


def cumulative_cloglog(raw: Floats, *thresholds: float) -> Floats:
    """Return differences of F(x) = 1 - exp(-exp(x)), as exp(-e^b) * (1 - exp(-e^a * (1 - exp(b - a)))).

    >>> cumulative_cloglog(np.array([[0.0]]), 0.0).round(3)
    array([[0.632, 0.368]])
    """
    below, above = _around(raw, thresholds)
    with np.errstate(over="ignore", under="ignore"):
        return np.asarray(np.exp(-np.exp(below)) * -np.expm1(-np.exp(above) * _gaps(thresholds)), dtype=np.float64)


def cumulative_probit(raw: Floats, *thresholds: float) -> Floats:
    """Return differences of the normal distribution function, taken in the tail where both values are small.

    What two thresholds close together cancel is in proportion to that tail, not to 1.

    >>> cumulative_probit(np.array([[0.0]]), 0.0)
    array([[0.5, 0.5]])
    """
    below, above = _around(raw, thresholds)
    with np.errstate(over="ignore"):
        mirrored = below + above > 0.0
    low, high = np.where(mirrored, -above, below), np.where(mirrored, -below, above)
    return np.maximum(_normal(high) - _normal(low), 0.0)


def _around(raw: Floats, thresholds: tuple[float, ...]) -> tuple[Floats, Floats]:
    """Return for each class the thresholds below and above it, less raw; infinite at the ends."""
    edges = np.array([-np.inf, *thresholds, np.inf])
    with np.errstate(over="ignore"):
        distances = edges - raw
    return distances[:, :-1], distances[:, 1:]


def _gaps(thresholds: tuple[float, ...]) -> Floats:
    """Return 1 - exp(lower threshold - upper threshold) per class; 1 at the ends. Free of raw, so nothing cancels."""
    with np.errstate(over="ignore"):
        return np.asarray(-np.expm1(-np.diff([-np.inf, *thresholds, np.inf])), dtype=np.float64)


def _normal(x: Floats) -> Floats:
    values = map(math.erfc, (x * -math.sqrt(0.5)).ravel().tolist())
    return 0.5 * np.fromiter(values, dtype=np.float64, count=x.size).reshape(x.shape)
