"""The engine of the embedded warehouse: DuckDB in memory. Apart, because serving models needs neither it nor datasets.

The files are read by Arrow and handed to DuckDB, which itself may touch no file and no network.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import reduce
from operator import and_
from pathlib import Path
from uuid import uuid4

import duckdb
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.fs

from fedpredict.errors import StatementError
from fedpredict.warehouse.base import ARROW_TYPES, TableSchema, Value
from fedpredict.warehouse.local_files import PartitionFile
from fedpredict.warehouse.local_scan import MOST_FILES, Source, quoted, scan_of

_FORMAT = ds.ParquetFileFormat(
    default_fragment_scan_options=ds.ParquetFragmentScanOptions(page_checksum_verification=True)
)
_DISK = pyarrow.fs.LocalFileSystem()

LARGE_BYTES = 16 << 20
"""Files above it are read by DuckDB itself, not through Arrow."""

BATCH_ROWS = 122_880
"""Rows of a batch: DuckDB's own group of rows, at ten columns some ten megabytes."""

_MOST_IDLE = 2
IDLE_S = 2.0
"""So many engines wait so long for the next query of the same files, such as that of the next bucket: to open one, and
to let it find its memory again, takes as long as 200,000 rows. What waits holds that memory, and so waits no longer."""


class LocalEngine:
    """An open engine."""

    def __init__(self, spill: Path) -> None:
        """Open it.

        Args:
            spill: A folder that it makes where memory runs out.
        """
        self._spill = spill
        self._connection = _open_engine(spill)
        self._idle: list[_Idle] = []
        self._lending = threading.Lock()
        self._timer: threading.Timer | None = None
        self._is_closed = False

    def query(
        self,
        sql: str,
        params: Mapping[str, Value],
        sources: Mapping[str, Source],
    ) -> pa.Table:
        """Return the rows of a query.

        Args:
            sql: In DuckDB's dialect.
            params: Values to bind.
            sources: What the query calls a table -> its rows. Files that are large together are read as for `batches`.

        Raises:
            OSError: A file cannot be read.
            StatementError: The engine refused.
        """
        if sum(file.path.stat().st_size for source in sources.values() for file in source.files) > LARGE_BYTES:
            with self.batches(sql, params, sources) as batches:
                return _plain(pa.Table.from_batches(batches, batches.schema))
        with _refusals(), self._connection.cursor() as cursor:
            for name, source in sources.items():
                cursor.register(name, _dataset(source.schema, source.files))
            return _plain(cursor.sql(sql, params=dict(params)).to_arrow_table())

    @contextmanager
    def batches(
        self,
        sql: str,
        params: Mapping[str, Value],
        sources: Mapping[str, Source],
        *,
        memory: str = "",
    ) -> Iterator[_Batches]:
        """Give the rows of a query in batches of about `BATCH_ROWS`, computed while they are taken; else as `query`.

        Files are read by DuckDB itself, in a connection that may touch no others; see `local_scan`. What is
        beyond `memory`, in DuckDB's words ("1GB"), goes to the disk.

        Raises:
            OSError: A file cannot be read.
            StatementError: The engine refused, now or at any batch.
        """
        named = [source.files for source in sources.values() if len(source.files) <= MOST_FILES]
        allowed = [file.path for files in named for file in files]
        with self._lent(tuple(allowed), memory) as loan:
            connection = loan.connection
            with _refusals():
                for name, source in sources.items():
                    if len(source.files) <= MOST_FILES:
                        connection.execute(f'CREATE TEMP VIEW "{name}" AS {scan_of(source)}')
                    else:
                        connection.register(name, _dataset(source.schema, source.files))
                reader = connection.sql(sql, params=dict(params)).to_arrow_reader(BATCH_ROWS)
            taken = _Batches(reader)
            yield taken
            loan.is_over = taken.is_exhausted  # what is left early goes on computing

    def close(self) -> None:
        """Let go of its memory; that of queries under way, when they end."""
        self._connection.close()
        with self._lending:
            self._is_closed = True
            if self._timer is not None:
                self._timer.cancel()
            gone, self._idle = self._idle, []
        for each in gone:
            each.engine.close()

    @contextmanager
    def _lent(self, allowed: tuple[Path, ...], memory: str) -> Iterator[_Loan]:
        """Lend a connection to an engine that may touch these files alone: to one that is idle, or to a new one."""
        with self._lending:
            at = next((at for at, each in enumerate(self._idle) if each.files == allowed and not memory), None)
            engine = None if at is None else self._idle.pop(at).engine
        if engine is None:
            engine = _open_engine(self._spill.with_name(f"{self._spill.name}-{uuid4().hex}"), allowed)
        try:
            if memory:
                engine.execute(f"SET GLOBAL memory_limit = '{memory}'")
            with engine.cursor() as connection:
                loan = _Loan(connection)
                yield loan
        except BaseException:
            engine.close()
            raise
        if loan.is_over and not memory:
            self._keep(allowed, engine)
        else:
            engine.close()

    def _keep(self, allowed: tuple[Path, ...], engine: duckdb.DuckDBPyConnection) -> None:
        with self._lending:
            self._idle.append(_Idle(allowed, engine, time.monotonic()))
            gone = self._too_many_or_old()
            self._wait()
        for each in gone:
            each.engine.close()

    def _let_go(self) -> None:
        """Close what nobody asked for long enough."""
        with self._lending:
            self._timer = None
            gone = self._too_many_or_old()
            self._wait()
        for each in gone:
            each.engine.close()

    def _too_many_or_old(self) -> list[_Idle]:
        """Take what may wait no longer from the idle ones, which stand in the order of their times."""
        now, newest = time.monotonic(), self._idle[-_MOST_IDLE:]
        kept = [each for each in newest if now - each.since < IDLE_S and not self._is_closed]
        gone = [each for each in self._idle if each not in kept]
        self._idle = kept
        return gone

    def _wait(self) -> None:
        """Have one timer run, where anything is idle, to when the first of them has waited long enough."""
        if self._timer is not None or not self._idle:
            return
        left = IDLE_S - (time.monotonic() - self._idle[0].since)
        # it does not keep an engine that nobody knows any more
        self._timer = threading.Timer(max(left, 0.0), _let_go_of, [weakref.ref(self)])
        self._timer.daemon = True
        self._timer.start()


