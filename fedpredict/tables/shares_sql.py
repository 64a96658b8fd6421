"""The shares of one bucket of a snapshot's ids, as rows of `fp_partial_scores`: what the engine computes and writes.

Where a snapshot has every id once, a share of a linear part is one pass over the rows: nothing is grouped, sorted or
held. Everything else goes through `statements.partial_scores_query`, which groups; a bucket bounds what it holds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from sqlglot import exp

from fedpredict.model.buckets import bucket_count
from fedpredict.model.part import Family
from fedpredict.model.share import SampleStatus
from fedpredict.tables import sql
from fedpredict.tables.buckets import bucket_values, in_bound_bucket, place_of
from fedpredict.tables.linear import exposure_of, weight_columns
from fedpredict.tables.linear_sql import linear_parameters
from fedpredict.tables.names import PLACE
from fedpredict.tables.shares import MAX_BINNED, SHARES
from fedpredict.tables.source import Source, source_of
from fedpredict.tables.statements import partial_scores_of
from fedpredict.tables.version import ModelVersion
from fedpredict.tables.views import Snapshot
from fedpredict.warehouse.base import Partition, Value

MAX_SIDE_BY_SIDE = 1_000
"""So many weights stand side by side in one row of parameters; an engine needs long to plan a statement of more."""


def bucket_shares(
    version: ModelVersion, snapshot: Snapshot, bucket: int, n_buckets: int, *, n_raw: int = 0
) -> tuple[exp.Select, dict[str, Value]]:
    """Return the query for the shares of a bucket, and the values to bind: the same query for all of them.

    Its rows, in any order, one per sample id of the bucket: sample_id, status (INT, `SampleStatus`), scores (a list in
    the order of the outputs; NULL unless the status is OK) and event_time. What the statuses mean, and which of several
    rows of an id counts, is as in `partial_scores_query`; rows without an id are none.

    Args:
        version: Which parameters: they must be there, as they are for whoever has loaded the model.
        snapshot: Which features; of the version's view.
        bucket: 0 to n_buckets - 1.
        n_buckets: As `model.buckets` says.
        n_raw: The scores of so many outputs are there once more as columns of their own, `raw_names`: anything unless
            the status is OK. An engine counts these without taking each out of its list.
    """
    params = share_values(version, snapshot, bucket, n_buckets)
    source = _bucket_of(source_of(snapshot, version.features), snapshot, n_buckets)
    if _is_one_pass(version, snapshot):
        return _linear_shares(version, source, n_raw), params
    return _listed(partial_scores_of(version, source), version.n_scores, n_raw), params


def raw_names(n_outputs: int) -> list[str]:
    """Return the columns of the scores of outputs, before they are put in a list."""
    return [f"fp_raw_{output}" for output in range(n_outputs)]


def share_values(version: ModelVersion, snapshot: Snapshot, bucket: int, n_buckets: int) -> dict[str, Value]:
    """Return what to bind in `bucket_shares` of a bucket."""
    return {**version.partition, **snapshot.partition, **_bucket_values(bucket, n_buckets)}


def bucket_rows(
    columns: Sequence[str], snapshot: Snapshot, bucket: int, n_buckets: int
) -> tuple[exp.Select, dict[str, Value]]:
    """Return the query for columns of a snapshot's rows of a bucket, and the values to bind."""
    source = _bucket_of(source_of(snapshot, ()), snapshot, n_buckets)
    return source.rows(columns), {**snapshot.partition, **_bucket_values(bucket, n_buckets)}


def count_rows(snapshot: Snapshot, bucket: int, n_buckets: int) -> tuple[exp.Select, dict[str, Value]]:
    """Return the query for the number of rows of a bucket, `n`, and the values to bind."""
    rows, params = bucket_rows(["sample_id"], snapshot, bucket, n_buckets)
    return sql.select_from([sql.named(exp.Count(this=exp.Star()), "n")], rows), params


