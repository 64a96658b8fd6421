"""The embedded warehouse: Parquet files in Hive's layout, queried by DuckDB in memory.

Several processes use it at once.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from importlib.metadata import version
from io import BytesIO
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, TypeVar
from uuid import uuid4

import pyarrow as pa
import pyarrow.parquet as pq
from typing_extensions import override

from fedpredict.errors import StatementError, TableCorruptError, WarehouseWriteError
from fedpredict.warehouse.base import (
    ARROW_TYPES,
    Column,
    EngineInfo,
    LeavesFiles,
    Partition,
    RowWatch,
    TableSchema,
    Value,
    Warehouse,
    WatchedWriter,
    check_identifier,
    check_partition_values,
)
from fedpredict.warehouse.local_files import SCHEMA, PartitionFile, TableFolder, unreadable
from fedpredict.warehouse.local_writing import GROUP_ROWS, fill, runs, write_batches, writing

if TYPE_CHECKING:
    from sqlglot import exp

    from fedpredict.warehouse.local_engine import LocalEngine
    from fedpredict.warehouse.local_scan import Source
    from fedpredict.warehouse.local_statement import Query, TableFilling

logger = logging.getLogger(__name__)

_T = TypeVar("_T")
_R = TypeVar("_R")

_ENCODED_BYTES = 32 * 1024 * 1024
"""Rows of so many bytes, such as those of a bucket, are encoded in memory, without the table's lock: writers of several
partitions then share the processors."""

_SORT_MEMORY = "1GB"
"""What sorting the rows of many partitions may hold in memory."""

_ALL_DIFFERENT = frozenset({"sample_id", "position", "fp_place"})
"""Columns of which a dictionary takes longer to make than to do without, and no less room."""

_LISTINGS = 100
"""How often a read starts again because a partition was removed between listing and opening its file."""


class LocalWarehouse(Warehouse, WatchedWriter, LeavesFiles):
    """A folder of tables. Any number of processes and threads may read and write it."""

    def __init__(self, root: Path) -> None:
        """Point at the folder; nothing is opened yet, and the folder is made by the first `ensure`.

        Args:
            root: The folder of the warehouse.
        """
        self._root = root.absolute()
        self._engine: LocalEngine | None = None
        self._opening = threading.Lock()
        self._filling: TableFilling | None = None

    @property
    @override
    def engine(self) -> EngineInfo:
        """DuckDB."""
        return _engine()  # not opened for that: converting needs none

    @override
    def ensure(self, schema: TableSchema) -> None:
        """Create the table, or add the columns it lacks."""
        folder = TableFolder(self._root, schema.name)
        if self._root.is_dir() and _covers(folder.schema(), schema):
            return
        with folder.locked(create=True):
            existing = folder.schema()
            if not _covers(existing, schema):
                folder.write_schema(_merged(existing, schema))

    @override
    def replace(self, table: str, partition: Partition, rows: pa.Table) -> None:
        """Make `rows` the whole content of one partition; zero rows remove it."""
        folder = TableFolder(self._root, table)
        schema = self._written(folder)
        complete = _complete(schema, rows)
        fill = _filling(complete) if complete.num_rows else None
        with folder.locked():
            folder.write_partition(schema, partition, fill)
        logger.info("warehouse.replaced", extra={"table": table, "rows": complete.num_rows})

    @override
    def replace_from(
        self, table: str, partition: Partition, statement: exp.Expression, params: Mapping[str, Value]
    ) -> int:
        """Make the rows of a query the whole content of one partition; they pass through memory in batches.

        Writers of the table wait until the query is done, as for each other.
        """
        return self._replace_from(table, partition, statement, params, watch=None)

    @override
    def replace_from_watched(
        self,
        table: str,
        partition: Partition,
        statement: exp.Expression,
        params: Mapping[str, Value],
        *,
        watch: RowWatch,
    ) -> int:
        """Do what `replace_from` does, and show the rows, with one column more than is stored."""
        return self._replace_from(table, partition, statement, params, watch=watch)

    def _replace_from(
        self,
        table: str,
        partition: Partition,
        statement: exp.Expression,
        params: Mapping[str, Value],
        *,
        watch: RowWatch | None,
    ) -> int:
        from fedpredict.warehouse.local_statement import filling_of  # noqa: PLC0415 - as in `run`

        folder = TableFolder(self._root, table)
        schema = self._written(folder)
        given = schema if watch is None else replace(schema, columns=(*schema.columns, watch.further))
        self._filling = filling = filling_of(given, statement, self._schema_of, self._filling)
        query = filling.compiled.with_values(params)
        with folder.locked():
            n_rows = folder.write_partition(schema, partition, lambda file: self._fill(query, given, file, watch))
        logger.info("warehouse.replaced", extra={"table": table, "rows": n_rows})
        return n_rows

    @override
    def replace_each_from(
        self, table: str, partition: Partition, statement: exp.Expression, params: Mapping[str, Value]
    ) -> None:
        """Make the rows of a query the partitions that they name: sorted, on disk beyond `_SORT_MEMORY`."""
        from fedpredict.warehouse.insertion import innermost_of, rows_for  # noqa: PLC0415 - as in `run`
        from fedpredict.warehouse.local_statement import prepare  # noqa: PLC0415

        folder = TableFolder(self._root, table)
        schema = self._written(folder)
        key, flat = innermost_of(schema, partition)
        ordered = rows_for(flat, statement).order_by(f'"{key.name}"', dialect="duckdb", copy=False)
        query = prepare(ordered, params, self._schema_of)

        def begin_again(listed: list[list[PartitionFile]]) -> None:
            sources = _sources(query, listed)
            with self._opened().batches(query.sql, query.params, sources, memory=_SORT_MEMORY) as batches:
                for value, run in groupby(runs(batches, key.name), key=itemgetter(0)):
                    rows = (batch for _, batch in run)
                    named = {**partition, key.name: value}
                    folder.write_partition(schema, named, partial(fill, rows, schema.arrow_schema))

        with folder.locked():
            self._listing_again(lambda: self._listed(query), begin_again, by_number=query.is_ranged)
        logger.info("warehouse.replaced", extra={"table": table})

    @override
    def remove_unfinished(self) -> None:
        """Remove what writers that were killed left in the folders of tables."""
        for schema in sorted(self._root.glob(f"*/{SCHEMA}")):
            TableFolder(self._root, schema.parent.name).remove_unfinished()

    @override
    def describe(self, table: str) -> TableSchema | None:
        """Return what the table's schema file says."""
        return TableFolder(self._root, table).schema()

    @override
    def read(self, table: str, columns: Sequence[str], where: Partition) -> pa.Table:
        """Return columns of the rows of all partitions that match `where`."""
        folder = TableFolder(self._root, table)
        for column in columns:
            check_identifier(column)
        check_partition_values(where)  # also where there is no table yet: a refusal must not depend on what is stored
        schema = folder.schema()
        if schema is None:
            return pa.table({name: pa.nulls(0) for name in columns})
        unknown = sorted(set(columns) - {column.name for column in _all_columns(schema)})
        if unknown:
            raise StatementError(f"table {table} has no column {', '.join(unknown)}")
        return self._listing_again(
            lambda: folder.files(schema, where), lambda files: self._scan(schema, files, list(columns))
        )

    @override
    def run(self, statement: exp.Expression, params: Mapping[str, Value]) -> pa.Table:
        """Execute a query in DuckDB; only the partitions that its conditions name are listed."""
        # who only reads and writes needs no parser: importing it costs 16 MB
        from fedpredict.warehouse.local_statement import prepare  # noqa: PLC0415

        query = prepare(statement, params, self._schema_of)
        return self._listing_again(
            lambda: self._listed(query), lambda files: self._query(query, files), by_number=query.is_ranged
        )

    @override
    def close(self) -> None:
        """Release the engine; the next query opens another."""
        with self._opening:
            if self._engine is not None:
                self._engine.close()
                self._engine = None

    def _listing_again(self, listing: Callable[[], _T], use: Callable[[_T], _R], *, by_number: bool = False) -> _R:
        """Use files, and others where these went; `by_number`: or were replaced, as rows are named by their numbers."""
        for _ in range(_LISTINGS):
            files = listing()
            try:
                found = use(files)
            except (OSError, StatementError) as error:
                if listing() != files:
                    continue
                if isinstance(error, OSError) and error.errno is None:  # Arrow's own finding, such as a wrong checksum
                    raise TableCorruptError(
                        f"warehouse {self._root} has a damaged file ({error}); restore it, or load or convert again"
                    ) from error
                if isinstance(error, OSError):
                    raise unreadable(self._root, error) from error
                raise
            if not by_number or listing() == files:
                return found
        raise StatementError(f"warehouse {self._root} changes faster than it can be read; repeat")

    def _scan(self, schema: TableSchema, files: list[PartitionFile], columns: list[str]) -> pa.Table:
        types = {column.name: ARROW_TYPES[column.type] for column in _all_columns(schema)}
        wanted = pa.schema([(name, types[name]) for name in columns])
        return pa.concat_tables([wanted.empty_table(), *(_read_checked(schema, file, wanted) for file in files)])

    def _schema_of(self, table: str) -> TableSchema:
        schema = TableFolder(self._root, table).schema()
        if schema is None:
            raise StatementError(f"warehouse {self._root} has no table {table}")
        return schema

    def _written(self, folder: TableFolder) -> TableSchema:
        schema = folder.schema()
        if schema is None:
            raise WarehouseWriteError(f"warehouse {self._root} has no table {folder.table}; it must be ensured first")
        return schema

    def _listed(self, query: Query) -> list[list[PartitionFile]]:
        return [TableFolder(self._root, scan.table).files(scan.schema, scan.where) for scan in query.scans]

    def _query(self, query: Query, listed: list[list[PartitionFile]]) -> pa.Table:
        return self._opened().query(query.sql, query.params, _sources(query, listed))

    def _fill(self, query: Query, given: TableSchema, file: BinaryIO, watch: RowWatch | None) -> int:
        def begin_again(listed: list[list[PartitionFile]]) -> int:
            if watch is not None:
                watch.begin()
            with self._opened().batches(query.sql, query.params, _sources(query, listed)) as batches:
                return write_batches(batches, given.arrow_schema, file, watch)

        with writing():
            return self._listing_again(lambda: self._listed(query), begin_again, by_number=query.is_ranged)

    def _opened(self) -> LocalEngine:
        # who only reads and writes needs no engine: importing it costs as much memory as all else together
        from fedpredict.warehouse.local_engine import LocalEngine  # noqa: PLC0415

        with self._opening:
            if self._engine is None:
                self._engine = LocalEngine(self._root / f".spill-{uuid4().hex}")
            return self._engine


