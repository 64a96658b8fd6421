"""Sample ids as callers have them, as packed ids: columns without a loop, everything else one by one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from fedpredict.errors import InputError
from fedpredict.model.ids import MAX_SAMPLE_ID_BYTES
from fedpredict.model.sample_ids import SampleIds
from fedpredict.wire.arrow_ids import holds_ids, ids_from_array

_NO_LIMIT = 1 << 62
_TEXT = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)


class IdColumn(Protocol):
    """A pandas Series or Index, a numpy array, or anything else that gives its values as a list."""

    def tolist(self) -> list[object]:
        """Return the values as Python objects."""


class ArrowColumn(Protocol):
    """A Polars or pandas Series, or anything else that speaks Arrow's stream protocol."""

    def __arrow_c_stream__(self, requested_schema: Any = None) -> Any:
        """Return the values as an Arrow stream."""


SampleIdsLike: TypeAlias = (
    "Sequence[str] | Sequence[bytes] | Iterable[str | bytes] | IdColumn | ArrowColumn | pa.Array | pa.ChunkedArray"
)
"""list, tuple, numpy array, pandas or Polars Series, pyarrow array or any other iterable of text or bytes."""


@dataclass(frozen=True, slots=True, eq=False)
class GivenIds:
    """Sample ids, and how they were given.

    Attributes:
        packed: As they travel.
        source: As they were given: the column, or the list of text and bytes.
    """

    packed: SampleIds
    source: pa.ChunkedArray | list[str | bytes]

    def as_given(self) -> list[str | bytes]:
        """Return each id as it was given, text or bytes."""
        return self.source if isinstance(self.source, list) else self.source.to_pylist()

    def to_arrow(self) -> pa.ChunkedArray:
        """Return a column of text; of bytes where an id is not UTF-8."""
        column = pa.chunked_array([_listed(self.source)]) if isinstance(self.source, list) else self.source
        try:
            return column.cast(pa.string())
        except pa.ArrowInvalid:
            return column.cast(pa.binary())

    def __len__(self) -> int:
        return len(self.packed)


def take_ids(sample_ids: SampleIdsLike) -> GivenIds:
    """Return sample ids packed; nothing is trimmed or normalised, and an id that breaks the rules is not refused here.

    Raises:
        InputError: A single string, a table or nothing of the kind instead of several ids, or an element that is
            neither text nor bytes; with its position.

    >>> list(take_ids(np.array(["u1", "u2"])).packed)
    [b'u1', b'u2']
    """
    column = _column(sample_ids)
    if column is not None and holds_ids(column.type) and not _has_null(column):
        parts = [ids_from_array(chunk, _NO_LIMIT) for chunk in column.chunks]
        return GivenIds(SampleIds.concat(parts) if parts else SampleIds.of(()), column)
    ids = list_ids(sample_ids)
    return GivenIds(SampleIds.of(encode_ids(ids)), ids)


def list_ids(sample_ids: SampleIdsLike) -> list[str | bytes]:
    """Return the sample ids as a list, each as it was given.

    Raises:
        InputError: As `take_ids`.
    """
    if hasattr(sample_ids, "columns"):
        raise InputError(f"sample_ids is {_a(type(sample_ids).__name__)}; pass the one column that holds the ids")
    elements = _elements(sample_ids)
    if isinstance(elements, str | bytes):
        raise InputError("sample_ids is one string; pass a list of sample ids, even for one: [sample_id]")
    if not isinstance(elements, Iterable):
        raise InputError(f"sample_ids is {_a(type(sample_ids).__name__)}; pass a list of sample ids")
    return [_check(position, value) for position, value in enumerate(elements)]


def encode_ids(sample_ids: Sequence[str | bytes]) -> list[bytes]:
    r"""Return sample ids as the bytes that travel: text in UTF-8, bytes as they are.

    A lone surrogate is not text, so it travels as bytes that are not UTF-8; of an id that is too long, as much travels
    as makes it too long.

    >>> encode_ids(["u1", b"u2", "\ud800"])
    [b'u1', b'u2', b'\xed\xa0\x80']
    """
    encoded = (value.encode("utf-8", "surrogatepass") if isinstance(value, str) else value for value in sample_ids)
    return [value[: MAX_SAMPLE_ID_BYTES + 1] for value in encoded]


def _column(sample_ids: object) -> pa.ChunkedArray | None:
    """Return a column of Arrow's, where there is one; None: to be looked at one by one."""
    if isinstance(sample_ids, pa.ChunkedArray):
        return sample_ids
    if isinstance(sample_ids, pa.Array):
        return pa.chunked_array([sample_ids])
    if isinstance(sample_ids, list | tuple | str | bytes) or hasattr(sample_ids, "columns"):
        return None
    try:
        return _converted(sample_ids)
    except (pa.ArrowException, TypeError, ValueError):
        return None


def _converted(sample_ids: object) -> pa.ChunkedArray | None:
    dtype = getattr(sample_ids, "dtype", None)
    if isinstance(dtype, np.dtype) and dtype.kind == "O":
        # text and bytes side by side would become one type: only text alone is surely as it was given
        column = pa.array(np.asarray(sample_ids))
        return pa.chunked_array([column]) if any(fits(column.type) for fits in _TEXT) else None
    if isinstance(sample_ids, np.ndarray):
        return _of_fixed_width(sample_ids) if sample_ids.dtype.kind in "US" else None
    return pa.chunked_array(sample_ids) if hasattr(sample_ids, "__arrow_c_stream__") else None


def _of_fixed_width(sample_ids: NDArray[np.str_ | np.bytes_]) -> pa.ChunkedArray | None:
    """Return text or bytes of numpy's own as a column; None where an id holds a NUL, which for Arrow is its end."""
    column = pa.array(sample_ids)
    lengths = pc.utf8_length(column) if sample_ids.dtype.kind == "U" else pc.binary_length(column)
    is_whole = np.array_equal(lengths, np.strings.str_len(sample_ids))
    return pa.chunked_array([column]) if is_whole else None


def _has_null(column: pa.ChunkedArray) -> bool:
    """Return whether an id is NULL, also where that is a value of a dictionary and not an index into it."""
    if column.null_count or not pa.types.is_dictionary(column.type):
        return bool(column.null_count)
    return any(
        chunk.dictionary.null_count and chunk.dictionary.take(chunk.indices).null_count for chunk in column.chunks
    )


def _listed(sample_ids: list[str | bytes]) -> pa.Array:
    try:
        return pa.array([each if isinstance(each, str) else each.decode() for each in sample_ids], type=pa.string())
    except UnicodeError:
        encoded = [each.encode("utf-8", "surrogatepass") if isinstance(each, str) else each for each in sample_ids]
        return pa.array(encoded, type=pa.binary())


def _elements(sample_ids: object) -> object:
    for method in ("to_pylist", "tolist"):
        convert = getattr(sample_ids, method, None)
        if convert is not None:
            return convert()
    return sample_ids


def _check(position: int, value: object) -> str | bytes:
    if isinstance(value, str | bytes):
        return value
    raise InputError(
        f"sample_ids[{position}] is {_a(type(value).__name__)}; ids are text, compared byte by byte, and fedpredict "
        "does not guess how a number was written (1, 01, 1.0): convert it to str as the parties' tables have it"
    )


def _a(noun: str) -> str:
    return f"{'an' if noun[:1].lower() in 'aeiou' else 'a'} {noun}"
