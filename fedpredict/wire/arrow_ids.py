"""Arrow columns of sample ids as packed ids, and back, without a loop over rows."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from fedpredict.errors import ProtocolError
from fedpredict.model.ids import MAX_SAMPLE_ID_BYTES
from fedpredict.model.sample_ids import SampleIds

_MAX_OFFSET = 2**31 - 1
_LISTED = (pa.types.is_string, pa.types.is_binary, pa.types.is_large_string, pa.types.is_large_binary)
_VIEWS = (pa.types.is_string_view, pa.types.is_binary_view)
_BYTES = {
    pa.string(): pa.binary(),
    pa.large_string(): pa.large_binary(),
    pa.string_view(): pa.binary_view(),
}


def holds_ids(kind: pa.DataType) -> bool:
    """Return whether a column of that type can hold sample ids: text or bytes, also large, view and dictionary."""
    if pa.types.is_dictionary(kind):
        return holds_ids(kind.value_type) and not pa.types.is_dictionary(kind.value_type)
    return any(fits(kind) for fits in (*_LISTED, *_VIEWS))


def ids_to_array(sample_ids: SampleIds) -> pa.Array:
    """Return packed ids as a binary column; nothing but the offsets is copied."""
    return binary_column(sample_ids.offsets.astype(np.int32), sample_ids.data)


def binary_column(offsets: NDArray[np.int32], data: bytes | pa.Buffer) -> pa.Array:
    """Return bytes, cut at n + 1 offsets, as a binary column; nothing is copied or checked."""
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(data)]
    return pa.Array.from_buffers(pa.binary(), len(offsets) - 1, buffers, 0)


def offsets_of(column: pa.Array) -> NDArray[np.int32]:
    """Return the n + 1 offsets of a binary column; the first need not be 0, and nothing is copied."""
    if not len(column):
        return np.zeros(1, dtype=np.int32)
    return np.frombuffer(column.buffers()[1], dtype=np.int32, count=len(column) + 1, offset=4 * column.offset)


def ids_from_array(column: pa.Array, max_bytes: int) -> SampleIds:
    """Return a column of ids, packed; a NULL is an empty id, of one that is too long as much as makes it too long.

    Args:
        column: Of a type that `holds_ids` takes; its buffers are not trusted.
        max_bytes: The most bytes that all ids together may have; a few bytes of a dictionary or a view can stand for
            gigabytes.

    Raises:
        ProtocolError: They have more.
        pa.ArrowInvalid: The buffers are not those of a column.
    """
    if not len(column):
        return SampleIds.of(())
    if pa.types.is_dictionary(column.type):
        column = _decoded(column, max_bytes)
    # as bytes: whether an id is UTF-8 is judged later, one by one
    column = column.view(_BYTES.get(column.type, column.type))
    column.validate(full=True)
    if pa.types.is_binary_view(column.type):
        check_bytes(view_lengths(column), max_bytes)
        column = column.cast(pa.large_binary())
    if column.null_count:
        column = pc.fill_null(column, b"")
    packed = _packed(column)
    if packed.lengths.max() > MAX_SAMPLE_ID_BYTES + 1:
        packed = _packed(pc.binary_slice(column, 0, MAX_SAMPLE_ID_BYTES + 1))
    return packed


def joined(column: pa.ChunkedArray) -> pa.Array:
    """Return a column as one array; where it is one already, beside empty ones, nothing is copied."""
    filled = [each for each in column.chunks if len(each)]
    return filled[0] if len(filled) == 1 else column.combine_chunks()


def whole_ids(column: pa.Array | pa.ChunkedArray) -> SampleIds:
    """Return a column of texts without NULL, of a table of our own, packed: each id as long as it is."""
    whole = pa.chunked_array([column]) if isinstance(column, pa.Array) else column
    array = whole.cast(pa.large_binary()).combine_chunks()
    return _packed(array) if len(array) else SampleIds.of(())


def take_ids(column: pa.Array, rows: NDArray[np.intp]) -> pa.Array:
    """Return those rows of a binary column of valid ids that has no NULL, in their order."""
    offsets, n_ids = offsets_of(column), len(column)
    width = int(offsets[1]) - int(offsets[0]) if n_ids else 0
    if not width or len(rows) * width > _MAX_OFFSET or (np.diff(offsets) != width).any():
        return column.take(pa.array(rows))
    # ids of one length, as mostly, are taken in a third of the time
    data = column.buffers()[2].slice(int(offsets[0]), n_ids * width)
    taken = pa.FixedSizeBinaryArray.from_buffers(pa.binary(width), n_ids, [None, data]).take(pa.array(rows))
    return binary_column(np.arange(len(rows) + 1, dtype=np.int32) * np.int32(width), taken.buffers()[1])


def _packed(column: pa.Array) -> SampleIds:
    """Return a column of binary or large binary, which is valid and has no NULL."""
    width = np.dtype("<i4" if pa.types.is_binary(column.type) else "<i8")
    _, offsets, data = column.buffers()
    start = column.offset
    ends = np.frombuffer(offsets, dtype=width)[start : start + len(column) + 1].astype(np.int64)
    first, last = int(ends[0]), int(ends[-1])
    return SampleIds(b"" if first == last else data.slice(first, last - first).to_pybytes(), ends - first)


def _decoded(column: pa.DictionaryArray, max_bytes: int) -> pa.Array:
    dictionary = column.dictionary
    dictionary.validate(full=True)  # the column's own validation does not look at its length, which may be negative
    entries = ids_from_array(dictionary, max_bytes) if len(dictionary) else SampleIds.of([b""])
    chosen = column.indices
    chosen.validate(full=True)
    positions = pc.fill_null(chosen, 0).to_numpy(zero_copy_only=False)
    if positions.min() < 0 or positions.max() >= len(entries):
        raise ProtocolError("a dictionary of sample ids is shorter than its indices say")
    check_bytes(entries.lengths[positions], max_bytes)
    return pc.take(ids_to_array(entries), chosen, boundscheck=False)


def view_lengths(column: pa.Array) -> NDArray[np.int64]:
    """Return the lengths of a column of views: the first of the four numbers of each."""
    views = np.frombuffer(column.buffers()[1], dtype="<i4").reshape(-1, 4)
    return views[column.offset : column.offset + len(column), 0].astype(np.int64)


def check_bytes(lengths: NDArray[np.int64], max_bytes: int) -> None:
    """Raise `ProtocolError` where texts of those lengths are more than so many bytes."""
    if int(lengths.sum()) > max_bytes:
        raise ProtocolError(f"texts of {int(lengths.sum())} bytes in one table; the limit is {max_bytes}")
