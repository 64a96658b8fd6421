"""A database of this party's own state: opened by URL, in transactions that wait for each other, its schema checked.

The only place that knows a database's kind. Every component (pins, events ...) has tables and a schema version of its
own; several may share a database.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import URL
from sqlalchemy.exc import ArgumentError, DisconnectionError, NoSuchModuleError, SQLAlchemyError

from fedpredict.errors import ConfigError, StateError

BUSY_TIMEOUT_MS = 5_000
"""How long a process waits for another one's transaction on the same database."""
LOOK_AGAIN_S = 0.02
"""How often a lock is looked for that SQLite does not wait for."""
CONNECT_TIMEOUT_S = 5
STATEMENT_TIMEOUT_MS = 30_000
_ALIVE = {
    "keepalives": 1,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 15_000,
}
"""libpq: a server that no longer answers the network is given up after 15 to 25 seconds, and not after hours."""
_LOCK = 0x66656470726564
"""Of PostgreSQL's advisory locks, the one under which tables are made; every component has another one."""
_TURN = "fedpredict_lock"
_READS = "fedpredict_reads"

_METADATA = sa.MetaData()
_SCHEMA = sa.Table(
    "fedpredict_schema",
    _METADATA,
    sa.Column("component", sa.String(40), primary_key=True),
    sa.Column("version", sa.Integer, nullable=False),
)


def open_engine(
    url: str, base: Path = Path(), password: str | None = None, *, key: str = "state", keeps: bool = False
) -> sa.Engine:
    """Return an engine; nothing is connected yet.

    Args:
        url: An SQLAlchemy URL; the path of an SQLite file may be relative.
        base: What a relative path is relative to.
        password: For a database that asks for one.
        key: The setting that holds the URL, for messages.
        keeps: Whether an SQLite file is of this machine's disk and asked often: connections are kept while the file
            stays the same, and write-ahead logging lets readers go on beside a writer.

    Raises:
        ConfigError: The URL cannot be used, or its driver is not installed.
    """
    try:
        engine = _create_engine(_absolute(url, base), password, key, keeps=keeps)
    except (ArgumentError, NoSuchModuleError, ImportError) as error:
        raise ConfigError(
            f"{key}: the URL cannot be used, or its driver is not installed: {error}; for PostgreSQL write "
            "postgresql+psycopg://user@host/database, and pip install 'fedpredict[postgres]'"
        ) from error
    if engine.dialect.name == "sqlite":
        _configure_sqlite(engine)
        if keeps:
            _keep_sqlite(engine)
    elif engine.dialect.name == "postgresql":
        _configure_postgres(engine)
    return engine


class Database:
    """The tables of one component in an open database; every transaction is whole or did not happen."""

    def __init__(self, engine: sa.Engine, component: str, version: int, tables: sa.MetaData) -> None:
        """Make the tables where there are none, and check their version; on an error the engine is closed.

        Args:
            engine: As `open_engine` returns it; this object closes it.
            component: Whose tables, in at most 40 letters.
            version: The version of their schema that the caller reads and writes.
            tables: The tables.

        Raises:
            StateError: The database is unavailable, or its tables are of another version.
        """
        # a load of events must not hold up leases of the same database
        self._engine = engine.execution_options(**{_TURN: _lock_of(component)})
        try:
            self._prepare(component, version, tables)
        except StateError:
            self.close()
            raise

    @property
    def dialect(self) -> str:
        """The database's kind, as SQLAlchemy calls it."""
        return self._engine.dialect.name

    @property
    def name(self) -> str:
        """The URL without a password."""
        return self._engine.url.render_as_string(hide_password=True)

    @contextmanager
    def transaction(self) -> Iterator[sa.Connection]:
        """Give a connection for the block: committed at its end, rolled back by an error.

        Raises:
            StateError: The database cannot be used.
        """
        with self._errors(), self._engine.begin() as connection:
            yield connection

    @contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """Give a connection that only reads, and so waits for no other reader; as `transaction` else."""
        with self._errors(), self._engine.connect() as connection:
            yield connection.execution_options(**{_READS: True})

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except SQLAlchemyError as error:
            reason = " ".join(str(getattr(error, "orig", None) or error).split())
            raise StateError(f"the state database {self.name} cannot be used: {reason}") from error

    def damaged(self, why: str) -> StateError:
        """Return the error of rows that cannot be what was written."""
        return StateError(f"the state database {self.name} holds damaged rows: {why}; restore it from a backup")

    def close(self) -> None:
        """Close every connection; closing twice is harmless."""
        self._engine.dispose()

    def _prepare(self, component: str, version: int, tables: sa.MetaData) -> None:
        with self.transaction() as connection:
            if self.dialect == "postgresql":
                connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_LOCK})")
            _METADATA.create_all(connection)
            tables.create_all(connection)
            found = connection.scalar(sa.select(_SCHEMA.c.version).where(_SCHEMA.c.component == component))
            if found is None:
                connection.execute(sa.insert(_SCHEMA).values(component=component, version=version))
        if found not in (None, version):
            raise StateError(
                f"the state database {self.name} has schema version {found}; this program needs {version}: "
                "use the version of fedpredict that wrote it, or another database"
            )


