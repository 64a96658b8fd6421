"""What a Hive server said of a table a moment ago, and what becomes of it when the table is another by now."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from fedpredict.errors import StatementError, WarehouseWriteError
from fedpredict.warehouse import hive_known
from fedpredict.warehouse.base import Column, ColumnType, TableSchema
from fedpredict.warehouse.hive_known import KnownTables

OLD = TableSchema("t", (Column("x", ColumnType.DOUBLE),), (Column("part", ColumnType.INT),))
NEW = TableSchema("t", (*OLD.columns, Column("y", ColumnType.DOUBLE)), OLD.partitioned_by)


class Server:
    """Has one table, and takes what is made for the columns that it has."""

    def __init__(self) -> None:
        self.table = OLD
        self.asked = 0

    def ask(self) -> TableSchema:
        self.asked += 1
        return self.table

    def insert(self, schema: TableSchema) -> str:
        if schema != self.table:
            raise StatementError("too few columns")
        return f"{len(schema.columns)} columns"


def test_a_table_is_asked_for_once() -> None:
    known, server = KnownTables(), Server()

    assert [known.using("t", server.ask, server.insert) for _ in range(3)] == ["1 columns"] * 3
    assert server.asked == 1


def test_a_column_that_another_process_added_is_found_when_the_server_refuses() -> None:
    known, server = KnownTables(), Server()
    known.using("t", server.ask, server.insert)
    server.table = NEW

    assert known.using("t", server.ask, server.insert) == "2 columns"
    assert (server.asked, known.get("t")) == (2, NEW)


def refusing(error: Exception) -> Callable[[TableSchema], str]:
    def refuse(_: TableSchema) -> str:
        raise error

    return refuse


@pytest.mark.parametrize("error", [StatementError("no such function"), WarehouseWriteError("full")])
def test_a_refusal_of_a_table_that_is_as_it_was_is_told(error: Exception) -> None:
    known, server = KnownTables(), Server()
    known.using("t", server.ask, server.insert)

    with pytest.raises(type(error), match=str(error)):
        known.using("t", server.ask, refusing(error))
    assert server.asked == 2
    assert known.using("t", server.ask, server.insert) == "1 columns"


def test_what_was_told_long_ago_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    known, server = KnownTables(), Server()
    known.using("t", server.ask, server.insert)
    monkeypatch.setattr(hive_known, "KNOWN_S", 0.0)

    assert known.get("t") is None
    assert known.using("t", server.ask, server.insert) == "1 columns"
    assert server.asked == 2
