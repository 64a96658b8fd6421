"""A table of another system's database, read and never written."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import CITEXT, DOMAIN
from sqlalchemy.exc import NoSuchTableError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.types import TypeEngine

from fedpredict.errors import ModelNotReadyError, StateError
from fedpredict.model.ids import whole_number
from fedpredict.state.engine import open_engine

_READS = {"postgresql_readonly": True, "isolation_level": "AUTOCOMMIT"}


class OutsideTable:
    """Rows of a table by a key. Calls may come from any thread; each blocks until it is done.

    What is asked for is written in the type of the column that it is compared with, never the other way round: an index
    of the column is used then.
    """

    def __init__(self, url: str, password: str | None, *, setting: str, table: str, schema: str | None) -> None:
        """Connect to nothing yet.

        Args:
            url: An SQLAlchemy URL of a PostgreSQL.
            password: For a database that asks for one.
            setting: The setting that holds the URL, for messages.
            table: The table's name, or a view's.
            schema: Its schema; None: where the database looks by itself.

        Raises:
            ConfigError: The URL cannot be used, or its driver is not installed.
        """
        self._engine = open_engine(url, Path(), password, key=setting)
        self._table = (table, schema)
        self._known: Mapping[str, TypeEngine[Any]] | None = None

    def rows(
        self, columns: Sequence[str], *, key: str, keys: Sequence[str | int], time: str, before: datetime
    ) -> Sequence[Sequence[Any]]:
        """Return columns of the rows with some keys whose time is before an instant.

        Keys are compared as texts or whole numbers in their one plain form, as a refresh makes sample ids of them:
        `007` is no whole number, and a UUID is written in lower case.

        Raises:
            ModelNotReadyError: The database is away, or took too long.
            StateError: It has no such table or column, or one of a type that cannot be compared.
        """
        with self._connection() as connection:
            types = self._types(connection, columns)
            wanted, selected = self._key(key, types[key], keys), [self._selected(each, types[each]) for each in columns]
            instant = self._instant(time, types[time], before)
            if not wanted:
                return ()
            name, schema = self._table
            table = sa.table(name, *(sa.column(each) for each in columns), schema=schema)
            typed = sa.type_coerce(table.c[key], types[key])
            statement = sa.select(*selected).select_from(table).where(typed.in_(wanted), table.c[time] < instant)
            return connection.execute(statement).all()

    def check(self, columns: Sequence[str], *, key: str, time: str) -> tuple[str, str]:
        """Return what is there, and a warning or an empty text; raise as `rows`."""
        with self._connection() as connection:
            self._known = None
            types = self._types(connection, columns)
            self._key(key, types[key], [])
            self._instant(time, types[time], datetime.now(UTC))
            name, schema = self._table
            seen = sa.inspect(connection)
            firsts: list[Sequence[str | None]] = [each["column_names"][:1] for each in seen.get_indexes(name, schema)]
            firsts.append(seen.get_pk_constraint(name, schema)["constrained_columns"][:1])
            is_table = name in seen.get_table_names(schema)
        told = f"the raw table {name} in {self._name} is readable"
        if is_table and [key] not in firsts:
            return told, f"no index of {name} begins with {key}: each question reads all of it; index ({key}, {time})"
        return told, ""

    def close(self) -> None:
        """Close every connection; closing twice is harmless."""
        self._engine.dispose()

    @property
    def _name(self) -> str:
        return self._engine.url.render_as_string(hide_password=True)

    def _types(self, connection: sa.Connection, columns: Sequence[str]) -> Mapping[str, TypeEngine[Any]]:
        """Return the types of the table's columns, as the database says the first time."""
        if self._known is None:
            name, schema = self._table
            found = sa.inspect(connection).get_columns(name, schema)
            self._known = {each["name"]: _plain(each["type"]) for each in found}
        missing = [each for each in columns if each not in self._known]
        if missing:
            raise self._refused(f"has no column {', '.join(missing)}; compare [sources] of the view")
        return self._known

    def _key(self, name: str, kind: TypeEngine[Any], keys: Sequence[str | int]) -> list[Any]:
        """Return the keys that the column can hold, in its type."""
        read = _reader(kind)
        if read is None:
            fix = "make a view in the database that gives it as text, and index the expression"
            raise self._refused(f"has {name} of type {kind}, which is no sample id: {fix}")
        if isinstance(kind, sa.String) and any(isinstance(each, int) for each in keys):
            raise self._refused(
                f"has {name} as text, and the view declares int: declare text, or it finds no 007 for 7"
            )
        return [value for value in map(read, keys) if value is not None]

    def _selected(self, name: str, kind: TypeEngine[Any]) -> sa.ColumnElement[Any]:
        """Return a column as it is read; one that is filled up with spaces without them, which mean nothing there."""
        column: sa.ColumnElement[Any] = sa.column(name)
        return sa.cast(column, sa.Text).label(name) if isinstance(kind, sa.CHAR) else column

    def _instant(self, name: str, kind: TypeEngine[Any], before: datetime) -> datetime:
        if isinstance(kind, sa.DateTime):  # a session is in UTC
            return before if kind.timezone else before.astimezone(UTC).replace(tzinfo=None)
        if isinstance(kind, sa.Date):
            return before.astimezone(UTC).replace(tzinfo=None)
        fix = "make a view in the database that gives a timestamp, such as to_timestamp(milliseconds / 1000.0)"
        raise self._refused(f"has {name} of type {kind}, which is no moment: {fix}, and name it as table")

    def _refused(self, what: str) -> StateError:
        self._known = None  # it may be corrected while this process runs
        return StateError(f"the raw table {self._table[0]} in {self._name} {what}")

    @contextmanager
    def _connection(self) -> Iterator[sa.Connection]:
        try:
            with self._engine.connect() as connection:
                yield connection.execution_options(**_READS)
        except NoSuchTableError as error:
            raise self._refused("is not there, or not for this user") from error
        except SQLAlchemyError as error:
            self._known = None
            reason = " ".join(str(getattr(error, "orig", None) or error).split())
            kind = ModelNotReadyError if isinstance(error, OperationalError | PoolTimeoutError) else StateError
            raise kind(f"the raw table {self._table[0]} in {self._name} cannot be read: {reason}") from error


