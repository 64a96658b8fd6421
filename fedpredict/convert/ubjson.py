"""Universal Binary JSON (draft 12), as XGBoost writes it: a strict reader that makes plain values and arrays."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedpredict.errors import ModelFileError

MAX_DEPTH = 32
_INTEGERS = {b"i": ">i1", b"U": ">u1", b"I": ">i2", b"l": ">i4", b"L": ">i8"}
_NUMBERS = {**_INTEGERS, b"d": ">f4", b"D": ">f8"}
_CONSTANTS: dict[bytes, object] = {b"Z": None, b"T": True, b"F": False}


def is_ubjson(data: bytes) -> bool:
    r"""Return whether the content is a UBJSON object: behind its brace stands the length of a key, or $ or #.

    >>> is_ubjson(b"{U\x01aZ}"), is_ubjson(b'{"a": null}')
    (True, False)
    """
    return data[:1] == b"{" and (data[1:2] in _INTEGERS or data[1:2] in {b"$", b"#"})


def parse_ubjson(data: bytes, values: int) -> dict[str, object]:
    r"""Return the object that fills `data`: dict, list, str, int, float, bool, None; typed arrays as numpy arrays.

    Args:
        data: The whole content.
        values: The most values that are made one by one; a typed array counts as one.

    Raises:
        ModelFileError: It is damaged, cut off, nested too deeply, announces more than follows, repeats a key, or holds
            too many values.

    >>> parse_ubjson(b"{U\x01a[$U#U\x02\x03\x04}", values=10)
    {'a': array([3, 4], dtype=uint8)}
    """
    reader = _Reader(data, values)
    found = reader.value(reader.take(1), 0)
    if not isinstance(found, dict):
        raise ModelFileError("the UBJSON content is not an object")
    if reader.remaining:
        raise ModelFileError(f"{reader.remaining} bytes follow the end of the UBJSON object")
    return found


class _Reader:
    """Reads forward; every length is compared with what is left before anything is made of it."""

    def __init__(self, data: bytes, values: int) -> None:
        self._data = data
        self._at = 0
        self._left = values
        self._containers: dict[bytes, Callable[[int], object]] = {b"[": self._array, b"{": self._object}

    @property
    def remaining(self) -> int:
        """Bytes not read yet."""
        return len(self._data) - self._at

    def take(self, count: int) -> bytes:
        """Return the next `count` bytes."""
        if count > self.remaining:
            raise ModelFileError("the UBJSON content is cut off")
        self._at += count
        return self._data[self._at - count : self._at]

    def value(self, marker: bytes, depth: int) -> object:
        """Return the value behind a marker."""
        self._left -= 1
        if self._left < 0:
            raise ModelFileError("the UBJSON content has more values than any model needs")
        if marker in _NUMBERS:
            return self._number(marker)
        if marker == b"S":
            return self._text()
        if marker in _CONSTANTS:
            return _CONSTANTS[marker]
        container = self._containers.get(marker)
        if container is None:
            raise ModelFileError(f"the UBJSON content is damaged: an unknown marker before byte {self._at}")
        if depth >= MAX_DEPTH:
            raise ModelFileError(f"the UBJSON content is nested more than {MAX_DEPTH} deep")
        return container(depth + 1)

    def _number(self, marker: bytes) -> int | float:
        code = _FORMATS[marker]
        found: int | float = struct.unpack(code, self.take(struct.calcsize(code)))[0]
        return found

    def _length(self) -> int:
        marker = self.take(1)
        if marker not in _INTEGERS:
            raise ModelFileError(f"the UBJSON content is damaged: no length before byte {self._at}")
        length = int(self._number(marker))
        if not 0 <= length <= self.remaining:
            raise ModelFileError("the UBJSON content announces more than follows")
        return length

    def _text(self) -> str:
        try:
            return str(self.take(self._length()), "utf-8")
        except UnicodeDecodeError as error:
            raise ModelFileError("the UBJSON content has a text that is not UTF-8") from error

    def _kind_and_count(self) -> tuple[bytes | None, int | None]:
        """The type and the number of the elements, where they stand in front."""
        if self._data[self._at : self._at + 1] == b"$":
            kind = self.take(2)[1:]
            if self.take(1) != b"#":
                raise ModelFileError("the UBJSON content has a type for elements without their number")
            return kind, self._length()
        if self._data[self._at : self._at + 1] == b"#":
            self.take(1)
            return None, self._length()
        return None, None

    def _array(self, depth: int) -> list[object] | NDArray[Any]:
        kind, count = self._kind_and_count()
        if kind is not None and count is not None:
            return self._typed(kind, count)
        if count is not None:
            return [self.value(self.take(1), depth) for _ in range(count)]
        found = []
        while (marker := self.take(1)) != b"]":
            found.append(self.value(marker, depth))
        return found

    def _typed(self, kind: bytes, count: int) -> NDArray[Any]:
        code = _NUMBERS.get(kind)
        if code is None:
            # of the others, some take no byte: a few bytes would announce any number of elements
            raise ModelFileError("the UBJSON content has a typed array of something else than numbers")
        found = np.frombuffer(self.take(count * np.dtype(code).itemsize), dtype=code)
        return found.astype(found.dtype.newbyteorder("="))

    def _object(self, depth: int) -> dict[str, object]:
        kind, count = self._kind_and_count()
        if kind is not None:
            raise ModelFileError("the UBJSON content has an object with one type for all its values")
        found: dict[str, object] = {}
        while count is None or len(found) < count:
            if count is None and self._data[self._at : self._at + 1] == b"}":
                self.take(1)
                break
            key = self._text()
            if key in found:
                raise ModelFileError("the UBJSON content has a key twice in one object")
            found[key] = self.value(self.take(1), depth)
        return found


_FORMATS = {b"i": ">b", b"U": ">B", b"I": ">h", b"l": ">i", b"L": ">q", b"d": ">f", b"D": ">d"}
"""For `struct`."""
