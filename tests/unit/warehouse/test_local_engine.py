from __future__ import annotations

import os
import time
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest
import sqlglot
from sqlglot import exp

from fedpredict.errors import StatementError
from fedpredict.warehouse import local_engine
from fedpredict.warehouse.base import Column, ColumnType, TableSchema
from fedpredict.warehouse.local import LocalWarehouse
from fedpredict.warehouse.local_files import TableFolder
from fedpredict.warehouse.local_scan import Source

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


MANY = "SELECT number + i AS x FROM x, range(1000000) AS r(i)"


def source_of(folder: Path, part: int) -> dict[str, Source]:
    return {"x": Source(T, TableFolder(folder / "w", "t").files(T, {"part": part}))}


def idle_parts(engine: local_engine.LocalEngine) -> list[str]:
    return [file.parent.name for each in engine._idle for file in each.files]


def test_only_two_engines_wait_and_the_oldest_is_closed(
    warehouse: LocalWarehouse, opened: list[tuple[Path, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_engine, "IDLE_S", 600.0)
    write(warehouse, 3, 30)
    ask(warehouse, 1)
    (first,) = warehouse._opened()._idle

    assert [ask(warehouse, part) for part in (2, 3)] == [[20], [30]]

    assert idle_parts(warehouse._opened()) == ["part=2", "part=3"]
    with pytest.raises(duckdb.ConnectionException):
        first.engine.execute("SELECT 1")
    assert [ask(warehouse, part) for part in (3, 2, 1)] == [[30], [20], [10]]
    assert len(opened) == 4
    warehouse.close()


def test_an_idle_engine_goes_in_time_though_others_are_asked(
    warehouse: LocalWarehouse, opened: list[tuple[Path, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_engine, "IDLE_S", 600.0)
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    ask(warehouse, 1)
    now[0] += 400.0
    ask(warehouse, 2)
    assert idle_parts(warehouse._opened()) == ["part=1", "part=2"]
    now[0] += 201.0

    ask(warehouse, 2)

    assert idle_parts(warehouse._opened()) == ["part=2"]
    assert len(opened) == 2
    warehouse.close()


def test_one_timer_lets_go_of_each_idle_engine_in_its_time(
    warehouse: LocalWarehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_engine, "IDLE_S", 600.0)
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    ask(warehouse, 1)
    engine = warehouse._opened()
    timer = engine._timer
    now[0] += 400.0
    ask(warehouse, 2)
    assert timer is not None
    assert engine._timer is timer  # another question does not put it off
    assert timer.interval == 600.0
    timer.cancel()
    now[0] += 200.0

    engine._let_go()  # what it calls then

    assert idle_parts(engine) == ["part=2"]
    assert engine._timer is not None
    assert engine._timer.interval == 400.0
    warehouse.close()


def test_an_engine_whose_rows_are_left_early_is_ended(
    tmp_path: Path, warehouse: LocalWarehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_engine, "IDLE_S", 600.0)
    engine = warehouse._opened()

    with engine.batches(MANY, {}, source_of(tmp_path, 1)) as batches:
        next(iter(batches))
    assert engine._idle == []
    with engine.batches(MANY, {}, source_of(tmp_path, 1)) as batches:
        assert sum(map(len, batches)) == 1_000_000
    assert idle_parts(engine) == ["part=1"]
    warehouse.close()


def test_an_engine_with_a_limit_of_its_own_is_asked_once(
    tmp_path: Path, warehouse: LocalWarehouse, opened: list[tuple[Path, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_engine, "IDLE_S", 600.0)
    engine = warehouse._opened()
    limit = "SELECT current_setting('memory_limit') AS x FROM x"

    def limits(memory: str) -> list[str]:
        with engine.batches(limit, {}, source_of(tmp_path, 1), memory=memory) as batches:
            return [each for batch in batches for each in batch.column("x").to_pylist()]

    asked = [(limits(memory), len(opened)) for memory in ("123MiB", "", "123MiB", "")]

    usual = asked[1][0]
    assert usual != ["123.0 MiB"]  # the one with the limit is not kept, and one that waits does not get it
    assert asked == [(["123.0 MiB"], 1), (usual, 2), (["123.0 MiB"], 3), (usual, 3)]
    warehouse.close()


def test_closing_ends_what_is_idle_and_what_is_under_way_keeps_nothing(
    tmp_path: Path, warehouse: LocalWarehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_engine, "IDLE_S", 600.0)
    ask(warehouse, 2)
    engine = warehouse._opened()
    (idle,) = engine._idle

    with engine.batches(MANY, {}, source_of(tmp_path, 1)) as batches:
        rows = iter(batches)
        n_rows = len(next(rows))
        warehouse.close()
        n_rows += sum(map(len, rows))

    assert n_rows == 1_000_000
    assert engine._idle == []
    assert engine._timer is None or engine._timer.finished.is_set()
    for each in (idle.engine, engine._connection):
        with pytest.raises(duckdb.ConnectionException):
            each.execute("SELECT 1")


def test_a_kept_engine_keeps_nothing_of_files_and_sees_those_that_took_others_places(
    warehouse: LocalWarehouse, opened: list[tuple[Path, ...]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(local_engine, "IDLE_S", 600.0)
    for number in range(1, 4):
        write(warehouse, 1, number)
        (file,) = TableFolder(tmp_path / "w", "t").files(T, {"part": 1})
        os.utime(file.path, (1e9, 1e9))  # of the same time, and the same size
        assert ask(warehouse, 1) == [number]
    assert len(opened) == 1
    # DuckDB 2.0 keeps nothing of files on a disk in any case; another may
    (idle,) = warehouse._opened()._idle
    assert idle.engine.execute("SELECT current_setting('enable_external_file_cache')").fetchall() == [(False,)]
    warehouse.close()
