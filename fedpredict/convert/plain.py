"""Checked reading of plain Python values: what a portable form is made of."""

from __future__ import annotations

import contextlib
import difflib
import itertools
import math
from collections.abc import Mapping, Sequence

import numpy as np

from fedpredict.errors import ModelFileError
from fedpredict.model.arrays import Floats

_NUMBERS = {int, float}


def check_keys(content: Mapping[str, object], known: Sequence[str], what: str) -> None:
    """Check that a mapping has no key but known ones.

    Raises:
        ModelFileError: It has; with the nearest known one.
    """
    for key in content:
        if key not in known:
            near = difflib.get_close_matches(key[:100], known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
            raise ModelFileError(f"{what} has the unknown key {key[:100]!a}; {hint}")


def optional_text(content: Mapping[str, object], key: str) -> str | None:
    """Return a text, or None where there is none; raise `ModelFileError` for anything else."""
    value = content.get(key)
    if value is not None and not isinstance(value, str):
        raise ModelFileError(f"{key} is a {type(value).__name__}, not a text")
    return value


def matrix(rows: object, what: str) -> Floats:
    """Return finite numbers of shape (n_rows, n_columns); a row of one number may be a number.

    Raises:
        ModelFileError: It is no list, or its rows differ in length, or hold something else.
    """
    if not isinstance(rows, list):
        raise ModelFileError(f"{what} is not a list")
    if rows and list not in set(map(type, rows)):
        return numbers(rows, what).reshape(len(rows), 1)
    listed = [row if isinstance(row, list) else [row] for row in rows]
    if len(set(map(len, listed))) > 1:
        raise ModelFileError(f"the rows of {what} have different lengths")
    width = len(listed[0]) if listed else 0
    return numbers(list(itertools.chain.from_iterable(listed)), what).reshape(len(listed), width)


def vector(value: object, what: str, width: int) -> Floats | None:
    """Return finite numbers of shape (width,), or None where there are none; a vector of one may be a number.

    Raises:
        ModelFileError: Another length, or something else.
    """
    if value is None:
        return None
    listed = value if isinstance(value, list) else [value]
    if len(listed) != width:
        raise ModelFileError(f"{what} has {len(listed)} numbers, the weights have {width} columns")
    return numbers(listed, what)


def numbers(values: Sequence[object], what: str) -> Floats:
    """Return finite numbers, as `number` takes them, of shape (len(values),); floats and ints as fast as numpy.

    Raises:
        ModelFileError: One is something else.
    """
    if set(map(type, values)) <= _NUMBERS:  # numpy would take texts and truth values for numbers
        with contextlib.suppress(OverflowError):
            found = np.array(values, dtype=np.float64)
            if np.isfinite(found).all():
                return found
    return np.array([number(value, what) for value in values], dtype=np.float64)


def number(value: object, what: str) -> float:
    """Return a finite number; raise `ModelFileError` for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ModelFileError(f"{what} holds a {type(value).__name__} where a number should be")
    try:
        found = float(value)
    except OverflowError as error:
        raise ModelFileError(f"{what} holds a number beyond the range of a float64") from error
    if not math.isfinite(found):
        raise ModelFileError(f"{what} holds NaN or an infinity; every number of a model is finite")
    return found