@cache
def _engine() -> EngineInfo:
    return EngineInfo("duckdb", version("duckdb"))


def _sources(query: Query, listed: list[list[PartitionFile]]) -> dict[str, Source]:
    from fedpredict.warehouse.local_scan import Source  # noqa: PLC0415 - as in `run`

    return {scan.name: Source(scan.schema, files, scan.within) for scan, files in zip(query.scans, listed, strict=True)}


def _filling(rows: pa.Table) -> Callable[[BinaryIO], int]:
    """Return what writes rows into a file; few of them are encoded already, before others have to wait."""
    if rows.nbytes > _ENCODED_BYTES:
        return lambda file: _write(rows, file)
    encoded = BytesIO()
    n_rows = _write(rows, encoded)

    def fill(file: BinaryIO) -> int:
        file.write(encoded.getbuffer())
        return n_rows

    return fill


def _write(rows: pa.Table, file: BinaryIO) -> int:
    coded = [name for name in rows.column_names if name not in _ALL_DIFFERENT]
    pq.write_table(
        rows, file, compression="zstd", write_page_checksum=True, row_group_size=GROUP_ROWS, use_dictionary=coded
    )
    return int(rows.num_rows)


def _all_columns(schema: TableSchema) -> tuple[Column, ...]:
    return (*schema.columns, *schema.partitioned_by)


