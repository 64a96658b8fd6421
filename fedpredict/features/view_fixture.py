"""A few raw rows for a view's script, given or generated, and the script's query over them: no table is written."""

from __future__ import annotations

import tomllib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from random import Random
from typing import cast

from sqlglot import exp

from fedpredict.errors import ViewRefusedError
from fedpredict.tables import sql
from fedpredict.tables.script import compile_script
from fedpredict.tables.script_types import ScriptType
from fedpredict.tables.script_view import ScriptSource, ScriptView
from fedpredict.warehouse.base import Value, Warehouse

Row = Mapping[str, Value]

GENERATED_ROWS = 24
"""Of an event table; a dimension has half of them. Every row is a part of the statement's text."""

MAX_ROWS = 200
"""Of all sources of a fixture together."""

_WINDOWS = [timedelta(hours=1), timedelta(days=1), timedelta(days=7), timedelta(days=30), timedelta(days=90)]
_TEXTS = ["a", "b", "food", "web", "A", "", " a", "é", "it's"]


@dataclass(frozen=True, slots=True)
class Fixture:
    """Raw rows, and the instant to ask as of.

    Attributes:
        as_of: The instant.
        rows: Source -> rows: column -> text, number or None; what is left out is NULL. Moments, dates and decimals
            are text.
        expected: What the script must give, output -> value; empty where only the engines are compared.
    """

    as_of: datetime
    rows: Mapping[str, Sequence[Row]]
    expected: Sequence[Row] = ()


