"""The quantile function of the standard normal distribution, by one rational formula in numpy and in SQL.

Wichura's algorithm AS 241 (1988), PPND16: accurate to about 1e-16 relative, for probabilities that are at least
`LOWEST` from 0 and from 1; others count as that.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from fedpredict.model.arrays import Floats

LOWEST = 1e-7 - 2.0**-52
"""scikit-learn's QuantileTransformer cuts there, so that nothing becomes infinite."""
CENTRE = 0.425
"""So far from 0.5 the first pair of polynomials holds."""
CENTRE_SHIFT, TAIL_SHIFT = 0.180625, 1.6
CENTRAL = (
    (3.3871328727963666080e0, 1.3314166789178437745e2, 1.9715909503065514427e3, 1.3731693765509461125e4,
     4.5921953931549871457e4, 6.7265770927008700853e4, 3.3430575583588128105e4, 2.5090809287301226727e3),
    (1.0, 4.2313330701600911252e1, 6.8718700749205790830e2, 5.3941960214247511077e3,
     2.1213794301586595867e4, 3.9307895800092710610e4, 2.8729085735721942674e4, 5.2264952788528545610e3),
)  # fmt: skip
TAILS = (
    (1.42343711074968357734e0, 4.63033784615654529590e0, 5.76949722146069140550e0, 3.64784832476320460504e0,
     1.27045825245236838258e0, 2.41780725177450611770e-1, 2.27238449892691845833e-2, 7.74545014278341407640e-4),
    (1.0, 2.05319162663775882187e0, 1.67638483018380384940e0, 6.89767334985100004550e-1,
     1.48103976427480074590e-1, 1.51986665636164571966e-2, 5.47593808499534494600e-4, 1.05075007164441684324e-9),
)  # fmt: skip
"""Of each: the coefficients of the polynomial above and of the one below, from the constant upwards."""

_Number = TypeVar("_Number", float, Floats)
_FEW = 16
"""Of so many numbers plain Python takes a tenth of numpy's time."""


def normal_quantile(probability: Floats) -> Floats:
    """Return where the distribution function reaches a probability; NaN for NaN.

    >>> normal_quantile(np.array([0.5, 0.975])).round(6).tolist()
    [0.0, 1.959964]
    """
    if probability.size <= _FEW:
        return np.array([_one(p) for p in probability.ravel().tolist()]).reshape(probability.shape)
    p = np.minimum(np.maximum(probability, LOWEST), 1.0 - LOWEST)
    q = p - 0.5
    quantile = q * _ratio(CENTRE_SHIFT - q * q, CENTRAL)
    far = np.abs(q) > CENTRE
    if far.any():
        tail = np.minimum(p[far], 1.0 - p[far])
        quantile[far] = np.copysign(_ratio(np.sqrt(-np.log(tail)) - TAIL_SHIFT, TAILS), q[far])
    return quantile


def _one(probability: float) -> float:
    p = min(max(probability, LOWEST), 1.0 - LOWEST)  # NaN stays, as it is the first of both
    q = p - 0.5
    if not abs(q) > CENTRE:
        return q * _ratio(CENTRE_SHIFT - q * q, CENTRAL)
    return math.copysign(_ratio(math.sqrt(-math.log(min(p, 1.0 - p))) - TAIL_SHIFT, TAILS), q)


def _ratio(r: _Number, formula: tuple[Sequence[float], Sequence[float]]) -> _Number:
    above, below = (_polynomial(r, coefficients) for coefficients in formula)
    above /= below
    return above


def _polynomial(r: _Number, coefficients: Sequence[float]) -> _Number:
    """Return a polynomial by Horner's rule, coefficients from the constant upwards."""
    result = r * coefficients[-1]
    result += coefficients[-2]
    for each in coefficients[-3::-1]:
        result *= r
        result += each
    return result
