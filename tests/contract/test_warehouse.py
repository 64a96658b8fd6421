"""What every warehouse does: one suite for the embedded one, Spark's Thrift Server and Apache Hive's HiveServer2."""

from __future__ import annotations

import subprocess
import sys
import uuid
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
import pyarrow as pa
import pytest
import sqlglot
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlglot import exp

from fedpredict.errors import (
    NameRefusedError,
    StatementError,
    WarehouseUnavailableError,
    WarehouseWriteError,
)
from fedpredict.warehouse.base import ARROW_TYPES, Column, ColumnType, TableSchema, Warehouse

if TYPE_CHECKING:
    from tests.contract.conftest import Place

pytestmark = pytest.mark.timeout(300)  # Hive's first INSERT in a session alone takes up to 35 s

DOUBLE, STRING, INT = ColumnType.DOUBLE, ColumnType.STRING, ColumnType.INT
EXTREMES = [0.1, 1e-300, 5e-324, 2.2250738585072009e-308, 1.7976931348623157e308, 0.0, -0.0, -0.1, 1 / 3, 1e22]
NOT_FINITE = [float("nan"), float("inf"), float("-inf")]
TEXTS = [
    "", "ag'e", '"', "back\\slash", "\\", "\\'", "100%", "%(x)s", "%s", "年龄", "😀", "line\nbreak", "\r\t", ";--",
    "/*", "`", "${env:HOME}", "$", "\0", "\x7f", "\\u0041", "NULL", " padded ", "a" * 10_000, "' OR '1'='1",
]  # fmt: skip
MOMENTS = [
    datetime(2026, 3, 8, 7, 30, 0, 1, tzinfo=UTC),
    datetime(1970, 1, 1, tzinfo=UTC),
    datetime(1969, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC),
    datetime(1900, 1, 1, 0, 0, 0, 500_000, tzinfo=UTC),
    datetime(1, 1, 1, tzinfo=UTC),
    datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC),
]


def new_table(*columns: Column) -> TableSchema:
    """Return a schema with a name of its own: a row number, the columns, and two partition columns."""
    return TableSchema(
        f"t_{uuid.uuid4().hex}", (Column("n", INT), *columns), (Column("part", STRING), Column("version", INT))
    )


def numbered(**columns: pa.Array) -> pa.Table:
    count = len(next(iter(columns.values())))
    return pa.table({"n": pa.array(range(count), pa.int32()), **columns})


def column_of(warehouse: Warehouse, table: str, column: str, where: dict[str, str | int] | None = None) -> pa.Array:
    """Return a column's values in the order of the rows as they were written."""
    found = warehouse.read(table, ["n", column], where or {}).sort_by("n")
    return found.column(column).combine_chunks()


def query(sql: str) -> exp.Expression:
    """Return the tree of a query; `:name` stands for a value to bind."""
    return cast(exp.Expression, sqlglot.parse_one(sql))


def bits(values: Sequence[float] | np.ndarray[tuple[int], np.dtype[np.float64]]) -> list[int]:
    """Return doubles as integers, every NaN as one."""
    array = np.asarray(values, dtype=np.float64)
    return [int(bit) for bit in np.where(np.isnan(array), np.float64("nan"), array).view(np.int64)]


# --- values -----------------------------------------------------------------------------------------------------------


def assert_doubles_return(warehouse: Warehouse, values: list[float]) -> None:
    schema = new_table(Column("x", DOUBLE))
    warehouse.ensure(schema)

    warehouse.replace(schema.name, {"part": "a", "version": 1}, numbered(x=pa.array(values, pa.float64())))

    found = column_of(warehouse, schema.name, "x")
    assert found.null_count == 0
    assert bits(found.to_numpy()) == bits(values)


def test_every_extreme_double_comes_back_bit_equal(warehouse: Warehouse) -> None:
    assert_doubles_return(warehouse, EXTREMES + [-value for value in EXTREMES] + NOT_FINITE)


@pytest.mark.parametrize("value", [-0.0, 5e-324, float("nan")])
def test_a_double_alone_in_its_partition_comes_back_bit_equal(warehouse: Warehouse, value: float) -> None:
    assert_doubles_return(warehouse, [value])


