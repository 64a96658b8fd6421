"""What every source of raw rows keeps, and that features computed from any of them are those of a refresh."""

from __future__ import annotations

import json
import tomllib
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import numpy as np
import psycopg
import pyarrow as pa
import pytest
import redis
from sqlglot import exp

from fedpredict.features.event_feed import feed_of
from fedpredict.features.event_intake import json_lines, take_events
from fedpredict.features.event_source import EventSource
from fedpredict.features.postgres_source import PostgresSource
from fedpredict.features.raw import RawSource, arrow_schema, as_declared, read_typed, typed_columns
from fedpredict.features.realtime import Extracted, RealtimeView
from fedpredict.features.redis_connection import RedisAddress, RedisConnection
from fedpredict.features.redis_source import RedisSource
from fedpredict.features.refresh import refresh_view
from fedpredict.features.registration import register_view
from fedpredict.features.warehouse_source import WarehouseSource
from fedpredict.state.engine import open_engine
from fedpredict.state.events import MOST_IDS, open_event_store
from fedpredict.state.outside import OutsideTable
from fedpredict.tables.script_store import RegisteredView
from fedpredict.tables.script_view import ScriptView
from fedpredict.tables.views import read_snapshot_rows
from fedpredict.warehouse.local import LocalWarehouse
from fedpredict.warehouse.local_engine import MemoryEngine
from tests.conftest import POSTGRES_PASSWORD
from tests.raw_transactions import (
    AS_OF,
    Event,
    Merchant,
    differences,
    example,
    oracle,
    random_events,
    random_merchants,
    renamed,
    store,
)

pytestmark = pytest.mark.timeout(600)

MICROS = int(AS_OF.timestamp()) * 1_000_000
_, DEFINITION, SCRIPT = example("transactions")
# every text allowed, so that a refresh is not refused
DEFINITION = DEFINITION.replace('texts = ["card", "web", "app"]\n', "")

EMBEDDED = [pytest.param(kind, id=kind) for kind in ("events", "warehouse")]
SOURCES = [
    *EMBEDDED,
    pytest.param("events-postgres", id="events-postgres", marks=pytest.mark.postgres),
    pytest.param("postgres", id="postgres", marks=pytest.mark.postgres),
    pytest.param("redis", id="redis", marks=pytest.mark.redis),
    pytest.param("spark", id="spark", marks=pytest.mark.spark),
    pytest.param("hive", id="hive", marks=pytest.mark.hive),
]


@dataclass(frozen=True)
class Filled:
    """A source with events in it, and the view that reads it."""

    source: RawSource
    registered: RegisteredView


Fill = Callable[[list[Event]], Filled]


@pytest.fixture
def fill(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Fill]:
    kind = request.param
    closing: list[Callable[[], None]] = []

    def made(events: list[Event]) -> Filled:
        suffix = f"_{uuid.uuid4().hex[:12]}"
        view, definition = renamed(DEFINITION, suffix)
        registered = RegisteredView(view, 1, definition, SCRIPT, AS_OF)
        source: RawSource
        if kind.startswith("events"):
            of_server = kind == "events-postgres"
            url = request.getfixturevalue("postgres_database")() if of_server else "sqlite:///events.db"
            opened = open_event_store(url, tmp_path, POSTGRES_PASSWORD if of_server else None)
            closing.append(opened.close)
            feed = feed_of(registered, [registered])
            take_events(opened, feed, json_lines(as_lines(events)))
            source = EventSource(opened, feed)
        elif kind == "postgres":
            url = request.getfixturevalue("postgres_database")()
            write_table(url, view.sources["tx"].table, events)
            table = OutsideTable(
                url, POSTGRES_PASSWORD, setting="realtime", table=view.sources["tx"].table, schema=None
            )
            source = PostgresSource(table, view.sources["tx"], "account", request.getfixturevalue("engine"))
        elif kind == "redis":
            address, prefix = request.getfixturevalue("redis_address"), f"tx{suffix}:"
            add_to_redis(address, prefix, events)
            connection = RedisConnection(RedisAddress(url=f"redis://{address}", timeout_s=30.0))
            source = RedisSource(connection, view.sources["tx"], "account", prefix=prefix, window=None)
        else:
            place = request.getfixturevalue("places")("local" if kind == "warehouse" else kind)
            store(place.warehouse, events, random_merchants(4), suffix)
            source = WarehouseSource(place.warehouse, view.sources["tx"], "account")
        closing.append(source.close)
        return Filled(source, registered)

    yield made
    for close in reversed(closing):
        close()


