"""Real servers for the tests that are marked for one: where they are, and a database of one's own in them.

`FEDPREDICT_TEST_SPARK`, `_HIVE`, `_REDIS` and `_POSTGRES` hold "host:port" (`scripts/services up spark` prints it).
Without its address a server's tests are deselected, loudly; where `FEDPREDICT_TEST_REQUIRE` (a comma list) names it,
they fail. Tests that are marked `further` take minutes, and run where `FEDPREDICT_TEST_FURTHER` is set, as by
`scripts/test --further`.
"""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import hypothesis
import pytest

from fedpredict.warehouse.hive_settings import HiveSettings

# how long an example takes says what else the machine does, not whether it is right
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")

SERVERS = ("spark", "hive", "redis", "postgres")
FURTHER = "further"
DAY_S = 86_400.0
POSTGRES_PASSWORD = "fedpredict"  # noqa: S105
"""Of the user `fedpredict` of the server that `scripts/services` starts."""
DESELECTED = pytest.StashKey[dict[str, int]]()


def _address(server: str) -> str | None:
    return os.environ.get(f"FEDPREDICT_TEST_{server.upper()}")


def _server_address(server: str) -> str:
    address = _address(server)
    if not address:
        pytest.fail(f"FEDPREDICT_TEST_REQUIRE names {server}, but FEDPREDICT_TEST_{server.upper()} has no address")
    return address


def _is_required(server: str) -> bool:
    return server in os.environ.get("FEDPREDICT_TEST_REQUIRE", "").split(",")


def _absent(item: pytest.Item) -> str | None:
    """Return what a test needs and nobody promised: a server, or time."""
    for server in SERVERS:
        if item.get_closest_marker(server) and not _address(server) and not _is_required(server):
            return server
    if item.get_closest_marker(FURTHER) and not os.environ.get("FEDPREDICT_TEST_FURTHER"):
        return FURTHER
    return None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    absent = [(item, server) for item in items if (server := _absent(item))]
    counts = {server: sum(1 for _, needed in absent if needed == server) for server in (*SERVERS, FURTHER)}
    config.stash[DESELECTED] = {server: count for server, count in counts.items() if count}
    if hasattr(config, "workeroutput"):  # of several processes, the one that reports collects nothing itself
        config.workeroutput["absent"] = config.stash[DESELECTED]
    if absent:
        config.hook.pytest_deselected(items=[item for item, _ in absent])
        left_out = {item for item, _ in absent}
        items[:] = [item for item in items if item not in left_out]


def pytest_report_header() -> list[str]:
    return [
        f"{server}: {_address(server) or ('REQUIRED, BUT NO ADDRESS' if _is_required(server) else 'not tested')}"
        for server in SERVERS
    ]


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    node.config.stash[DESELECTED] = getattr(node, "workeroutput", {}).get("absent", {})


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for server, count in config.stash.get(DESELECTED, {}).items():
        how = (
            "time: `scripts/test --further` runs them, or set FEDPREDICT_TEST_FURTHER"
            if server == FURTHER
            else f"{server}: start it with `scripts/services up {server}` and set FEDPREDICT_TEST_{server.upper()} to "
            "the address it prints"
        )
        terminalreporter.write_line(f"NOT RUN: {count} tests that need {how}", yellow=True, bold=True)


@pytest.fixture(scope="session")
def server_database() -> Iterator[Callable[[str], HiveSettings]]:
    """Give a function that makes a new database on a server ("spark", "hive"); all are dropped at the end."""
    from fedpredict.warehouse.hive import HiveWarehouse
    from fedpredict.warehouse.hive_connection import Engine, HiveSession, RefusedByServerError

    made: list[HiveSettings] = []

    def make(server: str) -> HiveSettings:
        host, _, port = _server_address(server).rpartition(":")
        settings = HiveSettings(host=host, port=int(port), database=f"test_{uuid.uuid4().hex}")
        HiveWarehouse(settings).create_database()
        made.append(settings)
        return settings

    yield make
    for settings in made:
        session = HiveSession(settings, "default")
        try:
            session.execute(f"DROP DATABASE `{settings.database}` CASCADE")
        except RefusedByServerError:
            # deploy/hive's server lacks a library for CASCADE; what it holds is gone when it stops
            if session.engine is not Engine.HIVE:
                raise
        finally:
            session.close()


@pytest.fixture
def one_day(request: pytest.FixtureRequest) -> None:
    """For what daemons count by the day of the real clock: a test that began shortly before midnight waits for it."""
    marker = request.node.get_closest_marker("timeout")
    takes_s = 30.0 if marker is None else float(marker.args[0]) / 2.0
    left_s = DAY_S - time.time() % DAY_S
    if left_s < takes_s:
        time.sleep(left_s + 1.0)


@pytest.fixture(scope="session")
def redis_address() -> str:
    """host:port of a Redis that tests share: each takes a prefix of its own."""
    return _server_address("redis")


@pytest.fixture(scope="session")
def postgres_database() -> Iterator[Callable[[], str]]:
    """Give a function that empties a database of these tests' own and returns its URL without password."""
    import sqlalchemy as sa

    engines: dict[str, sa.Engine] = {}
    name = f"test_{uuid.uuid4().hex}"

    def execute(database: str, *statements: str) -> None:
        if database not in engines:
            url = f"postgresql+psycopg://fedpredict:{POSTGRES_PASSWORD}@{_server_address('postgres')}/{database}"
            engines[database] = sa.create_engine(url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
        with engines[database].connect() as connection:
            for statement in statements:
                connection.execute(sa.text(statement))

    def empty() -> str:
        if not engines:
            execute("postgres", f'CREATE DATABASE "{name}"')
        # a database for each test would take half a second to drop
        execute(name, "DROP SCHEMA public CASCADE", "CREATE SCHEMA public")
        return f"postgresql+psycopg://fedpredict@{_server_address('postgres')}/{name}"

    yield empty
    if engines:
        execute("postgres", f'DROP DATABASE "{name}" WITH (FORCE)')
