"""What every event store keeps: one suite, one line per database."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from fedpredict.errors import ConfigError, StateError
from fedpredict.state import events as sql_events
from fedpredict.state.event_base import EventStore, FeedCount, StoredEvent
from fedpredict.state.events import BATCH, open_event_store
from tests.conftest import POSTGRES_PASSWORD

DATABASES = [
    pytest.param("sqlite", id="sqlite"),
    pytest.param("postgres", id="postgres", marks=pytest.mark.postgres),
]
Reopen = Callable[[], EventStore]


@dataclass(frozen=True)
class Database:
    """Where an empty store can be made."""

    url: str
    base: Path
    password: str | None


@pytest.fixture(params=DATABASES)
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Database:
    if request.param == "sqlite":
        return Database("sqlite:///events.db", tmp_path, None)
    return Database(request.getfixturevalue("postgres_database")(), tmp_path, POSTGRES_PASSWORD)


@pytest.fixture
def reopen(database: Database) -> Iterator[Reopen]:
    opened: list[EventStore] = []

    def another() -> EventStore:
        opened.append(open_event_store(database.url, database.base, database.password))
        return opened[-1]

    yield another
    for store in opened:
        store.close()


@pytest.fixture
def store(reopen: Reopen) -> EventStore:
    return reopen()


def event(sample_id: str, event_id: str, at: int = 1, content: str = "{}") -> StoredEvent:
    return StoredEvent(sample_id, event_id, at, content)


def contents(store: EventStore, feed: str, sample_ids: Sequence[str], before: int) -> list[str]:
    """Return the columns of events, of which these tests' own have no comma."""
    return [each for joined in store.contents(feed, sample_ids, before) for each in joined.split(",")]


def test_events_are_found_by_feed_id_and_time_and_by_another_opener(store: EventStore, reopen: Reopen) -> None:
    assert store.add("a", [event("u1", "1", 5, "one"), event("u1", "2", 9, "two"), event("u2", "3", 5, "three")]) == 3
    assert store.add("b", [event("u1", "1", 5, "other")]) == 1
    other = reopen()
    assert sorted(contents(other, "a", ["u1"], 10)) == ["one", "two"]
    assert contents(other, "a", ["u1"], 9) == ["one"]
    assert sorted(contents(other, "a", ["u1", "u2", "u3"], 10)) == ["one", "three", "two"]
    assert contents(other, "b", ["u1"], 10) == ["other"]
    assert contents(other, "c", ["u1"], 10) == []


def test_an_event_is_stored_once_whatever_comes_later_under_its_id(store: EventStore) -> None:
    assert store.add("a", [event("u1", "1", 5, "first"), event("u1", "1", 5, "again")]) == 1
    assert store.add("a", [event("u2", "1", 7, "another's"), event("u2", "2", 7, "new")]) == 1
    assert contents(store, "a", ["u1"], 10) == ["first"]
    assert contents(store, "a", ["u2"], 10) == ["new"]


def test_more_events_than_one_statement_has_are_counted_right(store: EventStore) -> None:
    events = [event(f"u{number % 7}", str(number)) for number in range(BATCH + 11)]
    assert store.add("a", events[:3]) == 3
    assert store.add("a", iter(events)) == BATCH + 8
    assert store.counts() == [FeedCount("a", BATCH + 11, 7, 1, 1)]


def test_ids_are_compared_byte_by_byte(store: EventStore) -> None:
    odd = ["é", "É", "e\u0301", " u", "u ", "U", "u", "o'x\"\\%_"]
    store.add("a", [event(each, each, 1, str(place)) for place, each in enumerate(odd)])
    assert [contents(store, "a", [each], 2) for each in odd] == [[str(place)] for place in range(len(odd))]


def test_what_is_old_or_one_persons_can_be_removed(store: EventStore) -> None:
    store.add("a", [event("u1", "1", 5), event("u1", "2", 9), event("u2", "3", 9)])
    store.add("b", [event("u2", "1", 20)])
    assert store.remove(before=9) == 1
    assert store.counts() == [FeedCount("a", 2, 2, 9, 9), FeedCount("b", 1, 1, 20, 20)]
    assert store.remove(sample_id="u2") == 2
    assert store.counts() == [FeedCount("a", 1, 1, 9, 9)]
    with pytest.raises(ValueError, match="say which"):
        store.remove()