@settings(max_examples=3, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(values=st.lists(st.floats(), min_size=50, max_size=200))
def test_doubles_that_hypothesis_chooses_come_back_bit_equal(warehouse: Warehouse, values: list[float]) -> None:
    assert_doubles_return(warehouse, values)


def test_lists_of_doubles_come_back_bit_equal(warehouse: Warehouse) -> None:
    schema = new_table(Column("x", ColumnType.DOUBLES))
    warehouse.ensure(schema)
    # but for a negative zero, whose sign Hive loses in a list of literals
    positive = [each for each in EXTREMES if bits([each]) != bits([-0.0])]
    lists = [positive, None, [0.1], NOT_FINITE, [-0.1, 1 / 3]]

    warehouse.replace(
        schema.name, {"part": "a", "version": 1}, numbered(x=pa.array(lists, ARROW_TYPES[ColumnType.DOUBLES]))
    )

    warehouse.ensure(schema)  # the table that is there is the one that is wanted
    found = column_of(warehouse, schema.name, "x")
    assert [None if each is None else bits(each) for each in found.to_pylist()] == [
        None if each is None else bits(each) for each in lists
    ]


@pytest.fixture
def texts(place: Place) -> str:
    """The name of a table with all texts, written once."""

    def write() -> str:
        schema = new_table(Column("s", STRING))
        place.warehouse.ensure(schema)
        place.warehouse.replace(schema.name, {"part": "a", "version": 1}, numbered(s=pa.array(TEXTS)))
        return schema.name

    return cast(str, place.once("texts", write))


def test_text_comes_back_unchanged(warehouse: Warehouse, texts: str) -> None:
    assert column_of(warehouse, texts, "s").to_pylist() == TEXTS


def every_type(schema: TableSchema, count: int) -> pa.Table:
    values: dict[ColumnType, list[object]] = {
        ColumnType.INT: [2**31 - 1, -(2**31), 0],
        ColumnType.BIGINT: [2**63 - 1, -(2**63), 0],
        ColumnType.DOUBLE: [*EXTREMES],
        ColumnType.STRING: [*TEXTS],
        ColumnType.BOOLEAN: [True, False],
        ColumnType.TIMESTAMP: [*MOMENTS],
        ColumnType.DOUBLES: [[0.1, -0.5], [1e22]],
    }
    return numbered(
        **{
            column.name: pa.array(
                [None if at % 7 == 6 else values[column.type][at % len(values[column.type])] for at in range(count)],
                ARROW_TYPES[column.type],
            )
            for column in schema.columns[1:]
        }
    )


def every_column() -> TableSchema:
    return new_table(*(Column(f"c_{kind.name.lower()}", kind) for kind in ColumnType))


def assert_rows_return(warehouse: Warehouse, table: str, rows: pa.Table) -> None:
    found = warehouse.read(table, rows.column_names, {}).sort_by("n").combine_chunks()
    assert found.schema == rows.schema
    assert found.to_pylist() == rows.to_pylist()


def test_every_type_and_null_come_back_in_the_types_of_the_contract(warehouse: Warehouse) -> None:
    schema = every_column()
    rows = every_type(schema, 60)
    warehouse.ensure(schema)

    warehouse.replace(schema.name, {"part": "a", "version": 1}, rows)

    assert_rows_return(warehouse, schema.name, rows)
    assert warehouse.read(schema.name, ["part", "version"], {}).slice(0, 1).to_pylist() == [{"part": "a", "version": 1}]


def test_a_column_that_the_rows_lack_is_null(warehouse: Warehouse) -> None:
    schema = new_table(Column("x", DOUBLE), Column("s", STRING))
    warehouse.ensure(schema)

    warehouse.replace(schema.name, {"part": "a", "version": 1}, numbered(s=pa.array(["only"])))

    assert warehouse.read(schema.name, ["s", "x"], {}).to_pylist() == [{"s": "only", "x": None}]


@pytest.mark.parametrize(
    "rows",
    [
        pytest.param(pa.table({"y": [1.0]}), id="unknown column"),
        pytest.param(pa.table({"x": ["1.0"]}), id="other type"),
        pytest.param(pa.table([pa.array([1.0]), pa.array([2.0])], names=["x", "x"]), id="twice"),
    ],
)
def test_rows_that_do_not_fit_are_refused(warehouse: Warehouse, rows: pa.Table) -> None:
    schema = new_table(Column("x", DOUBLE))
    warehouse.ensure(schema)

    with pytest.raises(WarehouseWriteError, match=schema.name):
        warehouse.replace(schema.name, {"part": "a", "version": 1}, rows)

    assert warehouse.read(schema.name, ["x"], {}).num_rows == 0


WIDE = [f"w_{at}" for at in range(2_000)]


@pytest.fixture
def wide(place: Place) -> str:
    """The name of a table of 2,000 columns and one row, at / 7 in column `at`; written once."""

    def write() -> str:
        schema = new_table(*(Column(name, DOUBLE) for name in WIDE))
        row = {name: pa.array([at / 7]) for at, name in enumerate(WIDE)}
        place.warehouse.ensure(schema)
        place.warehouse.replace(schema.name, {"part": "a", "version": 1}, numbered(**row))
        return schema.name

    return cast(str, place.once("wide", write))


def test_a_table_of_two_thousand_columns_is_written_and_read(warehouse: Warehouse, wide: str) -> None:
    found = warehouse.read(wide, WIDE, {"part": "a"})

    assert bits([found.column(name)[0].as_py() for name in WIDE]) == bits([at / 7 for at in range(len(WIDE))])


def test_a_sum_of_two_thousand_products_is_not_too_deep(warehouse: Warehouse, wide: str) -> None:
    terms = [f"({name} * 7)" for name in WIDE]
    while len(terms) > 1:  # balanced, as `tables` builds it
        terms = [f"({' + '.join(terms[at : at + 2])})" for at in range(0, len(terms), 2)]

    found = warehouse.run(query(f"SELECT {terms[0]} AS total FROM {wide}"), {})

    assert found.column("total")[0].as_py() == pytest.approx(sum(range(len(WIDE))), rel=1e-12)


# --- partitions -------------------------------------------------------------------------------------------------------


def new_pairs(warehouse: Warehouse) -> TableSchema:
    """Write a table of four partitions (parts a and b, versions 1 and 2) of two rows; x tells all rows apart."""
    schema = new_table(Column("x", DOUBLE))
    warehouse.ensure(schema)
    for at, (part, version) in enumerate([("a", 1), ("a", 2), ("b", 1), ("b", 2)]):
        warehouse.replace(schema.name, {"part": part, "version": version}, numbered(x=pa.array([float(at), 10.0 + at])))
    return schema


@pytest.fixture
def pairs(warehouse: Warehouse) -> TableSchema:
    """A table of `new_pairs` for one test."""
    return new_pairs(warehouse)


@pytest.fixture
def common_pairs(place: Place) -> TableSchema:
    """A table of `new_pairs` that no test changes: writing takes seconds on a server."""
    return cast(TableSchema, place.once("pairs", lambda: new_pairs(place.warehouse)))


def xs(warehouse: Warehouse, table: str, where: dict[str, str | int] | None = None) -> list[float]:
    return sorted(warehouse.read(table, ["x"], where or {}).column("x").to_pylist())


def test_a_filter_takes_any_of_the_partition_columns(warehouse: Warehouse, common_pairs: TableSchema) -> None:
    assert xs(warehouse, common_pairs.name) == [0, 1, 2, 3, 10, 11, 12, 13]
    assert xs(warehouse, common_pairs.name, {"part": "b"}) == [2, 3, 12, 13]
    assert xs(warehouse, common_pairs.name, {"version": 1}) == [0, 2, 10, 12]
    assert xs(warehouse, common_pairs.name, {"version": 2, "part": "a"}) == [1, 11]
    assert xs(warehouse, common_pairs.name, {"part": "no-such"}) == []


def test_replace_leaves_nothing_of_the_old_rows_and_other_partitions_alone(
    warehouse: Warehouse, pairs: TableSchema
) -> None:
    warehouse.replace(pairs.name, {"part": "a", "version": 1}, numbered(x=pa.array([99.0])))

    assert xs(warehouse, pairs.name, {"part": "a"}) == [1, 11, 99]
    assert xs(warehouse, pairs.name, {"part": "b"}) == [2, 3, 12, 13]


def test_zero_rows_remove_a_partition(warehouse: Warehouse, pairs: TableSchema) -> None:
    nothing = numbered(x=pa.array([1.0])).slice(0, 0)

    warehouse.replace(pairs.name, {"part": "a", "version": 1}, nothing)
    warehouse.replace(pairs.name, {"part": "never-there", "version": 1}, nothing)

    assert xs(warehouse, pairs.name) == [1, 2, 3, 11, 12, 13]


def test_a_removed_partition_can_be_written_again(warehouse: Warehouse, pairs: TableSchema) -> None:
    warehouse.replace(pairs.name, {"part": "a", "version": 1}, numbered(x=pa.array([1.0])).slice(0, 0))

    warehouse.replace(pairs.name, {"part": "a", "version": 1}, numbered(x=pa.array([7.0])))

    assert xs(warehouse, pairs.name, {"part": "a", "version": 1}) == [7]


def test_another_reader_sees_a_replaced_partition_at_once(place: Place, pairs: TableSchema) -> None:
    reader = place.open()
    assert xs(reader, pairs.name, {"part": "a"}) == [0, 1, 10, 11]

    place.warehouse.replace(pairs.name, {"part": "a", "version": 1}, numbered(x=pa.array([99.0])))

    assert xs(reader, pairs.name, {"part": "a"}) == [1, 11, 99]
    counted = reader.run(query(f"SELECT COUNT(*) AS k FROM {pairs.name}"), {})
    assert counted.to_pylist() == [{"k": 7}]
    reader.close()


@pytest.mark.parametrize(
    "partition",
    [
        pytest.param({"part": "a"}, id="one missing"),
        pytest.param({"part": "a", "version": 1, "more": 1}, id="one too many"),
        pytest.param({"part": "a", "version": "1"}, id="text for a number"),
        pytest.param({"part": 1, "version": 1}, id="a number for text"),
        pytest.param({"part": "a'b", "version": 1}, id="quote"),
        pytest.param({"part": "../up", "version": 1}, id="path"),
        pytest.param({"part": "", "version": 1}, id="empty"),
    ],
)
def test_a_partition_that_does_not_fit_is_refused(
    warehouse: Warehouse, common_pairs: TableSchema, partition: dict[str, str | int]
) -> None:
    with pytest.raises(NameRefusedError):
        warehouse.replace(common_pairs.name, partition, numbered(x=pa.array([1.0])))

    assert len(xs(warehouse, common_pairs.name)) == 8


@pytest.mark.timeout(900)  # a metastore on Derby takes 0.1 s for each
def test_more_than_a_thousand_partitions_are_read(place: Place) -> None:
    count = 1_001
    schema, source = new_table(Column("x", DOUBLE)), new_table(Column("x", DOUBLE))
    rows = numbered(x=pa.array([float(at) for at in range(count)]))
    place.warehouse.ensure(schema)
    if place.settings is None:
        for at in range(count):
            place.warehouse.replace(schema.name, {"part": f"m{at}", "version": 1}, rows.slice(at, 1))
    else:
        place.warehouse.ensure(source)
        place.warehouse.replace(source.name, {"part": "a", "version": 1}, rows)
        execute(
            place,
            "SET hive.exec.dynamic.partition.mode=nonstrict",
            "SET hive.exec.max.dynamic.partitions=2000",
            "SET hive.exec.max.dynamic.partitions.pernode=2000",
            f"INSERT INTO TABLE {schema.name} PARTITION (part, version) "
            f"SELECT n, x, CONCAT('m', CAST(n AS STRING)), 1 FROM {source.name}",
        )

    assert xs(place.warehouse, schema.name) == [float(at) for at in range(count)]
    assert xs(place.warehouse, schema.name, {"part": "m777"}) == [777.0]
    assert set(place.warehouse.read(schema.name, ["part"], {}).column("part").to_pylist()) == {
        f"m{at}" for at in range(count)
    }


def execute(place: Place, *statements: str) -> None:
    """Execute statements of the test's own on a server."""
    from fedpredict.warehouse.hive_connection import HiveSession

    assert place.settings is not None
    session = HiveSession(place.settings, place.settings.database)
    for statement in statements:
        session.execute(statement)
    session.close()


# --- schemas ----------------------------------------------------------------------------------------------------------


def test_ensure_twice_changes_nothing(warehouse: Warehouse, common_pairs: TableSchema) -> None:
    warehouse.ensure(common_pairs)

    assert len(xs(warehouse, common_pairs.name)) == 8


def test_a_table_that_is_not_there_has_no_rows(warehouse: Warehouse) -> None:
    found = warehouse.read(f"t_{uuid.uuid4().hex}", ["x", "part"], {"part": "a"})

    assert found.num_rows == 0
    assert found.schema == pa.schema([("x", pa.null()), ("part", pa.null())])


def test_a_table_that_is_not_there_cannot_be_written(warehouse: Warehouse) -> None:
    with pytest.raises(WarehouseWriteError, match="t_missing"):
        warehouse.replace("t_missing", {"part": "a"}, numbered(x=pa.array([1.0])))


def test_a_column_added_later_is_null_in_old_partitions_and_kept_in_rewritten_ones(
    place: Place, pairs: TableSchema
) -> None:
    warehouse = place.warehouse
    reader = place.open()
    assert len(xs(reader, pairs.name)) == 8
    wider = TableSchema(pairs.name, (*pairs.columns, Column("z", DOUBLE)), pairs.partitioned_by)

    warehouse.ensure(wider)
    warehouse.replace(pairs.name, {"part": "a", "version": 1}, numbered(x=pa.array([5.0]), z=pa.array([0.1])))
    warehouse.replace(pairs.name, {"part": "new", "version": 1}, numbered(x=pa.array([6.0]), z=pa.array([-0.0])))

    for one in (warehouse, reader):
        found = one.read(pairs.name, ["x", "z"], {}).sort_by("x").to_pylist()
        assert [row["z"] for row in found if row["x"] not in (5.0, 6.0)] == [None] * 6
        assert bits([row["z"] for row in found if row["x"] in (5.0, 6.0)]) == bits([0.1, -0.0])
    reader.close()


def test_ensure_of_fewer_columns_keeps_the_others(warehouse: Warehouse, pairs: TableSchema) -> None:
    other = TableSchema(pairs.name, (Column("y", STRING),), pairs.partitioned_by)

    warehouse.ensure(other)
    warehouse.replace(pairs.name, {"part": "a", "version": 1}, numbered(x=pa.array([5.0]), y=pa.array(["both"])))

    assert warehouse.read(pairs.name, ["x", "y"], {"part": "a", "version": 1}).to_pylist() == [{"x": 5.0, "y": "both"}]


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda old: TableSchema(old.name, (Column("x", STRING),), old.partitioned_by), id="column type"),
        pytest.param(lambda old: TableSchema(old.name, old.columns, old.partitioned_by[:1]), id="partition column"),
    ],
)
def test_a_table_of_another_kind_is_refused(
    warehouse: Warehouse, common_pairs: TableSchema, change: Callable[[TableSchema], TableSchema]
) -> None:
    with pytest.raises(WarehouseWriteError, match=common_pairs.name):
        warehouse.ensure(change(common_pairs))

    assert len(xs(warehouse, common_pairs.name)) == 8


