"""A warehouse behind HiveServer2: Apache Hive, or Spark's Thrift Server; which of the two is asked, not configured."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import pyarrow as pa
from sqlglot import exp
from typing_extensions import override

from fedpredict.errors import StatementError, WarehouseUnavailableError, WarehouseWriteError
from fedpredict.warehouse.base import (
    EngineInfo,
    Filling,
    Partition,
    SeriesWriter,
    TableSchema,
    Value,
    Warehouse,
    check_identifier,
    check_partition,
    check_partition_values,
)
from fedpredict.warehouse.hive_connection import Engine, HiveSession, RefusedByServerError
from fedpredict.warehouse.hive_known import KnownTables, describe, missing_columns
from fedpredict.warehouse.hive_rendering import RowTexts, rendered, tables_of
from fedpredict.warehouse.hive_session import open_session
from fedpredict.warehouse.hive_settings import HiveSettings
from fedpredict.warehouse.hive_side_tables import SideTables
from fedpredict.warehouse.hive_staging import Staging
from fedpredict.warehouse.hive_statements import (
    add_columns,
    count,
    create_staging,
    create_table,
    drop_partition,
    insert_and_gather,
    insert_each,
    insert_query,
    insert_staged,
    insert_values,
    rows_of_table,
    select,
    show_partition,
    without_bound,
    without_values,
)
from fedpredict.warehouse.insertion import innermost_of, rows_for

logger = logging.getLogger(__name__)

STAGE_ABOVE_VALUES = 1_000
"""With a staging location, more values than this go through it: faster, and no weights in the server's query log."""

PAUSES_S = (0.5, 1.0, 2.0)
"""How long a query waits before it is asked again, when another session's partition was in its way."""

CLOSE_S = 2.0
"""How long `close` waits for a statement that another thread has under way; it may take an hour."""


