"""An expression of a script -> its tree for an engine and its type; what is not written here is not in the language.

Every type is known before an engine is asked, and every step that engines type differently is cast: quotients are
doubles, sums of decimals keep their scale, whole numbers are added as decimals.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from typing import ClassVar

from sqlglot import exp

from fedpredict.tables import sql
from fedpredict.tables.script_aggregates import AGGREGATES, Aggregates
from fedpredict.tables.script_functions import FUNCTIONS, RANDOM, ratio
from fedpredict.tables.script_literals import LITERAL_TYPES, instant_literal, number_literal, seconds_of
from fedpredict.tables.script_position import refused
from fedpredict.tables.script_scope import AS_OF, Scope, Typed, cast, column_of
from fedpredict.tables.script_types import (
    BOOLEAN,
    DOUBLE,
    MAX_DIGITS,
    NULL,
    TEXT,
    WORD_DIGITS,
    ScriptType,
    common,
    decimal,
)

_NAMES: dict[type[exp.Expr], str] = {
    exp.Year: "year",
    exp.Month: "month",
    exp.Day: "day",
    exp.Hour: "hour",
    exp.Minute: "minute",
    exp.DayOfWeek: "day_of_week",
    exp.Trim: "trim",
    exp.Abs: "abs",
    exp.Coalesce: "coalesce",
    exp.Nullif: "nullif",
    exp.Last: "last",
    exp.CountIf: "count_if",
    exp.Count: "count",
    exp.Sum: "sum",
    exp.Avg: "avg",
    exp.Min: "min",
    exp.Max: "max",
}
"""Classes of the parser that are functions of the language."""


def name_of(node: exp.Expr) -> str | None:
    """Return what the language calls a function, or None where a part of a script is none."""
    return _NAMES.get(type(node)) or (node.name.lower() if isinstance(node, exp.Anonymous) else None)


_TYPED = frozenset({"ratio", "coalesce", "nullif", "abs"})
"""Functions whose type follows from their arguments'."""

_PARTS = frozenset({"this", "expression", "expressions", "low", "high", "to", "is_string", "kind"})
"""What rules read of a node. The parser knows more of some (SYMMETRIC, FORMAT ...), which no rule may pass over."""

_COMPARED: tuple[type[exp.Expr], ...] = (exp.EQ, exp.NEQ, exp.LT, exp.LTE, exp.GT, exp.GTE)


