"""One person's rows in tables: where they are, and partitions written anew without them, by the engine itself.

An engine may not read a table that it writes (Spark), so what stays of a partition goes to a table of work first. A
call that is killed leaves the partition as it was, or as it shall be, and perhaps rows in that table, which the next
call removes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from hashlib import sha256

from sqlglot import exp

from fedpredict.tables import sql
from fedpredict.tables.names import PLACE
from fedpredict.tables.script import declared_column
from fedpredict.tables.script_shape import parse_shape
from fedpredict.tables.script_store import RegisteredView
from fedpredict.tables.script_types import TEXT, ScriptType
from fedpredict.tables.views import (
    Snapshot,
    instant_of,
    remove_snapshot,
    snapshot_name,
    snapshots_of,
    write_pointer,
)
from fedpredict.warehouse.base import Partition, TableSchema, Value, Warehouse

_ID = "fp_erased_id"
Where = tuple[Partition, int]
"""A partition, and how many rows of the person it has."""


@dataclass(frozen=True, slots=True)
class CopiedFrom:
    """A table whose partitions are written anew, the column that holds its sample ids, and that one's declared type."""

    table: str
    column: str = "sample_id"
    kind: ScriptType = TEXT


@dataclass(frozen=True, slots=True)
class Copy:
    """What the table of work holds of a partition.

    Attributes:
        table: Of which table.
        partition: Of which partition.
        n_rows: How many rows.
        n_theirs: How many of them are a person's.
    """

    table: str
    partition: Partition
    n_rows: int
    n_theirs: int


def raw_columns(registered: RegisteredView) -> set[tuple[str, str, str, ScriptType]]:
    """Return the raw columns that hold sample ids by a view's script, as (database or "", table, column, its type).

    That is the key's own column, and the key of each dimension that is joined on it alone.
    """
    shape = parse_shape(registered.view, registered.script)
    events = next(iter(shape.sources.values()))
    key = shape.key.name.lower()
    found = {(events.database or "", events.table, key, events.types[key])}
    alias = next(iter(shape.sources))
    for join in shape.joins:
        (pair, *others) = join.pairs
        if not others and (pair[1].table, pair[1].name) == (alias, key):
            source = shape.sources[join.alias]
            column = pair[0].name
            found.add((source.database or "", source.table, column, source.types[column]))
    return found


def partitions_with(
    warehouse: Warehouse,
    schema: TableSchema,
    sample_id: str,
    column: str = "sample_id",
    *,
    database: str = "",
    kind: ScriptType = TEXT,
) -> list[Where]:
    """Return the partitions of a table that have rows of a sample id, with their numbers.

    Args:
        warehouse: The party's.
        schema: The table.
        sample_id: Whose.
        column: The one that holds sample ids.
        database: Where the table is, if not where the warehouse's own are.
        kind: The type that a view declares of the column: its ids are the texts of that, such as 42 of '0042'.

    Raises:
        WarehouseError: As the warehouse says.
    """
    keys = [each.name for each in schema.partitioned_by]
    query = exp.Select(expressions=[*sql.columns_of(*keys), sql.named(exp.Count(this=exp.Star()), "fp_rows")])
    query = query.from_(_table(schema.name, database), copy=False).where(_is_of(column, kind), copy=False)
    if keys:
        query = query.group_by(*sql.columns_of(*keys), copy=False)
    rows = warehouse.run(query, {_ID: sample_id}).to_pylist()
    return [({key: _value(row[key]) for key in keys}, int(row["fp_rows"])) for row in rows if row["fp_rows"]]


def work_table(schema: TableSchema) -> TableSchema:
    """Return the table that holds what stays of a partition until it stands where it belongs."""
    return replace(schema, name=work_name(schema.name))


def work_name(table: str) -> str:
    """Return the name of a table's table of work."""
    return f"fp_erasing_{sha256(table.encode()).hexdigest()[:16]}"


def copies_left(warehouse: Warehouse, copied: CopiedFrom, sample_id: str) -> list[Copy]:
    """Return all that the table of work of a table holds, which may be gone; raise as the warehouse says."""
    work = warehouse.describe(work_name(copied.table))
    if work is None:
        return []
    keys = [each.name for each in work.partitioned_by]
    theirs = exp.Case(ifs=[exp.If(this=_is_of(copied.column, copied.kind), true=sql.number(1))])
    counts = [sql.named(exp.Count(this=exp.Star()), "fp_rows"), sql.named(exp.Count(this=theirs), "fp_theirs")]
    query = exp.Select(expressions=[*sql.columns_of(*keys), *counts]).from_(_table(work.name), copy=False)
    if keys:
        query = query.group_by(*sql.columns_of(*keys), copy=False)
    rows = warehouse.run(query, {_ID: sample_id}).to_pylist()
    return [
        Copy(copied.table, {key: row[key] for key in keys}, int(row["fp_rows"]), int(row["fp_theirs"]))
        for row in rows
        if row["fp_rows"]
    ]


