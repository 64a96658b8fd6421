"""The contract of a warehouse: few calls, the same facts on every engine.

- A partition is written whole or not at all, by one `replace`; a reader sees all of it or what was there before.
- Every float64 comes back bit-equal; NULL, NaN and infinities too. Timestamps are UTC with microseconds.
- Table and column names are lower-case identifiers that passed `check_identifier`; values are bound, or rendered as
  typed literals.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol, TypeAlias, runtime_checkable

import pyarrow as pa

from fedpredict.errors import NameRefusedError

if TYPE_CHECKING:  # a parser of SQL is large, and who only reads and writes tables needs none
    from sqlglot import exp

Partition: TypeAlias = Mapping[str, str | int]
"""Partition column -> value. Text values are 1 to 200 of `[A-Za-z0-9._-]`, starting with a letter or digit."""

Value: TypeAlias = str | int | float | None

_IDENTIFIER = re.compile(r"[a-z0-9_]{1,126}")
_PARTITION_TEXT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")


class ColumnType(StrEnum):
    """The types that tables are made of."""

    INT = "int"
    BIGINT = "bigint"
    DOUBLE = "double"
    STRING = "string"
    BOOLEAN = "boolean"
    TIMESTAMP = "timestamp"
    DOUBLES = "array<double>"
    """A list of numbers, at least one and none of them NULL; the list itself may be.

    Hive keeps a negative zero in it as zero, where the rows are few enough to be written as literals.
    """


ARROW_TYPES: dict[ColumnType, pa.DataType] = {
    ColumnType.INT: pa.int32(),
    ColumnType.BIGINT: pa.int64(),
    ColumnType.DOUBLE: pa.float64(),
    ColumnType.STRING: pa.string(),
    ColumnType.BOOLEAN: pa.bool_(),
    ColumnType.TIMESTAMP: pa.timestamp("us", tz="UTC"),
    ColumnType.DOUBLES: pa.list_(pa.float64()),
}
"""What rows look like on both ways through the Protocol."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table."""

    name: str
    type: ColumnType

    def __post_init__(self) -> None:
        check_identifier(self.name)


@dataclass(frozen=True, slots=True)
class TableSchema:
    """A table: its columns, and the columns that it is partitioned by (STRING, INT or BIGINT), outermost first."""

    name: str
    columns: tuple[Column, ...]
    partitioned_by: tuple[Column, ...]

    def __post_init__(self) -> None:
        check_identifier(self.name)
        names = [column.name for column in (*self.columns, *self.partitioned_by)]
        if len(set(names)) != len(names):
            raise NameRefusedError(f"table {self.name} has a column twice")

    @property
    def arrow_schema(self) -> pa.Schema:
        """The Arrow schema of a partition's rows: `columns` only, in order."""
        return pa.schema([(column.name, ARROW_TYPES[column.type]) for column in self.columns])


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """What computes a warehouse's queries.

    Attributes:
        name: "duckdb", "spark" or "hive".
        version: As the engine says it.
    """

    name: str
    version: str


class TableWriter(Protocol):
    """What changes tables."""

    def ensure(self, schema: TableSchema) -> None:
        """Create the table, or add the columns it lacks; rows that are there keep NULL in them.

        Raises:
            WarehouseWriteError: An existing column has another type, or the engine refused.
            WarehouseUnavailableError: The engine cannot be reached.
        """

    def replace(self, table: str, partition: Partition, rows: pa.Table) -> None:
        """Make `rows` the whole content of one partition; zero rows remove it.

        Args:
            table: A table that `ensure` was called for.
            partition: A value for every partition column.
            rows: Columns of the table by name, any of them missing becomes NULL; in the types of `ARROW_TYPES`.

        Raises:
            WarehouseWriteError: Nothing became visible.
            WarehouseUnavailableError: The engine cannot be reached; whether the rows are visible is unknown.
        """

    def replace_from(
        self, table: str, partition: Partition, statement: exp.Expression, params: Mapping[str, Value]
    ) -> int:
        """Make the rows of a query the whole content of one partition, computed and written by the engine itself.

        Args:
            table: A table that `ensure` was called for.
            partition: A value for every partition column.
            statement: A query as for `run`, over other tables. Its columns go to those of the table by name, any of
                them missing becomes NULL; each is cast to the column's type, which is for widths of whole numbers and
                decimals: what a cast of text does that is no number is the engine's own.
            params: Name -> value to bind.

        Returns:
            The rows written; none remove the partition.

        Raises:
            StatementError: The engine refused the query, or it reads `table`; nothing became visible.
            WarehouseWriteError: Nothing became visible.
            WarehouseUnavailableError: The engine cannot be reached; whether the rows are visible is unknown.
        """

    def replace_each_from(
        self, table: str, partition: Partition, statement: exp.Expression, params: Mapping[str, Value]
    ) -> None:
        """Make the rows of a query the whole content of the partitions that they name; all others stay.

        Each of these partitions is written whole or not at all; a call that fails may have written some of them, and is
        made good by being made again.

        Args:
            table: A table that `ensure` was called for; its innermost partition column is INT or BIGINT.
            partition: A value for every partition column but the innermost.
            statement: As for `replace_from`; it also gives the innermost partition column, never NULL.
            params: Name -> value to bind.

        Raises:
            StatementError, WarehouseWriteError: As for `replace_from`, of the partitions not yet written.
            WarehouseUnavailableError: The engine cannot be reached; which partitions are visible is unknown.
        """


class RowWatch(Protocol):
    """Looks at rows on their way into a partition.

    Attributes:
        further: The column that it is shown beside those of the table; it is not stored.
    """

    further: Column

    def begin(self) -> None:
        """Forget all rows: the query begins, or begins again."""

    def add(self, batch: pa.RecordBatch) -> None:
        """Look at some rows, which follow those before."""


