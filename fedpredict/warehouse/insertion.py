"""A query whose rows become a partition, made to give exactly the columns of the table that they go to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from sqlglot import exp

from fedpredict.errors import NameRefusedError, StatementError, WarehouseWriteError
from fedpredict.warehouse.base import Column, ColumnType, Partition, TableSchema, check_partition

_TYPES = {
    ColumnType.INT: exp.DataType.Type.INT,
    ColumnType.BIGINT: exp.DataType.Type.BIGINT,
    ColumnType.DOUBLE: exp.DataType.Type.DOUBLE,
    ColumnType.STRING: exp.DataType.Type.TEXT,
    ColumnType.BOOLEAN: exp.DataType.Type.BOOLEAN,
    ColumnType.TIMESTAMP: exp.DataType.Type.TIMESTAMPTZ,  # what DuckDB's own is called; the servers have one only
}
"""What a column is cast to. Lists are not: Hive has no such cast."""


def rows_for(schema: TableSchema, statement: exp.Expression, beside: Sequence[str] = ()) -> exp.Select:
    """Return a query that gives the table's columns in its order: by name, cast, NULL where `statement` lacks one.

    Args:
        schema: The table.
        statement: A query whose columns have names, of tables other than this one.
        beside: Columns of it that the table has not; they are given too, as they are, after the others.

    Returns:
        A query of its own; the WITH clause of `statement` stands at its top, where Hive wants it.

    Raises:
        StatementError: It is no query, a column has no name, or it reads the table that it is to fill.
        WarehouseWriteError: A column that the table has not, or twice.
    """
    if not isinstance(statement, exp.Query):
        raise StatementError("only a query can be run")
    names = statement.named_selects
    if "*" in names or "" in names:
        raise StatementError(f"the columns for {schema.name} must each be named")
    if len(set(names)) != len(names):
        raise WarehouseWriteError(f"the query for {schema.name} gives a column twice: {', '.join(names)}")
    unknown = sorted(set(names) - {column.name for column in schema.columns} - {*beside})
    if unknown:
        raise WarehouseWriteError(f"table {schema.name} has no column {', '.join(unknown)}")
    if any(table.name == schema.name for table in statement.find_all(exp.Table)):
        raise StatementError(f"a query for {schema.name} cannot read that table: Spark would refuse it")
    body = statement.copy()
    common = body.args.get("with_")
    body.set("with_", None)
    columns = [
        exp.alias_(_cast(column, is_given=column.name in names), column.name, quoted=True) for column in schema.columns
    ]
    columns += [exp.column(name, quoted=True) for name in beside]
    query = exp.Select(expressions=columns).from_(body.subquery("fp_given", copy=False), copy=False)
    query.set("with_", common)
    return query


def innermost_of(schema: TableSchema, partition: Partition) -> tuple[Column, TableSchema]:
    """Return the partition column that rows name themselves, and the table as if it were its last ordinary column.

    Args:
        schema: The table.
        partition: A value for every partition column but the innermost.

    Raises:
        NameRefusedError: The innermost partition column is no whole number, or `partition` has not the others.
    """
    key = schema.partitioned_by[-1]
    if key.type not in (ColumnType.INT, ColumnType.BIGINT):
        raise NameRefusedError(f"partition column {schema.name}.{key.name} is no whole number: rows cannot name it")
    check_partition(schema, {**partition, key.name: 0})
    return key, replace(schema, columns=(*schema.columns, key), partitioned_by=schema.partitioned_by[:-1])


def _cast(column: Column, *, is_given: bool) -> exp.Expr:
    value = exp.column(column.name, quoted=True) if is_given else exp.Null()
    kind = _TYPES.get(column.type)
    return value if kind is None else exp.cast(value, kind)