def count_rows_of_each(snapshot: Snapshot, n_digits: int) -> tuple[exp.Select, dict[str, Value]]:
    """Return the query for the number of rows, `n`, by the first digits of their ids' places, `fp_start`."""
    source = _bucket_of(source_of(snapshot, ()), snapshot, 1)
    place = sql.column(PLACE) if snapshot.has_places else place_of(sql.column("sample_id"))
    start = exp.Substring(this=place, start=sql.number(1), length=sql.number(n_digits))
    starts = sql.select_from(
        [sql.named(start, "fp_start")], source.rows(["sample_id", PLACE] if snapshot.has_places else ["sample_id"])
    )
    counted = [sql.column("fp_start"), sql.named(exp.Count(this=exp.Star()), "n")]
    return sql.select_from(counted, starts).group_by(sql.column("fp_start"), copy=False), {**snapshot.partition}


def stored_moments(partition: Partition, n_outputs: int) -> tuple[exp.Select, dict[str, Value]]:
    """Return the query for mean_0, deviation_0, mean_1 ... of the scores that are stored in a partition."""
    return _moments(sql.stored(sql.columns_of("scores"), SHARES.name, partition), n_outputs), dict(partition)


def sampled_moments(version: ModelVersion, snapshot: Snapshot, n_rows: int) -> tuple[exp.Select, dict[str, Value]]:
    """Return the query for the same of about so many ids' shares, chosen by their hash, before any share is stored."""
    shares, params = bucket_shares(version, snapshot, 0, bucket_count(snapshot.n_rows, n_rows))
    common = shares.args.get("with_")
    shares.set("with_", None)  # Hive wants it at the top
    query = _moments(shares, version.n_scores)
    query.set("with_", common)
    return query, params


def given(rows: Sequence[Mapping[str, Value]]) -> tuple[exp.Select | exp.Union, dict[str, Value]]:
    """Return the query that gives rows with the same columns, at least one, and the values to bind."""
    params = {f"{name}_{at}": value for at, row in enumerate(rows) for name, value in row.items()}
    queries = [
        exp.Select(expressions=[sql.named(exp.Placeholder(this=f"{name}_{at}"), name) for name in row])
        for at, row in enumerate(rows)
    ]
    return sql.together(*queries), params


def _moments(shares: exp.Select, n_outputs: int) -> exp.Select:
    columns: list[exp.Expr] = []
    for output in range(min(n_outputs, MAX_BINNED)):
        columns.append(sql.named(exp.Avg(this=sql.item("scores", output)), f"mean_{output}"))
        columns.append(sql.named(exp.StddevPop(this=sql.item("scores", output)), f"deviation_{output}"))
    return sql.select_from(columns, shares)


def _bucket_values(bucket: int, n_buckets: int) -> dict[str, Value]:
    return bucket_values(bucket, n_buckets) if n_buckets > 1 else {}


def _bucket_of(source: Source, snapshot: Snapshot, n_buckets: int) -> Source:
    """Return the rows of a source that have an id and are in the bucket that is bound."""
    conditions: list[exp.Expr] = [exp.Not(this=exp.Is(this=sql.column("sample_id"), expression=exp.null()))]
    if n_buckets > 1:
        place = sql.column(PLACE) if snapshot.has_places else place_of(sql.column("sample_id"))
        conditions.append(in_bound_bucket(place))
    return replace(source, rows=lambda columns: source.rows(columns).where(*conditions, copy=False))


def _is_one_pass(version: ModelVersion, snapshot: Snapshot) -> bool:
    return (
        version.family is Family.LINEAR
        and snapshot.n_ids == snapshot.n_rows
        and exposure_of(version.options) is None
        and len(version.features) * version.n_scores <= MAX_SIDE_BY_SIDE
    )