class Compiler:
    """Compiles the expressions of one script for one engine."""

    def __init__(self, scope: Scope, key: exp.Column | None = None) -> None:
        """Compile within a scope.

        Args:
            scope: What names mean.
            key: The column of GROUP BY, the only one allowed outside aggregates; None: any column, and no aggregate.
        """
        self.scope = scope
        self._key = None if key is None else scope.column(key)

    def compile(self, node: exp.Expr) -> Typed:
        """Return an expression's tree and type.

        Raises:
            ViewRefusedError: With line and column, and the fix.
        """
        rule = self._RULES.get(type(node))
        if rule is not None:
            more = [name for name, part in node.args.items() if part and name not in _PARTS]
            if more and not isinstance(node, exp.Column | exp.Case | exp.In):  # these say themselves what they take
                raise refused(node, f"{more[0].upper()} is not in the language: leave it out")
            return rule(self, node)
        name = name_of(node)
        if name in AGGREGATES or isinstance(node, exp.Filter):
            return self._aggregate(node, name or "")
        if name in FUNCTIONS or name in _TYPED:
            return self._function(node, name)
        raise _unknown(node, _spelled(node) if name is None else name)

    def condition(self, node: exp.Expr) -> exp.Expr:
        """Return the tree of a condition; refuse what is none."""
        found = self.compile(node)
        if found.type.kind != "boolean":
            raise refused(node, f"a condition is wanted here, this is {found.type}: compare it with something")
        return found.tree

    # --- names and literals ---

    def _column(self, node: exp.Column) -> Typed:
        alias, name, kind = found = self.scope.column(node)
        if self._key is not None and found != self._key:
            raise refused(node, f"{name} is not the key, so an aggregate must say which of its values: last({name})")
        return Typed(column_of(alias, name), kind)

    def _literal(self, node: exp.Literal) -> Typed:
        if node.is_string:
            return self.scope.text(node.name)
        return number_literal(node)

    def _negative(self, node: exp.Neg) -> Typed:
        value = self.compile(node.this)
        if not value.type.is_number:
            raise refused(node, f"{value.type} has no negative")
        kind = decimal(value.type.digits, 0) if value.type.kind == "int" else value.type
        return Typed(exp.Cast(this=exp.Neg(this=exp.Paren(this=cast(value, kind))), to=kind.sql), kind)

    def _boolean(self, node: exp.Boolean) -> Typed:
        return Typed(exp.Boolean(this=node.this), BOOLEAN)

    def _placeholder(self, node: exp.Placeholder) -> Typed:
        if node.name.lower() != AS_OF:
            raise refused(node, f"the only parameter is :{AS_OF}, not :{node.name}")
        return self.scope.instant()

    # --- operators ---

    def _paren(self, node: exp.Paren) -> Typed:
        inner = self.compile(node.this)
        return Typed(exp.Paren(this=inner.tree), inner.type)

    def _arithmetic(self, node: exp.Binary) -> Typed:
        if isinstance(node.expression, exp.Interval):
            return self._shifted(node)
        left, right = self.compile(node.left), self.compile(node.right)
        if not (left.type.is_number and right.type.is_number):
            fix = "days_between or seconds_between" if "timestamp" in (left.type.kind, right.type.kind) else "numbers"
            raise refused(node, f"{left.type} and {right.type} cannot be calculated with: use {fix}")
        if DOUBLE in (left.type, right.type):
            tree = type(node)(this=cast(left, DOUBLE), expression=cast(right, DOUBLE))
            return Typed(exp.Paren(this=tree), DOUBLE)
        kind = _decimal_result(node, left.type, right.type)
        first = decimal(_first_digits(self.scope.engine, left.type, right.type, kind), left.type.scale)
        sides = [cast(left, first), cast(right, decimal(right.type.digits, right.type.scale))]
        tree = type(node)(this=sides[0], expression=sides[1])
        return Typed(exp.Cast(this=exp.Paren(this=tree), to=kind.sql), kind)

    def _shifted(self, node: exp.Binary) -> Typed:
        if not (isinstance(node.this, exp.Placeholder) and isinstance(node, exp.Add | exp.Sub)):
            raise refused(node, f"an interval goes with :{AS_OF} alone: compare a column with :{AS_OF} - INTERVAL ...")
        self._placeholder(node.this)
        seconds = seconds_of(node.expression)
        return self.scope.instant(seconds if isinstance(node, exp.Sub) else -seconds)

    def _divided(self, node: exp.Expr) -> Typed:
        raise refused(node, "engines divide differently: write ratio(a, b), which is NULL where b is zero")

    def _compared(self, node: exp.Binary) -> Typed:
        left, right = self.compile(node.left), self.compile(node.right)
        sides = self._together(node, [left, right])
        kind = sides[0].type.kind
        if kind == "boolean" or (kind == "text" and not isinstance(node, exp.EQ | exp.NEQ)):
            raise refused(node, f"{kind} has no order or comparison here: text takes = and <>, a boolean stands alone")
        return Typed(type(node)(this=sides[0].tree, expression=sides[1].tree), BOOLEAN)

    def _logical(self, node: exp.Binary) -> Typed:
        parts = [exp.Paren(this=self.condition(each)) for each in (node.left, node.right)]
        return Typed(type(node)(this=parts[0], expression=parts[1]), BOOLEAN)

    def _not(self, node: exp.Not) -> Typed:
        return Typed(exp.Not(this=exp.Paren(this=self.condition(node.this))), BOOLEAN)

    def _is(self, node: exp.Is) -> Typed:
        if not isinstance(node.expression, exp.Null):
            raise refused(node, "IS goes with NULL alone")
        return Typed(exp.Is(this=self.compile(node.this).tree, expression=exp.Null()), BOOLEAN)

    def _between(self, node: exp.Between) -> Typed:
        low = exp.GTE(this=node.this.copy(), expression=node.args["low"].copy())
        high = exp.LTE(this=node.this.copy(), expression=node.args["high"].copy())
        sides = [exp.Paren(this=self._compared(each).tree) for each in (low, high)]
        return Typed(exp.And(this=sides[0], expression=sides[1]), BOOLEAN)

    def _in(self, node: exp.In) -> Typed:
        if not node.expressions or not all(isinstance(each, exp.Literal | exp.Neg) for each in node.expressions):
            raise refused(node, "IN takes a list of literals")
        found = [self.compile(each) for each in (node.this, *node.expressions)]
        value, *choices = self._together(node, found)
        return Typed(exp.In(this=value.tree, expressions=[each.tree for each in choices]), BOOLEAN)

    def _case(self, node: exp.Case) -> Typed:
        if node.this is not None:
            raise refused(node, "write CASE WHEN condition THEN ... END")
        conditions = [self.condition(branch.this) for branch in node.args["ifs"]]
        default = node.args.get("default") or exp.Null()
        values = self._together(
            node, [self.compile(each) for each in (*(branch.args["true"] for branch in node.args["ifs"]), default)]
        )
        branches = [
            exp.If(this=condition, true=value.tree) for condition, value in zip(conditions, values, strict=False)
        ]
        return Typed(exp.Case(ifs=branches, default=values[-1].tree), values[0].type)

    def _cast(self, node: exp.Cast) -> Typed:
        if isinstance(node.this, exp.Literal) and node.this.is_string and node.to.this in LITERAL_TYPES:
            return instant_literal(node)
        value = self.compile(node.this)
        wanted = _cast_type(node)
        if wanted is None or not _widens(value.type, wanted):
            raise refused(
                node,
                f"{value.type} does not become {node.to.sql()} alike in every engine; DOUBLE of a number, a wider"
                " DECIMAL, and VARCHAR of a whole number do, and a source's column is declared with the type wanted",
            )
        return Typed(exp.Cast(this=value.tree, to=wanted.sql), wanted)

    # --- functions ---

    def _function(self, node: exp.Expr, name: str) -> Typed:
        given = [self.compile(each) for each in _arguments(node)]
        match name, len(given):
            case "ratio", 2 if all(each.type.is_number for each in given):
                return Typed(ratio(given[0].tree, given[1].tree), DOUBLE)
            case "coalesce", n if n > 1:
                values = self._together(node, given)
                return Typed(
                    exp.Coalesce(this=values[0].tree, expressions=[v.tree for v in values[1:]]), values[0].type
                )
            case "nullif", 2:
                sides = self._together(node, given)
                same = exp.EQ(this=sides[0].tree, expression=sides[1].tree)
                nothing = exp.Cast(this=exp.Null(), to=sides[0].type.sql)
                return Typed(sql.case(sides[0].tree.copy(), (same, nothing)), sides[0].type)
            case "abs", 1 if given[0].type.is_number:
                kind = decimal(given[0].type.digits, 0) if given[0].type.kind == "int" else given[0].type
                return Typed(exp.Cast(this=exp.Abs(this=cast(given[0], kind)), to=kind.sql), kind)
            case _ if name in _TYPED:
                raise refused(node, f"{name} does not take {_told(given)}")
        return self._listed(node, name, given)

    def _listed(self, node: exp.Expr, name: str, given: list[Typed]) -> Typed:
        function = FUNCTIONS.get(name)
        if function is None:
            raise _unknown(node, name)
        render = function.renders.get(self.scope.engine)
        if render is None:
            raise refused(node, f"{self.scope.engine} has no {name}: leave it out of targets, or write it otherwise")
        if len(given) != len(function.arguments) or any(
            each.type.kind not in kinds for each, kinds in zip(given, function.arguments, strict=True)
        ):
            wanted = ", ".join(" or ".join(kinds) for kinds in function.arguments)
            raise refused(node, f"{name} takes ({wanted}), not {_told(given)}")
        return Typed(render(*(each.tree for each in given)), function.result)

    def _extract(self, node: exp.Extract) -> Typed:
        return self._listed(node, node.name.lower(), [self.compile(node.expression)])

    def _aggregate(self, node: exp.Expr, name: str) -> Typed:
        if self._key is None:
            raise refused(node, "an aggregate cannot stand here: it has no rows to gather")
        condition = None
        if isinstance(node, exp.Filter):
            condition = node.expression.this
            node = node.this
            name = _NAMES.get(type(node)) or node.name.lower()
            if name not in AGGREGATES:
                raise refused(node, "FILTER goes with an aggregate")
        return Aggregates(Compiler(self.scope)).compile(node, name, condition)

    def _together(self, node: exp.Expr, given: list[Typed]) -> list[Typed]:
        """Return expressions as the one type that they have in common."""
        kind = common([each.type for each in given])
        if kind is None and all(each.type.is_number for each in given):
            kind = DOUBLE
        if kind is None or kind.kind == "null":
            fix = "; a moment is written TIMESTAMP '2026-01-31 00:00:00'" if "timestamp" in _told(given) else ""
            raise refused(node, f"{_told(given)} are of different types, or of none{fix}")
        return [Typed(cast(each, kind), kind) for each in given]

    _RULES: ClassVar[dict[type[exp.Expr], Callable[..., Typed]]] = {
        exp.Column: _column,
        exp.Literal: _literal,
        exp.Neg: _negative,
        exp.Boolean: _boolean,
        exp.Null: lambda _self, _node: Typed(exp.Null(), NULL),
        exp.Placeholder: _placeholder,
        exp.Paren: _paren,
        **dict.fromkeys((exp.Add, exp.Sub, exp.Mul), _arithmetic),
        **dict.fromkeys((exp.Div, exp.Mod, exp.IntDiv), _divided),
        **dict.fromkeys(_COMPARED, _compared),
        exp.And: _logical,
        exp.Or: _logical,
        exp.Not: _not,
        exp.Is: _is,
        exp.Between: _between,
        exp.In: _in,
        exp.Case: _case,
        exp.Cast: _cast,
        exp.Extract: _extract,
    }