def read_fixture(path: Path, view: ScriptView) -> Fixture:
    """Return the fixture in a TOML file: as_of, [[rows.SOURCE]] and [[expected]].

    Raises:
        ViewRefusedError: It is not readable, or names something that the view has not.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeError, tomllib.TOMLDecodeError) as error:
        raise ViewRefusedError(f"{path}: {error}") from error
    as_of, rows, expected = content.get("as_of"), content.get("rows"), content.get("expected", [])
    if not isinstance(as_of, datetime) or as_of.tzinfo is None:
        raise ViewRefusedError(f"{path}: as_of must be a moment with a zone, such as 2024-03-01T00:00:00Z")
    if not isinstance(rows, dict) or set(content) - {"as_of", "rows", "expected"}:
        raise ViewRefusedError(f"{path}: write as_of, [[rows.SOURCE]] and [[expected]], and nothing else")
    for name, given in rows.items():
        if name not in view.sources:
            raise ViewRefusedError(f"{path}: rows.{name}: the view's sources are {', '.join(view.sources)}")
        _check_rows(f"{path}: rows.{name}", given, view.sources[name].types)
    outputs = {each.column for each in view.feature_view(1).features} | {view.key}
    _check_names(f"{path}: expected", expected, outputs)
    plain = {name: [_plain_row(row) for row in given] for name, given in rows.items()}
    if sum(len(given) for given in plain.values()) > MAX_ROWS:
        raise ViewRefusedError(f"{path}: more than {MAX_ROWS} rows")
    return Fixture(as_of, plain, [_plain_row(row) for row in expected])


def _check_rows(where: str, given: object, types: Mapping[str, ScriptType]) -> None:
    for number, row in enumerate(_check_names(where, given, types), 1):
        for column, value in row.items():
            if not _fits(value, types[column]):
                raise ViewRefusedError(f"{where}: row {number}: {column} is {value!r}, which is no {types[column]}")


def _check_names(where: str, given: object, known: Collection[str]) -> list[dict[str, object]]:
    """Return rows that name nothing unknown."""
    if not isinstance(given, list) or not all(isinstance(row, dict) for row in given):
        raise ViewRefusedError(f"{where} is no list of rows: write two brackets on each side, as [[expected]]")
    unknown = {column for row in given for column in row} - set(known)
    if unknown:
        raise ViewRefusedError(f"{where}: the view declares no column {', '.join(sorted(unknown))}")
    return given


def _fits(value: object, kind: ScriptType) -> bool:
    """Return whether every engine can cast a value to the type that it is declared as."""
    try:
        match kind.kind:
            case "int":
                return -(2**63) <= int(str(value)) < 2**63
            case "decimal":
                return abs(Decimal(str(value))) < Decimal(10) ** (kind.digits - kind.scale)
            case "double":
                float(str(value))
            case "date":
                date.fromisoformat(str(value))
            case "timestamp":
                datetime.fromisoformat(str(value))
    except (ValueError, ArithmeticError):
        return False
    return kind.kind != "boolean" or value in (0, 1)


def _plain_row(row: Mapping[str, object]) -> Row:
    return {name: _plain(value) for name, value in row.items()}


def _plain(value: object) -> Value:
    if isinstance(value, datetime):
        return _moment(value)
    if isinstance(value, bool):
        return int(value)
    return value if isinstance(value, int | float | str) else str(value)


def _moment(instant: datetime) -> str:
    return instant.astimezone(UTC).replace(tzinfo=None).isoformat(" ", "microseconds")


def generated(view: ScriptView, seed: int) -> Fixture:
    """Return random rows of the declared types, with NULLs, ties in time, and moments at the edges of windows."""
    random = Random(seed)  # noqa: S311 - test data
    as_of = datetime(2024, 3, 1, tzinfo=UTC)
    rows: dict[str, list[Row]] = {}
    for name, source in view.sources.items():
        count = GENERATED_ROWS if source.kind == "table" else GENERATED_ROWS // 2
        made = [{column: _random(kind, random, as_of) for column, kind in source.types.items()} for _ in range(count)]
        if source.kind == "dimension":  # no two rows may share a key
            made = list({tuple(row[column] for column in source.key): row for row in made}.values())
        rows[name] = list(made)
    return Fixture(as_of, rows)


def few_rows(view: ScriptView) -> Fixture:
    """Return two rows for each source: one with a value in every column, one with none.

    The values are such that the rows meet each other where they are joined, and pass a WHERE such as `amount > 0`.
    """
    as_of = datetime(2024, 3, 1, tzinfo=UTC)
    values: dict[str, Value] = {
        "text": "1",
        "int": 1,
        "double": 0.5,
        "date": "2024-02-29",
        "boolean": 1,
        "timestamp": _moment(as_of - timedelta(minutes=30)),
    }
    rows = {
        name: [{column: values.get(kind.kind, _one(kind)) for column, kind in source.types.items()}, {}]
        for name, source in view.sources.items()
    }
    return Fixture(as_of, rows)


def _one(kind: ScriptType) -> str:
    """Return the decimal 1, or the smallest above zero where the type has no digits before the point."""
    return "1" if kind.digits > kind.scale else str(Decimal(1).scaleb(-kind.scale))


def _random(kind: ScriptType, random: Random, as_of: datetime) -> Value:
    if random.random() < 0.08:
        return None
    digits = random.randrange(kind.digits) + 1 if kind.digits else 1
    edge = random.choice([timedelta(0), *_WINDOWS, timedelta(seconds=random.randrange(40 * 86400))])
    made: dict[str, Value] = {
        "text": random.choice(_TEXTS),
        "int": random.choice([0, 1, 2, 3, -5, 2**40, random.randrange(100)]),
        "decimal": str(Decimal(random.randrange(1 - 10**digits, 10**digits)).scaleb(-kind.scale)),
        "double": random.choice([0.1, 0.2, -0.0, 1e-300, 1e15, random.gauss(0, 100)]),
        "date": (as_of.date() - timedelta(days=random.randrange(800))).isoformat(),
        "boolean": random.randrange(2),
        "timestamp": _moment(as_of - edge + timedelta(microseconds=random.choice([-1, 0, 0, 1]))),
    }
    return made[kind.kind]


def run_fixture(warehouse: Warehouse, view: ScriptView, text: str, fixture: Fixture) -> list[dict[str, object]]:
    """Return a script's rows over a fixture, computed by a warehouse's engine, by sample id.

    Raises:
        StatementError: The engine refused.
    """
    script = compile_script(view, text, warehouse.engine.name)
    statement, params = over_fixture(view, script.query, script.params(fixture.as_of), fixture)
    found = warehouse.run(statement, params).to_pylist()
    return sorted(found, key=lambda row: (row["sample_id"] is not None, str(row["sample_id"])))


def over_fixture(
    view: ScriptView, query: exp.Expr, params: Mapping[str, Value], fixture: Fixture
) -> tuple[exp.Expression, dict[str, Value]]:
    """Return a script's query over a fixture's rows in the place of the raw tables, and all that it binds.

    Args:
        view: Whose sources they are.
        query: As it was compiled for an engine, or a part of it.
        params: What it binds by itself.
        fixture: The rows; they are bound, too.
    """
    tables = {(source.database or "", source.table): name for name, source in view.sources.items()}
    bound = dict(params)
    given = {name: _literal_rows(source, fixture.rows.get(name, ()), bound) for name, source in view.sources.items()}

    def put(node: exp.Expr) -> exp.Expr:
        if not isinstance(node, exp.Table):
            return node
        return given[tables[node.db, node.name]].subquery("fp_fixture")

    return cast(exp.Expression, query.transform(put)), bound


def _literal_rows(source: ScriptSource, rows: Sequence[Row], params: dict[str, Value]) -> exp.Query:
    """Return a query that gives the rows, their values as parameters, in the declared types."""
    selects = [_literal_row(source, row, params) for row in rows]
    if not selects:
        return _literal_row(source, {}, params).where(exp.false(), copy=False)
    query: exp.Query = selects[0]
    for each in selects[1:]:
        query = exp.Union(this=query, expression=each, distinct=False)
    return query


def _literal_row(source: ScriptSource, row: Row, params: dict[str, Value]) -> exp.Select:
    columns = []
    for name, kind in source.types.items():
        value: exp.Expr = exp.Null()
        if row.get(name) is not None:
            value = exp.Placeholder(this=f"fp_value_{len(params)}")
            params[value.name] = row[name]
        columns.append(sql.named(exp.Cast(this=value, to=kind.sql), name))
    return exp.Select(expressions=columns)