def _covers(existing: TableSchema | None, wanted: TableSchema) -> bool:
    return (
        existing is not None
        and existing.partitioned_by == wanted.partitioned_by
        and set(wanted.columns) <= set(existing.columns)
    )


def _merged(existing: TableSchema | None, wanted: TableSchema) -> TableSchema:
    if existing is None:
        return wanted
    if existing.partitioned_by != wanted.partitioned_by:
        raise WarehouseWriteError(f"table {wanted.name} exists and is partitioned by other columns")
    types = {column.name: column.type for column in existing.columns}
    for column in wanted.columns:
        if types.setdefault(column.name, column.type) is not column.type:
            raise WarehouseWriteError(
                f"column {wanted.name}.{column.name} is {types[column.name]} and cannot become {column.type};"
                " name the new feature differently"
            )
    return TableSchema(wanted.name, tuple(Column(name, kind) for name, kind in types.items()), wanted.partitioned_by)


def _complete(schema: TableSchema, rows: pa.Table) -> pa.Table:
    """Return the rows with all columns of the table, in its order, or refuse what does not fit."""
    wanted = schema.arrow_schema
    types = {field.name: field.type for field in wanted}
    given = dict(zip(rows.column_names, rows.columns, strict=True))
    if len(given) != rows.num_columns:
        raise WarehouseWriteError(f"rows for {schema.name} have a column twice")
    unknown = sorted(set(given) - set(types))
    if unknown:
        raise WarehouseWriteError(f"table {schema.name} has no column {', '.join(unknown)}")
    wrong = [f"{name} ({column.type})" for name, column in given.items() if column.type != types[name]]
    if wrong:
        raise WarehouseWriteError(f"rows for {schema.name} have columns of another type: {', '.join(wrong)}")
    columns = [given[name] if name in given else pa.nulls(len(rows), kind) for name, kind in types.items()]
    return pa.table(columns, schema=wanted)