# --- statements -------------------------------------------------------------------------------------------------------

HOSTILE = ['x"; DROP TABLE t', "x`; DROP TABLE t", "x y", "X", "", "x'", "x;", "x--", "年"]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_name_that_is_no_identifier_is_refused(warehouse: Warehouse, common_pairs: TableSchema, name: str) -> None:
    with pytest.raises(NameRefusedError):
        Column(name, DOUBLE)
    with pytest.raises(NameRefusedError):
        TableSchema(name, common_pairs.columns, common_pairs.partitioned_by)
    with pytest.raises(NameRefusedError):
        warehouse.read(name, ["x"], {})
    with pytest.raises(NameRefusedError):
        warehouse.replace(name, {"part": "a", "version": 1}, numbered(x=pa.array([1.0])))
    with pytest.raises((NameRefusedError, StatementError)):
        warehouse.read(common_pairs.name, [name], {})
    with pytest.raises(NameRefusedError):
        warehouse.read(common_pairs.name, ["x"], {name: "a"})

    assert len(xs(warehouse, common_pairs.name)) == 8


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_name_never_reaches_a_server(name: str) -> None:
    from fedpredict.warehouse.hive import HiveWarehouse
    from fedpredict.warehouse.hive_settings import HiveSettings

    nowhere = HiveWarehouse(HiveSettings(port=1))  # nothing listens there: a statement would be unavailable

    with pytest.raises(NameRefusedError):
        nowhere.read(name, ["x"], {})
    with pytest.raises(NameRefusedError):
        nowhere.read("t", [name], {})
    with pytest.raises(NameRefusedError):
        nowhere.replace(name, {"part": "a"}, pa.table({"x": [1.0]}))
    with pytest.raises(WarehouseUnavailableError):
        nowhere.read("t", ["x"], {})


