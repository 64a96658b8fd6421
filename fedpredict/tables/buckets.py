"""Hash buckets of sample ids in the engines' SQL; `model.buckets` says what they are."""

from __future__ import annotations

from sqlglot import exp

from fedpredict.model.buckets import PLACE_DIGITS, REVERSED_DIGITS, place_range
from fedpredict.tables import sql
from fedpredict.tables.names import PLACE
from fedpredict.warehouse.base import Value

_DIGITS = "0123456789abcdef"
_FIRST, _END = "fp_bucket_first", "fp_bucket_end"


def place_of(sample_id: exp.Expr) -> exp.Expr:
    """Return the place of an id, a text of eight hexadecimal digits; NULL of NULL."""
    first = exp.Substring(this=exp.MD5(this=sample_id), start=sql.number(1), length=sql.number(PLACE_DIGITS))
    digits = [exp.Literal.string(_DIGITS), exp.Literal.string(REVERSED_DIGITS)]
    return exp.func("TRANSLATE", exp.func("REVERSE", first), *digits)


def in_bucket(place: exp.Expr, bucket: int, n_buckets: int) -> exp.Expr:
    """Return whether a place is in a bucket; false or unknown of NULL."""
    first, end = place_range(bucket, n_buckets)
    return _between(place, exp.Literal.string(first), exp.Literal.string(end))


def in_bound_bucket(place: exp.Expr) -> exp.Expr:
    """Return the same of the bucket whose `bucket_values` are bound: one statement for all of them."""
    return _between(place, exp.Placeholder(this=_FIRST), exp.Placeholder(this=_END))


def bucket_values(bucket: int, n_buckets: int) -> dict[str, Value]:
    """Return what to bind where `in_bound_bucket` asks for a bucket."""
    first, end = place_range(bucket, n_buckets)
    return {_FIRST: first, _END: end}


def _between(place: exp.Expr, first: exp.Expr, end: exp.Expr) -> exp.Expr:
    return exp.and_(exp.GTE(this=place.copy(), expression=first), exp.LT(this=place.copy(), expression=end), copy=False)


def query_in_places(statement: exp.Query) -> exp.Select:
    """Return a query's rows with the places of their ids, and in that order as far as the engine keeps to it.

    Args:
        statement: A query whose columns have names, `sample_id` among them.
    """
    body = statement.copy()
    common = body.args.get("with_")
    body.set("with_", None)
    columns = [*sql.columns_of(*body.named_selects), sql.named(place_of(sql.column("sample_id")), PLACE)]
    query = exp.Select(expressions=columns).from_(body.subquery("fp_rows", copy=False), copy=False)
    query.set("with_", common)
    return query.order_by(sql.column(PLACE), copy=False)
