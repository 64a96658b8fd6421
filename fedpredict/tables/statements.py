"""Scoring in the warehouse's own engine: one query over the feature table and the parameter table.

The query holds names and bound values only; the weights are joined from the parameter table, so they never stand in
SQL text that a server may log. It is one sqlglot tree for DuckDB, Hive and Spark, and avoids what they disagree on:

- NaN equals itself and is the largest number in DuckDB and Spark; in Hive that depends on the way of execution. So
  features and scores are only asked `abs(x) <= largest` (finite) and `-abs(x) < -largest` (infinite): both are false
  for NaN in either world, and neither is negated.
- There is no QUALIFY, and no call of a function that an engine may lack.
- A chain of 2,000 additions is too deep for some engines, and in a balanced tree Spark's parser looks far ahead at
  every parenthesis: a sum is about 45 sums of about 45 terms.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import reduce

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from sqlglot import exp

from fedpredict.errors import TableCorruptError
from fedpredict.model.share import SampleStatus
from fedpredict.tables.linear import weight_columns
from fedpredict.tables.names import column_names
from fedpredict.tables.version import ModelVersion
from fedpredict.tables.views import Snapshot
from fedpredict.warehouse.base import Partition, Value, Warehouse

_LARGEST = "1.7976931348623157e308"


def linear_scores(version: ModelVersion, snapshot: Snapshot) -> tuple[exp.Expression, dict[str, Value]]:
    """Return the query for the partial scores of every sample of a snapshot, and the values to bind.

    Its rows, in any order, one per sample and output: sample_id, event_time, status (INT, `SampleStatus`), output
    (INT, from 0) and score (DOUBLE, NULL unless the status is OK). Of several rows of one sample id the latest by event
    time counts; two with that same event time make the sample FEATURE_INVALID. The statuses are those of scoring in
    process: an infinite feature is FEATURE_INVALID, else a NULL or NaN one FEATURE_MISSING, else a sample with any
    score beyond the finite numbers OUT_OF_RANGE.

    Args:
        version: Which parameters.
        snapshot: Which features; of the version's view.
    """
    is_scored, is_finite = _equals("fp_status", SampleStatus.OK), _equals("fp_overflows", 0)
    out_of_range = exp.and_(is_scored.copy(), _compare(exp.GT, "fp_overflows", 0))
    status = _case(_column("fp_status"), (out_of_range, _number(SampleStatus.OUT_OF_RANGE)))
    score = _case(exp.null(), (exp.and_(is_scored, is_finite), _column("fp_raw")))
    statement = _select(
        [*_columns("sample_id", "event_time"), _as(status, "status"), _column("output"), _as(score, "score")],
        _checked(_ranked(_grouped(_scored(version, snapshot)))),
    )
    return statement, {**version.partition, **snapshot.partition}


def score_in_engine(warehouse: Warehouse, version: ModelVersion, snapshot: Snapshot) -> pa.Table:
    """Return the partial scores of all samples of a snapshot, computed by the warehouse's engine.

    The parameters are used as they stand in the table; `load_model` is what verifies them against their digest.

    Args:
        warehouse: Where both tables are.
        version: Which parameters.
        snapshot: Which features; of the version's view.

    Returns:
        One row per sample, by sample_id: sample_id, event_time, status (int32) and scores (list of float64, in the
        order of the outputs; null unless the status is OK).

    Raises:
        TableCorruptError: The parameter table has not one row per output.
    """
    rows = warehouse.run(*linear_scores(version, snapshot)).sort_by(
        [("sample_id", "ascending"), ("output", "ascending")]
    )
    width = version.n_scores
    outputs = rows.column("output").to_numpy()
    n_samples = len(rows) // width
    if not np.array_equal(outputs, np.tile(np.arange(width), n_samples)) or (snapshot.n_rows and not n_samples):
        raise TableCorruptError(
            f"{version.parameter_table} has not one row for each of {width} outputs of model {version.model_id};"
            " convert the model again"
        )
    first = rows.take(pa.array(np.arange(n_samples) * width))
    status = first.column("status").cast(pa.int32())
    scores = rows.column("score").combine_chunks().cast(pa.float64())
    not_scored = pc.not_equal(status, SampleStatus.OK.value).combine_chunks()
    lists = pa.ListArray.from_arrays(pa.array(np.arange(n_samples + 1) * width, pa.int32()), scores, mask=not_scored)
    columns = {name: first.column(name) for name in ("sample_id", "event_time")}
    return pa.table({**columns, "status": status, "scores": lists})


def _scored(version: ModelVersion, snapshot: Snapshot) -> exp.Select:
    """Return every row with every output: fp_raw, and whether a feature is not finite, or infinite.

    Rows that are not the latest of their sample are scored too, because an engine passes 2,000 columns through
    arithmetic quickly, but not through a sort. Columns keep their names, because Spark's optimizer needs minutes for
    2,000 aliases.
    """
    features = [_column(name, "fp_f") for name in column_names(version.features).values()]
    weights = [_column(name, "fp_p") for name in weight_columns(version.features)]
    top, lowest = _column("fp_top", "fp_p"), exp.Neg(this=_column("fp_top", "fp_p"))
    terms = [exp.Mul(this=each, expression=weight) for each, weight in zip(features, weights, strict=True)]
    sizes = [exp.Abs(this=each.copy()) for each in features]
    finite = [exp.LTE(this=size, expression=top.copy()) for size in sizes]
    infinite = [exp.LT(this=exp.Neg(this=size.copy()), expression=lowest.copy()) for size in sizes]
    columns = [
        *(_column(name, "fp_f") for name in ("sample_id", "event_time")),
        _column("output", "fp_p"),
        _as(_tree(exp.Add, [*terms, _column("fp_offset", "fp_p")]), "fp_raw"),
        _as(_case(_number(1), (_tree(exp.And, finite or [exp.true()]), _number(0))), "fp_unusable"),
        _as(_case(_number(0), (_tree(exp.Or, infinite or [exp.false()]), _number(1))), "fp_infinite"),
    ]
    rows = _stored(
        [*_columns("sample_id", "event_time"), *_columns(*(each.name for each in features))],
        snapshot.view.schema.name,
        snapshot.partition,
    )
    parameters = _parameters(version, weights)
    return (
        exp.Select(expressions=columns)
        .from_(rows.subquery("fp_f", copy=False), copy=False)
        .join(parameters.subquery("fp_p", copy=False), join_type="cross", copy=False)
    )


def _parameters(version: ModelVersion, weights: Sequence[exp.Column]) -> exp.Select:
    """Return the parameter rows: output, weights, the sum of intercept and constant, and the largest finite number."""
    intercept = exp.Coalesce(this=_column("intercept"), expressions=[_double("0")])
    fixed = [
        _column("output"),
        _as(_tree(exp.Add, [intercept, _column("constant")]), "fp_offset"),
        _as(_double(_LARGEST), "fp_top"),
    ]
    return _stored(
        [*fixed, *_columns(*(weight.name for weight in weights))], version.parameter_table, version.partition
    )


def _grouped(scored: exp.Select) -> exp.Select:
    """Return one row per sample, event time and output, with the size of the tie; where that is 1, sums are the values.

    Grouping also keeps Hive from moving the arithmetic behind the windows that follow, and so 2,000 columns into them.
    """
    keys = ("sample_id", "event_time", "output")
    sums = [_as(exp.Sum(this=_column(name)), name) for name in ("fp_raw", "fp_unusable", "fp_infinite")]
    ties = _as(exp.Count(this=exp.Star()), "fp_ties")
    return _select([*_columns(*keys), *sums, ties], scored).group_by(*_columns(*keys), copy=False)


def _ranked(grouped: exp.Select) -> exp.Select:
    """Return the rows with fp_status from the features and ties, and fp_rank 1 on a sample's latest row."""
    latest_first = exp.Order(expressions=[exp.Ordered(this=_column("event_time"), desc=True, nulls_first=False)])
    rank = exp.Window(this=exp.RowNumber(), partition_by=_columns("sample_id", "output"), order=latest_first)
    status = _case(
        _number(SampleStatus.OK),
        (_compare(exp.GT, "fp_ties", 1), _number(SampleStatus.FEATURE_INVALID)),
        (_compare(exp.GT, "fp_infinite", 0), _number(SampleStatus.FEATURE_INVALID)),
        (_compare(exp.GT, "fp_unusable", 0), _number(SampleStatus.FEATURE_MISSING)),
    )
    kept = _columns("sample_id", "event_time", "output", "fp_raw")
    return _select([*kept, _as(status, "fp_status"), _as(rank, "fp_rank")], grouped)


