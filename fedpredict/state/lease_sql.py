"""Leases in any database that SQLAlchemy reaches: one row each, changed in transactions that wait for each other.

Ends are by PostgreSQL's clock; SQLite has none of its own, and is of one machine.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from typing_extensions import override

from fedpredict.state.engine import Database, open_engine
from fedpredict.state.leases import Lease, Leases, check_lease_name, held_by, lost

SCHEMA_VERSION = 1
_COMPONENT = "leases"
_METADATA = sa.MetaData()
_LEASES = sa.Table(
    "fedpredict_leases",
    _METADATA,
    sa.Column("name", sa.String(200), primary_key=True),
    sa.Column("owner", sa.String(400), nullable=False),
    sa.Column("since", sa.Double, nullable=False),
    sa.Column("until", sa.Double, nullable=False),
    sa.Column("turn", sa.Integer, nullable=False),
)


def open_leases(url: str, base: Path = Path(), password: str | None = None) -> SqlLeases:
    """Open the leases of a database, and make their table where there is none.

    Args:
        url: An SQLAlchemy URL; the path of an SQLite file may be relative.
        base: What a relative path is relative to.
        password: For a database that asks for one.

    Raises:
        ConfigError: The URL cannot be used, or its driver is not installed.
        StateError: The database is unavailable, or of another version of fedpredict.
    """
    return SqlLeases(Database(open_engine(url, base, password), _COMPONENT, SCHEMA_VERSION, _METADATA))


class SqlLeases(Leases):
    """Leases in one small table."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @override
    def take(self, name: str, owner: str, for_s: float) -> Lease:
        """Write the row, unless another owner's is there and has not ended."""
        where = _LEASES.c.name == check_lease_name(name)
        with self._database.transaction() as connection:
            now = _now(connection)
            there = connection.execute(sa.select(_LEASES).where(where)).one_or_none()
            if there is not None and there.until > now:
                raise held_by(_lease(there))
            turn = 0 if there is None else there.turn + 1
            row = {"name": name, "owner": owner, "since": now, "until": now + for_s, "turn": turn}
            connection.execute(sa.delete(_LEASES).where(where))
            connection.execute(sa.insert(_LEASES).values(row))
        return Lease(name, owner, _instant(now), _instant(now + for_s), turn)

    @override
    def renew(self, lease: Lease, for_s: float) -> Lease:
        """Put off the end, where the row is the owner's."""
        with self._database.transaction() as connection:
            until = _now(connection) + for_s
            done = connection.execute(sa.update(_LEASES).where(*_is_of(lease)).values(until=until))
            if done.rowcount == 0:
                raise lost(lease)
        return Lease(lease.name, lease.owner, lease.since, _instant(until), lease.turn)

    @override
    def release(self, lease: Lease) -> None:
        """Remove the row, where it is the owner's."""
        with self._database.transaction() as connection:
            connection.execute(sa.delete(_LEASES).where(*_is_of(lease)))

    @override
    def close(self) -> None:
        """Close every connection."""
        self._database.close()


def _is_of(lease: Lease) -> tuple[sa.ColumnElement[bool], ...]:
    return _LEASES.c.name == lease.name, _LEASES.c.owner == lease.owner


def _now(connection: sa.Connection) -> float:
    """Return this moment in seconds since 1970 UTC, by the server's clock where there is one."""
    if connection.dialect.name != "postgresql":
        return time.time()
    return float(connection.scalar(sa.text("SELECT extract(epoch FROM clock_timestamp())")) or 0.0)


def _lease(row: sa.Row[Any]) -> Lease:
    return Lease(row.name, row.owner, _instant(row.since), _instant(row.until), row.turn)


def _instant(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
