"""The online store in Redis where the contract ends: several processes; and Redis full, empty, torn or away."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path
from uuid import uuid4

import numpy as np
import pyarrow as pa
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from fedpredict.errors import ConfigError, FedPredictError, ModelNotReadyError, StoreError
from fedpredict.features.open import open_store
from fedpredict.features.redis_connection import RedisAddress, RedisConnection, Word
from fedpredict.features.redis_layout import MARK, commands_of, n_buckets_of
from fedpredict.features.redis_store import RETRY_S, UNFINISHED_S, RedisStore
from fedpredict.features.settings import StoreSettings
from fedpredict.initiator.fanout import Dialler
from fedpredict.model.kinds import Kind
from fedpredict.model.linear import LinearPart
from fedpredict.model.partial import PartialModel
from fedpredict.model.sample_ids import SampleIds
from fedpredict.model.scorer import PartyScorer, ScoreQuery
from fedpredict.model.share import Mode
from fedpredict.participant.server import ParticipantServer
from fedpredict.participant.settings import ParticipantSettings
from fedpredict.public_status import Code, public_status
from fedpredict.scoring.loader import ModelLoader
from fedpredict.scoring.local_party import LocalParty
from fedpredict.tables.models import publish_model
from fedpredict.tables.views import publish_snapshot
from fedpredict.warehouse.local import LocalWarehouse
from tests.integration.federation import eventually
from tests.unit.features.support import FIRST, SECOND, THIRD, numbered, snapshot_named

pytestmark = pytest.mark.redis

SERVICES = [sys.executable, str(Path(__file__).resolve().parents[2] / "scripts/services")]
PASSWORD = "right pass%word"  # noqa: S105


class OwnRedis:
    """A Redis of the test's own, to be stopped and misconfigured."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.port = "0"

    def start(self, *words: str) -> None:
        """Start it, at the same port as before."""
        command = [*SERVICES, "up", "redis", "--port", self.port, "--state", str(self._folder), *words]
        self.port = (
            subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip().rpartition(":")[2]
        )

    def stop(self) -> None:
        """Stop it; what it held is gone."""
        command = [*SERVICES, "down", "redis", "--state", str(self._folder)]
        subprocess.run(command, check=True, capture_output=True)

    @property
    def pid(self) -> int:
        """Of the server."""
        return int(json.loads((self._folder / "redis/state.json").read_text())["pid"])

    def store(self, clock: Callable[[], float] = time.monotonic) -> RedisStore:
        """Open a store there."""
        connection = RedisConnection(RedisAddress(url=f"redis://127.0.0.1:{self.port}", timeout_s=5.0))
        return RedisStore(connection, "test:{own}", clock=clock)

    def send(self, *words: Word) -> object:
        """Return the answer to a command."""
        connection = RedisConnection(RedisAddress(url=f"redis://127.0.0.1:{self.port}"))
        (answer,) = connection.send([words])
        connection.close()
        return answer


@pytest.fixture(scope="module")
def redis_of_module(tmp_path_factory: pytest.TempPathFactory, redis_address: str) -> Iterator[OwnRedis]:
    own = OwnRedis(tmp_path_factory.mktemp("redis"))
    own.start()
    yield own
    own.stop()


@pytest.fixture
def own(redis_of_module: OwnRedis) -> OwnRedis:
    """An empty one without a limit."""
    for words in (
        ("FLUSHALL",),
        ("CONFIG", "SET", "maxmemory", "0"),
        ("CONFIG", "SET", "maxmemory-policy", "noeviction"),
    ):
        redis_of_module.send(*words)
    return redis_of_module


@pytest.fixture
def two(redis_address: str) -> Iterator[tuple[RedisStore, RedisStore]]:
    """Stores of two processes of one party, at the Redis that tests share."""
    prefix = f"test:{{{uuid4().hex}}}"
    stores = [RedisStore(RedisConnection(RedisAddress(url=f"redis://{redis_address}")), prefix) for _ in range(2)]
    yield stores[0], stores[1]
    for view, version in stores[0].held:
        stores[0].drop(view, version)
    for store in stores:
        store.close()


def never_read() -> pa.Table:
    raise AssertionError("the warehouse was read")


def age_of(store: RedisStore, *ids: bytes) -> list[float]:
    return [float(age) for age in store.lookup("people", 1, ["age"], ids).values[:, 0]]


def test_another_process_serves_what_is_there_and_notices_what_is_new(two: tuple[RedisStore, RedisStore]) -> None:
    one, other = two
    one.publish(snapshot_named(FIRST), numbered(age=1.0))
    other.serve(snapshot_named(FIRST), never_read)
    assert age_of(other, b"u7") == [1.0]
    assert other.held == {("people", 1)}

    one.publish(snapshot_named(SECOND), numbered(age=2.0))

    assert age_of(other, b"u7") == [2.0]
    assert other.snapshot_of("people", 1) == snapshot_named(SECOND)
    one.drop("people", 1)
    with pytest.raises(ModelNotReadyError, match="no snapshot of view people"):
        age_of(other, b"u7")


