"""Numbers, moments and lengths of time as a script writes them."""

from __future__ import annotations

import math
import re
from datetime import date, datetime

from sqlglot import exp

from fedpredict.tables.script_position import refused
from fedpredict.tables.script_scope import Typed
from fedpredict.tables.script_types import DATE, DOUBLE, MAX_DIGITS, TIMESTAMP, decimal

LITERAL_TYPES = (exp.DataType.Type.DATE, exp.DataType.Type.TIMESTAMP)
_PLAIN = re.compile(r"([0-9]*)(?:\.([0-9]*))?")
_UNITS = {"SECOND": 1, "MINUTE": 60, "HOUR": 3600, "DAY": 86400, "WEEK": 7 * 86400}


def number_literal(node: exp.Literal) -> Typed:
    """Return a number: without an exponent a decimal of just its digits, else a double."""
    found = _PLAIN.fullmatch(node.name)
    if found is None and math.isinf(float(node.name)):
        raise refused(node, "a number has to be one that a double can hold")
    if found is None:
        return Typed(exp.Cast(this=exp.Literal.string(node.name), to=DOUBLE.sql), DOUBLE)
    whole, part = found[1].lstrip("0"), found[2] or ""
    kind = decimal(max(1, len(whole) + len(part)), len(part))
    if kind.digits > MAX_DIGITS:
        raise refused(node, f"a number has at most {MAX_DIGITS} digits; write it with an exponent for a double")
    text = f"{whole or '0'}.{part}" if part else whole or "0"
    return Typed(exp.Cast(this=exp.Literal.string(text), to=kind.sql), kind)


def instant_literal(node: exp.Cast) -> Typed:
    """Return DATE '2026-01-31' or TIMESTAMP '2026-01-31 23:59:59'."""
    is_date = node.to.this == exp.DataType.Type.DATE
    try:
        text = date.fromisoformat(node.this.name).isoformat() if is_date else _moment(node.this.name)
    except ValueError:
        form = "DATE '2026-01-31'" if is_date else "TIMESTAMP '2026-01-31 23:59:59', in UTC"
        raise refused(node, f"not a moment: write {form}") from None
    kind = DATE if is_date else TIMESTAMP
    return Typed(exp.Cast(this=exp.Literal.string(text), to=kind.sql), kind)


def _moment(text: str) -> str:
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is not None:
        raise ValueError(text)
    return moment.isoformat(" ", "microseconds")


def seconds_of(node: exp.Interval) -> int:
    """Return the length of INTERVAL '30' DAY in seconds; months and years have none that is always the same."""
    unit = node.unit.name.upper().removesuffix("S") if isinstance(node.unit, exp.Var) else ""
    amount = node.this.name if isinstance(node.this, exp.Literal) else ""
    if unit not in _UNITS or not amount.isdecimal() or len(amount) > 9:
        raise refused(
            node,
            f"an interval is a whole number of {', '.join(each.lower() + 's' for each in _UNITS)}: INTERVAL '30' DAY",
        )
    return int(amount) * _UNITS[unit]
