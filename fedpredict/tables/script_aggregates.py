"""The aggregates of the script language; a FILTER becomes a CASE inside, which every engine has."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlglot import exp

from fedpredict.tables import sql
from fedpredict.tables.script_functions import newest
from fedpredict.tables.script_position import refused
from fedpredict.tables.script_scope import Typed, cast, column_of
from fedpredict.tables.script_types import DOUBLE, INT, INT_DIGITS, ScriptType, decimal

if TYPE_CHECKING:
    from fedpredict.tables.script_compile import Compiler

AGGREGATES = frozenset({"count", "count_if", "count_distinct", "sum", "avg", "min", "max", "last"})

SUM_DIGITS = 28
"""The most digits of what is summed exactly; servers add ten to them on the way."""

_GROWTH = 8
"""The digits that a sum has more than its terms: a hundred million of the largest."""


class Aggregates:
    """Compiles aggregates over the rows that a compiler of plain expressions sees."""

    def __init__(self, rows: Compiler) -> None:
        self._rows = rows

    def compile(self, node: exp.Expr, name: str, condition: exp.Expr | None) -> Typed:
        """Return an aggregate over the rows that meet a condition, or all.

        Raises:
            ViewRefusedError: It does not take such an argument.
        """
        where = None if condition is None else self._rows.condition(condition)
        arguments = list(node.expressions) if isinstance(node, exp.Anonymous) else [node.this]
        more = [part for part in node.args.values() if part and part is not node.this and not isinstance(part, bool)]
        if len(arguments) != 1 or (more and not isinstance(node, exp.Anonymous)):
            raise refused(node, f"{name} takes one argument")
        argument = arguments[0]
        if name == "count":
            return self._count(argument, where)
        if name == "count_if":
            met = self._rows.condition(argument)
            return _counted(met if where is None else exp.and_(where, met, copy=False))
        value = self._rows.compile(argument)
        _check(node, name, value.type)
        if name == "last":
            return self._last(node, value, where)
        if name == "count_distinct":
            return _distinct(value, where)
        return {"sum": _sum, "avg": _average, "min": _extreme, "max": _extreme}[name](node, value, where)

    def _count(self, argument: exp.Expr, where: exp.Expr | None) -> Typed:
        if isinstance(argument, exp.Star):
            return _counted(where)
        if isinstance(argument, exp.Distinct):
            if len(argument.expressions) != 1 or argument.args.get("on"):
                raise refused(argument, "COUNT(DISTINCT x) takes one argument")
            value = self._rows.compile(argument.expressions[0])
            _check(argument, "count_distinct", value.type)
            return _distinct(value, where)
        value = self._rows.compile(argument)
        present = exp.Not(this=exp.Is(this=exp.Paren(this=value.tree), expression=exp.Null()))
        return _counted(present if where is None else exp.and_(where, present, copy=False))

    def _last(self, node: exp.Expr, value: Typed, where: exp.Expr | None) -> Typed:
        alias, source = self._rows.scope.events
        if source.event_time is None or source.event_id is None:
            raise refused(node, "last goes by the time of events, and the source after FROM is a dimension")
        present = exp.Not(this=exp.Is(this=exp.Paren(this=value.tree), expression=exp.Null()))
        condition = present if where is None else exp.and_(where, present, copy=False)
        time = column_of(alias, source.event_time)
        lowest = exp.Literal.string("") if source.types[source.event_id].kind == "text" else _smallest()
        number = exp.Coalesce(this=column_of(alias, source.event_id), expressions=[lowest])
        tree = newest(self._rows.scope.engine, time, number, value.tree.copy(), condition)
        return Typed(exp.Cast(this=tree, to=value.type.sql), value.type)


def _check(node: exp.Expr, name: str, kind: ScriptType) -> None:
    wanted = {
        "sum": ("int", "decimal", "double"),
        "avg": ("int", "decimal", "double"),
        "min": ("int", "decimal", "double", "timestamp", "date"),
        "max": ("int", "decimal", "double", "timestamp", "date"),
        "count_distinct": ("text", "int", "decimal", "timestamp", "date"),
        "last": ("text", "int", "decimal", "double", "timestamp", "date"),
    }[name]
    if kind.kind not in wanted:
        raise refused(node, f"{name} takes {', '.join(wanted)}, not {kind}")


def _smallest() -> exp.Expr:
    return exp.Cast(this=exp.Literal.string(str(-(2**63))), to=INT.sql)


def _met(value: exp.Expr, where: exp.Expr | None) -> exp.Expr:
    return value if where is None else exp.Case(ifs=[exp.If(this=where.copy(), true=value)])


def _counted(where: exp.Expr | None) -> Typed:
    what = exp.Star() if where is None else _met(sql.number(1), where)
    return Typed(exp.Cast(this=exp.Count(this=what), to=INT.sql), INT)


def _distinct(value: Typed, where: exp.Expr | None) -> Typed:
    tree = exp.Count(this=exp.Distinct(expressions=[_met(value.tree, where)]))
    return Typed(exp.Cast(this=tree, to=INT.sql), INT)


def _sum(node: exp.Expr, value: Typed, where: exp.Expr | None) -> Typed:
    if value.type.kind == "double":
        return Typed(exp.Sum(this=_met(value.tree, where)), DOUBLE)
    if value.type.digits > SUM_DIGITS:
        raise refused(
            node, f"{value.type} has more than the {SUM_DIGITS} digits that are summed exactly: CAST(... AS DOUBLE)"
        )
    term = exp.Cast(this=value.tree, to=decimal(SUM_DIGITS, value.type.scale).sql)
    kind = decimal(max(INT_DIGITS, value.type.digits + _GROWTH), value.type.scale)
    return Typed(exp.Cast(this=exp.Sum(this=_met(term, where)), to=kind.sql), kind)


def _average(node: exp.Expr, value: Typed, where: exp.Expr | None) -> Typed:
    total = cast(_sum(node, value, where), DOUBLE)
    count = exp.Count(this=_met(value.tree.copy(), where))
    mean = exp.Div(this=total, expression=exp.Cast(this=count.copy(), to=DOUBLE.sql), typed=True)
    return Typed(exp.Case(ifs=[exp.If(this=exp.GT(this=count, expression=sql.number(0)), true=mean)]), DOUBLE)


def _extreme(node: exp.Expr, value: Typed, where: exp.Expr | None) -> Typed:
    function = exp.Min if isinstance(node, exp.Min) else exp.Max
    return Typed(function(this=_met(value.tree, where)), value.type)