def _plain(kind: TypeEngine[Any]) -> TypeEngine[Any]:
    return _plain(kind.data_type) if isinstance(kind, DOMAIN) else kind


def _reader(kind: TypeEngine[Any]) -> Callable[[str | int], Any] | None:
    """Return what makes a column's value of a sample id, None of one that it cannot hold; or None for other types."""
    if isinstance(kind, sa.Integer):
        return partial(_whole, bits=_bits(kind))
    if isinstance(kind, sa.Numeric) and not isinstance(kind, sa.Float) and kind.scale == 0:
        return _decimal
    if isinstance(kind, sa.Uuid):
        return _uuid
    if isinstance(kind, sa.Enum | CITEXT):
        return None
    if isinstance(kind, sa.CHAR):
        return lambda key: None if str(key).endswith(" ") else str(key)
    return str if isinstance(kind, sa.String) else None


def _bits(kind: TypeEngine[Any]) -> int:
    if isinstance(kind, sa.BigInteger):
        return 64
    return 16 if isinstance(kind, sa.SmallInteger) else 32


def _whole(key: str | int, bits: int = 64) -> int | None:
    """Return a whole number; None of one beyond the column's, for which the server would refuse the whole question."""
    number = whole_number(str(key))
    return number if number is not None and -(2 ** (bits - 1)) <= number < 2 ** (bits - 1) else None


def _decimal(key: str | int) -> Decimal | None:
    number = _whole(key)
    return None if number is None else Decimal(number)


def _uuid(key: str | int) -> UUID | None:
    try:
        found = UUID(str(key))
    except ValueError:
        return None
    return found if str(found) == key else None
