"""The binary tensor extension's layouts: little-endian cells, and strings that stand after their lengths."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from fedpredict.model.sample_ids import SampleIds

CELL_TYPES: dict[str, np.dtype[Any]] = {
    "FP64": np.dtype("<f8"),
    "FP32": np.dtype("<f4"),
    "INT64": np.dtype("<i8"),
    "INT32": np.dtype("<i4"),
    "BOOL": np.dtype(np.bool_),
}
"""The datatypes of features, as numpy reads them."""

_LENGTH = np.dtype("<u4")


def unpack_strings(raw: bytes | memoryview, n_strings: int) -> SampleIds:
    r"""Return the strings of a BYTES tensor: each after its length as uint32.

    Raises:
        ValueError: The bytes do not hold exactly so many strings.

    >>> list(unpack_strings(b"\x02\0\0\0u1\x03\0\0\0u22", 2))
    [b'u1', b'u22']
    """
    data = bytes(raw)
    alike = _unpack_alike(data, n_strings)
    return alike if alike is not None else SampleIds.of(_unpack_one_by_one(data, n_strings))


def pack_strings(strings: SampleIds) -> bytes:
    r"""Return strings as a BYTES tensor's bytes.

    >>> pack_strings(SampleIds.of([b"u1"]))
    b'\x02\x00\x00\x00u1'
    """
    lengths = strings.lengths.astype(_LENGTH).tobytes()
    starts = (lengths[at : at + 4] for at in range(0, len(lengths), 4))
    return b"".join(itertools.chain.from_iterable(zip(starts, strings, strict=True)))


def _unpack_alike(data: bytes, n_strings: int) -> SampleIds | None:
    """Return the strings where all have one length, as ids often do; without a loop. None where they do not."""
    if not n_strings or len(data) % n_strings or len(data) // n_strings <= 4:
        return None
    rows = np.frombuffer(data, dtype=np.uint8).reshape(n_strings, -1)
    length = rows.shape[1] - 4
    if (np.ascontiguousarray(rows[:, :4]).view(_LENGTH) != length).any():
        return None
    return SampleIds(rows[:, 4:].tobytes(), np.arange(n_strings + 1, dtype=np.int64) * length)


def _unpack_one_by_one(data: bytes, n_strings: int) -> list[bytes]:
    strings: list[bytes] = []
    at = 0
    for _ in range(n_strings):
        end = at + 4 + int.from_bytes(data[at : at + 4], "little")
        if end > len(data):
            break
        strings.append(data[at + 4 : end])
        at = end
    if len(strings) != n_strings or at != len(data):
        raise ValueError(f"{len(data)} bytes that are not {n_strings} strings after their lengths")
    return strings
