"""A feed of raw events: what a view's event table is called in the event store, and which rows it takes."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Context, Decimal
from math import isfinite

import msgspec

from fedpredict.model.ids import valid_sample_ids
from fedpredict.state.event_base import StoredEvent
from fedpredict.tables.script_shape import parse_shape
from fedpredict.tables.script_store import RegisteredView
from fedpredict.tables.script_types import INT_DIGITS, MAX_DIGITS, ScriptType
from fedpredict.tables.script_view import ScriptSource

MAX_CONTENT_BYTES = 65_536
"""Of one event, as it is stored."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_WHOLE = re.compile(r"[+-]?[0-9]{1,20}")
_PLAIN = re.compile(r"[+-]?[0-9]+(\.[0-9]+)?")
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_WIDE = Context(prec=100)
"""Python's own rounds after 28 digits; a decimal has up to 38 of them, twice with those that it is scaled by."""
_encode = msgspec.json.Encoder().encode


class OddEventError(Exception):
    """Why a row cannot be taken; the text names a column, and no value."""


@dataclass(frozen=True, slots=True)
class Feed:
    """The event table of a view.

    Views that read the same table by the same key share one feed.

    Attributes:
        name: Database, table and key.
        source: The view's own declaration of the table.
        key: The column that is the sample id.
        types: Every column that some registered view of this feed declares.
    """

    name: str
    source: ScriptSource
    key: str
    types: Mapping[str, ScriptType]

    @property
    def needed(self) -> tuple[str, str, str]:
        """The columns that no event may lack: the key, the event's id and its time."""
        return self.key, str(self.source.event_id), str(self.source.event_time)

    def event(self, row: Mapping[str, object]) -> StoredEvent:
        """Return a row as it is stored; columns that no view declares are left out.

        Raises:
            OddEventError: A column that every event needs is NULL, or a value is not of its type.
        """
        content: dict[str, object] = {}
        for name, kind in self.types.items():
            value = row.get(name)
            if value is not None:
                content[name] = stored_value(name, value, kind)
        key, number, time = self.needed
        missing = [name for name in (key, number, time) if content.get(name) is None]
        if missing:
            raise OddEventError(f"{' and '.join(missing)} is missing")
        sample_id, event_id = str(content[key]), str(content[number])
        for name, text in ((key, sample_id), (number, event_id)):
            if not valid_sample_ids([text.encode("utf-8", "surrogatepass")])[0]:
                raise OddEventError(f"{name} is no id: 1 to 256 bytes of UTF-8 without control characters")
        packed = _encode(content)
        if len(packed) > MAX_CONTENT_BYTES:
            raise OddEventError(f"its columns have more than {MAX_CONTENT_BYTES} bytes")
        at = datetime.fromisoformat(str(content[time]))
        return StoredEvent(sample_id, event_id, (at - _EPOCH) // datetime.resolution, packed.decode())


def feed_of(registered: RegisteredView, others: Iterable[RegisteredView]) -> Feed:
    """Return the feed of a view's event table.

    Args:
        registered: The view; its types count.
        others: Other views and versions; what they declare of the same feed is stored too.
    """
    name, source, key = _described(registered)
    types: dict[str, ScriptType] = {}
    for other in others:
        their_name, theirs, _ = _described(other)
        if their_name == name:
            types.update(theirs.types)
    return Feed(name, source, key, {**types, **source.types})


def _described(registered: RegisteredView) -> tuple[str, ScriptSource, str]:
    shape = parse_shape(registered.view, registered.script)
    source, key = next(iter(shape.sources.values())), shape.key.name.lower()
    return ".".join(part for part in (source.database, source.table, key) if part), source, key


def stored_value(name: str, value: object, kind: ScriptType) -> object:
    """Return a value, not None, in the form that it is stored in; raise `OddEventError` where it is not of the type."""
    try:
        return _RULES[kind.kind](value, kind)
    except (ValueError, TypeError, ArithmeticError):
        raise OddEventError(f"{name} is no {_WANTED.get(kind.kind, str(kind))}") from None


def _text(value: object, _kind: ScriptType) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        raise TypeError(value)
    value.encode()  # a lone surrogate is no text
    return value


def _int(value: object, _kind: ScriptType) -> int:
    if isinstance(value, str) and _WHOLE.fullmatch(value):
        value = int(value)
    if isinstance(value, Decimal) and _is_short(value, INT_DIGITS) and value == value.to_integral_value():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not -(2**63) <= value < 2**63:
        raise TypeError(value)
    return value


def _decimal(value: object, kind: ScriptType) -> str:
    if isinstance(value, str) and not _PLAIN.fullmatch(value):
        raise ValueError(value)
    if not isinstance(value, str | int | float | Decimal) or isinstance(value, bool):
        raise TypeError(value)
    number = Decimal(repr(value) if isinstance(value, float) else value)
    if not _is_short(number, MAX_DIGITS):
        raise ValueError(value)
    scaled = number.scaleb(kind.scale, _WIDE)
    if scaled != scaled.to_integral_value() or scaled.copy_abs() >= 10**kind.digits:
        raise ValueError(value)
    # no more zeros than the scale, which would be digits that its column has no place for
    return f"{scaled.to_integral_value().scaleb(-kind.scale, _WIDE):f}"


def _is_short(number: Decimal, digits: int) -> bool:
    """Return whether a number has at most so many digits before the point, and 38 after it.

    To be asked first: a few bytes of JSON, such as 1e999999, are a number that takes seconds to convert.
    """
    exponent = number.as_tuple().exponent
    return isinstance(exponent, int) and number.adjusted() < digits and exponent >= -MAX_DIGITS


def _double(value: object, _kind: ScriptType) -> float | None:
    if not isinstance(value, str | int | float | Decimal) or isinstance(value, bool):
        raise TypeError(value)
    if isinstance(value, str) and ("_" in value or not value.isascii()):  # Python's own spellings: 1_0 is ten to it
        raise ValueError(value)
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if isfinite(number) else None


def _timestamp(value: object, _kind: ScriptType) -> str:
    # numbers are refused, because nothing tells seconds from milliseconds
    if isinstance(value, str):
        if value.strip().isdecimal():
            raise ValueError(value)
        value = datetime.fromisoformat(value.strip())
    if not isinstance(value, datetime):
        raise TypeError(value)
    moment = value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
    return moment.isoformat(" ", "microseconds")


def _date(value: object, _kind: ScriptType) -> str:
    if isinstance(value, str) and _DATE.fullmatch(value):
        value = date.fromisoformat(value)
    if not isinstance(value, date) or isinstance(value, datetime):
        raise TypeError(value)
    return value.isoformat()


def _boolean(value: object, _kind: ScriptType) -> bool:
    if isinstance(value, str) and value.lower() in ("true", "false"):
        return value.lower() == "true"
    if not isinstance(value, bool):
        raise TypeError(value)
    return value


_RULES: dict[str, Callable[[object, ScriptType], object]] = {
    "text": _text,
    "int": _int,
    "decimal": _decimal,
    "double": _double,
    "timestamp": _timestamp,
    "date": _date,
    "boolean": _boolean,
}
_WANTED = {
    "text": "text",
    "int": "whole number of 64 bits",
    "double": "number",
    "timestamp": "ISO 8601 time, such as 2026-01-31T08:30:00Z",
    "date": "date, such as 2026-01-31",
    "boolean": "true or false",
}
