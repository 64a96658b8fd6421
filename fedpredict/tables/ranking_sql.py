"""Results with ranks, counts of results, and the first by rank, as queries for the engine of a warehouse.

A rank over all rows at once would be the work of one task of one machine. So rows are cut into slices by their score,
each ranked by itself, and what stands in the slices above is added: equal scores are always of one slice.
"""

from __future__ import annotations

from sqlglot import exp

from fedpredict.model.distribution import N_BINS
from fedpredict.model.offline import Ranking
from fedpredict.model.share import SampleStatus
from fedpredict.tables import sql
from fedpredict.tables.results import RESULTS, UNRANKED
from fedpredict.warehouse.base import Value

N_SLICES = 1_024
_ROW = ("bucket", "position", "sample_id", "status", "origin", "predictions")


def ranked_query(task_id: str, ranking: Ranking) -> tuple[exp.Select, dict[str, Value]]:
    """Return the query for the results of a task with their ranks, and the values to bind.

    Its rows, in any order, are those of `fp_unranked`, with `rank`: from 1, the largest first, of equal ones the
    smaller sample id by its bytes; NULL without a prediction, and beyond `ranking.top`.
    """
    columns = [*sql.columns_of(*_ROW), sql.named(_score(ranking.output), "fp_score")]
    scored = _of_task(UNRANKED.name, columns)
    ends = sql.select_from(
        [
            sql.named(exp.Max(this=_half("fp_score")), "fp_highest"),
            sql.named(exp.Min(this=_half("fp_score")), "fp_lowest"),
        ],
        scored.copy(),
    )
    beside = (
        exp.Select(expressions=sql.columns_of(*_ROW, "fp_score", "fp_highest", "fp_lowest"))
        .from_(scored.subquery("fp_s", copy=False), copy=False)
        .join(ends.subquery("fp_e", copy=False), join_type="cross", copy=False)
    )
    sliced = sql.select_from(
        [*sql.columns_of(*_ROW, "fp_score"), sql.named(_slice(), "fp_slice"), sql.named(_apart(), "fp_apart")], beside
    )
    within = exp.Window(
        this=exp.RowNumber(),
        partition_by=sql.columns_of("fp_slice", "fp_apart"),
        order=exp.Order(
            expressions=[
                exp.Ordered(this=sql.column("fp_score"), desc=True, nulls_first=False),
                exp.Ordered(this=sql.column("sample_id"), nulls_first=False),
            ]
        ),
    )
    numbered = sql.select_from([*sql.columns_of(*_ROW, "fp_slice"), sql.named(within, "fp_within")], sliced.copy())
    joined = (
        exp.Select(
            expressions=[
                *(sql.column(name, "fp_n") for name in _ROW),
                sql.named(
                    exp.Add(this=sql.column("fp_within", "fp_n"), expression=sql.column("fp_above", "fp_a")), "fp_rank"
                ),
            ]
        )
        .from_(numbered.subquery("fp_n", copy=False), copy=False)
        .join(
            _above(sliced).subquery("fp_a", copy=False),
            on=exp.EQ(this=sql.column("fp_slice", "fp_n"), expression=sql.column("fp_slice", "fp_a")),
            copy=False,
        )
    )
    conditions = [sql.equals("status", SampleStatus.OK)]
    if ranking.top:
        conditions.append(exp.LTE(this=sql.column("fp_rank"), expression=sql.number(ranking.top)))
    rank = sql.case(exp.null(), (sql.balanced(exp.And, conditions), sql.column("fp_rank")))
    return sql.select_from([*sql.columns_of(*_ROW), sql.named(rank, "rank")], joined), {"task_id": task_id}


def top_query(task_id: str, first: int, last: int) -> tuple[exp.Select, dict[str, Value]]:
    """Return the query for the results with ranks from `first` to `last`, in any order: the columns of `fp_results`."""
    columns = sql.columns_of("sample_id", "status", "origin", "predictions", "rank")
    query = _of_task(RESULTS.name, columns).where(
        exp.GTE(this=sql.column("rank"), expression=sql.number(first)),
        exp.LTE(this=sql.column("rank"), expression=sql.number(last)),
        copy=False,
    )
    return query, {"task_id": task_id}


def unranked_query(task_id: str, bucket: int) -> tuple[exp.Select, dict[str, Value]]:
    """Return the query for the results of a bucket as they were before they had ranks."""
    partition: dict[str, str | int] = {"task_id": task_id, "bucket": bucket}
    return sql.stored(sql.columns_of(*_ROW[1:]), RESULTS.name, partition), dict(partition)


def counts_query(task_id: str, table: str) -> tuple[exp.Select, dict[str, Value]]:
    """Return the query that counts results: bucket, status, origin, n, and the last position of these as `last`."""
    names = ("bucket", "status", "origin")
    columns = [
        *sql.columns_of(*names),
        sql.named(exp.Count(this=exp.Star()), "n"),
        sql.named(exp.Max(this=sql.column("position")), "last"),
    ]
    return _of_task(table, columns).group_by(*sql.columns_of(*names), copy=False), {"task_id": task_id}


