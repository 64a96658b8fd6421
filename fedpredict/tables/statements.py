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

from collections.abc import Callable, Mapping
from typing import TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from sqlglot import exp

from fedpredict.errors import StatementError, TableCorruptError
from fedpredict.model.part import Family
from fedpredict.model.share import SampleStatus
from fedpredict.tables import sql
from fedpredict.tables.linear_sql import linear_scores
from fedpredict.tables.network_sql import network_scores
from fedpredict.tables.scorecard_sql import scorecard_scores
from fedpredict.tables.source import Source, source_of
from fedpredict.tables.steps_sql import steps_scores
from fedpredict.tables.trees_sql import tree_scores
from fedpredict.tables.version import ModelVersion
from fedpredict.tables.views import Snapshot
from fedpredict.warehouse.base import Value, Warehouse

Scored: TypeAlias = Callable[[ModelVersion, Source], exp.Select]
"""A family's query for the raw scores of every row of a source, with `ModelVersion.partition` and
`Snapshot.partition` to bind.

One row per sample id, event time and output: sample_id, event_time, output (INT, from 0), fp_raw (DOUBLE, the score),
fp_unusable and fp_infinite (above 0 where a feature that must not miss is NULL or NaN, or one is infinite or not
valid), and fp_ties (rows of the feature table with this id and time).
"""

SCORED: Mapping[Family, Scored] = {
    Family.LINEAR: linear_scores,
    Family.TREES: tree_scores,
    Family.NETWORK: network_scores,
    Family.SCORECARD: scorecard_scores,
    Family.SPLIT_TREES: tree_scores,
    Family.STEPS: lambda version, source: steps_scores(SCORED, version, source),
}
"""What the engines can compute; a family that is not here is scored in process only."""


def partial_scores_query(version: ModelVersion, snapshot: Snapshot) -> tuple[exp.Expression, dict[str, Value]]:
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
    source = source_of(snapshot, version.features)
    return partial_scores_of(version, source), {**version.partition, **snapshot.partition}


def partial_scores_of(version: ModelVersion, source: Source) -> exp.Select:
    """Return what `partial_scores_query` does, for the rows of a source; its values are bound the same way."""
    is_scored, is_finite = sql.equals("fp_status", SampleStatus.OK), sql.equals("fp_overflows", 0)
    out_of_range = exp.and_(is_scored.copy(), sql.compare(exp.GT, "fp_overflows", 0))
    status = sql.case(sql.column("fp_status"), (out_of_range, sql.number(SampleStatus.OUT_OF_RANGE)))
    score = sql.case(exp.null(), (exp.and_(is_scored, is_finite), sql.column("fp_raw")))
    return sql.select_from(
        [
            *sql.columns_of("sample_id", "event_time"),
            sql.named(status, "status"),
            sql.column("output"),
            sql.named(score, "score"),
        ],
        _checked(_ranked(SCORED[version.family](version, source))),
    )


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
        StatementError: The engine is not one of the version's; it is scored in process.
    """
    engine = warehouse.engine.name
    if engine not in version.engines:
        raise StatementError(
            f"{engine} cannot compute version {version.version} of {version.model_id} (engines:"
            f" {', '.join(version.engines)}): score it in process"
        )
    rows = warehouse.run(*partial_scores_query(version, snapshot)).sort_by(
        [("sample_id", "ascending"), ("output", "ascending")]
    )
    width = version.n_scores
    outputs = rows.column("output").to_numpy()
    n_samples = len(rows) // width
    if not np.array_equal(outputs, np.tile(np.arange(width), n_samples)) or (snapshot.n_rows and not n_samples):
        raise TableCorruptError(
            f"{version.parameter_tables[0]} has not one row for each of {width} outputs of model {version.model_id};"
            " convert the model again"
        )
    first = rows.take(pa.array(np.arange(n_samples) * width))
    status = first.column("status").cast(pa.int32())
    scores = rows.column("score").combine_chunks().cast(pa.float64())
    not_scored = pc.not_equal(status, SampleStatus.OK.value).combine_chunks()
    lists = pa.ListArray.from_arrays(pa.array(np.arange(n_samples + 1) * width, pa.int32()), scores, mask=not_scored)
    columns = {name: first.column(name) for name in ("sample_id", "event_time")}
    return pa.table({**columns, "status": status, "scores": lists})


def _ranked(grouped: exp.Select) -> exp.Select:
    """Return the rows with fp_status from the features and ties, and fp_rank 1 on a sample's latest row."""
    latest_first = exp.Order(expressions=[exp.Ordered(this=sql.column("event_time"), desc=True, nulls_first=False)])
    rank = exp.Window(this=exp.RowNumber(), partition_by=sql.columns_of("sample_id", "output"), order=latest_first)
    status = sql.case(
        sql.number(SampleStatus.OK),
        (sql.compare(exp.GT, "fp_ties", 1), sql.number(SampleStatus.FEATURE_INVALID)),
        (sql.compare(exp.GT, "fp_infinite", 0), sql.number(SampleStatus.FEATURE_INVALID)),
        (sql.compare(exp.GT, "fp_unusable", 0), sql.number(SampleStatus.FEATURE_MISSING)),
    )
    kept = sql.columns_of("sample_id", "event_time", "output", "fp_raw")
    return sql.select_from([*kept, sql.named(status, "fp_status"), sql.named(rank, "fp_rank")], grouped)


def _checked(ranked: exp.Select) -> exp.Select:
    """Return the latest rows, and how many of the sample's scores are not finite."""
    overflow = sql.flag_unless(exp.LTE(this=exp.Abs(this=sql.column("fp_raw")), expression=sql.double(sql.LARGEST)))
    overflows = exp.Window(this=exp.Sum(this=overflow), partition_by=sql.columns_of("sample_id"))
    columns = [
        *sql.columns_of("sample_id", "event_time", "output", "fp_raw", "fp_status"),
        sql.named(overflows, "fp_overflows"),
    ]
    return sql.select_from(columns, ranked).where(sql.equals("fp_rank", 1), copy=False)
