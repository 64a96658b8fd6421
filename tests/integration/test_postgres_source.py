"""Raw rows out of a real PostgreSQL whose columns are of other types than the view's: found by index, or refused."""

from __future__ import annotations

import traceback
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import timedelta
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa

from fedpredict.errors import ModelNotReadyError, StateError
from fedpredict.features.postgres_source import PostgresSource
from fedpredict.state.outside import OutsideTable
from fedpredict.tables.script_view import ScriptSource
from fedpredict.warehouse.local_engine import MemoryEngine
from tests.conftest import POSTGRES_PASSWORD
from tests.raw_transactions import AS_OF

pytestmark = pytest.mark.postgres

MICROS = int(AS_OF.timestamp()) * 1_000_000
ONE, TWO = str(uuid.UUID(int=0xABCDEF)), str(uuid.UUID(int=2))
ODD = ["x", "007", "+7", "-0", "--7", "٣", " 7", "7 ", "7.0", "9" * 30, "9223372036854775808", "a'b", ONE.upper()]


class Table:
    """A raw table of a key's and a time's types, with an index on them."""

    def __init__(self, url: str, key: str, time: str = "timestamptz") -> None:
        self.url = url
        with self.connection() as connection:
            connection.execute("DROP DOMAIN IF EXISTS account_number CASCADE")
            connection.execute("DROP TYPE IF EXISTS colour CASCADE")
            connection.execute("CREATE DOMAIN account_number AS bigint")
            connection.execute("CREATE TYPE colour AS ENUM ('red', 'blue')")
            connection.execute(f"CREATE TABLE raw_typed (id text, at {time}, account {key}, n integer)")
            connection.execute("CREATE INDEX ON raw_typed (account, at)")

    def connection(self) -> psycopg.Connection[Any]:
        """Connect."""
        return psycopg.connect(self.url.replace("+psycopg", ""), password=POSTGRES_PASSWORD)

    def add(self, *rows: tuple[object, ...]) -> None:
        """Add events."""
        with self.connection() as connection:
            connection.execute("SET timezone = 'UTC'")
            connection.cursor().executemany("INSERT INTO raw_typed VALUES (%s, %s, %s, %s)", rows)

    def outside(self) -> OutsideTable:
        """Open it as the product does."""
        return OutsideTable(self.url, POSTGRES_PASSWORD, setting="realtime", table="raw_typed", schema=None)

    def source(self, declared: str, engine: MemoryEngine, table: OutsideTable | None = None) -> PostgresSource:
        """Open the source under test."""
        columns = {"id": "text", "at": "timestamp", "account": declared, "n": "int"}
        source = ScriptSource(table="raw_typed", event_id="id", event_time="at", columns=columns)
        return PostgresSource(table or self.outside(), source, "account", engine)


@pytest.fixture(scope="module")
def engine() -> Iterator[MemoryEngine]:
    """DuckDB."""
    engine = MemoryEngine()
    yield engine
    engine.close()


KEYS = [
    ("bigint", "text", ("7", "-12")),
    ("integer", "text", ("7", "-12")),
    ("smallint", "int", ("7", "-12")),
    ("bigint", "int", ("7", "9223372036854775807")),
    ("account_number", "text", ("7", "8")),
    ("numeric(20,0)", "text", ("7", "-12")),
    ("numeric(20,0)", "int", ("7", "-12")),
    ("char(8)", "text", ("7", "abcdefgh")),
    ("varchar(20)", "text", ("7", "Ähre")),
    ("text", "text", ("7", "o'Hara")),
    ("uuid", "text", (ONE, TWO)),
]


