"""What the SQL pin store says about a database that it cannot use."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from fedpredict.errors import ConfigError, StateError
from fedpredict.model.kinds import Kind, own_link
from fedpredict.model.manifest import Manifest
from fedpredict.state.sql import open_pin_store


@pytest.mark.parametrize("url", ["nonsense", "nosuch://x/y", "postgresql+nodriver://x/y"])
def test_a_url_that_names_no_database_is_a_configuration_error(url: str) -> None:
    with pytest.raises(ConfigError, match="state"):
        open_pin_store(url)


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(StateError, match=r"nowhere/state\.db"):
        open_pin_store("sqlite:///nowhere/state.db", tmp_path)


def test_a_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    (tmp_path / "state.db").write_bytes(b"not a database, but long enough to look at" * 100)
    with pytest.raises(StateError, match=r"state\.db cannot be used: file is not a database"):
        open_pin_store("sqlite:///state.db", tmp_path)


def test_a_database_of_another_version_is_refused(tmp_path: Path) -> None:
    open_pin_store("sqlite:///state.db", tmp_path).close()
    with closing(sqlite3.connect(tmp_path / "state.db")) as connection, connection:
        connection.execute("UPDATE fedpredict_schema SET version = 7")
    with pytest.raises(StateError, match="schema version 7; this program needs 1"):
        open_pin_store("sqlite:///state.db", tmp_path)


MANIFEST = Manifest(
    model_id="credit", training_run="run-1", kind=Kind.LINEAR, link=own_link(Kind.LINEAR), classes=(), n_scores=1,
    fit_intercept=False, intercept_party=None, digests=(("lab", "0" * 64),),
)  # fmt: skip


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE fedpredict_offers SET manifest = '{}'",
        "UPDATE fedpredict_offers SET offered_at = 'yesterday'",
        "UPDATE fedpredict_pins SET manifest = '{}'",
        "UPDATE fedpredict_pins SET manifest = replace(manifest, 'run-1', 'run-2')",
        "UPDATE fedpredict_pins SET pinned_at = 'yesterday'",
    ],
)
def test_damaged_rows_are_an_error_of_the_state(tmp_path: Path, damage: str) -> None:
    store = open_pin_store("sqlite:///state.db", tmp_path)
    store.offer("credit", MANIFEST)
    store.pin(MANIFEST, by="ada", replaces=None)
    with closing(sqlite3.connect(tmp_path / "state.db")) as connection, connection:
        connection.execute(damage)

    def read() -> None:
        store.pins()
        store.offers()

    with pytest.raises(StateError, match=r"state\.db holds damaged rows"):
        read()
    store.close()


def test_a_file_that_is_moved_away_is_missed_and_used_again_when_it_is_back(tmp_path: Path) -> None:
    store = open_pin_store("sqlite:///state.db", tmp_path)
    store.pin(MANIFEST, by="ada", replaces=None)
    (tmp_path / "state.db").rename(tmp_path / "elsewhere.db")
    with pytest.raises(StateError, match="no such table"):
        store.pins()
    (tmp_path / "elsewhere.db").rename(tmp_path / "state.db")
    assert store.pins()["credit"][0].manifest == MANIFEST
    store.close()


@pytest.mark.parametrize("url", ["sqlite://user:secret@/state.db", "nosuch://user:secret@host/db", "x//user:secret@"])
def test_a_password_stays_out_of_messages(url: str) -> None:
    with pytest.raises(ConfigError) as raised:
        open_pin_store(url)
    assert "secret" not in str(raised.value)


def test_an_absolute_path_ignores_the_base(tmp_path: Path) -> None:
    open_pin_store(f"sqlite:///{tmp_path}/here.db", Path("/elsewhere")).close()
    assert (tmp_path / "here.db").exists()