def test_an_older_refresh_that_ends_later_never_wins(two: tuple[RedisStore, RedisStore]) -> None:
    one, other = two
    one.publish(snapshot_named(SECOND), numbered(age=2.0))

    other.publish(snapshot_named(FIRST), numbered(age=1.0))
    assert age_of(one, b"u1") == age_of(other, b"u1") == [2.0]

    def read() -> pa.Table:
        one.publish(snapshot_named(THIRD), numbered(age=3.0))
        return numbered(age=2.5)

    one.drop("people", 1)
    other.serve(snapshot_named(SECOND), read)
    assert age_of(other, b"u1") == [3.0]
    other.serve(snapshot_named(FIRST), never_read)
    assert other.snapshot_of("people", 1) == snapshot_named(THIRD)


def test_of_those_who_serve_at_the_same_time_one_reads(two: tuple[RedisStore, RedisStore]) -> None:
    reading, go = threading.Event(), threading.Event()

    def read() -> pa.Table:
        reading.set()
        assert go.wait(30)
        return numbered(age=1.0)

    first = threading.Thread(target=two[0].serve, args=(snapshot_named(), read))
    first.start()
    assert reading.wait(30)
    second = threading.Thread(target=two[1].serve, args=(snapshot_named(), never_read))
    second.start()
    go.set()
    for each in (first, second):
        each.join(30)
    assert [age_of(store, b"u1") for store in two] == [[1.0], [1.0]]


def test_a_snapshot_over_many_buckets_is_found_whole_and_leaves_nothing_when_replaced(own: OwnRedis) -> None:
    store, n_rows = own.store(), 40_000
    assert n_buckets_of(n_rows) == 3
    for name, age in ((FIRST, 1.0), (SECOND, 2.0)):
        store.publish(snapshot_named(name, n_rows=n_rows), numbered(n_rows, age=age))
        ids = SampleIds.of([b"u%d" % number for number in range(n_rows + 1)])
        found = store.lookup("people", 1, ["income", "age"], ids)
        np.testing.assert_array_equal(found.values[:-1, 0], np.arange(n_rows))
        assert set(found.values[:-1, 1].tolist()) == {age}
        assert found.found.tolist() == [True] * n_rows + [False]
        assert own.send("DBSIZE") == 3 + 3  # pointer, views, meta
    store.drop("people", 1)
    assert own.send("DBSIZE") == 0
    store.close()


def test_what_a_killed_writer_leaves_expires_and_what_is_served_does_not(own: OwnRedis) -> None:
    from fedpredict.features.build import prepare
    from fedpredict.features.redis_layout import Keys

    store, keys = own.store(), Keys.of("test:{own}", "people", 1)
    for commands, _ in commands_of(prepare(snapshot_named(), numbered()), keys, "left", UNFINISHED_S):
        for command in commands:
            own.send(*command)
    lives = own.send("TTL", keys.part("left", 0))
    assert isinstance(lives, int)
    assert 0 < lives <= UNFINISHED_S

    store.publish(snapshot_named(), numbered())
    names = own.send("KEYS", "*")
    assert isinstance(names, list)
    assert len(names) == 5
    assert [own.send("TTL", name) for name in names if b":left:" not in name] == [-1] * 4
    store.close()


def test_a_redis_that_lost_a_bucket_answers_nothing_for_its_ids_until_it_is_published_again(own: OwnRedis) -> None:
    store, snapshot = own.store(clock=iter(range(0, 10_000, 10)).__next__), snapshot_named(n_rows=40_000)
    store.publish(snapshot, numbered(40_000, age=1.0))
    served = store._served["people", 1]
    groups = served.groups([b"u%d" % number for number in range(100)])
    own.send("UNLINK", f"test:{{own}}:people:1:{served.token}:0")

    for bucket, places in groups.items():
        ids = [b"u%d" % place for place in places]
        if bucket == 0:
            with pytest.raises(ModelNotReadyError, match="has lost a part of snapshot"):
                age_of(store, *ids)
        else:
            assert age_of(store, *ids) == [1.0] * len(ids)
    store.serve(snapshot, lambda: numbered(40_000, age=1.0))
    assert age_of(store, *(b"u%d" % number for number in range(100))) == [1.0] * 100

    own.send("UNLINK", "test:{own}:people:1")  # all rows are there, and nothing says that they are served
    with pytest.raises(ModelNotReadyError, match="no snapshot"):
        age_of(store, b"u1")
    store.close()


