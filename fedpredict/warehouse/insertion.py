"""A query whose rows become a partition, made to give exactly the columns of the table that they go to."""

from __future__ import annotations

from sqlglot import exp

from fedpredict.errors import StatementError, WarehouseWriteError
from fedpredict.warehouse.base import ColumnType, TableSchema

_TYPES = {
    ColumnType.INT: exp.DataType.Type.INT,
    ColumnType.BIGINT: exp.DataType.Type.BIGINT,
    ColumnType.DOUBLE: exp.DataType.Type.DOUBLE,
    ColumnType.STRING: exp.DataType.Type.TEXT,
    ColumnType.BOOLEAN: exp.DataType.Type.BOOLEAN,
    ColumnType.TIMESTAMP: exp.DataType.Type.TIMESTAMPTZ,  # what DuckDB's own is called; the servers have one only
}


def rows_for(schema: TableSchema, statement: exp.Expression) -> exp.Select:
    """Return a query that gives the table's columns in its order: by name, cast, NULL where `statement` lacks one.

    Args:
        schema: The table.
        statement: A query whose columns have names, of tables other than this one.

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
    unknown = sorted(set(names) - {column.name for column in schema.columns})
    if unknown:
        raise WarehouseWriteError(f"table {schema.name} has no column {', '.join(unknown)}")
    if any(table.name == schema.name for table in statement.find_all(exp.Table)):
        raise StatementError(f"a query for {schema.name} cannot read that table: Spark would refuse it")
    body = statement.copy()
    common = body.args.get("with_")
    body.set("with_", None)
    columns = [
        exp.alias_(
            exp.cast(exp.column(column.name, quoted=True) if column.name in names else exp.Null(), _TYPES[column.type]),
            column.name,
            quoted=True,
        )
        for column in schema.columns
    ]
    query = exp.Select(expressions=columns).from_(body.subquery("fp_given", copy=False), copy=False)
    query.set("with_", common)
    return query
