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

_MANY_VALUES, _FEW_EDGES, _BLOCK = 2_048, 64, 16_384


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


def count_up_to(edges: Floats, values: Floats) -> NDArray[np.intp]:
    """Return how many edges are at most each value, shape (n_values,); from 0 to n_edges for NaN.

    Of many values and few edges, comparing all with each edge takes an eighth of the time of searching, in which a
    processor guesses each turn wrong half of the time.

    Args:
        edges: Shape (n_edges,), rising.
        values: Shape (n_values,).

    >>> count_up_to(np.array([0.0, 1.0]), np.array([-1.0, 0.0, 0.5, 7.0])).tolist()
    [0, 1, 1, 2]
    """
    if len(values) < _MANY_VALUES or len(edges) > _FEW_EDGES:
        return edges.searchsorted(values, side="right")
    counts = np.zeros(len(values), dtype=np.uint8)
    is_up_to = np.empty(min(_BLOCK, len(values)), dtype=np.bool_)
    for start in range(0, len(values), _BLOCK):
        some, own = values[start : start + _BLOCK], counts[start : start + _BLOCK]
        for edge in edges.tolist():
            own += np.less_equal(edge, some, out=is_up_to[: len(some)]).view(np.uint8)
    return counts.astype(np.intp)
