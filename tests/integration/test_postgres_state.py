"""PostgreSQL where the pin store's contract ends: passwords, other processes' locks, and a database that is away."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from fedpredict.cli import wiring
from fedpredict.errors import StateError
from fedpredict.state import engine
from fedpredict.state.sql import open_pin_store
from tests.conftest import POSTGRES_PASSWORD
from tests.unit.state.test_sql import MANIFEST

pytestmark = pytest.mark.postgres

INITIATOR = """
party = "hospital"
insecure = true
state = "{url}"
state_password_file = "password"
"""


@pytest.fixture
def url(postgres_database: Callable[[], str]) -> str:
    return postgres_database()


def connected(url: str) -> psycopg.Connection:
    """A connection of another program."""
    return psycopg.connect(url.replace("+psycopg", ""), password=POSTGRES_PASSWORD)


def test_an_initiators_file_names_the_database_and_the_file_with_its_password(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "initiator.toml").write_text(INITIATOR.format(url=url))
    (tmp_path / "password").write_text(f"{POSTGRES_PASSWORD}\n")
    loaded = wiring.load_initiator(tmp_path / "initiator.toml")
    store = wiring.open_pins(loaded)
    store.pin(MANIFEST, by="ada", replaces=None)
    store.close()

    (tmp_path / "password").write_text("wrong\n")
    with pytest.raises(StateError, match="password authentication failed") as raised:
        wiring.open_pins(loaded)
    assert "wrong" not in str(raised.value)

    monkeypatch.setenv(wiring.STATE_PASSWORD, POSTGRES_PASSWORD)
    store = wiring.open_pins(loaded)
    assert store.pins()["credit"][0].manifest == MANIFEST
    store.close()


def test_a_connection_that_the_server_closed_is_replaced(url: str) -> None:
    store = open_pin_store(url, password=POSTGRES_PASSWORD)
    store.pin(MANIFEST, by="ada", replaces=None)
    with connected(url) as other:
        ended = other.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'fedpredict' "
            "AND datname = current_database()"
        ).fetchall()
    assert ended == [(True,)]
    assert store.pins()["credit"][0].manifest == MANIFEST
    store.close()


def test_a_transaction_that_another_process_never_ends_is_an_error_after_a_while(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "BUSY_TIMEOUT_MS", 50)
    store = open_pin_store(url, password=POSTGRES_PASSWORD)
    with connected(url) as other:
        other.execute("SELECT pg_advisory_xact_lock(%s)", [engine._lock_of("pins")])
        with pytest.raises(StateError, match="lock timeout"):
            store.pins()
    assert dict(store.pins()) == {}
    store.close()


def test_a_database_that_is_not_there_is_named(url: str) -> None:
    with pytest.raises(StateError, match=r'/nowhere cannot be used: .*database "nowhere" does not exist') as raised:
        open_pin_store(f"{url.rpartition('/')[0]}/nowhere", password=POSTGRES_PASSWORD)
    assert "\n" not in str(raised.value)


def test_a_server_that_is_away_is_named_without_the_password() -> None:
    with pytest.raises(StateError, match=r"127\.0\.0\.1:1/state cannot be used: .*[Cc]onnection refused") as raised:
        open_pin_store("postgresql+psycopg://ada@127.0.0.1:1/state", password="secret")  # noqa: S106
    assert "secret" not in str(raised.value)
