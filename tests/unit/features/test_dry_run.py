"""The dry run of a view before it is registered: which engines, and where in the script one of them refuses it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import pyarrow as pa
import pytest
from sqlglot import exp
from typing_extensions import override

from fedpredict.errors import StatementError, ViewRefusedError
from fedpredict.features.dry_run import Trials, try_everywhere, try_few_rows, try_raw_tables
from fedpredict.features.registration import register_view
from fedpredict.tables import script_functions
from fedpredict.tables.schemas import SCRIPTS
from fedpredict.tables.script_store import RegisteredView, list_scripts, tried_engines, write_script
from fedpredict.tables.script_view import ScriptView
from fedpredict.warehouse.base import Column, ColumnType, EngineInfo, TableSchema, Value
from fedpredict.warehouse.local import LocalWarehouse
from tests.raw_transactions import AS_OF, EXAMPLES, example, random_events, random_merchants, store

VIEW, DEFINITION, SCRIPT = example("transactions")


@pytest.fixture
def warehouse(tmp_path: Path) -> Iterator[LocalWarehouse]:
    """A warehouse with the raw tables of the example view."""
    warehouse = LocalWarehouse(tmp_path / "warehouse")
    store(warehouse, random_events(5, 3, 20), random_merchants(4))
    yield warehouse
    warehouse.close()


@pytest.fixture
def empty(tmp_path: Path) -> Iterator[LocalWarehouse]:
    """An engine that has none of the raw tables."""
    warehouse = LocalWarehouse(tmp_path / "empty")
    yield warehouse
    warehouse.close()


def lacks(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Let the list of functions be wrong about one: the engine has none of the name that it says."""
    render = dict.fromkeys(
        ("duckdb", "spark", "hive"),
        lambda value: exp.Cast(
            this=exp.Anonymous(this="NO_SUCH", expressions=[value]), to=exp.DataType.build("BIGINT")
        ),
    )
    old = script_functions.FUNCTIONS[name]
    monkeypatch.setitem(script_functions.FUNCTIONS, name, script_functions.Function(old.arguments, old.result, render))


def place_of(text: str) -> str:
    """Return where a text of the script begins, counted here by hand of Python."""
    before = SCRIPT[: SCRIPT.index(text)]
    return f"line {before.count(chr(10)) + 1}, column {len(before) - before.rfind(chr(10))}: "


@pytest.mark.parametrize("name", sorted(path.stem for path in EXAMPLES.glob("*.sql")))
def test_the_examples_run_where_no_raw_table_is(name: str, empty: LocalWarehouse) -> None:
    view, _, script = example(name)
    try_few_rows(empty, view, script)


