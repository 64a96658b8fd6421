"""How many distinct sample ids each caller asked about on a day: exact, for all processes of a party (ADR 0042).

An SQLite file for each caller and day of the UTC calendar holds keyed digests of the ids, and their number; what counts
an id also decides whether it may be, in one transaction that is safe on the disk before the answer leaves. Everything
here blocks, and may be called from any thread. The folder belongs on a disk of this machine.
"""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path

import sqlalchemy as sa

from fedpredict.errors import (
    CertificateError,
    ConfigError,
    DistinctIdsUnavailableError,
    DistinctIdsUsedUpError,
    StateError,
)
from fedpredict.model.ids import valid_sample_ids
from fedpredict.model.sample_ids import SampleIds
from fedpredict.security.files import open_secret
from fedpredict.state.distinct_digests import DIGEST_BYTES, CallerDay, DayDigests
from fedpredict.state.engine import Database, open_engine

logger = logging.getLogger(__name__)

SCHEMA_VERSION = 1
KEY_FILE = "ids.key"
KEPT = timedelta(hours=1)
"""A day's files stay so long beyond its end: a question that began before is counted in them."""
LIST_IDS = 1_000
"""Lists of at least so many ids are remembered as wholes, so that asking again for one costs a single look."""
CACHE_KIB = 8_192
"""Memory for each connection's pages."""
_AT_ONCE = 4_096
"""Digests of one statement."""
_SUFFIX = ".db"

_METADATA = sa.MetaData()
_IDS = sa.Table(
    "fedpredict_distinct_ids",
    _METADATA,
    sa.Column("digest", sa.LargeBinary, primary_key=True),
    sqlite_with_rowid=False,
)
_LISTS = sa.Table(
    "fedpredict_distinct_lists",
    _METADATA,
    sa.Column("digest", sa.LargeBinary, primary_key=True),
    sqlite_with_rowid=False,
)
_COUNT = sa.Table(
    "fedpredict_distinct_count",
    _METADATA,
    # of the key that the digests were made with: under another one every id would be new
    sa.Column("key_check", sa.LargeBinary, primary_key=True),
    sa.Column("n", sa.Integer, nullable=False),
)

# The digests of a statement are one value, 16 bytes each: with a call for each, this thread would let go of the
# interpreter, and wait for it, as often.
_N_NEW = """
WITH RECURSIVE rows(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM rows WHERE i + 1 < ?2)
SELECT count(*) FROM rows
WHERE NOT EXISTS (SELECT 1 FROM fedpredict_distinct_ids WHERE digest = substr(?1, i * 16 + 1, 16))
"""
_ADD = """
WITH RECURSIVE rows(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM rows WHERE i + 1 < ?2)
INSERT OR IGNORE INTO fedpredict_distinct_ids SELECT substr(?1, i * 16 + 1, 16) FROM rows
"""
_ADD_LIST = "INSERT OR IGNORE INTO fedpredict_distinct_lists VALUES (?)"
_N_ADDED = "SELECT changes()"


@dataclass(frozen=True, slots=True, eq=False)
class NewIds:
    """What a question adds to its caller's day, if nobody else does.

    Attributes:
        digests: Those of its ids that may be new, and perhaps others; end to end, each once.
        limit: How many the caller may ask about.
        list_digest: Stands for the whole list; empty: it is not remembered.
    """

    digests: bytes
    limit: int
    list_digest: bytes = b""


