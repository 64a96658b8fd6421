"""The embedded warehouse: Parquet files in Hive's layout, queried by DuckDB in memory, for several processes at once.

The files are read by Arrow and handed to DuckDB, which itself may touch no file and no network.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from operator import and_
from pathlib import Path
from typing import TypeVar
from uuid import uuid4

import duckdb
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.fs
import pyarrow.parquet as pq
from sqlglot import exp
from typing_extensions import override

from fedpredict.errors import StatementError, TableCorruptError, WarehouseWriteError
from fedpredict.warehouse.base import ARROW_TYPES, Column, Partition, TableSchema, Value, Warehouse
from fedpredict.warehouse.local_files import PartitionFile, TableFolder, unreadable
from fedpredict.warehouse.local_statement import equalities, placeholders, referenced_tables

logger = logging.getLogger(__name__)

_T = TypeVar("_T")

_FORMAT = ds.ParquetFileFormat(
    default_fragment_scan_options=ds.ParquetFragmentScanOptions(page_checksum_verification=True)
)
_DISK = pyarrow.fs.LocalFileSystem()
_LISTINGS = 20
"""How often a read starts again because a partition was removed between listing and opening its file."""


class LocalWarehouse(Warehouse):
    """A folder of tables. Any number of processes and threads may read and write it."""

    def __init__(self, root: Path) -> None:
        """Point at the folder; nothing is opened yet, and the folder is made by the first `ensure`.

        Args:
            root: The folder of the warehouse.
        """
        self._root = root.absolute()
        self._engine: duckdb.DuckDBPyConnection | None = None
        self._opening = threading.Lock()

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
        schema = folder.schema()
        if schema is None:
            raise WarehouseWriteError(f"warehouse {self._root} has no table {table}; it must be ensured first")
        complete = _complete(schema, rows)
        with folder.locked():
            folder.write_partition(
                schema,
                partition,
                (lambda file: pq.write_table(complete, file, compression="zstd", write_page_checksum=True))
                if complete.num_rows
                else None,
            )
        logger.info("warehouse.replaced", extra={"table": table, "rows": complete.num_rows})

    @override
    def read(self, table: str, columns: Sequence[str], where: Partition) -> pa.Table:
        """Return columns of the rows of all partitions that match `where`."""
        folder = TableFolder(self._root, table)
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
        if not isinstance(statement, exp.Query):
            raise StatementError("only a query can be run")
        missing = sorted(placeholders(statement) - set(params))
        if missing:
            raise StatementError(f"no value for {', '.join(missing)}")
        tree = statement.copy()
        sources: list[tuple[TableFolder, TableSchema, Partition]] = []
        for number, reference in enumerate(referenced_tables(tree)):
            folder = TableFolder(self._root, reference.name)
            schema = folder.schema()
            if schema is None:
                raise StatementError(f"warehouse {self._root} has no table {reference.name}")
            sources.append((folder, schema, equalities(reference, schema, params)))
            reference.set("alias", exp.TableAlias(this=exp.to_identifier(reference.alias_or_name, quoted=True)))
            reference.set("this", exp.to_identifier(_scan_name(number), quoted=True))
        sql = tree.sql(dialect="duckdb", identify=True)
        bound = {name: params[name] for name in placeholders(statement)}
        schemas = [schema for _, schema, _ in sources]
        return self._listing_again(
            lambda: [folder.files(schema, where) for folder, schema, where in sources],
            lambda listed: self._query(sql, bound, list(map(_dataset, schemas, listed))),
        )

    @override
    def close(self) -> None:
        """Release the engine; the next query opens another."""
        with self._opening:
            if self._engine is not None:
                self._engine.close()
                self._engine = None

    def _listing_again(self, listing: Callable[[], _T], use: Callable[[_T], pa.Table]) -> pa.Table:
        for _ in range(_LISTINGS):
            files = listing()
            try:
                return use(files)
            except (OSError, StatementError) as error:
                if listing() != files:
                    continue
                if isinstance(error, OSError):
                    raise unreadable(self._root, error) from error
                raise
        raise StatementError(f"warehouse {self._root} changes faster than it can be read; repeat")

    def _scan(self, schema: TableSchema, files: list[PartitionFile], columns: list[str]) -> pa.Table:
        try:
            return _dataset(schema, files).to_table(columns=columns)
        except pa.ArrowInvalid as error:
            raise TableCorruptError(
                f"table {schema.name} has a damaged file ({error}); restore it, or load or convert again"
            ) from error
        except OSError as error:
            if error.errno is None:  # Arrow's own finding, such as a wrong checksum
                raise TableCorruptError(
                    f"table {schema.name} in {self._root} has a damaged file ({error}); restore it, or load or convert"
                    " again"
                ) from error
            raise

    def _query(self, sql: str, params: dict[str, Value], sources: list[ds.Dataset]) -> pa.Table:
        try:
            with self._connection().cursor() as cursor:
                for number, source in enumerate(sources):
                    cursor.register(_scan_name(number), source)
                result = cursor.sql(sql, params=params).to_arrow_table()
        except duckdb.Error as error:
            raise StatementError(f"the embedded engine refused a statement: {error}") from error
        return _plain(result)

    def _connection(self) -> duckdb.DuckDBPyConnection:
        with self._opening:
            if self._engine is None:
                self._engine = _open_engine(self._root / f".spill-{uuid4().hex}")
            return self._engine


def _open_engine(spill: Path) -> duckdb.DuckDBPyConnection:
    engine = duckdb.connect(
        ":memory:",
        config={
            "enable_external_access": "false",
            "autoinstall_known_extensions": "false",
            "autoload_known_extensions": "false",
            "python_enable_replacements": "false",
            "temp_directory": str(spill),
        },
    )
    engine.execute("SET GLOBAL TimeZone = 'UTC'")
    return engine


def _scan_name(number: int) -> str:
    return f"__fp_scan_{number}"


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


def _dataset(schema: TableSchema, files: list[PartitionFile]) -> ds.Dataset:
    types = pa.schema([(column.name, ARROW_TYPES[column.type]) for column in _all_columns(schema)])
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
