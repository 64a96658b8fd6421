"""The array types of the package, and questions about whole arrays that cost next to nothing."""

from __future__ import annotations

import math
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float64]
Statuses: TypeAlias = NDArray[np.uint8]
Bools: TypeAlias = NDArray[np.bool_]
Micros: TypeAlias = NDArray[np.int64]
"""Instants as microseconds since 1970-01-01T00:00:00 UTC."""

FEW = 8
"""So many numbers are looked at one by one faster than by a pass of numpy, which costs a microsecond or two."""


def all_true(mask: Bools) -> bool:
    """Return whether no element is false; `mask.all()` takes four times as long for the one row of a lone request.

    >>> all_true(np.array([True, False])), all_true(np.array([], dtype=bool))
    (False, True)
    """
    return int(np.count_nonzero(mask)) == mask.size


def any_true(mask: Bools) -> bool:
    """Return whether some element is true, as fast as `all_true`.

    >>> any_true(np.array([False, True])), any_true(np.array([], dtype=bool))
    (True, False)
    """
    return bool(np.count_nonzero(mask))


def all_finite(values: Floats) -> bool:
    """Return whether no element is NaN or infinite.

    >>> all_finite(np.array([[1.0, np.nan]])), all_finite(np.zeros((0, 3)))
    (False, True)
    """
    if values.size <= FEW:
        return all(map(math.isfinite, values.ravel().tolist()))
    return all_true(np.isfinite(values))