@pytest.mark.parametrize(("kind", "declared", "ids"), KEYS, ids=[f"{kind}-{declared}" for kind, declared, _ in KEYS])
def test_a_key_of_another_type_finds_its_rows_by_its_index(
    kind: str, declared: str, ids: tuple[str, str], postgres_database: Callable[[], str], engine: MemoryEngine
) -> None:
    table = Table(postgres_database(), kind)
    moment = AS_OF - timedelta(microseconds=1)
    table.add(("e1", moment, ids[0], 1), ("e2", moment, ids[1], 2), ("e3", AS_OF, ids[0], 3))
    outside = table.outside()
    sent = kept(outside)

    with closing(table.source(declared, engine, outside)) as source:
        found = source.fetch([ids[0], *(each for each in ODD if each != ids[0])], MICROS).to_pylist()
        nobody = source.fetch(["nobody", "--7"], MICROS)

    # as text: what a refresh makes a sample id of
    assert [(str(row["account"]), row["id"], row["n"]) for row in found] == [(ids[0], "e1", 1)]
    assert nobody.num_rows == 0
    assert "account" in plan(table, sent[0]).partition("Index Cond: ")[2]


WIDTHS = [
    ("smallint", ("32767", "-32768"), ("32768", "-32769", "13800138000")),
    ("integer", ("2147483647", "-2147483648"), ("2147483648", "-2147483649", "13800138000")),
    ("bigint", ("9223372036854775807", "-9223372036854775808"), ("9223372036854775808", "-9223372036854775809")),
    ("account_number", ("13800138000", "-1"), ("9223372036854775808",)),
    ("numeric(5,0)", ("99999", "-99999"), ("100000", "13800138000")),
    ("varchar(4)", ("abcd", "wxyz"), ("abcde", "abcd0")),
]


@pytest.mark.parametrize(("kind", "ends", "beyond"), WIDTHS, ids=[each[0] for each in WIDTHS])
def test_an_id_that_the_column_cannot_hold_is_not_found_and_the_others_are(
    kind: str,
    ends: tuple[str, str],
    beyond: tuple[str, ...],
    postgres_database: Callable[[], str],
    engine: MemoryEngine,
) -> None:
    table = Table(postgres_database(), kind)
    moment = AS_OF - timedelta(microseconds=1)
    table.add(("e1", moment, ends[0], 1), ("e2", moment, ends[1], 2))

    with closing(table.source("text", engine)) as source:
        found = source.fetch([ends[0], *beyond, ends[1]], MICROS).to_pylist()
        nobody = source.fetch(list(beyond), MICROS)

    assert sorted((row["id"], str(row["account"])) for row in found) == [("e1", ends[0]), ("e2", ends[1])]
    assert nobody.num_rows == 0


def kept(outside: OutsideTable) -> list[tuple[str, Any]]:
    """Return a list that gets the statements that read rows."""
    sent: list[tuple[str, Any]] = []

    @sa.event.listens_for(outside._engine, "before_cursor_execute")
    def keep(_c: object, _cursor: object, statement: str, parameters: Any, *_more: object) -> None:
        if "raw_typed" in statement and "pg_catalog" not in statement:
            sent.append((statement, parameters))

    return sent


def plan(table: Table, sent: tuple[str, Any]) -> str:
    """Return how the server does a statement where it may not read the whole table."""
    with table.connection() as connection:
        connection.execute("SET enable_seqscan = off")
        return "\n".join(row[0] for row in connection.execute(f"EXPLAIN {sent[0]}", sent[1]).fetchall())


@pytest.mark.parametrize("time", ["timestamp", "timestamptz", "timestamp(3)", "date"])
def test_a_time_of_another_type_is_compared_by_its_index(
    time: str, postgres_database: Callable[[], str], engine: MemoryEngine
) -> None:
    table = Table(postgres_database(), "text", time)
    at = [AS_OF + timedelta(days=each) for each in (-2, -1, 0, 1)]
    table.add(*((f"e{day}", moment.replace(tzinfo=None), "alice", day) for day, moment in enumerate(at)))
    outside = table.outside()
    sent = kept(outside)

    with closing(table.source("text", engine, outside)) as source:
        found = source.fetch(["alice"], MICROS).to_pylist()

    assert sorted((row["id"], row["at"]) for row in found) == [("e0", at[0]), ("e1", at[1])]
    assert "(at < " in plan(table, sent[0]).partition("Index Cond")[2]


