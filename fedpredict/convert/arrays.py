"""numpy arrays and scalars, rebuilt by our own code from the few nodes that numpy and joblib write."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fedpredict.convert.dtypes import element_type, is_ndarray
from fedpredict.convert.nodes import Name, Node
from fedpredict.convert.options import SMALLER
from fedpredict.errors import ModelFileError
from fedpredict.model.arrays import Floats

JOBLIB_WRAPPERS = frozenset(
    {"joblib.numpy_pickle.NumpyArrayWrapper", "sklearn.externals.joblib.numpy_pickle.NumpyArrayWrapper"}
)
_MAX_DIMENSIONS = 4

Label: TypeAlias = str | int | float | bool


@dataclass(frozen=True, slots=True, eq=False)
class Objects:
    """An array of Python objects: its values in C order."""

    values: list[object]
    shape: tuple[int, ...]


Array: TypeAlias = NDArray[Any] | Objects


class ArrayReader:
    """Rebuilds arrays; counts their bytes, because a small file can refer to one array many times."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit = limit_bytes
        self._left = limit_bytes
        self._builders: dict[str, Callable[[Node], Array]] = {
            **dict.fromkeys(_RECONSTRUCTED, self._reconstructed),
            **dict.fromkeys(_FROM_BUFFER, self._from_buffer),
            **dict.fromkeys(_SCALARS, self._scalar),
            **dict.fromkeys(JOBLIB_WRAPPERS, self._wrapped),
        }

    def is_array(self, value: object) -> bool:
        """Return whether `value` is a node that numpy or joblib writes for an array or a scalar."""
        return isinstance(value, Node) and value.path in self._builders

    def numbers(self, value: object, what: str) -> Floats:
        """Return an array or number of the file as float64, in its own shape; a number has shape ().

        Raises:
            ModelFileError: It is no array of numbers, or damaged.
        """
        if isinstance(value, int | float):
            return np.array(_double(value, what), dtype=np.float64)
        array = self._array(value, what)
        if isinstance(array, Objects) or array.dtype.kind not in "biuf":
            raise ModelFileError(f"{what} is not an array of numbers")
        return np.ascontiguousarray(array, dtype=np.float64).reshape(array.shape)

    def scalar(self, value: object, what: str) -> float:
        """Return a number of the file, which may be NaN or infinite.

        Raises:
            ModelFileError: It is no number, or several, or damaged.
        """
        found = self.numbers(value, what)
        if found.size != 1:
            raise ModelFileError(f"{what} is not a number")
        return float(found.item())

    def records(self, value: object, what: str, fields: Sequence[str]) -> NDArray[np.void]:
        """Return a one-dimensional array of the file whose items have fields, each a number; read fields by name.

        Args:
            value: An inert value of the file.
            what: Names it in the message.
            fields: The fields that each item must have.

        Raises:
            ModelFileError: It is no such array, or has not all of the fields.
        """
        array = self._array(value, what)
        names = () if isinstance(array, Objects) else array.dtype.names or ()
        if len(array.shape) != 1 or not set(fields) <= set(names):
            raise ModelFileError(f"{what} is not a list of records with the fields {', '.join(fields)}")
        found: NDArray[np.void] = array
        return found

    def objects(self, value: object, what: str) -> Objects:
        """Return an array of Python objects of the file: inert values in C order.

        Raises:
            ModelFileError: It is no such array.
        """
        array = self._array(value, what)
        if not isinstance(array, Objects):
            raise ModelFileError(f"{what} is not an array of objects")
        return array

    def labels(self, value: object, what: str) -> list[Label]:
        """Return a one-dimensional array of the file as a list of texts or numbers.

        Raises:
            ModelFileError: It is no such array.
        """
        array = self._array(value, what)
        if len(array.shape) != 1:
            raise ModelFileError(f"{what} has {len(array.shape)} dimensions instead of one")
        found = self._objects(array, what) if isinstance(array, Objects) else array.tolist()
        if not all(isinstance(item, str | int | float) for item in found):
            raise ModelFileError(f"{what} holds more than texts and numbers")
        return found

    def labels_or_none(self, value: object, what: str) -> list[Label | None]:
        """Return a one-dimensional array of the file as a list of texts, numbers and None.

        Raises:
            ModelFileError: It is no such array.
        """
        array = self._array(value, what)
        if not isinstance(array, Objects):
            return list(self.labels(value, what))
        if len(array.shape) != 1:
            raise ModelFileError(f"{what} has {len(array.shape)} dimensions instead of one")
        found = self._objects(array, what)
        if not all(item is None or isinstance(item, str | int | float) for item in found):
            raise ModelFileError(f"{what} holds more than texts, numbers and None")
        return found

    def plain(self, value: Node, what: str) -> object:
        """Return an array of the file as (nested) lists, a scalar as a number or text."""
        array = self._array(value, what)
        if not isinstance(array, Objects) and array.dtype.names:
            raise ModelFileError(f"{what} is an array with fields inside an item")
        return self.labels(value, what) if isinstance(array, Objects) else array.tolist()

    def _objects(self, array: Objects, what: str) -> list[Any]:
        return [self._array(item, what).item() if self._is_scalar(item) else item for item in array.values]

    def _is_scalar(self, value: object) -> bool:
        return isinstance(value, Node) and value.path in _SCALARS

    def _array(self, value: object, what: str) -> Any:
        builder = self._builders.get(value.path) if isinstance(value, Node) else None
        if builder is None or not isinstance(value, Node):
            raise ModelFileError(f"{what} is not an array")
        try:
            return builder(value)
        except ModelFileError as error:
            raise ModelFileError(f"{what}: {error}") from error
        except (ValueError, TypeError, OverflowError) as error:
            raise ModelFileError(f"{what}: a damaged array") from error

    def _shaped(self, data: object, dtype: np.dtype[Any], shape: tuple[int, ...], *, fortran: bool) -> NDArray[Any]:
        content = octets(data)
        if math.prod(shape) * dtype.itemsize != len(content):
            raise ModelFileError("an array's shape does not fit its bytes")
        self._count(len(content))
        if dtype.kind == "U":
            _check_characters(content, dtype)
        flat = np.frombuffer(content, dtype=dtype) if content else np.zeros(0, dtype=dtype)
        return flat.reshape(shape, order="F" if fortran else "C")

    def _count(self, size_bytes: int) -> None:
        self._left -= size_bytes
        if self._left < 0:
            raise ModelFileError(f"the arrays take more than {self._limit} bytes: {SMALLER}")

    def _reconstructed(self, node: Node) -> Array:
        """`_reconstruct(ndarray, (0,), b"b")` with the state (version, shape, dtype, fortran, data)."""
        match node.args, node.state:
            case (kind, *_), (int(), shape, dtype_node, bool(fortran), data) if is_ndarray(kind):
                dtype, sizes = element_type(dtype_node), _sizes(shape)
            case _:
                raise ModelFileError("an array that numpy did not write")
        if dtype is None:
            return self._object_array(data, sizes, fortran=fortran)
        return self._shaped(data, dtype, sizes, fortran=fortran)

    def _object_array(self, data: object, shape: tuple[int, ...], *, fortran: bool) -> Objects:
        if not isinstance(data, list) or len(data) != math.prod(shape):
            raise ModelFileError("an array's shape does not fit its values")
        if fortran and len(shape) > 1:
            raise ModelFileError("an array of texts with more than one dimension")
        self._count(8 * len(data))
        return Objects(data, shape)

    def _from_buffer(self, node: Node) -> Array:
        """`_frombuffer(data, dtype, shape, order[, axis_order])`."""
        match node.args:
            case (data, dtype_node, shape, str(order), *rest) if len(rest) <= 1 and order in {"C", "F", "K"}:
                dtype, sizes = element_type(dtype_node), _sizes(shape)
            case _:
                raise ModelFileError("an array that numpy did not write")
        if dtype is None:
            raise ModelFileError("an array of objects as bytes")
        array = self._shaped(data, dtype, sizes, fortran=order == "F")
        axes = rest[0] if rest else None
        if order != "K" or axes is None:
            return array
        return array.transpose(_axes(axes, array.ndim))

    def _scalar(self, node: Node) -> Array:
        """`scalar(dtype, data)`."""
        if len(node.args) != 2:
            raise ModelFileError("a number that numpy did not write")
        dtype = element_type(node.args[0])
        if dtype is None:
            raise ModelFileError("an object as a number")
        return self._shaped(node.args[1], dtype, (), fortran=False)

    def _wrapped(self, node: Node) -> Array:
        """Joblib's wrapper: shape, order and dtype in the state, the bytes as the payload."""
        subclass, shape, order, dtype_node = wrapper_fields(node)
        dtype = element_type(dtype_node)
        if dtype is None:
            nested = node.payload
            if not isinstance(nested, Node) or nested.path not in _RECONSTRUCTED:
                raise ModelFileError("an array that joblib did not write")
            return self._reconstructed(nested)
        if not is_ndarray(subclass):
            raise ModelFileError("an array of a class that is not numpy's own")
        return self._shaped(node.payload, dtype, shape, fortran=order == "F")