class HiveWarehouse(Warehouse, SeriesWriter):
    """Tables in one database of a HiveServer2.

    One session is kept open, and opened anew when it is gone; calls from several threads take turns. Nothing is
    connected before the first call.
    """

    def __init__(self, settings: HiveSettings) -> None:
        self._settings = settings
        self._staging = Staging(settings.staging) if settings.staging else None
        self._lock = threading.RLock()
        self._open: HiveSession | None = None
        self._engine: EngineInfo | None = None
        self._known = KnownTables()

    def create_database(self) -> None:
        """Create the database of the settings unless it exists.

        Raises:
            WarehouseUnavailableError, WarehouseWriteError: As for `ensure`.
        """
        session = HiveSession(self._settings, "default")
        try:
            session.execute(f"CREATE DATABASE IF NOT EXISTS `{self._settings.database}`")
        except RefusedByServerError as error:
            raise WarehouseWriteError(f"database {self._settings.database} is not created: {error}") from error
        finally:
            session.close()

    @property
    @override
    def engine(self) -> EngineInfo:
        """Apache Hive or Spark, as the server says."""
        if self._engine is None:  # asked once: every scoring statement wants to know
            with self._session() as session:
                version = session.execute("SELECT version()").column(0)[0].as_py()
                self._engine = EngineInfo(session.engine.value, str(version).split(" ", 1)[0])
        return self._engine

    @property
    @override
    def gathers(self) -> bool:
        """Hive does; Spark reads the source once for each table that a statement fills."""
        return self.engine.name == Engine.HIVE.value

    @override
    def ensure(self, schema: TableSchema) -> None:
        """Create the table, or add the columns it lacks."""
        with self._session() as session, _write_errors(f"table {schema.name} is not as needed"):
            have = self._known.get(schema.name)
            if have is not None and not missing_columns(have, schema):
                return
            have = describe(session, schema.name)
            if have is None:
                session.execute(create_table(schema, session.engine))
                have = describe(session, schema.name) or schema
            missing = missing_columns(have, schema)
            if not missing:
                self._known.learn(have)
                return
            try:
                session.execute(add_columns(schema.name, missing, session.engine))
            except RefusedByServerError:
                # another process may have added them at the same time
                have = describe(session, schema.name)
                if have is None or missing_columns(have, schema):
                    raise

    @override
    def replace(self, table: str, partition: Partition, rows: pa.Table) -> None:
        """Make `rows` the whole content of one partition; zero rows remove it."""
        check_identifier(table)
        check_partition_values(partition)
        with self._session() as session:

            def write(schema: TableSchema) -> None:
                with _write_errors(f"a partition of {table} is not written"):
                    self._replace(session, schema, partition, rows)

            self._known.using(table, lambda: self._existing(session, table), write)

    def _replace(self, session: HiveSession, schema: TableSchema, partition: Partition, rows: pa.Table) -> None:
        check_partition(schema, partition)
        complete = rows_of_table(schema, rows)
        n_values = complete.num_rows * complete.num_columns
        if n_values == 0:
            session.execute(drop_partition(schema, partition))
        elif self._staging is not None and n_values > STAGE_ABOVE_VALUES:
            self._replace_staged(session, self._staging, schema, partition, complete)
        elif n_values > self._settings.max_inline_values:
            raise WarehouseWriteError(
                f"{complete.num_rows} rows of {complete.num_columns} columns are more than "
                f"warehouse.max_inline_values = {self._settings.max_inline_values}: set warehouse.staging"
            )
        else:
            self._replace_inline(session, schema, partition, complete)

    @override
    def replace_from(
        self, table: str, partition: Partition, statement: exp.Expression, params: Mapping[str, Value]
    ) -> int:
        """Make the rows of a query the whole content of one partition: one INSERT on the server."""
        with self._session() as session:
            self._fill(session, table, [Filling(partition, statement, params)])
            with _statement_errors(session, params):
                _refresh(session, table)
                n_rows = int(session.execute(count(table, partition)).column(0)[0].as_py())
                if n_rows == 0:
                    session.execute(drop_partition(self._existing(session, table), partition))
        return n_rows

    @override
    def replace_series_from(self, table: str, fillings: Iterable[Filling]) -> list[Sequence[pa.Table]]:
        """Send one INSERT after the other; in Hive each writes its summaries in the same pass."""
        with self._session() as session:
            return self._fill(session, table, fillings)

    @override
    def has_partition(self, table: str, partition: Partition) -> bool:
        """Ask the metastore alone, which reads no file and runs no job."""
        check_identifier(table)
        check_partition_values(partition)
        with self._session() as session:
            try:
                return bool(session.execute(show_partition(table, partition)).num_rows)
            except RefusedByServerError as error:
                if error.no_such_table:
                    return False
                raise StatementError(f"table {table} does not say its partitions: {error}") from error

    def _fill(self, session: HiveSession, table: str, fillings: Iterable[Filling]) -> list[Sequence[pa.Table]]:
        """Write the rows of queries into partitions of a table, and return what was gathered."""
        gathered: list[Sequence[pa.Table]] = []
        with SideTables(session) as side:
            series = _Series(session, side, RowTexts(session.engine), set())
            for each in fillings:
                write = partial(series.write, each)
                gathered.append(self._known.using(table, lambda: self._existing(session, table), write))
        return gathered

    @override
    def replace_each_from(
        self, table: str, partition: Partition, statement: exp.Expression, params: Mapping[str, Value]
    ) -> None:
        """Make the rows of a query the partitions that they name: one INSERT on the server."""
        check_identifier(table)
        check_partition_values(partition)
        with self._session() as session:

            def write(schema: TableSchema) -> None:
                key, flat = innermost_of(schema, partition)
                rows = rows_for(flat, statement)
                sources = tables_of(rows)
                if not sources and session.engine is Engine.SPARK:
                    # the rows stand in the statement: Spark would have a task, and a file, for each of them
                    rows = rows.hint("COALESCE(1)", dialect="spark", copy=False)
                sql = insert_each(schema, partition, key, *rendered(rows, params, session.engine))
                with _statement_errors(session, params):
                    for source, database in sources:
                        _refresh(session, source, database)
                    session.execute(sql)

            self._known.using(table, lambda: self._existing(session, table), write)

    def _existing(self, session: HiveSession, table: str) -> TableSchema:
        with _write_errors(f"a partition of {table} is not written"):
            schema = describe(session, table)
        if schema is None:
            raise WarehouseWriteError(f"table {table} does not exist in {self._settings.database}")
        return schema

    def _replace_inline(self, session: HiveSession, schema: TableSchema, partition: Partition, rows: pa.Table) -> None:
        try:
            session.execute(insert_values(schema, partition, rows))
        except RefusedByServerError as error:
            # the server's words may repeat the values, so only the class of its error goes on
            raise WarehouseWriteError(f"a partition of {schema.name} is not written: {without_values(error)}") from None

    def _replace_staged(
        self, session: HiveSession, staging: Staging, schema: TableSchema, partition: Partition, rows: pa.Table
    ) -> None:
        name = f"fp_staging_{uuid.uuid4().hex}"
        with staging.parked(name, rows) as uri:
            session.execute(create_staging(schema, name, uri))
            try:
                session.execute(insert_staged(schema, partition, name))
            finally:
                with contextlib.suppress(RefusedByServerError, WarehouseUnavailableError):
                    session.execute(f"DROP TABLE IF EXISTS `{name}`")

    @override
    def describe(self, table: str) -> TableSchema | None:
        """Return what DESCRIBE says."""
        with self._session() as session:
            return describe(session, table)

    @override
    def read(self, table: str, columns: Sequence[str], where: Partition) -> pa.Table:
        """Return columns of the rows of all partitions that match `where`."""
        check_identifier(table)
        for column in columns:
            check_identifier(column)
        check_partition_values(where)
        with self._session() as session:
            try:
                _refresh(session, table)
                found = session.execute(select(table, columns, where))
            except RefusedByServerError as error:
                if error.no_such_table:
                    return pa.table({column: pa.nulls(0) for column in columns})
                raise StatementError(f"table {table} cannot be read: {error}") from error
        return found.rename_columns(list(columns))

    @override
    def run(self, statement: exp.Expression, params: Mapping[str, Value]) -> pa.Table:
        """Execute a query in the server's engine and return its rows."""
        if not isinstance(statement, exp.Query):
            raise StatementError("only a query can be run")
        with self._session() as session:
            sql = "".join(rendered(statement, params, session.engine))
            with _statement_errors(session, params):
                for table, database in tables_of(statement):
                    _refresh(session, table, database)
                return _asked(session, sql)

    @override
    def close(self) -> None:
        """End the session; one that another thread's statement is under way in is left to the end of the process."""
        if not self._lock.acquire(timeout=CLOSE_S):
            # a server that hangs must not keep a process from ending
            logger.warning("hive.close_abandoned", extra={"address": self._settings.address})
            return
        try:
            if self._open is not None:
                self._open.close()
                self._open = None
        finally:
            self._lock.release()

    @contextlib.contextmanager
    def _session(self) -> Iterator[HiveSession]:
        """Hold the lock and give a living session; forget it when it breaks."""
        with self._lock:
            if self._open is not None and not self._open.is_alive():
                logger.info("hive.session_lost", extra={"address": self._settings.address})
                self.close()
            if self._open is None:
                self._open = open_session(self._settings)
            try:
                yield self._open
            except WarehouseUnavailableError:
                self.close()
                raise