def _linear_shares(version: ModelVersion, source: Source, n_raw: int) -> exp.Select:
    """Return the shares of a linear part, of rows that have an id each.

    A sum of products is finite only if all of them are, so which feature is to blame is asked for the other rows alone.
    """
    columns = [source.column_of[name] for name in version.features]
    weights = weight_columns(version.features)
    top = sql.double(sql.LARGEST)
    names = raw_names(version.n_scores)
    raw = [
        sql.named(
            sql.balanced(
                exp.Add,
                [
                    *(
                        exp.Mul(this=sql.column(column, "fp_f"), expression=sql.column(f"{weight}_{output}", "fp_p"))
                        for column, weight in zip(columns, weights, strict=True)
                    ),
                    sql.column(f"fp_offset_{output}", "fp_p"),
                ],
            ),
            name,
        )
        for output, name in enumerate(names)
    ]
    kept = ["sample_id", "event_time", *columns]
    scored = (
        exp.Select(expressions=[*(sql.column(name, "fp_f") for name in kept), *raw])
        .from_(source.rows(kept).subquery("fp_f", copy=False), copy=False)
        .join(_side_by_side(version, weights).subquery("fp_p", copy=False), join_type="cross", copy=False)
    )
    finite = [exp.LTE(this=exp.Abs(this=sql.column(name)), expression=top.copy()) for name in names]
    sizes = [exp.Abs(this=sql.column(name)) for name in columns]
    infinite: list[exp.Expr] = [exp.LT(this=exp.Neg(this=size), expression=exp.Neg(this=top.copy())) for size in sizes]
    usable: list[exp.Expr] = [exp.LTE(this=size.copy(), expression=top.copy()) for size in sizes]
    status = sql.case(
        sql.number(SampleStatus.FEATURE_MISSING),
        (sql.balanced(exp.And, finite), sql.number(SampleStatus.OK)),
        (sql.balanced(exp.Or, infinite or [exp.false()]), sql.number(SampleStatus.FEATURE_INVALID)),
        (sql.balanced(exp.And, usable or [exp.true()]), sql.number(SampleStatus.OUT_OF_RANGE)),
    )
    judged = sql.select_from([*sql.columns_of("sample_id", "event_time", *names), sql.named(status, "status")], scored)
    return _with_list(judged, names, n_raw)


def _side_by_side(version: ModelVersion, weights: Sequence[str]) -> exp.Select:
    """Return the parameters as one row: for each output, the weights and the offset."""
    columns = [
        sql.named(
            exp.Max(this=sql.case(exp.null(), (sql.equals("output", output), sql.column(name)))), f"{name}_{output}"
        )
        for output in range(version.n_scores)
        for name in (*weights, "fp_offset")
    ]
    return sql.select_from(columns, linear_parameters(version, weights))


def _listed(partial: exp.Select, width: int, n_raw: int) -> exp.Select:
    """Return partial scores, a row per sample and output, as a row per sample."""
    names = raw_names(width)
    columns = [
        sql.column("sample_id"),
        *(sql.named(exp.Max(this=sql.column(name)), name) for name in ("event_time", "status")),
        *(
            sql.named(exp.Max(this=sql.case(exp.null(), (sql.equals("output", output), sql.column("score")))), name)
            for output, name in enumerate(names)
        ),
    ]
    grouped = sql.select_from(columns, partial).group_by(*sql.columns_of("sample_id"), copy=False)
    return _with_list(grouped, names, n_raw)


def _with_list(rows: exp.Select, names: Sequence[str], n_raw: int) -> exp.Select:
    scores = sql.case(
        exp.null(), (sql.equals("status", SampleStatus.OK), exp.Array(expressions=sql.columns_of(*names)))
    )
    status = exp.cast(sql.column("status"), "int")
    return sql.select_from(
        [
            sql.column("sample_id"),
            sql.named(status, "status"),
            sql.named(scores, "scores"),
            sql.column("event_time"),
            *sql.columns_of(*names[:n_raw]),
        ],
        rows,
    )
