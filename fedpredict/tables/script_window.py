"""How far back a script looks: what a source of raw rows need not send."""

from __future__ import annotations

from dataclasses import dataclass

from sqlglot import exp

from fedpredict.tables.script_aggregates import AGGREGATES
from fedpredict.tables.script_compile import name_of
from fedpredict.tables.script_literals import seconds_of
from fedpredict.tables.script_scope import AS_OF, Scope
from fedpredict.tables.script_shape import Shape


@dataclass(frozen=True, slots=True)
class Window:
    """The time that a script looks back on.

    Attributes:
        seconds: Before the instant of the question; older events change no feature.
        needs_older: Whether one older event, any of them, gives a person a row: it has one as soon as there was an
            event, and then every aggregate is of none.
    """

    seconds: int
    needs_older: bool


def window_of(shape: Shape) -> Window | None:
    """Return how far back a script looks, or None where every earlier event can count.

    A window in the WHERE bounds all; else every aggregate must have one: in its FILTER, in COUNT_IF, or in every branch
    of a CASE without ELSE.
    """
    scope = Scope("duckdb", shape.sources)
    if shape.where is not None:
        seconds = _bound(shape.where, scope)
        return None if seconds is None else Window(seconds, needs_older=False)
    if any(join.side != "LEFT" for join in shape.joins):  # then it depends on the older event whether there is a row
        return None
    found = [_of_aggregate(node, scope) for output in shape.outputs.values() for node in _aggregates(output)]
    seconds_of_all = [each for each in found if each is not None]
    if not found or len(seconds_of_all) < len(found):
        return None
    return Window(max(seconds_of_all), needs_older=True)


def _aggregates(output: exp.Expr) -> list[exp.Expr]:
    """Return the aggregates of an output, one with a FILTER as that."""
    found = [node for node in output.walk() if name_of(node) in AGGREGATES]
    return [node.parent if isinstance(node.parent, exp.Filter) else node for node in found]


def _of_aggregate(node: exp.Expr, scope: Scope) -> int | None:
    bounds = []
    if isinstance(node, exp.Filter):
        bounds.append(_bound(node.expression.this, scope))
        node = node.this
    argument = node.this
    if isinstance(node, exp.CountIf):
        bounds.append(_bound(argument, scope))
    elif isinstance(argument, exp.Case) and argument.args.get("default") is None:  # of other rows it is NULL
        branches = [_bound(branch.this, scope) for branch in argument.args["ifs"]]
        bounds.append(None if None in branches else max(each for each in branches if each is not None))
    known = [each for each in bounds if each is not None]
    return min(known) if known else None


def _bound(condition: exp.Expr, scope: Scope) -> int | None:
    """Return how many seconds before the instant an event may be that meets a condition; None: any number."""
    match condition:
        case exp.Paren():
            return _bound(condition.this, scope)
        case exp.And():
            known = [
                each for each in (_bound(condition.left, scope), _bound(condition.right, scope)) if each is not None
            ]
            return min(known) if known else None
        case exp.GT() | exp.GTE():
            return _seconds(condition.left, condition.right, scope)
        case exp.LT() | exp.LTE():
            return _seconds(condition.right, condition.left, scope)
        case exp.Between():
            return _seconds(condition.this, condition.args["low"], scope)
    return None


def _seconds(later: exp.Expr, earlier: exp.Expr, scope: Scope) -> int | None:
    """Return the seconds of `event time >= :as_of - INTERVAL`, or None where the sides are something else."""
    if not isinstance(later, exp.Column) or scope.column(later)[:2] != (scope.events[0], scope.events[1].event_time):
        return None
    if isinstance(earlier, exp.Sub) and isinstance(earlier.expression, exp.Interval) and _is_instant(earlier.this):
        return seconds_of(earlier.expression)
    return 0 if _is_instant(earlier) else None


def _is_instant(node: exp.Expr) -> bool:
    return isinstance(node, exp.Placeholder) and node.name.lower() == AS_OF
