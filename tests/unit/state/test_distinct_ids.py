"""Distinct ids per caller and day: exact against Python's sets, for racing and killed processes, and never in clear."""

from __future__ import annotations

import random
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest

from fedpredict.errors import DistinctIdsUnavailableError, DistinctIdsUsedUpError
from fedpredict.model.populations import digest_of, in_order
from fedpredict.model.sample_ids import SampleIds
from fedpredict.security.files import SECRET_BYTES
from fedpredict.state import engine as state_engine
from fedpredict.state.distinct_digests import CallerDay, DayDigests
from fedpredict.state.distinct_ids import KEY_FILE, LIST_IDS, DistinctIds

DAY = date(2026, 11, 27)
BANK, SHOP = CallerDay("bank", DAY), CallerDay("shop", DAY)
NO_LIMIT = 10**9


class Clock:
    """Says what time it is."""

    def __init__(self) -> None:
        self.now = datetime(2026, 11, 27, 23, 59, 58, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "distinct" / "lab"


@pytest.fixture
def counts(folder: Path, clock: Clock) -> Iterator[DistinctIds]:
    with closing(DistinctIds(folder, now=clock)) as made:
        yield made


def ask(counts: DistinctIds, ids: Sequence[bytes], limit: int, who: CallerDay = BANK) -> bool:
    """Return whether a question may be answered; where it may, its ids are counted."""
    try:
        new = counts.look(who, SampleIds.of(ids), limit)
    except DistinctIdsUsedUpError:
        return False
    return new is None or counts.count(who, [new]) == [None]


def names(prefix: str, n: int) -> list[bytes]:
    return [f"{prefix}{number}".encode() for number in range(n)]


@pytest.mark.parametrize("seed", range(3))
def test_what_is_answered_is_what_a_set_says(counts: DistinctIds, seed: int) -> None:
    pick = random.Random(seed)
    limits, known = {BANK: 40, SHOP: 300}, {BANK: set[bytes](), SHOP: set[bytes]()}
    everybody = names("person-", 500)

    for _ in range(150):
        who = pick.choice([BANK, SHOP])
        ids = pick.choices(everybody, k=pick.choice([1, 2, 5, 30]))
        would_be = known[who] | set(ids)
        is_allowed = would_be == known[who] or len(would_be) <= limits[who]
        assert ask(counts, ids, limits[who], who) is is_allowed
        if is_allowed:
            known[who] = would_be
        assert counts.used(who) == len(known[who])

    assert len(known[BANK]) == 40
    assert len(known[SHOP]) > 100


def test_a_question_of_many_ids_is_counted_whole_or_not_at_all(counts: DistinctIds) -> None:
    assert ask(counts, names("a", 9_000), 10_000)
    assert not ask(counts, [*names("a", 9_000), *names("b", 1_001)], 10_000)
    assert counts.used(BANK) == 9_000
    assert ask(counts, [*names("a", 9_000), *names("b", 1_000)], 10_000)
    assert not ask(counts, [b"one more"], 10_000)
    assert ask(counts, names("b", 1_000), 10_000)


def test_questions_that_come_together_are_counted_in_turn(counts: DistinctIds) -> None:
    looked = [counts.look(BANK, SampleIds.of(names(each, 2)), 5) for each in "abc"]
    one = counts.look(BANK, SampleIds.of([b"d", b"a0"]), 5)
    assert one is not None

    outcomes = counts.count(BANK, [*(each for each in looked if each is not None), one])

    assert [each is None for each in outcomes] == [True, True, False, True]
    refused = outcomes[2]
    assert refused is not None
    assert refused.until == "2026-11-28T00:00:00Z"
    assert counts.used(BANK) == 5
    assert ask(counts, [b"a0", b"a1", b"b0", b"b1", b"d"], 5)
    assert not ask(counts, [b"c0"], 5)


def test_ids_that_can_name_nobody_do_not_count(counts: DistinctIds) -> None:
    assert counts.look(BANK, SampleIds.of([b"", b"a\nb", b"\xff", b"x" * 257]), 1) is None
    assert ask(counts, [b"", b"u1", b"a\nb"], 1)
    assert counts.used(BANK) == 1


def test_a_lower_limit_refuses_what_is_new_and_nothing_else(counts: DistinctIds) -> None:
    assert ask(counts, names("a", 10), 10)
    assert ask(counts, names("a", 10), 3)
    assert not ask(counts, [b"a1", b"z"], 3)
    assert ask(counts, [b"z"], 11)


def test_buckets_of_a_population_and_single_ids_are_one_set(counts: DistinctIds) -> None:
    population = in_order(SampleIds.of(names("person-", 4 * LIST_IDS)))
    assert ask(counts, [*population[10:20], b"stranger"], NO_LIMIT)

    for start in range(0, len(population), LIST_IDS):
        bucket = population.cut(start, start + LIST_IDS)
        new = counts.look(BANK, bucket, NO_LIMIT, digest_of(bucket))
        assert new is not None
        assert counts.count(BANK, [new]) == [None]
        assert counts.look(BANK, bucket, 0, digest_of(bucket)) is None  # asked for again, at any limit

    assert counts.used(BANK) == len(population) + 1
    assert not ask(counts, [*population[:5], b"another"], len(population) + 1)
    assert ask(counts, [population[7], b"stranger"], 1)


def test_a_list_that_is_refused_is_not_remembered(counts: DistinctIds) -> None:
    ids = SampleIds.of(names("person-", LIST_IDS))
    with pytest.raises(DistinctIdsUsedUpError):
        counts.look(BANK, ids, LIST_IDS - 1, digest_of(ids))
    new = counts.look(BANK, ids, LIST_IDS, digest_of(ids))
    assert new is not None
    assert ask(counts, [b"in between"], LIST_IDS)
    (refused,) = counts.count(BANK, [new])
    assert refused is not None
    with pytest.raises(DistinctIdsUsedUpError):
        counts.look(BANK, ids, LIST_IDS, digest_of(ids))
    assert counts.used(BANK) == 1


def test_a_question_counts_on_the_day_it_came_and_old_days_go(counts: DistinctIds, clock: Clock, folder: Path) -> None:
    assert counts.today() == DAY
    assert ask(counts, [b"u1"], 2)
    begun = counts.look(BANK, SampleIds.of([b"u2"]), 2)
    assert begun is not None

    clock.now += timedelta(seconds=5)
    today = CallerDay("bank", counts.today())
    assert today.day == DAY + timedelta(days=1)
    assert counts.count(BANK, [begun]) == [None]
    assert (counts.used(BANK), counts.used(today)) == (2, 0)
    assert ask(counts, [b"u8", b"u9"], 2, today)
    assert not ask(counts, [b"u1"], 2, today)
    counts.prune()
    assert counts.used(BANK) == 2

    (folder / "notes").mkdir()
    (folder / "2026-99-99").mkdir()
    clock.now += timedelta(hours=1)
    counts.prune()
    assert sorted(each.name for each in folder.iterdir()) == [".lock", "2026-11-28", "2026-99-99", KEY_FILE, "notes"]
    assert counts.kept() == [today]
    with pytest.raises(DistinctIdsUnavailableError, match="2026-11-27 is over"):
        counts.count(BANK, [begun])
    assert not (folder / "2026-11-27").exists()


def test_an_old_day_that_cannot_be_removed_is_told_once(
    counts: DistinctIds,
    clock: Clock,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert ask(counts, [b"u1"], 2)
    clock.now += timedelta(days=2)

    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    with monkeypatch.context() as patched:
        patched.setattr("fedpredict.state.distinct_ids.shutil.rmtree", refuse)
        for _ in range(3):
            counts.prune()
    assert [each.message for each in caplog.records] == ["distinct_ids.not_removed"]
    counts.prune()
    assert not (folder / "2026-11-27").exists()


def test_a_restart_and_another_process_go_on_where_the_count_stands(folder: Path, clock: Clock) -> None:
    for number in range(3):
        with closing(DistinctIds(folder, now=clock)) as one, closing(DistinctIds(folder, now=clock)) as other:
            assert ask(one, [f"a{number}".encode()], 6)
            assert ask(other, [f"b{number}".encode()], 6)
    with closing(DistinctIds(folder, now=clock)) as later:
        assert later.used(BANK) == 6
        assert not ask(later, [b"c"], 6)
        assert ask(later, [b"a0", b"b2"], 6)


RACER = """
import sys
from datetime import UTC, datetime
from pathlib import Path
from fedpredict.errors import DistinctIdsUsedUpError
from fedpredict.model.sample_ids import SampleIds
from fedpredict.state.distinct_digests import CallerDay
from fedpredict.state.distinct_ids import DistinctIds
counts = DistinctIds(Path(sys.argv[1]), now=lambda: datetime(2026, 11, 27, 12, tzinfo=UTC))
who, name, limit = CallerDay("bank", counts.today()), sys.argv[2], int(sys.argv[3])
for number in range(100_000):
    ids = [b"%s-%d-%d" % (name.encode(), number, each) for each in range(number % 4 + 1)] + [b"shared-%d" % number]
    try:
        new = counts.look(who, SampleIds.of(ids), limit)
        refused = None if new is None else counts.count(who, [new])[0]
    except DistinctIdsUsedUpError as error:
        refused = error
    if refused is not None:
        break
    print(*(each.decode() for each in ids), flush=True)
    if number == 0:
        sys.stdin.readline()
"""


def racers(folder: Path, names: str, limit: int) -> tuple[list[subprocess.Popen[str]], str]:
    """Start processes that ask for more and more ids, and print what was answered; each had its first answer."""
    command = [sys.executable, "-c", RACER, str(folder)]
    started = [
        subprocess.Popen([*command, name, str(limit)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for name in names
    ]
    first = ""
    for each in started:
        assert each.stdout is not None
        first += each.stdout.readline()
    for each in started:
        assert each.stdin is not None
        each.stdin.write("go\n")
        each.stdin.flush()
    return started, first


def answered(lines: str) -> set[bytes]:
    """Return the ids in what a racer printed; a last line that is cut off was not an answer."""
    return {each.encode() for line in lines.splitlines(keepends=True) if line.endswith("\n") for each in line.split()}


def test_processes_that_race_for_the_last_ids_never_get_more_than_the_limit(folder: Path, counts: DistinctIds) -> None:
    started, lines = racers(folder, "xyz", 200)
    for each in started:
        lines += each.communicate()[0]
        assert each.returncode == 0

    everything = answered(lines)
    assert {b"x-0-0", b"y-0-0", b"z-0-0"} < everything
    assert len(everything) == counts.used(BANK)
    assert 195 < len(everything) <= 200  # of a question of five ids, four may not have fitted
    assert ask(counts, sorted(everything), 200)


def test_what_a_killed_process_answered_was_counted_before(folder: Path, counts: DistinctIds) -> None:
    (one, other), lines = racers(folder, "xy", NO_LIMIT)
    assert one.stdout is not None
    lines += "".join(one.stdout.readline() for _ in range(20))
    for each in (one, other):
        each.send_signal(signal.SIGKILL)
        lines += each.communicate()[0]
    known = answered(lines)

    # with a limit that leaves no room, only what was counted is free
    assert len(known) > 20
    assert counts.look(BANK, SampleIds.of(sorted(known)), 1) is None
    # between the count and the answer each of them may have been killed once
    assert len(known) <= counts.used(BANK) <= len(known) + 2 * 5


def test_the_files_hold_no_id_and_no_hash_that_others_could_make(counts: DistinctIds, folder: Path) -> None:
    ids = names("customer-of-the-bank-", 3_000)
    assert ask(counts, ids, NO_LIMIT)
    counts.close()
    content = b"".join(each.read_bytes() for each in folder.rglob("*") if each.is_file())
    assert len(content) > 16 * 3_000
    assert b"customer" not in content
    digests = DayDigests(b"k" * SECRET_BYTES, BANK).of_ids(SampleIds.of(ids))
    assert not any(digests[at : at + 16] in content for at in range(0, len(digests), 16))
    assert [each.stat().st_mode & 0o077 for each in (folder / KEY_FILE, folder / "2026-11-27")] == [0, 0]


def test_digests_of_other_days_callers_and_parties_are_others() -> None:
    ids = SampleIds.of([b"u1", b"u2"])
    made = [
        DayDigests(secret, who).of_ids(ids)
        for secret in (b"a" * 32, b"b" * 32)
        for who in (BANK, SHOP, CallerDay("bank", DAY + timedelta(days=1)))
    ]
    assert len({each[:16] for each in made} | {each[16:] for each in made}) == 12


def test_digests_rise_and_stand_once() -> None:
    made = DayDigests(b"a" * 32, BANK)
    ids = names("u", 5_000)
    digests = made.of_ids(SampleIds.of([*ids, *reversed(ids)]))
    each = [digests[at : at + 16] for at in range(0, len(digests), 16)]
    assert each == sorted(set(each))
    assert len(each) == 5_000
    assert {made.of_ids(SampleIds.one(one)) for one in ids} == set(each)
    assert made.of_ids(SampleIds.of([])) == b""


def test_another_key_is_noticed_and_nothing_is_counted_under_it(
    counts: DistinctIds, folder: Path, clock: Clock
) -> None:
    assert ask(counts, [b"u1"], 5)
    counts.close()
    kept = (folder / KEY_FILE).read_bytes()
    (folder / KEY_FILE).unlink()
    with pytest.raises(DistinctIdsUnavailableError, match=r"ids\.key, the key .* is gone: bring it back"):
        ask(counts, [b"u1"], 5)
    assert ask(counts, [b"u1"], 5, SHOP)  # nothing was counted for it: a new key is made
    with pytest.raises(
        DistinctIdsUnavailableError, match=r"another key than the one that is there: bring that one back"
    ):
        ask(counts, [b"u1"], 5)
    (folder / KEY_FILE).chmod(0o644)
    with pytest.raises(DistinctIdsUnavailableError, match="chmod 600"):
        ask(counts, [b"u1"], 5)
    (folder / KEY_FILE).write_bytes(b"short")
    (folder / KEY_FILE).chmod(0o600)
    with pytest.raises(DistinctIdsUnavailableError, match="a key of another kind"):
        ask(counts, [b"u1"], 5)
    (folder / KEY_FILE).write_bytes(kept)
    assert ask(counts, [b"u1"], 1)


FULL = """
import resource, sys
from datetime import UTC, datetime
from pathlib import Path
from fedpredict.errors import DistinctIdsUnavailableError
from fedpredict.model.sample_ids import SampleIds
from fedpredict.state.distinct_digests import CallerDay
from fedpredict.state.distinct_ids import DistinctIds
counts = DistinctIds(Path(sys.argv[1]), now=lambda: datetime(2026, 11, 27, 12, tzinfo=UTC))
who = CallerDay("bank", counts.today())
def ask(ids):
    new = counts.look(who, SampleIds.of(ids), 10**9)
    assert new is None or counts.count(who, [new]) == [None]
ask([b"u1"])
hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, hard))
try:
    ask([b"many-%d" % number for number in range(50_000)])
except DistinctIdsUnavailableError as error:
    print(error)
print(counts.used(who))
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
ask([b"u2"])
print(counts.used(who))
"""


def test_a_disk_that_takes_no_more_refuses_counts_nothing_and_goes_on_once_there_is_room(folder: Path) -> None:
    done = subprocess.run([sys.executable, "-c", FULL, str(folder)], capture_output=True, text=True, check=True)
    told, while_full, after = done.stdout.splitlines()
    assert str(folder / "2026-11-27" / "bank.db") in told
    assert "Make room" in told
    assert (while_full, after) == ("1", "2")


def test_a_damaged_file_refuses_until_it_is_moved_away(counts: DistinctIds, folder: Path) -> None:
    file = folder / "2026-11-27" / "bank.db"
    assert ask(counts, names("a", 500), NO_LIMIT)
    counts.close()
    file.write_bytes(b"\x00garbage" * 1_000)
    for _ in range(2):
        with pytest.raises(DistinctIdsUnavailableError, match="moved away"):
            ask(counts, [b"a1"], NO_LIMIT)
    assert ask(counts, [b"a1"], NO_LIMIT, SHOP)
    file.rename(folder / "evidence.db")
    assert ask(counts, [b"a1"], NO_LIMIT)
    assert counts.used(BANK) == 1


def test_a_file_that_is_locked_refuses(
    counts: DistinctIds, folder: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ask(counts, [b"u1"], 5)
    counts.close()
    monkeypatch.setattr(state_engine, "BUSY_TIMEOUT_MS", 20)
    with closing(sqlite3.connect(folder / "2026-11-27" / "bank.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(DistinctIdsUnavailableError, match="locked"):
            ask(counts, [b"u2"], 5)
    assert ask(counts, [b"u2"], 5)
    assert counts.used(BANK) == 2


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path, clock: Clock) -> None:
    (tmp_path / "file").write_text("")
    counts = DistinctIds(tmp_path / "file" / "lab", now=clock)
    with pytest.raises(DistinctIdsUnavailableError, match=r"file/lab/2026-11-27/bank\.db: .*Not a directory"):
        ask(counts, [b"u1"], 5)


def test_a_transaction_is_on_the_disk_when_it_ends_and_readers_do_not_wait_for_it(
    counts: DistinctIds, folder: Path
) -> None:
    assert ask(counts, [b"u1"], 5)
    with counts._day(BANK)._database.reading() as connection:
        set_to = {
            each: connection.exec_driver_sql(f"PRAGMA {each}").scalar() for each in ("synchronous", "journal_mode")
        }
    assert set_to == {"synchronous": 2, "journal_mode": "wal"}  # 2: FULL
    with closing(sqlite3.connect(folder / "2026-11-27" / "bank.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        assert ask(counts, [b"u1"], 1)


def test_an_erased_person_is_found_and_gone_and_the_count_stays(counts: DistinctIds, clock: Clock) -> None:
    clock.now = datetime(2026, 11, 28, 0, 30, tzinfo=UTC)
    today = CallerDay("shop", counts.today())
    assert ask(counts, [b"u1", b"u2"], 5, BANK)
    assert ask(counts, [b"u1"], 5, today)
    assert ask(counts, [b"u3"], 5, SHOP)
    assert counts.erase(b"u1", keep=True) == [BANK, today]
    assert counts.erase(b"u1", keep=False) == [BANK, today]
    assert counts.erase(b"u1", keep=False) == []
    assert (counts.used(BANK), counts.used(today)) == (2, 1)
    assert not ask(counts, [b"u1"], 2)
    assert ask(counts, [b"u2"], 2)