def wrapper_fields(node: Node) -> tuple[object, tuple[int, ...], str, object]:
    """Return (class, shape, order, element type node) of a joblib wrapper.

    Raises:
        ModelFileError: A field is missing or of another type.
    """
    fields = {key: item for key, item in getattr(node.state, "items", ()) if isinstance(key, str)}
    order = fields.get("order")
    if not isinstance(order, str) or order not in {"C", "F"}:
        raise ModelFileError("an array that joblib did not write")
    return fields.get("subclass"), _sizes(fields.get("shape")), order, fields.get("dtype")


def _check_characters(content: bytes, dtype: np.dtype[Any]) -> None:
    """Refuse characters beyond Unicode: numpy ends in an internal error when it makes a text of them."""
    codes = np.frombuffer(content, dtype=np.dtype("u4").newbyteorder(dtype.byteorder))
    if codes.size and int(codes.max()) > sys.maxunicode:
        raise ModelFileError("a text with characters beyond Unicode")


def _sizes(value: object) -> tuple[int, ...]:
    if not isinstance(value, tuple) or len(value) > _MAX_DIMENSIONS:
        raise ModelFileError("an array without a shape, or of too many dimensions")
    sizes = tuple(size for size in value if isinstance(size, int) and size >= 0)
    if len(sizes) != len(value):
        raise ModelFileError("an array with a negative size")
    return sizes


