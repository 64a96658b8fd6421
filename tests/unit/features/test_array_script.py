"""Numpy's answer to a script is DuckDB's, value by value: over random rows of the example views and odd expressions."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from datetime import UTC, date, datetime
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest

from fedpredict.features.array_casts import parsed
from fedpredict.features.raw import arrow_schema, arrow_type
from fedpredict.features.realtime import Extracted, RealtimeView
from fedpredict.features.view_fixture import Fixture, Row, generated
from fedpredict.tables.script_store import RegisteredView
from fedpredict.tables.script_types import ScriptType, decimal
from fedpredict.tables.script_view import ScriptSource, ScriptView
from fedpredict.warehouse.local_engine import MemoryEngine
from tests.raw_transactions import AS_OF, example

MICROS = int(AS_OF.timestamp()) * 1_000_000


@pytest.fixture(scope="module")
def engine() -> Iterator[MemoryEngine]:
    engine = MemoryEngine()
    yield engine
    engine.close()


def python_value(value: object, kind: ScriptType) -> object:
    if value is None:
        return None
    match kind.kind:
        case "decimal":
            return Decimal(str(value))
        case "timestamp":
            return datetime.fromisoformat(str(value)).replace(tzinfo=UTC)
        case "date":
            return date.fromisoformat(str(value))
        case "boolean":
            return bool(value)
    return value


def table_of(source: ScriptSource, rows: list[Row]) -> pa.Table:
    columns = [
        pa.array([python_value(row.get(name), kind) for row in rows], type=arrow_type(kind))
        for name, kind in source.types.items()
    ]
    return pa.table(columns, schema=arrow_schema(source))


class NoSource:
    """Nobody asks it."""

    def fetch(self, sample_ids: object, before: int) -> pa.Table:
        raise AssertionError

    def close(self) -> None:
        pass


def answers(view: ScriptView, script: str, fixture: Fixture, engine: MemoryEngine) -> tuple[Extracted, Extracted]:
    """What numpy says, and what DuckDB says, of the same rows."""
    registered = RegisteredView(view, 1, "", script, AS_OF)
    realtime = RealtimeView(registered, NoSource(), engine)
    assert realtime.is_in_arrays

    def table(source: ScriptSource) -> pa.Table:
        name = next(name for name, each in view.sources.items() if each == source)
        return table_of(source, list(fixture.rows.get(name, ())))

    realtime.put_dimensions({alias: table(source) for alias, source in realtime.dimensions.items()})
    events = table(next(iter(realtime._shape.sources.values())))
    micros = int(fixture.as_of.timestamp()) * 1_000_000
    events = events.filter(events.column(realtime._shape.key.name).is_valid())
    return realtime.compute(events, micros), realtime._of_table(realtime._run(events, micros))


def assert_same(arrays: Extracted, duckdb: Extracted) -> None:
    assert set(arrays.places) == set(duckdb.places)
    mine, theirs = ([each.places[key] for key in sorted(duckdb.places)] for each in (arrays, duckdb))
    for name, numbers in duckdb.numbers.items():
        if mine:
            np.testing.assert_allclose(arrays.numbers[name][mine], numbers[theirs], rtol=1e-12, atol=0, err_msg=name)
    for name, texts in duckdb.texts.items():
        if mine:
            assert [arrays.texts[name][at] for at in mine] == [texts[at] for at in theirs], name


@pytest.mark.parametrize("name", ["transactions", "usage", "watching"])
def test_random_rows_of_the_example_views_give_what_duckdb_gives(name: str, engine: MemoryEngine) -> None:
    view, _, script = example(name)
    for seed in range(6):
        assert_same(*answers(view, script, generated(view, seed), engine))


# fmt: off
ODD = [
    "SUM(t.small)",
    "SUM(t.long)",
    "SUM(t.whole)",
    "SUM(t.real)",
    "AVG(t.small)",
    "AVG(t.real)",
    "AVG(t.whole)",
    "MIN(t.small)",
    "MAX(t.long)",
    "MAX(t.whole)",
    "MIN(t.real)",
    "COUNT(*)",
    "COUNT(t.small)",
    "COUNT(t.label)",
    "COUNT(DISTINCT t.label)",
    "COUNT(DISTINCT t.small)",
    "COUNT(DISTINCT t.at)",
    "COUNT(DISTINCT t.born)",
    "COUNT(DISTINCT t.long)",
    "last(t.small)",
    "last(t.long)",
    "last(t.real)",
    "last(t.whole)",
    "days_between(last(t.born), :as_of)",
    "seconds_between(last(t.at), :as_of)",
    "year(MAX(t.at))",
    "month(MIN(t.born))",
    "day(MIN(t.at))",
    "hour(MAX(t.at))",
    "minute(MIN(t.at))",
    "day_of_week(MAX(t.at))",
    "day_of_week(MIN(t.born))",
    "SUM(t.small * t.small)",
    "SUM(t.small - t.whole * 2)",
    "SUM(t.small + t.tiny)",
    "SUM(t.real * 2.5 - t.small)",
    "SUM(ABS(t.small))",
    "SUM(-t.whole)",
    "MAX(ABS(t.real))",
    "ratio(SUM(t.small), COUNT(*))",
    "ratio(SUM(t.real), SUM(t.whole))",
    "ratio(1, COUNT(t.small) - COUNT(t.small))",
    "COALESCE(SUM(t.small) FILTER (WHERE t.flag), 0)",
    "NULLIF(COUNT(*), 1)",
    "COALESCE(last(t.small), MIN(t.tiny), -1.5)",
    "COUNT(*) FILTER (WHERE NOT t.flag)",
    "COUNT(*) FILTER (WHERE t.flag OR t.small > 1)",
    "COUNT(*) FILTER (WHERE t.flag AND t.label <> 'a')",
    "COUNT(*) FILTER (WHERE t.label IN ('a', 'food', 'é'))",
    "COUNT(*) FILTER (WHERE t.small IN (0, 1.5, -5))",
    "COUNT(*) FILTER (WHERE t.small BETWEEN -10 AND 100.55)",
    "COUNT(*) FILTER (WHERE t.real IS NULL OR t.label IS NOT NULL)",
    "COUNT(*) FILTER (WHERE NOT (t.label = 'a' AND t.flag))",
    "COUNT(*) FILTER (WHERE t.at >= :as_of - INTERVAL '1' DAY)",
    "COUNT(*) FILTER (WHERE t.born < DATE '2023-06-01')",
    "COUNT(*) FILTER (WHERE t.at > TIMESTAMP '2024-02-01 12:00:00')",
    "COUNT(*) FILTER (WHERE date_of(t.at) = t.born)",
    "count_if(t.whole = 2)",
    "count_if(CAST(t.whole AS VARCHAR) = '2')",

    "SUM(CASE WHEN t.flag THEN t.small WHEN t.label = 'a' THEN 1 END)",
    "SUM(CASE WHEN t.small > 0 THEN t.real ELSE 0 END)",
    "SUM(CAST(t.small AS DECIMAL(20, 4)))",
    "CASE WHEN SUM(t.small) > 10 THEN 1 WHEN MIN(t.born) IS NULL THEN 2.5 ELSE COUNT(*) END",
    "SUM(d.weight)",
    "COUNT(d.weight)",
    "COUNT(*) FILTER (WHERE d.name IS NULL)",
    "MAX(d.weight * t.small)",
    "SUM(t.small) - 12345678901234567890",
    "COUNT(*) * 3",
]
# fmt: on

SOURCES = """
name = "odd"
key = "who"
targets = ["duckdb"]
[sources.t]
table = "events"
event_id = "number"
event_time = "at"
[sources.t.columns]
number = "int"
at = "timestamp"
who = "int"
small = "decimal(12,2)"
tiny = "decimal(5,4)"
long = "decimal(28,3)"
whole = "int"
real = "double"
born = "date"
flag = "boolean"
label = "text"
[sources.d]
kind = "dimension"
table = "names"
key = ["name", "whole"]
[sources.d.columns]
name = "text"
whole = "int"
weight = "decimal(6,1)"
"""


def odd_view() -> tuple[ScriptView, str]:
    features = "".join(f'[features.f{at}]\ntype = "number"\nmin = -1000000\nmax = 1e30\n' for at in range(len(ODD)))
    outputs = ", ".join(f"{text} AS f{at}" for at, text in enumerate(ODD))
    features += '[features.word]\ntype = "text"\ntexts = ["a", "food"]\n[features.other]\ntype = "text"\n'
    outputs += ", last(t.label) AS word, CASE WHEN COUNT(*) > 2 THEN last(t.label) ELSE 'few' END AS other"
    joined = "LEFT JOIN d ON d.name = t.label AND d.whole = t.whole"
    script = (
        f"SELECT t.who, {outputs} FROM t {joined} WHERE t.flag OR t.small IS NULL OR t.small < 1000000 GROUP BY t.who"
    )
    return ScriptView.model_validate(tomllib.loads(SOURCES + features)), script


def test_everything_that_the_language_has_gives_what_duckdb_gives(engine: MemoryEngine) -> None:
    view, script = odd_view()
    for seed in range(4):
        arrays, duckdb = answers(view, script, generated(view, seed), engine)
        assert_same(arrays, duckdb)
        for name, refused in duckdb.refused.items():
            assert [arrays.refused[name][arrays.places[key]] for key in sorted(duckdb.places)] == [
                refused[duckdb.places[key]] for key in sorted(duckdb.places)
            ]


def test_without_a_row_that_counts_there_is_nobody(engine: MemoryEngine) -> None:
    view, script = odd_view()
    late: Row = {"who": 1, "number": 1, "at": "2024-03-01 00:00:00.000000"}
    none: list[Row] = []
    for rows in (none, [late]):
        arrays, duckdb = answers(view, script, Fixture(AS_OF, {"t": rows}), engine)
        assert arrays.places == duckdb.places == {}


def test_what_numpy_has_not_is_duckdbs(engine: MemoryEngine) -> None:
    view, _ = odd_view()
    kept = view.model_copy(update={"features": {"other": view.features["other"]}})
    registered = RegisteredView(kept, 1, "", "SELECT t.who, last(TRIM(t.label)) AS other FROM t GROUP BY t.who", AS_OF)
    realtime = RealtimeView(registered, NoSource(), engine)
    assert not realtime.is_in_arrays
    row: Row = {"who": 7, "number": 1, "at": "2024-02-29 00:00:00", "label": " a "}
    found = realtime.compute(table_of(view.sources["t"], [row]), MICROS)
    assert (found.places, list(found.texts["other"])) == ({"7": 0}, ["a"])


def test_a_literal_of_38_digits_is_not_rounded() -> None:
    given = "123456789012345678901234567890123456.78"
    assert parsed(given, decimal(38, 2)).tolist() == [int(given.replace(".", ""))]
