"""Links, and their inverse functions, stable at any magnitude (ADR 0019).

The functions take raw scores of shape (n_samples, n_scores) and return predictions of the same shape; those of ordinal
models, which return more, are in `ordinal`. Where a link has no finite value for a score (1 / 0, an exponential beyond
float64, a root of a negative number), NaN or an infinity comes back without a warning: `combine.finish` makes
OUT_OF_RANGE of it.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from typing_extensions import override

from fedpredict.model.arrays import Floats
from fedpredict.model.ordinal import (
    MAX_THRESHOLDS,
    check_thresholds,
    cumulative_cloglog,
    cumulative_logit,
    cumulative_probit,
)

_NO_OVERFLOW = -700.0
"""Above this exp(-raw) is finite, and numpy need not be told to be quiet, which takes longer than one exponential."""


def identity(raw: Floats) -> Floats:
    """Return the raw scores unchanged.

    >>> identity(np.array([[2.5]]))
    array([[2.5]])
    """
    return raw


def sigmoid(raw: Floats) -> Floats:
    """Return 1 / (1 + exp(-raw)); below -709.78 the exponential is infinite and the answer zero, as in scipy's expit.

    >>> sigmoid(np.array([[-1e4], [0.0], [1e4]])).ravel()
    array([0. , 0.5, 1. ])
    """
    if raw.size == 1 and raw.item() > _NO_OVERFLOW:
        return np.asarray(1.0 / (1.0 + np.exp(-raw)), dtype=np.float64)
    with np.errstate(over="ignore"):
        return np.asarray(1.0 / (1.0 + np.exp(-raw)), dtype=np.float64)


def softmax(raw: Floats) -> Floats:
    """Return exp(raw) / sum(exp(raw)) per sample; each sample's largest score is subtracted first.

    >>> softmax(np.array([[1e4, 1e4]]))
    array([[0.5, 0.5]])
    """
    with np.errstate(over="ignore"):  # a difference beyond float64 is -inf, and its exponential zero
        exponentials = np.exp(raw - raw.max(axis=1, keepdims=True))
    return np.asarray(exponentials / exponentials.sum(axis=1, keepdims=True), dtype=np.float64)


def normalised_sigmoid(raw: Floats) -> Floats:
    """Return sigmoids divided by their sum per sample, as scikit-learn's one-vs-rest classifiers do.

    Where every sigmoid of a sample underflows to zero there is nothing to divide, and scikit-learn's answer is the
    uniform distribution.

    >>> normalised_sigmoid(np.array([[0.0, 0.0], [-1e4, -1e4]]))
    array([[0.5, 0.5],
           [0.5, 0.5]])
    """
    each = sigmoid(raw)
    total = each.sum(axis=1, keepdims=True)
    uniform = np.full_like(each, 1.0 / each.shape[1])
    return np.asarray(np.divide(each, total, out=uniform, where=total > 0.0), dtype=np.float64)


def exponential(raw: Floats) -> Floats:
    """Return exp(raw), the inverse of the log link; above 709.78 it is infinite, below -745.13 zero.

    >>> exponential(np.array([[0.0, 710.0]]))
    array([[ 1., inf]])
    """
    with np.errstate(over="ignore", under="ignore"):
        return np.asarray(np.exp(raw), dtype=np.float64)


def normal_distribution(raw: Floats) -> Floats:
    """Return the standard normal distribution function of raw, the inverse of the probit link.

    It is erfc(-raw / sqrt 2) / 2 (Abramowitz and Stegun, 26.2.29 and 7.1.2), which cancels in neither tail.

    >>> normal_distribution(np.array([[-1e4], [0.0], [1e4]])).ravel()
    array([0. , 0.5, 1. ])
    """
    # numpy has no erfc; the C library's, one number at a time, takes 2.5 ms for the largest round
    tails = map(math.erfc, (raw * -math.sqrt(0.5)).ravel().tolist())
    return 0.5 * np.fromiter(tails, dtype=np.float64, count=raw.size).reshape(raw.shape)


def complementary_log_log(raw: Floats) -> Floats:
    """Return 1 - exp(-exp(raw)), the inverse of the complementary log-log link, without cancelling for small results.

    >>> complementary_log_log(np.array([[-1e4], [-40.0], [1e4]])).ravel()
    array([0.00000000e+00, 4.24835426e-18, 1.00000000e+00])
    """
    with np.errstate(over="ignore", under="ignore"):
        return np.asarray(-np.expm1(-np.exp(raw)), dtype=np.float64)


def reciprocal(raw: Floats) -> Floats:
    """Return 1 / raw, of either sign; infinite at zero.

    >>> reciprocal(np.array([[-4.0, 0.0]]))
    array([[-0.25,   inf]])
    """
    with np.errstate(divide="ignore", over="ignore"):
        return np.asarray(1.0 / raw, dtype=np.float64)


def square(raw: Floats) -> Floats:
    """Return raw * raw, the inverse of the square-root link; a negative score is squared too, as in R and statsmodels.

    >>> square(np.array([[-3.0, 1e200]]))
    array([[ 9., inf]])
    """
    with np.errstate(over="ignore", under="ignore"):
        return np.asarray(raw * raw, dtype=np.float64)


def root(raw: Floats, power: float) -> Floats:
    """Return raw ** (1 / power), the inverse of the power link; NaN for negative raw, unless 1 / power is an integer.

    >>> root(np.array([[4.0, -4.0]]), 2.0)
    array([[ 2., nan]])
    >>> root(np.array([[-4.0, 0.0]]), -1.0)
    array([[-0.25,   inf]])
    """
    with np.errstate(all="ignore"):
        return np.asarray(np.power(raw, 1.0 / power), dtype=np.float64)


def odds(raw: Floats, score: float, odds: float, pdo: float) -> Floats:
    """Return the probability whose odds are `odds` at `score` points and double with every `pdo` points.

    >>> odds(np.array([[600.0], [620.0]]), 600.0, 1.0, 20.0).round(4).ravel()
    array([0.5   , 0.6667])
    """
    with np.errstate(over="ignore"):
        return sigmoid(math.log(odds) + (raw - score) * (math.log(2.0) / pdo))


def _check_odds(numbers: tuple[float, ...]) -> None:
    if len(numbers) != 3 or not all(map(math.isfinite, numbers)):
        raise ValueError("the link odds has three finite numbers: score, odds at that score, points to double the odds")
    _, at_score, pdo = numbers
    slope = math.log(2.0) / pdo if pdo else 0.0
    if at_score <= 0.0 or not slope or not math.isfinite(slope):
        raise ValueError("the odds of the link odds are not above zero, or the points to double them are (nearly) zero")


@dataclass(frozen=True, slots=True)
class LinkSpec:
    """What a link's name stands for.

    Attributes:
        inverse_link: Raw scores (n_samples, n_scores), then the link's parameter or numbers one by one, if it has any
            -> predictions (n_samples, n_outputs).
        is_total: Whether every finite raw score has a finite prediction.
        has_parameter: Whether the link needs a number.
        check_numbers: For a link that needs several: raises `ValueError` where they are not its numbers.
        example: A link of this name with what it needs, for messages.
        widens: Whether a prediction has one number more than the link, instead of one for each raw score.
    """

    inverse_link: Callable[..., Floats]
    is_total: bool = True
    has_parameter: bool = False
    check_numbers: Callable[[tuple[float, ...]], None] | None = None
    example: str = ""
    widens: bool = False


def _cumulative(name: str, inverse_link: Callable[..., Floats]) -> LinkSpec:
    return LinkSpec(inverse_link, check_numbers=check_thresholds, example=f"{name}:-1,0.5", widens=True)


LINKS: dict[str, LinkSpec] = {
    "identity": LinkSpec(identity),
    "logit": LinkSpec(sigmoid),
    "softmax": LinkSpec(softmax),
    "logit_normalised": LinkSpec(normalised_sigmoid),
    "probit": LinkSpec(normal_distribution),
    "cloglog": LinkSpec(complementary_log_log),
    "log": LinkSpec(exponential, is_total=False),
    "inverse": LinkSpec(reciprocal, is_total=False),
    "sqrt": LinkSpec(square, is_total=False),
    "power": LinkSpec(root, is_total=False, has_parameter=True, example="power:0.5"),
    "odds": LinkSpec(odds, check_numbers=_check_odds, example="odds:600,50,20"),
    "cumulative_logit": _cumulative("cumulative_logit", cumulative_logit),
    "cumulative_probit": _cumulative("cumulative_probit", cumulative_probit),
    "cumulative_cloglog": _cumulative("cumulative_cloglog", cumulative_cloglog),
}
"""The one place that says what a link's name means. The names are those of the tables, the messages and the files."""

