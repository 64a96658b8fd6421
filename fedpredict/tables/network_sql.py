"""The shares of networks in the engine's SQL: a join, a row of products and a pivot for each layer (ADR 0024).

A row of the parameter table has up to `BLOCK` weights of a unit, a row of samples as many inputs. Joined, they make one
row for each sample and unit, whose sum is a row of products as in `linear_sql` (the sum of several, where there are
more inputs). A pivot makes wide rows of samples again, for the next layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlglot import exp

from fedpredict.tables import sql
from fedpredict.tables.activations_sql import activated
from fedpredict.tables.layer_rows import BLOCK, n_blocks
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
                sql.column(f"fp_v{place}", f"fp_e{self.at}"),
                (self.is_unknown, sql.column(f"fp_v{place}", f"fp_u{self.at}")),
            )
            for place in range(self.width)
        }


def network_scores(version: ModelVersion, source: Source) -> exp.Select:
    """Return the raw scores of every row of a source, as `statements.Scored` says."""
    shape = shape_of(version)
    rows = _summed(version, 0, *_first_inputs(version, source))
    for layer, activation in enumerate(shape.activations):
        if layer:
            n_inputs = shape.units[layer - 1]
            rows = _summed_wide(version, layer, _wide(rows, n_inputs), n_inputs)
        rows = activated(activation, rows, _KEPT, _SAMPLE)
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
    flags: list[exp.Expr] = [
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
    # Hive joins bits, and -0.0 plus 0.0 is 0.0
    value = feature.value if feature.is_text else exp.Add(this=feature.value, expression=sql.double("0"))
    found = exp.EQ(this=sql.column("fp_key", f"fp_e{feature.at}"), expression=value)
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
    """Return each sample with each unit of the first layer, whose inputs are columns of one row."""
    blocks = [inputs[start : start + BLOCK] for start in range(0, len(inputs), BLOCK)] or [[]]
    sums = [_products(block) for block in blocks]
    total = sums[0]
    if len(sums) > 1:
        branches = [(exp.EQ(this=_weight("block"), expression=sql.number(at)), each) for at, each in enumerate(sums)]
        total = sql.case(exp.null(), *branches)
    return _joined(version, layer, samples, total, len(blocks), is_first=True)


def _summed_wide(version: ModelVersion, layer: int, samples: exp.Select, n_inputs: int) -> exp.Select:
    """Return each sample with each unit of a later layer, whose inputs are the columns of `_wide`."""
    count = n_blocks(n_inputs)
    names = _places(n_inputs)
    whole = n_inputs - (count - 1) * BLOCK
    terms: list[exp.Expr] = [_product(name, at) for at, name in enumerate(names)]
    is_last = exp.EQ(this=_weight("block"), expression=sql.number(count - 1))
    # the last row of a sample, and that of a unit, have NULL behind the last input
    terms = [each if at < whole else sql.case(each, (is_last.copy(), sql.double("0"))) for at, each in enumerate(terms)]
    return _joined(version, layer, samples, sql.balanced(exp.Add, terms), count, is_first=False)


def _products(block: Sequence[str]) -> exp.Expr:
    terms = [_product(name, at) for at, name in enumerate(block)]
    return sql.balanced(exp.Add, terms) if terms else sql.double("0")


def _product(name: str, at: int) -> exp.Expr:
    return exp.Mul(this=sql.column(name, "fp_s"), expression=_weight(f"w_{at}"))


def _weight(name: str) -> exp.Column:
    return sql.column(name, "fp_p")


def _joined(
    version: ModelVersion, layer: int, samples: exp.Select, total: exp.Expr, count: int, *, is_first: bool
) -> exp.Select:
    """Return `_KEPT`, the sum `fp_z` and `fp_slope` for each sample and unit of a layer.

    Args:
        version: With the parameter table.
        layer: Which.
        samples: One row for each sample; where it is not the first layer, for each sample and block.
        total: The sum of the products of such a row (`fp_s`) and a row of a unit (`fp_p`).
        count: How many blocks there are.
        is_first: Whether this is the first layer.
    """
    columns = [
        *(sql.column(name, "fp_s") for name in _KEPT[:-1]),
        sql.named(_weight("unit"), "fp_unit"),
        sql.named(_weight("block"), "fp_block"),
        sql.named(exp.Add(this=total, expression=_bias(count)), "fp_z"),
        sql.named(_weight("slope"), "fp_slope"),
    ]
    parameters = sql.stored(
        sql.columns_of("unit", "block", "bias", "slope", *(f"w_{at}" for at in range(BLOCK))),
        version.parameter_tables[0],
        version.partition,
    ).where(sql.equals("layer", layer), copy=False)
    same = None if is_first or count == 1 else exp.EQ(this=sql.column("fp_block", "fp_s"), expression=_weight("block"))
    rows = (
        exp.Select(expressions=columns)
        .from_(samples.subquery("fp_s", copy=False), copy=False)
        .join(
            parameters.subquery("fp_p", copy=False), on=same, join_type="cross" if same is None else "inner", copy=False
        )
    )
    return rows if count == 1 else _added(rows, count)


def _bias(count: int) -> exp.Expr:
    """Return the bias, which only the first block of a unit has."""
    if count == 1:
        return _weight("bias")
    return sql.case(sql.double("0"), (exp.EQ(this=_weight("block"), expression=sql.number(0)), _weight("bias")))


def _added(rows: exp.Select, count: int) -> exp.Select:
    """Return the sums over all blocks; a unit of which one is lost has none, which is noticed."""
    keys = [*_SAMPLE, "fp_unit"]
    complete = exp.EQ(this=exp.Count(this=exp.Star()), expression=sql.number(count))
    columns = [
        *sql.columns_of(*keys),
        *(sql.named(exp.Max(this=sql.column(name)), name) for name in _FLAGS),
        sql.named(_picked("fp_block", 0, "fp_ties", exp.Sum), "fp_ties"),
        sql.named(sql.case(exp.null(), (complete, exp.Sum(this=sql.column("fp_z")))), "fp_z"),
        sql.named(exp.Max(this=sql.column("fp_slope")), "fp_slope"),
    ]
    return sql.select_from(columns, rows).group_by(*sql.columns_of(*keys), copy=False)


def _places(n_units: int) -> list[str]:
    return [f"fp_a{place}" for place in range(min(n_units, BLOCK))]


def _wide(rows: exp.Select, n_units: int) -> exp.Select:
    """Return the activations of all units of a sample in one row, or where they are more than `BLOCK`, in several."""
    starts = range(BLOCK, n_units, BLOCK)
    keys = list(_SAMPLE)
    if starts:
        branches = [(sql.compare(exp.LT, "fp_unit", start), sql.number(block)) for block, start in enumerate(starts)]
        block = sql.named(sql.case(sql.number(len(branches)), *branches), "fp_block")
        rows = sql.select_from([*sql.columns_of(*_KEPT, "fp_a"), block], rows)
        keys.append("fp_block")
    columns = [
        *sql.columns_of(*keys),
        *(sql.named(exp.Max(this=sql.column(name)), name) for name in _FLAGS),
        sql.named(_picked("fp_unit", 0, "fp_ties", exp.Sum), "fp_ties"),
        *(sql.named(_of_units(range(at, n_units, BLOCK)), name) for at, name in enumerate(_places(n_units))),
    ]
    return sql.select_from(columns, rows).group_by(*sql.columns_of(*keys), copy=False)


def _of_units(units: range) -> exp.Expr:
    """Return the activation of the one unit of a group that is among some."""
    if len(units) == 1:
        return _picked("fp_unit", units[0], "fp_a")
    among = exp.In(this=sql.column("fp_unit"), expressions=[sql.number(each) for each in units])
    return exp.Max(this=exp.Case(ifs=[exp.If(this=among, true=sql.column("fp_a"))]))


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
        sql.named(exp.Add(this=sql.column("fp_a", "fp_s"), expression=sql.column("bias", "fp_p")), "fp_raw"),
    ]
    stored = sql.stored(sql.columns_of("unit", "bias"), version.parameter_tables[0], version.partition)
    intercept = stored.where(sql.equals("layer", INTERCEPT_LAYER), copy=False)
    same = exp.EQ(this=sql.column("fp_unit", "fp_s"), expression=sql.column("unit", "fp_p"))
    return (
        exp.Select(expressions=columns)
        .from_(rows.subquery("fp_s", copy=False), copy=False)
        .join(intercept.subquery("fp_p", copy=False), on=same, join_type="inner", copy=False)
    )
