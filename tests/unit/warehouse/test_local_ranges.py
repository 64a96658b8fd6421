from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sqlglot
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlglot import exp

from fedpredict.warehouse import local_scan
from fedpredict.warehouse.base import Column, ColumnType, TableSchema
from fedpredict.warehouse.local import LocalWarehouse
from fedpredict.warehouse.local_ranges import TextRange, rows_within
from fedpredict.warehouse.local_statement import prepare

PLACES = ["00", "0a", "10", "1f", "20", "2c", "2c", "30", "a0", "f0"]
T = TableSchema(
    "t",
    (Column("place", ColumnType.STRING), Column("number", ColumnType.BIGINT)),
    (Column("part", ColumnType.INT),),
)


def written(path: Path, places: Sequence[str | None], group: int = 3, **options: object) -> Path:
    file = path / "rows.parquet"
    table = pa.table({"number": range(len(places)), "place": pa.array(places, pa.string())})
    pq.write_table(table, file, row_group_size=group, **options)
    return file


@pytest.mark.parametrize(
    ("first", "end", "expected"),
    [
        ("00", "g", (0, 10)),
        ("10", "20", (2, 4)),
        ("20", "30", (4, 7)),
        ("2c", "2d", (5, 7)),
        ("1f", "a0", (3, 8)),
        ("f1", "g", (0, 0)),
        ("b", "c", (0, 0)),
    ],
)
def test_rows_in_order_are_named_by_their_numbers(
    tmp_path: Path, first: str, end: str, expected: tuple[int, int]
) -> None:
    assert rows_within(written(tmp_path, PLACES), TextRange("place", first, end)) == expected


@settings(max_examples=30, deadline=None)
@given(
    places=st.lists(st.sampled_from(["a", "b", "bb", "c", "é", None]), min_size=1, max_size=12),
    bounds=st.tuples(st.sampled_from("abcdé"), st.sampled_from("abcdé")),
    group=st.integers(1, 5),
)
def test_what_is_named_is_the_range_and_nothing_else(
    tmp_path_factory: pytest.TempPathFactory, places: list[str | None], bounds: tuple[str, str], group: int
) -> None:
    first, end = bounds
    found = rows_within(written(tmp_path_factory.mktemp("t"), places, group), TextRange("place", first, end))

    within = [at for at, place in enumerate(places) if place is not None and first <= place < end]
    if found is not None:
        assert list(range(*found)) == within
    elif None not in places and len(places) <= 2 * group:  # two groups at most, so that they are looked at
        assert within[-1] - within[0] >= len(within)


def test_rows_out_of_order_or_without_statistics_have_no_numbers(tmp_path: Path) -> None:
    wanted = TextRange("place", "10", "20")

    assert rows_within(written(tmp_path, ["10", "00", "11"]), wanted) is None
    assert rows_within(written(tmp_path, ["10", "30", "00", "11"], group=1), wanted) is None
    assert rows_within(written(tmp_path, ["00", "11", "21", "01", "10", "22", "02", "12", "20"]), wanted) is None
    assert rows_within(written(tmp_path, PLACES, write_statistics=False), wanted) is None
    assert rows_within(written(tmp_path, PLACES), TextRange("other", "10", "20")) is None
    assert rows_within(written(tmp_path, PLACES), TextRange("number", "10", "20")) is None


@pytest.mark.parametrize(
    "text",
    [
        "SELECT number FROM t WHERE part = 1 AND (place >= '10' AND place < '20')",
        "SELECT x.number AS n FROM (SELECT number FROM t WHERE place >= '10' AND place < '20' AND number > 0) AS x, t",
        "SELECT COUNT(*) AS n FROM t AS a WHERE a.place >= '10' AND a.place < '20'",
    ],
)
def test_a_range_that_the_rows_are_asked_for_is_seen(text: str) -> None:
    scans = prepare(sqlglot.parse_one(text, dialect="duckdb", into=exp.Select), {}, lambda _: T).scans

    assert {each.within for each in scans} - {None} == {TextRange("place", "10", "20")}


@pytest.mark.parametrize(
    "text",
    [
        "SELECT number, place FROM t WHERE place >= '10' AND place < '20'",
        "SELECT * FROM t WHERE place >= '10' AND place < '20'",
        "SELECT PLACE FROM t WHERE place >= '10' AND place < '20'",
        "SELECT number FROM t WHERE place >= '10' AND place < '20' ORDER BY place",
        "SELECT number FROM t WHERE place >= '10' OR place < '20'",
        "SELECT number FROM t WHERE NOT (place >= '10' AND place < '20')",
        "SELECT number FROM t WHERE place >= '10' AND place < '20' AND place < '18'",
        "SELECT number FROM t WHERE place >= '10'",
        "SELECT number FROM t WHERE place >= '10' AND number < '20'",
        "SELECT number FROM t WHERE number >= '10' AND number < '20'",
        "SELECT a.number FROM t AS a JOIN t AS b ON TRUE WHERE a.place >= '10' AND a.place < '20'",
        "SELECT number FROM t AS a WHERE place >= '10' AND place < '20' AND EXISTS (SELECT 1 WHERE a.place = '11')",
        "SELECT number FROM t TABLESAMPLE (3 ROWS) WHERE place >= '10' AND place < '20'",
        "SELECT number FROM t WHERE place >= '10' AND place < '20' USING SAMPLE 3",
        "SELECT number, COLUMNS('pl.*') FROM t WHERE place >= '10' AND place < '20'",
        "SELECT number, struct_pack(x := t) FROM t WHERE place >= '10' AND place < '20'",
        "SELECT T AS x FROM t WHERE place >= '10' AND place < '20'",
        "SELECT hash(t.*) AS x FROM t WHERE place >= '10' AND place < '20'",
        "SELECT * FROM t PIVOT (SUM(number) FOR part IN (1)) WHERE place >= '10' AND place < '20'",
        "SELECT x FROM t PIVOT (SUM(number) FOR part IN (1 AS x)) WHERE place >= '10' AND place < '20'",
        "SELECT number FROM t AS t(place, number) WHERE place >= '10' AND place < '20'",
        "SELECT o.number FROM t AS o WHERE EXISTS (SELECT 1 FROM t AS i WHERE o.place >= '10' AND o.place < '20')",
    ],
)
def test_a_column_with_another_use_is_read(text: str) -> None:
    scans = prepare(sqlglot.parse_one(text, dialect="duckdb", into=exp.Select), {}, lambda _: T).scans

    assert {each.within for each in scans} == {None}


