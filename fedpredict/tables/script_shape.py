"""A script's text -> the parts of its one SELECT, with everything refused that the language has not."""

from __future__ import annotations

import difflib
from dataclasses import dataclass

import sqlglot
from sqlglot import exp
from sqlglot.errors import ParseError, TokenError

from fedpredict.errors import ViewRefusedError
from fedpredict.tables.script_position import refused
from fedpredict.tables.script_scope import Scope
from fedpredict.tables.script_view import ScriptSource, ScriptView
from fedpredict.tables.script_words import place_words, unclosed

_CLAUSES = frozenset({"expressions", "from_", "joins", "where", "group"})
_SAID = {
    "distinct": "DISTINCT", "limit": "LIMIT", "order": "ORDER BY", "having": "HAVING", "with_": "WITH",
    "windows": "WINDOW", "qualify": "QUALIFY", "laterals": "LATERAL", "offset": "OFFSET", "hint": "a hint",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Joined:
    """A dimension that events meet: its alias, the side ("LEFT" or ""), and pairs of (dimension's, other) columns."""

    alias: str
    side: str
    pairs: tuple[tuple[exp.Column, exp.Column], ...]


@dataclass(frozen=True, slots=True)
class Shape:
    """The parts of a script.

    Attributes:
        sources: Alias -> source, the one after FROM first.
        joins: Dimensions in the order of the script.
        where: The condition on rows, or None.
        key: The column of GROUP BY.
        outputs: Column name -> expression, the key's included.
    """

    sources: dict[str, ScriptSource]
    joins: tuple[Joined, ...]
    where: exp.Expr | None
    key: exp.Column
    outputs: dict[str, exp.Expr]


def read_columns(shape: Shape) -> dict[str, list[str]]:
    """Return what a script reads: alias -> columns, in the order of their declaration."""
    scope = Scope("duckdb", shape.sources)
    read = [*shape.outputs.values(), *(each for join in shape.joins for pair in join.pairs for each in pair)]
    read += [] if shape.where is None else [shape.where]
    found = {scope.column(node)[:2] for each in read for node in each.find_all(exp.Column)}
    return {alias: [name for name in source.types if (alias, name) in found] for alias, source in shape.sources.items()}


def compared_columns(shape: Shape) -> list[str]:
    """Return the columns that choose between events of one id and time: those that the script reads, as declared.

    Others make no difference to what the script gives.
    """
    alias, source = next(iter(shape.sources.items()))
    apart = {shape.key.name.lower(), source.event_id, source.event_time}
    return [name for name in read_columns(shape)[alias] if name not in apart]


def parse_shape(view: ScriptView, text: str) -> Shape:
    """Return the parts of a script.

    Raises:
        ViewRefusedError: With line and column, and the fix.
    """
    try:
        return _shape(view, text)
    except RecursionError:
        raise ViewRefusedError(TOO_DEEP) from None


TOO_DEEP = "line 1, column 1: the script is nested too deeply: write fewer brackets, or shorter sums"


def _shape(view: ScriptView, text: str) -> Shape:
    select = _one_select(text)
    for output in select.expressions:
        if output.is_star:
            raise refused(output, "SELECT * is not in the language: name every output")
    for clause, value in select.args.items():
        if value and clause not in _CLAUSES:
            node = value if isinstance(value, exp.Expr) else select
            raise refused(node, f"{_SAID.get(clause, clause)} is not in the language: one plain SELECT with GROUP BY")
    sources = _from(view, select)
    joins = tuple(_joined(view, join, sources) for join in select.args.get("joins") or ())
    scope = Scope("duckdb", sources)
    key = _key(select, scope)
    where = select.args.get("where")
    outputs = _outputs(view, select, key)
    return Shape(sources, joins, where.this if where else None, key, outputs)


def _one_select(text: str) -> exp.Select:
    try:
        found = [each for each in sqlglot.parse(text) if each is not None]
    except ParseError as error:
        place = error.errors[0] if error.errors else {}
        raise ViewRefusedError(
            f"line {place.get('line', 1)}, column {place.get('col', 1)}: {place.get('description', 'not SQL')}"
            f" (near {str(place.get('highlight', ''))[:60]!r})"
        ) from None
    except TokenError as error:
        opened = unclosed(text)
        if opened is None:
            raise ViewRefusedError(f"line 1, column 1: not SQL: {str(error)[:200]}") from None
        line, column, begins = opened
        raise ViewRefusedError(f"line {line}, column {column}: what begins here with {begins} has no end") from None
    if not found:
        raise ViewRefusedError("line 1, column 1: the script is empty: write one SELECT")
    if len(found) > 1:
        raise refused(found[1], "a second statement: a script is one SELECT")
    if not isinstance(found[0], exp.Select):
        raise refused(found[0], f"a {found[0].key} statement: a script is one SELECT")
    place_words(found[0], text)
    return found[0]


def _from(view: ScriptView, select: exp.Select) -> dict[str, ScriptSource]:
    clause = select.args.get("from_")
    if clause is None:
        raise refused(select, f"no FROM: name one of the view's sources, {', '.join(view.sources)}")
    alias, source = _source(view, clause.this)
    return {alias: source}


def _source(view: ScriptView, table: exp.Expr) -> tuple[str, ScriptSource]:
    extra = [name for name, part in table.args.items() if part and name not in ("this", "alias", "joins")]
    if not isinstance(table, exp.Table) or extra or not isinstance(table.this, exp.Identifier):
        raise refused(table, "only a source of the view can stand here, by the name that the view gives it")
    name = table.name.lower()
    if name not in view.sources:
        near = difflib.get_close_matches(name, view.sources, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there is {', '.join(view.sources)}"
        raise refused(table, f"the view has no source {name}; {hint}")
    return table.alias_or_name.lower(), view.sources[name]


def _joined(view: ScriptView, join: exp.Join, sources: dict[str, ScriptSource]) -> Joined:
    side = str(join.args.get("side") or "").upper()
    kind = str(join.args.get("kind") or "").upper()
    other = any(part for name, part in join.args.items() if name not in ("this", "side", "kind", "on"))
    if side not in ("", "LEFT") or kind not in ("", "INNER", "OUTER") or other:
        raise refused(join, "a join is JOIN or LEFT JOIN dimension ON dimension.key = column")
    alias, source = _source(view, join.this)
    if source.kind != "dimension":
        raise refused(join.this, "only a dimension can be joined: rows of two event tables would multiply each other")
    if alias in sources:
        raise refused(join.this, f"{alias} is joined twice: give one of them another alias")
    sources[alias] = source
    pairs = tuple(_pair(each, alias, Scope("duckdb", sources)) for each in _conjuncts(join))
    if sorted(mine.name for mine, _ in pairs) != sorted(source.key):
        raise refused(join.this, f"the join must compare the whole key of {alias}: {', '.join(source.key)}")
    return Joined(alias, side, pairs)


def _conjuncts(join: exp.Join) -> list[exp.Expr]:
    condition = join.args.get("on")
    if condition is None:
        raise refused(join.this, "a join without ON: write ON dimension.key = column")
    return list(condition.flatten()) if isinstance(condition, exp.And) else [condition]


def _pair(node: exp.Expr, alias: str, scope: Scope) -> tuple[exp.Column, exp.Column]:
    sides = [node.left, node.right] if isinstance(node, exp.EQ) else []
    columns = [each for each in sides if isinstance(each, exp.Column)]
    if len(columns) != 2:
        raise refused(node, "a join compares columns by =, joined by AND")
    found = [scope.column(each) for each in columns]
    if [owner == alias for owner, _, _ in found] not in ([True, False], [False, True]):
        raise refused(node, f"one side must be of {alias}, the other of a source before it")
    if found[0][2].kind != found[1][2].kind or found[0][2].kind not in ("text", "int", "date"):
        raise refused(node, f"{found[0][2]} and {found[1][2]} are not joined: both text, whole numbers or dates")
    pair = [exp.column(name, owner, quoted=True) for owner, name, _ in found]
    return (pair[0], pair[1]) if found[0][0] == alias else (pair[1], pair[0])


def _key(select: exp.Select, scope: Scope) -> exp.Column:
    group = select.args.get("group")
    keys = group.expressions if group is not None else []
    extra = group is not None and any(part for name, part in group.args.items() if name != "expressions")
    if len(keys) != 1 or extra or not isinstance(keys[0], exp.Column):
        raise refused(group or select, "GROUP BY must name the key's column, and nothing else")
    owner, name, kind = scope.column(keys[0])
    if owner != scope.events[0] or kind.kind not in ("text", "int"):
        raise refused(keys[0], f"the key must be a column of {scope.events[0]}, text or int; {owner}.{name} is {kind}")
    return keys[0]


def _outputs(view: ScriptView, select: exp.Select, key: exp.Column) -> dict[str, exp.Expr]:
    wanted = {each.column: each.name for each in view.feature_view(1).features}
    outputs: dict[str, exp.Expr] = {}
    for node in select.expressions:
        name = node.alias_or_name.lower() if isinstance(node, exp.Alias | exp.Column) else ""
        if not name:
            raise refused(node, "an output without a name: write AS and one of the view's features")
        if name in outputs:
            raise refused(node, f"two outputs are called {name}")
        if name not in wanted and name != view.key:
            near = difflib.get_close_matches(name, [*wanted, view.key], n=1)
            hint = f"did you mean {near[0]}?" if near else "declare it under [features]"
            raise refused(node, f"{name} is no feature of the view; {hint}")
        outputs[name] = node.this if isinstance(node, exp.Alias) else node
    missing = [name for name in (view.key, *wanted) if name not in outputs]
    if missing:
        raise refused(select, f"no output is called {', '.join(missing)}: the view declares it")
    if outputs[view.key] != key:
        raise refused(outputs[view.key], f"{view.key} must be the column of GROUP BY itself")
    return outputs
