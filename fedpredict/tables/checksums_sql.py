"""Each row's number for the checksum of a bucket's shares, as an engine computes it."""

from __future__ import annotations

from enum import StrEnum

from sqlglot import exp

from fedpredict.tables import sql

_PRIME = 2**31 - 1
_LEAST, _END = 2.0**-9, 2.0**31
_FRACTION = 2.0**62
"""A score of that size is so many whole ones below 2^31, and a fraction that is a multiple of 2^-62: both exactly."""


class Checked(StrEnum):
    """What a checksum is of, and how; as the end of the name of the engine in a bucket's record."""

    WITH_IDS = ""
    WITHOUT_IDS = ", without ids"
    """Ids, which nothing else needs, cost a server more than all the rest (ADR 0040)."""
    BY_VALUE = ", by value"
    """Without ids too; a single score by arithmetic, which Hive does for many rows at a time (ADR 0050)."""


def row_number(engine: str, checked: Checked) -> exp.Expr:
    """Return a number below 2^31 in size of a row with status, scores and, if they are checked, sample_id."""
    names = ("sample_id", "status", "scores") if checked is Checked.WITH_IDS else ("status", "scores")
    hashed = exp.Anonymous(this="xxhash64" if engine == "spark" else "hash", expressions=sql.columns_of(*names))
    of_hash = exp.cast(exp.Mod(this=hashed, expression=sql.number(_PRIME)), "bigint")
    return _by_value(of_hash) if checked is Checked.BY_VALUE else of_hash


def _by_value(of_hash: exp.Expr) -> exp.Expr:
    """Return the number of a row with one score of the usual size, made of all its bits; any other row is hashed.

    The whole part with its sign, the fraction and the status are put together, each different, and squared: what is
    added to one score and taken from another does not cancel out.
    """
    score, other = sql.item("scores", 0), sql.item("scores", 1)
    size = exp.Abs(this=score)
    rest = exp.Sub(this=size.copy(), expression=exp.Floor(this=size.copy()))
    fraction = exp.cast(exp.Mul(this=exp.Paren(this=rest), expression=sql.double(repr(_FRACTION))), "bigint")
    whole = exp.Mul(this=exp.cast(exp.Floor(this=score.copy()), "bigint"), expression=sql.number(31))
    joined = exp.Add(
        this=exp.Add(this=whole, expression=exp.Mod(this=fraction, expression=sql.number(_PRIME))),
        expression=sql.column("status"),
    )
    mixed = exp.Paren(this=exp.Mod(this=exp.Paren(this=joined), expression=sql.number(_PRIME)))
    squared = exp.Paren(this=exp.Mul(this=mixed, expression=mixed.copy()))
    usual = exp.and_(
        exp.Is(this=other, expression=exp.null()),
        exp.GTE(this=size.copy(), expression=sql.double(repr(_LEAST))),
        exp.LT(this=size, expression=sql.double(repr(_END))),
        copy=False,
    )
    return sql.case(of_hash, (usual, exp.Mod(this=squared, expression=sql.number(_PRIME))))