def test_a_statement_runs_with_its_values_bound(warehouse: Warehouse, common_pairs: TableSchema) -> None:
    statement = query(
        f"WITH chosen AS (SELECT part, x FROM {common_pairs.name} WHERE part = :part AND version = :version) "
        "SELECT part, SUM(x) * :factor AS total, COUNT(*) AS rows_seen FROM chosen GROUP BY part"
    )

    found = warehouse.run(statement, {"part": "b", "version": 2, "factor": 0.5})

    assert found.to_pylist() == [{"part": "b", "total": 8.0, "rows_seen": 2}]


@pytest.mark.parametrize("text", TEXTS)
def test_a_bound_text_is_a_value_whatever_it_holds(warehouse: Warehouse, texts: str, text: str) -> None:
    statement = query(f"SELECT s FROM {texts} WHERE s = :wanted")

    found = warehouse.run(statement, {"wanted": text})

    assert found.column("s").to_pylist() == [text]


def test_bound_values_have_the_types_of_python(warehouse: Warehouse, common_pairs: TableSchema) -> None:
    statement = query(f"SELECT :whole AS whole, :real AS real, :text AS text FROM {common_pairs.name} WHERE x = :x")

    found = warehouse.run(statement, {"whole": 2**40, "real": 0.1, "text": "100%", "x": 11.0})

    assert found.to_pylist() == [{"whole": 2**40, "real": 0.1, "text": "100%"}]


