"""The nodes of a compiled query -> functions over arrays; each distinct expression is computed once for a question."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import ClassVar

import numpy as np
from sqlglot import exp

from fedpredict.features.array_casts import (
    Node,
    Plan,
    UnknownNodeError,
    as_days,
    converted,
    kind_of,
    mapped,
    of_one_scale,
    once,
    over_both,
    parameter,
    parsed,
    together,
    type_of,
    widened,
    with_type,
)
from fedpredict.features.array_values import NULLS, Array, Values, and_, chosen, is_true, of_one, or_
from fedpredict.tables.script_types import BOOLEAN, DOUBLE, INT, NULL, TEXT, ScriptType, decimal

_WHOLE = re.compile(r"-?[0-9]+")
_LONG = 19
"""Digits of a 64-bit whole number."""


class Builder:
    """Makes functions of the expressions of one level of a query."""

    def __init__(self, types: Mapping[str, Mapping[str, ScriptType]], inside: Mapping[str, Node] | None = None) -> None:
        """Prepare.

        Args:
            types: Alias -> column -> declared type.
            inside: The outputs of the query within, where there is one: then columns mean these.
        """
        self._types = types
        self._inside = inside
        self._made: dict[tuple[bool, str], Node] = {}
        self._grouped = False

    def row(self, node: exp.Expr) -> Node:
        """Return an expression of a row; raise `UnknownNodeError`."""
        return self._at(node, grouped=False)

    def group(self, node: exp.Expr) -> Node:
        """Return an expression of a group; raise `UnknownNodeError`."""
        return self._at(node, grouped=True)

    def _at(self, node: exp.Expr, *, grouped: bool) -> Node:
        before, self._grouped = self._grouped, grouped
        try:
            return self._build(node)
        finally:
            self._grouped = before

    def _build(self, node: exp.Expr) -> Node:
        if isinstance(node, exp.Paren):
            return self._build(node.this)
        key = (self._grouped, node.sql(dialect="duckdb"))
        made = self._made.get(key)
        if made is None:
            rule = self._RULES.get(type(node))
            if rule is None:
                raise UnknownNodeError(type(node).__name__)
            made = rule(self, node)
            made = self._made[key] = Node(made.type, made.digits, partial(once, made.run))
        return made

    # --- names and literals ---

    def _column(self, node: exp.Column) -> Node:
        name = node.name.lower()
        if self._inside is not None:
            return self._inside[node.name]
        if self._grouped:
            raise UnknownNodeError("a column of a row among groups")
        place = (node.table.lower(), name)
        kind = self._types[place[0]][name]
        return Node(kind, kind.digits, lambda plan: plan.columns[place])

    def _literal(self, node: exp.Literal) -> Node:
        if node.is_string:
            text = of_one(np.array([node.name], dtype=object))
            return Node(TEXT, 0, lambda _plan: text)
        if not _WHOLE.fullmatch(node.name):
            raise UnknownNodeError("a literal without a cast")
        value = of_one(np.array([int(node.name)]))
        return Node(INT, len(node.name), lambda _plan: value)

    def _null(self, _node: exp.Null) -> Node:
        return Node(NULL, 0, lambda _plan: NULLS)

    def _boolean(self, node: exp.Boolean) -> Node:
        value = of_one(np.array([bool(node.this)]))
        return Node(BOOLEAN, 0, lambda _plan: value)

    # --- casts ---

    def _cast(self, node: exp.Cast) -> Node:
        wanted = type_of(node.to)
        if isinstance(node.this, exp.Placeholder):
            return parameter(node.this.name, wanted)
        if isinstance(node.this, exp.Literal) and node.this.is_string:
            value = of_one(parsed(node.this.name, wanted))
            return Node(wanted, wanted.digits, lambda _plan: value)
        given = self._build(node.this)
        if given.type.kind == "null":
            return Node(wanted, 0, given.run)
        if given.type.kind == wanted.kind and not given.is_exact:
            return given
        return converted(given, wanted)

    # --- operators ---

    def _arithmetic(self, node: exp.Binary) -> Node:
        one, other = self._build(node.left), self._build(node.right)
        if one.type == DOUBLE and other.type == DOUBLE:
            return Node(DOUBLE, 0, over_both(_OPERATORS[type(node)], one, other))
        if not (one.is_exact and other.is_exact) or isinstance(node, exp.Div):
            raise UnknownNodeError("arithmetic of different types")
        if isinstance(node, exp.Mul):
            digits, scale = one.digits + other.digits, one.type.scale + other.type.scale
        else:
            one, other = of_one_scale(one, other)
            digits, scale = max(one.digits, other.digits) + 1, one.type.scale
        sides = [widened(each, digits) for each in (one, other)]
        return Node(decimal(digits, scale), digits, over_both(_OPERATORS[type(node)], *sides))

    def _compared(self, node: exp.Binary) -> Node:
        one, other = self._build(node.left), self._build(node.right)
        if one.is_exact and other.is_exact:
            one, other = of_one_scale(one, other)
        elif one.type.kind != other.type.kind:
            raise UnknownNodeError("different types compared")
        return Node(BOOLEAN, 0, over_both(_OPERATORS[type(node)], one, other))

    def _logical(self, node: exp.Binary) -> Node:
        one, other = self._build(node.left), self._build(node.right)
        join = and_ if isinstance(node, exp.And) else or_
        return Node(BOOLEAN, 0, lambda plan: join(one.run(plan), other.run(plan)))

    def _not(self, node: exp.Not) -> Node:
        return mapped(self._build(node.this), BOOLEAN, 0, np.logical_not)

    def _is_null(self, node: exp.Is) -> Node:
        if not isinstance(node.expression, exp.Null):
            raise UnknownNodeError("IS of something else than NULL")
        given = self._build(node.this)
        return Node(BOOLEAN, 0, lambda plan: of_one(~given.run(plan).valid))

    def _in(self, node: exp.In) -> Node:
        sides = [exp.EQ(this=node.this, expression=each) for each in node.expressions]
        found = [self._compared(each) for each in sides]

        def run(plan: Plan) -> Values:
            result = found[0].run(plan)
            for each in found[1:]:
                result = or_(result, each.run(plan))
            return result

        return Node(BOOLEAN, 0, run)

    def _case(self, node: exp.Case) -> Node:
        branches = [(self._build(each.this), self._build(each.args["true"])) for each in node.args["ifs"]]
        otherwise = self._build(node.args.get("default") or exp.Null())
        values = together([*(value for _, value in branches), otherwise])
        conditions = [condition for condition, _ in branches]

        def run(plan: Plan) -> Values:
            result = values[-1].run(plan)
            for condition, value in zip(reversed(conditions), reversed(values[:-1]), strict=True):
                result = chosen(is_true(condition.run(plan)), value.run(plan), result)
            return result

        return Node(kind_of(values), max(each.digits for each in values), run)

    def _coalesce(self, node: exp.Coalesce) -> Node:
        values = together([self._build(each) for each in (node.this, *node.expressions)])

        def run(plan: Plan) -> Values:
            result = values[-1].run(plan)
            for each in reversed(values[:-1]):
                given = each.run(plan)
                result = chosen(given.valid, given, result)
            return result

        return Node(kind_of(values), max(each.digits for each in values), run)

    def _sign(self, node: exp.Unary) -> Node:
        given = self._build(node.this)
        if not (given.is_exact or given.type == DOUBLE):
            raise UnknownNodeError("the sign of something that is no number")
        # the least 64-bit number has no positive one
        return mapped(widened(given, given.digits), given.type, given.digits, _OPERATORS[type(node)])

    # --- functions ---

    def _extract(self, node: exp.Extract) -> Node:
        part = node.name.lower()
        given = self._build(node.expression)
        if part not in _PARTS or given.type.kind not in ("timestamp", "date"):
            raise UnknownNodeError(f"EXTRACT {part}")
        unit = "us" if given.type.kind == "timestamp" else "D"
        return mapped(given, INT, _LONG, lambda data: _PARTS[part](data.astype(f"datetime64[{unit}]")))

    def _called(self, node: exp.Anonymous) -> Node:
        name, arguments = node.name.upper(), list(node.expressions)
        if name == "STRUCT_EXTRACT":
            return self._last(arguments[0])
        if name == "ISODOW":
            return mapped(as_days(self._build(arguments[0])), INT, _LONG, lambda days: (days + 3) % 7 + 1)
        if name == "EPOCH_US":
            return with_type(self._build(arguments[0]), INT, _LONG)
        if name == "DATE_DIFF" and arguments[0].name == "day":
            start, end = (as_days(self._build(each)) for each in arguments[1:])
            return Node(INT, _LONG, over_both(np.subtract, end, start))
        raise UnknownNodeError(name)

    # --- aggregates ---

    def _count(self, node: exp.Count) -> Node:
        argument = node.this
        if isinstance(argument, exp.Star):
            return Node(INT, _LONG, lambda plan: plan.groups.count(np.ones(plan.groups.n_rows, dtype=np.bool_)))
        if isinstance(argument, exp.Distinct):
            given = self.row(argument.expressions[0])
            return Node(INT, _LONG, lambda plan: plan.groups.distinct(given.run(plan)))
        given = self.row(argument)
        return Node(INT, _LONG, lambda plan: plan.groups.count(given.run(plan).valid))

    def _sum(self, node: exp.Sum) -> Node:
        given = self.row(node.this)
        digits = given.digits if given.is_exact else 0
        kind = decimal(38, given.type.scale) if given.is_exact else DOUBLE
        return Node(kind, 38, lambda plan: plan.groups.sum(given.run(plan), digits))

    def _extreme(self, node: exp.Min | exp.Max) -> Node:
        given, largest = self.row(node.this), isinstance(node, exp.Max)
        if given.type.kind in ("text", "null"):
            raise UnknownNodeError("an extreme of texts")
        return replace(given, run=lambda plan: plan.groups.extreme(given.run(plan), largest=largest))

    def _last(self, node: exp.Expr) -> Node:
        branches = node.this.args["ifs"] if isinstance(node, exp.Max) and isinstance(node.this, exp.Case) else []
        row = branches[0].args["true"] if len(branches) == 1 else None
        if not isinstance(row, exp.Struct):
            raise UnknownNodeError("a struct that is not last's")
        time, number, value = (self.row(each.expression) for each in row.expressions)
        condition = self.row(branches[0].this)

        def run(plan: Plan) -> Values:
            met = is_true(condition.run(plan))
            return plan.groups.last(time.run(plan), number.run(plan), value.run(plan), met)

        return replace(value, run=run)

    _RULES: ClassVar[dict[type[exp.Expr], Callable[..., Node]]] = {
        exp.Column: _column,
        exp.Literal: _literal,
        exp.Null: _null,
        exp.Boolean: _boolean,
        exp.Cast: _cast,
        **dict.fromkeys((exp.Add, exp.Sub, exp.Mul, exp.Div), _arithmetic),
        **dict.fromkeys((exp.EQ, exp.NEQ, exp.LT, exp.LTE, exp.GT, exp.GTE), _compared),
        **dict.fromkeys((exp.And, exp.Or), _logical),
        exp.Not: _not,
        exp.Is: _is_null,
        exp.In: _in,
        exp.Case: _case,
        exp.Coalesce: _coalesce,
        **dict.fromkeys((exp.Neg, exp.Abs), _sign),
        exp.Extract: _extract,
        exp.Anonymous: _called,
        exp.Count: _count,
        exp.Sum: _sum,
        **dict.fromkeys((exp.Min, exp.Max), _extreme),
    }


_OPERATORS: dict[type[exp.Expr], Callable[..., Array]] = {
    exp.Add: np.add,
    exp.Sub: np.subtract,
    exp.Mul: np.multiply,
    exp.Div: np.divide,
    exp.EQ: np.equal,
    exp.NEQ: np.not_equal,
    exp.LT: np.less,
    exp.LTE: np.less_equal,
    exp.GT: np.greater,
    exp.GTE: np.greater_equal,
    exp.Neg: np.negative,
    exp.Abs: np.absolute,
}
_PARTS: dict[str, Callable[[Array], Array]] = {
    "year": lambda at: at.astype("datetime64[Y]").astype(np.int64) + 1970,
    "month": lambda at: at.astype("datetime64[M]").astype(np.int64) % 12 + 1,
    "day": lambda at: (at.astype("datetime64[D]") - at.astype("datetime64[M]")).astype(np.int64) + 1,
    "hour": lambda at: at.astype("datetime64[h]").astype(np.int64) % 24,
    "minute": lambda at: at.astype("datetime64[m]").astype(np.int64) % 60,
}
