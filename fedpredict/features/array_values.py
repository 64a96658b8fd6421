"""Values of a script as numpy arrays: what is NULL, exact numbers as scaled whole numbers, and SQL's logic of three.

Arrays broadcast: what is the same for all rows has one element.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fedpredict.model.arrays import Bools
from fedpredict.tables.script_types import WORD_DIGITS, ScriptType

Array: TypeAlias = NDArray[Any]

_YES = np.ones(1, dtype=np.bool_)
_NO = np.zeros(1, dtype=np.bool_)


@dataclass(slots=True, eq=False)
class Values:
    """Values and which of them are not NULL; where NULL, `data` holds anything of its type.

    Whole numbers and decimals of up to 18 digits are int64, longer ones Python's integers in an object array; texts are
    an object array, moments microseconds and dates days since 1970.
    """

    data: Array
    valid: Bools


def of_one(data: Array) -> Values:
    """Return a value that is the same everywhere."""
    return Values(data, _YES)


NULLS = Values(np.zeros(1), _NO)


def both(one: Values, other: Values) -> Bools:
    """Return where neither is NULL."""
    if one.valid is _YES:
        return other.valid
    return one.valid if other.valid is _YES else one.valid & other.valid


def is_true(condition: Values) -> Bools:
    """Return where a condition is true, and not unknown."""
    return condition.data & condition.valid


def and_(one: Values, other: Values) -> Values:
    """Return the conjunction: false where either is false."""
    is_false = (one.valid & ~one.data) | (other.valid & ~other.data)
    return Values(is_true(one) & is_true(other), both(one, other) | is_false)


def or_(one: Values, other: Values) -> Values:
    """Return the disjunction: true where either is true."""
    found = is_true(one) | is_true(other)
    return Values(found, both(one, other) | found)


def chosen(condition: Bools, one: Values, other: Values) -> Values:
    """Return one value where a condition is true, and else the other; either may be the untyped NULL."""
    if one is NULLS:
        return Values(other.data, np.where(condition, _NO, other.valid))
    if other is NULLS:
        return Values(one.data, condition & one.valid)
    return Values(np.where(condition, one.data, other.data), np.where(condition, one.valid, other.valid))


def rescaled(data: Array, digits: int, by: int) -> Array:
    """Return whole numbers times 10^by, for numbers of so many digits before."""
    if by == 0:
        return data
    return np.asarray((data if digits + by <= WORD_DIGITS else data.astype(object)) * 10**by)


def wide(data: Array, digits: int) -> Array:
    """Return whole numbers as what holds numbers of so many digits."""
    return data if digits <= WORD_DIGITS else data.astype(object)


def to_doubles(data: Array, scale: int) -> Array:
    """Return scaled whole numbers as doubles."""
    if data.dtype == object:  # a quotient of Python's integers is rounded once, however long they are
        return np.array([each / 10**scale for each in data.tolist()], dtype=np.float64)
    return data / float(10**scale) if scale else data.astype(np.float64)


def from_arrow(column: pa.ChunkedArray, kind: ScriptType) -> Values:
    """Return a column that has its declared type; see `raw.ARROW`."""
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    valid = _YES if not array.null_count else np.asarray(array.is_valid())
    if valid is _YES and len(array) != 1:
        valid = np.ones(len(array), dtype=np.bool_)
    return Values(_FROM[kind.kind](array, kind), valid)


def _texts(array: pa.Array, _kind: ScriptType) -> Array:
    return np.asarray(array.to_numpy(zero_copy_only=False), dtype=object)


def _plain(array: pa.Array, _kind: ScriptType) -> Array:
    return np.asarray(array.fill_null(0).to_numpy(zero_copy_only=False))


def _booleans(array: pa.Array, _kind: ScriptType) -> Array:
    return np.asarray(array.fill_null(False).to_numpy(zero_copy_only=False), dtype=np.bool_)


def _micros(array: pa.Array, _kind: ScriptType) -> Array:
    return np.asarray(array.cast(pa.int64()).fill_null(0).to_numpy())


def _days(array: pa.Array, _kind: ScriptType) -> Array:
    return np.asarray(array.cast(pa.int32()).fill_null(0).to_numpy()).astype(np.int64)


def _decimals(array: pa.Array, kind: ScriptType) -> Array:
    words = np.frombuffer(array.buffers()[1], dtype=np.int64).reshape(-1, 2)[array.offset : array.offset + len(array)]
    if array.null_count:
        words = np.where(np.asarray(array.is_valid())[:, None], words, 0)
    if kind.digits <= WORD_DIGITS:  # then the upper word is nothing but the sign
        return words[:, 0].copy()
    low, high = words[:, 0].astype(np.uint64).astype(object), words[:, 1].astype(object)
    return np.asarray(high * 2**64 + low)


_FROM: dict[str, Callable[[pa.Array, ScriptType], Array]] = {
    "text": _texts,
    "int": _plain,
    "double": _plain,
    "boolean": _booleans,
    "timestamp": _micros,
    "date": _days,
    "decimal": _decimals,
}
