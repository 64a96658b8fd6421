"""Sorted sample ids in a file, run by run, of which any piece can be read again."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fedpredict.model.buckets import Hashes
from fedpredict.wire.arrow_ids import binary_column, offsets_of

_OFFSET_BYTES = 4


@dataclass(frozen=True, slots=True)
class Placed:
    """Sample ids with their places.

    Attributes:
        places: Shape (n,).
        ids: Binary, n of them, none NULL.
    """

    places: Hashes
    ids: pa.Array

    @classmethod
    def concat(cls, parts: Iterable[Placed]) -> Placed:
        """Return all ids, in order."""
        given = list(parts)
        if len(given) == 1:
            return given[0]
        places = [np.empty(0, dtype=np.uint32), *(each.places for each in given)]
        return cls(np.concatenate(places), pa.concat_arrays([pa.array([], pa.binary()), *(each.ids for each in given)]))

    def cut(self, start: int, stop: int) -> Placed:
        """Return ids `start` to `stop`, the latter not included; nothing is copied."""
        return Placed(self.places[start:stop], self.ids.slice(start, stop - start))

    @property
    def n_bytes(self) -> int:
        """How many bytes all ids have."""
        offsets = offsets_of(self.ids)
        return int(offsets[-1]) - int(offsets[0])


@dataclass(frozen=True, slots=True)
class _Run:
    """Where a run lies in the file: its places, its n + 1 offsets from 0, and its bytes, one behind the other.

    Attributes:
        position: Of its first place.
        n_ids: Its length.
        bounds: The rows where its pieces begin, and the end of the last.
    """

    position: int
    n_ids: int
    bounds: NDArray[np.int64]


class IdFile:
    """A file of runs of ids: written to its end, then read. Not for several threads; errors are `OSError`."""

    def __init__(self, path: Path) -> None:
        """Make the file.

        Args:
            path: There is none yet.
        """
        self._path = path
        self._file = path.open("x+b", buffering=0)  # what is written at the end of all is not to fail then
        self._size = 0
        self._runs: list[_Run] = []

    @property
    def n_runs(self) -> int:
        """How many runs were appended."""
        return len(self._runs)

    def append(self, placed: Placed, bounds: Sequence[int] | NDArray[np.int64]) -> None:
        """Write a run.

        Args:
            placed: Its ids.
            bounds: Piece i is rows `bounds[i]` to `bounds[i + 1]`.
        """
        offsets = offsets_of(placed.ids)
        first, last = int(offsets[0]), int(offsets[-1])
        data = placed.ids.buffers()[2]
        position = self._size
        self._write(np.ascontiguousarray(placed.places).view(np.uint8).data)
        self._write((offsets - offsets[0]).view(np.uint8).data)
        if last > first:
            self._write(memoryview(data)[first:last])
        self._runs.append(_Run(position, len(placed.ids), np.asarray(bounds, dtype=np.int64)))

    def read(self, run: int, piece: int) -> Placed:
        """Return a piece of a run."""
        each = self._runs[run]
        start, stop = int(each.bounds[piece]), int(each.bounds[piece + 1])
        places = self._read(each.position + start * _OFFSET_BYTES, (stop - start) * _OFFSET_BYTES)
        at = each.position + each.n_ids * _OFFSET_BYTES
        offsets = np.frombuffer(
            self._read(at + start * _OFFSET_BYTES, (stop - start + 1) * _OFFSET_BYTES), dtype=np.int32
        )
        at += (each.n_ids + 1) * _OFFSET_BYTES
        data = self._read(at + int(offsets[0]), int(offsets[-1]) - int(offsets[0]))
        return Placed(np.frombuffer(places, dtype=np.uint32), binary_column(offsets - offsets[0], data))

    def remove(self) -> None:
        """Close and remove the file."""
        self._file.close()
        self._path.unlink(missing_ok=True)

    def _write(self, data: memoryview) -> None:
        while len(data):
            n_written = self._file.write(data)
            data = data[n_written:]
            self._size += n_written

    def _read(self, position: int, size: int) -> bytes:
        self._file.seek(position)
        data = self._file.read(size)
        while len(data) < size:
            more = self._file.read(size - len(data))
            if not more:
                raise OSError(f"{self._path.name} has lost its end")
            data += more
        return data
