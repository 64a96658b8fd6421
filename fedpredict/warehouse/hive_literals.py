"""The one place where a value becomes SQL text for Hive or Spark; both read these literals alike."""

from __future__ import annotations

import re
from datetime import UTC, datetime

from fedpredict.errors import InputError
from fedpredict.warehouse.base import ColumnType, Value

_PLAIN = re.compile(r"[A-Za-z0-9 _.,:/@+=()<>\[\]{}*!?&|~^#-]*")


def literal(value: object, column_type: ColumnType) -> str:
    r"""Return a typed literal that the server reads back as the same value.

    Args:
        value: `None`, or a value of the type: bool, int, float, str, or a datetime with a time zone.
        column_type: What the literal is to be on the server, also for NULL.

    Raises:
        InputError: The value is not of the type.

    >>> literal(-0.0, ColumnType.DOUBLE), literal("ag'e", ColumnType.STRING), literal(None, ColumnType.INT)
    ("CAST('-0.0' AS DOUBLE)", "'ag\\u0027e'", 'CAST(NULL AS INT)')
    """
    match column_type, value:
        case _, None:
            return f"CAST(NULL AS {column_type.value.upper()})"
        case ColumnType.BOOLEAN, bool():
            return "TRUE" if value else "FALSE"
        case ((ColumnType.INT | ColumnType.BIGINT), int()) if not isinstance(value, bool):
            # as text: the smallest BIGINT has no numeric literal, only a minus before one that does not fit
            return f"CAST('{value:d}' AS {column_type.value.upper()})"
        case ColumnType.DOUBLE, float():
            return f"CAST('{_double(value)}' AS DOUBLE)"
        case ColumnType.STRING, str():
            return quoted(value)
        case ColumnType.TIMESTAMP, datetime() if value.tzinfo is not None:
            return f"TIMESTAMP'{value.astimezone(UTC).replace(tzinfo=None).isoformat(' ', 'microseconds')}'"
        case _:
            raise InputError(f"a {type(value).__name__} cannot be stored as {column_type.value}")


def list_literal(value: object) -> str:
    """Return the literal of a list of at least one float, or of a NULL that is a list.

    Raises:
        InputError: It is neither.

    >>> list_literal([0.5])
    "ARRAY(CAST('0.5' AS DOUBLE))"
    """
    if value is None:
        return f"IF(FALSE, {list_literal([0.0])}, NULL)"  # Hive casts to no such type
    if not isinstance(value, list) or not value or any(each is None for each in value):
        raise InputError(f"a {type(value).__name__} cannot be stored as {ColumnType.DOUBLES.value}")
    return f"ARRAY({', '.join(literal(each, ColumnType.DOUBLE) for each in value)})"


def bound(value: Value) -> str:
    r"""Return the literal of a statement's parameter; its type follows from the value's.

    >>> bound(7), bound("100%")
    ("CAST('7' AS BIGINT)", "'100\\u0025'")
    """
    if value is None:
        return "NULL"
    for python_type, column_type in ((int, ColumnType.BIGINT), (float, ColumnType.DOUBLE), (str, ColumnType.STRING)):
        if isinstance(value, python_type):
            return literal(value, column_type)
    raise InputError(f"a {type(value).__name__} cannot be a statement's parameter")


def quoted(text: str) -> str:
    """Return a string literal; whatever could mean something to a server stands as a Unicode escape in it.

    That covers quotes and backslashes, but also `$`: both servers would replace `${env:...}` and the like in literals.
    """
    if _PLAIN.fullmatch(text):
        return f"'{text}'"
    return "'" + "".join(char if _PLAIN.fullmatch(char) else _escaped(char) for char in text) + "'"


def _escaped(char: str) -> str:
    units = char.encode("utf-16-be")
    return "".join(f"\\u{units[at : at + 2].hex()}" for at in range(0, len(units), 2))


def _double(value: float) -> str:
    # Java knows these names only: CAST('nan' AS DOUBLE) is a silent NULL in Hive
    names = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}
    text = repr(float(value))
    return names.get(text, text)
