"""The activation functions of networks in the engine's SQL: the formulas of `model.activations`, by exp, ln and CASE.

They are written for rows of (sample, unit), so that the text of a formula stands in the statement once per layer. NaN
and NULL go through: no comparison here is true for NaN in one engine and gives a number there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce

from sqlglot import exp

from fedpredict.model.activations import (
    ERF_SMALL,
    ERFC_LARGE,
    ERFC_MIDDLE,
    GELU_TANH_CUBE,
    GELU_TANH_SCALE,
    INVERSE_ROOT_2,
    INVERSE_ROOT_PI,
    LARGE_ERFC,
    SMALL_ERF,
    SMALL_TANH,
    SOFTPLUS_LINEAR,
    TANH_SMALL,
    Activation,
)
from fedpredict.tables import sql

_Stage = dict[str, exp.Expr]
"""Name of a new column -> what it is."""


def activated(name: Activation, sums: exp.Select, kept: Sequence[str], sample: Sequence[str]) -> exp.Select:
    """Return rows of (sample, unit) with their activations.

    Args:
        name: Which function.
        sums: A query with the columns `kept`, `fp_z`, the sum, and `fp_slope`.
        kept: The columns to keep.
        sample: Those of them that name a sample: softmax is over its rows.

    Returns:
        The columns `kept` and `fp_a`.
    """
    rows, names = sums, ["fp_z", "fp_slope"]
    stages = [*(_softmax(sample) if name is Activation.SOFTMAX else _STAGES[name])]
    for stage in stages[:-1]:
        given = [sql.named(value.copy(), column) for column, value in stage.items()]
        rows = sql.select_from([*sql.columns_of(*kept, *names), *given], rows)
        names = [*names, *stage]
    return sql.select_from([*sql.columns_of(*kept), sql.named(stages[-1]["fp_a"].copy(), "fp_a")], rows)


def constant(value: float) -> exp.Expr:
    """Return a number of a formula (never one of a model)."""
    return sql.double(repr(value))


def _c(name: str) -> exp.Expr:
    return sql.column(name)


def _plus(*terms: exp.Expr) -> exp.Expr:
    return _chained(exp.Add, terms)


def _times(*factors: exp.Expr) -> exp.Expr:
    return _chained(exp.Mul, factors)


def _minus(left: exp.Expr, right: exp.Expr) -> exp.Expr:
    return exp.Paren(this=exp.Sub(this=left, expression=right))


def _over(left: exp.Expr, right: exp.Expr) -> exp.Expr:
    return exp.Paren(this=exp.Div(this=left, expression=right, typed=True, safe=False))


def _chained(operator: type[exp.Binary], terms: Sequence[exp.Expr]) -> exp.Expr:
    return exp.Paren(this=reduce(lambda left, right: operator(this=left, expression=right), terms))


def _exp_of_minus(value: exp.Expr) -> exp.Expr:
    return exp.Exp(this=exp.Neg(this=value))


def _size() -> exp.Expr:
    return exp.Abs(this=_c("fp_z"))


def _below(left: exp.Expr, limit: float) -> exp.Expr:
    return exp.LT(this=left, expression=constant(limit))


def _at_most(value: exp.Expr, limit: float) -> exp.Expr:
    """Return the smaller of two; NaN stays or becomes the limit."""
    return sql.case(value, (exp.GT(this=value.copy(), expression=constant(limit)), constant(limit)))


def _at_least(value: exp.Expr, limit: float) -> exp.Expr:
    return sql.case(value, (_below(value.copy(), limit), constant(limit)))


def _polynomial(column: str, coefficients: Sequence[float]) -> exp.Expr:
    start = constant(coefficients[0])
    return reduce(lambda so_far, each: _plus(_times(so_far, _c(column)), constant(each)), coefficients[1:], start)


def _ratio(column: str, formula: tuple[Sequence[float], Sequence[float]]) -> exp.Expr:
    return _over(_polynomial(column, formula[0]), _polynomial(column, formula[1]))


def _sigmoid_of(column: str, exponential: str) -> exp.Expr:
    """Return the sigmoid of a column, given exp(-|it|)."""
    numerator = sql.case(constant(1.0), (_below(_c(column), 0.0), _c(exponential)))
    return _over(numerator, _plus(constant(1.0), _c(exponential)))


def _tanh() -> list[_Stage]:
    small = _plus(_c("fp_z"), _times(_c("fp_z"), _c("fp_square"), _ratio("fp_square", TANH_SMALL)))
    large = _over(_minus(constant(1.0), _c("fp_e")), _plus(constant(1.0), _c("fp_e")))
    signed = sql.case(large, (_below(_c("fp_z"), 0.0), exp.Neg(this=large.copy())))
    return [
        {
            "fp_e": _exp_of_minus(_times(constant(2.0), _size())),
            # only used where it is small, and bounded elsewhere so that nothing overflows
            "fp_square": _times(_at_most(_size(), SMALL_TANH), _at_most(_size(), SMALL_TANH)),
        },
        {"fp_a": sql.case(signed, (_below(_size(), SMALL_TANH), small))},
    ]


def _softplus() -> list[_Stage]:
    """ln(1 + e) as W. Kahan writes it: exact for tiny e by the rounding that 1 + e itself has."""
    one_more = _plus(constant(1.0), _c("fp_e"))
    rounded = _minus(_c("fp_u"), constant(1.0))
    log = _over(_times(exp.Ln(this=_c("fp_u")), _c("fp_e")), rounded)
    return [
        {"fp_e": exp.Exp(this=_at_most(_c("fp_z"), float(SOFTPLUS_LINEAR)))},
        {"fp_u": one_more},
        {
            "fp_a": sql.case(
                log,
                (exp.GT(this=_c("fp_z"), expression=constant(float(SOFTPLUS_LINEAR))), _c("fp_z")),
                (exp.LTE(this=rounded.copy(), expression=constant(0.0)), _c("fp_e")),
            )
        },
    ]


def _gelu() -> list[_Stage]:
    t, square = _times(_size(), constant(INVERSE_ROOT_2)), _times(_c("fp_t"), _c("fp_t"))
    small = _times(_c("fp_z"), constant(INVERSE_ROOT_2), _ratio("fp_small", ERF_SMALL))
    large = _over(
        _minus(constant(INVERSE_ROOT_PI), _times(_c("fp_inverse"), _ratio("fp_inverse", ERFC_LARGE))),
        _at_least(_c("fp_t"), LARGE_ERFC),
    )
    is_large = exp.GT(this=_c("fp_t"), expression=constant(LARGE_ERFC))
    factor = sql.case(_ratio("fp_middle", ERFC_MIDDLE), (is_large, large))
    upper = sql.case(_minus(constant(1.0), _c("fp_tail")), (_below(_c("fp_z"), 0.0), _c("fp_tail")))
    half = _times(constant(0.5), _plus(constant(1.0), small))
    is_small = exp.LTE(this=_c("fp_t"), expression=constant(SMALL_ERF))
    return [
        {"fp_t": t},
        {
            "fp_e": _exp_of_minus(square),
            "fp_small": _at_most(square.copy(), SMALL_ERF),
            "fp_middle": _at_most(_c("fp_t"), LARGE_ERFC),
            "fp_inverse": _over(constant(1.0), _at_least(square.copy(), LARGE_ERFC)),
        },
        {"fp_tail": _times(constant(0.5), _c("fp_e"), factor)},
        {"fp_a": _times(_c("fp_z"), sql.case(upper, (is_small, half)))},
    ]


def _gelu_tanh() -> list[_Stage]:
    cube = _times(constant(GELU_TANH_CUBE), _c("fp_z"), _c("fp_z"), _c("fp_z"))
    return [
        {"fp_t": _times(constant(2.0 * GELU_TANH_SCALE), _plus(_c("fp_z"), cube))},
        {"fp_e": _exp_of_minus(exp.Abs(this=_c("fp_t")))},
        {"fp_a": _times(_c("fp_z"), _sigmoid_of("fp_t", "fp_e"))},
    ]


def _softmax(sample: Sequence[str]) -> list[_Stage]:
    def over_units(aggregate: exp.Expr) -> exp.Expr:
        return exp.Window(this=aggregate, partition_by=sql.columns_of(*sample))

    return [
        {"fp_largest": over_units(exp.Max(this=_c("fp_z")))},
        {"fp_e": exp.Exp(this=_minus(_c("fp_z"), _c("fp_largest")))},
        {"fp_total": over_units(exp.Sum(this=_c("fp_e")))},
        {"fp_a": _over(_c("fp_e"), _c("fp_total"))},
    ]


def _sigmoid_stages(result: Callable[[], exp.Expr]) -> list[_Stage]:
    return [{"fp_e": _exp_of_minus(_size())}, {"fp_a": result()}]


_STAGES: dict[Activation, list[_Stage]] = {
    Activation.IDENTITY: [{"fp_a": _c("fp_z")}],
    Activation.RELU: [
        {"fp_a": sql.case(_c("fp_z"), (exp.LTE(this=_c("fp_z"), expression=constant(0.0)), constant(0.0)))}
    ],
    Activation.LEAKY_RELU: [
        {"fp_a": sql.case(_c("fp_z"), (_below(_c("fp_z"), 0.0), _times(_c("fp_slope"), _c("fp_z"))))}
    ],
    Activation.TANH: _tanh(),
    Activation.SIGMOID: _sigmoid_stages(lambda: _sigmoid_of("fp_z", "fp_e")),
    Activation.GELU: _gelu(),
    Activation.GELU_TANH: _gelu_tanh(),
    Activation.SILU: _sigmoid_stages(lambda: _times(_c("fp_z"), _sigmoid_of("fp_z", "fp_e"))),
    Activation.SOFTPLUS: _softplus(),
}
"""What is computed first, and from that next; the last stage is `fp_a` alone. Softmax is not here: see `_softmax`."""