def test_a_statement_that_the_engine_refuses_is_an_error_without_its_values(
    warehouse: Warehouse, common_pairs: TableSchema
) -> None:
    statement = query(f"SELECT no_such_column FROM {common_pairs.name} WHERE part = :part")

    with pytest.raises(StatementError) as raised:
        warehouse.run(statement, {"part": "very-secret"})

    assert "very-secret" not in str(raised.value)


@pytest.mark.parametrize("sql", ["DROP TABLE {0}", "INSERT INTO {0} SELECT * FROM {0}", "DELETE FROM {0}"])
def test_only_queries_run(warehouse: Warehouse, common_pairs: TableSchema, sql: str) -> None:
    with pytest.raises(StatementError, match="query"):
        warehouse.run(query(sql.format(common_pairs.name)), {})

    assert len(xs(warehouse, common_pairs.name)) == 8


def test_a_parameter_without_a_value_is_named(warehouse: Warehouse, common_pairs: TableSchema) -> None:
    with pytest.raises(StatementError, match="forgotten"):
        warehouse.run(query(f"SELECT x FROM {common_pairs.name} WHERE x = :forgotten"), {})


# --- a query's rows as a partition ------------------------------------------------------------------------------------


@pytest.fixture
def target(warehouse: Warehouse) -> TableSchema:
    """A table with columns of several types, two rows in one partition and none in the others."""
    schema = new_table(Column("x", DOUBLE), Column("s", STRING), Column("at", ColumnType.TIMESTAMP))
    warehouse.ensure(schema)
    warehouse.replace(schema.name, {"part": "old", "version": 1}, numbered(x=pa.array([1.0, 2.0])))
    return schema


