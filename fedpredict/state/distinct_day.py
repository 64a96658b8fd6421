"""One caller's day of distinct sample ids, in an SQLite file: looked up, and counted in transactions that are safe."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, time, timedelta
from pathlib import Path

import sqlalchemy as sa

from fedpredict.errors import DistinctIdsUsedUpError, StateError
from fedpredict.model.sample_ids import SampleIds
from fedpredict.state.distinct_digests import DIGEST_BYTES, CallerDay, DayDigests, NewIds
from fedpredict.state.engine import Database, open_engine

SCHEMA_VERSION = 1
CACHE_KIB = 8_192
"""Memory for each connection's pages."""
_AT_ONCE = 4_096
"""Digests of one statement."""

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


class Day:
    """A caller's day, in an open database; every call may raise `StateError`."""

    def __init__(self, file: Path, digests: DayDigests, who: CallerDay) -> None:
        """Open the file, or make it.

        Args:
            file: In a folder that is there.
            digests: Makes the day's.
            who: The caller and the day, for messages.

        Raises:
            StateError: The file cannot be used, or was begun under another key.
        """
        self.digests = digests
        """Makes the digests."""
        self._who = who
        engine = open_engine(f"sqlite:///{file.name}", file.parent.absolute(), key="distinct_ids", keeps=True)
        _make_safe(engine)
        self._database = Database(engine, "distinct_ids", SCHEMA_VERSION, _METADATA)
        try:
            self._check_key(digests.check)
        except StateError:
            self.close()
            raise

    def _check_key(self, key_check: bytes) -> None:
        with self._database.transaction() as connection:
            known = connection.scalar(sa.select(_COUNT.c.key_check))
            if known is None:
                connection.execute(sa.insert(_COUNT).values(key_check=key_check, n=0))
        if known not in (None, key_check):
            raise StateError("its ids were counted under another key than the one that is there: bring that one back")

    def close(self) -> None:
        """Close the file; closing twice is harmless."""
        self._database.close()

    def used(self) -> int:
        """Return how many ids were counted."""
        with self._database.reading() as connection:
            return _used(connection)

    def has_list(self, list_digest: bytes) -> bool:
        """Return whether a whole list was counted."""
        with self._database.reading() as connection:
            return bool(connection.scalar(sa.select(sa.exists().where(_LISTS.c.digest == list_digest))))

    def n_new(self, digests: bytes, limit: int) -> int:
        """Return how many of some ids were not counted yet.

        Raises:
            DistinctIdsUsedUpError: So many that the limit has no room for them.
        """
        n_new = 0
        with self._database.reading() as connection:
            used = _used(connection)
            for some in _slices(digests):
                n_new += connection.exec_driver_sql(_N_NEW, some).scalar_one()
                if n_new and used + n_new > limit:
                    raise self._used_up(used, limit)
        return n_new

    def count(self, questions: Sequence[NewIds]) -> list[DistinctIdsUsedUpError | None]:
        """Count the ids of some questions in one transaction, each as a whole or not at all.

        Returns:
            For each of them None, or why it must not be answered.
        """
        outcomes: list[DistinctIdsUsedUpError | None] = []
        with self._database.transaction() as connection:
            used = before = _used(connection)
            for each in questions:
                counted = _counted(connection, each, used)
                outcomes.append(self._used_up(used, each.limit) if counted is None else None)
                used = used if counted is None else counted
            if used != before:
                connection.execute(sa.update(_COUNT).values(n=used))
        return outcomes

    def erase(self, sample_id: bytes, *, keep: bool) -> bool:
        """Return whether an id was counted, and remove its digest unless that is to stay; the number stays."""
        is_it = _IDS.c.digest == self.digests.of_ids(SampleIds.one(sample_id))
        with self._database.transaction() as connection:
            if keep:
                return bool(connection.scalar(sa.select(sa.exists().where(is_it))))
            return bool(connection.execute(sa.delete(_IDS).where(is_it)).rowcount)

    def _used_up(self, used: int, limit: int) -> DistinctIdsUsedUpError:
        caller, day = self._who.caller, self._who.day
        until = datetime.combine(day + timedelta(days=1), time(), UTC)
        told = f"{caller} asked about {used} sample ids on {day}; with this question more than its {limit}"
        return DistinctIdsUsedUpError(told, until=until.strftime("%Y-%m-%dT%H:%M:%SZ"))


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
