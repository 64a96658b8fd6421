"""Hash buckets of sample ids in the engines' SQL; `model.buckets` says what they are."""

from __future__ import annotations

from sqlglot import exp

from fedpredict.model.buckets import PLACE_DIGITS, REVERSED_DIGITS, place_range
from fedpredict.tables import sql

_DIGITS = "0123456789abcdef"


def place_of(sample_id: exp.Expr) -> exp.Expr:
    """Return the place of an id, a text of eight hexadecimal digits; NULL of NULL."""
    first = exp.Substring(this=exp.MD5(this=sample_id), start=sql.number(1), length=sql.number(PLACE_DIGITS))
    digits = [exp.Literal.string(_DIGITS), exp.Literal.string(REVERSED_DIGITS)]
    return exp.func("TRANSLATE", exp.func("REVERSE", first), *digits)


def in_bucket(place: exp.Expr, bucket: int, n_buckets: int) -> exp.Expr:
    """Return whether a place is in a bucket; false or unknown of NULL."""
    first, end = place_range(bucket, n_buckets)
    return exp.and_(
        exp.GTE(this=place.copy(), expression=exp.Literal.string(first)),
        exp.LT(this=place.copy(), expression=exp.Literal.string(end)),
        copy=False,
    )
