"""What joblib writes behind an array's wrapper: padding and raw bytes, or a pickle of its own for objects."""

from __future__ import annotations

import math

from fedpredict.convert.arrays import JOBLIB_WRAPPERS, wrapper_fields
from fedpredict.convert.dtypes import element_type
from fedpredict.convert.nodes import Budget, Node, Pairs
from fedpredict.convert.opcodes import Cursor
from fedpredict.convert.unpickle import unpickle
from fedpredict.errors import ModelFileError

_OLD_WRAPPERS = frozenset({"joblib.numpy_pickle.NDArrayWrapper", "joblib.numpy_pickle.ZNDArrayWrapper"})


def read_payload(node: Node, cursor: Cursor, budget: Budget) -> None:
    """Read the array behind a joblib wrapper that was just built; any other node is left alone.

    Raises:
        ModelFileError: The wrapper is damaged, or announces more bytes than follow.
    """
    if node.path in _OLD_WRAPPERS:
        raise ModelFileError("written by joblib before 0.10, with arrays in files of their own: write it again")
    if node.path not in JOBLIB_WRAPPERS:
        return
    _, shape, _, dtype_node = wrapper_fields(node)
    dtype = element_type(dtype_node)
    if dtype is None:
        node.payload = unpickle(cursor, budget)  # without this hook: such a pickle holds no further wrapper
        return
    if _is_aligned(node.state):
        cursor.take(cursor.take(1)[0])
    node.payload = cursor.take(math.prod(shape) * dtype.itemsize)


def _is_aligned(state: object) -> bool:
    """Whether a byte with the length of the padding, and the padding, stand before the array (joblib since 1.2)."""
    items = state.items if isinstance(state, Pairs) else []
    found = [value for key, value in items if isinstance(key, str) and key == "numpy_array_alignment_bytes"]
    return bool(found) and found[-1] is not None
