"""The pin store in any database that SQLAlchemy reaches; SQLite in a file by default."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import URL
from sqlalchemy.exc import ArgumentError, IntegrityError, NoSuchModuleError, SQLAlchemyError
from typing_extensions import override

from fedpredict.errors import ConfigError, InputError, StateError
from fedpredict.model.manifest import Manifest, manifest_from_json, manifest_to_json
from fedpredict.state.base import Offer, Pin, PinStore

SCHEMA_VERSION = 1
BUSY_TIMEOUT_MS = 5_000
"""How long a process waits for another one's transaction on the same database."""
CONNECT_TIMEOUT_S = 5
STATEMENT_TIMEOUT_MS = 30_000
_LOCK = 0x66656470726564
"""Of PostgreSQL's advisory locks, the one that transactions here take in turn."""

_METADATA = sa.MetaData()
_SCHEMA = sa.Table(
    "fedpredict_schema",
    _METADATA,
    sa.Column("component", sa.String(40), primary_key=True),
    sa.Column("version", sa.Integer, nullable=False),
)
_PINS = sa.Table(
    "fedpredict_pins",
    _METADATA,
    sa.Column("model_id", sa.String(100), primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("manifest_sha256", sa.String(64), nullable=False),
    sa.Column("manifest", sa.Text, nullable=False),
    sa.Column("pinned_by", sa.String(200), nullable=False),
    sa.Column("pinned_at", sa.String(40), nullable=False),
)
_OFFERS = sa.Table(
    "fedpredict_offers",
    _METADATA,
    sa.Column("model_id", sa.String(100), primary_key=True),
    sa.Column("manifest", sa.Text, nullable=True),
    sa.Column("problem", sa.Text, nullable=False),
    sa.Column("offered_at", sa.String(40), nullable=False),
)
_COMPONENT = "pins"


def open_pin_store(url: str, base: Path = Path(), password: str | None = None) -> SqlPinStore:
    """Open the store, and make its tables where there are none.

    Args:
        url: An SQLAlchemy URL; the path of an SQLite file may be relative.
        base: What a relative path is relative to.
        password: For a database that asks for one.

    Raises:
        ConfigError: The URL cannot be used, or its driver is not installed.
        StateError: The database is unavailable, or of another version of fedpredict.
    """
    try:
        engine = _create_engine(_absolute(url, base), password)
    except (ArgumentError, NoSuchModuleError, ImportError) as error:
        raise ConfigError(
            f"state: the URL cannot be used, or its driver is not installed: {error}; for PostgreSQL write "
            "postgresql+psycopg://user@host/database, and pip install 'fedpredict[postgres]'"
        ) from error
    if engine.dialect.name == "sqlite":
        _configure_sqlite(engine)
    elif engine.dialect.name == "postgresql":
        _configure_postgres(engine)
    store = SqlPinStore(engine)
    try:
        store.prepare()
    except StateError:
        store.close()
        raise
    return store


class SqlPinStore(PinStore):
    """Pins and offers in three small tables; every call is one transaction."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine

    def prepare(self) -> None:
        """Make the tables where there are none, and check their version; raise `StateError`."""
        with self._transaction() as connection:
            _METADATA.create_all(connection)
            found = connection.scalar(sa.select(_SCHEMA.c.version).where(_SCHEMA.c.component == _COMPONENT))
            if found is None:
                connection.execute(sa.insert(_SCHEMA).values(component=_COMPONENT, version=SCHEMA_VERSION))
        if found not in (None, SCHEMA_VERSION):
            raise StateError(
                f"the state database {self._name} has schema version {found}; this program needs {SCHEMA_VERSION}: "
                "use the version of fedpredict that wrote it, or another database"
            )

    @override
    def pin(self, manifest: Manifest, *, by: str, replaces: str | None) -> Pin:
        """Append to the history, unless somebody else did since `replaces` was read."""
        if not 1 <= len(by) <= 200 or not by.isprintable():
            raise InputError("who pins is named by 1 to 200 printable characters")
        pin = Pin(manifest=manifest, pinned_by=by, pinned_at=datetime.now(UTC))
        newest = sa.select(_PINS).where(_PINS.c.model_id == manifest.model_id).order_by(_PINS.c.number.desc()).limit(1)
        with self._transaction() as connection:
            current = connection.execute(newest).one_or_none()
            if (current.manifest_sha256 if current else None) != replaces:
                raise _overtaken(manifest.model_id, current)
            row = {
                "model_id": manifest.model_id,
                "number": current.number + 1 if current else 1,
                "manifest_sha256": manifest.manifest_sha256,
                "manifest": manifest_to_json(manifest),
                "pinned_by": by,
                "pinned_at": pin.pinned_at.isoformat(),
            }
            try:
                connection.execute(sa.insert(_PINS).values(row))
            except IntegrityError as error:
                raise _overtaken(manifest.model_id, None) from error
        return pin

    @override
    def pins(self) -> Mapping[str, tuple[Pin, ...]]:
        """Return each model's history, newest first."""
        statement = sa.select(_PINS).order_by(_PINS.c.model_id, _PINS.c.number.desc())
        with self._transaction() as connection:
            rows = connection.execute(statement).all()
        histories: dict[str, tuple[Pin, ...]] = {}
        for row in rows:
            histories[row.model_id] = (*histories.get(row.model_id, ()), self._pin(row))
        return histories

    @override
    def offer(self, model_id: str, manifest: Manifest | None, problem: str = "") -> Offer:
        """Replace the model's offer where it differs."""
        if (manifest is None) == (not problem):
            raise ValueError("an offer is a manifest, or a problem")
        text = manifest_to_json(manifest) if manifest else None
        where = _OFFERS.c.model_id == model_id
        now = datetime.now(UTC)
        with self._transaction() as connection:
            current = connection.execute(sa.select(_OFFERS).where(where)).one_or_none()
            if current is not None and (current.manifest, current.problem) == (text, problem):
                return self._offer(current)
            connection.execute(sa.delete(_OFFERS).where(where))
            row = {"model_id": model_id, "manifest": text, "problem": problem, "offered_at": now.isoformat()}
            connection.execute(sa.insert(_OFFERS).values(row))
        return Offer(model_id=model_id, manifest=manifest, problem=problem, offered_at=now)

    @override
    def offers(self) -> Mapping[str, Offer]:
        """Return the newest offer of each model."""
        with self._transaction() as connection:
            rows = connection.execute(sa.select(_OFFERS)).all()
        return {row.model_id: self._offer(row) for row in rows}

    @override
    def close(self) -> None:
        """Close every connection."""
        self._engine.dispose()

    @property
    def _name(self) -> str:
        return self._engine.url.render_as_string(hide_password=True)

    @contextmanager
    def _transaction(self) -> Iterator[sa.Connection]:
        try:
            with self._engine.begin() as connection:
                yield connection
        except SQLAlchemyError as error:
            reason = " ".join(str(getattr(error, "orig", None) or error).split())
            raise StateError(f"the state database {self._name} cannot be used: {reason}") from error

    def _pin(self, row: sa.Row[Any]) -> Pin:
        manifest = self._manifest(row.manifest)
        if manifest.manifest_sha256 != row.manifest_sha256:
            raise self._damaged(f"the pin of model {row.model_id} is not the manifest {row.manifest_sha256}")
        return Pin(manifest=manifest, pinned_by=row.pinned_by, pinned_at=self._instant(row.pinned_at))

    def _offer(self, row: sa.Row[Any]) -> Offer:
        return Offer(
            model_id=row.model_id,
            manifest=None if row.manifest is None else self._manifest(row.manifest),
            problem=row.problem,
            offered_at=self._instant(row.offered_at),
        )

    def _manifest(self, text: str) -> Manifest:
        try:
            return manifest_from_json(text)
        except ValueError as error:
            raise self._damaged(str(error)) from error

    def _instant(self, text: str) -> datetime:
        try:
            return datetime.fromisoformat(text)
        except (TypeError, ValueError) as error:
            raise self._damaged(str(error)) from error

    def _damaged(self, why: str) -> StateError:
        return StateError(f"the state database {self._name} holds damaged rows: {why}; restore it from a backup")


def _overtaken(model_id: str, current: sa.Row[Any] | None) -> StateError:
    what = f"{current.manifest_sha256} (by {current.pinned_by})" if current else "another manifest"
    return StateError(f"model {model_id}: {what} is pinned by now; look at it before you pin again")


def _absolute(url: str, base: Path) -> URL:
    parsed = sa.make_url(url)
    if parsed.get_backend_name() != "sqlite" or not parsed.database or parsed.database.startswith((":", "file:")):
        return parsed
    return parsed.set(database=str(base.absolute() / parsed.database))


def _create_engine(url: URL, password: str | None) -> sa.Engine:
    if password is not None:
        if url.get_backend_name() == "sqlite":
            raise ConfigError("state: SQLite asks for no password; take state_password_file out, or name a server")
        url = url.set(password=password)
    if url.get_backend_name() == "postgresql":
        options = f"-c lock_timeout={BUSY_TIMEOUT_MS} -c statement_timeout={STATEMENT_TIMEOUT_MS}"
        own = {"connect_timeout": CONNECT_TIMEOUT_S, "application_name": "fedpredict", "options": options}
        given = {key: value for key, value in own.items() if key not in url.query}
        return sa.create_engine(url, pool_pre_ping=True, connect_args=given)
    if url.get_backend_name() == "sqlite" and url.database and not url.database.startswith((":", "file:")):
        # a connection that is kept would read and write a file that was moved away or replaced, and nobody would notice
        return sa.create_engine(url, poolclass=sa.NullPool)
    return sa.create_engine(url, pool_pre_ping=True)


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
        connection.exec_driver_sql("BEGIN IMMEDIATE")


def _configure_postgres(engine: sa.Engine) -> None:
    """Make transactions wait for each other, as on SQLite: they are short and rare, and some read before they write.

    Without that, two processes would make the same table, or replace the same row, and one of them would fail.
    """

    @sa.event.listens_for(engine, "begin")
    def begin(connection: sa.Connection) -> None:
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_LOCK})")