def test_the_rows_of_a_query_become_a_partition(
    warehouse: Warehouse, common_pairs: TableSchema, target: TableSchema
) -> None:
    statement = query(
        f"WITH chosen AS (SELECT n, x FROM {common_pairs.name} WHERE part = :part) "
        "SELECT SUM(x) * :factor AS x, CAST(COUNT(*) AS BIGINT) AS n, :text AS s FROM chosen GROUP BY n"
    )
    partition: dict[str, str | int] = {"part": "new", "version": 7}

    written = warehouse.replace_from(target.name, partition, statement, {"part": "b", "factor": 0.5, "text": "it's"})

    found = warehouse.read(target.name, ["n", "x", "s", "at", "part", "version"], {"part": "new"}).sort_by("x")
    assert written == 2
    assert found.to_pylist() == [
        {"n": 2, "x": total, "s": "it's", "at": None, "part": "new", "version": 7} for total in (2.5, 12.5)
    ]
    assert xs(warehouse, target.name, {"part": "old"}) == [1, 2]


def test_doubles_and_times_of_a_query_are_written_bit_equal(warehouse: Warehouse, target: TableSchema) -> None:
    source = new_table(Column("x", DOUBLE), Column("at", ColumnType.TIMESTAMP))
    values = EXTREMES + NOT_FINITE
    moments = [MOMENTS[at % len(MOMENTS)] for at in range(len(values))]
    warehouse.ensure(source)
    rows = numbered(x=pa.array(values), at=pa.array(moments, ARROW_TYPES[ColumnType.TIMESTAMP]))
    warehouse.replace(source.name, {"part": "a", "version": 1}, rows)

    warehouse.replace_from(
        target.name, {"part": "new", "version": 1}, query(f"SELECT n, x, {source.name}.at FROM {source.name}"), {}
    )

    found = warehouse.read(target.name, ["n", "x", "at"], {"part": "new"}).sort_by("n")
    assert bits(found.column("x").to_numpy()) == bits(values)
    assert found.column("at").to_pylist() == moments


