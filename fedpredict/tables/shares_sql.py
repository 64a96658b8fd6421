"""The shares of one bucket of a snapshot's ids, as rows of `fp_partial_scores`: what the engine computes and writes.

Where a snapshot has every id once, a share of a linear part is one pass over the rows: nothing is grouped, sorted or
held. Everything else goes through `statements.partial_scores_query`, which groups; a bucket bounds what it holds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from sqlglot import exp

from fedpredict.model.buckets import bucket_count
from fedpredict.model.distribution import N_BINS
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

CHECKED = ("sample_id", "status", "scores")
CHECKED_WITHOUT_IDS = ("status", "scores")
"""What a server reads for a checksum: ids, which nothing else needs, cost it more than all the rest (ADR 0040)."""
MAX_SIDE_BY_SIDE = 1_000
"""So many weights stand side by side in one row of parameters; an engine needs long to plan a statement of more."""


def bucket_shares(
    version: ModelVersion, snapshot: Snapshot, bucket: int, n_buckets: int
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
    """
    params = share_values(version, snapshot, bucket, n_buckets)
    source = _bucket_of(source_of(snapshot, version.features), snapshot, n_buckets)
    if _is_one_pass(version, snapshot):
        return _linear_shares(version, source), params
    return _listed(partial_scores_of(version, source), version.n_scores), params


def share_values(version: ModelVersion, snapshot: Snapshot, bucket: int, n_buckets: int) -> dict[str, Value]:
    """Return what to bind in `bucket_shares` of a bucket."""
    return {**version.partition, **snapshot.partition, **_bucket_values(bucket, n_buckets)}


def with_checks(shares: exp.Select, engine: str, name: str) -> exp.Select:
    """Return a query for shares with a column more: each row's number for the checksum, as `counts` sums it up."""
    names = ("sample_id", "status", "scores", "event_time")
    return sql.select_from([*sql.columns_of(*names), sql.named(_checked(engine, CHECKED), name)], shares)


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


def counts(
    task: Partition,
    buckets: Sequence[int],
    engine: str,
    *,
    bins: Sequence[tuple[float, float]],
    checked: Sequence[str],
    table: str,
) -> tuple[exp.Select | exp.Union, dict[str, Value]]:
    """Return the query that counts what is stored in buckets: fp_output, bucket, status, fp_bin, n and fp_check.

    The rows of output 0 count all ids, and theirs alone sum up the checksum.

    Args:
        task: Of `fp_partial_scores`: a value for every partition column but the bucket.
        buckets: At least one.
        engine: What computes it.
        bins: For each output whose scores are counted by bin, where the first of `N_BINS` inner bins begins, and the
            width of one; bin 0 is below them, the last above. Where there are none, all are in bin 0 of output 0.
        checked: The columns that the checksum is of: `CHECKED`, or `CHECKED_WITHOUT_IDS`.
        table: Where the buckets are: `fp_partial_scores`, or a table like it.
    """
    params: dict[str, Value] = dict(task)
    queries: list[exp.Select] = []
    for output in range(max(1, len(bins))):
        bin_of = _bin_of_output(output, bins, params)
        check = _checked(engine, checked) if output == 0 else exp.cast(sql.number(0), "bigint")
        columns = [
            *sql.columns_of("bucket", "status"),
            sql.named(bin_of, "fp_bin"),
            sql.named(check, "fp_check"),
        ]
        rows = sql.stored(columns, table, task)
        rows.where(exp.In(this=sql.column("bucket"), expressions=[sql.number(each) for each in buckets]), copy=False)
        told = [
            sql.named(sql.number(output), "fp_output"),
            *sql.columns_of("bucket", "status", "fp_bin"),
            sql.named(exp.Count(this=exp.Star()), "n"),
            sql.named(exp.cast(exp.Sum(this=sql.column("fp_check")), "bigint"), "fp_check"),
        ]
        keys = sql.columns_of("bucket", "status", "fp_bin")
        queries.append(sql.select_from(told, rows).group_by(*keys, copy=False))
    return sql.together(*queries), params


