"""What a statement says about the tables it reads: which they are, and which partitions can matter."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from sqlglot import exp

from fedpredict.errors import NameRefusedError, StatementError
from fedpredict.warehouse.base import ColumnType, Partition, TableSchema, Value, check_partition_values
from fedpredict.warehouse.local_ranges import TextRange


@dataclass(frozen=True, slots=True)
class Scan:
    """One reference to a table.

    Attributes:
        name: What the query's text calls it.
        table: Which.
        schema: Its layout.
        where: Which partitions can matter.
        within: Which of their rows do, if that can be said: nothing else of the query needs the column.
    """

    name: str
    table: str
    schema: TableSchema
    where: Partition
    within: TextRange | None = None


@dataclass(frozen=True, slots=True)
class Query:
    """A query in DuckDB's dialect, the values to bind, and what it scans."""

    sql: str
    params: dict[str, Value]
    scans: tuple[Scan, ...]

    @property
    def is_ranged(self) -> bool:
        """Whether rows of a file may be named by their numbers in it."""
        return any(scan.within is not None for scan in self.scans)


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
        where = equalities(reference, schema, params)
        scan = Scan(f"__fp_scan_{number}", reference.name, schema, where, text_range(reference, schema))
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


def text_range(reference: exp.Table, schema: TableSchema) -> TextRange | None:
    """Return the range of texts that the WHERE clause around a table reference demands of a column, if it demands one.

    Every result row must meet it, and the query around the reference has no other use for the column. So the column may
    be given as any text of the range, and rows beyond it left out.
    """
    query = reference.find_ancestor(exp.Select)
    condition = query.args.get("where") if query is not None else None
    if query is None or condition is None or not _is_plain(query, reference):
        return None
    firsts, ends = _bounds(condition.this, exp.GTE, reference), _bounds(condition.this, exp.LT, reference)
    if len(firsts) != 1 or firsts.keys() != ends.keys():
        return None
    name = next(iter(firsts))
    uses = sum(column.name.lower() == name for column in query.find_all(exp.Column))
    is_text = any(column.name == name and column.type is ColumnType.STRING for column in schema.columns)
    return TextRange(name, firsts[name], ends[name]) if uses == 2 and is_text else None


def _is_plain(query: exp.Select, reference: exp.Table) -> bool:
    """Return whether a query reads all rows of one table, and says by name which columns it uses."""
    if not isinstance(reference.parent, exp.From) or any(query.args.get(each) for each in ("joins", "laterals")):
        return False
    alias = reference.args.get("alias")
    if reference.args.get("pivots") or (alias is not None and alias.columns) or query.find(exp.TableSample):
        return False
    if query.find(exp.Columns) or any(not isinstance(star.parent, exp.Count) for star in query.find_all(exp.Star)):
        return False
    rows = reference.alias_or_name.lower()  # as a column: the whole row
    return all(column.table or column.name.lower() != rows for column in query.find_all(exp.Column))


def _bounds(condition: exp.Expression, kind: type[exp.Binary], reference: exp.Table) -> dict[str, str]:
    """Return the texts that columns of a table are compared with; others may be those of a query around it."""
    return {
        part.this.name: part.expression.name
        for part in _parts(condition)
        if isinstance(part, kind)
        and isinstance(part.this, exp.Column)
        and part.this.table in ("", reference.alias_or_name)
        and isinstance(part.expression, exp.Literal)
        and part.expression.is_string
    }


def _parts(condition: exp.Expr) -> list[exp.Expr]:
    """Return what is joined by AND, through parentheses."""
    whole = condition.unnest()
    if not isinstance(whole, exp.And):
        return [whole]
    return [part for side in (whole.left, whole.right) for part in _parts(side)]


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