def test_a_redis_that_hangs_costs_a_look_up_its_timeout_and_the_next_ones_nothing(own: OwnRedis) -> None:
    connection = RedisConnection(RedisAddress(url=f"redis://127.0.0.1:{own.port}", timeout_s=0.2))
    now = [0.0]
    store = RedisStore(connection, "test:{own}", clock=lambda: now[0])
    store.publish(snapshot_named(), numbered(age=1.0))
    os.kill(own.pid, signal.SIGSTOP)
    try:
        with pytest.raises(ModelNotReadyError, match="does not answer in time"):
            age_of(store, b"u1")
        with pytest.raises(StoreError, match="does not answer in time"):
            store.serve(snapshot_named(), never_read)
    finally:
        os.kill(own.pid, signal.SIGCONT)
    with pytest.raises(ModelNotReadyError, match="does not answer in time"):
        age_of(store, b"u1")
    now[0] += RETRY_S
    assert age_of(store, b"u1") == [1.0]
    store.close()


def test_a_full_redis_keeps_what_it_served_and_nothing_of_what_did_not_fit(own: OwnRedis) -> None:
    store = own.store()
    store.publish(snapshot_named(FIRST), numbered(1_000, age=1.0))
    used = own.send("INFO", "memory")
    assert isinstance(used, dict)
    own.send("CONFIG", "SET", "maxmemory", int(used["used_memory"]) + 1_000_000)

    with pytest.raises(StoreError, match="is full"):
        store.publish(snapshot_named(SECOND), numbered(200_000, age=2.0))

    assert age_of(store, b"u999") == [1.0]
    assert store.snapshot_of("people", 1) == snapshot_named(FIRST)
    assert own.send("DBSIZE") == 4
    store.close()


def test_a_redis_that_may_evict_is_refused_with_the_setting(own: OwnRedis) -> None:
    own.send("CONFIG", "SET", "maxmemory", 100_000_000)
    own.send("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    store = own.store()
    with pytest.raises(StoreError, match=r"maxmemory-policy allkeys-lru.*noeviction"):
        store.serve(snapshot_named(), never_read)
    store.close()


def test_look_ups_at_a_redis_that_is_away_fail_at_once_and_recover_by_themselves(
    tmp_path: Path, redis_address: str
) -> None:
    own = OwnRedis(tmp_path)
    own.start()
    now = [0.0]
    store = own.store(clock=lambda: now[0])
    store.publish(snapshot_named(), numbered(age=1.0))
    own.stop()
    with pytest.raises(ModelNotReadyError, match="cannot be reached"):
        age_of(store, b"u1")
    with pytest.raises(StoreError, match="cannot be reached"):
        store.publish(snapshot_named(), numbered(age=1.0))
    assert store.held == {("people", 1)}
    own.start()  # empty
    try:
        with pytest.raises(ModelNotReadyError, match="cannot be reached"):
            age_of(store, b"u1")
        now[0] += RETRY_S
        with pytest.raises(ModelNotReadyError, match="no snapshot"):
            age_of(store, b"u1")
        store.serve(snapshot_named(), lambda: numbered(age=1.0))
        assert age_of(store, b"u1") == [1.0]
    finally:
        store.close()
        own.stop()


class World:
    """A warehouse with a linear model: twice the income and once the age."""

    def __init__(self, folder: Path) -> None:
        self.warehouse = LocalWarehouse(folder)
        part = LinearPart(("income", "age"), np.array([[2.0], [1.0]]), None, np.zeros(1))
        partial = PartialModel("credit", "run", "lab", Kind.LINEAR, (), True, part)
        version, _ = publish_model(self.warehouse, partial, snapshot_named().view, "0" * 64)
        self.query = ScoreQuery(
            request_id="r",
            model_id="credit",
            manifest_sha256="cd" * 32,
            params_sha256=version.params_sha256,
            mode=Mode.NEARLINE,
            sample_ids=SampleIds.of([b"u3", b"nobody"]),
        )

    def load(self, name: str, age: float) -> None:
        """Publish a snapshot of 100 people."""
        publish_snapshot(self.warehouse, snapshot_named().view, name, numbered(age=age))


async def share_of(party: PartyScorer, query: ScoreQuery) -> list[float]:
    reply = await party.score(query, deadline_s=5.0)
    return [float(score) for score in reply.share.values[:, 0]]


async def test_a_party_is_not_ready_while_redis_is_empty_and_its_loader_publishes_again(
    own: OwnRedis, tmp_path: Path
) -> None:
    world, store = World(tmp_path), own.store()
    world.load(FIRST, 5.0)
    loader = ModelLoader(world.warehouse, "lab", store)
    party = LocalParty("lab", lambda: loader.state, store)
    loader.refresh()
    np.testing.assert_array_equal(await share_of(party, world.query), [11.0, np.nan])
    own.send("FLUSHALL")
    with pytest.raises(ModelNotReadyError):
        await share_of(party, world.query)
    loader.refresh()
    np.testing.assert_array_equal(await share_of(party, world.query), [11.0, np.nan])
    assert loader.state.problems == {}
    world.load(SECOND, 6.0)
    loader.refresh()
    np.testing.assert_array_equal(await share_of(party, world.query), [12.0, np.nan])
    store.close()


async def test_a_participant_serves_on_when_redis_goes_and_comes_back_empty(tmp_path: Path, redis_address: str) -> None:
    own, world = OwnRedis(tmp_path / "redis"), World(tmp_path / "warehouse")
    world.load(FIRST, 5.0)
    own.start()
    content = {
        "party": "lab",
        "insecure": True,
        "listen": "127.0.0.1:0",
        "poll_s": 0.05,
        "warehouse": {"path": "unused"},
        "callers": {"hospital": {"models": ["*"]}},
        "store": {"kind": "redis", "url": f"redis://127.0.0.1:{own.port}", "timeout_s": 5.0},
    }
    settings = ParticipantSettings.model_validate(content)
    store = open_store(settings.store, tmp_path, "lab")
    try:
        async with (
            ParticipantServer(settings, world.warehouse, None, store=store) as server,
            Dialler("hospital", None).dial("lab", server.address) as remote,
        ):
            await server.wait_read()
            np.testing.assert_array_equal(await share_of(remote, world.query), [11.0, np.nan])

            await asyncio.to_thread(own.stop)
            for _ in range(3):
                with pytest.raises(FedPredictError) as raised:
                    await share_of(remote, world.query)
                assert public_status(raised.value).code is Code.UNAVAILABLE
            assert (await remote.describe("credit", deadline_s=5.0)).n_scores == 1

            await asyncio.to_thread(own.start)

            async def answers() -> bool:
                try:
                    return await share_of(remote, world.query) == pytest.approx([11.0, np.nan], nan_ok=True)
                except FedPredictError:
                    return False

            await eventually(answers)
    finally:
        own.stop()


def certificate_for_loopback(folder: Path) -> tuple[Path, Path]:
    key = ec.generate_private_key(ec.SECP256R1())
    name, now = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "redis")]), datetime.now(UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(now - timedelta(hours=1)).not_valid_after(now + timedelta(days=1))
    names = x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))])
    signed = builder.add_extension(names, critical=False).sign(key, hashes.SHA256())
    (folder / "redis.pem").write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    plain = serialization.NoEncryption()
    (folder / "redis.key").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
    )
    return folder / "redis.pem", folder / "redis.key"


