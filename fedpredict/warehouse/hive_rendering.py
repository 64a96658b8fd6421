"""Statements as text for Hive or Spark."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from uuid import uuid4

from sqlglot import exp

from fedpredict.errors import StatementError
from fedpredict.warehouse.base import Filling, TableSchema, Value
from fedpredict.warehouse.hive_connection import Engine
from fedpredict.warehouse.hive_literals import bound
from fedpredict.warehouse.insertion import rows_for

_MARK = f"fp_{uuid4().hex}_"
"""Stands before the name of a value in a text; nobody can know it, so no text of a statement has it."""
_MARKED = re.compile(_MARK + r"(\w+)_end")


@dataclass(frozen=True, slots=True)
class Text:
    """A query as an engine's SQL, before its values are bound, and the tables that it reads: name, and database."""

    common: str
    query: str
    tables: tuple[tuple[str, str], ...]

    def bound(self, params: Mapping[str, Value]) -> tuple[str, str]:
        """Return the WITH clause and the rest, with literals for the placeholders.

        Raises:
            StatementError: A value is missing, or the server would put one of its settings into the text.
        """

        def literal(found: re.Match[str]) -> str:
            if found[1] not in params:
                raise StatementError(f"the statement's parameter {found[1]} has no value")
            return bound(params[found[1]])

        parts = [_MARKED.sub(literal, part) for part in (self.common, self.query)]
        if "${" in "".join(parts):
            raise StatementError("a statement with ${ is not sent: the server would put a setting in its place")
        return parts[0], parts[1]


def text_of(statement: exp.Query, engine: Engine) -> Text:
    """Return a query as text."""

    def marked(node: exp.Expression) -> exp.Expression:
        return exp.Var(this=f"{_MARK}{node.name}_end") if isinstance(node, exp.Placeholder) else node

    tables = tuple(tables_of(statement))
    tree = statement.transform(marked)
    common = tree.args.get("with_")
    tree.set("with_", None)
    common_text, query = (part.sql(dialect=engine.value, identify=True) if part else "" for part in (common, tree))
    return Text(f"{common_text} " if common else "", query, tables)


class RowTexts:
    """Queries for the rows of a table as text; that of the statement before is kept, which the next bucket has too."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._last: tuple[Filling, TableSchema, Text] | None = None

    def of(self, schema: TableSchema, filling: Filling) -> Text:
        """Return the text of `rows_for` what fills a partition; raise as it does."""
        if self._last is not None:
            last, its_schema, text = self._last
            if last.statement is filling.statement and last.beside == filling.beside and its_schema == schema:
                return text
        text = text_of(rows_for(schema, filling.statement, filling.beside), self._engine)
        self._last = (filling, schema, text)
        return text


def rendered(statement: exp.Query, params: Mapping[str, Value], engine: Engine) -> tuple[str, str]:
    """Return a query as text with its values: its WITH clause and the rest; raise as `Text.bound`."""
    return text_of(statement, engine).bound(params)


def tables_of(statement: exp.Expr) -> list[tuple[str, str]]:
    """Return the stored tables in a statement: name, and database where it is not the session's own."""
    within = {(cte.alias, "") for cte in statement.find_all(exp.CTE)}
    return sorted({(table.name, table.db) for table in statement.find_all(exp.Table)} - within)
