"""What only a warehouse behind HiveServer2 does: staging, limits, connections that break, errors that tell nothing."""

from __future__ import annotations

import contextlib
import getpass
import os
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
import pyarrow as pa
import pytest
import sqlglot
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyhive import hive
from sqlglot import exp
from TCLIService import ttypes

from fedpredict.errors import StatementError, WarehouseUnavailableError, WarehouseWriteError
from fedpredict.model.sample_ids import SampleIds
from fedpredict.tables.erasure import CopiedFrom, copies_left, copy_without, partitions_with, put_back
from fedpredict.tables.results import ensure_results, write_results
from fedpredict.tables.results_erasure import blank_copy, put_blanked
from fedpredict.warehouse.base import Column, ColumnType, Filling, SeriesWriter, TableSchema, Warehouse
from fedpredict.warehouse.hive import STAGE_ABOVE_VALUES, HiveWarehouse
from fedpredict.warehouse.hive_connection import HiveSession

if TYPE_CHECKING:
    from tests.contract.conftest import Place, Wire

pytestmark = pytest.mark.timeout(300)
EXTREMES = [0.1, 1e-300, 5e-324, 1.7976931348623157e308, 0.0, -0.0, float("nan"), float("inf"), float("-inf")]
TEXTS = ["", "ag'e", '"', "back\\slash", "100%", "年龄", "😀", "line\nbreak", ";--", "${env:HOME}", "\0"]
N_ROWS = STAGE_ABOVE_VALUES + 1


def new_table(*columns: Column) -> TableSchema:
    return TableSchema(f"t_{uuid.uuid4().hex}", columns, (Column("part", ColumnType.STRING),))


def in_session(place: Place, statement: str) -> pa.Table:
    assert place.settings is not None
    session = HiveSession(place.settings, place.settings.database)
    try:
        return session.execute(statement)
    finally:
        session.close()


def assert_doubles_return(warehouse: Warehouse, values: list[float]) -> None:
    schema = new_table(Column("n", ColumnType.INT), Column("x", ColumnType.DOUBLE))
    many = np.resize(np.array(values), N_ROWS)
    warehouse.ensure(schema)

    warehouse.replace(schema.name, {"part": "a"}, pa.table({"n": pa.array(range(N_ROWS), pa.int32()), "x": many}))

    found = warehouse.read(schema.name, ["n", "x"], {}).sort_by("n").column("x").to_numpy()
    assert np.array_equal(np.isnan(found), np.isnan(many))
    assert np.array_equal(found.view(np.int64)[~np.isnan(many)], many.view(np.int64)[~np.isnan(many)])


def test_staged_doubles_come_back_bit_equal(staged: Warehouse) -> None:
    assert_doubles_return(staged, EXTREMES)


