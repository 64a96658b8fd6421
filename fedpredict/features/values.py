"""A file's columns -> sample ids, event times and features, or an error that names the column and the data row.

Data rows count from 1, the header not counted. Errors name columns and rows, never values.
"""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fedpredict.errors import FeatureFileError
from fedpredict.features.rows import to_packed
from fedpredict.model.arrays import Bools
from fedpredict.model.ids import valid_sample_ids
from fedpredict.warehouse.base import ARROW_TYPES, ColumnType

_EVENT_TIME = ARROW_TYPES[ColumnType.TIMESTAMP]
_NUMBER = r"(?i)^[+-]?(\d+(\.\d*)?|\.\d+)(e[+-]?\d+)?$"
_SPECIAL = r"(?i)^[+-]?(inf|infinity|nan)$"
_BOOLEAN = r"(?i)^(true|false)$"
_NULL = r"^(|NULL|null|NA|N/A)$"
_YEARS = (datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, tzinfo=UTC))


def to_sample_ids(column: pa.ChunkedArray, name: str) -> pa.ChunkedArray:
    """Return the key column as sample ids: text as it is, whole numbers as decimal text.

    Raises:
        FeatureFileError: Another type; NULL; an id that breaks the rule (with how many, and the first row).
    """
    column = _plain(column)
    if pa.types.is_integer(column.type):
        column = column.cast(pa.string())
    if not _is_text(column.type) and not pa.types.is_binary(column.type):
        raise FeatureFileError(
            f"key column {name!r} has type {column.type}; sample ids are text or whole numbers: cast it in the file"
        )
    _refuse(column.is_null(), f"key column {name!r} is NULL")
    invalid = ~valid_sample_ids(to_packed(column))
    _refuse(invalid, f"key column {name!r} is no sample id (1 to 256 bytes of UTF-8 without control characters)")
    return column.cast(pa.string())


def to_event_time(column: pa.ChunkedArray, name: str) -> pa.ChunkedArray:
    """Return the event-time column as UTC timestamps of microseconds.

    ISO 8601 text, timestamps and dates are taken; what names no zone is UTC, and what is finer than a microsecond is
    cut off. Numbers are refused, because nothing tells seconds from milliseconds.

    Raises:
        FeatureFileError: Another type; NULL; text that is no such time; a year beyond 1 to 9999.
    """
    column = _plain(column)
    if _is_text(column.type):
        column = _parsed_times(column, name)
    if not (pa.types.is_timestamp(column.type) or pa.types.is_date(column.type)):
        raise FeatureFileError(
            f"event-time column {name!r} has type {column.type}; write ISO 8601 text (2026-01-31T08:30:00Z), "
            "a timestamp or a date"
        )
    _refuse(column.is_null(), f"event-time column {name!r} is NULL")
    if pa.types.is_date(column.type):
        column = column.cast(pa.timestamp("ms"))
    column = column.cast(_EVENT_TIME, safe=False)
    first, last = (pa.scalar(year, _EVENT_TIME) for year in _YEARS)
    beyond = pc.or_(pc.less(column, first), pc.greater(column, last))
    _refuse(beyond, f"event-time column {name!r} is beyond the years 1 to 9999")
    return column


def to_feature(
    column: pa.ChunkedArray, name: str, *, typed: bool, expected: ColumnType | None
) -> tuple[pa.ChunkedArray, ColumnType]:
    """Return a feature's values and type: numbers and booleans (0.0, 1.0) as DOUBLE, text as STRING.

    NULL, NaN and infinities stay; they get a status at scoring. In a file without types, a column of numbers only is
    DOUBLE and one without any is STRING; an empty field is NULL, in a DOUBLE column NULL, null, NA and N/A too.

    Args:
        column: As it stands in the file.
        name: Its name.
        typed: Whether the file has types.
        expected: The type that the feature has to have; None to tell it from the file.

    Raises:
        FeatureFileError: No such type; a value that is not a number in a DOUBLE column; a whole number that a float64
            does not hold.
    """
    column = _plain(column)
    if pa.types.is_null(column.type):
        kind = expected or ColumnType.DOUBLE
        return column.cast(ARROW_TYPES[kind]), kind
    if _is_text(column.type):
        return _from_text(column, name, typed=typed, expected=expected)
    numeric = pa.types.is_integer(column.type) or pa.types.is_floating(column.type) or pa.types.is_decimal(column.type)
    if not numeric and not pa.types.is_boolean(column.type):
        raise FeatureFileError(f"column {name!r} has type {column.type}; features are numbers, booleans or UTF-8 text")
    if expected is ColumnType.STRING:
        raise FeatureFileError(f"column {name!r} has type {column.type}, and the feature is text: cast it in the file")
    return _as_doubles(column, name), ColumnType.DOUBLE


