"""All shares of a task joined by id, added up and finished by the link, as one query for its warehouse's engine.

It says in SQL what `model.combine` and `initiator.policy` say in numpy: the same statuses by the same precedence, sums
in the same order of the parties, the same numbers but for the last digits of an exponential.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sqlglot import exp

from fedpredict.model.links import Link
from fedpredict.model.prediction import Origin
from fedpredict.model.share import PRECEDENCE, SampleStatus
from fedpredict.tables import sql
from fedpredict.tables.task_shares import TASK_SHARES
from fedpredict.warehouse.base import Value

LINKS_IN_SQL = ("identity", "logit", "softmax")
MAX_NUMBERS = 1_000
"""So many numbers stand side by side in one row, of all parties; an engine needs long to plan a statement of more."""

_KEYS = ("bucket", "position", "sample_id")
_EXP_LIMIT = "-709.782712893384"
"""Below it exp(-x) is infinite, and the sigmoid zero."""


def why_not_in_sql(link: Link, n_parties: int, n_scores: int) -> str:
    """Return why shares that are added up cannot be combined by an engine, in public words; empty: they can.

    >>> why_not_in_sql(Link("logit"), 2, 1), why_not_in_sql(Link("probit"), 2, 1)
    ('', 'the link probit is none that a statement applies')
    """
    if link.name not in LINKS_IN_SQL:
        return f"the link {link.name} is none that a statement applies"
    if n_parties * n_scores > MAX_NUMBERS:
        return f"{n_parties * n_scores} numbers for each id are more than one statement takes, {MAX_NUMBERS}"
    return ""


def combined_query(
    task_id: str,
    parties: Sequence[str],
    n_scores: int,
    link: Link,
    *,
    defaults: Mapping[str, Sequence[float]] | None = None,
    buckets: Sequence[int] | None = None,
) -> tuple[exp.Select, dict[str, Value]]:
    """Return the query for the results of a task, and the values to bind.

    Its rows, in any order, one for each id that every party has a row of: bucket, position, sample_id, status, origin
    and predictions (a list; NULL unless the status is OK).

    Args:
        task_id: The task, whose shares are in `fp_task_shares`.
        parties: The model's.
        n_scores: The width of a share.
        link: The model's; one of `LINKS_IN_SQL`.
        defaults: By party, numbers that stand in for its share (policy default_partial); None: nothing does.
        buckets: These alone; None: all whose shares are stored.
    """
    ordered = sorted(parties)
    params: dict[str, Value] = {f"fp_party_{at}": party for at, party in enumerate(ordered)}
    params["task_id"] = task_id
    rows = _joined(len(ordered), n_scores, buckets)
    if defaults:
        rows = _stood_in(rows, [defaults.get(party) for party in ordered], n_scores)
    return _finished(_summed(rows, len(ordered), n_scores, has_origin=bool(defaults)), link, n_scores), params


def probe_query(task_id: str, bucket: int | None) -> tuple[exp.Select, dict[str, Value]]:
    """Return a query of one row that reads every column of the shares of a bucket, or of all, and the values to bind.

    It fails where the combining one would for a file that cannot be read, and moves no shares out of the engine.
    """
    partition: dict[str, str | int] = {"task_id": task_id} | ({} if bucket is None else {"bucket": bucket})
    columns = [sql.column(name) for name in ("party", "position", "sample_id", "status")]
    highest = [exp.Max(this=each) for each in (*columns, sql.item("scores", 0))]
    query = sql.stored([sql.named(each, f"fp_{at}") for at, each in enumerate(highest)], TASK_SHARES.name, partition)
    return query, dict(partition)


def _joined(n_parties: int, n_scores: int, buckets: Sequence[int] | None) -> exp.Select:
    """Return a row per id: the status of each party, and its numbers."""
    columns = [sql.named(sql.column(name, "fp_p0"), name) for name in _KEYS]
    for party in range(n_parties):
        columns += sql.columns_of(_status(party), *_values(party, n_scores))
    query = exp.Select(expressions=columns).from_(_of_party(0, n_scores).subquery("fp_p0", copy=False), copy=False)
    if buckets is not None:
        wanted = exp.In(this=sql.column("bucket", "fp_p0"), expressions=[sql.number(each) for each in buckets])
        query = query.where(wanted, copy=False)
    for party in range(1, n_parties):
        name = f"fp_p{party}"
        same = [exp.EQ(this=sql.column(key, "fp_p0"), expression=sql.column(key, name)) for key in _KEYS[::2]]
        query = query.join(
            _of_party(party, n_scores).subquery(name, copy=False), on=sql.balanced(exp.And, same), copy=False
        )
    return query


def _of_party(party: int, n_scores: int) -> exp.Select:
    columns: list[exp.Expr] = sql.columns_of(*(_KEYS if party == 0 else _KEYS[::2]))
    columns.append(sql.named(sql.column("status"), _status(party)))
    columns += [sql.named(sql.item("scores", at), name) for at, name in enumerate(_values(party, n_scores))]
    conditions = [
        exp.EQ(this=sql.column(name), expression=exp.Placeholder(this=value))
        for name, value in (("task_id", "task_id"), ("party", f"fp_party_{party}"))
    ]
    return exp.Select(expressions=columns).from_(TASK_SHARES.name, copy=False).where(*conditions, copy=False)


def _stood_in(rows: exp.Select, defaults: Sequence[Sequence[float] | None], n_scores: int) -> exp.Select:
    """Return rows in which a party's constant stands where it has no share, and whether any does as `fp_stood_in`."""
    parties = range(len(defaults))
    someone = sql.balanced(exp.Or, [sql.equals(_status(party), SampleStatus.OK) for party in parties])
    known = [party for party in parties if defaults[party] is not None]
    missing = {party: sql.column(f"fp_missing_{party}") for party in known}
    flags = [
        sql.named(
            sql.case(
                sql.number(0),
                (
                    sql.balanced(
                        exp.And,
                        [
                            someone.copy(),
                            sql.compare(exp.NEQ, _status(party), SampleStatus.OK),
                            sql.compare(exp.NEQ, _status(party), SampleStatus.ID_INVALID),
                        ],
                    ),
                    sql.number(1),
                ),
            ),
            f"fp_missing_{party}",
        )
        for party in known
    ]
    numbers = [name for party in parties for name in (_status(party), *_values(party, n_scores))]
    flagged = sql.select_from([*sql.columns_of(*_KEYS, *numbers), *flags], rows)

    def unless_missing(name: str, party: int, instead: exp.Expr) -> exp.Expr:
        if party not in missing:
            return sql.column(name)
        is_missing = exp.EQ(this=missing[party].copy(), expression=sql.number(1))
        return sql.named(sql.case(sql.column(name), (is_missing, instead)), name)

    columns = sql.columns_of(*_KEYS)
    for party in parties:
        columns.append(unless_missing(_status(party), party, sql.number(SampleStatus.OK)))
        constants = defaults[party] or [0.0] * n_scores
        columns += [
            unless_missing(name, party, sql.double(repr(float(constant))))
            for name, constant in zip(_values(party, n_scores), constants, strict=True)
        ]
    total = sql.balanced(exp.Add, list(missing.values())) if missing else sql.number(0)
    return sql.select_from([*columns, sql.named(total, "fp_stood_in")], flagged)


