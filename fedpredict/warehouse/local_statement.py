"""What a statement says about the tables it reads: which they are, and which partitions can matter."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from sqlglot import exp

from fedpredict.errors import NameRefusedError, StatementError
from fedpredict.warehouse.base import ColumnType, Partition, TableSchema, Value, check_partition_values


@dataclass(frozen=True, slots=True)
class Scan:
    """One reference to a table: `name` in the query's text, the table, its layout, and which partitions can matter."""

    name: str
    table: str
    schema: TableSchema
    where: Partition


@dataclass(frozen=True, slots=True)
class Query:
    """A query in DuckDB's dialect, the values to bind, and what it scans."""

    sql: str
    params: dict[str, Value]
    scans: tuple[Scan, ...]


def prepare(statement: exp.Expression, params: Mapping[str, Value], schema_of: Callable[[str], TableSchema]) -> Query:
    """Return a statement as DuckDB takes it, each reference to a table under a name of its own.

    Args:
        statement: A query.
        params: Values for its placeholders.
        schema_of: Table -> its layout; raises where there is none.

    Raises:
        StatementError: It is no query, or a value is missing.
    """
    if not isinstance(statement, exp.Query):
        raise StatementError("only a query can be run")
    needed = placeholders(statement)
    missing = sorted(needed - set(params))
    if missing:
        raise StatementError(f"no value for {', '.join(missing)}")
    tree = statement.copy()
    scans: list[Scan] = []
    for number, reference in enumerate(referenced_tables(tree)):
        schema = schema_of(reference.name)
        scan = Scan(f"__fp_scan_{number}", reference.name, schema, equalities(reference, schema, params))
        scans.append(scan)
        reference.set("alias", exp.TableAlias(this=exp.to_identifier(reference.alias_or_name, quoted=True)))
        reference.set("this", exp.to_identifier(scan.name, quoted=True))
    return Query(tree.sql(dialect="duckdb", identify=True), {name: params[name] for name in needed}, tuple(scans))


def placeholders(statement: exp.Expression) -> set[str]:
    """Return the names of the values that the statement needs."""
    return {placeholder.name for placeholder in statement.find_all(exp.Placeholder)}


def referenced_tables(statement: exp.Expression) -> list[exp.Table]:
    """Return every reference to a table of the warehouse: all names that no WITH clause of the statement defines."""
    defined = {common.alias for common in statement.find_all(exp.CTE)}
    return [table for table in statement.find_all(exp.Table) if table.name not in defined]


def equalities(reference: exp.Table, schema: TableSchema, params: Mapping[str, Value]) -> Partition:
    """Return the partition values that the WHERE clause around a table reference demands, as a filter for files.

    Only conditions that every result row must meet count, so leaving other partitions out changes no result: column =
    value, joined by AND, in the query that names the table, where no other table could own the column's name.
    """
    query = reference.find_ancestor(exp.Select)
    condition = query.args.get("where") if query is not None else None
    if query is None or condition is None:
        return {}
    alone = isinstance(reference.parent, exp.From) and not query.args.get("joins")
    found: dict[str, str | int] = {}
    for column, value in _comparisons(condition.this):
        mine = column.table == reference.alias_or_name or (alone and not column.table)
        usable = _usable(schema, column.name, _value(value, params))
        if mine and usable is not None:
            found[column.name] = usable
    return found


def _comparisons(condition: exp.Expression) -> Iterator[tuple[exp.Column, exp.Expression]]:
    parts = condition.flatten() if isinstance(condition, exp.And) else [condition]
    for part in parts:
        if isinstance(part, exp.EQ) and isinstance(part.this, exp.Column):
            yield part.this, part.expression


def _value(node: exp.Expression, params: Mapping[str, Value]) -> Value:
    if isinstance(node, exp.Placeholder):
        return params[node.name]
    if isinstance(node, exp.Literal):
        return node.name if node.is_string else int(node.name) if node.is_int else None
    return None


def _usable(schema: TableSchema, name: str, value: Value) -> str | int | None:
    """Return the value if a folder can be named by it; any other comparison is left to the engine."""
    kinds = {column.name: str if column.type is ColumnType.STRING else int for column in schema.partitioned_by}
    if not isinstance(value, str | int) or type(value) is not kinds.get(name):
        return None
    try:
        check_partition_values({name: value})
    except NameRefusedError:
        return None
    return value
