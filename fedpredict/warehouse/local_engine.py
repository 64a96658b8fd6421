"""The engine of the embedded warehouse: DuckDB in memory. Apart, because serving models needs neither it nor datasets.

The files are read by Arrow and handed to DuckDB, which itself may touch no file and no network.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
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
from fedpredict.warehouse.local_scan import MOST_FILES, quoted, scan_of

_FORMAT = ds.ParquetFileFormat(
    default_fragment_scan_options=ds.ParquetFragmentScanOptions(page_checksum_verification=True)
)
_DISK = pyarrow.fs.LocalFileSystem()

LARGE_BYTES = 16 << 20
"""Files above it are read by DuckDB itself, not through Arrow."""

BATCH_ROWS = 122_880
"""Rows of a batch: DuckDB's own group of rows, at ten columns some ten megabytes."""


class LocalEngine:
    """An open engine."""

    def __init__(self, spill: Path) -> None:
        """Open it.

        Args:
            spill: A folder that it makes where memory runs out.
        """
        self._spill = spill
        self._connection = _open_engine(spill)

    def query(
        self,
        sql: str,
        params: Mapping[str, Value],
        sources: Mapping[str, tuple[TableSchema, Sequence[PartitionFile]]],
    ) -> pa.Table:
        """Return the rows of a query.

        Args:
            sql: In DuckDB's dialect.
            params: Values to bind.
            sources: What the query calls a table -> its layout and files. Files that are large together are read as
                for `batches`.

        Raises:
            OSError: A file cannot be read.
            StatementError: The engine refused.
        """
        if sum(file.path.stat().st_size for _, files in sources.values() for file in files) > LARGE_BYTES:
            with self.batches(sql, params, sources) as batches:
                return _plain(pa.Table.from_batches(batches, batches.schema))
        with _refusals(), self._connection.cursor() as cursor:
            for name, (schema, files) in sources.items():
                cursor.register(name, _dataset(schema, files))
            return _plain(cursor.sql(sql, params=dict(params)).to_arrow_table())

    @contextmanager
    def batches(
        self,
        sql: str,
        params: Mapping[str, Value],
        sources: Mapping[str, tuple[TableSchema, Sequence[PartitionFile]]],
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
        allowed = [file.path for _, files in sources.values() if len(files) <= MOST_FILES for file in files]
        spill = self._spill.with_name(f"{self._spill.name}-{uuid4().hex}")
        with _open_engine(spill, allowed) as connection:
            with _refusals():
                if memory:
                    connection.execute(f"SET memory_limit = '{memory}'")
                for name, (schema, files) in sources.items():
                    if len(files) <= MOST_FILES:
                        connection.execute(f'CREATE TEMP VIEW "{name}" AS {scan_of(schema, files)}')
                    else:
                        connection.register(name, _dataset(schema, files))
                reader = connection.sql(sql, params=dict(params)).to_arrow_reader(BATCH_ROWS)
            yield _Batches(reader)

    def close(self) -> None:
        """Let go of its memory."""
        self._connection.close()


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

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        while True:
            try:
                batch = self._reader.read_next_batch()
            except StopIteration:
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
    engine.execute("SET preserve_insertion_order = false")  # rows have no order here, and keeping it costs a fifth
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