def _checked(ranked: exp.Select) -> exp.Select:
    """Return the latest rows, and how many of the sample's scores are not finite."""
    overflow = _flag_unless(exp.LTE(this=exp.Abs(this=_column("fp_raw")), expression=_double(_LARGEST)))
    overflows = exp.Window(this=exp.Sum(this=overflow), partition_by=_columns("sample_id"))
    columns = [*_columns("sample_id", "event_time", "output", "fp_raw", "fp_status"), _as(overflows, "fp_overflows")]
    return _select(columns, ranked).where(_equals("fp_rank", 1), copy=False)


def _select(columns: list[exp.Expr], source: exp.Select) -> exp.Select:
    return exp.Select(expressions=columns).from_(source.subquery("fp_rows", copy=False), copy=False)


def _stored(columns: list[exp.Expr], table: str, partition: Partition) -> exp.Select:
    values = [exp.EQ(this=_column(name), expression=exp.Placeholder(this=name)) for name in partition]
    return exp.Select(expressions=columns).from_(table, copy=False).where(*values, copy=False)


def _flag_unless(condition: exp.Expr) -> exp.Expr:
    return _case(_number(1), (condition, _number(0)))


def _tree(operator: type[exp.Binary], terms: Sequence[exp.Expr]) -> exp.Expr:
    """Return the terms joined by an operator, in short chains that stand in parentheses."""
    size = math.isqrt(len(terms))
    chains = [_chain(operator, terms[start : start + size]) for start in range(0, len(terms), size)]
    return _chain(operator, chains)


def _chain(operator: type[exp.Binary], terms: Sequence[exp.Expr]) -> exp.Expr:
    return exp.Paren(this=reduce(lambda left, right: operator(this=left, expression=right), terms))


def _case(otherwise: exp.Expr, *branches: tuple[exp.Expr, exp.Expr]) -> exp.Case:
    return exp.Case(ifs=[exp.If(this=condition, true=value) for condition, value in branches], default=otherwise)


def _compare(operator: type[exp.Binary], column: str, number: int) -> exp.Expr:
    return operator(this=_column(column), expression=_number(number))


def _equals(column: str, number: int) -> exp.Expr:
    return _compare(exp.EQ, column, number)


def _columns(*names: str) -> list[exp.Expr]:
    return [_column(name) for name in names]


def _column(name: str, table: str | None = None) -> exp.Column:
    return exp.column(name, table, quoted=True)


def _as(expression: exp.Expr, name: str) -> exp.Expr:
    return exp.Alias(this=expression, alias=exp.to_identifier(name, quoted=True))


def _number(value: int) -> exp.Expr:
    return exp.Literal.number(int(value))


def _double(text: str) -> exp.Expr:
    return exp.cast(exp.Literal.string(text), exp.DataType.Type.DOUBLE)