_NAME = re.compile(r"[a-z_]{1,40}")
_NUMBER = re.compile(r"[-+]?(?:[0-9]{1,30}\.?[0-9]{0,30}|\.[0-9]{1,30})(?:[eE][-+]?[0-9]{1,4})?")
_MAX_NUMBER = 70
"""Characters of the longest text of a number."""


@dataclass(frozen=True, slots=True)
class Link:
    """A link function: what relates raw scores and predictions.

    Attributes:
        name: One of `LINKS`.
        parameter: The power of the power link, mean ** power = raw score; None for the others.
        numbers: What other links need: the rising thresholds of a cumulative link; of `odds` a score, the odds there,
            and the points to double the odds. Empty for those without.
        inverse_link: Raw scores (n_samples, n_scores) -> predictions (n_samples, n_outputs).
        is_total: Whether every finite raw score has a finite prediction.

    >>> print(Link("log"), Link("power", 0.5), Link("cumulative_logit", numbers=(-1.5, 0.25)))
    log power:0.5 cumulative_logit:-1.5,0.25
    """

    name: str
    parameter: float | None = None
    numbers: tuple[float, ...] = ()
    inverse_link: Callable[[Floats], Floats] = field(init=False, repr=False, compare=False)
    is_total: bool = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        spec = LINKS.get(self.name)
        if spec is None:
            raise ValueError(f"unknown link {self.name[:40]!a}; known are {', '.join(LINKS)}")
        self._check(spec)
        inverse_link, numbers = spec.inverse_link, self._all_numbers
        if numbers:
            inverse_link = functools.partial(_applied, inverse_link, numbers)
        # found once: the link of a model is applied in every round
        object.__setattr__(self, "inverse_link", inverse_link)
        object.__setattr__(self, "is_total", spec.is_total)

    def _check(self, spec: LinkSpec) -> None:
        has_numbers = spec.check_numbers is not None
        if spec.has_parameter != (self.parameter is not None) or has_numbers != bool(self.numbers):
            needed = "parameter" if spec.has_parameter else "numbers"
            told = f"needs its {needed}, as in {spec.example}" if spec.example else "has no parameter"
            raise ValueError(f"link {self.name} {told}")
        if self.parameter is not None:
            object.__setattr__(self, "parameter", _checked_power(self.parameter))
        if spec.check_numbers is not None:
            object.__setattr__(self, "numbers", tuple(map(float, self.numbers)))
            spec.check_numbers(self.numbers)

    @property
    def _all_numbers(self) -> tuple[float, ...]:
        return self.numbers if self.parameter is None else (self.parameter,)

    def n_outputs(self, n_scores: int) -> int:
        """Return the width of a prediction, given that of a share.

        >>> Link("softmax").n_outputs(3), Link("cumulative_logit", numbers=(-1.5, 0.25)).n_outputs(1)
        (3, 3)
        """
        return len(self.numbers) + 1 if LINKS[self.name].widens else n_scores

    @override
    def __str__(self) -> str:
        """Return the text form, which `parse_link` reads back as the same link."""
        numbers = self._all_numbers
        return f"{self.name}:{','.join(map(repr, numbers))}" if numbers else self.name