REFUSED = [
    ("text", "timestamptz", "int", "has account as text, and the view declares int"),
    ("double precision", "timestamptz", "text", "account of type DOUBLE PRECISION, which is no sample id"),
    ("numeric(10,2)", "timestamptz", "text", r"account of type NUMERIC\(10, 2\), which is no sample id"),
    ("numeric", "timestamptz", "int", "which is no sample id: make a view"),
    ("bytea", "timestamptz", "text", "account of type BYTEA, which is no sample id"),
    ("colour", "timestamptz", "text", "which is no sample id"),
    ("text", "bigint", "text", r"at of type BIGINT, which is no moment: .* to_timestamp"),
    ("text", "text", "text", "at of type TEXT, which is no moment"),
]


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: f"{case[0]}-{case[1]}-{case[2]}")
def test_what_cannot_be_compared_is_told_with_the_column_and_the_fix(
    case: tuple[str, str, str, str], postgres_database: Callable[[], str], engine: MemoryEngine
) -> None:
    key, time, declared, told = case
    table = Table(postgres_database(), key, time)
    with closing(table.source(declared, engine)) as source:
        with pytest.raises(StateError, match=told):
            source.fetch(["7"], MICROS)
        if declared != "int":
            with pytest.raises(StateError, match=told):
                source.check()


def test_what_was_refused_is_looked_at_again(postgres_database: Callable[[], str], engine: MemoryEngine) -> None:
    table, who = Table(postgres_database(), "text", "bigint"), "somebody"
    with closing(table.source("text", engine)) as source:
        with pytest.raises(StateError, match="no moment"):
            source.fetch(["7"], MICROS)
        with table.connection() as connection:
            connection.execute("ALTER TABLE raw_typed ALTER at TYPE timestamptz USING to_timestamp(at)")
        assert source.fetch(["7"], MICROS).num_rows == 0
        with table.connection() as connection:
            connection.execute("ALTER TABLE raw_typed DROP n")
        with pytest.raises(StateError, match=r"column.* n") as raised:
            source.fetch([who], MICROS)
        assert who not in "".join(traceback.format_exception(raised.value))  # it gets into the log
        with pytest.raises(StateError, match="has no column n; compare"):
            source.fetch(["7"], MICROS)
        with table.connection() as connection:
            connection.execute("DROP TABLE raw_typed")
        with pytest.raises(StateError, match="is not there, or not for this user"):
            source.fetch(["7"], MICROS)


def test_check_tells_a_table_without_an_index(postgres_database: Callable[[], str], engine: MemoryEngine) -> None:
    table = Table(postgres_database(), "text")
    with closing(table.source("text", engine)) as source:
        assert source.check() == (told := source.check()[0], "")
        assert "raw_typed" in told
        assert POSTGRES_PASSWORD not in told.replace("fedpredict:***", "").replace("fedpredict@", "")
        with table.connection() as connection:
            connection.execute("DROP INDEX raw_typed_account_at_idx")
        assert "no index of raw_typed begins with account" in source.check()[1]


def test_a_server_that_is_away_is_not_ready(engine: MemoryEngine) -> None:
    outside = OutsideTable("postgresql+psycopg://x@127.0.0.1:1/x", None, setting="realtime", table="t", schema=None)
    columns = {"id": "text", "at": "timestamp", "account": "text"}
    source = PostgresSource(
        outside, ScriptSource(table="t", event_id="id", event_time="at", columns=columns), "account", engine
    )
    with closing(source), pytest.raises(ModelNotReadyError, match="cannot be read: connection failed"):
        source.fetch(["7"], MICROS)