@pytest.mark.parametrize("places", [PLACES, PLACES[::-1], [None, *PLACES, None]])
@pytest.mark.parametrize("columns", ["number", "number, place AS other"])
def test_a_query_gives_the_rows_of_its_range_however_they_stand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, places: Sequence[str | None], columns: str
) -> None:
    monkeypatch.setattr("fedpredict.warehouse.local.GROUP_ROWS", 3)
    monkeypatch.setattr("fedpredict.warehouse.local_engine.LARGE_BYTES", 0)
    warehouse = LocalWarehouse(tmp_path / "w")
    warehouse.ensure(T)
    rows = pa.table({"place": pa.array(places, pa.string()), "number": pa.array(range(len(places)), pa.int64())})
    warehouse.replace("t", {"part": 1}, rows)
    warehouse.replace("t", {"part": 2}, rows.slice(0, 1))

    text = f"SELECT {columns} FROM t WHERE place >= '1f' AND place < 'a0'"
    found = warehouse.run(sqlglot.parse_one(text, dialect="duckdb", into=exp.Select), {})

    expected = [(at, place) for at, place in enumerate(places) if place is not None and "1f" <= place < "a0"]
    assert sorted(found.column("number").to_pylist()) == [at for at, _ in expected]
    if "other" in found.column_names:
        assert sorted(zip(*found.to_pydict().values(), strict=True)) == expected
    warehouse.close()


def test_a_range_of_the_query_around_leaves_the_rows_of_the_one_within(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fedpredict.warehouse.local_engine.LARGE_BYTES", 0)
    warehouse = LocalWarehouse(tmp_path / "w")
    warehouse.ensure(T)
    warehouse.replace("t", {"part": 1}, pa.table({"place": ["70", "80"], "number": pa.array([1, 2], pa.int64())}))
    warehouse.replace("t", {"part": 2}, pa.table({"place": PLACES, "number": pa.array(range(10), pa.int64())}))

    within = "SELECT 1 FROM t AS i WHERE i.part = 2 AND o.place >= '75' AND o.place < '90'"  # where i has no such place
    text = f"SELECT o.number FROM t AS o WHERE o.part = 1 AND EXISTS ({within})"
    found = warehouse.run(sqlglot.parse_one(text, dialect="duckdb", into=exp.Select), {})

    assert found.column("number").to_pylist() == [2]
    warehouse.close()


def test_numbers_of_rows_that_another_file_had_are_found_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedpredict.warehouse.local.GROUP_ROWS", 3)
    monkeypatch.setattr("fedpredict.warehouse.local_engine.LARGE_BYTES", 0)
    warehouse = LocalWarehouse(tmp_path / "w")
    warehouse.ensure(T)
    rows = pa.table({"place": PLACES, "number": pa.array(range(10), pa.int64())})
    warehouse.replace("t", {"part": 1}, rows)

    def replaced_meanwhile(path: Path, wanted: TextRange, footer: pq.FileMetaData) -> tuple[int, int] | None:
        found = rows_within(path, wanted, footer)
        monkeypatch.setattr(local_scan, "rows_within", rows_within)
        warehouse.replace("t", {"part": 1}, rows.slice(1))  # as an erasure does
        return found

    text = "SELECT number FROM t WHERE place >= '10' AND place < '20'"
    statement = sqlglot.parse_one(text, dialect="duckdb", into=exp.Select)
    target = TableSchema("kept", (Column("number", ColumnType.BIGINT),), (Column("part", ColumnType.INT),))
    warehouse.ensure(target)
    monkeypatch.setattr(local_scan, "rows_within", replaced_meanwhile)
    assert sorted(warehouse.run(statement, {}).column("number").to_pylist()) == [2, 3]
    warehouse.replace("t", {"part": 1}, rows)
    monkeypatch.setattr(local_scan, "rows_within", replaced_meanwhile)
    assert warehouse.replace_from("kept", {"part": 1}, statement, {}) == 2
    assert sorted(warehouse.read("kept", ["number"], {}).column("number").to_pylist()) == [2, 3]
    warehouse.close()