def parse_link(text: str) -> Link:
    """Return the link that a text names: its name, and after a colon its numbers if it has any, with commas between.

    Raises:
        ValueError: There is no such link, or its numbers are missing, too many or not usable.

    >>> parse_link("power:2")
    Link(name='power', parameter=2.0, numbers=())
    """
    name, colon, rest = text.partition(":")
    texts = rest.split(",", MAX_THRESHOLDS + 1) if colon else []
    # number by number: one pattern for a whole list could be made to look for hours
    if not _NAME.fullmatch(name) or not all(len(each) <= _MAX_NUMBER and _NUMBER.fullmatch(each) for each in texts):
        raise ValueError(f"{text[:40]!a} is no link; known are {', '.join(LINKS)}, some with numbers: power:0.5")
    numbers = tuple(map(float, texts))
    spec = LINKS.get(name)
    if len(numbers) == 1 and (spec is None or spec.check_numbers is None):
        return Link(name, numbers[0])
    return Link(name, numbers=numbers)


def _applied(inverse_link: Callable[..., Floats], numbers: tuple[float, ...], raw: Floats) -> Floats:
    return inverse_link(raw, *numbers)


def _checked_power(power: float) -> float:
    power = float(power)
    if power == 0.0 or not math.isfinite(power) or not math.isfinite(1.0 / power):
        raise ValueError(
            f"a power link with power {power!r}: it is finite and not (nearly) zero; for zero there is log"
        )
    return power
