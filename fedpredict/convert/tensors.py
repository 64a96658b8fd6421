"""Tensors of a model file: where their numbers lie, checked before anything is read."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from fedpredict.convert.options import SMALLER
from fedpredict.errors import ModelFileError
from fedpredict.model.arrays import Floats

MAX_DIMENSIONS = 8
_BFLOAT16 = "bfloat16"
ELEMENTS: dict[str, str] = {
    "float64": "f8",
    "float32": "f4",
    "float16": "f2",
    _BFLOAT16: "u2",
    "int64": "i8",
    "int32": "i4",
    "int16": "i2",
    "int8": "i1",
    "uint8": "u1",
    "bool": "b1",
}
"""Element type -> numpy's code; a bfloat16 is the upper half of a float32."""


@dataclass(frozen=True, slots=True, eq=False)
class Tensor:
    """A view of some elements of a storage.

    Attributes:
        element: One of `ELEMENTS`.
        shape: Its sizes.
        strides: How many elements of the storage lie between neighbours of each dimension; not negative.
        offset: The first element.
        storage: The bytes of the storage.
        order: `<` or `>`.
    """

    element: str
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int
    storage: memoryview
    order: str = "<"

    def __post_init__(self) -> None:
        if len(self.shape) != len(self.strides) or len(self.shape) > MAX_DIMENSIONS:
            raise ModelFileError("a tensor whose sizes and strides do not fit, or of too many dimensions")
        if min((self.offset, *self.shape, *self.strides), default=0) < 0:
            raise ModelFileError("a tensor with a negative size, stride or offset")
        if not self.size:
            return
        last = self.offset + sum((size - 1) * stride for size, stride in zip(self.shape, self.strides, strict=True))
        if (last + 1) * self.item_bytes > len(self.storage):
            raise ModelFileError("a tensor that reaches beyond its storage")

    @property
    def size(self) -> int:
        """The number of elements."""
        return math.prod(self.shape)

    @property
    def item_bytes(self) -> int:
        """The bytes of an element."""
        return element_bytes(self.element)


def element_bytes(element: str) -> int:
    """Return the bytes of an element of a type of `ELEMENTS`."""
    return np.dtype(ELEMENTS[element]).itemsize


class TensorReader:
    """Makes arrays of tensors, and counts their bytes: a small file can refer to one element many times."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit = limit_bytes
        self._left = limit_bytes

    def numbers(self, tensor: Tensor, what: str) -> Floats:
        """Return a tensor's numbers as float64, in its shape.

        Args:
            tensor: Which.
            what: Names it in the message.

        Raises:
            ModelFileError: All tensors read so far take more than the limit, or a number is NaN or infinite.
        """
        self._left -= 8 * tensor.size
        if self._left < 0:
            raise ModelFileError(f"the tensors take more than {self._limit} bytes: {SMALLER}")
        if not tensor.size:
            return np.zeros(tensor.shape)
        dtype = np.dtype(tensor.order + ELEMENTS[tensor.element])
        flat = np.frombuffer(tensor.storage, dtype=dtype, count=len(tensor.storage) // dtype.itemsize)
        strides = tuple(stride * dtype.itemsize for stride in tensor.strides)
        # within the storage: `Tensor` has checked it
        view = np.lib.stride_tricks.as_strided(flat[tensor.offset :], tensor.shape, strides, writeable=False)
        if tensor.element == _BFLOAT16:
            view = (view.astype(np.uint32) << 16).view(np.float32)
        with np.errstate(invalid="ignore"):  # some NaN; refused below
            found = np.array(view, dtype=np.float64)
        if not np.isfinite(found).all():
            raise ModelFileError(f"{what} holds NaN or an infinity; every number of a model is finite")
        return found
