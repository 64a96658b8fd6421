"""Steps in the engine's SQL: columns made of a source's columns, level by level, for the statement of the core.

A level is one query around the one before: what reads features stands in the first, what reads its outputs in the
second. Parameters come from the table of the steps, pivoted into one row, or, for a `map`, joined by the value itself.
From the first query on, a number that is missing is NULL; NaN is no longer there, so that SQL's own rules hold.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from sqlglot import exp

from fedpredict.model.part import Family
from fedpredict.model.step import refused_infinities
from fedpredict.tables import sql
from fedpredict.tables.linear import exposure_of
from fedpredict.tables.linear_sql import weighted_scores
from fedpredict.tables.source import Source
from fedpredict.tables.step_kinds_sql import EMIT
from fedpredict.tables.steps_level import FLAGS, KEYS, Level, is_infinite, picked
from fedpredict.tables.steps_options import StepsOptions, core_version, levels_of, parse_options
from fedpredict.tables.version import ModelVersion


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
    exposure = exposure_of(shape.core_options)
    exposed = None if exposure is None else derived.column_of[exposure]
    columns = list(derived.column_of.values())
    return weighted_scores(derived, columns, weights, _weights(version, shape, weights), exposure=exposed)


def _weights(version: ModelVersion, shape: StepsOptions, names: Sequence[str]) -> exp.Select:
    """Return a row for each score: output, the weights, the sum of intercept and constant, the largest number."""
    step = len(shape.steps)

    def pivoted(name: str, item: int) -> exp.Expr:
        return picked(step, name, item, None)

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
    refused = dict(enumerate(refused_infinities(shape.steps)))
    layers: list[Level] = []
    for steps in reversed(levels_of(shape.steps)):
        made = {name for _, step in steps for name in step.outputs}
        carried = [name for name in names if name in needed - made]
        layers.append(Level(version, names, steps, carried, refused))
        needed = {*carried, *(name for _, step in steps for name in step.inputs)}
    rows = _features(version, source, names)
    for layer in reversed(layers):
        rows = layer.around(rows, EMIT)

    def of(columns: Sequence[str]) -> exp.Select:
        return sql.select_from(sql.columns_of(*columns), rows)

    return Source({name: names[name] for name in shape.core_features}, of, FLAGS)


def _features(version: ModelVersion, source: Source, names: Mapping[str, str]) -> exp.Select:
    """Return the features under their new names, NULL for NaN, and the flags so far."""
    columns: list[exp.Expr] = []
    infinite: list[exp.Expr] = []
    for name in version.features:
        column: exp.Expr = sql.column(source.column_of[name])
        if name not in version.categories:
            finite = exp.LTE(this=exp.Abs(this=column.copy()), expression=sql.double(sql.LARGEST))
            infinite.append(is_infinite(column.copy()))
            column = sql.case(exp.null(), (finite, column), (infinite[-1].copy(), column.copy()))
        columns.append(sql.named(column, names[name]))
    flag = sql.case(sql.number(0), (sql.balanced(exp.Or, infinite or [exp.false()]), sql.number(1)))
    before: list[exp.Expr] = [sql.column(name) for name in source.flags or ()] or [sql.number(0), sql.number(0)]
    flags = [sql.named(before[0], FLAGS[0]), sql.named(sql.balanced(exp.Add, [flag, before[1]]), FLAGS[1])]
    stored = [source.column_of[name] for name in version.features]
    rows = source.rows([*KEYS, *stored, *(source.flags or ())])
    return sql.select_from([*sql.columns_of(*KEYS), *columns, *flags], rows)
