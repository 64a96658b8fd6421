"""Columns of a peer's Arrow table as plain ones: what a few bytes stand for is counted before it is written out."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fedpredict.errors import ProtocolError
from fedpredict.wire.arrow_ids import check_bytes, view_lengths

_PLAIN = {pa.string_view(): pa.large_string(), pa.binary_view(): pa.large_binary()}


def plain_column(column: pa.Array, max_bytes: int) -> pa.Array:
    """Return a column without a dictionary or views; its buffers are not trusted, and are valid afterwards.

    Args:
        column: Of any type.
        max_bytes: The most bytes that it may have then.

    Raises:
        ProtocolError: It has more, or is of a type that holds others.
        pa.ArrowInvalid: The buffers are not those of a column.
    """
    kind = column.type
    if pa.types.is_dictionary(kind):
        return _decoded(column, max_bytes)
    if pa.types.is_nested(kind) or isinstance(kind, pa.ExtensionType):
        raise ProtocolError(f"a column of type {kind}, which holds others")
    column.validate(full=True)
    if kind in _PLAIN:
        check_bytes(view_lengths(column), max_bytes)
        return column.cast(_PLAIN[kind])
    return column


def _decoded(column: pa.DictionaryArray, max_bytes: int) -> pa.Array:
    if pa.types.is_dictionary(column.type.value_type):
        raise ProtocolError("a dictionary of dictionaries")
    entries = plain_column(column.dictionary, max_bytes)
    indices = column.indices
    indices.validate(full=True)
    known = pc.drop_null(indices).to_numpy(zero_copy_only=False)
    if len(known) and (known.min() < 0 or known.max() >= len(entries)):
        raise ProtocolError("a dictionary is shorter than its indices say")
    lengths = _lengths(entries)
    check_bytes(lengths[known.astype(np.int64)], max_bytes)
    return entries.take(indices.cast(pa.int64()))


def _lengths(column: pa.Array) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Return the bytes of each value."""
    kind = column.type
    if any(fits(kind) for fits in (pa.types.is_large_string, pa.types.is_large_binary, pa.types.is_string,
                                   pa.types.is_binary)):  # fmt: skip
        return np.asarray(pc.fill_null(pc.binary_length(column), 0).to_numpy(zero_copy_only=False), dtype=np.int64)
    return np.full(len(column), 16, dtype=np.int64)
