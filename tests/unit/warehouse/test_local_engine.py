from __future__ import annotations

import time
from pathlib import Path

import pyarrow as pa
import pytest
import sqlglot
from sqlglot import exp

from fedpredict.errors import StatementError
from fedpredict.warehouse import local_engine
from fedpredict.warehouse.base import Column, ColumnType, TableSchema
from fedpredict.warehouse.local import LocalWarehouse

T = TableSchema("t", (Column("number", ColumnType.BIGINT),), (Column("part", ColumnType.INT),))
OPEN_ENGINE = local_engine._open_engine


@pytest.fixture
def warehouse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LocalWarehouse:
    monkeypatch.setattr(local_engine, "LARGE_BYTES", 0)
    made = LocalWarehouse(tmp_path / "w")
    made.ensure(T)
    for part in (1, 2):
        write(made, part, part * 10)
    return made


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Path, ...]]:
    """The files of each engine that was opened."""
    found: list[tuple[Path, ...]] = []

    def open_engine(spill: Path | None, allowed: tuple[Path, ...] = ()) -> object:
        if allowed:
            found.append(tuple(allowed))
        return OPEN_ENGINE(spill, allowed)

    monkeypatch.setattr(local_engine, "_open_engine", open_engine)
    return found


def write(warehouse: LocalWarehouse, part: int, number: int) -> None:
    warehouse.replace("t", {"part": part}, pa.table({"number": pa.array([number], pa.int64())}))


def ask(warehouse: LocalWarehouse, part: int, what: str = "number") -> list[int]:
    statement = sqlglot.parse_one(f"SELECT {what} AS x FROM t WHERE part = {part}", dialect="duckdb", into=exp.Select)
    return list(warehouse.run(statement, {}).column("x").to_pylist())


def test_questions_of_the_same_files_are_asked_of_one_engine(
    warehouse: LocalWarehouse, opened: list[tuple[Path, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_engine, "IDLE_S", 600.0)

    assert [ask(warehouse, part) for part in (1, 1, 2, 1)] == [[10], [10], [20], [10]]
    write(warehouse, 1, 11)
    assert ask(warehouse, 1) == [11]

    assert len(opened) == len(set(opened)) == 2
    warehouse.close()


def test_an_engine_that_refused_is_not_asked_again(
    warehouse: LocalWarehouse, opened: list[tuple[Path, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_engine, "IDLE_S", 600.0)

    with pytest.raises(StatementError):
        ask(warehouse, 1, "error('no')")
    assert ask(warehouse, 1) == [10]

    assert len(opened) == 2
    warehouse.close()


def test_an_engine_that_nobody_asks_is_let_go(
    warehouse: LocalWarehouse, opened: list[tuple[Path, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_engine, "IDLE_S", 0.05)

    ask(warehouse, 1)
    ends = time.monotonic() + 30
    while warehouse._opened()._idle and time.monotonic() < ends:
        time.sleep(0.02)

    assert not warehouse._opened()._idle
    assert ask(warehouse, 1) == [10]
    assert len(opened) == 2
    warehouse.close()
