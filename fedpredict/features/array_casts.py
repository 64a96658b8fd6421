"""Expressions over arrays: what one is, how its type becomes another, and how two get the type they have in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from decimal import Context, Decimal

import numpy as np
from sqlglot import exp

from fedpredict.features.array_groups import Groups
from fedpredict.features.array_values import Array, Values, both, of_one, rescaled, to_doubles, wide
from fedpredict.tables.script import Script
from fedpredict.tables.script_types import BOOLEAN, DATE, DOUBLE, INT, NULL, TEXT, TIMESTAMP, ScriptType, decimal

DAY_US = 86_400_000_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICRO = timedelta(microseconds=1)
_WIDE = Context(prec=100)
"""Python's own rounds after 28 digits."""
_TYPES = {
    exp.DataType.Type.TEXT: TEXT,
    exp.DataType.Type.BIGINT: INT,
    exp.DataType.Type.DOUBLE: DOUBLE,
    exp.DataType.Type.TIMESTAMPTZ: TIMESTAMP,
    exp.DataType.Type.DATE: DATE,
    exp.DataType.Type.BOOLEAN: BOOLEAN,
}


class UnknownNodeError(Exception):
    """Something that only an engine computes."""


@dataclass(slots=True, eq=False)
class Plan:
    """What functions are called with: the parameters' meaning, and of one question its rows, groups and instant."""

    offsets: dict[str, int]
    """Parameter -> how many microseconds it is before the instant."""
    texts: dict[str, str]
    columns: Mapping[tuple[str, str], Values] = field(default_factory=dict)
    groups: Groups = field(default_factory=lambda: Groups(np.zeros(1, dtype=np.intp), 1))
    as_of: int = 0
    known: dict[int, Values] = field(default_factory=dict)

    def at(self, columns: Mapping[tuple[str, str], Values], groups: Groups, as_of: int) -> Plan:
        """Return the plan for a question."""
        return Plan(self.offsets, self.texts, columns, groups, as_of, {})


@dataclass(frozen=True, slots=True)
class Node:
    """An expression: its type, the most digits that its numbers have, and what computes it."""

    type: ScriptType
    digits: int
    run: Callable[[Plan], Values]

    @property
    def is_exact(self) -> bool:
        """Whether it is a whole number or a decimal."""
        return self.type.kind in ("int", "decimal")


def plan_of(script: Script) -> Plan:
    """Return what the parameters of a script mean."""
    return Plan({name: by // _MICRO for name, by in script.offsets.items()}, dict(script.texts))


def once(run: Callable[[Plan], Values], plan: Plan) -> Values:
    """Return what a function gives, computed the first time that a question needs it."""
    found = plan.known.get(id(run))
    if found is None:
        found = plan.known[id(run)] = run(plan)
    return found


def mapped(given: Node, kind: ScriptType, digits: int, change: Callable[[Array], Array]) -> Node:
    """Return an expression changed value by value; NULL stays NULL."""

    def run(plan: Plan) -> Values:
        values = given.run(plan)
        return Values(change(values.data), values.valid)

    return Node(kind, digits, run)


def over_both(operator: Callable[[Array, Array], Array], one: Node, other: Node) -> Callable[[Plan], Values]:
    """Return what puts two expressions together; NULL where either is."""

    def run(plan: Plan) -> Values:
        left, right = one.run(plan), other.run(plan)
        return Values(operator(left.data, right.data), both(left, right))

    return run


def parameter(name: str, kind: ScriptType) -> Node:
    """Return a parameter: a moment at or before the instant, or a text."""
    if kind == TIMESTAMP:
        return Node(kind, 0, lambda plan: of_one(np.array([plan.as_of - plan.offsets[name]])))
    return Node(kind, 0, lambda plan: of_one(np.array([plan.texts[name]], dtype=object)))


def type_of(node: exp.DataType) -> ScriptType:
    """Return the type that a cast names."""
    if node.this == exp.DataType.Type.DECIMAL:
        digits, scale = (int(each.name) for each in node.expressions)
        return decimal(digits, scale)
    if node.this not in _TYPES:
        raise UnknownNodeError(f"a cast to {node.sql()}")
    return _TYPES[node.this]


def parsed(text: str, kind: ScriptType) -> Array:
    """Return the value of a text that stands in the query itself."""
    match kind.kind:
        case "double":
            return np.array([float(text)])
        case "decimal" | "int":
            number = int(Decimal(text).scaleb(kind.scale, _WIDE))
            return wide(np.array([number], dtype=None if abs(number) < 2**63 else object), kind.digits)
        case "timestamp":
            return np.array([(datetime.fromisoformat(text).replace(tzinfo=UTC) - _EPOCH) // _MICRO])
        case "date":
            return np.array([(date.fromisoformat(text) - _EPOCH.date()).days])
    raise UnknownNodeError(f"a literal of type {kind}")


def converted(given: Node, wanted: ScriptType) -> Node:
    """Return an expression as another type."""
    if given.is_exact and wanted.kind in ("int", "decimal"):
        by = wanted.scale - given.type.scale
        if by < 0:
            raise UnknownNodeError("a cast to fewer digits after the point")
        same = by == 0
        run = given.run if same else mapped(given, wanted, 0, lambda data: rescaled(data, given.digits, by)).run
        return Node(wanted, min(given.digits + by, wanted.digits), run)
    if given.is_exact and wanted == DOUBLE:
        return mapped(given, DOUBLE, 0, lambda data: to_doubles(data, given.type.scale))
    if given.type == INT and wanted == TEXT:
        return mapped(given, TEXT, 0, lambda data: np.array([str(each) for each in data.tolist()], dtype=object))
    if wanted == DATE:
        return as_days(given)
    raise UnknownNodeError(f"a cast of {given.type} to {wanted}")


def as_days(given: Node) -> Node:
    """Return a moment or a date as days since 1970."""
    if given.type == TIMESTAMP:
        return mapped(given, DATE, 0, lambda data: data // DAY_US)
    if given.type != DATE:
        raise UnknownNodeError(f"{given.type} as a date")
    return given


def widened(given: Node, digits: int) -> Node:
    """Return whole numbers as what holds so many digits."""
    if not given.is_exact:
        return given
    return mapped(given, given.type, given.digits, lambda data: wide(data, digits))


def of_one_scale(one: Node, other: Node) -> tuple[Node, Node]:
    """Return exact numbers with as many digits after the point as the one that has more."""
    scale = max(one.type.scale, other.type.scale)
    return _scaled(one, scale), _scaled(other, scale)


def _scaled(given: Node, scale: int) -> Node:
    if given.type.scale == scale:
        return given
    return converted(given, decimal(given.digits + scale - given.type.scale, scale))


def together(values: Sequence[Node]) -> list[Node]:
    """Return expressions that are of one type already, but for NULL; exact numbers with one scale."""
    kinds = {("exact" if each.is_exact else each.type.kind) for each in values if each.type != NULL}
    if len(kinds) != 1:
        raise UnknownNodeError("values of different types, or none of any")
    if "exact" not in kinds:
        return list(values)
    scale = max(each.type.scale for each in values)
    return [each if each.type == NULL else _scaled(each, scale) for each in values]


def kind_of(values: Sequence[Node]) -> ScriptType:
    """Return the type of expressions that are of one, but for NULL."""
    return next(each.type for each in values if each.type != NULL)


def with_type(given: Node, kind: ScriptType, digits: int) -> Node:
    """Return an expression whose numbers mean something else."""
    return replace(given, type=kind, digits=digits)
