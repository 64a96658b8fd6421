"""Steps in the engine's SQL: columns made of a source's columns, level by level, for the statement of the core.

A level is one query around the one before: what reads features stands in the first, what reads its outputs in the
second. Parameters come from the table of the steps, pivoted into one row, or, for a `map`, joined by the value itself.
From the first query on, a number that is missing is NULL; NaN is no longer there, so that SQL's own rules hold.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce

from sqlglot import exp

from fedpredict.model.part import Family
from fedpredict.model.step import BOX_COX, INVALID, MISSING, NAN, StepKind
from fedpredict.tables import sql
from fedpredict.tables.linear_sql import weighted_scores
from fedpredict.tables.source import Source
from fedpredict.tables.steps_options import StepShape, StepsOptions, core_version, parse_options
from fedpredict.tables.version import ModelVersion

_KEYS = ("sample_id", "event_time")
_FLAGS = ("fp_missing", "fp_invalid")
_SMALL_EXPONENT = "0.00001"


def steps_scores(
    scored: Mapping[Family, Callable[[ModelVersion, Source], exp.Select]], version: ModelVersion, source: Source
) -> exp.Select:
    """Return the raw scores of every row of a source, as `statements.Scored` says.

    Args:
        scored: The statements of the families that may stand behind steps.
        version: Which parameters.
        source: The features.
    """
    shape = parse_options(version.options)
    derived = _derived(version, shape, source)
    if shape.core is not Family.LINEAR:
        return scored[shape.core](core_version(version, shape), derived)
    weights = [f"fp_w{place}" for place in range(len(shape.core_features))]
    return weighted_scores(derived, list(derived.column_of.values()), weights, _weights(version, shape, weights))


def _weights(version: ModelVersion, shape: StepsOptions, names: Sequence[str]) -> exp.Select:
    """Return a row for each score: output, the weights, the sum of intercept and constant, the largest number."""
    step = len(shape.steps)

    def pivoted(name: str, item: int) -> exp.Expr:
        return _picked(step, name, item, None)

    intercept = exp.Coalesce(this=pivoted("intercept", 0), expressions=[sql.double("0")])
    columns = [
        sql.column("output"),
        sql.named(sql.balanced(exp.Add, [intercept, pivoted("constant", 0)]), "fp_offset"),
        sql.named(sql.double(sql.LARGEST), "fp_top"),
        *(sql.named(pivoted("weight", item), name) for item, name in enumerate(names)),
    ]
    rows = sql.stored(columns, version.parameter_tables[0], version.partition)
    return rows.where(sql.equals("step", step), copy=False).group_by(sql.column("output"), copy=False)


def _derived(version: ModelVersion, shape: StepsOptions, source: Source) -> Source:
    """Return the columns that the core reads as a source, with what the steps say of a row as its flags."""
    names = {name: f"fp_x{place}" for place, name in enumerate(version.features)}
    for step in shape.steps:
        names |= {name: f"fp_x{len(names) + place}" for place, name in enumerate(step.outputs)}
    needed = set(shape.core_features)
    layers: list[_Level] = []
    for steps in reversed(_levels(version.features, shape.steps)):
        made = {name for _, step in steps for name in step.outputs}
        carried = [name for name in names if name in needed - made]
        layers.append(_Level(version, names, steps, carried))
        needed = {*carried, *(name for _, step in steps for name in step.inputs)}
    rows = _features(version, source, names)
    for layer in reversed(layers):
        rows = layer.around(rows)

    def of(columns: Sequence[str]) -> exp.Select:
        return sql.select_from(sql.columns_of(*columns), rows)

    return Source({name: names[name] for name in shape.core_features}, of, _FLAGS)


def _levels(features: Sequence[str], steps: Sequence[StepShape]) -> list[list[tuple[int, StepShape]]]:
    """Return the steps (with their places) by how many stand in front of them, one behind another."""
    depth = dict.fromkeys(features, 0)
    found: list[list[tuple[int, StepShape]]] = []
    for place, step in enumerate(steps):
        own = max((depth[name] for name in step.inputs), default=0)
        depth |= dict.fromkeys(step.outputs, own + 1)
        if len(found) <= own:
            found.append([])
        found[own].append((place, step))
    return found


def _features(version: ModelVersion, source: Source, names: Mapping[str, str]) -> exp.Select:
    """Return the features under their new names, NULL for NaN, and the flags so far."""
    columns: list[exp.Expr] = []
    infinite: list[exp.Expr] = []
    for name in version.features:
        column: exp.Expr = sql.column(source.column_of[name])
        if name not in version.categories:
            finite = exp.LTE(this=exp.Abs(this=column.copy()), expression=sql.double(sql.LARGEST))
            infinite.append(exp.LT(this=exp.Neg(this=exp.Abs(this=column.copy())), expression=_lowest()))
            column = sql.case(exp.null(), (finite, column), (infinite[-1].copy(), column.copy()))
        columns.append(sql.named(column, names[name]))
    flag = sql.case(sql.number(0), (sql.balanced(exp.Or, infinite or [exp.false()]), sql.number(1)))
    before: list[exp.Expr] = [sql.column(name) for name in source.flags or ()] or [sql.number(0), sql.number(0)]
    flags = [sql.named(before[0], _FLAGS[0]), sql.named(sql.balanced(exp.Add, [flag, before[1]]), _FLAGS[1])]
    stored = [source.column_of[name] for name in version.features]
    rows = source.rows([*_KEYS, *stored, *(source.flags or ())])
    return sql.select_from([*sql.columns_of(*_KEYS), *columns, *flags], rows)


def _lowest() -> exp.Expr:
    return exp.Neg(this=sql.double(sql.LARGEST))


@dataclass(slots=True)
class _Level:
    """The query for one level of steps."""

    version: ModelVersion
    names: Mapping[str, str]
    steps: Sequence[tuple[int, StepShape]]
    carried: Sequence[str]
    pivoted: dict[tuple[int, str, int, int], str] = field(default_factory=dict)
    """(step, name, item, output) -> the column of the one row of parameters."""
    joins: list[tuple[exp.Select, str, exp.Expr]] = field(default_factory=list)
    """Queries to join, under a name, on a condition."""
    flags: tuple[list[exp.Expr], list[exp.Expr]] = field(default_factory=lambda: ([], []))
    """Conditions under which a row is missing something, and under which it is invalid."""

    def around(self, rows: exp.Select) -> exp.Select:
        """Return the query around the one of the level before."""
        made = [
            sql.named(value, self.names[name])
            for place, step in self.steps
            for name, value in zip(step.outputs, _EMIT[step.kind](self, place, step), strict=True)
        ]
        flags = [
            sql.named(self._flag(name, conditions), name)
            for name, conditions in zip(_FLAGS, self.flags, strict=True)
        ]  # fmt: skip
        kept = [sql.column(name, "fp_f") for name in (*_KEYS, *(self.names[each] for each in self.carried))]
        query = exp.Select(expressions=[*kept, *made, *flags]).from_(rows.subquery("fp_f", copy=False), copy=False)
        if self.pivoted:
            query = query.join(self._parameters().subquery("fp_p", copy=False), join_type="cross", copy=False)
        for joined, name, condition in self.joins:
            query = query.join(joined.subquery(name, copy=False), on=condition, join_type="left", copy=False)
        return query

    def input(self, step: StepShape, place: int = 0) -> exp.Expr:
        """Return a column that a step reads."""
        return sql.column(self.names[step.inputs[place]], "fp_f")

    def number(self, step: int, name: str, item: int = 0, output: int = 0) -> exp.Expr:
        """Return a parameter of a step."""
        known = self.pivoted.setdefault((step, name, item, output), f"fp_p{len(self.pivoted)}")
        return sql.column(known, "fp_p")

    def tell(self, place: int, condition: exp.Expr) -> None:
        """Have rows flagged where a condition holds: as missing (0), as invalid (1)."""
        self.flags[place].append(condition)

    def _flag(self, name: str, conditions: Sequence[exp.Expr]) -> exp.Expr:
        before = sql.column(name, "fp_f")
        if not conditions:
            return before
        found = sql.case(sql.number(0), (sql.balanced(exp.Or, conditions), sql.number(1)))
        return sql.balanced(exp.Add, [before, found])

    def _parameters(self) -> exp.Select:
        columns = [sql.named(_picked(*key), name) for key, name in self.pivoted.items()]
        return sql.stored(columns, self.version.parameter_tables[0], self.version.partition)

    def joined(self, place: int, step: StepShape) -> tuple[list[exp.Expr], exp.Expr]:
        """Join the rows of a map; return its values, and whether the input is none of its keys."""
        name, width = f"fp_m{place}", len(step.outputs)
        is_number = "key" in step.shapes
        found = _picked(place, "key", None, None) if is_number else exp.Max(this=sql.column("text"))
        columns = [
            sql.named(_positive(found) if is_number else found, "fp_key"),
            *(sql.named(_picked(place, "values", None, output), f"fp_v{output}") for output in range(width)),
        ]
        rows = sql.stored(columns, self.version.parameter_tables[0], self.version.partition)
        of_step = exp.and_(sql.equals("step", place), _is_one_of("name", ["values", *(["key"] if is_number else [])]))
        rows = rows.where(of_step, copy=False).group_by(sql.column("item"), copy=False)
        key = sql.column("fp_key", name)
        given = _positive(self.input(step)) if is_number else self.input(step)
        self.joins.append((rows, name, exp.EQ(this=given, expression=key)))
        values: list[exp.Expr] = [sql.column(f"fp_v{output}", name) for output in range(width)]
        return values, _is_null(key.copy())


def _positive(value: exp.Expr) -> exp.Expr:
    """Return 0.0 for -0.0: a join may tell them apart."""
    return exp.Add(this=value, expression=sql.double("0"))


def _picked(step: int, name: str, item: int | None, output: int | None) -> exp.Expr:
    """Return the one value of some rows of the table, NULL for none; None: of any item or output that is grouped."""
    wanted = [sql.equals("step", step), exp.EQ(this=sql.column("name"), expression=exp.Literal.string(name))]
    if item is not None:
        wanted.append(sql.equals("item", item))
    if output is not None:
        wanted.append(sql.equals("output", output))
    return exp.Max(this=sql.case(exp.null(), (exp.and_(*wanted), sql.column("value"))))


def _is_one_of(name: str, texts: Sequence[str]) -> exp.Expr:
    return exp.In(this=sql.column(name), expressions=[exp.Literal.string(text) for text in texts])


def _is_null(value: exp.Expr) -> exp.Expr:
    return exp.Is(this=value, expression=exp.null())


def _fill(level: _Level, place: int, step: StepShape) -> list[exp.Expr]:
    return [
        exp.Coalesce(this=level.input(step, item), expressions=[level.number(place, "number", item)])
        for item in range(len(step.inputs))
    ]


def _missing(level: _Level, _: int, step: StepShape) -> list[exp.Expr]:
    one, zero = sql.double("1"), sql.double("0")
    return [sql.case(zero.copy(), (_is_null(level.input(step, item)), one.copy())) for item in range(len(step.inputs))]


def _scale(level: _Level, place: int, step: StepShape) -> list[exp.Expr]:
    operators = {"subtract": exp.Sub, "divide": exp.Div, "multiply": exp.Mul, "add": exp.Add}

    def scaled(item: int) -> exp.Expr:
        value = level.input(step, item)
        for name, operator in operators.items():
            if name in step.shapes:
                value = exp.Paren(this=operator(this=value, expression=level.number(place, name, item)))
        return value

    return [scaled(item) for item in range(len(step.inputs))]


def _clip(level: _Level, place: int, step: StepShape) -> list[exp.Expr]:
    def clipped(item: int) -> exp.Expr:
        value, low, high = level.input(step, item), level.number(place, "low", item), level.number(place, "high", item)
        below, above = exp.LT(this=value, expression=low), exp.GT(this=value.copy(), expression=high)
        return sql.case(value.copy(), (below, low.copy()), (above, high.copy()))

    return [clipped(item) for item in range(len(step.inputs))]


def _power(level: _Level, place: int, step: StepShape) -> list[exp.Expr]:
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


def _bins(level: _Level, place: int, step: StepShape) -> list[exp.Expr]:
    value = level.input(step)
    level.tell(0, _is_null(value.copy()))
    passed: list[exp.Expr] = [
        sql.case(
            sql.double("0"),
            (exp.GTE(this=value.copy(), expression=level.number(place, "edge", item)), sql.double("1")),
        )
        for item in range(step.shapes["edge"][0])
    ]
    return [sql.case(sql.balanced(exp.Add, [sql.double("0"), *passed]), (_is_null(value), exp.null()))]


def _map(level: _Level, place: int, step: StepShape) -> list[exp.Expr]:
    values, is_unknown = level.joined(place, step)
    is_missing = _is_null(level.input(step))
    if step.options["missing"] == MISSING:
        level.tell(0, is_missing.copy())
    if step.options["unknown"] == INVALID:
        level.tell(1, exp.And(this=exp.Not(this=exp.Paren(this=is_missing.copy())), expression=is_unknown.copy()))

    def other(policy: str, output: int) -> exp.Expr:
        given = step.options[policy]
        return exp.null() if given in (NAN, INVALID, MISSING) else level.number(place, policy, 0, output)

    return [
        sql.case(value, (is_missing.copy(), other("missing", output)), (is_unknown.copy(), other("unknown", output)))
        for output, value in enumerate(values)
    ]


def _onehot(level: _Level, place: int, step: StepShape) -> list[exp.Expr]:
    def equal(output: int) -> exp.Expr:
        value = level.input(step)
        same = exp.EQ(this=value, expression=level.number(place, "number", output))
        return sql.case(sql.double("0"), (_is_null(value.copy()), exp.null()), (same, sql.double("1")))

    return [equal(output) for output in range(len(step.outputs))]


def _product(level: _Level, _: int, step: StepShape) -> list[exp.Expr]:
    for item in range(len(step.inputs)):
        level.tell(0, _is_null(level.input(step, item)))
    terms = step.options["terms"]
    listed: Sequence[Sequence[int]] = terms if isinstance(terms, list) else []
    return [
        sql.balanced(exp.Mul, [level.input(step, item) for item in term]) if term else sql.double("1")
        for term in listed
    ]  # fmt: skip


_EMIT: Mapping[StepKind, Callable[[_Level, int, StepShape], list[exp.Expr]]] = {
    StepKind.FILL: _fill,
    StepKind.MISSING: _missing,
    StepKind.SCALE: _scale,
    StepKind.CLIP: _clip,
    StepKind.POWER: _power,
    StepKind.BINS: _bins,
    StepKind.MAP: _map,
    StepKind.ONEHOT: _onehot,
    StepKind.PRODUCT: _product,
}
