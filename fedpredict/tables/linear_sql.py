"""The shares of linear parts in the engine's SQL."""

from __future__ import annotations

from collections.abc import Sequence

from sqlglot import exp

from fedpredict.tables import sql
from fedpredict.tables.linear import exposure_of, weight_columns
from fedpredict.tables.source import Source
from fedpredict.tables.version import ModelVersion


def linear_scores(version: ModelVersion, source: Source) -> exp.Select:
    """Return the raw scores of every row of a source, as `statements.Scored` says."""
    weights = weight_columns(version.features)
    exposure = exposure_of(version.options)
    return weighted_scores(
        source,
        list(source.column_of.values()),
        weights,
        linear_parameters(version, weights),
        exposure=None if exposure is None else source.column_of[exposure],
    )


def weighted_scores(
    source: Source,
    features: Sequence[str],
    weights: Sequence[str],
    parameters: exp.Select,
    *,
    exposure: str | None = None,
) -> exp.Select:
    """Return weighted sums of a source's columns, as `statements.Scored` says.

    Args:
        source: The rows.
        features: The columns.
        weights: For each of them, the column of its weight.
        parameters: One row per score: output, the weights, fp_offset, and the largest finite number as fp_top.
        exposure: The column that enters by its logarithm.

    Grouping keeps Hive from moving the arithmetic behind the windows that follow, and so 2,000 columns into them.
    """
    keys = ("sample_id", "event_time", "output")
    sums = [sql.named(exp.Sum(this=sql.column(name)), name) for name in ("fp_raw", "fp_unusable", "fp_infinite")]
    ties = sql.named(exp.Count(this=exp.Star()), "fp_ties")
    rows = _scored(source, features, weights, parameters, exposure=exposure)
    scored = sql.select_from([*sql.columns_of(*keys), *sums, ties], rows)
    return scored.group_by(*sql.columns_of(*keys), copy=False)


def _scored(
    source: Source,
    feature_names: Sequence[str],
    weight_names: Sequence[str],
    parameters: exp.Select,
    *,
    exposure: str | None,
) -> exp.Select:
    """Return every row with every output: fp_raw, and whether a feature is not finite, or infinite.

    Rows that are not the latest of their sample are scored too, because an engine passes 2,000 columns through
    arithmetic quickly, but not through a sort. Columns keep their names, because Spark's optimizer needs minutes for
    2,000 aliases.
    """
    features = [sql.column(name, "fp_f") for name in feature_names]
    weights = [sql.column(name, "fp_p") for name in weight_names]
    terms = [
        exp.Mul(this=_logarithm(each) if each.name == exposure else each, expression=weight)
        for each, weight in zip(features, weights, strict=True)
    ]
    columns = [
        *(sql.column(name, "fp_f") for name in ("sample_id", "event_time")),
        sql.column("output", "fp_p"),
        sql.named(sql.balanced(exp.Add, [*terms, sql.column("fp_offset", "fp_p")]), "fp_raw"),
        *(
            sql.named(flag, name)
            for flag, name in zip(_flags(source, features, exposure), ("fp_unusable", "fp_infinite"), strict=True)
        ),
    ]
    rows = source.rows(["sample_id", "event_time", *feature_names, *(source.flags or ())])
    return (
        exp.Select(expressions=columns)
        .from_(rows.subquery("fp_f", copy=False), copy=False)
        .join(parameters.subquery("fp_p", copy=False), join_type="cross", copy=False)
    )


def _flags(source: Source, features: Sequence[exp.Column], exposure: str | None) -> list[exp.Expr]:
    """Return whether some feature is not finite, and whether some is infinite or an exposure without a logarithm."""
    top, lowest = sql.column("fp_top", "fp_p"), exp.Neg(this=sql.column("fp_top", "fp_p"))
    sizes = [exp.Abs(this=each.copy()) for each in features]
    finite = [exp.LTE(this=size, expression=top.copy()) for size in sizes]
    infinite: list[exp.Expr] = [exp.LT(this=exp.Neg(this=size.copy()), expression=lowest.copy()) for size in sizes]
    if exposure is not None:
        infinite.append(exp.LTE(this=sql.column(exposure, "fp_f"), expression=sql.number(0)))
    flags: list[exp.Expr] = [
        sql.case(sql.number(1), (sql.balanced(exp.And, finite or [exp.true()]), sql.number(0))),
        sql.case(sql.number(0), (sql.balanced(exp.Or, infinite or [exp.false()]), sql.number(1))),
    ]
    if source.flags is None:
        return flags
    return [
        sql.balanced(exp.Add, [flag, sql.column(name, "fp_f")]) for flag, name in zip(flags, source.flags, strict=True)
    ]


def _logarithm(feature: exp.Column) -> exp.Expr:
    """Return the natural logarithm of a feature; of 1 where it has none, as DuckDB fails at it and Spark says NULL."""
    positive = exp.GT(this=feature.copy(), expression=sql.number(0))
    finite = exp.LTE(this=feature.copy(), expression=sql.column("fp_top", "fp_p"))
    return exp.Ln(this=sql.case(sql.double("1"), (exp.and_(positive, finite), feature.copy())))


def linear_parameters(version: ModelVersion, weights: Sequence[str]) -> exp.Select:
    """Return the parameter rows: output, weights, the sum of intercept and constant, and the largest finite number."""
    intercept = exp.Coalesce(this=sql.column("intercept"), expressions=[sql.double("0")])
    fixed = [
        sql.column("output"),
        sql.named(sql.balanced(exp.Add, [intercept, sql.column("constant")]), "fp_offset"),
        sql.named(sql.double(sql.LARGEST), "fp_top"),
    ]
    return sql.stored([*fixed, *sql.columns_of(*weights)], version.parameter_tables[0], version.partition)
