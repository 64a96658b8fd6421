"""numpy's element types, from inert nodes, by a strict pattern: no subarrays, no objects inside an item.

An item with fields is a record of numbers, each inside the item: trees are kept so.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from fedpredict.convert.nodes import Name, Node, Pairs
from fedpredict.errors import ModelFileError

_CODE = re.compile(r"b1|[iu][1248]|f[248]|U(?P<characters>[1-9]\d{0,4})")
_RECORD = re.compile(r"V[1-9]\d{0,3}")
_FIELD = re.compile(r"b1|[iu][1248]|f[248]")
_MAX_FIELDS = 64
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
    if isinstance(code, str) and _RECORD.fullmatch(code):
        return _record_type(code, value.state)
    order = _byte_order(value.state)
    if isinstance(code, str) and code in _OBJECT:
        return None
    found = _CODE.fullmatch(code) if isinstance(code, str) else None
    if found is None:
        raise ModelFileError("an array of an element type that no model needs")
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
        raise ModelFileError("an array with fields inside an item of a plain type")
    return order


def _record_type(code: str, state: object) -> np.dtype[Any]:
    """The element type of the state (version, "|", None, names, fields, size, alignment, flags[, metadata])."""
    match state:
        case (int(), "|", None, tuple(names), Pairs(items=items), int(size), int(), int(), *_):
            fields = [_field(name, item) for name, item in items]
        case _:
            raise ModelFileError("the file is damaged: an element type with fields without its state")
    if code != f"V{size}" or not 0 < len(fields) <= _MAX_FIELDS or [name for name, _, _ in fields] != list(names):
        raise ModelFileError("the file is damaged: an element type whose fields are not those that it names")
    if len(set(names)) != len(names) or any(offset + dtype.itemsize > size for _, dtype, offset in fields):
        raise ModelFileError("the file is damaged: an element type with a field twice, or outside the item")
    formats, offsets = [dtype for _, dtype, _ in fields], [offset for _, _, offset in fields]
    return np.dtype({"names": list(names), "formats": formats, "offsets": offsets, "itemsize": size})


def _field(name: object, value: object) -> tuple[str, np.dtype[Any], int]:
    """A field's name, type and offset; the type is that of a number."""
    match name, value:
        case str(), (Node(path="numpy.dtype", args=(str(code), *_)) as node, int(offset)) if (
            _FIELD.fullmatch(code) and offset >= 0
        ):
            dtype = element_type(node)
        case _:
            raise ModelFileError("the file is damaged: an element type with a field that is no number")
    if dtype is None:
        raise ModelFileError("an element type with a field of objects")
    return str(name), dtype, offset


def _check_size(state: object, dtype: np.dtype[Any]) -> None:
    size = state[5] if isinstance(state, tuple) else None
    if not isinstance(size, int) or size not in {-1, dtype.itemsize}:
        raise ModelFileError("the file is damaged: an element type of the wrong size")


def is_ndarray(value: object) -> bool:
    """Return whether `value` is the name of numpy's own array class, or of the same for a mapped file."""
    return isinstance(value, Name) and value.path in _CLASSES
