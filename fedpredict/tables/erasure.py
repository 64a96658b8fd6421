"""One person's rows in tables: where they are, and partitions written anew without them, by the engine itself.

An engine may not read a table that it writes (Spark), so what stays of a partition goes to a table of work first. A
call that is killed leaves the partition as it was, or as it shall be, and perhaps rows in that table, which the next
call for the partition replaces.
"""

from __future__ import annotations

from dataclasses import replace
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
    source = exp.Table(
        this=exp.to_identifier(schema.name, quoted=True),
        db=exp.to_identifier(database, quoted=True) if database else None,
    )
    query = exp.Select(expressions=[*sql.columns_of(*keys), sql.named(exp.Count(this=exp.Star()), "fp_rows")])
    query = query.from_(source, copy=False).where(_is_of(column, kind), copy=False)
    if keys:
        query = query.group_by(*sql.columns_of(*keys), copy=False)
    rows = warehouse.run(query, {_ID: sample_id}).to_pylist()
    return [({key: row[key] for key in keys}, int(row["fp_rows"])) for row in rows if row["fp_rows"]]


def work_table(schema: TableSchema) -> TableSchema:
    """Return the table that holds what stays of a partition until it stands where it belongs."""
    return replace(schema, name=f"fp_erasing_{sha256(schema.name.encode()).hexdigest()[:16]}")


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


def put_back(warehouse: Warehouse, schema: TableSchema, partition: Partition, target: Partition | None = None) -> None:
    """Make what the table of work holds of a partition the content of it, or of another, and empty it there.

    Raises:
        WarehouseError: As the warehouse says.
    """
    work = work_table(schema)
    query = sql.stored(_columns(schema), work.name, partition)
    warehouse.replace_from(schema.name, target or partition, _in_order(schema, query), dict(partition))
    forget_copy(warehouse, schema, partition)


def forget_copy(warehouse: Warehouse, schema: TableSchema, partition: Partition) -> None:
    """Empty a partition of the table of work; raise `WarehouseError` as the warehouse says."""
    work = work_table(schema)
    warehouse.replace(work.name, partition, work.arrow_schema.empty_table())


def snapshot_without(warehouse: Warehouse, snapshot: Snapshot, sample_id: str) -> Snapshot:
    """Put a snapshot without a sample id in the place of one, under the next name: what has a name never changes.

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
    put_back(warehouse, schema, snapshot.partition, made.partition)
    write_pointer(warehouse, made)
    remove_snapshot(warehouse, snapshot)
    return made


def _is_of(column: str, kind: ScriptType) -> exp.Expr:
    """Return whether a column, read in its type and then as text, is the sample id."""
    read = sql.column(column) if kind == TEXT else declared_column(column, kind)
    return exp.EQ(this=exp.cast(read, "text"), expression=exp.Placeholder(this=_ID))


def _columns(schema: TableSchema) -> list[exp.Expr]:
    return sql.columns_of(*(each.name for each in schema.columns))


def _in_order(schema: TableSchema, query: exp.Select) -> exp.Select:
    """Return a query in the order of places, where the table has them: snapshots stand so."""
    has_places = any(each.name == PLACE for each in schema.columns)
    return query.order_by(sql.column(PLACE), copy=False) if has_places else query
