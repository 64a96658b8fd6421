"""What stands between the layers of a network: activation functions, stable at any magnitude.

They are written so that every engine can follow them with exp, ln, absolute values and CASE: `tables.activations_sql`
has the same formulas with the same coefficients. Each takes sums of shape (n_samples, n_units) and the slope of the
leaky relu, and returns activations of that shape. NaN goes through; nothing warns.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from enum import StrEnum

import numpy as np

from fedpredict.model.arrays import Floats


class Activation(StrEnum):
    """The activation functions, by the names of the tables and the files."""

    IDENTITY = "identity"
    RELU = "relu"
    LEAKY_RELU = "leaky_relu"
    TANH = "tanh"
    SIGMOID = "sigmoid"
    GELU = "gelu"
    """The exact one, by the normal distribution function."""
    GELU_TANH = "gelu_tanh"
    SILU = "silu"
    SOFTPLUS = "softplus"
    SOFTMAX = "softmax"
    """Over the units of a layer."""


SOFTPLUS_LINEAR = 20
"""Above this softplus is the identity, as in PyTorch."""

_FEW = 512
"""Of so many numbers the normal distribution function is computed one by one: numpy's fifty passes take longer."""

SMALL_ERF = 0.46875
LARGE_ERFC = 4.0
INVERSE_ROOT_2 = math.sqrt(0.5)
INVERSE_ROOT_PI = 1.0 / math.sqrt(math.pi)
ERF_SMALL = (
    (1.85777706184603153e-1, 3.16112374387056560e0, 1.13864154151050156e2, 3.77485237685302021e2,
     3.20937758913846947e3),
    (1.0, 2.36012909523441209e1, 2.44024637934444173e2, 1.28261652607737228e3, 2.84423683343917062e3),
)  # fmt: skip
ERFC_MIDDLE = (
    (2.15311535474403846e-8, 5.64188496988670089e-1, 8.88314979438837594e0, 6.61191906371416295e1,
     2.98635138197400131e2, 8.81952221241769090e2, 1.71204761263407058e3, 2.05107837782607147e3,
     1.23033935479799725e3),
    (1.0, 1.57449261107098347e1, 1.17693950891312499e2, 5.37181101862009858e2, 1.62138957456669019e3,
     3.29079923573345963e3, 4.36261909014324716e3, 3.43936767414372164e3, 1.23033935480374942e3),
)  # fmt: skip
ERFC_LARGE = (
    (1.63153871373020978e-2, 3.05326634961232344e-1, 3.60344899949804439e-1, 1.25781726111229246e-1,
     1.60837851487422766e-2, 6.58749161529837803e-4),
    (1.0, 2.56852019228982242e0, 1.87295284992346047e0, 5.27905102951428412e-1, 6.05183413124413191e-2,
     2.33520497626869185e-3),
)  # fmt: skip
"""W. J. Cody, Rational Chebyshev approximations for the error function, Math. Comp. 23 (1969): numerator and
denominator, highest power first. erf(t) = t R(t^2) up to `SMALL_ERF`, erfc(t) = exp(-t^2) R(t) up to `LARGE_ERFC`, then
exp(-t^2) (1 / sqrt(pi) - R(1 / t^2) / t^2) / t."""

SMALL_TANH = 0.625
TANH_SMALL = (
    (-9.64399179425052238628e-1, -9.92877231001918586564e1, -1.61468768441708447952e3),
    (1.0, 1.12811678491632931402e2, 2.23548839060100448583e3, 4.84406305325125486048e3),
)
"""tanh(x) = x + x^3 R(x^2) up to `SMALL_TANH` (S. L. Moshier, Cephes): engines without tanh take it from here."""

GELU_TANH_SCALE = math.sqrt(2.0 / math.pi)
GELU_TANH_CUBE = 0.044715

Function = Callable[[Floats, float], Floats]


def activate(name: Activation, sums: Floats, slope: float = 0.0) -> Floats:
    """Return the activations of sums.

    Args:
        name: Which function.
        sums: Shape (n_samples, n_units).
        slope: What the leaky relu multiplies negative sums by; the others do without.

    >>> activate(Activation.LEAKY_RELU, np.array([[-2.0, 3.0]]), 0.25)
    array([[-0.5,  3. ]])
    """
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        return np.asarray(FUNCTIONS[name](sums, slope), dtype=np.float64)


