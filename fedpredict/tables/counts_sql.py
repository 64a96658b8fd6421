"""What an engine counts of a bucket's shares, while they are written or after: statuses, bins of scores, a checksum."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from sqlglot import exp

from fedpredict.model.distribution import N_BINS
from fedpredict.tables import sql
from fedpredict.tables.shares_sql import raw_names
from fedpredict.warehouse.base import Partition, Value

_PRIME = 2**31 - 1
_BITS = 54
"""A score at the end of the inner bins is a whole number of about so many bits: exact, and 500 times as much fits."""
_MOST = 1_000
"""Scores are scaled by 2^-1000 to 2^1000, which float64 has."""


class Checked(StrEnum):
    """What a checksum is of, and how; as the end of the name of the engine in a bucket's record."""

    WITH_IDS = ""
    WITHOUT_IDS = ", without ids"
    """Ids, which nothing else needs, cost a server more than all the rest (ADR 0040)."""
    BY_VALUE = ", by value"
    """Of scores that have bins: their sum as whole numbers, modulo 2^64, which Hive adds up many at a time (ADR 0050).

    Statuses and bins are in the counts beside it. What one score of a bin lost and another got is not seen.
    """


def with_checks(shares: exp.Select, engine: str, name: str) -> exp.Select:
    """Return a query for shares with a column more: each row's number for the checksum, as `counts` sums it up."""
    names = ("sample_id", "status", "scores", "event_time")
    return sql.select_from([*sql.columns_of(*names), sql.named(_hashed(engine, Checked.WITH_IDS), name)], shares)


def counts(
    task: Partition,
    buckets: Sequence[int],
    engine: str,
    *,
    bins: Sequence[tuple[float, float]],
    checked: Checked,
    table: str,
) -> tuple[exp.Select | exp.Union, dict[str, Value]]:
    """Return the query that counts what is stored in buckets: fp_output, bucket, status, fp_bin, n and fp_check.

    The rows of output 0 count all ids, and theirs alone sum up the checksum. `fp_bin` means something where the status
    is OK, and so does a `fp_check` by value.

    Args:
        task: Of `fp_partial_scores`: a value for every partition column but the bucket.
        buckets: At least one.
        engine: What computes it.
        bins: For each output whose scores are counted by bin, where the first of `N_BINS` inner bins begins, and the
            width of one; bin 0 is below them, the last above. Where there are none, all are in bin 0 of output 0.
        checked: What the checksum is of; by value only if every output has bins.
        table: Where the buckets are: `fp_partial_scores`, or a table like it.
    """
    row = _Row([sql.item("scores", output) for output in range(len(bins))], bins, engine, checked)
    queries: list[exp.Select] = []
    for output in range(max(1, len(bins))):
        columns = [
            *sql.columns_of("bucket", "status"),
            sql.named(row.bin_of(output), "fp_bin"),
            sql.named(row.check_of(output), "fp_check"),
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
    return sql.together(*queries), {**task, **row.params}


def passing_counts(
    bucket: int, engine: str, *, bins: Sequence[tuple[float, float]], checked: Checked
) -> tuple[list[exp.Select], dict[str, Value]]:
    """Return queries without a FROM that count the rows of `bucket_shares` as `counts` counts what is stored.

    One for each output with bins, at least one, and the values to bind. They read raw scores, too, if there are bins.
    """
    row = _Row(sql.columns_of(*raw_names(len(bins))), bins, engine, checked)
    queries: list[exp.Select] = []
    for output in range(max(1, len(bins))):
        bin_of, check = row.bin_of(output), row.check_of(output)
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
    return queries, row.params


@dataclass(frozen=True, slots=True)
class _Row:
    """What is counted of a row.

    Attributes:
        scores: For each output with bins, where its score stands; anything unless the status is OK.
        bins: As `counts` says.
        engine: What counts.
        checked: What the checksum is of.
    """

    scores: Sequence[exp.Expr]
    bins: Sequence[tuple[float, float]]
    engine: str
    checked: Checked

    @property
    def params(self) -> dict[str, Value]:
        """Return what to bind.

        The end of the inner bins is bound, too: Hive computes what is made of constants for each row.
        """
        bound: dict[str, Value] = {}
        for output, (first, width) in enumerate(self.bins):
            bound |= {f"fp_first_{output}": first, f"fp_width_{output}": width}
            bound |= {f"fp_end_{output}": first + width * N_BINS}
            if self.checked is Checked.BY_VALUE:
                bound[f"fp_scale_{output}"] = _scale_of(first, width)
        return bound

    def bin_of(self, output: int) -> exp.Expr:
        """Return the bin of the score of an output; 0 where there are no bins."""
        if not self.bins:
            return sql.number(0)
        score = self.scores[output]
        start, width, end = (_bound(f"fp_{name}_{output}") for name in ("first", "width", "end"))
        place = exp.Div(this=exp.Paren(this=exp.Sub(this=score.copy(), expression=start.copy())), expression=width)
        return sql.case(
            exp.Add(this=exp.cast(exp.Floor(this=place), "int"), expression=sql.number(1)),
            (exp.LT(this=score.copy(), expression=start), sql.number(0)),
            (exp.GTE(this=score.copy(), expression=end), sql.number(N_BINS + 1)),
        )

    def check_of(self, output: int) -> exp.Expr:
        """Return the row's number for the checksum, which stands with the first output: 0 with any other."""
        if output > 0:
            return exp.cast(sql.number(0), "bigint")
        if self.checked is not Checked.BY_VALUE:
            return _hashed(self.engine, self.checked)
        scaled = [
            exp.cast(exp.Mul(this=score.copy(), expression=_bound(f"fp_scale_{at}")), "bigint")
            for at, score in enumerate(self.scores)
        ]
        # each an odd number of its own: nothing is lost modulo 2^64, and outputs that change places are seen
        odd = [exp.Mul(this=each, expression=sql.number(2 * at + 1)) for at, each in enumerate(scaled)]
        return sql.balanced(exp.Add, odd)


def _scale_of(first: float, width: float) -> float:
    """Return the power of two that scores within the inner bins are whole numbers of about `_BITS` bits with."""
    _, exponent = math.frexp(max(abs(first), abs(first + width * N_BINS)))
    return 2.0 ** max(-_MOST, min(_MOST, _BITS - exponent))


def _bound(name: str) -> exp.Expr:
    return exp.cast(exp.Placeholder(this=name), "double")


def _hashed(engine: str, checked: Checked) -> exp.Expr:
    """Return a number below 2^31 in size of some columns of a row: the engine's own hash."""
    names = ("sample_id", "status", "scores") if checked is Checked.WITH_IDS else ("status", "scores")
    hashed = exp.Anonymous(this="xxhash64" if engine == "spark" else "hash", expressions=sql.columns_of(*names))
    return exp.cast(exp.Mod(this=hashed, expression=sql.number(_PRIME)), "bigint")