def count_rows(warehouse: Warehouse, table: str, partition: Partition) -> int | None:
    """Return how many rows a partition has; None: there is no such table."""
    if warehouse.describe(table) is None:
        return None
    query = sql.stored([sql.named(exp.Count(this=exp.Star()), "fp_rows")], table, partition)
    return int(warehouse.run(query, dict(partition)).column("fp_rows")[0].as_py())


def copy_without(
    warehouse: Warehouse,
    schema: TableSchema,
    partition: Partition,
    sample_id: str,
    column: str = "sample_id",
    *,
    kind: ScriptType = TEXT,
) -> int:
    """Write a partition's rows but those of a sample id into the table of work, and return how many they are.

    Raises:
        WarehouseError: As the warehouse says.
    """
    work = work_table(schema)
    warehouse.ensure(work)
    is_theirs = exp.Case(ifs=[exp.If(this=_is_of(column, kind), true=sql.number(1))], default=sql.number(0))
    stays = exp.EQ(this=is_theirs, expression=sql.number(0))  # so does what cannot be read in the type
    query = sql.stored(_columns(schema), schema.name, partition).where(stays, copy=False)
    params: dict[str, Value] = {**partition, _ID: sample_id}
    return warehouse.replace_from(work.name, partition, _in_order(schema, query), params)


def put_back(
    warehouse: Warehouse,
    schema: TableSchema,
    partition: Partition,
    target: Partition | None = None,
    *,
    still_ours: Callable[[], None] = lambda: None,
) -> None:
    """Make what the table of work holds of a partition the content of it, or of another, and empty it there.

    Args:
        warehouse: The party's.
        schema: The table.
        partition: What was copied.
        target: What it becomes the content of; None: of the same.
        still_ours: Called before each step; it raises where another process erases by now, and has removed the copy.

    Raises:
        WarehouseError: As the warehouse says.
    """
    work = work_table(schema)
    query = sql.stored(_columns(schema), work.name, partition)
    still_ours()
    warehouse.replace_from(schema.name, target or partition, _in_order(schema, query), dict(partition))
    still_ours()
    forget_copy(warehouse, schema, partition)


def forget_copy(warehouse: Warehouse, schema: TableSchema, partition: Partition) -> None:
    """Empty a partition of the table of work; raise `WarehouseError` as the warehouse says."""
    work = work_table(schema)
    warehouse.replace(work.name, partition, work.arrow_schema.empty_table())


def forget_copies(warehouse: Warehouse, copy: Copy) -> None:
    """Empty a partition of the table of work of a table that may be gone; raise as the warehouse says."""
    work = warehouse.describe(work_name(copy.table))
    if work is not None:
        warehouse.replace(work.name, copy.partition, work.arrow_schema.empty_table())


def snapshot_without(
    warehouse: Warehouse, snapshot: Snapshot, sample_id: str, *, still_ours: Callable[[], None] = lambda: None
) -> Snapshot:
    """Put a snapshot without a sample id in the place of one, under the next name: what has a name never changes.

    `still_ours` is that of `put_back`.

    Raises:
        WarehouseError: As the warehouse says; a call that is killed leaves the one before, or both.
    """
    view = snapshot.view
    schema = warehouse.describe(view.schema.name) or view.schema  # with the columns of other versions
    names = snapshots_of(warehouse, view.name, view.version, instant_of(snapshot.snapshot))
    name = snapshot_name(instant_of(names[-1]) + timedelta(microseconds=1))
    n_rows = copy_without(warehouse, schema, snapshot.partition, sample_id)
    n_ids = None if snapshot.n_ids is None else snapshot.n_ids - 1
    made = replace(snapshot, snapshot=name, n_rows=n_rows, n_ids=n_ids)
    put_back(warehouse, schema, snapshot.partition, made.partition, still_ours=still_ours)
    write_pointer(warehouse, made)
    remove_snapshot(warehouse, snapshot)
    return made


def _table(name: str, database: str = "") -> exp.Table:
    db = exp.to_identifier(database, quoted=True) if database else None
    return exp.Table(this=exp.to_identifier(name, quoted=True), db=db)


def _is_of(column: str, kind: ScriptType) -> exp.Expr:
    """Return whether a column, read in its type and then as text, is the sample id."""
    read = sql.column(column) if kind == TEXT else declared_column(column, kind)
    return exp.EQ(this=exp.cast(read, "text"), expression=exp.Placeholder(this=_ID))


def _value(value: str | int | None) -> str | int:
    """Return a partition value; that of rows without one, in raw tables, as Hive names their folder: a refused name."""
    return "__HIVE_DEFAULT_PARTITION__" if value is None else value


def _columns(schema: TableSchema) -> list[exp.Expr]:
    return sql.columns_of(*(each.name for each in schema.columns))


def _in_order(schema: TableSchema, query: exp.Select) -> exp.Select:
    """Return a query in the order of places, where the table has them: snapshots stand so."""
    has_places = any(each.name == PLACE for each in schema.columns)
    return query.order_by(sql.column(PLACE), copy=False) if has_places else query