def test_a_query_that_writes_sees_nan_among_finite_numbers(warehouse: Warehouse, target: TableSchema) -> None:
    source = new_table(Column("x", DOUBLE))
    warehouse.ensure(source)
    rows = numbered(x=pa.array([1.0, float("nan"), 2.0]))
    warehouse.replace(source.name, {"part": "a", "version": 1}, rows)
    judged = query(f"SELECT n, CASE WHEN ABS(x) <= 1e300 THEN 1.0 ELSE 0.0 END AS x FROM {source.name}")

    warehouse.replace_from(target.name, {"part": "nan", "version": 1}, judged, {})

    assert warehouse.read(target.name, ["n", "x"], {"part": "nan"}).sort_by("n").column("x").to_pylist() == [1, 0, 1]


def test_a_query_replaces_a_partition_and_one_without_rows_removes_it(
    warehouse: Warehouse, common_pairs: TableSchema, target: TableSchema
) -> None:
    partition: dict[str, str | int] = {"part": "old", "version": 1}
    chosen = query(f"SELECT n, x FROM {common_pairs.name} WHERE x = :x")

    assert warehouse.replace_from(target.name, partition, chosen, {"x": 12.0}) == 1
    assert xs(warehouse, target.name) == [12]
    assert warehouse.replace_from(target.name, partition, chosen, {"x": -5.0}) == 0
    assert xs(warehouse, target.name) == []
    assert warehouse.replace_from(target.name, partition, chosen, {"x": 11.0}) == 1
    assert xs(warehouse, target.name) == [11]


