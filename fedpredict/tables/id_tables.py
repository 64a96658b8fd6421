"""Sample ids in a table of a warehouse that is none of ours, read in pieces that memory holds."""

from __future__ import annotations

from collections.abc import Iterator

from sqlglot import exp

from fedpredict.errors import InputError, StatementError, WarehouseWriteError
from fedpredict.model.buckets import bucket_count
from fedpredict.model.sample_ids import SampleIds
from fedpredict.tables import sql
from fedpredict.tables.buckets import in_bucket, place_of
from fedpredict.warehouse.base import ColumnType, Warehouse
from fedpredict.wire.arrow_ids import holds_ids, ids_from_array

PIECE_ROWS = 4_000_000
_MAX_BYTES = 2**31 - 1


def ids_of_table(warehouse: Warehouse, table: str, column: str, piece_rows: int = PIECE_ROWS) -> Iterator[SampleIds]:
    """Give the ids of a table, in any order; an empty one for each NULL.

    Args:
        warehouse: Where the table is.
        table: Its name.
        column: Which holds the ids.
        piece_rows: Rows of a piece, on average at most; a table of more is read several times.

    Raises:
        InputError: There is no such table or column, or the column does not hold text.
        WarehouseError: As the warehouse says.
    """
    try:
        yield from _pieces(warehouse, table, column, piece_rows)
    except StatementError as error:
        problem = table_problem(warehouse, table, column)
        if not problem:
            raise
        raise InputError(problem) from error


def table_problem(warehouse: Warehouse, table: str, column: str) -> str:
    """Return why a table's column cannot be read as ids; empty where it can, or the warehouse cannot tell.

    Raises:
        WarehouseUnavailableError: The engine cannot be reached.
    """
    try:
        schema = warehouse.describe(table)
    except WarehouseWriteError:  # it has columns of types that no table of ours has
        return ""
    if schema is None:
        return f"the warehouse has no table {table}"
    types = {each.name: each.type for each in (*schema.columns, *schema.partitioned_by)}
    if column in types:
        is_text = types[column] is ColumnType.STRING
        return "" if is_text else f"column {column} of table {table} holds {types[column]}; sample ids are text"
    return f"table {table} has no column {column}; it has {', '.join(types)}: name the one with the ids"


def _pieces(warehouse: Warehouse, table: str, column: str, piece_rows: int) -> Iterator[SampleIds]:
    ids = sql.column(column)
    rows = exp.Select(expressions=[ids.copy()]).from_(exp.to_table(table))
    count = exp.Select(expressions=[sql.named(exp.Count(this=exp.Star()), "n")]).from_(exp.to_table(table))
    n_pieces = bucket_count(int(warehouse.run(count, {}).column("n")[0].as_py()), piece_rows)
    if n_pieces == 1:
        yield from _read(warehouse, rows, table, column)
        return
    for piece in range(n_pieces):
        yield from _read(warehouse, rows.where(in_bucket(place_of(ids), piece, n_pieces)), table, column)
    missing = count.where(exp.Is(this=ids.copy(), expression=exp.Null()))
    n_missing = int(warehouse.run(missing, {}).column("n")[0].as_py())
    for start in range(0, n_missing, piece_rows):
        yield SampleIds.of([b""] * min(piece_rows, n_missing - start))


def _read(warehouse: Warehouse, statement: exp.Select, table: str, column: str) -> Iterator[SampleIds]:
    for chunk in warehouse.run(statement, {}).column(column).chunks:
        if not holds_ids(chunk.type):
            raise InputError(f"column {column} of table {table} holds {chunk.type}; sample ids are text")
        yield ids_from_array(chunk, _MAX_BYTES)