def test_the_output_that_an_engine_refuses_is_told_with_its_place(
    warehouse: LocalWarehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    lacks(monkeypatch, "hour")

    with pytest.raises(ViewRefusedError) as raised:
        register_view(warehouse, VIEW, DEFINITION, SCRIPT)

    told = str(raised.value)
    assert told.startswith(place_of("COUNT_IF(HOUR(tx.at)"))
    assert "duckdb does not compute night_30d of view transactions" in told
    assert "no_such" in told.lower()
    assert "\n" not in told
    with pytest.raises(ViewRefusedError) as again:
        try_few_rows(warehouse, VIEW, SCRIPT)
    assert str(again.value) == told


def test_a_where_that_an_engine_refuses_is_told_with_its_place(
    empty: LocalWarehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    lacks(monkeypatch, "day")
    script = SCRIPT.replace("WHERE tx.amount > 0", "WHERE DAY(tx.at) > 0")

    with pytest.raises(ViewRefusedError, match=r"line 22, column 7: duckdb does not compute the WHERE"):
        try_few_rows(empty, VIEW, script)


def test_what_an_engine_finds_out_while_it_computes_is_refused(
    empty: LocalWarehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    # a plan knows nothing of it: LIMIT 0 and EXPLAIN would pass
    old = script_functions.FUNCTIONS["hour"]
    fails = dict.fromkeys(
        ("duckdb",),
        lambda value: exp.Cast(
            this=exp.Cast(this=value, to=exp.DataType.build("TEXT")), to=exp.DataType.build("BIGINT")
        ),
    )
    monkeypatch.setitem(script_functions.FUNCTIONS, "hour", script_functions.Function(old.arguments, old.result, fails))
    with pytest.raises(ViewRefusedError, match="does not compute night_30d"):
        try_few_rows(empty, VIEW, SCRIPT)


def test_a_column_and_a_table_that_are_not_there_are_named(warehouse: LocalWarehouse, empty: LocalWarehouse) -> None:
    definition = DEFINITION.replace('channel = "text"', 'chanel = "text"')
    script = SCRIPT.replace("LAST(tx.channel)", "LAST(tx.chanel)")
    view = ScriptView.model_validate_json(VIEW.model_dump_json().replace('"channel"', '"chanel"'))

    with pytest.raises(ViewRefusedError) as raised:
        register_view(warehouse, view, definition, script)
    assert str(raised.value).startswith(place_of("tx.channel"))
    assert "column chanel of the raw table raw_transactions" in str(raised.value)
    empty.ensure(TableSchema("others", (Column("x", ColumnType.STRING),), ()))  # so that there is a warehouse
    with pytest.raises(ViewRefusedError, match=r"raw table raw_transactions of \[sources.tx\] cannot be read"):
        try_raw_tables(empty, VIEW, SCRIPT, AS_OF)


def test_every_target_is_tried_or_left_out_by_name(warehouse: LocalWarehouse) -> None:
    with pytest.raises(ViewRefusedError, match=r"tried on spark and hive: .* --without-dry-run spark,hive, or take"):
        try_everywhere(warehouse, VIEW, SCRIPT, AS_OF, Trials())
    with pytest.raises(ViewRefusedError, match=r"cannot be tried on hive: .* --without-dry-run hive, or take"):
        try_everywhere(warehouse, VIEW, SCRIPT, AS_OF, Trials(without=frozenset({"spark"})))

    without = Trials(without=frozenset({"spark", "hive"}))
    assert try_everywhere(warehouse, VIEW, SCRIPT, AS_OF, without) == ("duckdb",)


def test_an_engine_that_is_reached_needs_no_raw_tables(warehouse: LocalWarehouse, empty: LocalWarehouse) -> None:
    view = VIEW.model_copy(update={"targets": ("duckdb", "spark")})
    other = CalledSpark(empty)

    assert try_everywhere(warehouse, view, SCRIPT, AS_OF, Trials(engines=[other])) == ("duckdb", "spark")

    assert len(other.asked) == 1
    assert not [each for each in other.asked[0].find_all(exp.Table) if each.name.startswith("raw_")]


class CalledSpark(LocalWarehouse):
    """An engine by the name of another one, which keeps what it is asked."""

    def __init__(self, inner: LocalWarehouse) -> None:
        super().__init__(inner._root)
        self.asked: list[exp.Expression] = []

    @property
    @override
    def engine(self) -> EngineInfo:
        return EngineInfo("spark", "4")

    @override
    def run(self, statement: exp.Expression, params: Mapping[str, Value]) -> pa.Table:
        self.asked.append(statement)
        return pa.table({})


def test_a_version_says_what_it_was_tried_on_and_an_older_table_does_not(warehouse: LocalWarehouse) -> None:
    made, _ = register_view(warehouse, VIEW, DEFINITION, SCRIPT)
    assert tried_engines(warehouse, "transactions", made.version) == ("duckdb",)
    assert tried_engines(warehouse, "transactions", 9) == ()


def test_a_table_from_before_engines_were_recorded_is_read_and_written(empty: LocalWarehouse) -> None:
    columns = tuple(each for each in SCRIPTS.columns if each.name != "tried")
    empty.ensure(TableSchema(SCRIPTS.name, columns, SCRIPTS.partitioned_by))
    assert tried_engines(empty, "transactions", 1) == ()
    write_script(empty, RegisteredView(VIEW, 1, DEFINITION, SCRIPT, AS_OF), ("duckdb",))
    assert tried_engines(empty, "transactions", 1) == ("duckdb",)
    assert [each.version for each in list_scripts(empty)] == [1]


def test_the_same_text_is_tried_on_the_engines_that_are_given_later(
    warehouse: LocalWarehouse, empty: LocalWarehouse
) -> None:
    first, _ = register_view(warehouse, VIEW, DEFINITION, SCRIPT)
    spark = CalledSpark(empty)

    again, is_new = register_view(warehouse, VIEW, DEFINITION, SCRIPT, trials=Trials([spark]))

    assert (again, is_new) == (first, False)
    assert len(spark.asked) == 1
    assert tried_engines(warehouse, "transactions", 1) == ("duckdb", "spark")
    assert list_scripts(warehouse) == [first]
    register_view(warehouse, VIEW, DEFINITION, SCRIPT, trials=Trials([spark]))
    assert len(spark.asked) == 1  # once is enough


def test_an_engine_that_refuses_the_same_text_later_is_not_recorded(
    warehouse: LocalWarehouse, empty: LocalWarehouse
) -> None:
    register_view(warehouse, VIEW, DEFINITION, SCRIPT)

    with pytest.raises(ViewRefusedError, match="does not run on spark: no such function"):
        register_view(warehouse, VIEW, DEFINITION, SCRIPT, trials=Trials([RefusingSpark(empty)]))
    away = Trials(without=frozenset({"hive"}), unreachable=("it is away",))
    with pytest.raises(ViewRefusedError, match=r"it is away; so it cannot be tried on spark: give"):
        register_view(warehouse, VIEW, DEFINITION, SCRIPT, trials=away)

    assert tried_engines(warehouse, "transactions", 1) == ("duckdb",)
    left_out = Trials([RefusingSpark(empty)], frozenset({"spark", "hive"}))
    assert not register_view(warehouse, VIEW, DEFINITION, SCRIPT, trials=left_out)[1]


class RefusingSpark(CalledSpark):
    """An engine that computes nothing."""

    @override
    def run(self, statement: exp.Expression, params: Mapping[str, Value]) -> pa.Table:
        raise StatementError("no such function")


def test_a_version_from_before_engines_were_recorded_is_tried_when_it_is_registered_again(
    warehouse: LocalWarehouse,
) -> None:
    write_script(warehouse, old := RegisteredView(VIEW, 1, DEFINITION, SCRIPT, AS_OF))

    assert register_view(warehouse, VIEW, DEFINITION, SCRIPT) == (old, False)

    assert tried_engines(warehouse, "transactions", 1) == ("duckdb",)
