"""The shares of networks in the engine's SQL: a pivot, a cross join and an activation for each layer (ADR 0024).

A layer's weights lie in the table as rows. A pivot makes one wide row of each unit, a cross join with the samples' wide
rows makes one row per sample and unit, whose sum is a row of products as in `linear_sql`; a second pivot makes wide rows
of samples again, for the next layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlglot import exp

from fedpredict.tables import sql
from fedpredict.tables.activations_sql import activated
from fedpredict.tables.network import INTERCEPT_LAYER, shape_of
from fedpredict.tables.source import Source
from fedpredict.tables.version import ModelVersion

_SAMPLE = ("sample_id", "event_time")
_FLAGS = ("fp_unusable", "fp_infinite")
_KEPT = (*_SAMPLE, *_FLAGS, "fp_ties", "fp_unit")


@dataclass(frozen=True, slots=True)
class _Feature:
    """A feature in the statement: its column among the samples' rows, and for a category what it is looked up in."""

    at: int
    column: str
    is_text: bool = False
    width: int = 0
    has_unknown: bool = False

    @property
    def value(self) -> exp.Column:
        """What the samples have."""
        return sql.column(self.column, "fp_f")

    @property
    def is_unknown(self) -> exp.Expr:
        """Whether it is a category without a vector; also true where it is missing."""
        return exp.Is(this=sql.column("fp_key", f"fp_e{self.at}"), expression=exp.null())

    @property
    def is_usable(self) -> exp.Expr:
        """Whether it is there and finite."""
        if self.is_text:
            return exp.Not(this=exp.Is(this=self.value, expression=exp.null()))
        return exp.LTE(this=exp.Abs(this=self.value), expression=sql.double(sql.LARGEST))

    @property
    def invalid(self) -> list[exp.Expr]:
        """What makes it invalid: it is infinite, or a category that has no vector and may not be unknown."""
        size, lowest = exp.Abs(this=self.value), exp.Neg(this=sql.double(sql.LARGEST))
        infinite = [] if self.is_text else [exp.LT(this=exp.Neg(this=size), expression=lowest)]
        strange = self.width and not self.has_unknown
        return [*infinite, exp.Paren(this=exp.and_(self.is_unknown, self.is_usable))] if strange else list(infinite)

    @property
    def inputs(self) -> dict[str, exp.Expr]:
        """The inputs of the first layer that it gives, by the names of their columns.

        A column of numbers keeps its name, because Spark's optimizer needs minutes for 2,000 aliases; but a feature may
        be called what a column of this statement is.
        """
        if not self.width:
            return {f"fp_x{self.at}" if self.column.startswith("fp_") else self.column: self.value}
        return {
            f"fp_x{self.at}_{place}": sql.case(
                sql.column(f"fp_v{place}", f"fp_e{self.at}"), (self.is_unknown, sql.column(f"fp_v{place}", f"fp_u{self.at}"))
            )
            for place in range(self.width)
        }


def network_scores(version: ModelVersion, source: Source) -> exp.Select:
    """Return the raw scores of every row of a source, as `statements.Scored` says."""
    shape = shape_of(version)
    rows, inputs = _first_inputs(version, source)
    for layer, activation in enumerate(shape.activations):
        if layer:
            rows, inputs = _wide(rows, shape.units[layer - 1])
        rows = activated(activation, _summed(version, layer, rows, inputs), _KEPT, _SAMPLE)
    return _scores(version, rows)


def _features(version: ModelVersion, source: Source) -> list[_Feature]:
    embeddings = shape_of(version).embeddings
    return [
        _Feature(at, column, name in version.categories, *embeddings.get(name, (0, False)))
        for at, (name, column) in enumerate(source.column_of.items())
    ]


def _first_inputs(version: ModelVersion, source: Source) -> tuple[exp.Select, list[str]]:
    """Return every row with what goes into the first layer, and the names of these columns."""
    features = _features(version, source)
    samples = source.rows([*_SAMPLE, *source.column_of.values(), *(source.flags or ())])
    inputs = {name: value for each in features for name, value in each.inputs.items()}
    statement = exp.Select(
        expressions=[
            *(sql.column(name, "fp_f") for name in _SAMPLE),
            *_flags(features, source),
            sql.named(sql.number(1), "fp_ties"),
            *(value if value.name == name else sql.named(value, name) for name, value in inputs.items()),
        ]
    ).from_(samples.subquery("fp_f", copy=False), copy=False)
    for each in features:
        if each.width:
            statement = _looked_up(statement, version, each)
    return statement, list(inputs)


def _flags(features: Sequence[_Feature], source: Source) -> list[exp.Expr]:
    usable = [each.is_usable for each in features] or [exp.true()]
    invalid = [condition for each in features for condition in each.invalid] or [exp.false()]
    flags = [
        sql.case(sql.number(1), (sql.balanced(exp.And, usable), sql.number(0))),
        sql.case(sql.number(0), (sql.balanced(exp.Or, invalid), sql.number(1))),
    ]
    if source.flags is not None:
        flags = [
            exp.Add(this=own, expression=sql.column(name, "fp_f"))
            for own, name in zip(flags, source.flags, strict=True)
        ]
    return [sql.named(flag, name) for flag, name in zip(flags, _FLAGS, strict=True)]


