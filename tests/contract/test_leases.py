"""What leases keep wherever they are: of two owners one gets it, and what ended can be taken over."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import pytest
from typing_extensions import override

from fedpredict.errors import LeaseHeldError, LeaseLostError, NameRefusedError, StateError
from fedpredict.state.event_base import StoredEvent
from fedpredict.state.events import open_event_store
from fedpredict.state.lease_files import FolderLeases
from fedpredict.state.lease_sql import open_leases
from fedpredict.state.leases import Lease, Leases, NoLeases, hold
from tests.conftest import POSTGRES_PASSWORD

NAME = "refresh:transactions:3"
LONG, ENDED = 60.0, -1.0
"""Seconds; a lease that has ended when it is taken needs no clock to be waited for."""

KINDS = [
    pytest.param("folder", id="folder"),
    pytest.param("redis", id="redis", marks=pytest.mark.redis),
    pytest.param("sqlite", id="sqlite"),
    pytest.param("postgres", id="postgres", marks=pytest.mark.postgres),
]


@pytest.fixture(params=KINDS)
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[], Leases]]:
    """Opens the same leases, as each process does."""
    if request.param == "folder":
        yield lambda: FolderLeases(tmp_path / ".leases")
    elif request.param == "redis":
        from fedpredict.features.redis_connection import RedisAddress, RedisConnection
        from fedpredict.features.redis_leases import RedisLeases

        address, prefix = RedisAddress(url=f"redis://{request.getfixturevalue('redis_address')}"), f"test:{uuid4().hex}"
        yield lambda: RedisLeases(RedisConnection(address), prefix)
        RedisConnection(address).send([["DEL", f"{prefix}:lease:{NAME}"]])
    else:
        server = request.param == "postgres"
        url = request.getfixturevalue("postgres_database")() if server else "sqlite:///state.db"
        yield lambda: open_leases(url, tmp_path, POSTGRES_PASSWORD if server else None)


@pytest.fixture
def leases(opened: Callable[[], Leases]) -> Iterator[Leases]:
    made = opened()
    yield made
    made.close()


def test_the_second_is_told_who_has_it_since_when_and_until_when(leases: Leases, opened: Callable[[], Leases]) -> None:
    taken, other = leases.take(NAME, "one:1:a", LONG), opened()

    with pytest.raises(LeaseHeldError) as raised:
        other.take(NAME, "two:2:b", LONG)

    other.close()
    told = str(raised.value)
    assert (taken.until - taken.since).total_seconds() == pytest.approx(LONG)
    assert abs((taken.since - datetime.now(UTC)).total_seconds()) < LONG
    assert [part in told for part in (NAME, "one:1:a", f"{taken.since:%Y-%m-%dT%H:%M:%SZ}", "--wait")] == [True] * 4
    assert f"{taken.until:%Y-%m-%dT%H:%M:%SZ}" in told


def test_other_names_are_other_leases(leases: Leases) -> None:
    leases.take(NAME, "one:1:a", LONG)

    assert leases.take("score:credit:0a1b:2026-11-26", "two:2:b", LONG).owner == "two:2:b"
    leases.release(leases.renew(leases.take("x", "two:2:b", LONG), LONG))


def test_what_was_given_back_can_be_taken_and_is_a_first_turn(leases: Leases) -> None:
    leases.release(leases.take(NAME, "one:1:a", LONG))

    assert leases.take(NAME, "two:2:b", LONG).turn == 0


def test_what_ended_is_taken_over_and_its_owner_is_told(leases: Leases) -> None:
    first = leases.take(NAME, "one:1:a", ENDED)
    second = leases.take(NAME, "two:2:b", ENDED)
    third = leases.take(NAME, "three:3:c", LONG)

    for each in (first, second):
        with pytest.raises(LeaseLostError, match=f"{NAME}: {each.owner}"):
            leases.renew(each, LONG)
        leases.release(each)
    assert (first.turn, second.turn, third.turn) == (0, 1, 2)
    assert leases.renew(third, LONG).until >= third.until


def test_what_ended_and_nobody_took_can_be_renewed(leases: Leases) -> None:
    late = leases.renew(leases.take(NAME, "one:1:a", ENDED), LONG)

    with pytest.raises(LeaseHeldError):
        leases.take(NAME, "two:2:b", LONG)
    assert late.turn == 0


def test_a_lease_that_is_gone_is_lost(leases: Leases) -> None:
    taken = leases.take(NAME, "one:1:a", LONG)
    leases.release(taken)

    with pytest.raises(LeaseLostError):
        leases.renew(taken, LONG)


def test_of_many_at_once_one_gets_it(opened: Callable[[], Leases]) -> None:
    got: list[str] = []
    begin = threading.Barrier(8)

    def try_it(owner: str) -> None:
        mine = opened()
        begin.wait()
        try:
            mine.take(NAME, owner, LONG)
            got.append(owner)
        except LeaseHeldError:
            pass
        finally:
            mine.close()

    opened().close()
    threads = [threading.Thread(target=try_it, args=(f"owner:{at}:x",)) for at in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()

    assert len(got) == 1


@pytest.mark.parametrize("name", ["", "a b", "../x", ".hidden", "x" * 201, "a/b"])
def test_a_name_that_could_be_a_path_is_refused(leases: Leases, name: str) -> None:
    with pytest.raises(NameRefusedError, match="cannot name a lease"):
        leases.take(name, "one:1:a", LONG)


def test_a_lease_is_renewed_while_the_work_goes_on_and_given_back_in_the_end(leases: Leases) -> None:
    ends: list[datetime] = []
    renewed = threading.Event()

    class Watched(NoLeases):
        @override
        def take(self, name: str, owner: str, for_s: float) -> Lease:
            return leases.take(name, owner, for_s)

        @override
        def renew(self, lease: Lease, for_s: float) -> Lease:
            late = leases.renew(lease, for_s)
            ends.append(late.until)
            if len(ends) == 2:
                renewed.set()
            return late

        @override
        def release(self, lease: Lease) -> None:
            leases.release(lease)

    with hold(Watched(), NAME, for_s=0.3):
        assert renewed.wait(60.0)

    assert ends[1] > ends[0]
    assert leases.take(NAME, "two:2:b", LONG).turn == 0


def test_who_waits_gets_it_when_it_is_given_back(leases: Leases) -> None:
    taken, told = leases.take(NAME, "one:1:a", LONG), list[str]()

    def waiting(why: str) -> None:
        told.append(why)
        leases.release(taken)

    with hold(leases, NAME, wait_s=60.0, waiting=waiting) as mine:
        mine.check()

    assert len(told) == 1
    assert "one:1:a" in told[0]


def test_who_lost_its_lease_is_told_before_it_publishes(leases: Leases) -> None:
    with pytest.raises(LeaseLostError), hold(leases, NAME, for_s=LONG) as mine:  # noqa: PT012
        lost = leases.renew(mine._lease, ENDED)
        leases.take(NAME, "two:2:b", LONG)
        assert lost.owner == mine._lease.owner
        mine.check()


def test_a_folder_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(StateError, match="is not there"):
        FolderLeases(tmp_path / "unmounted" / ".leases").take(NAME, "one:1:a", LONG)
    assert not (tmp_path / "unmounted").exists()


def test_a_damaged_lease_is_named(tmp_path: Path) -> None:
    leases = FolderLeases(tmp_path / ".leases")
    leases.take(NAME, "one:1:a", LONG)
    (tmp_path / ".leases" / f"{NAME}.json").write_text("{")

    with pytest.raises(StateError, match=rf"{NAME}\.json is no lease"):
        leases.take(NAME, "two:2:b", LONG)


@pytest.mark.postgres
def test_a_lease_does_not_wait_for_events_of_the_same_database(postgres_database: Callable[[], str]) -> None:
    url = postgres_database()
    leases, events = open_leases(url, Path(), POSTGRES_PASSWORD), open_event_store(url, Path(), POSTGRES_PASSWORD)
    renewed: list[bool] = []

    def slowly() -> Iterator[StoredEvent]:
        yield StoredEvent("u", "1", 1, "{}")
        renewed.append(leases.renew(taken, 2 * LONG).until > taken.until)  # else an error after lock_timeout
        yield StoredEvent("u", "2", 2, "{}")

    taken = leases.take(NAME, "one:1:a", LONG)
    assert events.add("a", slowly()) == 2
    assert renewed == [True]
    leases.close()
    events.close()