@dataclass(frozen=True, slots=True, eq=False)
class _Idle:
    """An engine that waits, the files that it may touch, and since when (`time.monotonic`)."""

    files: tuple[Path, ...]
    engine: duckdb.DuckDBPyConnection
    since: float


@dataclass(slots=True)
class _Loan:
    """A connection to an engine that is lent, and whether its query came to its end."""

    connection: duckdb.DuckDBPyConnection
    is_over: bool = False


def _let_go_of(engine: weakref.ref[LocalEngine]) -> None:
    found = engine()
    if found is not None:
        found._let_go()  # noqa: SLF001 - its own, of a moment ago


class MemoryEngine:
    """An engine for rows that are in memory already; calls may come from any thread."""

    def __init__(self) -> None:
        """Open it."""
        self._connection = _open_engine(None)
        self._connection.execute("SET GLOBAL threads = 1")  # the questions are what goes on side by side

    def query(self, sql: str, params: Mapping[str, Value], tables: Mapping[str, pa.Table]) -> pa.Table:
        """Return the rows of a query.

        Args:
            sql: In DuckDB's dialect.
            params: Values to bind.
            tables: What the query calls them -> rows.

        Raises:
            StatementError: The engine refused.
        """
        with _refusals(), self._connection.cursor() as cursor:
            for name, rows in tables.items():
                cursor.register(name, rows)
            return _plain(cursor.sql(sql, params=dict(params)).to_arrow_table())

    def close(self) -> None:
        """Let go of its memory."""
        self._connection.close()


@contextmanager
def _refusals() -> Iterator[None]:
    try:
        yield
    except (duckdb.Error, pa.ArrowInvalid) as error:
        raise StatementError(f"the embedded engine refused a statement: {error}") from error


class _Batches:
    """The rows of a query, batch by batch."""

    def __init__(self, reader: pa.RecordBatchReader) -> None:
        self._reader = reader
        self.schema: pa.Schema = reader.schema
        self.is_exhausted = False

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        while True:
            try:
                batch = self._reader.read_next_batch()
            except StopIteration:
                self.is_exhausted = True
                return
            except (pa.ArrowException, OSError, duckdb.Error) as error:  # the engine's errors come through Arrow
                raise StatementError(f"the embedded engine refused a statement: {error}") from error
            yield batch


def _open_engine(spill: Path | None, allowed: Sequence[Path] = ()) -> duckdb.DuckDBPyConnection:
    """Return an engine that may touch the files of `allowed`, and nothing else; without `spill`, no disk at all."""
    engine = duckdb.connect(
        ":memory:",
        config={
            "autoinstall_known_extensions": "false",
            "autoload_known_extensions": "false",
            "python_enable_replacements": "false",
            "temp_directory": "" if spill is None else str(spill),
        },
    )
    engine.execute("SET GLOBAL TimeZone = 'UTC'")
    engine.execute("SET GLOBAL preserve_insertion_order = false")  # rows have no order here; keeping it costs a fifth
    engine.execute("SET GLOBAL enable_external_file_cache = false")  # each is read once: nothing of it is kept
    if allowed:
        engine.execute(f"SET allowed_paths = [{', '.join(map(quoted, allowed))}]")
    engine.execute("SET enable_external_access = false")
    return engine


def _dataset(schema: TableSchema, files: Sequence[PartitionFile]) -> ds.Dataset:
    types = pa.schema([(column.name, ARROW_TYPES[column.type]) for column in (*schema.columns, *schema.partitioned_by)])
    keys = [types.field(column.name) for column in schema.partitioned_by]
    fragments = [
        _FORMAT.make_fragment(
            str(file.path),
            _DISK,
            partition_expression=reduce(
                and_,
                (
                    ds.field(key.name) == pa.scalar(value, key.type)
                    for key, value in zip(keys, file.values, strict=True)
                ),
            )
            if keys
            else None,
        )
        for file in files
    ]
    return ds.FileSystemDataset(fragments, types, _FORMAT, _DISK)


def _plain(table: pa.Table) -> pa.Table:
    fields = [
        field.with_type(pa.timestamp("us", tz="UTC")) if pa.types.is_timestamp(field.type) and field.type.tz else field
        for field in table.schema
    ]
    return table.cast(pa.schema(fields))