def _summed(rows: exp.Select, n_parties: int, n_scores: int, *, has_origin: bool) -> exp.Select:
    """Return rows with `fp_status` by precedence, raw scores, and `fp_stood_in`."""
    worst: list[tuple[exp.Expr, exp.Expr]] = [
        (
            sql.balanced(exp.Or, [sql.equals(_status(party), status) for party in range(n_parties)]),
            sql.number(status),
        )
        for status in PRECEDENCE[:-1]
    ]
    status = sql.case(sql.number(SampleStatus.OK), *worst)
    sums = [
        # one after the other: floating-point sums depend on the order
        sql.named(
            _sum_of([sql.column(_values(party, n_scores)[at]) for party in range(n_parties)]),
            name,
        )
        for at, name in enumerate(_raw(n_scores))
    ]
    stood_in = sql.column("fp_stood_in") if has_origin else sql.named(sql.number(0), "fp_stood_in")
    summed = sql.select_from([*sql.columns_of(*_KEYS), stood_in, sql.named(status, "fp_worst"), *sums], rows)
    finite = [
        exp.LTE(this=exp.Abs(this=sql.column(name)), expression=sql.double(sql.LARGEST)) for name in _raw(n_scores)
    ]
    judged = sql.case(
        sql.number(SampleStatus.OUT_OF_RANGE),
        (sql.compare(exp.NEQ, "fp_worst", SampleStatus.OK), sql.column("fp_worst")),
        (sql.balanced(exp.And, finite), sql.number(SampleStatus.OK)),
    )
    return sql.select_from(
        [*sql.columns_of(*_KEYS, "fp_stood_in", *_raw(n_scores)), sql.named(judged, "fp_status")], summed
    )