def passing_counts(
    bucket: int, engine: str, *, bins: Sequence[tuple[float, float]]
) -> tuple[list[exp.Select], dict[str, Value]]:
    """Return queries without a FROM that count the rows of `bucket_shares` as `counts` counts what is stored.

    One for each output with bins, at least one, and the values to bind. The checksum is that of `CHECKED_WITHOUT_IDS`.
    """
    params: dict[str, Value] = {}
    queries: list[exp.Select] = []
    for output in range(max(1, len(bins))):
        bin_of = _bin_of_output(output, bins, params)
        check = _checked(engine, CHECKED_WITHOUT_IDS) if output == 0 else exp.cast(sql.number(0), "bigint")
        told = [
            sql.named(sql.number(output), "fp_output"),
            sql.named(sql.number(bucket), "bucket"),
            sql.column("status"),
            sql.named(bin_of, "fp_bin"),
            sql.named(exp.Count(this=exp.Star()), "n"),
            sql.named(exp.cast(exp.Sum(this=check), "bigint"), "fp_check"),
        ]
        keys = [sql.column("status"), *([bin_of.copy()] if bins else [])]
        queries.append(exp.Select(expressions=told).group_by(*keys, copy=False))
    return queries, params


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


def _bin_of_output(output: int, bins: Sequence[tuple[float, float]], params: dict[str, Value]) -> exp.Expr:
    """Return the bin of a row's score, 0 where there are no bins, and add to what to bind."""
    bin_of: exp.Expr = sql.number(0)
    if bins:
        bin_of = _bin_of(sql.item("scores", output), output)
        first, width = bins[output]
        # the end of the inner bins is bound, too: Hive computes what is made of constants for each row
        of_bins = {"first": first, "width": width, "end": first + width * N_BINS}
        params |= {f"fp_{name}_{output}": value for name, value in of_bins.items()}
    return bin_of


def _bin_of(score: exp.Expr, output: int) -> exp.Expr:
    """Return the bin of a score of an output; 0 of NULL, which no OK row has."""
    start, width, end = (
        exp.cast(exp.Placeholder(this=f"fp_{name}_{output}"), "double") for name in ("first", "width", "end")
    )
    place = exp.Div(this=exp.Paren(this=exp.Sub(this=score.copy(), expression=start.copy())), expression=width)
    return sql.case(
        exp.Add(this=exp.cast(exp.Floor(this=place), "int"), expression=sql.number(1)),
        (exp.Is(this=score.copy(), expression=exp.null()), sql.number(0)),
        (exp.LT(this=score.copy(), expression=start), sql.number(0)),
        (exp.GTE(this=score, expression=end), sql.number(N_BINS + 1)),
    )


def _checked(engine: str, columns: Sequence[str]) -> exp.Expr:
    """Return a number below 2^31 in size of some columns of a row: the engine's own hash."""
    name = "xxhash64" if engine == "spark" else "hash"
    hashed = exp.Anonymous(this=name, expressions=sql.columns_of(*columns))
    return exp.cast(exp.Mod(this=hashed, expression=sql.number(2**31 - 1)), "bigint")


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


def _linear_shares(version: ModelVersion, source: Source) -> exp.Select:
    """Return the shares of a linear part, of rows that have an id each.

    A sum of products is finite only if all of them are, so which feature is to blame is asked for the other rows alone.
    """
    columns = [source.column_of[name] for name in version.features]
    weights = weight_columns(version.features)
    top = sql.double(sql.LARGEST)
    names = [f"fp_raw_{output}" for output in range(version.n_scores)]
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
    return _with_list(judged, names)


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


def _listed(partial: exp.Select, width: int) -> exp.Select:
    """Return partial scores, a row per sample and output, as a row per sample."""
    names = [f"fp_raw_{output}" for output in range(width)]
    columns = [
        sql.column("sample_id"),
        *(sql.named(exp.Max(this=sql.column(name)), name) for name in ("event_time", "status")),
        *(
            sql.named(exp.Max(this=sql.case(exp.null(), (sql.equals("output", output), sql.column("score")))), name)
            for output, name in enumerate(names)
        ),
    ]
    grouped = sql.select_from(columns, partial).group_by(*sql.columns_of("sample_id"), copy=False)
    return _with_list(grouped, names)


def _with_list(rows: exp.Select, names: Sequence[str]) -> exp.Select:
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
        ],
        rows,
    )