def _arguments(node: exp.Expr) -> list[exp.Expr]:
    if isinstance(node, exp.Anonymous):
        return list(node.expressions)
    extra = [part for name, part in node.args.items() if part and name not in ("this", "expression", "expressions")]
    if not all(isinstance(part, bool) for part in extra):
        raise refused(node, "only the plain form of this function is in the language")
    second = node.args.get("expression")
    return [node.this, *([second] if second is not None else []), *node.expressions]


def _decimal_result(node: exp.Binary, left: ScriptType, right: ScriptType) -> ScriptType:
    """Return the type of a sum, difference or product, which every engine can hold with a digit to spare."""
    if isinstance(node, exp.Mul):
        scale, digits = left.scale + right.scale, left.digits + right.digits + 1
    else:
        scale = max(left.scale, right.scale)
        digits = max(left.digits - left.scale, right.digits - right.scale) + scale + 1
    if digits > MAX_DIGITS:
        raise refused(
            node, f"{left} and {right} give up to {digits} digits, more than {MAX_DIGITS}: CAST(... AS DOUBLE) one"
        )
    return decimal(digits, scale)


def _first_digits(engine: str, left: ScriptType, right: ScriptType, result: ScriptType) -> int:
    """Return the digits to calculate the left side with.

    DuckDB gives numbers of 64 bits where both sides are, and fails where the result is not; with a longer side it uses
    128 bits.
    """
    is_short = max(left.digits, right.digits) <= WORD_DIGITS < result.digits
    return WORD_DIGITS + 1 if engine == "duckdb" and is_short else left.digits


