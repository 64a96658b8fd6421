"""Raw rows out of a real Redis: what is read of it, what it may hold, and what happens when it does not answer."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
import tomllib
import uuid
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import redis

from fedpredict.cli.main import run
from fedpredict.errors import ConfigError, ModelNotReadyError, StoreError
from fedpredict.features.raw import RawSource
from fedpredict.features.realtime import RealtimeView
from fedpredict.features.redis_connection import RedisAddress, RedisConnection
from fedpredict.features.redis_source import RETRY_S, RedisSource
from fedpredict.features.registration import register_view
from fedpredict.features.warehouse_source import WarehouseSource
from fedpredict.scoring.open_realtime import open_source_of
from fedpredict.scoring.realtime_settings import RealtimeViewSettings
from fedpredict.tables.script_shape import parse_shape
from fedpredict.tables.script_store import RegisteredView
from fedpredict.tables.script_view import ScriptView
from fedpredict.tables.script_window import Window, window_of
from fedpredict.warehouse.local import LocalWarehouse
from fedpredict.warehouse.local_engine import MemoryEngine
from tests.integration.test_redis_store import PASSWORD, OwnRedis, certificate_for_loopback
from tests.raw_transactions import AS_OF, Event, example, random_events, store

pytestmark = pytest.mark.redis

VIEW, DEFINITION, SCRIPT = example("transactions")
SOURCE = VIEW.sources["tx"]
MICROS = int(AS_OF.timestamp()) * 1_000_000
HOUR = 3_600_000_000


class Raw:
    """A Redis, and a prefix of the test's own there."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.prefix = f"t{uuid.uuid4().hex[:12]}*[x]:"
        # the driver's own types say nothing of what its commands return
        self.client: Any = redis.from_url(f"redis://{address}")

    def add(self, sample_id: str, score: float, **content: object) -> None:
        """Add an event."""
        self.client.zadd(f"{self.prefix}{sample_id}", {json.dumps({"id": "e1", **content}): score})

    def source(self, window: Window | None = None, clock: Callable[[], float] | None = None) -> RedisSource:
        """Return the source under test."""
        connection = RedisConnection(RedisAddress(url=f"redis://{self.address}", timeout_s=5.0))
        clocks = {} if clock is None else {"clock": clock}
        return RedisSource(connection, SOURCE, "account", prefix=self.prefix, window=window, **clocks)


@pytest.fixture
def raw(redis_address: str) -> Iterator[Raw]:
    """An empty prefix."""
    made = Raw(redis_address)
    yield made
    made.client.close()


def test_members_of_redis_cli_are_events(raw: Raw) -> None:
    # what docs/realtime.md shows: the score is the time, and the key says whose it is
    raw.client.execute_command(
        "ZADD", f"{raw.prefix}alice", "1709247600000000", '{"id":"e1","merchant":"m1","amount":12.50,"channel":"web"}'
    )
    source = raw.source()
    found = source.fetch(["alice", "bob"], MICROS).to_pylist()
    assert found == [
        {
            "id": "e1",
            "at": datetime(2024, 2, 29, 23, 0, tzinfo=UTC),
            "account": "alice",
            "merchant": "m1",
            "amount": Decimal("12.50"),
            "channel": "web",
        }
    ]
    source.close()


def test_of_one_event_id_the_newest_counts_once(raw: Raw) -> None:
    raw.add("alice", MICROS - HOUR, amount="1.00")
    raw.add("alice", MICROS - 2 * HOUR, amount="2.00")
    raw.add("alice", MICROS - HOUR, amount="0.50")  # at one instant: the last by its bytes
    raw.add("alice", MICROS + HOUR, amount="9.00")  # has not happened yet
    raw.add("alice", MICROS - HOUR, id="e2", amount="3.00")
    raw.add("bob", MICROS - HOUR, amount="4.00")
    source = raw.source()
    found = source.fetch(["alice", "bob"], MICROS).to_pylist()
    assert sorted((row["account"], row["id"], str(row["amount"])) for row in found) == [
        ("alice", "e1", "1.00"), ("alice", "e2", "3.00"), ("bob", "e1", "4.00"),
    ]  # fmt: skip
    source.close()


def test_only_the_window_is_read_and_one_older_event_where_it_makes_a_row(raw: Raw) -> None:
    day = Window(86_400, needs_older=False)
    raw.add("alice", MICROS - 24 * HOUR, id="first")  # the window's first microsecond
    raw.add("alice", MICROS - 24 * HOUR - 1, id="older")
    raw.client.zadd(f"{raw.prefix}alice", {"no JSON at all": MICROS - 90 * 24 * HOUR})
    ids = {}
    for window in (day, Window(86_400, needs_older=True)):
        source = raw.source(window)
        ids[window.needs_older] = sorted(source.fetch(["alice"], MICROS).column("id").to_pylist())
        source.close()
    assert ids == {False: ["first"], True: ["first", "older"]}
    source = raw.source()
    with pytest.raises(StoreError, match="no JSON object"):
        source.fetch(["alice"], MICROS)
    source.close()


