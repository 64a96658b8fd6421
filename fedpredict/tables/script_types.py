"""The types of the script language, and what becomes of two of them together: the same in every engine."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from sqlglot import exp
from typing_extensions import override

Kind: TypeAlias = Literal["text", "int", "decimal", "double", "timestamp", "date", "boolean", "null"]

MAX_DIGITS = 38
"""What a DECIMAL holds in every engine."""

INT_DIGITS = 19
"""Of a 64-bit whole number."""

WORD_DIGITS = 18
"""Whole numbers of so many digits fit into 64 bits, whatever the digits are."""

_DECIMAL = re.compile(r"decimal\(([0-9]{1,2}),\s*([0-9]{1,2})\)")
_PLAIN: tuple[Kind, ...] = ("text", "int", "double", "timestamp", "date", "boolean")
_SQL = {
    "text": exp.DataType.Type.TEXT,
    "int": exp.DataType.Type.BIGINT,
    "double": exp.DataType.Type.DOUBLE,
    "timestamp": exp.DataType.Type.TIMESTAMPTZ,
    "date": exp.DataType.Type.DATE,
    "boolean": exp.DataType.Type.BOOLEAN,
}


@dataclass(frozen=True, slots=True)
class ScriptType:
    """A type; digits and scale are those of a decimal, or of the decimal that a whole number fits in."""

    kind: Kind
    digits: int = 0
    scale: int = 0

    @override
    def __str__(self) -> str:
        return f"decimal({self.digits},{self.scale})" if self.kind == "decimal" else self.kind

    @property
    def is_number(self) -> bool:
        """Whether it can be added."""
        return self.kind in ("int", "decimal", "double")

    @property
    def sql(self) -> exp.DataType:
        """The type as a cast names it."""
        if self.kind == "decimal":
            parameters = [exp.DataTypeParam(this=exp.Literal.number(each)) for each in (self.digits, self.scale)]
            return exp.DataType(this=exp.DataType.Type.DECIMAL, expressions=parameters)
        return exp.DataType(this=_SQL[self.kind])


TEXT, DOUBLE, BOOLEAN = ScriptType("text"), ScriptType("double"), ScriptType("boolean")
TIMESTAMP, DATE, NULL = ScriptType("timestamp"), ScriptType("date"), ScriptType("null")
INT = ScriptType("int", INT_DIGITS)


def decimal(digits: int, scale: int) -> ScriptType:
    """Return the type of a decimal."""
    return ScriptType("decimal", digits, scale)


def parse_type(text: str) -> ScriptType:
    """Return a type from its name.

    Raises:
        ValueError: No type is called so.

    >>> str(parse_type("decimal(18,2)")), str(parse_type("text"))
    ('decimal(18,2)', 'text')
    """
    found = _DECIMAL.fullmatch(text)
    if found:
        digits, scale = int(found[1]), int(found[2])
        if not (1 <= digits <= MAX_DIGITS and scale <= digits):
            raise ValueError(f"a decimal has 1 to {MAX_DIGITS} digits, and no more of them after the point")
        return decimal(digits, scale)
    for kind in _PLAIN:
        if text == kind:
            return INT if kind == "int" else ScriptType(kind)
    raise ValueError(f"a type is one of {', '.join(_PLAIN)}, decimal(digits,scale)")


def common(types: Sequence[ScriptType]) -> ScriptType | None:
    """Return the type that all of these become without loss, or None where there is none.

    Whole numbers and decimals become a decimal of enough digits; with a double among them, all become doubles. NULL
    becomes whatever the others are.
    """
    known = [each for each in types if each.kind != "null"]
    if not known:
        return NULL
    if all(each == known[0] for each in known):
        return known[0]
    if not all(each.is_number for each in known):
        return None
    if any(each.kind == "double" for each in known):
        return DOUBLE
    scale = max(each.scale for each in known)
    digits = max(each.digits - each.scale for each in known) + scale
    if any(each.kind == "int" for each in known) and scale == 0 and digits <= INT_DIGITS:
        return INT  # such as a count beside the literal 0
    return decimal(digits, scale) if digits <= MAX_DIGITS else None
