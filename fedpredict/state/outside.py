"""A table of another system's database, read and never written."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from fedpredict.errors import StateError
from fedpredict.state.engine import open_engine

_READS = {"postgresql_readonly": True, "isolation_level": "AUTOCOMMIT"}


class OutsideTable:
    """Rows of a table by a key. Calls may come from any thread; each blocks until it is done."""

    def __init__(self, url: str, password: str | None, *, setting: str, table: str, schema: str | None) -> None:
        """Connect to nothing yet.

        Args:
            url: An SQLAlchemy URL of a PostgreSQL.
            password: For a database that asks for one.
            setting: The setting that holds the URL, for messages.
            table: The table's name.
            schema: Its schema; None: where the database looks by itself.

        Raises:
            ConfigError: The URL cannot be used, or its driver is not installed.
        """
        self._engine = open_engine(url, Path(), password, key=setting)
        self._table = (table, schema)

    def rows(
        self, columns: Sequence[str], *, key: str, keys: Sequence[str | int], time: str, before: datetime
    ) -> Sequence[Sequence[Any]]:
        """Return columns of the rows with some keys whose time is before an instant.

        Raises:
            StateError: The database cannot be used, or has no such table or column.
        """
        name, schema = self._table
        given: list[sa.ColumnClause[Any]] = [sa.column(each) for each in columns]
        table = sa.table(name, *given, schema=schema)
        statement = sa.select(*table.c).where(table.c[key].in_(list(keys)), table.c[time] < before)
        with self._connection() as connection:
            return connection.execute(statement).all()

    def close(self) -> None:
        """Close every connection; closing twice is harmless."""
        self._engine.dispose()

    @contextmanager
    def _connection(self) -> Iterator[sa.Connection]:
        try:
            with self._engine.connect() as connection:
                yield connection.execution_options(**_READS)
        except SQLAlchemyError as error:
            url = self._engine.url.render_as_string(hide_password=True)
            reason = " ".join(str(getattr(error, "orig", None) or error).split())
            raise StateError(f"the raw table {self._table[0]} in {url} cannot be read: {reason}") from error
