"""A statement that fills one partition after the other: its text is made once, its values are those of each call."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import cast

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sqlglot
from sqlglot import exp
from typing_extensions import override

from fedpredict.warehouse import local_statement
from fedpredict.warehouse.base import Column, ColumnType, RowWatch, TableSchema, Value
from fedpredict.warehouse.local import LocalWarehouse
from fedpredict.warehouse.local_ranges import TextRange
from fedpredict.warehouse.local_statement import Compiled, compile_query, prepare

PART = (Column("part", ColumnType.INT),)
SOURCE = TableSchema("source", (Column("place", ColumnType.STRING), Column("x", ColumnType.DOUBLE)), PART)
TARGET = TableSchema("target", (Column("x", ColumnType.DOUBLE),), PART)
TEXT = "SELECT x, CAST(x AS BIGINT) AS n FROM source WHERE part = :part AND (place >= :first AND place < :end)"
ROWS = pa.table({"place": [f"{place:02x}" for place in range(0, 160, 16)], "x": [float(row) for row in range(10)]})


class Sum(RowWatch):
    """Adds up what passes."""

    def __init__(self) -> None:
        self.further = Column("n", ColumnType.BIGINT)
        self.begin()

    @override
    def begin(self) -> None:
        self.total = 0

    @override
    def add(self, batch: pa.RecordBatch) -> None:
        self.total += sum(batch.column("n").to_pylist())


@pytest.fixture
def warehouse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalWarehouse]:
    monkeypatch.setattr("fedpredict.warehouse.local.GROUP_ROWS", 3)
    warehouse = LocalWarehouse(tmp_path / "w")
    for schema in (SOURCE, TARGET):
        warehouse.ensure(schema)
    for part in (1, 2):
        warehouse.replace("source", {"part": part}, ROWS)
    yield warehouse
    warehouse.close()


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was compiled since."""
    texts: list[str] = []

    def remembered(statement: exp.Expression, schema_of: Callable[[str], TableSchema]) -> Compiled:
        found = compile_query(statement, schema_of)
        texts.append(found.sql)
        return found

    monkeypatch.setattr(local_statement, "compile_query", remembered)
    return texts


def parsed() -> exp.Select:
    return cast(exp.Select, sqlglot.parse_one(TEXT))


def filled(warehouse: LocalWarehouse, statement: exp.Select, part: int, first: str, end: str) -> list[float]:
    watch = Sum()
    values: dict[str, Value] = {"part": part, "first": first, "end": end}
    n_rows = warehouse.replace_from_watched("target", {"part": 7}, statement, values, watch=watch)
    rows: list[float] = sorted(warehouse.read("target", ["x"], {"part": 7}).column("x").to_pylist())
    assert (len(rows), sum(rows)) == (n_rows, watch.total)
    return rows


def test_the_same_statement_with_other_values_is_compiled_once(warehouse: LocalWarehouse, compiled: list[str]) -> None:
    statement = parsed()

    assert filled(warehouse, statement, 1, "00", "30") == [0.0, 1.0, 2.0]
    assert filled(warehouse, statement, 2, "35", "7f") == [4.0, 5.0, 6.0, 7.0]
    warehouse.replace("source", {"part": 2}, ROWS.slice(5))  # other files are found
    assert filled(warehouse, statement, 2, "35", "7f") == [5.0, 6.0, 7.0]
    assert filled(warehouse, statement, 3, "00", "g") == []
    assert len(compiled) == 1


def test_another_statement_or_table_is_compiled_anew(warehouse: LocalWarehouse, compiled: list[str]) -> None:
    statement = parsed()
    filled(warehouse, statement, 1, "00", "30")

    assert filled(warehouse, parsed().where("x > 1.0"), 1, "00", "30") == [2.0]
    assert filled(warehouse, statement, 1, "00", "30") == [0.0, 1.0, 2.0]
    assert len(compiled) == 3
    warehouse.ensure(TableSchema("source", (*SOURCE.columns, Column("y", ColumnType.DOUBLE)), PART))
    assert filled(warehouse, statement, 1, "00", "30") == [0.0, 1.0, 2.0]
    warehouse.ensure(TableSchema("target", (*TARGET.columns, Column("y", ColumnType.DOUBLE)), PART))
    assert filled(warehouse, statement, 1, "00", "30") == [0.0, 1.0, 2.0]
    assert len(compiled) == 5


def test_a_range_and_a_partition_that_are_bound_are_seen() -> None:
    bound = compile_query(parsed(), lambda _: SOURCE)

    for part, first, end in ((1, "10", "20"), (2, "a", "b")):
        (scan,) = bound.with_values({"part": part, "first": first, "end": end}).scans
        assert (scan.where, scan.within) == ({"part": part}, TextRange("place", first, end))
    assert prepare(parsed(), {"part": 1, "first": None, "end": "20"}, lambda _: SOURCE).scans[0].within is None


def test_a_files_footer_is_read_once_and_that_of_its_successor_is_its_own(
    warehouse: LocalWarehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fedpredict.warehouse.local_engine.LARGE_BYTES", 0)
    read: list[Path] = []
    read_metadata = pq.read_metadata

    def remembered(path: Path) -> pq.FileMetaData:
        read.append(path)
        return read_metadata(path)

    monkeypatch.setattr(pq, "read_metadata", remembered)
    statement = parsed()

    assert filled(warehouse, statement, 1, "00", "30") == [0.0, 1.0, 2.0]
    assert filled(warehouse, statement, 1, "30", "50") == [3.0, 4.0]
    assert len(read) == 1
    warehouse.replace("source", {"part": 1}, ROWS.slice(4))
    assert filled(warehouse, statement, 1, "30", "50") == [4.0]
    assert len(read) == 2