def _looked_up(statement: exp.Select, version: ModelVersion, feature: _Feature) -> exp.Select:
    """Return the statement joined with a feature's vectors, and with the vector of what is none of its categories."""
    key = sql.column("category" if feature.is_text else "number")
    no_key = exp.Is(this=key.copy(), expression=exp.null())
    vectors = _vectors(version, feature, [sql.named(key, "fp_key")]).where(exp.Not(this=no_key), copy=False)
    found = exp.EQ(this=sql.column("fp_key", f"fp_e{feature.at}"), expression=feature.value)
    unknown = _vectors(version, feature, []).where(no_key.copy(), copy=False)
    return statement.join(
        vectors.group_by(key.copy(), copy=False).subquery(f"fp_e{feature.at}", copy=False),
        on=found,
        join_type="left",
        copy=False,
    ).join(unknown.subquery(f"fp_u{feature.at}", copy=False), join_type="cross", copy=False)


def _vectors(version: ModelVersion, feature: _Feature, keys: list[exp.Expr]) -> exp.Select:
    places = [sql.named(_picked("place", place, "value"), f"fp_v{place}") for place in range(feature.width)]
    rows = sql.stored([*keys, *places], version.parameter_tables[1], version.partition)
    return rows.where(sql.equals("feature", feature.at), copy=False)


def _picked(by: str, place: int, value: str, aggregate: type[exp.AggFunc] = exp.Max) -> exp.Expr:
    """Return the value of the one row of a group that has a number."""
    return aggregate(this=exp.Case(ifs=[exp.If(this=sql.equals(by, place), true=sql.column(value))]))


def _summed(version: ModelVersion, layer: int, samples: exp.Select, inputs: Sequence[str]) -> exp.Select:
    """Return each sample with each unit of a layer: `_KEPT`, the sum `fp_z`, and `fp_slope`."""
    terms = [
        exp.Mul(this=sql.column(name, "fp_s"), expression=sql.column(f"fp_w{at}", "fp_p"))
        for at, name in enumerate(inputs)
    ]
    columns = [
        *(sql.column(name, "fp_s") for name in _KEPT[:-1]),
        sql.column("fp_unit", "fp_p"),
        sql.named(sql.balanced(exp.Add, [*terms, sql.column("fp_bias", "fp_p")]), "fp_z"),
        sql.column("fp_slope", "fp_p"),
    ]
    return (
        exp.Select(expressions=columns)
        .from_(samples.subquery("fp_s", copy=False), copy=False)
        .join(_units(version, layer, len(inputs)).subquery("fp_p", copy=False), join_type="cross", copy=False)
    )


def _units(version: ModelVersion, layer: int, n_inputs: int) -> exp.Select:
    """Return one row for each unit of a layer, with all its weights."""
    is_bias = exp.Is(this=sql.column("input"), expression=exp.null())
    bias = exp.Max(this=exp.Case(ifs=[exp.If(this=is_bias, true=sql.column("weight"))]))
    columns = [
        sql.named(sql.column("unit"), "fp_unit"),
        sql.named(bias, "fp_bias"),
        sql.named(exp.Max(this=sql.column("slope")), "fp_slope"),
        *(sql.named(_picked("input", at, "weight"), f"fp_w{at}") for at in range(n_inputs)),
    ]
    rows = sql.stored(columns, version.parameter_tables[0], version.partition)
    return rows.where(sql.equals("layer", layer), copy=False).group_by(sql.column("unit"), copy=False)


def _wide(rows: exp.Select, n_units: int) -> tuple[exp.Select, list[str]]:
    """Return one row for each sample with the activations of all units, and the names of these columns."""
    inputs = [f"fp_a{unit}" for unit in range(n_units)]
    columns = [
        *sql.columns_of(*_SAMPLE),
        *(sql.named(exp.Max(this=sql.column(name)), name) for name in _FLAGS),
        sql.named(_picked("fp_unit", 0, "fp_ties", exp.Sum), "fp_ties"),
        *(sql.named(_picked("fp_unit", unit, "fp_a"), name) for unit, name in enumerate(inputs)),
    ]
    return sql.select_from(columns, rows).group_by(*sql.columns_of(*_SAMPLE), copy=False), inputs


def _scores(version: ModelVersion, rows: exp.Select) -> exp.Select:
    """Return the columns of `statements.Scored`: the last activations and the intercept, one row for each output."""
    keys = (*_SAMPLE, "output")
    sums = [sql.named(exp.Sum(this=sql.column(name)), name) for name in ("fp_raw", *_FLAGS, "fp_ties")]
    if version.holds_intercept:
        rows = _with_intercept(version, rows)
    else:
        columns = [*sql.columns_of(*_KEPT[:-1]), sql.named(sql.column("fp_unit"), "output")]
        rows = sql.select_from([*columns, sql.named(sql.column("fp_a"), "fp_raw")], rows)
    return sql.select_from([*sql.columns_of(*keys), *sums], rows).group_by(*sql.columns_of(*keys), copy=False)


def _with_intercept(version: ModelVersion, rows: exp.Select) -> exp.Select:
    """Return the rows with the intercept added; an output whose intercept is lost has none, which is noticed."""
    columns = [
        *(sql.column(name, "fp_s") for name in _KEPT[:-1]),
        sql.named(sql.column("fp_unit", "fp_s"), "output"),
        sql.named(exp.Add(this=sql.column("fp_a", "fp_s"), expression=sql.column("weight", "fp_p")), "fp_raw"),
    ]
    stored = sql.stored(sql.columns_of("unit", "weight"), version.parameter_tables[0], version.partition)
    intercept = stored.where(sql.equals("layer", INTERCEPT_LAYER), copy=False)
    same = exp.EQ(this=sql.column("fp_unit", "fp_s"), expression=sql.column("unit", "fp_p"))
    return (
        exp.Select(expressions=columns)
        .from_(rows.subquery("fp_s", copy=False), copy=False)
        .join(intercept.subquery("fp_p", copy=False), on=same, join_type="inner", copy=False)
    )