MEMBERS = [
    ("[1]", MICROS, "is no JSON object"),
    ('{"id":' * 5_000, MICROS, "is no JSON object"),
    ("{", MICROS, "is no JSON object"),
    (b"\xff\xfe", MICROS, "is no JSON object"),
    ('{"amount":1}', MICROS, "has no id, the event's id"),
    ('{"id":"e","amount":"12,50"}', MICROS, r"has a wrong field: amount is no decimal\(12,2\)"),
    ('{"id":"e","amount":1.005}', MICROS, r"has a wrong field: amount is no decimal\(12,2\)"),
    ('{"id":"e","channel":true}', MICROS, "has a wrong field: channel is no text"),
    ('{"id":"e","at":1709251200}', MICROS, "has a wrong field: at is no ISO 8601 time"),
    ('{"id":"e","at":"2024-02-29T23:59:59Z"}', MICROS, "has another at than its score"),
    ('{"id":"e","account":"bob"}', MICROS, "has another account than its key"),
    ('{"id":"e"}', MICROS / 1e6, "seconds or milliseconds"),
    ('{"id":"e"}', MICROS / 1e3, "seconds or milliseconds"),
    ('{"id":"e"}', 1.5, "no whole number of microseconds"),
    ('{"id":"e"}', float("-inf"), "no whole number of microseconds"),
]


@pytest.mark.parametrize(("member", "score", "told"), MEMBERS)
def test_a_member_that_is_not_as_declared_is_told_without_the_sample_id(
    raw: Raw, member: Any, score: float, told: str
) -> None:
    raw.client.zadd(f"{raw.prefix}alice", {member: score})
    source = raw.source()
    with pytest.raises(StoreError, match=told) as raised:
        source.fetch(["bob", "alice"], MICROS + 1)
    assert "alice" not in str(raised.value)
    assert f"{raw.prefix}<sample id>" in str(raised.value)
    assert "docs/realtime.md" in str(raised.value)
    assert source.fetch(["bob"], MICROS).num_rows == 0
    # for the operator's eyes alone: which key it is
    with pytest.raises(StoreError, match=told) as raised:
        source.check()
    assert f"{raw.prefix}alice" in str(raised.value)
    source.close()


@pytest.mark.parametrize("kind", ["string", "hash", "list", "stream"])
def test_a_key_of_another_type_is_told(raw: Raw, kind: str) -> None:
    key = f"{raw.prefix}alice"
    words = {"string": ("SET", key, "x"), "hash": ("HSET", key, "a", "b"), "list": ("RPUSH", key, "a"),
             "stream": ("XADD", key, "*", "a", "b")}[kind]  # fmt: skip
    raw.client.execute_command(*words)
    source = raw.source()
    with pytest.raises(StoreError, match="is no sorted set") as raised:
        source.fetch(["alice"], MICROS)
    assert "alice" not in str(raised.value)
    source.close()


def test_check_says_what_is_there_and_which_columns_nobody_wrote(raw: Raw) -> None:
    source = raw.source()
    with pytest.raises(StoreError, match="has no key that begins with"):
        source.check()
    raw.add("alice", MICROS - HOUR, amount="1.00", Channel="web")
    raw.add("bob", MICROS - HOUR, merchant="m1")
    told, warning = source.check()
    assert told.endswith("2 of 2 keys read")
    assert warning == "no event read has channel, which is NULL then"
    source.close()