def _read_checked(schema: TableSchema, file: PartitionFile, wanted: pa.Schema) -> pa.Table:
    try:
        return _read_file(schema, file, wanted)
    except (pa.ArrowInvalid, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        # Arrow's own finding, such as a wrong checksum
        raise TableCorruptError(
            f"table {schema.name} has a damaged file, {file.path} ({error}); restore it, or load or convert again"
        ) from error


def _read_file(schema: TableSchema, file: PartitionFile, wanted: pa.Schema) -> pa.Table:
    """Return columns of a file's rows, and of its partition; what the file does not have yet is NULL."""
    values = dict(zip((column.name for column in schema.partitioned_by), file.values, strict=True))
    # in one thread: what the others would keep of the memory is more than what they save in time, and serving goes on
    with pq.ParquetFile(file.path, page_checksum_verification=True) as parquet:
        present = set(parquet.schema_arrow.names) - set(values)
        rows = parquet.read(columns=[name for name in wanted.names if name in present], use_threads=False)
        n_rows = parquet.metadata.num_rows
    columns = [
        pa.chunked_array([pa.repeat(pa.scalar(values[field.name], field.type), n_rows)])
        if field.name in values
        else rows.column(field.name).cast(field.type)
        if field.name in present
        else pa.chunked_array([pa.nulls(n_rows, field.type)])
        for field in wanted
    ]
    return pa.table(columns, schema=wanted)