def test_the_rows_of_a_query_become_the_partitions_that_they_name_and_others_stay(
    warehouse: Warehouse, common_pairs: TableSchema, target: TableSchema
) -> None:
    warehouse.replace(target.name, {"part": "old", "version": 9}, numbered(x=pa.array([8.0])))
    statement = query(f"SELECT n, x, CAST(x - 10 AS INT) AS version FROM {common_pairs.name} WHERE x >= :least")

    warehouse.replace_each_from(target.name, {"part": "old"}, statement, {"least": 11.0})

    stored = warehouse.read(target.name, ["x", "version", "part"], {}).to_pylist()
    assert sorted((row["part"], row["version"], row["x"]) for row in stored) == [
        ("old", version, x) for version, x in ((1, 11.0), (2, 12.0), (3, 13.0), (9, 8.0))
    ]


@pytest.mark.parametrize(
    ("partition", "error"),
    [({"version": 1}, NameRefusedError), ({"part": "a", "version": 1}, StatementError), ({}, NameRefusedError)],
)
def test_partitions_that_rows_cannot_name_are_refused(
    embedded: Warehouse, partition: dict[str, str | int], error: type[Exception]
) -> None:
    schema = new_table(Column("x", DOUBLE))
    embedded.ensure(schema)
    statement = query(f"SELECT n, x, 1 AS version FROM {schema.name}_2")
    with pytest.raises(error):
        embedded.replace_each_from(schema.name, partition, statement, {})


@pytest.mark.parametrize(
    ("sql", "error"),
    [
        ("SELECT no_such_column AS x FROM {source}", StatementError),
        ("SELECT x AS y FROM {source}", WarehouseWriteError),
        ("SELECT x, x FROM {source}", WarehouseWriteError),
        ("SELECT * FROM {source}", StatementError),
        ("SELECT x FROM {target}", StatementError),
        ("DROP TABLE {target}", StatementError),
        ("SELECT x FROM {source} WHERE x = :forgotten", StatementError),
    ],
)
def test_a_query_that_cannot_become_rows_leaves_the_partition_as_it_was(
    warehouse: Warehouse, common_pairs: TableSchema, place: Place, sql: str, error: type[Exception]
) -> None:
    def write() -> str:
        schema = new_table(Column("x", DOUBLE))
        warehouse.ensure(schema)
        warehouse.replace(schema.name, {"part": "a", "version": 1}, numbered(x=pa.array([1.0])))
        return schema.name

    target = cast(str, place.once("kept", write))
    statement = query(sql.format(source=common_pairs.name, target=target))

    with pytest.raises(error):
        warehouse.replace_from(target, {"part": "a", "version": 1}, statement, {})

    assert xs(warehouse, target) == [1]


# --- life -------------------------------------------------------------------------------------------------------------


def test_closing_twice_is_harmless(place: Place, common_pairs: TableSchema) -> None:
    other = place.open()
    assert len(xs(other, common_pairs.name)) == 8

    other.close()
    other.close()


def test_threads_share_a_warehouse(warehouse: Warehouse, common_pairs: TableSchema) -> None:
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: xs(warehouse, common_pairs.name, {"part": "a"}), range(8)))

    assert found == [[0, 1, 10, 11]] * 8


WRITER = """
import sys
from pathlib import Path
import pyarrow as pa
from fedpredict.warehouse.base import Column, ColumnType, TableSchema
from fedpredict.warehouse.local import LocalWarehouse
root, table, who = sys.argv[1:]
warehouse = LocalWarehouse(Path(root))
schema = TableSchema(table, (Column("x", ColumnType.DOUBLE),), (Column("part", ColumnType.STRING),))
warehouse.ensure(schema)
for at in range(50):
    warehouse.replace(table, {"part": f"{who}-{at}"}, pa.table({"x": [float(at)]}))
"""


def test_two_processes_write_different_partitions_at_once(tmp_path: Path) -> None:
    from fedpredict.warehouse.local import LocalWarehouse

    command = [sys.executable, "-c", WRITER, str(tmp_path / "warehouse"), "shared"]
    writers = [subprocess.Popen([*command, who]) for who in ("one", "two")]

    assert [writer.wait(60) for writer in writers] == [0, 0]
    found = LocalWarehouse(tmp_path / "warehouse").read("shared", ["part", "x"], {})
    assert sorted(found.column("part").to_pylist()) == sorted(
        f"{who}-{at}" for who in ("one", "two") for at in range(50)
    )