def normal_distribution(x: Floats) -> Floats:
    """Return the standard normal distribution function by Cody's formulas; of few numbers by the C library's erfc.

    Against 50 digits it is off by at most 2e-16, and where it is above 1e-17 by at most 2e-14 of itself, which is what
    rounding x / sqrt(2) does.

    >>> normal_distribution(np.array([-40.0, 0.0, 1.0]))
    array([0.        , 0.5       , 0.84134475])
    """
    if x.size <= _FEW:
        values = map(math.erfc, (x * -INVERSE_ROOT_2).ravel().tolist())
        return 0.5 * np.fromiter(values, dtype=np.float64, count=x.size).reshape(x.shape)
    return _normal_distribution(x.ravel()).reshape(x.shape)


def _normal_distribution(x: Floats) -> Floats:
    t = np.abs(x)
    t *= INVERSE_ROOT_2
    square = t * t
    # most numbers are of the middle formula: all go through it, and the others' results are put over its own
    tail = _ratio(np.minimum(t, LARGE_ERFC), ERFC_MIDDLE)
    large = np.flatnonzero(t > LARGE_ERFC)
    if len(large):
        inverse = 1.0 / square[large]
        tail[large] = (INVERSE_ROOT_PI - inverse * _ratio(inverse, ERFC_LARGE)) / t[large]
    tail *= np.exp(-square)
    tail *= 0.5
    distribution = np.where(x < 0.0, tail, 1.0 - tail)
    small = np.flatnonzero(t <= SMALL_ERF)
    distribution[small] = 0.5 + 0.5 * (x[small] * INVERSE_ROOT_2 * _ratio(square[small], ERF_SMALL))
    return distribution


def _ratio(x: Floats, formula: tuple[Sequence[float], Sequence[float]]) -> Floats:
    quotient = _polynomial(x, formula[0])
    quotient /= _polynomial(x, formula[1])
    return quotient


def _polynomial(x: Floats, coefficients: Sequence[float]) -> Floats:
    """Return a polynomial by Horner's rule, the coefficient of the highest power first; at least two of them."""
    result = x * coefficients[0]
    result += coefficients[1]
    for each in coefficients[2:]:
        result *= x
        result += each
    return result


def _sigmoid(sums: Floats) -> Floats:
    """1 / (1 + exp(-x)) does not cancel at either end: where exp overflows, the quotient is below 1e-308."""
    result = np.negative(sums)
    np.exp(result, out=result)
    result += 1.0
    return np.divide(1.0, result, out=result)


def _softmax(sums: Floats, _: float) -> Floats:
    exponentials = np.exp(sums - sums.max(axis=1, keepdims=True))
    return np.asarray(exponentials / exponentials.sum(axis=1, keepdims=True), dtype=np.float64)


def _softplus(sums: Floats, _: float) -> Floats:
    return np.where(sums > SOFTPLUS_LINEAR, sums, np.log1p(np.exp(np.minimum(sums, SOFTPLUS_LINEAR))))


def _gelu_tanh(sums: Floats, _: float) -> Floats:
    """0.5 x (1 + tanh u) is x times the sigmoid of 2u, which does not cancel."""
    return sums * _sigmoid(2.0 * GELU_TANH_SCALE * (sums + GELU_TANH_CUBE * sums * sums * sums))


FUNCTIONS: dict[Activation, Function] = {
    Activation.IDENTITY: lambda sums, _: sums,
    Activation.RELU: lambda sums, _: np.maximum(sums, 0.0),
    Activation.LEAKY_RELU: lambda sums, slope: np.where(sums < 0.0, slope * sums, sums),
    Activation.TANH: lambda sums, _: np.tanh(sums),
    Activation.SIGMOID: lambda sums, _: _sigmoid(sums),
    Activation.GELU: lambda sums, _: sums * normal_distribution(sums),
    Activation.GELU_TANH: _gelu_tanh,
    Activation.SILU: lambda sums, _: sums * _sigmoid(sums),
    Activation.SOFTPLUS: _softplus,
    Activation.SOFTMAX: _softmax,
}
"""As `activate` calls them. They may warn of overflows."""
