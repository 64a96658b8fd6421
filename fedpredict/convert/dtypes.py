"""numpy's element types, from inert nodes, by a strict pattern: no fields, no subarrays, no objects inside an item."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from fedpredict.convert.nodes import Name, Node
from fedpredict.errors import ModelFileError

_CODE = re.compile(r"b1|[iu][1248]|f[248]|U(?P<characters>[1-9]\d{0,4})")
_OBJECT = frozenset({"O", "O8", "O4"})
_CLASSES = frozenset({"numpy.ndarray", "numpy.memmap"})
_ORDERS = frozenset({"<", ">", "|", "="})


def element_type(value: object) -> np.dtype[Any] | None:
    """Return the element type that a `numpy.dtype` node describes; None for Python objects.

    Raises:
        ModelFileError: The node is no dtype, or of a kind that no model file needs.
    """
    if not isinstance(value, Node) or value.path != "numpy.dtype" or not value.args:
        raise ModelFileError("the file is damaged: an array without an element type")
    code = value.args[0]
    order = _byte_order(value.state)
    if isinstance(code, str) and code in _OBJECT:
        return None
    found = _CODE.fullmatch(code) if isinstance(code, str) else None
    if found is None:
        raise ModelFileError("an array of an element type that no linear model needs")
    dtype = np.dtype(("" if order == "|" else order) + found[0])
    _check_size(value.state, dtype)
    return dtype


def _byte_order(state: object) -> str:
    """The byte order of the state (version, order, subarray, names, fields, size, alignment, flags[, metadata])."""
    if not isinstance(state, tuple) or not 8 <= len(state) <= 9:
        raise ModelFileError("the file is damaged: an element type without its state")
    order, structure = state[1], state[2:5]
    if not isinstance(order, str) or order not in _ORDERS:
        raise ModelFileError("the file is damaged: an element type without a byte order")
    if any(part is not None for part in structure):
        raise ModelFileError("an array with fields inside an item, which no linear model needs")
    return order


def _check_size(state: object, dtype: np.dtype[Any]) -> None:
    size = state[5] if isinstance(state, tuple) else None
    if not isinstance(size, int) or size not in {-1, dtype.itemsize}:
        raise ModelFileError("the file is damaged: an element type of the wrong size")


def is_ndarray(value: object) -> bool:
    """Return whether `value` is the name of numpy's own array class, or of the same for a mapped file."""
    return isinstance(value, Name) and value.path in _CLASSES