def _absolute(url: str, base: Path) -> URL:
    parsed = sa.make_url(url)
    if parsed.get_backend_name() != "sqlite" or not parsed.database or parsed.database.startswith((":", "file:")):
        return parsed
    return parsed.set(database=str(base.absolute() / parsed.database))


def _create_engine(url: URL, password: str | None, key: str, *, keeps: bool) -> sa.Engine:
    """Return an engine whose errors hold no parameters: they get into logs, and sample ids are among them."""
    if password is not None:
        if url.get_backend_name() == "sqlite":
            raise ConfigError(f"{key}: SQLite asks for no password; take the password out, or name a server")
        url = url.set(password=password)
    if url.get_backend_name() == "postgresql":
        own = {"connect_timeout": CONNECT_TIMEOUT_S, "application_name": "fedpredict", **_ALIVE}
        given = {key: value for key, value in own.items() if key not in url.query}
        options = {**given, "options": _postgres_options(url)}
        return sa.create_engine(url, pool_pre_ping=True, connect_args=options, hide_parameters=True)
    if url.get_backend_name() == "sqlite" and url.database and not url.database.startswith((":", "file:")):
        # a connection that is kept would read and write a file that was moved away or replaced, and nobody would notice
        pool = sa.QueuePool if keeps else sa.NullPool
        return sa.create_engine(url, poolclass=pool, hide_parameters=True)
    return sa.create_engine(url, pool_pre_ping=True, hide_parameters=True)


def _postgres_options(url: URL) -> str:
    """Return the settings of a session: limits, which the URL may change, and UTC, which nothing may.

    A time without a zone is compared in the session's, so another one would move it by hours.
    """
    asked = url.query.get("options", ())
    texts = (asked,) if isinstance(asked, str) else asked
    limits = f"-c lock_timeout={BUSY_TIMEOUT_MS} -c statement_timeout={STATEMENT_TIMEOUT_MS}"
    return " ".join((limits, *texts, "-c TimeZone=UTC"))


def _configure_sqlite(engine: sa.Engine) -> None:
    """Make transactions of several processes wait for each other.

    SQLite's rollback journal is kept: transactions here are short and rare, and write-ahead logging would need shared
    memory, which network file systems lack. A transaction takes the write lock when it begins, because one that reads
    first and writes later fails at once, however long the timeout is, where another process wrote in between.
    """

    @sa.event.listens_for(engine, "connect")
    def connect(connection: Any, _record: object) -> None:
        connection.isolation_level = None  # the driver must not begin transactions of its own
        connection.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}").close()

    @sa.event.listens_for(engine, "begin")
    def begin(connection: sa.Connection) -> None:
        reads = connection.get_execution_options().get(_READS)
        connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")


def _keep_sqlite(engine: sa.Engine) -> None:
    """Let readers go on beside a writer, and give a connection up when its file was moved away or replaced."""

    def identity() -> tuple[int, int] | None:
        try:
            found = Path(str(engine.url.database)).stat()
        except OSError:
            return None
        return found.st_dev, found.st_ino

    @sa.event.listens_for(engine, "connect")
    def connect(connection: Any, record: Any) -> None:
        _log_ahead(connection)
        record.info["file"] = identity()

    @sa.event.listens_for(engine, "checkout")
    def checkout(_connection: object, record: Any, _proxy: object) -> None:
        if record.info["file"] != identity():
            raise DisconnectionError


def _log_ahead(connection: Any) -> None:
    """Turn write-ahead logging on, which a new file's first openers may do at the same moment.

    SQLite's own timeout does not hold here: it gives up at once where the lock that it needs is another's.
    """
    deadline = time.monotonic() + BUSY_TIMEOUT_MS / 1_000
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL").close()
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(LOOK_AGAIN_S)
        else:
            return


def _configure_postgres(engine: sa.Engine) -> None:
    """Make a component's transactions wait for each other, as on SQLite: they are short, and some read, then write.

    Without that, two processes would make the same table, or replace the same row, and one of them would fail.
    """

    @sa.event.listens_for(engine, "begin")
    def begin(connection: sa.Connection) -> None:
        options = connection.get_execution_options()
        if not options.get(_READS):
            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({options.get(_TURN, _LOCK)})")


def _lock_of(component: str) -> int:
    """Return the advisory lock that a component's transactions take in turn: 64 bits with a sign."""
    return int.from_bytes(sha256(f"fedpredict {component}".encode()).digest()[:8], signed=True)