def moments_query(task_id: str, table: str, n_outputs: int) -> tuple[exp.Select, dict[str, Value]]:
    """Return the query for mean_0, deviation_0, mean_1 ... of the predictions."""
    columns: list[exp.Expr] = []
    for output in range(n_outputs):
        columns.append(sql.named(exp.Avg(this=_score(output)), f"mean_{output}"))
        columns.append(sql.named(exp.StddevPop(this=_score(output)), f"deviation_{output}"))
    return _of_task(table, columns), {"task_id": task_id}


def histogram_query(
    task_id: str, table: str, output: int, bins: tuple[float, float]
) -> tuple[exp.Select, dict[str, Value]]:
    """Return the query that counts predictions: bucket, fp_bin (0 below, the inner ones, above) and n.

    Args:
        task_id: The task.
        table: Where its results are.
        output: Whose predictions.
        bins: Where the first of the inner bins begins, and how wide each is.
    """
    first, width = bins
    rows = _of_task(table, [sql.column("bucket"), sql.named(_score(output), "fp_score")])
    score, start = sql.column("fp_score"), sql.double(repr(first))
    end = sql.double(repr(first + N_BINS * width))
    place = exp.Add(
        this=exp.Floor(
            this=exp.Div(this=exp.Paren(this=exp.Sub(this=score, expression=start)), expression=sql.double(repr(width)))
        ),
        expression=sql.double("1.0"),
    )
    # before the cast: a number far beyond the bins is no whole number of that size
    within = exp.Greatest(
        this=exp.Least(this=place, expressions=[sql.double(f"{N_BINS + 1}.0")]), expressions=[sql.double("0.0")]
    )
    bin_of = sql.case(
        exp.cast(within, "int"),
        (exp.EQ(this=score.copy(), expression=end), sql.number(N_BINS)),
    )
    known = exp.Not(this=exp.Is(this=score.copy(), expression=exp.null()))
    binned = sql.select_from([sql.column("bucket"), sql.named(bin_of, "fp_bin")], rows).where(known, copy=False)
    columns = [*sql.columns_of("bucket", "fp_bin"), sql.named(exp.Count(this=exp.Star()), "n")]
    counted = sql.select_from(columns, binned).group_by(*sql.columns_of("bucket", "fp_bin"), copy=False)
    return counted, {"task_id": task_id}


def _of_task(table: str, columns: list[exp.Expr]) -> exp.Select:
    return sql.stored(columns, table, {"task_id": ""})


def _score(output: int) -> exp.Expr:
    """Return a prediction, NULL where there is none."""
    return sql.case(exp.null(), (sql.equals("status", SampleStatus.OK), sql.item("predictions", output)))


def _half(name: str) -> exp.Expr:
    """Return half a number: the difference of two of them is finite."""
    return exp.Mul(this=sql.column(name), expression=sql.double("0.5"))


def _slice() -> exp.Expr:
    """Return the slice of a score, 0 for the highest; it never falls with a lower one, whatever is rounded."""
    span = exp.Paren(this=exp.Sub(this=sql.column("fp_highest"), expression=sql.column("fp_lowest")))
    below = exp.Paren(this=exp.Sub(this=sql.column("fp_highest"), expression=_half("fp_score")))
    place = exp.Mul(this=exp.Div(this=below, expression=span), expression=sql.double(f"{N_SLICES}.0"))
    return sql.case(
        exp.cast(exp.Floor(this=place), "int"),
        (exp.Is(this=sql.column("fp_score"), expression=exp.null()), sql.number(-1)),
        (exp.LTE(this=sql.column("fp_highest"), expression=sql.column("fp_lowest")), sql.number(0)),
    )


def _apart() -> exp.Expr:
    """Return what keeps rows without a score from being numbered all together."""
    return sql.case(sql.number(0), (exp.Is(this=sql.column("fp_score"), expression=exp.null()), sql.column("bucket")))


def _above(sliced: exp.Select) -> exp.Select:
    """Return for each slice how many scores are in those above it: fp_slice, fp_above."""
    counts = sql.select_from(
        [sql.column("fp_slice"), sql.named(exp.Count(this=sql.column("fp_score")), "fp_n")], sliced
    ).group_by(*sql.columns_of("fp_slice"), copy=False)
    running = exp.Window(
        this=exp.Sum(this=sql.column("fp_n")),
        order=exp.Order(expressions=[exp.Ordered(this=sql.column("fp_slice"), nulls_first=False)]),
        spec=exp.WindowSpec(kind="ROWS", start="UNBOUNDED", start_side="PRECEDING", end="CURRENT ROW"),
    )
    above = exp.cast(exp.Paren(this=exp.Sub(this=running, expression=sql.column("fp_n"))), "bigint")
    return sql.select_from([sql.column("fp_slice"), sql.named(above, "fp_above")], counts)