def test_who_stores_events_comes_in_between_while_old_ones_are_removed(
    store: EventStore, reopen: Reopen, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.add("a", [event(f"u{at % 3}", str(at), at) for at in range(10)])
    store.add("b", [event("u1", str(at), at) for at in range(3)])
    other, names = reopen(), iter(range(100, 200))
    monkeypatch.setattr(sql_events, "BATCH", 3)
    monkeypatch.setattr(
        "fedpredict.state.events.time.sleep", lambda _s: other.add("a", [event("u1", str(next(names)), 50)])
    )

    assert store.remove(before=8, at_most=4) == 4
    oldest = next(each for each in store.counts() if each.feed == "a").oldest
    assert store.remove(before=8) == 4 + 3

    assert oldest == 4
    assert [(each.feed, each.oldest) for each in store.counts()] == [("a", 8)]
    assert len(contents(store, "a", ["u1"], 51)) == next(names) - 100


def test_a_failure_on_the_way_leaves_nothing(store: EventStore) -> None:
    def broken() -> Iterator[StoredEvent]:
        yield from (event("u1", str(number)) for number in range(BATCH + 1))
        raise ConnectionError

    with pytest.raises(ConnectionError):
        store.add("a", broken())
    assert store.counts() == []


def test_closing_twice_is_harmless(store: EventStore) -> None:
    store.close()
    store.close()


LOADER = """
import sys
from pathlib import Path
from fedpredict.state.event_base import StoredEvent
from fedpredict.state.events import open_event_store
url, base, password, name = sys.argv[1:]
print("ready", flush=True)
sys.stdin.readline()
store = open_event_store(url, Path(base), password or None)
new = 0
for start in range(0, 600, 100):
    mine = [StoredEvent("u", f"{name}{number}", 1, "{}") for number in range(start, start + 100)]
    new += store.add("a", mine + [StoredEvent("u", f"same{number}", 1, "{}") for number in range(start, start + 50)])
    assert store.counts("u")[0].events >= new
print(new)
store.close()
"""


def test_processes_that_load_at_the_same_time_store_each_event_once(database: Database) -> None:
    command = [sys.executable, "-c", LOADER, database.url, str(database.base), database.password or ""]
    loaders = [
        subprocess.Popen([*command, name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for name in "xyz"
    ]
    for each in loaders:
        assert each.stdout is not None
        assert each.stdout.readline() == "ready\n"
    for each in loaders:
        assert each.stdin is not None
        each.stdin.write("go\n")
        each.stdin.flush()
    new = [int(each.communicate(timeout=120)[0]) for each in loaders]
    store = open_event_store(database.url, database.base, database.password)
    assert sum(new) == store.counts("u")[0].events == 3 * 600 + 300
    store.close()


def test_a_reader_does_not_wait_for_a_loader(tmp_path: Path) -> None:
    store = open_event_store("sqlite:///events.db", tmp_path)
    store.add("a", [event("u1", "1")])
    with closing(sqlite3.connect(tmp_path / "events.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        other.execute("DELETE FROM fedpredict_events")
        assert contents(store, "a", ["u1"], 2) == ["{}"]
    store.close()


def test_who_opens_a_new_file_waits_for_another_that_is_about_to_write_it(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "events.db", isolation_level=None, check_same_thread=False)) as other:
        other.execute("BEGIN IMMEDIATE")
        released = threading.Timer(0.3, other.execute, ["COMMIT"])
        released.start()
        store = open_event_store("sqlite:///events.db", tmp_path)
        released.join()
    assert store.add("a", [event("u1", "1")]) == 1
    store.close()


def test_a_file_that_is_moved_away_is_missed_and_used_again_when_it_is_back(tmp_path: Path) -> None:
    store = open_event_store("sqlite:///events.db", tmp_path)
    store.add("a", [event("u1", "1")])
    with closing(sqlite3.connect(tmp_path / "events.db")) as other:
        other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    (tmp_path / "events.db").rename(tmp_path / "elsewhere.db")
    with pytest.raises(StateError, match="no such table"):
        contents(store, "a", ["u1"], 2)
    (tmp_path / "elsewhere.db").rename(tmp_path / "events.db")
    assert contents(store, "a", ["u1"], 2) == ["{}"]
    store.close()


def test_a_database_of_another_version_and_a_url_of_none_are_refused(tmp_path: Path) -> None:
    open_event_store("sqlite:///events.db", tmp_path).close()
    with closing(sqlite3.connect(tmp_path / "events.db")) as connection, connection:
        connection.execute("UPDATE fedpredict_schema SET version = 7 WHERE component = 'events'")
    with pytest.raises(StateError, match="schema version 7; this program needs 1"):
        open_event_store("sqlite:///events.db", tmp_path)
    with pytest.raises(ConfigError, match="events"):
        open_event_store("nonsense")