def test_tls_and_a_password_from_a_file_open_it_and_nothing_less_does(tmp_path: Path, redis_address: str) -> None:
    import socket

    certificate, key = certificate_for_loopback(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        tls_port = listener.getsockname()[1]
    settings = {"tls-port": tls_port, "tls-cert-file": certificate, "tls-key-file": key, "requirepass": PASSWORD}
    own = OwnRedis(tmp_path / "state")
    own.start(
        "--set",
        "tls-auth-clients=no",
        *(word for name, value in settings.items() for word in ("--set", f"{name}={value}")),
    )
    (tmp_path / "password").write_text(f"{PASSWORD}\n")
    right = {
        "kind": "redis",
        "url": f"rediss://127.0.0.1:{tls_port}/1",
        "password_file": "password",
        "tls_ca": "redis.pem",
    }

    def opened(password: str | None = None, **changes: str | None) -> None:
        fields = {name: value for name, value in (right | changes).items() if value is not None}
        store = open_store(StoreSettings.model_validate(fields), tmp_path, "lab", password)
        assert isinstance(store, RedisStore)
        try:
            store.serve(snapshot_named(), numbered)
            assert store.lookup("people", 1, ["income"], [b"u7"]).values.tolist() == [[7.0]]
        finally:
            store.close()

    try:
        opened()
        with pytest.raises(StoreError, match="refuses the login"):
            opened("wrong")
        with pytest.raises(StoreError, match=r"cannot be reached.*[Cc]ertificate"):
            opened(tls_ca=None)
        with pytest.raises(StoreError, match="refuses the login"):
            opened(password_file=None)
        with pytest.raises(ConfigError, match="password_file"):
            opened(password_file="nowhere")  # noqa: S106
    finally:
        own.stop()


def test_the_mark_is_no_sample_id() -> None:
    from fedpredict.model.ids import valid_sample_ids

    assert not valid_sample_ids([MARK])[0]