@dataclass(frozen=True, slots=True)
class _Series:
    """Fills partitions one after the other; what has to be done for all of them once, it does for the first."""

    session: HiveSession
    side: SideTables
    texts: RowTexts
    refreshed: set[tuple[str, str]]

    def write(self, filling: Filling, schema: TableSchema) -> Sequence[pa.Table]:
        """Fill a partition, and return what was gathered of its rows."""
        session, params = self.session, filling.params
        check_partition(schema, filling.partition)
        text = self.texts.of(schema, filling)
        query = text.bound(params)
        with _statement_errors(session, params):
            for each in text.tables:
                if each not in self.refreshed:
                    _refresh(session, *each)
                    self.refreshed.add(each)
            names = self.side.tables_of(filling.summaries)
            if names or filling.beside:
                summaries = filling.summaries if names else ()
                selects = ["".join(rendered(one, params, session.engine)) for one in summaries]
                gathered = dict(zip(names, selects, strict=True))
                session.execute(insert_and_gather(schema, filling.partition, *query, gathered))
            else:
                session.execute(insert_query(schema, filling.partition, *query))
            return [session.execute(f"SELECT * FROM `{name}`") for name in names]


def _asked(session: HiveSession, sql: str) -> pa.Table:
    """Return what a query gives, asked again where another session's partition was in its way."""
    for pause_s in PAUSES_S:
        try:
            return session.execute(sql)
        except RefusedByServerError as error:
            if not error.is_momentary:
                raise
            logger.warning("hive.asked_again", extra={"reason": without_values(error)})
            time.sleep(pause_s)
    return session.execute(sql)


@contextlib.contextmanager
def _statement_errors(session: HiveSession, params: Mapping[str, Value]) -> Iterator[None]:
    """Turn a refusal into a `StatementError` that tells none of the values."""
    try:
        yield
    except RefusedByServerError as error:
        raise StatementError(f"{session.engine} refused the statement: {without_bound(error, params)}") from None


@contextlib.contextmanager
def _write_errors(what: str) -> Iterator[None]:
    """Turn a refusal into a `WarehouseWriteError` that begins with `what`."""
    try:
        yield
    except RefusedByServerError as error:
        raise WarehouseWriteError(f"{what}: {error}") from error


def _refresh(session: HiveSession, table: str, database: str = "") -> None:
    """Make Spark forget which files a table had: another session may have replaced them."""
    if session.engine is Engine.SPARK:
        names = [check_identifier(name) for name in (database, table) if name]
        session.execute(f"REFRESH TABLE {'.'.join(f'`{name}`' for name in names)}")
