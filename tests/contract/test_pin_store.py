"""What every pin store keeps: one suite, one line per implementation."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest

from fedpredict.errors import InputError, StateError
from fedpredict.model.kinds import Kind, own_link
from fedpredict.model.manifest import Manifest
from fedpredict.state.base import PinStore
from fedpredict.state.sql import open_pin_store
from tests.conftest import POSTGRES_PASSWORD

Reopen = Callable[[], PinStore]

STORES = [
    pytest.param("sqlite", id="sqlite"),
    pytest.param("postgres", id="postgres", marks=pytest.mark.postgres),
]


@dataclass(frozen=True)
class Database:
    """Where an empty store can be made."""

    url: str
    base: Path
    password: str | None

    def open(self) -> PinStore:
        return open_pin_store(self.url, self.base, self.password)


@pytest.fixture(params=STORES)
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Database:
    if request.param == "sqlite":
        return Database("sqlite:///state.db", tmp_path, None)
    return Database(request.getfixturevalue("postgres_database")(), tmp_path, POSTGRES_PASSWORD)


def manifest_of(digest: str, model_id: str = "credit") -> Manifest:
    return Manifest(
        model_id=model_id,
        training_run="run-1",
        kind=Kind.BINARY,
        link=own_link(Kind.BINARY),
        classes=("good", "bad"),
        n_scores=1,
        fit_intercept=True,
        intercept_party="bank",
        digests=(("bank", digest * 64), ("lab", "0" * 64)),
    )


OLD, NEW, NEWER = manifest_of("a"), manifest_of("b"), manifest_of("c")


@pytest.fixture
def reopen(database: Database) -> Iterator[Reopen]:
    opened: list[PinStore] = []

    def another() -> PinStore:
        opened.append(database.open())
        return opened[-1]

    yield another
    for store in opened:
        store.close()


@pytest.fixture
def store(reopen: Reopen) -> PinStore:
    return reopen()


def test_a_new_store_is_empty(store: PinStore) -> None:
    assert dict(store.pins()) == {}
    assert dict(store.offers()) == {}


def test_a_pin_is_seen_by_another_opener(store: PinStore, reopen: Reopen) -> None:
    before = datetime.now(UTC)
    made = store.pin(OLD, by="ada", replaces=None)
    (found,) = reopen().pins()["credit"]
    assert found == made
    assert found.manifest == OLD
    assert found.pinned_by == "ada"
    assert before <= found.pinned_at <= datetime.now(UTC)


def test_the_history_is_newest_first_and_keeps_a_manifest_pinned_twice(store: PinStore) -> None:
    store.pin(OLD, by="first use", replaces=None)
    store.pin(NEW, by="ada", replaces=OLD.manifest_sha256)
    store.pin(OLD, by="bob", replaces=NEW.manifest_sha256)
    history = store.pins()["credit"]
    assert [(pin.manifest, pin.pinned_by) for pin in history] == [(OLD, "bob"), (NEW, "ada"), (OLD, "first use")]


def test_models_have_histories_of_their_own(store: PinStore) -> None:
    other = manifest_of("d", "churn")
    store.pin(OLD, by="ada", replaces=None)
    store.pin(other, by="ada", replaces=None)
    assert {model_id: history[0].manifest for model_id, history in store.pins().items()} == {
        "credit": OLD,
        "churn": other,
    }


@pytest.mark.parametrize("replaces", [None, NEWER.manifest_sha256])
def test_a_pin_over_something_not_seen_is_refused_and_changes_nothing(store: PinStore, replaces: str | None) -> None:
    store.pin(OLD, by="ada", replaces=None)
    with pytest.raises(StateError, match=f"{OLD.manifest_sha256} \\(by ada\\) is pinned by now"):
        store.pin(NEW, by="bob", replaces=replaces)
    assert [pin.manifest for pin in store.pins()["credit"]] == [OLD]


def test_a_pin_over_a_pin_that_is_not_there_is_refused(store: PinStore) -> None:
    with pytest.raises(StateError, match="pinned by now"):
        store.pin(NEW, by="bob", replaces=OLD.manifest_sha256)
    assert dict(store.pins()) == {}


@pytest.mark.parametrize("by", ["", "x" * 201, "ada\nbob"])
def test_who_pins_has_a_printable_name(store: PinStore, by: str) -> None:
    with pytest.raises(InputError, match="1 to 200 printable"):
        store.pin(OLD, by=by, replaces=None)


def test_the_newest_offer_replaces_the_one_before(store: PinStore, reopen: Reopen) -> None:
    store.offer("credit", OLD)
    store.offer("credit", None, "bank and lab each hold an intercept")
    (offer,) = reopen().offers().values()
    assert (offer.model_id, offer.manifest, offer.problem) == ("credit", None, "bank and lab each hold an intercept")


def test_the_same_offer_again_keeps_the_time_of_the_first(store: PinStore) -> None:
    first = store.offer("credit", OLD)
    assert store.offer("credit", OLD) == first
    assert store.offer("credit", NEW).offered_at > first.offered_at
    assert store.offers()["credit"].manifest == NEW


@pytest.mark.parametrize(("manifest", "problem"), [(None, ""), (OLD, "broken")])
def test_an_offer_is_a_manifest_or_a_problem(store: PinStore, manifest: Manifest | None, problem: str) -> None:
    with pytest.raises(ValueError, match="a manifest, or a problem"):
        store.offer("credit", manifest, problem)


def test_an_offer_pins_nothing(store: PinStore) -> None:
    store.pin(OLD, by="ada", replaces=None)
    store.offer("credit", NEW)
    assert [pin.manifest for pin in store.pins()["credit"]] == [OLD]


def test_closing_twice_is_harmless(store: PinStore) -> None:
    store.close()
    store.close()


RACER = """
import sys
from pathlib import Path
from fedpredict.errors import StateError
from fedpredict.model.manifest import manifest_from_json
from fedpredict.state.sql import open_pin_store
url, base, password, name, text = sys.argv[1:]
print("ready", flush=True)
sys.stdin.readline()
store = open_pin_store(url, Path(base), password or None)
for number in range(8):
    store.offer(f"{name}-{number}", None, "seen by " + name)
    store.offer("same", None, f"seen by {name} {number}")
    store.pins()
try:
    store.pin(manifest_from_json(text), by=name, replaces=None)
    print("won")
except StateError:
    print("lost")
store.close()
"""


def test_of_processes_that_make_the_store_and_pin_first_at_the_same_time_one_wins(database: Database) -> None:
    from fedpredict.model.manifest import manifest_to_json

    command = [sys.executable, "-c", RACER, database.url, str(database.base), database.password or ""]
    racers = [
        subprocess.Popen(
            [*command, name, manifest_to_json(manifest)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for name, manifest in (("ada", OLD), ("bob", NEW), ("cid", NEWER))
    ]
    for racer in racers:
        assert racer.stdout is not None
        assert racer.stdout.readline() == "ready\n"
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("go\n")
        racer.stdin.flush()
    outcomes = {name: racer.communicate(timeout=60)[0].strip() for name, racer in zip("abc", racers, strict=True)}
    assert sorted(outcomes.values()) == ["lost", "lost", "won"]
    store = database.open()
    (pin,) = store.pins()["credit"]
    assert outcomes[pin.pinned_by[0]] == "won"
    assert len(store.offers()) == 25
    store.close()
