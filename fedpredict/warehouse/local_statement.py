"""What a statement says about the tables it reads: which they are, and which partitions can matter."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass

from sqlglot import exp

from fedpredict.errors import NameRefusedError, StatementError
from fedpredict.warehouse.base import ColumnType, Partition, TableSchema, Value, check_partition_values
from fedpredict.warehouse.insertion import rows_for
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


@dataclass(frozen=True, slots=True)
class _Range:
    """What a WHERE clause demands of a text column: values or literals between which it is."""

    column: str
    first: exp.Expression
    end: exp.Expression

    def given(self, params: Mapping[str, Value]) -> TextRange | None:
        first, end = _value(self.first, params), _value(self.end, params)
        return TextRange(self.column, first, end) if isinstance(first, str) and isinstance(end, str) else None


@dataclass(frozen=True, slots=True)
class _Reference:
    """One reference to a table, as a `Scan` before values are given."""

    name: str
    table: str
    schema: TableSchema
    equal: tuple[tuple[str, exp.Expression], ...]
    within: _Range | None


@dataclass(frozen=True, slots=True)
class Compiled:
    """A query in DuckDB's dialect, before its values are given: what takes longest, and is the same for all of them."""

    sql: str
    needed: frozenset[str]
    references: tuple[_Reference, ...]

    def with_values(self, params: Mapping[str, Value]) -> Query:
        """Return the query with values to bind.

        Raises:
            StatementError: A value is missing.
        """
        _check_values(self.needed, params)
        scans = [
            Scan(
                each.name,
                each.table,
                each.schema,
                _usable_of(each.schema, each.equal, params),
                None if each.within is None else each.within.given(params),
            )
            for each in self.references
        ]
        return Query(self.sql, {name: params[name] for name in self.needed}, tuple(scans))


def prepare(statement: exp.Expression, params: Mapping[str, Value], schema_of: Callable[[str], TableSchema]) -> Query:
    """Return a statement as DuckDB takes it, each reference to a table under a name of its own.

    Args:
        statement: A query.
        params: Values for its placeholders.
        schema_of: Table -> its layout; raises where there is none.

    Raises:
        StatementError: It is no query, or a value is missing.
    """
    if isinstance(statement, exp.Query):
        _check_values(placeholders(statement), params)
    return compile_query(statement, schema_of).with_values(params)


def compile_query(statement: exp.Expression, schema_of: Callable[[str], TableSchema]) -> Compiled:
    """Return what `prepare` makes of a statement whatever its values are.

    Raises:
        StatementError: It is no query.
    """
    if not isinstance(statement, exp.Query):
        raise StatementError("only a query can be run")
    tree = statement.copy()
    references: list[_Reference] = []
    for number, reference in enumerate(referenced_tables(tree)):
        schema = schema_of(reference.name)
        equal, within = tuple(equalities(reference)), text_range(reference, schema)
        references.append(_Reference(f"__fp_scan_{number}", reference.name, schema, equal, within))
        reference.set("alias", exp.TableAlias(this=exp.to_identifier(reference.alias_or_name, quoted=True)))
        reference.set("this", exp.to_identifier(references[-1].name, quoted=True))
    sql = tree.sql(dialect="duckdb", identify=True)
    return Compiled(sql, frozenset(placeholders(tree)), tuple(references))


@dataclass(frozen=True, slots=True)
class TableFilling:
    """A statement, the table that it fills, and what was made of it."""

    statement: exp.Expression
    given: TableSchema
    compiled: Compiled


def filling_of(
    given: TableSchema,
    statement: exp.Expression,
    schema_of: Callable[[str], TableSchema],
    last: TableFilling | None,
) -> TableFilling:
    """Return a statement's rows as a table's, compiled; what was compiled last is that of the same statement.

    A text of 100 features takes longer to make than 100,000 of its rows, and that of the next bucket is the same.

    Raises:
        StatementError, WarehouseWriteError: As `rows_for` and `compile_query` say.
    """
    is_same = last is not None and last.statement is statement and last.given == given
    if is_same and last is not None and all(schema_of(each.table) == each.schema for each in last.compiled.references):
        return last
    return TableFilling(statement, given, compile_query(rows_for(given, statement), schema_of))


def _check_values(needed: Set[str], params: Mapping[str, Value]) -> None:
    missing = sorted(needed - set(params))
    if missing:
        raise StatementError(f"no value for {', '.join(missing)}")


def placeholders(statement: exp.Expression) -> set[str]:
    """Return the names of the values that the statement needs."""
    return {placeholder.name for placeholder in statement.find_all(exp.Placeholder)}


def referenced_tables(statement: exp.Expression) -> list[exp.Table]:
    """Return every reference to a table of the warehouse: all names that no WITH clause of the statement defines."""
    defined = {common.alias for common in statement.find_all(exp.CTE)}
    return [table for table in statement.find_all(exp.Table) if table.name not in defined]


def equalities(reference: exp.Table) -> Iterator[tuple[str, exp.Expression]]:
    """Give the columns of a table, and values for them, that the WHERE clause around a reference to it demands.

    Only conditions that every result row must meet count, so leaving other partitions out changes no result: column =
    value, joined by AND, in the query that names the table, where no other table could own the column's name.
    """
    query = reference.find_ancestor(exp.Select)
    condition = query.args.get("where") if query is not None else None
    if query is None or condition is None:
        return
    alone = isinstance(reference.parent, exp.From) and not query.args.get("joins")
    for column, value in _comparisons(condition.this):
        if column.table == reference.alias_or_name or (alone and not column.table):
            yield column.name, value


def _usable_of(
    schema: TableSchema, equal: Sequence[tuple[str, exp.Expression]], params: Mapping[str, Value]
) -> Partition:
    """Return the partition values among what is demanded, as a filter for files."""
    found = ((name, _usable(schema, name, _value(node, params))) for name, node in equal)
    return {name: value for name, value in found if value is not None}


def text_range(reference: exp.Table, schema: TableSchema) -> _Range | None:
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
    return _Range(name, firsts[name], ends[name]) if uses == 2 and is_text else None


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


def _bounds(condition: exp.Expression, kind: type[exp.Binary], reference: exp.Table) -> dict[str, exp.Expression]:
    """Return the values that columns of a table are compared with; others may be those of a query around it."""
    return {
        part.this.name: part.expression
        for part in _parts(condition)
        if isinstance(part, kind)
        and isinstance(part.this, exp.Column)
        and part.this.table in ("", reference.alias_or_name)
        and isinstance(part.expression, exp.Literal | exp.Placeholder)
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