def _plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _as_doubles(column: pa.ChunkedArray, name: str) -> pa.ChunkedArray:
    if pa.types.is_boolean(column.type):
        column = column.cast(pa.int8())
    try:
        return column.cast(pa.float64())
    except pa.ArrowInvalid as error:
        raise FeatureFileError(
            f"column {name!r} has whole numbers beyond ±2^53, which a float64 may not hold; cast it in the file"
        ) from error


def _from_text(
    column: pa.ChunkedArray, name: str, *, typed: bool, expected: ColumnType | None
) -> tuple[pa.ChunkedArray, ColumnType]:
    trimmed = pc.utf8_trim_whitespace(column)
    number = _any_of(trimmed, _NUMBER, _BOOLEAN)
    empty = pc.fill_null(pc.match_substring_regex(trimmed, _NULL), True)
    if expected is None and typed:
        expected = ColumnType.STRING
    if expected is None:
        # a column that is empty throughout, or holds nothing but NaN, is of numbers as well
        numeric = pc.any(number).as_py() or pc.all(pc.or_(empty, _any_of(trimmed, _SPECIAL))).as_py()
        expected = ColumnType.DOUBLE if numeric else ColumnType.STRING
    if expected is ColumnType.STRING:
        text = column.cast(pa.string())
        return (text if typed else pc.if_else(pc.equal(text, ""), pa.scalar(None, pa.string()), text)), expected
    usable = pc.or_(pc.or_(number, _any_of(trimmed, _SPECIAL)), empty)
    _refuse(pc.invert(usable), f"column {name!r} holds something that is not a number; correct it, or load it as text")
    digits = pc.if_else(empty, pa.scalar(None, trimmed.type), trimmed)
    digits = pc.replace_substring_regex(digits, pattern=r"(?i)^true$", replacement="1")
    digits = pc.replace_substring_regex(digits, pattern=r"(?i)^false$", replacement="0")
    return digits.cast(pa.float64()), expected


def _any_of(column: pa.ChunkedArray, *patterns: str) -> pa.ChunkedArray:
    matched = pc.match_substring_regex(column, patterns[0])
    for pattern in patterns[1:]:
        matched = pc.or_(matched, pc.match_substring_regex(column, pattern))
    return pc.fill_null(matched, False)


def _parsed_times(column: pa.ChunkedArray, name: str) -> pa.ChunkedArray:
    parsed = [_parsed_time(text) for text in column.to_pylist()]
    _refuse(np.array([each is None for each in parsed]), f"event-time column {name!r} is no ISO 8601 time")
    return pa.chunked_array([pa.array(parsed, type=_EVENT_TIME)])


def _parsed_time(text: str | None) -> datetime | None:
    # digits alone are an epoch of some unit to some people, and 20260131 to others
    if text is None or text.strip().isdecimal():
        return None
    try:
        instant = datetime.fromisoformat(text.strip())
        return instant.replace(tzinfo=UTC) if instant.tzinfo is None else instant.astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def _refuse(mask: pa.ChunkedArray | Bools, what: str) -> None:
    rows = np.flatnonzero(np.asarray(mask))
    if len(rows):
        raise FeatureFileError(f"{what}: {len(rows)} of {len(mask)} rows, the first is data row {rows[0] + 1}")