@runtime_checkable
class LeavesFiles(Protocol):
    """A warehouse whose writers leave files that nobody reads where they are killed."""

    def remove_unfinished(self) -> None:
        """Remove them, and wait for whoever is writing at this moment.

        Raises:
            WarehouseWriteError: The folder cannot be written.
        """


@runtime_checkable
class WatchedWriter(Protocol):
    """A warehouse whose rows pass through this process when a query fills a partition, so that they can be seen."""

    def replace_from_watched(
        self,
        table: str,
        partition: Partition,
        statement: exp.Expression,
        params: Mapping[str, Value],
        *,
        watch: RowWatch,
    ) -> int:
        """Do as `TableWriter.replace_from`, with a statement that gives `watch.further` too, and show the rows.

        A statement given again, the same object with other values, costs less; so it must not change meanwhile.
        """


@dataclass(frozen=True, slots=True)
class Filling:
    """What becomes the content of a partition: a query's rows, and what to bind in it; as for `replace_from`.

    Attributes:
        partition: Which.
        statement: The query; where several fillings have the same object, its text is made once, so it must not change.
        params: Name -> value to bind, also in `summaries`.
        summaries: What to gather of the rows while they are written: queries without a FROM, over the statement's
            columns, whose own columns have names and are whole numbers.
        beside: Columns of the statement that the table has not, for the summaries alone.
    """

    partition: Partition
    statement: exp.Expression
    params: Mapping[str, Value]
    summaries: Sequence[exp.Select] = ()
    beside: Sequence[str] = ()


@runtime_checkable
class SeriesWriter(Protocol):
    """A warehouse behind a server, where each statement costs something whatever its rows: many should share one."""

    @property
    def gathers(self) -> bool:
        """Whether its engine can gather summaries in the pass that writes; what a session may not do is seen later."""

    def replace_series_from(self, table: str, fillings: Iterable[Filling]) -> list[Sequence[pa.Table]]:
        """Do as `TableWriter.replace_from` for one partition after the other, and count nothing but their summaries.

        A partition whose query has no rows is left empty, for the caller to find out and to remove. Which files sources
        have is looked up when the first query reads them, and not again.

        Args:
            table: A table that `ensure` was called for.
            fillings: Asked for the next when the one before is written; what it raises ends the series.

        Returns:
            For each partition the rows of its summaries; none at all where the engine would need a pass of its own for
            them, or the session may not gather, and the caller may as well ask for what is stored.

        Raises:
            StatementError, WarehouseWriteError, WarehouseUnavailableError: As for `replace_from`; the partitions before
                stay written.
        """

    def has_partition(self, table: str, partition: Partition) -> bool:
        """Return whether a partition exists, without a look at its rows; of a table that does not, none.

        Args:
            table: Which.
            partition: A value for every partition column.

        Raises:
            StatementError, WarehouseUnavailableError: As the engine says.
        """


class Warehouse(TableWriter, Protocol):
    """One party's warehouse. Calls may come from any thread; each blocks until the engine is done."""

    @property
    def engine(self) -> EngineInfo:
        """What runs the queries; asks the server where there is one.

        Raises:
            WarehouseUnavailableError: The engine cannot be reached.
        """

    def describe(self, table: str) -> TableSchema | None:
        """Return a table's columns and what it is partitioned by, or None where there is no such table.

        Raises:
            WarehouseWriteError: It has a column of a type or name that no table of ours has.
            WarehouseUnavailableError: The engine cannot be reached.
        """

    def read(self, table: str, columns: Sequence[str], where: Partition) -> pa.Table:
        """Return columns (partition columns too) of the rows of all partitions that match `where`, in any order.

        A table that does not exist has no rows: an empty result whose columns have type null.

        Raises:
            WarehouseUnavailableError, StatementError: As the engine says.
        """

    def run(self, statement: exp.Expression, params: Mapping[str, Value]) -> pa.Table:
        """Execute a query and return its rows.

        Args:
            statement: A sqlglot tree over tables of this warehouse, with `exp.Placeholder(this=name)` for values.
            params: Name -> value to bind.
        """

    def close(self) -> None:
        """Release connections; closing twice is harmless."""


def check_identifier(name: str) -> str:
    """Return `name` if it may name a table or column in every engine: lower-case letters, digits, underscore.

    Raises:
        NameRefusedError: With the name and the rule.

    >>> check_identifier("w_mean_radius")
    'w_mean_radius'
    """
    if _IDENTIFIER.fullmatch(name) is None:
        raise NameRefusedError(f"{name[:200]!r} cannot name a table or column: 1 to 126 of a-z, 0-9 and '_'")
    return name


def check_partition(schema: TableSchema, partition: Partition) -> None:
    """Check that `partition` has a usable value for exactly the partition columns of `schema`.

    Raises:
        NameRefusedError: A column is missing or unknown, or a value breaks the rule.
    """
    expected = [column.name for column in schema.partitioned_by]
    if sorted(partition) != sorted(expected):
        raise NameRefusedError(
            f"table {schema.name} is partitioned by {', '.join(expected)}, not {', '.join(partition)}"
        )
    check_partition_values(partition)


def check_partition_values(partition: Partition) -> None:
    """Check values alone, as for a filter on some of the partition columns; raise `NameRefusedError`."""
    for name, value in partition.items():
        check_identifier(name)
        if isinstance(value, str) and _PARTITION_TEXT.fullmatch(value) is None:
            raise NameRefusedError(
                f"{value[:200]!r} cannot be a partition value of {name}: 1 to 200 of A-Z, a-z, 0-9, '.', '_', '-'"
            )
