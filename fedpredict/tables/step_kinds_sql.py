"""Each kind of step in SQL; a missing number is NULL, and there is no NaN."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce
from typing import TypeAlias

from sqlglot import exp

from fedpredict.model.normal import CENTRAL, CENTRE, CENTRE_SHIFT, LOWEST, TAIL_SHIFT, TAILS
from fedpredict.model.step import BOX_COX, INVALID, MISSING, NAN, StepKind
from fedpredict.tables import sql
from fedpredict.tables.steps_level import Emit, Level, is_null, picked
from fedpredict.tables.steps_options import StepShape, is_joined

_SMALL_EXPONENT = "0.00001"
_Branch: TypeAlias = tuple[exp.Expr, exp.Expr]
"""A condition, and the value where it holds."""


def _fill(level: Level, place: int, step: StepShape) -> list[exp.Expr]:
    return [
        exp.Coalesce(this=level.input(step, item), expressions=[level.number(place, "number", item)])
        for item in range(len(step.inputs))
    ]


def _missing(level: Level, _: int, step: StepShape) -> list[exp.Expr]:
    one, zero = sql.double("1"), sql.double("0")
    return [sql.case(zero.copy(), (is_null(level.input(step, item)), one.copy())) for item in range(len(step.inputs))]


def _scale(level: Level, place: int, step: StepShape) -> list[exp.Expr]:
    operators = {"subtract": exp.Sub, "divide": exp.Div, "multiply": exp.Mul, "add": exp.Add}

    def scaled(item: int) -> exp.Expr:
        value = level.input(step, item)
        for name, operator in operators.items():
            if name in step.shapes:
                value = exp.Paren(this=operator(this=value, expression=level.number(place, name, item)))
        return value

    return [scaled(item) for item in range(len(step.inputs))]


def _clip(level: Level, place: int, step: StepShape) -> list[exp.Expr]:
    def clipped(item: int) -> exp.Expr:
        value, low, high = level.input(step, item), level.number(place, "low", item), level.number(place, "high", item)
        below, above = exp.LT(this=value, expression=low), exp.GT(this=value.copy(), expression=high)
        return sql.case(value.copy(), (below, low.copy()), (above, high.copy()))

    return [clipped(item) for item in range(len(step.inputs))]


def _power(level: Level, place: int, step: StepShape) -> list[exp.Expr]:
    is_box_cox = step.options.get("method") == BOX_COX
    one, zero = sql.double("1"), sql.double("0")

    def box_cox(item: int) -> exp.Expr:
        value = level.input(step, item)
        positive = exp.GT(this=value, expression=zero.copy())
        level.tell(1, exp.LTE(this=value.copy(), expression=zero.copy()))
        logarithm = exp.Ln(this=sql.case(one.copy(), (positive.copy(), value.copy())))
        return sql.case(exp.null(), (positive, _grown(logarithm, level.number(place, "exponent", item))))

    def yeo_johnson(item: int) -> exp.Expr:
        value, exponent = level.input(step, item), level.number(place, "exponent", item)
        logarithm = exp.Ln(this=exp.Add(this=one.copy(), expression=exp.Abs(this=value)))
        other = exp.Paren(this=exp.Sub(this=sql.double("2"), expression=exponent.copy()))
        return sql.case(
            exp.null(),
            (exp.GTE(this=value.copy(), expression=zero.copy()), _grown(logarithm, exponent)),
            (exp.LT(this=value.copy(), expression=zero.copy()), exp.Neg(this=_grown(logarithm.copy(), other))),
        )

    return [(box_cox if is_box_cox else yeo_johnson)(item) for item in range(len(step.inputs))]


def _grown(logarithm: exp.Expr, exponent: exp.Expr) -> exp.Expr:
    """Return (e^(exponent * logarithm) - 1) / exponent, and its limit for a small exponent."""

    def times(*factors: exp.Expr) -> exp.Expr:
        return exp.Paren(this=reduce(lambda a, b: exp.Mul(this=a, expression=b), (each.copy() for each in factors)))

    both = times(logarithm, exponent)
    inner = exp.Paren(this=exp.Add(this=sql.double("0.5"), expression=exp.Div(this=both, expression=sql.double("6"))))
    series = exp.Paren(this=exp.Add(this=sql.double("1"), expression=times(both, inner)))
    growth = exp.Paren(this=exp.Sub(this=exp.Exp(this=both.copy()), expression=sql.double("1")))
    is_small = exp.LT(this=exp.Abs(this=exponent.copy()), expression=sql.double(_SMALL_EXPONENT))
    grown = exp.Div(this=growth, expression=exponent.copy())
    return exp.Paren(this=sql.case(grown, (is_small, times(logarithm, series))))


def _quantile(level: Level, place: int, step: StepShape) -> list[exp.Expr]:
    """The mean of the stretch that begins at or before a value, and of the one that ends at or behind it.

    They are the same but where the value is a point: then the one begins there and the other ends there.
    """
    value = level.input(step)
    last = step.shapes["from"][0] - 1
    names = (f"fp_q{place}", f"fp_r{place}")
    for name, (above, below) in zip(names, ((exp.GTE, exp.LT), (exp.GT, exp.LTE)), strict=True):
        inside = exp.And(
            this=above(this=value.copy(), expression=sql.column("fp_low", name)),
            expression=below(this=value.copy(), expression=sql.column("fp_high", name)),
        )
        level.joins.append((_stretches(level, place), name, inside))
    low, high = sql.column("fp_low", names[0]), sql.column("fp_high", names[1])
    begun = exp.Add(
        this=sql.column("fp_to_low", names[0]), expression=_rise(names[0], exp.Sub(this=value.copy(), expression=low))
    )
    left = exp.Sub(
        this=sql.column("fp_to_high", names[1]), expression=_rise(names[1], exp.Sub(this=high, expression=value.copy()))
    )
    both = exp.Paren(this=exp.Add(this=exp.Paren(this=begun), expression=exp.Paren(this=left)))
    margin = level.number(place, "margin")
    first, final = level.number(place, "from", 0), level.number(place, "from", last)
    is_first = exp.Or(
        this=exp.LTE(this=value.copy(), expression=first),
        expression=exp.LT(this=exp.Sub(this=value.copy(), expression=margin), expression=first.copy()),
    )
    is_last = exp.Or(
        this=exp.GTE(this=value.copy(), expression=final),
        expression=exp.GT(this=exp.Add(this=value.copy(), expression=margin.copy()), expression=final.copy()),
    )
    return [
        sql.case(
            exp.Mul(this=sql.double("0.5"), expression=both),
            (is_null(value), exp.null()),
            (is_first, level.number(place, "to", 0)),
            (is_last, level.number(place, "to", last)),
        )
    ]


def _rise(name: str, way: exp.Expr) -> exp.Expr:
    """Return how much a straight line rises on a way along a stretch."""
    low, high, to_low, to_high = (sql.column(each, name) for each in ("fp_low", "fp_high", "fp_to_low", "fp_to_high"))
    rise = exp.Paren(this=exp.Sub(this=to_high, expression=to_low))
    slope = exp.Paren(this=exp.Div(this=rise, expression=exp.Paren(this=exp.Sub(this=high, expression=low))))
    return exp.Mul(this=slope, expression=exp.Paren(this=way))


def _stretches(level: Level, place: int) -> exp.Select:
    """Return a row for each pair of points that follow one another."""

    def points(name: str) -> exp.Subquery:
        columns = [
            sql.column("item"),
            sql.named(picked(place, "from", None, None), "fp_from"),
            sql.named(picked(place, "to", None, None), "fp_to"),
        ]
        rows = sql.stored(columns, level.version.parameter_tables[0], level.version.partition)
        named = exp.In(this=sql.column("name"), expressions=[exp.Literal.string(each) for each in ("from", "to")])
        rows = rows.where(exp.and_(sql.equals("step", place), named), copy=False)
        return rows.group_by(sql.column("item"), copy=False).subquery(name, copy=False)

    follows = exp.EQ(
        this=sql.column("item", "fp_b"), expression=exp.Add(this=sql.column("item", "fp_a"), expression=sql.number(1))
    )
    columns = [
        sql.named(sql.column("fp_from", "fp_a"), "fp_low"),
        sql.named(sql.column("fp_from", "fp_b"), "fp_high"),
        sql.named(sql.column("fp_to", "fp_a"), "fp_to_low"),
        sql.named(sql.column("fp_to", "fp_b"), "fp_to_high"),
    ]
    return (
        exp.Select(expressions=columns)
        .from_(points("fp_a"), copy=False)
        .join(points("fp_b"), on=follows, join_type="inner", copy=False)
    )


def _normal(level: Level, _: int, step: StepShape) -> list[exp.Expr]:
    """`normal_quantile`; its coefficients are no parameters of a model."""

    def reached(item: int) -> exp.Expr:
        value = sql.column(level.names[step.inputs[item]])
        low, high = _constant(LOWEST), _constant(1.0 - LOWEST)
        below, above = exp.LT(this=value, expression=low), exp.GT(this=value.copy(), expression=high)
        p = level.let(0, sql.case(value.copy(), (below, low.copy()), (above, high.copy())))
        q = exp.Paren(this=exp.Sub(this=p, expression=_constant(0.5)))
        is_above = exp.GT(this=p.copy(), expression=_constant(0.5))
        smaller = sql.case(p.copy(), (is_above, exp.Sub(this=_constant(1.0), expression=p.copy())))
        root = exp.Sqrt(this=exp.Neg(this=exp.Paren(this=exp.Ln(this=smaller))))
        near = level.let(1, exp.Sub(this=_constant(CENTRE_SHIFT), expression=exp.Mul(this=q, expression=q.copy())))
        tail = _rational(level.let(1, exp.Sub(this=root, expression=_constant(TAIL_SHIFT))), TAILS)
        sign = sql.case(_constant(-1.0), (is_above.copy(), _constant(1.0)))
        return sql.case(
            exp.Mul(this=sign, expression=tail),
            (is_null(p.copy()), exp.null()),
            (
                exp.LTE(this=exp.Abs(this=q.copy()), expression=_constant(CENTRE)),
                exp.Mul(this=q.copy(), expression=_rational(near, CENTRAL)),
            ),
        )

    return [reached(item) for item in range(len(step.inputs))]


def _rational(x: exp.Expr, polynomials: Sequence[Sequence[float]]) -> exp.Expr:
    above, below = (
        reduce(
            lambda sum_, coefficient: exp.Paren(
                this=exp.Add(this=_constant(coefficient), expression=exp.Mul(this=x.copy(), expression=sum_))
            ),
            reversed(polynomial[:-1]),
            _constant(polynomial[-1]),
        )
        for polynomial in polynomials
    )
    return exp.Paren(this=exp.Div(this=above, expression=below))


def _constant(value: float) -> exp.Expr:
    return sql.double(repr(value))


def _bins(level: Level, place: int, step: StepShape) -> list[exp.Expr]:
    value = level.input(step)
    level.tell(0, is_null(value.copy()))
    passed: list[exp.Expr] = [
        sql.case(
            sql.double("0"),
            (exp.GTE(this=value.copy(), expression=level.number(place, "edge", item)), sql.double("1")),
        )
        for item in range(step.shapes["edge"][0])
    ]
    return [sql.case(sql.balanced(exp.Add, [sql.double("0"), *passed]), (is_null(value), exp.null()))]


def _map(level: Level, place: int, step: StepShape) -> list[exp.Expr]:
    is_missing = is_null(level.input(step))
    if step.options["missing"] == MISSING:
        level.tell(0, is_missing.copy())
    if is_joined(step):
        values, is_unknown = level.joined(place, step)
        found: list[list[_Branch]] = [[(exp.Not(this=exp.Paren(this=is_unknown.copy())), value)] for value in values]
    else:
        found, is_unknown = _pivoted(level, place, step)
    if step.options["unknown"] == INVALID:
        level.tell(1, exp.And(this=exp.Not(this=exp.Paren(this=is_missing.copy())), expression=is_unknown))

    def other(policy: str, output: int) -> exp.Expr:
        given = step.options[policy]
        return exp.null() if given in (NAN, INVALID, MISSING) else level.number(place, policy, 0, output)

    return [
        sql.case(other("unknown", output), (is_missing.copy(), other("missing", output)), *branches)
        for output, branches in enumerate(found)
    ]


def _pivoted(level: Level, place: int, step: StepShape) -> tuple[list[list[_Branch]], exp.Expr]:
    """Return for each output a branch per key, and whether the input is none of the keys."""
    column = "number" if "key" in step.shapes else "text"
    items = range(step.shapes["values"][0])
    keys = [level.number(place, "values", item, 0, column=column) for item in items]
    found: list[list[_Branch]] = [
        [
            (exp.EQ(this=level.input(step), expression=key.copy()), level.number(place, "values", item, output))
            for item, key in enumerate(keys)
        ]
        for output in range(len(step.outputs))
    ]
    others: list[exp.Expr] = [exp.NEQ(this=level.input(step), expression=key.copy()) for key in keys]
    return found, sql.balanced(exp.And, others) if others else exp.true()


def _onehot(level: Level, place: int, step: StepShape) -> list[exp.Expr]:
    def equal(output: int) -> exp.Expr:
        value = level.input(step)
        same = exp.EQ(this=value, expression=level.number(place, "number", output))
        return sql.case(sql.double("0"), (is_null(value.copy()), exp.null()), (same, sql.double("1")))

    return [equal(output) for output in range(len(step.outputs))]


def _product(level: Level, _: int, step: StepShape) -> list[exp.Expr]:
    for item in range(len(step.inputs)):
        level.tell(0, is_null(level.input(step, item)))
    terms = step.options["terms"]
    listed: Sequence[Sequence[int]] = terms if isinstance(terms, list) else []
    return [
        sql.balanced(exp.Mul, [level.input(step, item) for item in term]) if term else sql.double("1")
        for term in listed
    ]  # fmt: skip


EMIT: Mapping[StepKind, Emit] = {
    StepKind.FILL: _fill,
    StepKind.MISSING: _missing,
    StepKind.SCALE: _scale,
    StepKind.CLIP: _clip,
    StepKind.POWER: _power,
    StepKind.QUANTILE: _quantile,
    StepKind.NORMAL: _normal,
    StepKind.BINS: _bins,
    StepKind.MAP: _map,
    StepKind.ONEHOT: _onehot,
    StepKind.PRODUCT: _product,
}
"""What makes the columns of a step."""
