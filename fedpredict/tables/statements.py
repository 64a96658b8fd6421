"""Scoring in the warehouse's own engine: one query over the feature table and the parameter table.

The query holds names and bound values only; the weights are joined from the parameter table, so they never stand in
SQL text that a server may log. It is one sqlglot tree for DuckDB, Hive and Spark, and avoids what they disagree on:

- NaN equals itself and is the largest number in DuckDB and Spark; in Hive that depends on the way of execution. So NaN
  is what is neither between the smallest and the largest finite number nor beyond them: each comparison used is false
  for NaN either way, and none is negated.
- There is no QUALIFY, and no call of a function that an engine may lack.
- A chain of 2,000 additions is too deep for the engines' parsers: sums are balanced trees.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

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
_INVALID = 100_000
"""What an infinite feature counts in the sum over all features, where a missing one counts 1."""


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
    scored = _scored(_ranked(version, snapshot), _parameters(version), len(version.features))
    checked = _checked(scored)
    is_scored = _equals("fp_status", SampleStatus.OK)
    is_finite = _equals("fp_overflows", 0)
    status = _case(
        _column("fp_status"),
        (exp.and_(is_scored, _compare(exp.GT, "fp_overflows", 0)), _number(SampleStatus.OUT_OF_RANGE)),
    )
    score = _case(exp.null(), (exp.and_(is_scored, is_finite), _column("fp_raw")))
    statement = exp.select(
        *_columns("sample_id", "event_time"), _as(status, "status"), _column("output"), _as(score, "score")
    ).from_(checked.subquery("fp_checked"))
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


def _ranked(version: ModelVersion, snapshot: Snapshot) -> exp.Select:
    """Return the snapshot's rows with features f0, f1, ... and fp_rank 1 on the latest row of each sample id."""
    latest_first = exp.Order(expressions=[exp.Ordered(this=_column("event_time"), desc=True, nulls_first=False)])
    rank = exp.Window(this=exp.RowNumber(), partition_by=[_column("sample_id")], order=latest_first)
    ties = exp.Window(this=exp.Count(this=exp.Star()), partition_by=_columns("sample_id", "event_time"))
    return (
        exp.select(*_columns("sample_id", "event_time"), *_numbered(column_names(version.features).values(), "f"))
        .select(_as(rank, "fp_rank"), _as(ties, "fp_ties"))
        .from_(snapshot.view.schema.name)
        .where(*_bound(snapshot.partition))
    )


def _parameters(version: ModelVersion) -> exp.Select:
    """Return the parameter rows with weights w0, w1, ..., their sum of intercept and constant, and fp_top."""
    offset = _sum([exp.Coalesce(this=_column("intercept"), expressions=[_double("0")]), _column("constant")])
    return (
        exp.select(_column("output"), *_numbered(weight_columns(version.features), "w"))
        .select(_as(offset, "fp_offset"), _as(_double(_LARGEST), "fp_top"))
        .from_(version.parameter_table)
        .where(*_bound(version.partition))
    )


def _scored(ranked: exp.Select, parameters: exp.Select, n_features: int) -> exp.Select:
    """Return each latest row with each output: the raw score, and what is wrong with the features."""
    top = _column("fp_top")
    problems = [
        _case(_number(1), (_is_infinite(feature, top), _number(_INVALID)), (_is_finite(feature, top), _number(0)))
        for feature in (_column(f"f{index}") for index in range(n_features))
    ]
    terms = [exp.Mul(this=_column(f"f{index}"), expression=_column(f"w{index}")) for index in range(n_features)]
    return (
        exp.select(*_columns("sample_id", "event_time", "fp_ties", "output"))
        .select(_as(_sum(problems), "fp_problems"), _as(_sum([*terms, _column("fp_offset")]), "fp_raw"))
        .from_(ranked.subquery("fp_ranked"))
        .join(parameters.subquery("fp_parameters"), join_type="cross")
        .where(_equals("fp_rank", 1))
    )


def _checked(scored: exp.Select) -> exp.Select:
    """Return the rows with fp_status from the features, and how many of the sample's scores are not finite."""
    status = _case(
        _number(SampleStatus.OK),
        (_compare(exp.GT, "fp_ties", 1), _number(SampleStatus.FEATURE_INVALID)),
        (_compare(exp.GTE, "fp_problems", _INVALID), _number(SampleStatus.FEATURE_INVALID)),
        (_compare(exp.GT, "fp_problems", 0), _number(SampleStatus.FEATURE_MISSING)),
    )
    overflow = _case(_number(1), (_is_finite(_column("fp_raw"), _double(_LARGEST)), _number(0)))
    overflows = exp.Window(this=exp.Sum(this=overflow), partition_by=[_column("sample_id")])
    return (
        exp.select(*_columns("sample_id", "event_time", "output", "fp_raw"))
        .select(_as(status, "fp_status"), _as(overflows, "fp_overflows"))
        .from_(scored.subquery("fp_scored"))
    )


def _is_finite(value: exp.Expr, top: exp.Expr) -> exp.Expr:
    return exp.and_(
        exp.LTE(this=value.copy(), expression=top.copy()),
        exp.LTE(this=exp.Neg(this=value.copy()), expression=top.copy()),
    )


def _is_infinite(value: exp.Expr, top: exp.Expr) -> exp.Expr:
    lowest = exp.Neg(this=top.copy())
    return exp.or_(
        exp.LT(this=value.copy(), expression=lowest),
        exp.LT(this=exp.Neg(this=value.copy()), expression=lowest.copy()),
    )


def _sum(terms: Sequence[exp.Expr]) -> exp.Expr:
    """Return the sum as a balanced tree in parentheses; 0 for no terms."""
    if not terms:
        return _number(0)
    if len(terms) == 1:
        return terms[0]
    middle = len(terms) // 2
    return exp.Paren(this=exp.Add(this=_sum(terms[:middle]), expression=_sum(terms[middle:])))


def _case(otherwise: exp.Expr, *branches: tuple[exp.Expr, exp.Expr]) -> exp.Case:
    return exp.Case(ifs=[exp.If(this=condition, true=value) for condition, value in branches], default=otherwise)


def _compare(operator: type[exp.Binary], column: str, number: int) -> exp.Expr:
    return operator(this=_column(column), expression=_number(number))


def _equals(column: str, number: int) -> exp.Expr:
    return _compare(exp.EQ, column, number)


def _bound(partition: Partition) -> list[exp.Expr]:
    return [exp.EQ(this=_column(name), expression=exp.Placeholder(this=name)) for name in partition]


def _numbered(columns: Iterable[str], prefix: str) -> list[exp.Expr]:
    return [_as(_column(column), f"{prefix}{index}") for index, column in enumerate(columns)]


def _columns(*names: str) -> list[exp.Expr]:
    return [_column(name) for name in names]


def _column(name: str) -> exp.Expr:
    return exp.column(name, quoted=True)


def _as(expression: exp.Expr, name: str) -> exp.Expr:
    return exp.alias_(expression, name, quoted=True)


def _number(value: int) -> exp.Expr:
    return exp.Literal.number(int(value))


def _double(text: str) -> exp.Expr:
    return exp.cast(exp.Literal.string(text), exp.DataType.Type.DOUBLE)
