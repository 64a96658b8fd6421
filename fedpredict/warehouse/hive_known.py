"""What a server said of tables a moment ago, so that it is not asked again for each statement of a task."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from fedpredict.errors import StatementError, WarehouseWriteError
from fedpredict.warehouse.base import Column, TableSchema, check_identifier
from fedpredict.warehouse.hive_connection import HiveSession, RefusedByServerError
from fedpredict.warehouse.hive_statements import parse_description

KNOWN_S = 60.0
"""How long it is taken for true: other processes drop tables, and add columns to them."""

_T = TypeVar("_T")


class KnownTables:
    """Layouts of tables, each with the time at which the server told it."""

    def __init__(self) -> None:
        self._tables: dict[str, tuple[float, TableSchema]] = {}

    def get(self, table: str) -> TableSchema | None:
        """Return what is known of a table; None: it must be asked for."""
        told, schema = self._tables.get(table, (0.0, None))
        return schema if time.monotonic() - told < KNOWN_S else None

    def learn(self, schema: TableSchema) -> None:
        """Remember what the server says now."""
        self._tables[schema.name] = (time.monotonic(), schema)

    def using(self, table: str, ask: Callable[[], TableSchema], use: Callable[[TableSchema], _T]) -> _T:
        """Return what `use` makes of a table's layout: of the one that is known, or else of the one that it has.

        Where the known one is refused, and the table has another by now, it is used again: nothing became visible.
        """
        known = self.get(table)
        if known is not None:
            try:
                return use(known)
            except (StatementError, WarehouseWriteError):
                self._tables.pop(table, None)
                found = ask()
                if found == known:
                    raise
        else:
            found = ask()
        self.learn(found)
        return use(found)


def describe(session: HiveSession, table: str) -> TableSchema | None:
    """Return the table as it is; `None` when there is none."""
    try:
        return parse_description(table, session.execute(f"DESCRIBE `{check_identifier(table)}`"))
    except RefusedByServerError as error:
        if error.no_such_table:
            return None
        raise


def missing_columns(have: TableSchema, wanted: TableSchema) -> list[Column]:
    """Return the wanted columns that are not there.

    Raises:
        WarehouseWriteError: A column, or what the table is partitioned by, is of another kind.
    """
    if have.partitioned_by != wanted.partitioned_by:
        raise WarehouseWriteError(f"table {wanted.name} exists and is partitioned otherwise")
    types = {column.name: column.type for column in have.columns}
    for column in wanted.columns:
        if types.get(column.name, column.type) != column.type:
            raise WarehouseWriteError(
                f"column {column.name} of table {wanted.name} is {types[column.name].value}, not {column.type.value}"
            )
    return [column for column in wanted.columns if column.name not in types]