@settings(max_examples=2, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(values=st.lists(st.floats(), min_size=100, max_size=300))
def test_staged_doubles_that_hypothesis_chooses_come_back_bit_equal(staged: Warehouse, values: list[float]) -> None:
    assert_doubles_return(staged, values)


def test_staged_rows_of_every_type_come_back_and_leave_nothing_behind(
    server_place: Place, staged: Warehouse, tmp_path: Path
) -> None:
    schema = new_table(*(Column(f"c_{kind.name.lower()}", kind) for kind in ColumnType))
    first = datetime(1969, 12, 31, 23, 0, 0, 1, tzinfo=UTC)
    rows = pa.table(
        {
            "c_int": pa.array([at - 500 if at % 7 else None for at in range(N_ROWS)], pa.int32()),
            "c_bigint": pa.array([2**62 - at for at in range(N_ROWS)], pa.int64()),
            "c_double": pa.array([at / 7 if at % 5 else None for at in range(N_ROWS)], pa.float64()),
            "c_string": pa.array([TEXTS[at % len(TEXTS)] if at % 3 else None for at in range(N_ROWS)]),
            "c_boolean": pa.array([at % 2 == 0 for at in range(N_ROWS)]),
            "c_timestamp": pa.array(
                [first + timedelta(minutes=31) * at for at in range(N_ROWS)], pa.timestamp("us", "UTC")
            ),
            "c_doubles": pa.array([[at / 3, -0.5] if at % 4 else None for at in range(N_ROWS)], pa.list_(pa.float64())),
        }
    )
    staged.ensure(schema)

    staged.replace(schema.name, {"part": "a"}, rows)
    staged.replace(schema.name, {"part": "a"}, rows)

    found = staged.read(schema.name, rows.column_names, {"part": "a"}).sort_by([("c_bigint", "descending")])
    assert found.schema == rows.schema
    assert found.to_pylist() == rows.to_pylist()
    assert list(tmp_path.iterdir()) == []
    assert names_of_tables(server_place, "fp_staging_%") == []
    assert names_of_tables(server_place, schema.name) == [schema.name]


def names_of_tables(place: Place, pattern: str) -> list[str]:
    """Ask the server's catalogue by PyHive: SHOW TABLES needs a library that deploy/hive's server lacks."""
    assert place.settings is not None
    with contextlib.closing(hive.connect(place.settings.host, place.settings.port)) as connection:
        request = ttypes.TGetTablesReq(connection.sessionHandle, schemaName=place.settings.database, tableName=pattern)
        operation = connection.client.GetTables(request).operationHandle
        rows = connection.client.FetchResults(ttypes.TFetchResultsReq(operation, maxRows=1000)).results.columns
        return list(rows[2].stringVal.values) if rows else []


def test_a_large_result_comes_whole(staged: Warehouse) -> None:
    schema = new_table(Column("n", ColumnType.INT))
    staged.ensure(schema)

    staged.replace(schema.name, {"part": "a"}, pa.table({"n": pa.array(range(25_000), pa.int32())}))

    assert sorted(staged.read(schema.name, ["n"], {}).column("n").to_pylist()) == list(range(25_000))


def test_too_many_values_without_staging_name_the_limit_and_the_setting(server_place: Place) -> None:
    assert server_place.settings is not None
    warehouse = HiveWarehouse(replace(server_place.settings, max_inline_values=10))
    schema = new_table(Column("n", ColumnType.INT))
    warehouse.ensure(schema)

    with pytest.raises(WarehouseWriteError, match=r"max_inline_values = 10.*warehouse\.staging"):
        warehouse.replace(schema.name, {"part": "a"}, pa.table({"n": pa.array(range(11), pa.int32())}))

    assert warehouse.read(schema.name, ["n"], {}).num_rows == 0
    warehouse.close()


def test_a_staging_location_that_cannot_be_written_is_named(server_place: Place, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    assert server_place.settings is not None
    warehouse = HiveWarehouse(replace(server_place.settings, staging=str(tmp_path / "file")))
    schema = new_table(Column("n", ColumnType.INT))
    warehouse.ensure(schema)

    with pytest.raises(WarehouseWriteError, match=r"warehouse\.staging"):
        warehouse.replace(schema.name, {"part": "a"}, pa.table({"n": pa.array(range(N_ROWS), pa.int32())}))

    assert warehouse.read(schema.name, ["n"], {}).num_rows == 0
    warehouse.close()


def test_the_files_of_a_removed_partition_are_gone(server_place: Place) -> None:
    warehouse = server_place.warehouse
    schema = new_table(Column("n", ColumnType.INT))
    warehouse.ensure(schema)
    rows = pa.table({"n": pa.array([1], pa.int32())})
    warehouse.replace(schema.name, {"part": "a"}, rows)

    warehouse.replace(schema.name, {"part": "a"}, rows.slice(0, 0))

    in_session(server_place, f"ALTER TABLE {schema.name} ADD PARTITION (part='a')")
    assert warehouse.read(schema.name, ["n"], {}).num_rows == 0


def test_files_that_a_crash_left_in_a_partition_do_not_survive_its_first_write(server_place: Place) -> None:
    warehouse = server_place.warehouse
    schema = new_table(Column("n", ColumnType.INT))
    warehouse.ensure(schema)
    rows = pa.table({"n": pa.array([1], pa.int32())})
    warehouse.replace(schema.name, {"part": "a"}, rows)
    place = (
        in_session(server_place, f"SELECT INPUT__FILE__NAME AS f FROM {schema.name}")
        if (server_place.kind == "hive")
        else in_session(server_place, f"SELECT input_file_name() AS f FROM {schema.name}")
    )
    file = Path("/" + place.column("f")[0].as_py().removeprefix("file:").lstrip("/"))
    left = file.parent.parent / "part=b" / f"left-{file.name}"
    left.parent.mkdir()
    left.write_bytes(file.read_bytes())

    warehouse.replace(schema.name, {"part": "b"}, rows)

    assert warehouse.read(schema.name, ["n"], {"part": "b"}).num_rows == 1


def test_a_refused_write_does_not_repeat_the_values(server_place: Place, tmp_path: Path) -> None:
    table, folder = f"t_{uuid.uuid4().hex}", tmp_path / "table"
    folder.mkdir()
    in_session(server_place, f"CREATE EXTERNAL TABLE {table} (x DOUBLE) PARTITIONED BY (part STRING) STORED AS PARQUET "
                             f"LOCATION 'file://{folder}'")  # fmt: skip
    folder.rmdir()
    folder.write_text("in the way")

    with pytest.raises(WarehouseWriteError) as raised:
        server_place.warehouse.replace(table, {"part": "a"}, pa.table({"x": [123456789.25]}))

    assert "123456789" not in str(raised.value)
    assert raised.value.__cause__ is None


def test_a_table_of_somebody_else_is_refused(server_place: Place) -> None:
    table = f"t_{uuid.uuid4().hex}"
    in_session(server_place, f"CREATE TABLE {table} (x DECIMAL(10, 2)) PARTITIONED BY (part STRING) STORED AS PARQUET")

    with pytest.raises(WarehouseWriteError, match=table):
        server_place.warehouse.replace(table, {"part": "a"}, pa.table({"x": [1.0]}))


def test_a_database_that_does_not_exist_is_named(server_place: Place) -> None:
    assert server_place.settings is not None
    warehouse = HiveWarehouse(replace(server_place.settings, database="no_such_database"))

    with pytest.raises(StatementError, match="no_such_database"):
        warehouse.read("t", ["x"], {})


@pytest.fixture
def behind(server_place: Place, wire: Wire) -> Iterator[HiveWarehouse]:
    """A warehouse whose connection goes through a wire that can be cut."""
    assert server_place.settings is not None
    warehouse = HiveWarehouse(replace(server_place.settings, host="127.0.0.1", port=wire.port))
    yield warehouse
    warehouse.close()


def test_a_server_that_went_away_is_unavailable_until_it_is_back(
    server_place: Place, wire: Wire, behind: HiveWarehouse
) -> None:
    schema = new_table(Column("n", ColumnType.INT))
    rows = pa.table({"n": pa.array([1], pa.int32())})
    behind.ensure(schema)
    behind.replace(schema.name, {"part": "a"}, rows)

    wire.cut()

    with pytest.raises(WarehouseUnavailableError, match=str(wire.port)):
        behind.read(schema.name, ["n"], {})
    with pytest.raises(WarehouseUnavailableError):
        behind.replace(schema.name, {"part": "b"}, rows)
    with pytest.raises(WarehouseUnavailableError):
        behind.ensure(schema)

    wire.restore()

    behind.replace(schema.name, {"part": "b"}, rows)
    assert behind.read(schema.name, ["n"], {}).num_rows == 2


def test_a_connection_that_broke_unnoticed_is_opened_anew(wire: Wire, behind: HiveWarehouse) -> None:
    schema = new_table(Column("n", ColumnType.INT))
    behind.ensure(schema)

    wire.cut()
    wire.restore()

    behind.replace(schema.name, {"part": "a"}, pa.table({"n": pa.array([1], pa.int32())}))
    assert behind.read(schema.name, ["n"], {}).num_rows == 1


def test_closing_while_the_server_is_away_is_harmless(wire: Wire, behind: HiveWarehouse) -> None:
    behind.ensure(new_table(Column("n", ColumnType.INT)))

    wire.cut()

    behind.close()
    behind.close()


def test_a_statement_that_takes_too_long_is_cancelled(server_place: Place) -> None:
    assert server_place.settings is not None
    schema = new_table(Column("n", ColumnType.INT))
    server_place.warehouse.ensure(schema)
    server_place.warehouse.replace(schema.name, {"part": "a"}, pa.table({"n": pa.array([1], pa.int32())}))
    hasty = HiveWarehouse(replace(server_place.settings, statement_timeout_s=0.5))
    # longer than the 5 s that Hive may hold back an answer about the state of a statement
    slow = f"SELECT REFLECT('java.lang.Thread', 'sleep', CAST(15000 + n AS BIGINT)) AS s FROM {schema.name}"
    statement = sqlglot.parse_one(f"SELECT COUNT(s) AS k FROM ({slow}) AS q", dialect=server_place.kind)

    with contextlib.closing(hasty), pytest.raises(StatementError, match=r"cancelled after 0\.5 s"):
        hasty.run(cast(exp.Expression, statement), {})


def test_partitions_are_filled_one_after_the_other_and_what_fails_leaves_those_before(server_place: Place) -> None:
    warehouse = server_place.warehouse
    assert isinstance(warehouse, SeriesWriter)
    source, target = (new_table(Column("x", ColumnType.DOUBLE)) for _ in range(2))
    for schema in (source, target):
        warehouse.ensure(schema)
    warehouse.replace(source.name, {"part": "a"}, pa.table({"x": [1.0, 2.0, 4.0]}))
    warehouse.replace(target.name, {"part": "c"}, pa.table({"x": [7.0]}))
    chosen = sqlglot.parse_one("SELECT x FROM source WHERE x > :least").transform(named({"source": source.name}))

    def fillings(*wanted: tuple[str, float | None]) -> Iterator[Filling]:
        for part, least in wanted:
            if least is None:
                raise InterruptedError
            yield Filling({"part": part}, chosen, {"least": least})

    def stored() -> list[tuple[str, float]]:
        rows = warehouse.read(target.name, ["part", "x"], {}).to_pylist()
        return sorted((row["part"], row["x"]) for row in rows)

    warehouse.replace_series_from(target.name, fillings(("a", 1.5), ("b", 3.0), ("c", 9.0)))
    assert stored() == [("a", 2.0), ("a", 4.0), ("b", 4.0)]
    with pytest.raises(InterruptedError):
        warehouse.replace_series_from(target.name, fillings(("a", 0.5), ("b", None)))
    assert stored() == [("a", 1.0), ("a", 2.0), ("a", 4.0), ("b", 4.0)]
    with pytest.raises(StatementError):
        warehouse.replace_series_from(target.name, [Filling({"part": "d"}, exp.Drop(this=exp.to_table("x")), {})])
    assert len(stored()) == 4


def test_what_is_gathered_of_a_partitions_rows_is_of_its_own_rows_alone(server_place: Place) -> None:
    warehouse = server_place.warehouse
    assert isinstance(warehouse, SeriesWriter)
    source, target = (new_table(Column("x", ColumnType.DOUBLE)) for _ in range(2))
    for schema in (source, target):
        warehouse.ensure(schema)
    warehouse.replace(source.name, {"part": "a"}, pa.table({"x": [1.0, 2.0, 4.0]}))
    chosen = sqlglot.parse_one("SELECT x FROM source WHERE x > :least").transform(named({"source": source.name}))
    summaries = [
        cast(exp.Select, sqlglot.parse_one(text))
        for text in (
            "SELECT 7 AS k, COUNT(*) AS n GROUP BY x > :middle",
            "SELECT 8 AS k, SUM(CAST(x AS INT)) AS n GROUP BY x > :least",
        )
    ]

    gathered = warehouse.replace_series_from(
        target.name,
        [
            Filling({"part": part}, chosen, {"least": least, "middle": 1.5}, summaries)
            for part, least in (("a", 0.0), ("b", 3.0), ("c", 9.0))
        ],
    )

    told = [[sorted((row["k"], row["n"]) for row in one.to_pylist()) for one in each] for each in gathered]
    of_hive = [[[(7, 1), (7, 2)], [(8, 7)]], [[(7, 1)], [(8, 4)]], [[], []]]
    assert told == (of_hive if server_place.kind == "hive" else [[], [], []])
    rows = warehouse.read(target.name, ["part", "x"], {}).to_pylist()
    assert sorted((row["part"], row["x"]) for row in rows) == [("a", 1.0), ("a", 2.0), ("a", 4.0), ("b", 4.0)]


def test_a_column_that_another_session_adds_meanwhile_is_null_in_what_is_written(server_place: Place) -> None:
    warehouse, schema = server_place.warehouse, new_table(Column("x", ColumnType.DOUBLE))
    warehouse.ensure(schema)
    warehouse.replace(schema.name, {"part": "a"}, pa.table({"x": [1.0]}))
    wider = replace(schema, columns=(*schema.columns, Column("y", ColumnType.DOUBLE)))
    assert server_place.settings is not None
    with contextlib.closing(HiveWarehouse(server_place.settings)) as other:
        other.ensure(wider)

    warehouse.replace(schema.name, {"part": "b"}, pa.table({"x": [2.0]}))

    rows = warehouse.read(schema.name, ["part", "x", "y"], {}).to_pylist()
    assert sorted((row["part"], row["x"], row["y"]) for row in rows) == [("a", 1.0, None), ("b", 2.0, None)]


def test_a_partition_is_there_until_it_is_replaced_by_no_rows(server_place: Place) -> None:
    warehouse, schema = server_place.warehouse, new_table(Column("x", ColumnType.DOUBLE))
    assert isinstance(warehouse, SeriesWriter)
    assert not warehouse.has_partition(schema.name, {"part": "a"})  # there is no such table
    warehouse.ensure(schema)
    assert not warehouse.has_partition(schema.name, {"part": "a"})

    warehouse.replace(schema.name, {"part": "a"}, pa.table({"x": [1.0]}))
    found = [warehouse.has_partition(schema.name, {"part": part}) for part in ("a", "b")]
    warehouse.replace(schema.name, {"part": "a"}, schema.arrow_schema.empty_table())

    assert (found, warehouse.has_partition(schema.name, {"part": "a"})) == ([True, False], False)


@pytest.mark.parametrize("who", ["${env:HOME}", "${system:user.name}", "$${hiveconf:x}'"])
def test_a_person_whose_id_looks_like_a_setting_is_found_and_erased(server_place: Place, who: str) -> None:
    """The server would replace it in the text of a statement; another row has what it would be replaced by."""
    warehouse, task_id = server_place.warehouse, f"t-{uuid.uuid4().hex}"
    people = ["a1", os.environ["HOME"], getpass.getuser(), who, "", "{env:HOME}"]
    schema = new_table(Column("sample_id", ColumnType.STRING))
    warehouse.ensure(schema)
    warehouse.replace(schema.name, {"part": "a"}, pa.table({"sample_id": people}))
    ensure_results(warehouse)
    of_others = [each.encode() for each in people if each]
    ok = np.ones(len(of_others), np.uint8)
    ids = SampleIds.of(of_others)
    write_results(warehouse, task_id, 0, ids, predictions=np.ones((len(ids), 1)), status=ok, origin=ok)

    found = partitions_with(warehouse, schema, who)
    n_left = copy_without(warehouse, schema, {"part": "a"}, who)
    (copy,) = copies_left(warehouse, CopiedFrom(schema.name), people[1])
    put_back(warehouse, schema, {"part": "a"})
    blanked = blank_copy(warehouse, task_id, 0, who, with_rank=False).column("sample_id").to_pylist()
    put_blanked(warehouse, task_id, 0)

    assert found == [({"part": "a"}, 1)]
    assert (n_left, copy.n_rows, copy.n_theirs) == (len(people) - 1, len(people) - 1, 1)
    left = warehouse.read(schema.name, ["sample_id"], {}).column(0).to_pylist()
    assert sorted(left) == sorted(each for each in people if each != who)
    assert blanked == ["" if each == who else each for each in people if each]
    assert partitions_with(warehouse, schema, who) == []
    assert copies_left(warehouse, CopiedFrom(schema.name), who) == []


def named(tables: dict[str, str]) -> Callable[[exp.Expression], exp.Expression]:
    """Return what puts the tables' real names into a statement."""
    return lambda node: exp.to_table(tables[node.name]) if isinstance(node, exp.Table) else node
