"""Lines of the audit log, many at a time: ids hidden, times written, each line bound to the one before.

Calls of the library let other threads run: in Python, all of that would stop the thread that answers calls.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from json.encoder import encode_basestring_ascii

import numpy as np
from numpy.typing import NDArray

from fedpredict.model.kernel import loading
from fedpredict.model.sample_ids import SampleIds

ID_BYTES = 16
"""So many bytes of an id's HMAC-SHA-256 are in a line, in hex."""
_KEY_BYTES = 64
_ADDRESS, _COUNT, _TEXT = ctypes.c_void_p, ctypes.c_int64, ctypes.c_char_p
_LIBRARY = loading.load(
    loading.FOLDER,
    "lines",
    (
        ("fp_hmac_key", (_TEXT, _COUNT, _ADDRESS), None),
        ("fp_lines", (_ADDRESS, _COUNT, _TEXT, _COUNT, _COUNT, ctypes.c_int, _ADDRESS, _ADDRESS), _COUNT),
        ("fp_seal", (_COUNT, _ADDRESS, _ADDRESS, _COUNT, _TEXT, ctypes.c_int, _ADDRESS), _COUNT),
    ),
)
_HEAD = struct.Struct("<qIII")
"""Of a packed call: when, in nanoseconds since 1970; the bytes of its text, its request and its ids."""
_OFFSETS_OF_ONE = [struct.pack("<QII", 1, 0, n_bytes) for n_bytes in range(257)]
"""What stands before the bytes of a single id, by its length: mostly there is one."""
# what a line has at most beside its fields: its time, names and a root; for a byte of packed offsets the hex of an id;
# its number and two hashes
_LINE_ROOM, _OFFSET_ROOM, _SEAL_ROOM = 200, (2 * ID_BYTES + 3) // 4 + 1, 176


@dataclass(slots=True, eq=False)
class Bodies:
    """Lines, one behind the other, without their numbers and hashes.

    Attributes:
        data: The lines' bytes, each a JSON object with at least one field.
        ends: Shape (n,): where each ends.
    """

    data: NDArray[np.uint8]
    ends: NDArray[np.int64]

    @classmethod
    def of(cls, lines: Sequence[bytes]) -> Bodies:
        """Return `lines`, packed.

        >>> Bodies.of([b'{"kind":"end"}']).ends.tolist()
        [14]
        """
        ends = np.cumsum(np.fromiter(map(len, lines), dtype=np.int64, count=len(lines)))
        return cls(np.frombuffer(b"".join(lines), dtype=np.uint8), ends)

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self.ends)

    def copy(self) -> Bodies:
        """Return the same in memory of its own."""
        return Bodies(self.data.copy(), self.ends)


class _Room:
    """Memory that is used again: every 4 kB of what is fresh cost a page fault, which is more than to fill them."""

    def __init__(self) -> None:
        self._bytes = np.empty(0, dtype=np.uint8)

    def of(self, n_bytes: int) -> NDArray[np.uint8]:
        if len(self._bytes) < n_bytes:
            self._bytes = np.empty(n_bytes, dtype=np.uint8)
        return self._bytes


def pack_call(at_ns: int, text: bytes, request_id: str, sample_ids: SampleIds | None) -> bytes:
    """Return a call as `LineKernel.bodies` takes it: one object, because what keeps several empties caches (ADR 0047).

    Args:
        at_ns: When it was answered, in nanoseconds since 1970, UTC.
        text: Its other fields in JSON, without braces: ASCII.
        request_id: Its id; empty: the line has no such field.
        sample_ids: Whom it is about; None: the line has no such field.
    """
    request = encode_basestring_ascii(request_id).encode("ascii")
    if sample_ids is None:
        return b"".join((_HEAD.pack(at_ns, len(text), len(request), 0), text, request))
    offsets, data = sample_ids.offsets, sample_ids.data
    if len(offsets) == 2 and len(data) < len(_OFFSETS_OF_ONE):
        before = _OFFSETS_OF_ONE[len(data)]
    else:  # as `digest_of` has them
        before = (len(offsets) - 1).to_bytes(8, "little") + np.ascontiguousarray(offsets, dtype="<u4").tobytes()
    head = _HEAD.pack(at_ns, len(text), len(request), len(before) + len(data))
    return b"".join((head, text, request, before, data))


class LineKernel:
    """Writes lines of calls with ids hidden under one key; used by one thread."""

    def __init__(self, key: bytes, ids_per_line: int, *, plainly: bool = False) -> None:
        """Prepare.

        Args:
            key: The key; 64 bytes at most.
            ids_per_line: Of a call about so many ids at most, each is written; of others, a hash of all.
            plainly: Without the instructions for SHA-256 that some processors have.
        """
        if len(key) > _KEY_BYTES:
            raise ValueError(f"a key of {len(key)} bytes; {_KEY_BYTES} at most")
        self._states = np.empty((2, 8), dtype=np.uint32)
        self._ids_per_line = ids_per_line
        self._plainly = plainly
        self._room = _Room()
        _LIBRARY.fp_hmac_key(key, len(key), self._states.ctypes.data)

    def bodies(self, calls: Sequence[bytes]) -> Bodies:
        """Return a line for each call that `pack_call` packed; its bytes are good until the next call of this."""
        packed = b"".join(calls)
        ends = np.empty(len(calls), dtype=np.int64)
        data = self._room.of(_LINE_ROOM * len(calls) + _OFFSET_ROOM * len(packed))
        made = _LIBRARY.fp_lines(
            self._states.ctypes.data,
            len(calls),
            packed,
            len(packed),
            self._ids_per_line,
            self._plainly,
            data.ctypes.data,
            ends.ctypes.data,
        )
        if made != len(calls):
            raise ValueError("a call is not packed as calls are, or its offsets do not cut its ids")
        return Bodies(data[: ends[-1] if made else 0], ends)


class Sealer:
    """Numbers lines, and binds each to the one before; used by one thread."""

    def __init__(self, *, plainly: bool = False) -> None:
        """Prepare; `plainly` as for `LineKernel`."""
        self._plainly = plainly
        self._room = _Room()

    def seal(self, bodies: Bodies, n: int, before: str) -> tuple[NDArray[np.uint8], str]:
        """Return the bytes of lines with their line ends, and the last one's hash; `audit_chain.seal` says what is one.

        Args:
            bodies: The lines.
            n: The number of the first.
            before: The hash of the line before, in hex.

        Returns:
            The bytes, good until the next call of this, and the hash in hex.
        """
        sha256 = ctypes.create_string_buffer(before.encode("ascii"), 65)
        loading.check_cut(np.concatenate([np.zeros(1, dtype=np.int64), bodies.ends]), len(bodies.data))
        data = self._room.of(len(bodies.data) + _SEAL_ROOM * len(bodies))
        size = _LIBRARY.fp_seal(
            len(bodies),
            bodies.data.ctypes.data,
            bodies.ends.ctypes.data,
            n - 1,
            sha256,
            self._plainly,
            data.ctypes.data,
        )
        return data[:size], sha256.value.decode("ascii")
