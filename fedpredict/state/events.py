"""Raw events in a database of this party's own: each once, by sample id, in any database that SQLAlchemy reaches.

SQLite in a file by default, with write-ahead logging: who asks never waits for who loads. The file belongs on a disk
of this machine.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from typing_extensions import override

from fedpredict.state.engine import Database, open_engine
from fedpredict.state.event_base import EventStore, FeedCount, StoredEvent

SCHEMA_VERSION = 1
MOST_IDS = 500
"""Sample ids of one statement."""
BATCH = 5_000
"""Events of one statement, whatever the transaction has."""
PAUSE_S = 0.1
"""Between two transactions that remove: who waits for SQLite's lock looks for it at least so often."""

_COMPONENT = "events"
_FIELDS = ("sample_id", "at", "event_id", "content")
_METADATA = sa.MetaData()
_EVENTS = sa.Table(
    "fedpredict_events",
    _METADATA,
    # in this order on disk, where the database has one: what a question reads is in one place
    sa.Column("feed", sa.String(400), primary_key=True),
    sa.Column("sample_id", sa.String(256), primary_key=True),
    sa.Column("at", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("event_id", sa.String(256), primary_key=True),
    sa.Column("content", sa.Text, nullable=False),
    sa.UniqueConstraint("feed", "event_id"),
    sa.Index("fedpredict_events_at", "feed", "at"),
    sqlite_with_rowid=False,
)

T = TypeVar("T")


def open_event_store(url: str, base: Path = Path(), password: str | None = None) -> SqlEventStore:
    """Open the store, and make its table where there is none.

    Args:
        url: An SQLAlchemy URL; the path of an SQLite file may be relative.
        base: What a relative path is relative to.
        password: For a database that asks for one.

    Raises:
        ConfigError: The URL cannot be used, or its driver is not installed.
        StateError: The database is unavailable, or of another version of fedpredict.
    """
    engine = open_engine(url, base, password, key="events", keeps=True)
    return SqlEventStore(Database(engine, _COMPONENT, SCHEMA_VERSION, _METADATA))


class SqlEventStore(EventStore):
    """Raw events in one table."""

    def __init__(self, database: Database) -> None:
        self._database = database
        insert = sqlite.insert if database.dialect == "sqlite" else postgresql.insert
        added: Any = insert(_EVENTS).on_conflict_do_nothing()
        self._insert = added.execution_options(preserve_rowcount=True)
        earlier = sa.and_(_EVENTS.c.feed == sa.bindparam("feed"), _EVENTS.c.at < sa.bindparam("before"))
        joined = sa.select(sa.func.aggregate_strings(_EVENTS.c.content, ",")).where(earlier)
        joined = joined.group_by(_EVENTS.c.sample_id)
        self._of_one = joined.where(_EVENTS.c.sample_id == sa.bindparam("sample_id"))
        self._of_several = joined.where(_EVENTS.c.sample_id.in_(sa.bindparam("sample_ids", expanding=True)))

    @override
    def add(self, feed: str, events: Iterable[StoredEvent]) -> int:
        """Store the events of a feed in one transaction, and return how many were new."""
        n_new = 0
        with self._database.transaction() as connection:
            for some in _batches(events, BATCH):
                rows = [{"feed": feed, **{name: getattr(each, name) for name in _FIELDS}} for each in some]
                n_new += connection.execute(self._insert, rows).rowcount
        return n_new

    @override
    def contents(self, feed: str, sample_ids: Sequence[str], before: int) -> list[str]:
        """Return the columns of the events of some ids before an instant, joined for each id by the database."""
        found: list[str] = []
        with self._database.reading() as connection:
            if len(sample_ids) == 1:
                params = {"feed": feed, "before": before, "sample_id": sample_ids[0]}
                return list(connection.execute(self._of_one, params).scalars().all())
            for some in _batches(sample_ids, MOST_IDS):
                params = {"feed": feed, "before": before, "sample_ids": some}
                found += connection.execute(self._of_several, params).scalars().all()
        return found

    @override
    def counts(self, sample_id: str | None = None) -> list[FeedCount]:
        """Return what is stored, by feed."""
        columns = (
            _EVENTS.c.feed,
            sa.func.count(),
            sa.func.count(sa.distinct(_EVENTS.c.sample_id)),
            sa.func.min(_EVENTS.c.at),
            sa.func.max(_EVENTS.c.at),
        )
        with self._database.reading() as connection:
            query = sa.select(*columns).group_by(_EVENTS.c.feed).order_by(_EVENTS.c.feed)
            if sample_id is not None:
                query = query.where(_EVENTS.c.sample_id == sample_id)
            rows = connection.execute(query).all()
        return [FeedCount(*row) for row in rows]

    @override
    def remove(self, *, before: int | None = None, sample_id: str | None = None, at_most: int | None = None) -> int:
        """Remove events of every feed."""
        earlier = [] if before is None else [_EVENTS.c.at < before]
        if sample_id is not None:
            with self._database.transaction() as connection:
                of_one = sa.delete(_EVENTS).where(_EVENTS.c.sample_id == sample_id, *earlier)
                return int(connection.execute(of_one).rowcount)
        if before is None:
            raise ValueError("say which events")
        n_removed, feed = 0, self._feed_after("")
        while feed is not None and (at_most is None or n_removed < at_most):
            wanted = BATCH if at_most is None else min(BATCH, at_most - n_removed)
            n_of_feed = self._remove_some(feed, before, wanted)
            n_removed += n_of_feed
            if n_of_feed < wanted:
                feed = self._feed_after(feed)
            else:
                time.sleep(PAUSE_S)
        return n_removed

    def _feed_after(self, feed: str) -> str | None:
        with self._database.reading() as connection:
            found: str | None = connection.scalar(sa.select(sa.func.min(_EVENTS.c.feed)).where(_EVENTS.c.feed > feed))
        return found

    def _remove_some(self, feed: str, before: int, limit: int) -> int:
        oldest = sa.select(_EVENTS.c.event_id).where(_EVENTS.c.feed == feed, _EVENTS.c.at < before)
        chosen = _EVENTS.c.event_id.in_(oldest.order_by(_EVENTS.c.at).limit(limit))
        with self._database.transaction() as connection:
            return int(connection.execute(sa.delete(_EVENTS).where(_EVENTS.c.feed == feed, chosen)).rowcount)

    @override
    def close(self) -> None:
        """Close every connection."""
        self._database.close()


def _batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    rest = iter(items)
    while batch := list(islice(rest, size)):
        yield batch