def _cast_type(node: exp.Cast) -> ScriptType | None:
    sizes = [int(each.name) for each in node.to.expressions if each.name.isdigit()]
    match node.to.this:
        case exp.DataType.Type.DOUBLE:
            return DOUBLE
        case exp.DataType.Type.DECIMAL if len(sizes) == 2 and 0 < sizes[0] <= MAX_DIGITS and sizes[1] <= sizes[0]:
            return decimal(sizes[0], sizes[1])
        case exp.DataType.Type.VARCHAR | exp.DataType.Type.TEXT if not sizes:
            return TEXT
    return None


def _widens(given: ScriptType, wanted: ScriptType) -> bool:
    if wanted.kind == "double":
        return given.is_number
    if wanted.kind == "text":
        return given.kind in ("int", "text")
    return (
        given.kind in ("int", "decimal")
        and wanted.scale >= given.scale
        and wanted.digits - wanted.scale >= given.digits - given.scale
    )


def _told(given: list[Typed]) -> str:
    return f"({', '.join(str(each.type) for each in given)})"


def _spelled(node: exp.Expr) -> str:
    return (node.sql_name() if isinstance(node, exp.Func) else type(node).__name__).lower()


def _unknown(node: exp.Expr, name: str) -> Exception:
    if name in RANDOM or name.replace("_", "") in RANDOM:
        return refused(
            node, f"{name} does not give the same answer twice: use :{AS_OF} for the instant of the question"
        )
    if isinstance(node, exp.Window):
        return refused(node, "window functions are not in the language: use an aggregate with FILTER, or last(x)")
    if isinstance(node, exp.Query | exp.Subquery | exp.Exists):
        return refused(node, "a query within a query is not in the language: join a dimension")
    known = sorted({*FUNCTIONS, *AGGREGATES, *_TYPED})
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]}?" if near else f"there is {', '.join(known)}"
    return refused(node, f"{name} is not in the language; {hint}")
