"""The language of feature views: what is refused, where and with which fix, and what engines are asked."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from fedpredict.errors import ViewRefusedError
from fedpredict.tables.script import compile_script, lint_script
from fedpredict.tables.script_view import ScriptView
from fedpredict.warehouse.local import LocalWarehouse
from tests.raw_transactions import AS_OF, Event, differences, example, oracle, random_events, random_merchants, store

SMALL = {
    "name": "small",
    "key": "who",
    "sources": {
        "e": {
            "table": "raw_events",
            "event_id": "id",
            "event_time": "at",
            "columns": {
                "id": "int",
                "at": "timestamp",
                "who": "text",
                "x": "decimal(10,2)",
                "n": "int",
                "d": "double",
                "s": "text",
                "b": "boolean",
            },
        },
        "f": {
            "table": "raw_others",
            "event_id": "id",
            "event_time": "at",
            "columns": {"id": "int", "at": "timestamp", "s": "text"},
        },
        "k": {
            "kind": "dimension",
            "table": "dim_k",
            "key": ["s"],
            "columns": {"s": "text", "born": "date", "n": "int"},
        },
    },
    "features": {"y": {"type": "number"}},
}


def script_of(output: str) -> str:
    """Return a script with one output, in its second line from column 8."""
    return f"SELECT e.who,\n       {output} AS y\nFROM e LEFT JOIN k ON k.s = e.s\nGROUP BY e.who"


def view_of(**changes: object) -> ScriptView:
    return ScriptView.model_validate({**SMALL, **changes})


@pytest.mark.parametrize(
    ("output", "told"),
    [
        ("SUM(e.xx)", r"line 2, column 12: no column xx in e; did you mean x\?"),
        ("SUM(z.x)", "line 2, column 12: no source is called z here: e, k"),
        ("COUNT_IF(n > 1)", "column n is in e and in k: write e.n"),
        ("e.x", r"line 2, column 8: x is not the key, .*last\(x\)"),
        ("SUM(e.s)", "line 2, column 8: sum takes int, decimal, double, not text"),
        ("MAX(e.s)", "max takes .*, not text"),
        ("LAST(e.s)", "y is text, and the view declares a number"),
        ("MAX(e.at)", "y is timestamp, and the view declares a number: seconds_between"),
        ("MAX(e.x) > 1", "y is boolean, and the view declares a number: CASE WHEN"),
        ("SUM(e.x) / COUNT(*)", r"write ratio\(a, b\), which is NULL where b is zero"),
        ("SUM(e.n % 2)", r"write ratio\(a, b\)"),
        ("RANDOM()", "line 2, column 8: rand does not give the same answer twice"),
        ("DAYS_BETWEEN(MAX(e.at), NOW())", "does not give the same answer twice: use :as_of"),
        ("DAYS_BETWEEN(MAX(e.at), CURRENT_TIMESTAMP)", "line 2, column 32: current_timestamp does not give the same"),
        ("MAX(REGEXP_EXTRACT(e.s, 'a'))", "line 2, column 12: regexp_extract is not in the language"),
        ("MEDIAN(e.x)", "line 2, column 8: median is not in the language"),
        ("SUMM(e.x)", r"summ is not in the language; did you mean sum\?"),
        ("SUM(e.x) OVER (PARTITION BY e.who)", "window functions are not in the language"),
        ("(SELECT MAX(n) FROM k)", "a query within a query is not in the language"),
        ("SUM(MAX(e.x))", "an aggregate cannot stand here"),
        ("SUM(e.n * e.n)", r"up to 39 digits, more than 38: CAST\(... AS DOUBLE\)"),
        ("COUNT_IF(e.s = 1)", r"\(text, decimal\(1,0\)\) are of different types"),
        ("COUNT_IF(e.at > '2026-01-01')", "are of different types, or of none; a moment is written TIMESTAMP"),
        ("COUNT_IF(e.s > 'a')", "text takes = and <>"),
        ("COUNT_IF(e.b = TRUE)", "a boolean stands alone"),
        ("COUNT_IF(e.n)", "a condition is wanted here, this is int"),
        ("COUNT_IF(e.at > :as_of - INTERVAL '1' MONTH)", "an interval is a whole number of seconds"),
        ("COUNT_IF(e.at + INTERVAL '1' DAY > :as_of)", "an interval goes with :as_of alone"),
        ("COUNT_IF(e.at > :now)", "the only parameter is :as_of, not :now"),
        ("COUNT_IF(e.at > TIMESTAMP 'yesterday')", "not a moment: write TIMESTAMP '2026"),
        ("COUNT_IF(e.at > TIMESTAMP '2026-01-01T00:00:00+01:00')", "not a moment"),
        ("COUNT(DISTINCT e.d)", "count_distinct takes .*, not double"),
        ("COUNT(DISTINCT e.s, e.n)", "takes one argument"),
        ("SUM(CAST(e.s AS DOUBLE))", "text does not become DOUBLE alike in every engine"),
        ("SUM(CAST(e.x AS DECIMAL(5,2)))", "does not become"),
        ("SUM(CASE e.s WHEN 'a' THEN 1 END)", "write CASE WHEN condition THEN"),
        ("COUNT_IF(e.s IN (SELECT s FROM k))", "IN takes a list of literals"),
        ("COUNT_IF(e.s LIKE 'a%')", "like is not in the language"),
        ("DAYS_BETWEEN(MAX(e.at))", "days_between takes"),
        ("MAX(TRIM(LEADING FROM e.s))", "only the plain form of this function"),
        ("LAST(e.x, TRUE)", "last takes one argument"),
        ("LAST(e.x IGNORE NULLS)", "not in the language"),
        ("SUM(DISTINCT e.x)", "distinct is not in the language"),
        ("MAX(e.who || e.s)", "dpipe is not in the language"),
        ("COUNT_IF(e.n BETWEEN SYMMETRIC 2 AND 1)", "SYMMETRIC is not in the language"),
        ("SUM(CAST(e.n AS DOUBLE FORMAT 'x'))", "FORMAT is not in the language"),
        ("SUM(CAST(e.n AS DOUBLE DEFAULT 0 ON CONVERSION ERROR))", "DEFAULT is not in the language"),
        ("COUNT_IF(e.at > :as_of - INTERVAL '1' DAY TO SECOND)", "an interval is a whole number of seconds"),
        ("SUM(1e400)", "a number has to be one that a double can hold"),
        ("COALESCE(SUM(e.n),, 0)", "line 2, column 26: a comma with nothing beside it"),
        ("NULL", None),
    ],
)
def test_an_output_outside_the_language_is_refused_with_its_place_and_the_fix(output: str, told: str | None) -> None:
    if told is None:
        assert lint_script(view_of(), script_of(output))["y"].kind == "null"
        return
    with pytest.raises(ViewRefusedError, match=told) as raised:
        lint_script(view_of(), script_of(output))
    assert str(raised.value).startswith("line 2, column ")


@pytest.mark.parametrize(
    ("script", "told"),
    [
        ("", "line 1, column 1: the script is empty"),
        ("SELEC 1", "line 1, column"),
        ("SELECT (1", "line 1, column"),
        (
            "SELECT e.who, -- it's\n  COUNT(*) AS y FROM e\nWHERE e.s = 'a\nGROUP BY e.who",
            "line 3, column 13: what begins here",
        ),
        ("SELECT e.who /* ' */, \"y", 'line 1, column 23: what begins here with " has no end'),
        ("SELECT e.who,\n  /* y", r"line 2, column 3: what begins here with /\*"),
        ("SELECT * FROM e", r"SELECT \* is not in the language"),
        ("SELECT e.who, COUNT(*) AS y FROM e GROUP BY e.who; SELECT 1", "a second statement"),
        ("DROP TABLE e", "a drop statement: a script is one SELECT"),
        ("INSERT INTO e SELECT 1", "a insert statement"),
        ("SELECT 1 AS y UNION SELECT 2", "a union statement"),
        ("SELECT * FROM e GROUP BY e.who", r"SELECT \* is not in the language"),
        ("SELECT e.* FROM e GROUP BY e.who", r"SELECT \* is not in the language"),
        ("SELECT e.who, COUNT(*) FROM e GROUP BY e.who", "an output without a name"),
        ("SELECT e.who, COUNT(*) AS y, MAX(e.n) AS y FROM e GROUP BY e.who", "two outputs are called y"),
        ("SELECT e.who, COUNT(*) AS z FROM e GROUP BY e.who", "z is no feature of the view"),
        ("SELECT e.who FROM e GROUP BY e.who", "no output is called y"),
        ("SELECT COUNT(*) AS y FROM e GROUP BY e.who", "no output is called who"),
        ("SELECT e.s AS who, COUNT(*) AS y FROM e GROUP BY e.who", "who must be the column of GROUP BY"),
        ("SELECT e.who, COUNT(*) AS y FROM e", "GROUP BY must name the key"),
        ("SELECT e.who, COUNT(*) AS y FROM e GROUP BY e.who, e.s", "GROUP BY must name the key"),
        (
            "SELECT e.who, COUNT(*) AS y FROM e GROUP BY e.x",
            "the key must be a column of e, text or int; e.x is decimal",
        ),
        (
            "SELECT e.who, COUNT(*) AS y FROM ee GROUP BY e.who",
            "line 1, column 34: the view has no source ee; did you mean e",
        ),
        ("SELECT e.who, COUNT(*) AS y FROM db.e GROUP BY e.who", "only a source of the view can stand here"),
        ("SELECT e.who, COUNT(*) AS y FROM (SELECT 1) e GROUP BY e.who", "only a source of the view"),
        ("SELECT e.who, COUNT(*) AS y FROM READ_CSV('x') e GROUP BY e.who", "only a source of the view"),
        ("SELECT e.who, COUNT(*) AS y FROM e, k GROUP BY e.who", "a join without ON"),
        ("SELECT e.who, COUNT(*) AS y FROM e JOIN f ON f.s = e.s GROUP BY e.who", "only a dimension can be joined"),
        ("SELECT e.who, COUNT(*) AS y FROM e JOIN k ON k.n = e.n GROUP BY e.who", "the whole key of k: s"),
        ("SELECT e.who, COUNT(*) AS y FROM e JOIN k ON k.s > e.s GROUP BY e.who", "a join compares columns by ="),
        ("SELECT e.who, COUNT(*) AS y FROM e FULL JOIN k ON k.s = e.s GROUP BY e.who", "a join is JOIN or LEFT JOIN"),
        ("SELECT e.who, COUNT(*) AS y FROM e ASOF JOIN k ON k.s = e.s GROUP BY e.who", "a join is JOIN or LEFT JOIN"),
        ("SELECT e.who,, COUNT(*) AS y FROM e GROUP BY e.who", "line 1, column 14: a comma with nothing beside it"),
        ("SELECT e.who, COUNT(*) AS y, FROM e GROUP BY e.who", "line 1, column 28: a comma with nothing"),
        ("SELECT , e.who, COUNT(*) AS y FROM e GROUP BY e.who", "line 1, column 8: a comma with nothing"),
        ("SELECT e.who, COUNT(*) AS y FROM e GROUP BY e.who,", "line 1, column 50: a comma with nothing"),
        ("SELECT e.who, COUNT(*) AS y FROM e JOIN k USING (s) GROUP BY e.who", "a join is JOIN or LEFT JOIN"),
        ("SELECT e.who, COUNT(*) AS y FROM e GROUP BY e.who LIMIT 3", "LIMIT is not in the language"),
        ("SELECT DISTINCT e.who, COUNT(*) AS y FROM e GROUP BY e.who", "DISTINCT is not in the language"),
        ("SELECT e.who, COUNT(*) AS y FROM e GROUP BY e.who HAVING COUNT(*) > 1", "HAVING is not in the language"),
        ("WITH c AS (SELECT 1) SELECT e.who, COUNT(*) AS y FROM e GROUP BY e.who", "WITH is not in the language"),
        ("SELECT e.who, COUNT(*) AS y FROM e WHERE COUNT(*) > 1 GROUP BY e.who", "an aggregate cannot stand here"),
    ],
)
def test_a_script_of_another_shape_is_refused_with_the_fix(script: str, told: str) -> None:
    with pytest.raises(ViewRefusedError, match=told):
        lint_script(view_of(), script)


@pytest.mark.parametrize("output", ["(" * 3000 + "1" + ")" * 3000, "1" + " + 1" * 3000, "NOT " * 3000 + "TRUE"])
def test_a_script_that_is_nested_without_end_is_refused(output: str) -> None:
    with pytest.raises(ViewRefusedError, match="nested too deeply"):
        lint_script(view_of(), f"SELECT e.who, SUM({output}) AS y FROM e GROUP BY e.who")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"name": "Upper"}, "Upper"),
        ({"features": {}}, "at least 1"),
        ({"features": {"a b": {"type": "number"}, "a-b": {"type": "number"}}}, "both become the column"),
        ({"features": {"y": {"type": "number", "min": 2, "max": 1}}}, "min = 2 is above max = 1"),
        ({"features": {"y": {"type": "text", "min": 2}}}, "do not belong"),
        ({"max_age": {"nearline": "2 hours"}}, "write a whole number above 0"),
        ({"targets": ["oracle"]}, "duckdb"),
        ({"sources": {"e": {**SMALL["sources"]["e"], "event_time": "s"}}}, "event_time must be one of its columns"),  # type: ignore[index]
        ({"sources": {"k": {**SMALL["sources"]["k"], "key": []}}}, "needs key"),  # type: ignore[index]
        ({"sources": {"k": {**SMALL["sources"]["k"], "columns": {"s": "varchar"}}}}, "a type is one of"),  # type: ignore[index]
        ({"sources": {"k": {**SMALL["sources"]["k"], "columns": {"s": "decimal(39,2)"}}}}, "1 to 38 digits"),  # type: ignore[index]
    ],
)
def test_a_definition_that_cannot_be_is_refused(change: dict[str, object], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        view_of(**change)


def test_a_text_of_a_script_is_bound_and_never_stands_in_the_statement() -> None:
    script = compile_script(view_of(), script_of("COUNT_IF(e.s = 'it''s ${env:HOME}')"), "hive")

    assert "env" not in script.query.sql(dialect="hive")
    assert script.params(AS_OF)["text_0"] == "it's ${env:HOME}"


def test_windows_begin_at_bound_instants() -> None:
    script = compile_script(view_of(), script_of("COUNT_IF(e.at >= :as_of - INTERVAL '2' WEEK)"), "spark")

    assert script.params(AS_OF) == {
        "as_of": "2024-03-01 00:00:00.000000",
        "as_of_1209600": "2024-02-16 00:00:00.000000",
    }
    with pytest.raises(ViewRefusedError, match="before the year 1"):
        script.params(datetime(1, 1, 2, tzinfo=UTC))


# --- answers, in the embedded engine ---


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalWarehouse]:
    """A warehouse for raw tables, which every test and example replaces."""
    warehouse = LocalWarehouse(tmp_path_factory.mktemp("raw"))
    yield warehouse
    warehouse.close()


def test_the_example_gives_what_python_counts(raw: LocalWarehouse) -> None:
    view, _, text = example("transactions")
    events, merchants = random_events(7, 800, 6_000), random_merchants(40)
    store(raw, events, merchants)
    script = compile_script(view, text, "duckdb")

    rows = raw.run(script.query, script.params(AS_OF))

    wanted = oracle(events, merchants, AS_OF)
    assert len(wanted) > 700
    assert differences(rows, wanted) == []
    assert set(rows.column("event_time").to_pylist()) == {AS_OF}


MOMENTS = [
    AS_OF + timedelta(days=days, microseconds=micros)
    for days, micros in itertools.product((-61, -31, -30, -29, -1, 0), (-1, 0, 1))
]
DAYS = st.datetimes(datetime(2023, 12, 1), datetime(2024, 3, 2), timezones=st.just(UTC))  # noqa: DTZ001 - as hypothesis wants
EVENTS = st.builds(
    Event,
    id=st.sampled_from(["e1", "e2", "E1", "é", None]),
    at=st.one_of(st.sampled_from([*MOMENTS, None]), DAYS),
    account=st.sampled_from(["a", "b", "A"]),
    merchant=st.sampled_from(["m0", "m1", "m6", "unknown", None]),
    amount=st.decimals("-99.99", "9999999.99", places=2).map(str) | st.none(),
    channel=st.sampled_from(["card", "web", "app", "", " card", None]),
)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(events=st.lists(EVENTS, min_size=1, max_size=25), shift=st.sampled_from([timedelta(0), timedelta(hours=-7)]))
def test_random_events_with_ties_and_day_boundaries_give_what_python_counts(
    raw: LocalWarehouse, events: list[Event], shift: timedelta
) -> None:
    view, _, text = example("transactions")
    merchants = random_merchants(10)
    store(raw, events, merchants)
    script = compile_script(view, text, "duckdb")

    rows = raw.run(script.query, script.params(AS_OF + shift))

    assert differences(rows, oracle(events, merchants, AS_OF + shift)) == []