def _finished(rows: exp.Select, link: Link, n_scores: int) -> exp.Select:
    predicted, rows = _linked(rows, link, n_scores)
    is_ok = sql.equals("fp_status", SampleStatus.OK)
    stood_in = sql.compare(exp.GT, "fp_stood_in", 0)
    origin = sql.case(
        sql.number(Origin.UNSPECIFIED),
        (sql.balanced(exp.And, [is_ok.copy(), stood_in]), sql.number(Origin.DEFAULT_PARTIAL)),
        (is_ok.copy(), sql.number(Origin.MODEL)),
    )
    # no negative zero: not every engine keeps it
    numbers = [exp.Add(this=exp.Paren(this=each), expression=sql.double("0.0")) for each in predicted]
    predictions = sql.case(exp.null(), (is_ok, exp.Array(expressions=numbers)))
    return sql.select_from(
        [
            *sql.columns_of(*_KEYS),
            sql.named(sql.column("fp_status"), "status"),
            sql.named(origin, "origin"),
            sql.named(predictions, "predictions"),
        ],
        rows,
    )


def _linked(rows: exp.Select, link: Link, n_scores: int) -> tuple[list[exp.Expr], exp.Select]:
    """Return the predictions as expressions, and the rows that they are about."""
    raw = _raw(n_scores)
    if link.name == "logit":
        return [_sigmoid(name) for name in raw], rows
    if link.name == "softmax":
        kept = sql.columns_of(*_KEYS, "fp_stood_in", "fp_status")
        largest = (
            sql.column(raw[0])
            if n_scores == 1
            else exp.Greatest(this=sql.column(raw[0]), expressions=sql.columns_of(*raw[1:]))
        )
        rows = sql.select_from([*kept, *sql.columns_of(*raw), sql.named(largest, "fp_largest")], rows)
        names = [f"fp_exp_{at}" for at in range(n_scores)]
        exponentials = [
            sql.named(exp.Exp(this=exp.Sub(this=sql.column(each), expression=sql.column("fp_largest"))), name)
            for each, name in zip(raw, names, strict=True)
        ]
        rows = sql.select_from([*(each.copy() for each in kept), *exponentials], rows)
        total = sql.balanced(exp.Add, sql.columns_of(*names))
        return [exp.Div(this=sql.column(name), expression=total.copy()) for name in names], rows
    return sql.columns_of(*raw), rows


def _sigmoid(name: str) -> exp.Expr:
    exponential = exp.Exp(this=exp.Neg(this=sql.column(name)))
    total = exp.Paren(this=exp.Add(this=sql.double("1.0"), expression=exponential))
    is_zero = exp.LT(this=sql.column(name), expression=sql.double(_EXP_LIMIT))
    return sql.case(exp.Div(this=sql.double("1.0"), expression=total), (is_zero, sql.double("0.0")))


def _sum_of(terms: Sequence[exp.Expr]) -> exp.Expr:
    total = terms[0]
    for term in terms[1:]:
        total = exp.Paren(this=exp.Add(this=total, expression=term))
    return total


def _status(party: int) -> str:
    return f"fp_s{party}"


def _values(party: int, n_scores: int) -> list[str]:
    return [f"fp_v{party}_{at}" for at in range(n_scores)]


def _raw(n_scores: int) -> list[str]:
    return [f"fp_raw_{at}" for at in range(n_scores)]
