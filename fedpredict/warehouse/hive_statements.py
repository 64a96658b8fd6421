"""The statements that a Hive warehouse makes itself. Names are checked, values go through `hive_literals`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import pyarrow as pa

from fedpredict.errors import NameRefusedError, WarehouseWriteError
from fedpredict.warehouse.base import ARROW_TYPES, Column, ColumnType, Partition, TableSchema, Value
from fedpredict.warehouse.hive_connection import Engine, RefusedByServerError
from fedpredict.warehouse.hive_literals import list_literal, literal, quoted

_FEW_COUNTERS = "Counters limit exceeded"
"""What Tez says of a statement with more steps than it was set up to count."""
_ERROR_CLASS = re.compile(r"\[[A-Z][A-Z0-9_.]+\]|\w+(?:Exception|Error)\b(?: \[Error \d+\])?")


def create_table(schema: TableSchema, engine: Engine) -> str:
    """Return the DDL of a table; an existing one is left as it is.

    In Hive it is external with purge, said openly: a managed table that is not transactional becomes just that, and
    without the property the files of a dropped partition would stay.
    """
    columns, partitions = _declared(schema.columns), _declared(schema.partitioned_by)
    what, properties = "TABLE", ""
    if engine is Engine.HIVE:
        what, properties = "EXTERNAL TABLE", " TBLPROPERTIES ('external.table.purge'='true')"
    return (
        f"CREATE {what} IF NOT EXISTS `{schema.name}` ({columns}) PARTITIONED BY ({partitions}) "
        f"STORED AS PARQUET{properties}"
    )


def add_columns(table: str, columns: Sequence[Column], engine: Engine) -> str:
    """Return the DDL that adds columns, to existing partitions too: Hive needs the word for it, Spark lacks it."""
    return f"ALTER TABLE `{table}` ADD COLUMNS ({_declared(columns)}){' CASCADE' if engine is Engine.HIVE else ''}"


def create_staging(schema: TableSchema, name: str, uri: str) -> str:
    """Return the DDL of a table over Parquet files that hold rows of `schema`."""
    return f"CREATE EXTERNAL TABLE `{name}` ({_declared(schema.columns)}) STORED AS PARQUET LOCATION {quoted(uri)}"


def insert_values(schema: TableSchema, partition: Partition, rows: pa.Table) -> str:
    """Return the INSERT that makes `rows`, with all columns of the table in order, one partition."""
    columns = [
        [
            list_literal(value) if column.type is ColumnType.DOUBLES else literal(value, column.type)
            for value in rows.column(at).to_pylist()
        ]
        for at, column in enumerate(schema.columns)
    ]
    given = list(zip(*columns, strict=True))
    if any(column.type is ColumnType.DOUBLES for column in schema.columns):  # which Hive takes in no VALUES
        values = " UNION ALL ".join(f"SELECT {','.join(row)}" for row in given)
    else:
        values = "VALUES " + ",".join(f"({','.join(row)})" for row in given)
    return f"INSERT OVERWRITE TABLE `{schema.name}` {_partition(schema, partition)} {values}"


def insert_staged(schema: TableSchema, partition: Partition, staged: str) -> str:
    """Return the INSERT that makes the rows of the staging table one partition."""
    columns = ", ".join(f"`{column.name}`" for column in schema.columns)
    return f"INSERT OVERWRITE TABLE `{schema.name}` {_partition(schema, partition)} SELECT {columns} FROM `{staged}`"


def insert_query(schema: TableSchema, partition: Partition, common: str, query: str) -> str:
    """Return the INSERT that makes the rows of a query one partition; its WITH clause comes first, as Hive wants it."""
    return f"{common}INSERT OVERWRITE TABLE `{schema.name}` {_partition(schema, partition)} {query}"


def insert_and_gather(
    schema: TableSchema, partition: Partition, common: str, query: str, gathered: Mapping[str, str]
) -> str:
    """Return the INSERT that does the same, and overwrites tables with what queries without a FROM make of the rows."""
    columns = ", ".join(f"`{column.name}`" for column in schema.columns)
    own = f"INSERT OVERWRITE TABLE `{schema.name}` {_partition(schema, partition)} SELECT {columns}"
    others = [f"INSERT OVERWRITE TABLE `{table}` {select}" for table, select in gathered.items()]
    return f"{common}FROM ({query}) `fp_all` {' '.join([own, *others])}"


def insert_each(schema: TableSchema, partition: Partition, key: Column, common: str, query: str) -> str:
    """Return the INSERT that makes the rows of a query, with `key` as their last column, the partitions they name."""
    outer = [f"`{each.name}`={_key(partition[each.name], each)}" for each in schema.partitioned_by if each != key]
    keys = ", ".join([*outer, f"`{key.name}`"])
    return f"{common}INSERT OVERWRITE TABLE `{schema.name}` PARTITION ({keys}) {query}"


def count(table: str, where: Partition) -> str:
    """Return the query for the number of rows of the partitions that match `where`."""
    filters = " AND ".join(f"`{name}` = {_key(value)}" for name, value in where.items())
    return f"SELECT COUNT(*) AS n FROM `{table}` WHERE {filters}"


def drop_partition(schema: TableSchema, partition: Partition) -> str:
    """Return the DDL that removes a partition: an INSERT OVERWRITE of no rows could keep the old ones."""
    return f"ALTER TABLE `{schema.name}` DROP IF EXISTS {_partition(schema, partition)}"


def show_partition(table: str, partition: Partition) -> str:
    """Return the statement that has a row where a partition exists."""
    keys = ", ".join(f"`{name}`={_key(value)}" for name, value in partition.items())
    return f"SHOW PARTITIONS `{table}` PARTITION ({keys})"


def select(table: str, columns: Sequence[str], where: Partition) -> str:
    """Return the query of `Warehouse.read`."""
    wanted = ", ".join(f"`{column}`" for column in columns)
    filters = " AND ".join(f"`{name}` = {_key(value)}" for name, value in where.items())
    return f"SELECT {wanted} FROM `{table}`" + (f" WHERE {filters}" if filters else "")


def parse_description(table: str, described: pa.Table) -> TableSchema:
    """Return what DESCRIBE says of a table: columns, an optional empty line, then the partition columns once more.

    Raises:
        WarehouseWriteError: It has a column of a name or type that no table of ours has.
    """
    names = [(name or "").strip() for name in described.column(0).to_pylist()]
    types = described.column(1).to_pylist()
    end = next((at for at, name in enumerate(names) if not name or name.startswith("#")), len(names))
    keys = {name for name in names[end:] if name and not name.startswith("#")}
    try:
        columns = [Column(name, ColumnType(kind)) for name, kind in zip(names[:end], types[:end], strict=True)]
    except (ValueError, NameRefusedError) as error:
        raise WarehouseWriteError(f"table {table} is not one of fedpredict's: {error}") from error
    return TableSchema(
        table,
        tuple(column for column in columns if column.name not in keys),
        tuple(column for column in columns if column.name in keys),
    )


def rows_of_table(schema: TableSchema, rows: pa.Table) -> pa.Table:
    """Return `rows` with all columns of the table in its order, NULL where `rows` lacks one.

    Raises:
        WarehouseWriteError: A column that the table has not, of another type, or twice.
    """
    if len(set(rows.column_names)) != rows.num_columns:
        raise WarehouseWriteError(f"rows for {schema.name} have a column twice: {', '.join(rows.column_names)}")
    types = {column.name: ARROW_TYPES[column.type] for column in schema.columns}
    for field in rows.schema:
        if types.get(field.name) != field.type:
            expected = types.get(field.name, "no such column")
            raise WarehouseWriteError(f"column {field.name} of {schema.name}: got {field.type}, has {expected}")
    given = set(rows.column_names)
    arrays = [rows.column(name) if name in given else pa.nulls(rows.num_rows, kind) for name, kind in types.items()]
    return pa.table(arrays, names=list(types))


def without_values(error: RefusedByServerError) -> str:
    """Return the class of a server's error: its full words may repeat the values of the statement."""
    classes = dict.fromkeys(_ERROR_CLASS.findall(error.message))
    return f"{' '.join(classes) or 'refused'}, SQL state {error.sql_state} (the server's log has more)"


def without_bound(error: RefusedByServerError, params: Mapping[str, Value]) -> str:
    """Return the server's words without the values that were bound, and what helps where that is known."""
    message = str(error)
    for value in params.values():
        message = message.replace(str(value), "?")
    if _FEW_COUNTERS in message:
        message += "; let the server's administrator raise mapreduce.job.counters.max and tez.counters.max to 1200"
    return message


def _declared(columns: Sequence[Column]) -> str:
    return ", ".join(f"`{column.name}` {column.type.value.upper()}" for column in columns)


def _partition(schema: TableSchema, partition: Partition) -> str:
    keys = ", ".join(f"`{column.name}`={_key(partition[column.name], column)}" for column in schema.partitioned_by)
    return f"PARTITION ({keys})"


def _key(value: str | int, column: Column | None = None) -> str:
    """Return the literal of a partition value: plain, because a PARTITION clause takes no casts."""
    is_text = isinstance(value, str)
    if column is not None and is_text != (column.type is ColumnType.STRING):
        raise NameRefusedError(f"{value!r} of partition column {column.name} is not of its type, {column.type.value}")
    return quoted(value) if isinstance(value, str) else f"{value:d}"