class DistinctIds:
    """The counts of one party's callers."""

    def __init__(self, folder: Path, *, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        """Prepare; nothing is made or opened before an id is counted.

        Args:
            folder: The party's own.
            now: The clock.
        """
        self._folder = folder
        self._now = now
        self._lock = threading.Lock()
        self._days: dict[CallerDay, _Day] = {}

    def today(self) -> date:
        """Return the day that a question which comes now counts on."""
        return self._now().astimezone(UTC).date()

    def look(self, who: CallerDay, sample_ids: SampleIds, limit: int, ids_sha256: str = "") -> NewIds | None:
        """Return what a question would add to its caller's day; None: nothing, and it may be answered as it is.

        Nothing is written. Ids that can name nobody do not count.

        Args:
            who: The caller, and the day that the question came.
            sample_ids: What it asks about; an id may come several times.
            limit: How many ids the caller may ask about on a day.
            ids_sha256: The digest of a list (`digest_of`), where it is known.

        Raises:
            DistinctIdsUsedUpError: With its ids the caller would have asked about more.
            DistinctIdsUnavailableError: Nothing can be counted.
        """
        with self._errors(who):
            day = self._day(who)
            is_list = bool(ids_sha256) and len(sample_ids) >= LIST_IDS
            list_digest = day.digests.of_list(ids_sha256) if is_list else b""
            if list_digest and day.has_list(list_digest):
                return None
            digests = day.digests.of_ids(sample_ids.select(valid_sample_ids(sample_ids)))
            used, n_new = day.n_new(digests, limit)
        if n_new and used + n_new > limit:
            raise _used_up(who, used, limit)
        return NewIds(digests, limit, list_digest) if n_new else None

    def count(self, who: CallerDay, questions: Sequence[NewIds]) -> list[DistinctIdsUsedUpError | None]:
        """Count the ids of some questions of a caller, in one transaction; they are safe when this returns.

        Each question is counted as a whole or not at all, in their order.

        Returns:
            For each of them None, or why it must not be answered.

        Raises:
            DistinctIdsUnavailableError: None of them could be counted.
        """
        with self._errors(who):
            return self._day(who).count(questions)

    def used(self, who: CallerDay) -> int:
        """Return how many ids were counted; 0 where nothing was yet.

        Raises:
            DistinctIdsUnavailableError: It cannot be read.
        """
        with self._errors(who):
            return self._day(who).used() if self._file(who).exists() else 0

    def erase(self, sample_id: bytes, *, keep: bool) -> list[CallerDay]:
        """Remove the digests of an id, and return where there were any; the counts stay as they are.

        Args:
            sample_id: The id.
            keep: Whether to remove nothing.

        Raises:
            DistinctIdsUnavailableError: A file cannot be used.
        """
        if not keep:
            self.prune()
        found, oldest = [], self._oldest()
        for who in (each for each in self.kept() if each.day >= oldest):
            with self._errors(who):
                if self._day(who).erase(SampleIds.one(sample_id), keep=keep):
                    found.append(who)
        return found

    def kept(self) -> list[CallerDay]:
        """Return the days of callers that files are kept of."""
        return [
            CallerDay(file.name.removesuffix(_SUFFIX), day)
            for day, folder in self._day_folders()
            for file in sorted(folder.glob(f"*{_SUFFIX}"))
        ]

    def prune(self) -> None:
        """Remove the files of days that ended more than `KEPT` ago; what cannot be removed is told in the log."""
        oldest = self._oldest()
        with self._lock:
            over = [self._days.pop(who) for who in tuple(self._days) if who.day < oldest]
        for each in over:
            each.close()
        for day, folder in self._day_folders():
            if day < oldest:
                shutil.rmtree(folder, onerror=_told_of_removing)

    def close(self) -> None:
        """Close every file; closing twice is harmless."""
        with self._lock:
            days, self._days = self._days, {}
        for each in days.values():
            each.close()

    def _oldest(self) -> date:
        return (self._now().astimezone(UTC) - KEPT).date()

    def _file(self, who: CallerDay) -> Path:
        return self._folder / who.day.isoformat() / f"{who.caller}{_SUFFIX}"

    def _day_folders(self) -> list[tuple[date, Path]]:
        found = []
        for folder in sorted(self._folder.glob("????-??-??")):
            try:
                found.append((date.fromisoformat(folder.name), folder))
            except ValueError:
                continue  # not ours
        return found

    def _day(self, who: CallerDay) -> _Day:
        with self._lock:
            day = self._days.get(who)
            if day is None:
                if who.day < self._oldest():
                    raise StateError(f"{who.day} is over, and its files are removed")
                day = self._days[who] = self._open(who)
        return day

    def _open(self, who: CallerDay) -> _Day:
        """Open a caller's day; of several processes one at a time, because the first one makes it."""
        file, key = self._file(who), self._folder / KEY_FILE
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _locked(self._folder / ".lock"):
            if file.exists() and not key.exists():
                raise StateError(f"{key}, the key that its ids were counted under, is gone: bring it back")
            return _Day(file, DayDigests(open_secret(key), who), who)

    @contextmanager
    def _errors(self, who: CallerDay) -> Iterator[None]:
        try:
            yield
        except (OSError, StateError, ConfigError, CertificateError) as error:
            with self._lock:
                day = self._days.pop(who, None)  # opened anew by the next: perhaps it is as it should be then
            if day is not None:
                day.close()
            raise DistinctIdsUnavailableError(
                f"the sample ids of {who.caller} cannot be counted in {self._file(who)}: {error}; until they can, "
                "callers with distinct_ids_per_day are refused. Make room and see the rights of [distinct_ids] path; a "
                "damaged file may be moved away: then the count of that day begins anew"
            ) from error


class _Day:
    """A caller's day, in an open database."""

    def __init__(self, file: Path, digests: DayDigests, who: CallerDay) -> None:
        self.digests = digests
        self._who = who
        engine = open_engine(f"sqlite:///{file.name}", file.parent.absolute(), key="distinct_ids", keeps=True)
        _make_safe(engine)
        self._database = Database(engine, "distinct_ids", SCHEMA_VERSION, _METADATA)
        with self._database.transaction() as connection:
            known = connection.scalar(sa.select(_COUNT.c.key_check))
            if known is None:
                connection.execute(sa.insert(_COUNT).values(key_check=digests.check, n=0))
        if known not in (None, digests.check):
            self.close()
            raise StateError(f"its ids were counted under another key than that in {KEY_FILE}: bring that one back")

    def close(self) -> None:
        self._database.close()

    def used(self) -> int:
        with self._database.reading() as connection:
            return _used(connection)

    def has_list(self, list_digest: bytes) -> bool:
        with self._database.reading() as connection:
            return bool(connection.scalar(sa.select(sa.exists().where(_LISTS.c.digest == list_digest))))

    def n_new(self, digests: bytes, limit: int) -> tuple[int, int]:
        """Return how many ids were counted, and how many of some were not; no more are looked at than are allowed."""
        n_new = 0
        with self._database.reading() as connection:
            used = _used(connection)
            for some in _slices(digests):
                n_new += connection.exec_driver_sql(_N_NEW, some).scalar_one()
                if used + n_new > limit:
                    break
        return used, n_new

    def count(self, questions: Sequence[NewIds]) -> list[DistinctIdsUsedUpError | None]:
        outcomes: list[DistinctIdsUsedUpError | None] = []
        with self._database.transaction() as connection:
            used = before = _used(connection)
            for each in questions:
                counted = _counted(connection, each, used)
                outcomes.append(_used_up(self._who, used, each.limit) if counted is None else None)
                used = used if counted is None else counted
            if used != before:
                connection.execute(sa.update(_COUNT).values(n=used))
        return outcomes

    def erase(self, sample_ids: SampleIds, *, keep: bool) -> bool:
        is_it = _IDS.c.digest == self.digests.of_ids(sample_ids)
        with self._database.transaction() as connection:
            if keep:
                return bool(connection.scalar(sa.select(sa.exists().where(is_it))))
            return bool(connection.execute(sa.delete(_IDS).where(is_it)).rowcount)


def _counted(connection: sa.Connection, question: NewIds, used: int) -> int | None:
    """Count a question's ids, and return how many there are then; None: too many, and none was counted."""
    connection.exec_driver_sql("SAVEPOINT question")
    for some in _slices(question.digests):
        connection.exec_driver_sql(_ADD, some)
        n_new = connection.exec_driver_sql(_N_ADDED).scalar_one()
        used += n_new
        if n_new and used > question.limit:
            connection.exec_driver_sql("ROLLBACK TO question")
            connection.exec_driver_sql("RELEASE question")
            return None
    if question.list_digest:
        connection.exec_driver_sql(_ADD_LIST, (question.list_digest,))
    connection.exec_driver_sql("RELEASE question")
    return used


def _used(connection: sa.Connection) -> int:
    return int(connection.execute(sa.select(_COUNT.c.n)).scalar_one())


def _slices(digests: bytes) -> Iterator[tuple[bytes, int]]:
    step = _AT_ONCE * DIGEST_BYTES
    for start in range(0, len(digests), step):
        some = digests[start : start + step]
        yield some, len(some) // DIGEST_BYTES


def _make_safe(engine: sa.Engine) -> None:
    """Have every transaction on the disk when it ends, also where the machine loses its power the moment after."""

    @sa.event.listens_for(engine, "connect")
    def connect(connection: sa.engine.interfaces.DBAPIConnection, _record: object) -> None:
        cursor = connection.cursor()
        cursor.execute("PRAGMA synchronous = FULL")
        cursor.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
        cursor.close()


def _used_up(who: CallerDay, used: int, limit: int) -> DistinctIdsUsedUpError:
    until = datetime.combine(who.day + timedelta(days=1), time(), UTC)
    told = f"{who.caller} asked about {used} sample ids on {who.day}; with this question more than its {limit}"
    return DistinctIdsUsedUpError(told, until=until.strftime("%Y-%m-%dT%H:%M:%SZ"))


def _told_of_removing(_function: object, path: str, reason: tuple[object, BaseException, object]) -> None:
    if not isinstance(reason[1], FileNotFoundError):  # another process was faster
        logger.warning("distinct_ids.not_removed", extra={"path": path, "reason": str(reason[1])})


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
