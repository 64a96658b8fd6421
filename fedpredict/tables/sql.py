"""Pieces of SQL that every statement of this package is made of, as sqlglot trees for DuckDB, Hive and Spark."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import reduce

from sqlglot import exp

from fedpredict.warehouse.base import Partition

LARGEST = "1.7976931348623157e308"
"""The largest finite float64."""


def select_from(columns: list[exp.Expr], source: exp.Select) -> exp.Select:
    """Return columns of what another query gives."""
    return exp.Select(expressions=columns).from_(source.subquery("fp_rows", copy=False), copy=False)


def stored(columns: list[exp.Expr], table: str, partition: Partition) -> exp.Select:
    """Return columns of the rows of one partition of a table; its values are bound by the names of its columns."""
    values = [exp.EQ(this=column(name), expression=exp.Placeholder(this=name)) for name in partition]
    return exp.Select(expressions=columns).from_(table, copy=False).where(*values, copy=False)


def together(first: exp.Select, *others: exp.Select) -> exp.Select | exp.Union:
    """Return the rows of all queries, which have the same columns."""
    query: exp.Select | exp.Union = first
    for other in others:
        query = exp.Union(this=query, expression=other, distinct=False)
    return query


def flag_unless(condition: exp.Expr) -> exp.Expr:
    """Return 0 where a condition is true, and 1 where it is false or unknown."""
    return case(number(1), (condition, number(0)))


def balanced(operator: type[exp.Binary], terms: Sequence[exp.Expr]) -> exp.Expr:
    """Return the terms joined by an operator, in short chains that stand in parentheses."""
    size = math.isqrt(len(terms))
    chains = [_chain(operator, terms[start : start + size]) for start in range(0, len(terms), size)]
    return _chain(operator, chains)


def _chain(operator: type[exp.Binary], terms: Sequence[exp.Expr]) -> exp.Expr:
    return exp.Paren(this=reduce(lambda left, right: operator(this=left, expression=right), terms))


def case(otherwise: exp.Expr, *branches: tuple[exp.Expr, exp.Expr]) -> exp.Case:
    """Return CASE WHEN condition THEN value ... ELSE otherwise END."""
    return exp.Case(ifs=[exp.If(this=condition, true=value) for condition, value in branches], default=otherwise)


def compare(operator: type[exp.Binary], name: str, value: int) -> exp.Expr:
    """Return a column compared with a whole number."""
    return operator(this=column(name), expression=number(value))


def equals(name: str, value: int) -> exp.Expr:
    """Return whether a column is a whole number."""
    return compare(exp.EQ, name, value)


def columns_of(*names: str) -> list[exp.Expr]:
    """Return columns by name."""
    return [column(name) for name in names]


def column(name: str, table: str | None = None) -> exp.Column:
    """Return a column, quoted."""
    return exp.column(name, table, quoted=True)


def named(expression: exp.Expr, name: str) -> exp.Expr:
    """Return an expression under a name."""
    return exp.Alias(this=expression, alias=exp.to_identifier(name, quoted=True))


def number(value: int) -> exp.Expr:
    """Return a whole number."""
    return exp.Literal.number(int(value))


def double(text: str) -> exp.Expr:
    """Return a number of float64 from its decimal text."""
    return exp.cast(exp.Literal.string(text), exp.DataType.Type.DOUBLE)


def item(name: str, position: int) -> exp.Bracket:
    """Return an element of a list in a column, counted from 0."""
    return exp.Bracket(this=column(name), expressions=[number(position)], offset=0)