def as_lines(events: Sequence[Event]) -> bytes:
    rows = [{**each._asdict(), "at": each.at.isoformat() if each.at else None} for each in events]
    return "\n".join(map(json.dumps, rows)).encode()


def add_to_redis(address: str, prefix: str, events: Sequence[Event]) -> None:
    """Write events as docs/realtime.md tells users to."""
    with redis.from_url(f"redis://{address}") as client, client.pipeline(transaction=False) as pipeline:
        for each in events:
            assert each.at is not None
            member = {**each._asdict(), "at": each.at.isoformat()}
            micros = (each.at - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
            pipeline.zadd(f"{prefix}{each.account}", {json.dumps(member): micros})
        pipeline.execute()


def write_table(url: str, table: str, events: list[Event], time: str = "timestamptz") -> None:
    columns = f"id text, at {time}, account text, merchant text, amount numeric(12,2), channel text"
    with psycopg.connect(url.replace("+psycopg", ""), password=POSTGRES_PASSWORD) as connection:
        connection.execute(f"CREATE TABLE {table} ({columns})")
        with connection.cursor() as cursor:
            cursor.executemany(f"INSERT INTO {table} VALUES (%s, %s, %s, %s, %s, %s)", events)


def rows_of(found: pa.Table) -> list[tuple[object, ...]]:
    return sorted(zip(*(found.column(name).to_pylist() for name in ("account", "id")), strict=True), key=str)


every_source = pytest.mark.parametrize("fill", SOURCES, indirect=True)


@every_source
def test_the_events_of_the_ids_asked_for_come_in_their_declared_types(fill: Fill) -> None:
    moment = AS_OF - timedelta(hours=1, microseconds=7)
    odd = 'o\'Hara "é" \\ 年'
    filled = fill([
        Event("e1", moment, "alice", "m1", "12.50", "web"),
        Event("e2", moment, "alice", None, None, None),
        Event("e3", moment, odd, "m'2", "-0.01", "it's"),
        Event("e4", AS_OF, "alice", "m1", "1.00", "web"),
        Event("e5", AS_OF - timedelta(microseconds=1), "alice", "m1", "1.00", "web"),
        Event("e6", moment, "bob", "m1", "1.00", "web"),
    ])  # fmt: skip

    found = filled.source.fetch(["alice", odd, "nobody", "alice' OR '1'='1"], MICROS)

    assert found.schema == arrow_schema(filled.registered.view.sources["tx"])
    # before the instant, and nobody else's
    assert rows_of(found) == sorted([("alice", "e1"), ("alice", "e2"), ("alice", "e5"), (odd, "e3")], key=str)
    by_id = {row["id"]: row for row in found.to_pylist()}
    assert by_id["e1"]["at"] == moment
    assert (str(by_id["e1"]["amount"]), str(by_id["e3"]["amount"])) == ("12.50", "-0.01")
    assert (by_id["e3"]["merchant"], by_id["e3"]["channel"]) == ("m'2", "it's")
    assert [by_id["e2"][name] for name in ("merchant", "amount", "channel")] == [None] * 3
    assert filled.source.fetch(["nobody"], MICROS).num_rows == 0


@pytest.mark.parametrize("fill", [*EMBEDDED, *SOURCES[2:5]], indirect=True)
def test_any_number_of_ids_can_be_asked_for(fill: Fill) -> None:
    ids = [f"a{number}" for number in range(2 * MOST_IDS + 7)]
    filled = fill([Event(f"e{each}", AS_OF - timedelta(hours=1), each, "m1", "1.00", "web") for each in ids])
    assert rows_of(filled.source.fetch(ids, MICROS)) == sorted([(each, f"e{each}") for each in ids], key=str)


@pytest.mark.postgres
@pytest.mark.parametrize("options", ["", "?options=-c%20TimeZone%3DAmerica/New_York"])
@pytest.mark.parametrize("kind", ["timestamp", "timestamptz"])
def test_the_newest_events_are_there_whatever_the_zone_of_the_server_is(
    kind: str, options: str, postgres_database: Callable[[], str], engine: MemoryEngine
) -> None:
    url, source = postgres_database(), example("transactions")[0].sources["tx"]
    moment = (AS_OF - timedelta(minutes=1)).replace(tzinfo=None)
    write_table(url, source.table, [], time=kind)
    with psycopg.connect(url.replace("+psycopg", ""), password=POSTGRES_PASSWORD) as connection:
        database = connection.info.dbname
        connection.execute("SET timezone = 'UTC'")
        connection.execute(f"INSERT INTO {source.table} VALUES ('e1', %s, 'alice', 'm1', 1, 'web')", [moment])
        connection.execute(f"ALTER DATABASE \"{database}\" SET timezone = 'America/New_York'")
    try:
        table = OutsideTable(url + options, POSTGRES_PASSWORD, setting="realtime", table=source.table, schema=None)
        with closing(PostgresSource(table, source, "account", engine)) as opened:
            found = opened.fetch(["alice"], MICROS)
    finally:
        with psycopg.connect(url.replace("+psycopg", ""), password=POSTGRES_PASSWORD) as connection:
            connection.execute(f'ALTER DATABASE "{database}" RESET timezone')
    assert [row["at"] for row in found.to_pylist()] == [AS_OF - timedelta(minutes=1)]


@pytest.fixture(scope="module")
def engine() -> Iterator[MemoryEngine]:
    engine = MemoryEngine()
    yield engine
    engine.close()


def as_table(extracted: Extracted, registered: RegisteredView) -> pa.Table:
    names = list(extracted.places)
    columns = {
        name: [None if np.isnan(each) else each for each in values] for name, values in extracted.numbers.items()
    }
    columns |= {name: list(values) for name, values in extracted.texts.items()}
    return pa.table({"sample_id": names, **{name: columns[name] for name in registered.view.features}})


def whole(events: list[Event]) -> list[Event]:
    """Those that the event store takes: with an id, a time and an account."""
    return [each for each in events if each.id is not None and each.at is not None]


@every_source
def test_realtime_features_are_those_that_python_counts(fill: Fill, engine: MemoryEngine, tmp_path: Path) -> None:
    events, merchants = whole(random_events(5, 12, 260)), random_merchants(12)
    filled = fill(events)
    view = realtime_view(filled, merchants, engine, tmp_path)
    accounts = sorted({str(each.account) for each in events})

    arrays = view.extract(accounts, MICROS)
    duckdb = view._of_table(view._run(filled.source.fetch(accounts, MICROS), MICROS))

    wanted = oracle(events, merchants, AS_OF)
    assert view.is_in_arrays
    for extracted in (arrays, duckdb):
        assert differences(as_table(extracted, filled.registered), wanted) == []


def realtime_view(filled: Filled, merchants: list[Merchant], engine: MemoryEngine, folder: Path) -> RealtimeView:
    warehouse = LocalWarehouse(folder / "dimensions")
    suffix = filled.registered.view.name.removeprefix("transactions")
    store(warehouse, [], merchants, suffix)
    view = RealtimeView(filled.registered, filled.source, engine)
    view.put_dimensions({alias: read_typed(warehouse, source) for alias, source in view.dimensions.items()})
    warehouse.close()
    return view


@pytest.mark.parametrize(
    ("promise", "counted"), [("", 2.0), ("unique = true\n", 4.0)], ids=["each-id-once", "every-row"]
)
def test_an_id_that_a_table_repeats_counts_once_unless_the_view_promises_that_none_does(
    promise: str, counted: float, engine: MemoryEngine, tmp_path: Path
) -> None:
    event = Event("dup", AS_OF - timedelta(minutes=5), "a0", "m1", "2.00", "web")
    later = event._replace(at=AS_OF - timedelta(minutes=1), amount="7.00")
    events = [event, later, event, event._replace(account="b0"), event._replace(id=None), later._replace(at=AS_OF)]
    warehouse = LocalWarehouse(tmp_path / "warehouse")
    store(warehouse, events, random_merchants(2))
    definition = DEFINITION.replace('event_id = "id"\n', 'event_id = "id"\n' + promise)
    registered, _ = register_view(warehouse, ScriptView.model_validate(tomllib.loads(definition)), definition, SCRIPT)
    realtime = RealtimeView(registered, WarehouseSource(warehouse, registered.view.sources["tx"], "account"), engine)
    realtime.put_dimensions({alias: read_typed(warehouse, each) for alias, each in realtime.dimensions.items()})

    rows = read_snapshot_rows(warehouse, refresh_view(warehouse, registered, AS_OF).snapshot, ["sample_id", "n_1h"])
    arrays = realtime.extract(["a0", "b0"], MICROS)
    duckdb = realtime._of_table(realtime._run(realtime._source.fetch(["a0", "b0"], MICROS), MICROS))
    warehouse.close()

    wanted = {"a0": counted, "b0": 1.0}  # of the account's rows: the newer of `dup`, and the one without an id
    assert {row["sample_id"]: row["n_1h"] for row in rows.to_pylist()} == wanted
    for found in (arrays, duckdb):
        assert {name: found.numbers["n_1h"][place] for name, place in found.places.items()} == wanted
        assert promise or found.numbers["spent_30d"][found.places["a0"]] == 9.0


@pytest.mark.parametrize("seed", range(3))
def test_realtime_and_a_refresh_give_the_same(seed: int, engine: MemoryEngine, tmp_path: Path) -> None:
    suffix = f"_{seed}"
    events, merchants = whole(random_events(seed, 10, 200)), random_merchants(9)
    warehouse = LocalWarehouse(tmp_path / "warehouse")
    store(warehouse, events, merchants, suffix)
    view, definition = renamed(DEFINITION, suffix)
    registered, _ = register_view(warehouse, view, definition, SCRIPT)
    nearline = refresh_view(warehouse, registered, AS_OF).snapshot
    rows = read_snapshot_rows(warehouse, nearline, ["sample_id", *view.features])
    opened = open_event_store("sqlite:///events.db", tmp_path)
    feed = feed_of(registered, [registered])
    take_events(opened, feed, json_lines(as_lines(events)))
    accounts = sorted({str(each.account) for each in events})

    for source in (EventSource(opened, feed), WarehouseSource(warehouse, view.sources["tx"], "account")):
        realtime = RealtimeView(registered, source, engine)
        realtime.put_dimensions({alias: read_typed(warehouse, each) for alias, each in realtime.dimensions.items()})
        found = as_table(realtime.extract(accounts, MICROS), registered)
        assert differences(found, {row.pop("sample_id"): row for row in rows.to_pylist()}) == []
    opened.close()
    warehouse.close()


@pytest.mark.postgres
def test_a_server_that_falls_silent_is_given_up_and_the_url_may_say_when(postgres_database: Callable[[], str]) -> None:
    url = postgres_database()
    told = []
    for each in (url, f"{url}?tcp_user_timeout=7000"):
        opened = open_engine(each, password=POSTGRES_PASSWORD)
        with opened.connect() as connection:
            told.append(connection.connection.driver_connection.info.get_parameters())  # type: ignore[union-attr]
        opened.dispose()
    assert [each["tcp_user_timeout"] for each in told] == ["15000", "7000"]
    assert [each["keepalives_idle"] for each in told] == ["10", "10"]


ROUNDED = """
name = "odd"
key = "who"
targets = ["duckdb"]
[sources.t]
table = "raw_odd"
event_id = "id"
event_time = "at"
[sources.t.columns]
id = "text"
at = "timestamp"
who = "text"
money = "decimal(6,2)"
share = "decimal(6,2)"
n = "int"
whole = "int"
day = "date"
ratio = "double"
flag = "boolean"
label = "text"
[features.n]
type = "number"
"""
IN_POSTGRES = (
    "id uuid, at timestamp, who text, money numeric, share double precision, n double precision, whole numeric(6,1), "
    "day timestamptz, ratio numeric, flag integer, label boolean"
)
IN_WAREHOUSE = (
    'SELECT CAST(id AS UUID) AS id, CAST("at" AS TIMESTAMP) AS "at", who, CAST(money AS DECIMAL(20, 5)) AS money, '
    "CAST(share AS DOUBLE) AS share, CAST(n AS DOUBLE) AS n, CAST(whole AS DECIMAL(6, 1)) AS whole, "
    "CAST(day AS TIMESTAMPTZ) AS day, CAST(ratio AS DECIMAL(10, 2)) AS ratio, CAST(flag AS INTEGER) AS flag, "
    "CAST(label AS BOOLEAN) AS label FROM given"
)
ODD_NUMBERS = [
    # money, share, n, whole, ratio, flag
    ("12.345", "12.345", "2.0", "2.5", "0.25", 1),
    ("-12.345", "-0.005", "3.5", "-2.5", "-1.5", 0),
    ("12.30", "0.30000000000000004", "2.5", "7.0", "3", None),
    ("9999.995", "1e10", "1e30", None, None, 7),  # no decimal(6,2) holds the first two when they are rounded
    (None, "NaN", "NaN", "0.4", "0", 1),
]


@pytest.mark.postgres
def test_values_of_other_types_become_what_a_refresh_makes_of_them(
    postgres_database: Callable[[], str], engine: MemoryEngine
) -> None:
    source = ScriptView.model_validate(tomllib.loads(ROUNDED)).sources["t"]
    moment, day = (AS_OF - timedelta(days=1)).replace(tzinfo=None), AS_OF - timedelta(minutes=30)
    names = ("id", "at", "who", "money", "share", "n", "whole", "day", "ratio", "flag", "label")
    rows = [
        (str(uuid.UUID(int=at)), moment, "alice", money, share, n, whole, day, ratio, flag, at % 2 == 0)
        for at, (money, share, n, whole, ratio, flag) in enumerate(ODD_NUMBERS)
    ]
    url = postgres_database()
    with psycopg.connect(url.replace("+psycopg", ""), password=POSTGRES_PASSWORD) as connection:
        connection.execute(f"CREATE TABLE raw_odd ({IN_POSTGRES})")
        connection.cursor().executemany(f"INSERT INTO raw_odd VALUES ({', '.join(['%s'] * len(names))})", rows)
    table = OutsideTable(url, POSTGRES_PASSWORD, setting="realtime", table="raw_odd", schema=None)

    with closing(PostgresSource(table, source, "who", engine)) as opened:
        found = sorted(opened.fetch(["alice"], MICROS).to_pylist(), key=lambda row: row["id"])

    given = pa.table(
        {name: [None if row[at] is None else str(row[at]) for row in rows] for at, name in enumerate(names)}
    )
    typed = engine.query(IN_WAREHOUSE, {}, {"given": given})
    query = exp.Select(expressions=typed_columns(source)).from_("typed").sql("duckdb")
    as_refreshed = as_declared(engine.query(query, {}, {"typed": typed}), source)
    assert found == sorted(as_refreshed.to_pylist(), key=lambda row: row["id"])
    assert [row["money"] for row in found] == [Decimal("12.35"), Decimal("-12.35"), Decimal("12.30"), None, None]
    assert [row["n"] for row in found] == [2, 4, 2, None, None]
    assert [row["whole"] for row in found] == [3, -3, 7, None, 0]
    assert [row["ratio"] for row in found] == [0.25, -1.5, 3.0, None, 0.0]
    assert {row["day"] for row in found} == {day.date()}
    assert [row["flag"] for row in found] == [True, False, None, True, True]
    assert [row["label"] for row in found][:2] == ["true", "false"]