def test_the_doctor_reads_some_and_names_what_is_wrong(
    raw: Raw, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lab = tmp_path / "lab"
    assert run(["init", "participant", str(lab), "--no-certs"]) == 0
    warehouse = LocalWarehouse(lab / "warehouse")
    store(warehouse, [], [])
    register_view(warehouse, VIEW, DEFINITION, SCRIPT)
    warehouse.close()
    file = lab / "participant.toml"
    table = f'[realtime.transactions]\nsource = "redis://{raw.address}"\nprefix = "{raw.prefix}"\n'
    file.write_text(f"{file.read_text()}\n{table}[realtime]\nothers = 'events'\n")

    def told() -> list[tuple[str, str]]:
        capsys.readouterr()
        run(["doctor", "--config", str(file), "--json"])
        found = json.loads(capsys.readouterr().out)
        return [(each["level"], each["what"]) for each in found if each["topic"] == "realtime"]

    others, nothing = told()
    raw.add("alice", MICROS - HOUR, amount="1.00", merchant="m")
    warned = told()[1]
    raw.add("alice", MICROS - 2 * HOUR, id="e2", amount="1.00", merchant="m", channel="web")
    fine = told()[1]
    raw.add("bob", MICROS / 1e6)
    wrong = told()[1]

    assert others == ("warning", "view others has no script, so mode realtime does not compute it")
    assert nothing[0] == "problem"
    assert "has no key that begins with" in nothing[1]
    assert warned[0] == "warning"
    assert "no event read has channel" in warned[1]
    assert fine[0] == "ok"
    assert wrong[0] == "problem"
    assert f"the member of {raw.prefix}bob" in wrong[1]
    assert "seconds or milliseconds" in wrong[1]


WINDOWED = """
SELECT
  tx.account,
  COUNT_IF(tx.at >= :as_of - INTERVAL '1' HOUR) AS n_1h,
  COUNT(*) FILTER (WHERE tx.at >= :as_of - INTERVAL '7' DAY) AS n_7d,
  MAX(CASE WHEN tx.at >= :as_of - INTERVAL '3' DAY THEN tx.amount END) AS largest,
  COALESCE(SUM(tx.amount) FILTER (WHERE :as_of - INTERVAL '10' DAY < tx.at AND tx.channel = 'web'), 0) AS spent_web,
  LAST(tx.channel) FILTER (WHERE tx.at BETWEEN :as_of - INTERVAL '2' DAY AND :as_of) AS last_channel
FROM tx
GROUP BY tx.account
"""


@pytest.mark.parametrize("where", ["", "WHERE tx.at >= :as_of - INTERVAL '9' DAY AND tx.amount > 100"])
def test_what_the_window_leaves_out_changes_no_feature(raw: Raw, where: str, tmp_path: Path) -> None:
    numbers = "".join(f'[features.{name}]\ntype = "number"\n' for name in ("n_1h", "n_7d", "largest", "spent_web"))
    definition = DEFINITION[: DEFINITION.index("[features")] + numbers + '[features.last_channel]\ntype = "text"\n'
    view = ScriptView.model_validate(tomllib.loads(definition))
    registered = RegisteredView(view, 1, definition, WINDOWED.replace("GROUP BY", f"{where}\nGROUP BY"), AS_OF)
    events = [
        each for each in random_events(11, 60, 400) if each.id is not None and each.at is not None
    ]  # fmt: skip
    add_all(raw, events)
    warehouse = LocalWarehouse(tmp_path / "warehouse")
    store(warehouse, events, [])
    engine = MemoryEngine()
    window = window_of(parse_shape(view, registered.script))
    assert window == (Window(9 * 86_400, needs_older=False) if where else Window(10 * 86_400, needs_older=True))
    accounts = sorted({str(each.account) for each in events})

    found = []
    sources: Sequence[RawSource] = (WarehouseSource(warehouse, SOURCE, "account"), raw.source(window))
    for source in sources:
        computed = RealtimeView(registered, source, engine).extract(accounts, MICROS)
        columns: list[Sequence[Any]] = [*(list(each) for each in computed.numbers.values()), *computed.texts.values()]
        found.append({
            name: [each[at] for each in columns]
            for name, at in computed.places.items()
        })  # fmt: skip
        source.close()

    assert repr(sorted(found[0].items())) == repr(sorted(found[1].items()))  # NaN too
    assert len(found[0]) > 20
    engine.close()
    warehouse.close()


def add_all(raw: Raw, events: Sequence[Event]) -> None:
    for each in events:
        assert each.at is not None
        micros = (each.at - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
        raw.add(str(each.account), micros, **{**each._asdict(), "at": each.at.isoformat()})


def test_a_key_of_numbers_takes_the_ids_that_are_numbers(raw: Raw) -> None:
    source = SOURCE.model_copy(update={"columns": {**SOURCE.columns, "account": "int"}})
    raw.add("7", MICROS - HOUR, account=7)
    raw.add("007", MICROS - HOUR)
    connection = RedisConnection(RedisAddress(url=f"redis://{raw.address}", timeout_s=5.0))
    opened = RedisSource(connection, source, "account", prefix=raw.prefix, window=None)
    assert opened.fetch(["7", "007", "x", "9" * 30], MICROS).column("account").to_pylist() == [7]
    assert opened.fetch(["x"], MICROS).num_rows == 0
    assert opened.fetch(["7"], MICROS).schema.field("account").type == pa.int64()
    opened.close()


def test_one_that_hangs_costs_its_timeout_once_and_recovers(tmp_path: Path, redis_address: str) -> None:
    own, now = OwnRedis(tmp_path), [0.0]
    own.start()
    try:
        connection = RedisConnection(RedisAddress(url=f"redis://127.0.0.1:{own.port}", timeout_s=0.2))
        source = RedisSource(connection, SOURCE, "account", prefix="tx:", window=None, clock=lambda: now[0])
        own.send("ZADD", "tx:alice", MICROS - HOUR, '{"id":"e1"}')
        assert source.fetch(["alice"], MICROS).num_rows == 1
        os.kill(own.pid, signal.SIGSTOP)
        try:
            with pytest.raises(ModelNotReadyError, match="does not answer in time"):
                source.fetch(["alice"], MICROS)
        finally:
            os.kill(own.pid, signal.SIGCONT)
        with pytest.raises(ModelNotReadyError, match="does not answer in time"):
            source.fetch(["alice"], MICROS)
        now[0] += RETRY_S
        assert source.fetch(["alice"], MICROS).num_rows == 1
        own.stop()
        with pytest.raises(ModelNotReadyError, match="cannot be reached"):
            source.fetch(["alice"], MICROS)
        own.start()
        now[0] += RETRY_S
        assert source.fetch(["alice"], MICROS).num_rows == 0  # nobody filled it again
        source.close()
    finally:
        own.stop()


def test_a_user_with_the_rights_of_the_documentation_can_read_and_no_more_is_needed(raw: Raw) -> None:
    raw.add("alice", MICROS - HOUR)
    commands = ["+zrangebyscore", "+zrevrangebyscore", "+zrevrange", "+scan", "+@connection"]
    keys = "".join(f"\\{each}" if each in "*[]" else each for each in raw.prefix)
    raw.client.execute_command("ACL", "SETUSER", "fp-reader", "on", ">reader", *commands, f"~{keys}*")
    try:
        address = RedisAddress(url=f"redis://fp-reader@{raw.address}", password="reader", timeout_s=5.0)  # noqa: S106
        window = Window(60, needs_older=True)
        source = RedisSource(RedisConnection(address), SOURCE, "account", prefix=raw.prefix, window=window)
        assert source.fetch(["alice"], MICROS).num_rows == 1
        assert source.check()[1] != ""
        source.close()
        other = RedisSource(RedisConnection(address), SOURCE, "account", prefix="other:", window=None)
        with pytest.raises(StoreError, match=r"refuses the login or a command"):
            other.fetch(["alice"], MICROS)
        other.close()
    finally:
        raw.client.execute_command("ACL", "DELUSER", "fp-reader")


def test_one_that_is_reading_its_data_is_not_ready() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=say_loading, args=(listener,), daemon=True).start()
        connection = RedisConnection(RedisAddress(url=f"redis://127.0.0.1:{listener.getsockname()[1]}"))
        source = RedisSource(connection, SOURCE, "account", prefix="tx:", window=None)
        with pytest.raises(ModelNotReadyError, match="is reading its own data, after a restart"):
            source.fetch(["alice"], MICROS)
        source.close()


def say_loading(listener: socket.socket) -> None:
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        with connection:
            while data := connection.recv(65536):
                words = data.count(b"$") and data.count(b"*")
                connection.sendall(b"-LOADING Redis is loading the dataset in memory\r\n" * max(1, words))


def test_tls_a_user_and_a_password_of_the_settings_open_it(tmp_path: Path, redis_address: str) -> None:
    certificate, key = certificate_for_loopback(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    own = OwnRedis(tmp_path / "state")
    given = {"tls-port": port, "tls-cert-file": certificate, "tls-key-file": key, "requirepass": PASSWORD}
    words = [word for name, value in given.items() for word in ("--set", f"{name}={value}")]
    own.start("--set", "tls-auth-clients=no", *words)
    (tmp_path / "password").write_text(f"{PASSWORD}\n")
    right = {"source": f"rediss://127.0.0.1:{port}/1", "password_file": "password", "tls_ca": "redis.pem"}
    registered = RegisteredView(VIEW, 1, DEFINITION, SCRIPT, AS_OF)
    engine = MemoryEngine()
    with redis.from_url(right["source"], password=PASSWORD, ssl_ca_certs=str(certificate)) as client:
        client.zadd("raw_transactions:alice", {'{"id":"e1"}': MICROS - HOUR})

    def fetched(**changes: str | None) -> int:
        fields = {name: value for name, value in (right | changes).items() if value is not None}
        settings = RealtimeViewSettings.model_validate(fields)
        source = open_source_of(registered, settings, LocalWarehouse(tmp_path / "w"), tmp_path, engine)
        try:
            return int(source.fetch(["alice"], MICROS).num_rows)
        finally:
            source.close()

    try:
        assert fetched() == 1
        assert fetched(prefix="other:") == 0
        with pytest.raises(ModelNotReadyError, match=r"check the user in \[realtime.transactions\]"):
            fetched(password_file=None)
        with pytest.raises(ModelNotReadyError, match="cannot be reached"):
            fetched(tls_ca=None)
        with pytest.raises(ConfigError, match=r"realtime.transactions.password_file"):
            fetched(password_file="nowhere")  # noqa: S106
    finally:
        own.stop()
        engine.close()
