"""Lines of the audit log, many at a time: ids hidden, times written, each line bound to the one before.

Calls let other threads run: in Python, all of that would stop the thread that answers calls.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass

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
        (
            "fp_lines",
            (
                *(_ADDRESS, _COUNT, _ADDRESS, _TEXT, _ADDRESS, _TEXT, *[_ADDRESS] * 2, _TEXT, _ADDRESS),
                *(ctypes.c_int, *[_ADDRESS] * 2),
            ),
            None,
        ),
        ("fp_seal", (_COUNT, _TEXT, _ADDRESS, _COUNT, _TEXT, ctypes.c_int, _ADDRESS), _COUNT),
    ),
)
# what a line has at most beside its fields: its time; for an id its hex; its number and two hashes
_TIME_ROOM, _ID_ROOM, _SEAL_ROOM = 80, 2 * ID_BYTES + 3, 176


@dataclass(slots=True, eq=False)
class Bodies:
    """Lines, one behind the other, without their numbers and hashes.

    Attributes:
        data: The lines, each a JSON object with at least one field.
        ends: Shape (n,): where each ends.
    """

    data: bytes
    ends: NDArray[np.int64]

    @classmethod
    def of(cls, lines: Sequence[bytes]) -> Bodies:
        """Return `lines`, packed.

        >>> Bodies.of([b'{"kind":"end"}']).ends.tolist()
        [14]
        """
        return cls(b"".join(lines), ends_of(lines))

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self.ends)


@dataclass(slots=True, eq=False)
class CallTexts:
    """What lines of calls are made of.

    Attributes:
        micros: Shape (n,), int64: when each was answered, in microseconds since 1970, UTC.
        texts: Each one's fields in JSON, but for its time, request and ids, without braces: ASCII.
        request_ids: Each as a JSON string, ASCII; an empty one: the line has no such field.
        n_ids: Shape (n,), int64: how many ids each names; -1: the line has no such field.
        sample_ids: Theirs, in order.
    """

    micros: NDArray[np.int64]
    texts: Sequence[str]
    request_ids: Sequence[str]
    n_ids: NDArray[np.int64]
    sample_ids: SampleIds


class LineKernel:
    """Writes lines of calls with ids hidden under one key."""

    def __init__(self, key: bytes, *, plainly: bool = False) -> None:
        """Prepare.

        Args:
            key: The key; 64 bytes at most.
            plainly: Without the instructions for SHA-256 that some processors have.
        """
        if len(key) > _KEY_BYTES:
            raise ValueError(f"a key of {len(key)} bytes; {_KEY_BYTES} at most")
        self._states = np.empty((2, 8), dtype=np.uint32)
        self._plainly = plainly
        _LIBRARY.fp_hmac_key(key, len(key), self._states.ctypes.data)

    def bodies(self, calls: CallTexts) -> Bodies:
        """Return a line for each call."""
        offsets = np.ascontiguousarray(calls.sample_ids.offsets, dtype=np.int64)
        loading.check_cut(offsets, len(calls.sample_ids.data))
        n_ids, micros = calls.n_ids, calls.micros
        if int(n_ids.clip(0).sum()) != len(offsets) - 1 or not len(n_ids) == len(micros) == len(calls.texts) == len(
            calls.request_ids
        ):
            raise ValueError("there are more or fewer ids than the lines are to have")
        texts, requests = "".join(calls.texts).encode("ascii"), "".join(calls.request_ids).encode("ascii")
        text_ends, request_ends = ends_of(calls.texts), ends_of(calls.request_ids)
        line_ends = np.empty(len(n_ids), dtype=np.int64)
        room = len(texts) + len(requests) + _TIME_ROOM * len(n_ids) + _ID_ROOM * (len(offsets) - 1)
        data = np.empty(room, dtype=np.uint8)
        _LIBRARY.fp_lines(
            self._states.ctypes.data,
            len(n_ids),
            micros.ctypes.data,
            texts,
            text_ends.ctypes.data,
            requests,
            request_ends.ctypes.data,
            n_ids.ctypes.data,
            calls.sample_ids.data,
            offsets.ctypes.data,
            self._plainly,
            data.ctypes.data,
            line_ends.ctypes.data,
        )
        return Bodies(data[: line_ends[-1] if len(line_ends) else 0].tobytes(), line_ends)


def seal_lines(bodies: Bodies, n: int, before: str, *, plainly: bool = False) -> tuple[bytes, str]:
    """Return numbered lines with their line ends, and the last one's hash in hex; `audit_chain.seal` says what is one.

    Args:
        bodies: The lines.
        n: The number of the first.
        before: The hash of the line before, in hex.
        plainly: As for `LineKernel`.
    """
    sha256 = ctypes.create_string_buffer(before.encode("ascii"), 65)
    loading.check_cut(np.concatenate([np.zeros(1, dtype=np.int64), bodies.ends]), len(bodies.data))
    data = np.empty(len(bodies.data) + _SEAL_ROOM * len(bodies), dtype=np.uint8)
    size = _LIBRARY.fp_seal(len(bodies), bodies.data, bodies.ends.ctypes.data, n - 1, sha256, plainly, data.ctypes.data)
    return data[:size].tobytes(), sha256.value.decode("ascii")


def ends_of(texts: Sequence[str] | Sequence[bytes]) -> NDArray[np.int64]:
    """Return where each of some texts ends when they stand one behind the other; shape (n,)."""
    return np.cumsum(np.fromiter(map(len, texts), dtype=np.int64, count=len(texts)))