def _axes(value: object, count: int) -> tuple[int, ...]:
    axes = tuple(axis for axis in value if isinstance(axis, int)) if isinstance(value, tuple) else ()
    if sorted(axes) != list(range(count)):
        raise ModelFileError("an array with a damaged order of axes")
    return axes


def octets(value: object) -> bytes:
    """Return bytes of the file, which below protocol 3 are nodes; raise `ModelFileError` for anything else."""
    if isinstance(value, bytes):
        return value
    if isinstance(value, Node) and not value.built:
        match value.path, value.args:
            case "_codecs.encode", (str(text), "latin1" | "latin-1"):
                return text.encode("latin-1")
            case "builtins.bytes" | "__builtin__.bytes", ():
                return b""
            case "builtins.bytearray" | "__builtin__.bytearray", (bytes() as inner,):
                return inner
            case "builtins.bytearray" | "__builtin__.bytearray", (Node(callee=Name(name="encode")) as inner,):
                return octets(inner)
    raise ModelFileError("an array without bytes")


def _double(value: float, what: str) -> float:
    try:
        return float(value)
    except OverflowError as error:
        raise ModelFileError(f"{what} is beyond the range of a float64") from error


def _both(module: str, name: str) -> list[str]:
    """A name of numpy before version 2 and since."""
    return [f"numpy.core.{module}.{name}", f"numpy._core.{module}.{name}"]


_RECONSTRUCTED = frozenset(_both("multiarray", "_reconstruct"))
_FROM_BUFFER = frozenset(_both("numeric", "_frombuffer"))
_SCALARS = frozenset(_both("multiarray", "scalar"))
