"""Sample ids in the order of a population, each once, however many there are: sorted part by part, through files."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from fedpredict.errors import WarehouseWriteError
from fedpredict.model.arrays import Bools
from fedpredict.model.buckets import HASH_BITS, Hashes, bucket_of_rank, order_of_places, places_of
from fedpredict.model.sample_ids import SampleIds
from fedpredict.scoring.id_file import IdFile, Placed
from fedpredict.wire.arrow_ids import ids_from_array, ids_to_array, take_ids

HELD_ROWS = 2_000_000
"""So many ids are held in memory before they go to files."""
HELD_BYTES = 128 * 1024 * 1024
_PIECE = 262_144
_PART_BITS, _FILE_BITS = 8, 4
"""The first bits of a place say which of 256 parts an id is of: each is sorted in memory. They lie in 16 files, each of
which goes when its parts are sorted, so that no more room is taken than the ids need."""
_MAX_BYTES = 2**31 - 1


class IdSorter:
    """Takes ids in any order; then gives them by bucket, in the order of a population, each once."""

    def __init__(self, folder: Path | None = None, *, held_rows: int = HELD_ROWS) -> None:
        """Prepare; files are made when memory does not suffice, and go at the end of the `with` block.

        Args:
            folder: Where files are made; default: the system's folder for such.
            held_rows: So many ids are held in memory.
        """
        self._parent = folder
        self._held_rows = held_rows
        self._stack = ExitStack()
        self._folder: Path | None = None
        self._files: list[IdFile] = []
        self._held: list[Placed] = []
        self._n_held = self._bytes_held = 0
        self._whole: Placed | None = None
        self._sorted: IdFile | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def add(self, sample_ids: SampleIds) -> None:
        """Take ids that are valid.

        Raises:
            WarehouseWriteError: A file cannot be written.
        """
        for start in range(0, len(sample_ids), _PIECE):
            piece = sample_ids.cut(start, min(start + _PIECE, len(sample_ids)))
            self._held.append(Placed(places_of(piece), ids_to_array(piece)))
            self._n_held += len(piece)
            self._bytes_held += len(piece.data)
            if self._n_held >= self._held_rows or self._bytes_held >= HELD_BYTES:
                self._to_files()

    def sort(self) -> tuple[int, int]:
        """Sort what was added, and return how many ids are left, and their bytes; once, after the last `add`.

        Raises:
            WarehouseWriteError: A file cannot be written.
        """
        if not self._files:
            held, self._held = self._held, []
            self._whole = _sorted(held)
            return len(self._whole.ids), self._whole.n_bytes
        self._to_files()
        n_ids = n_bytes = 0
        with _writing():
            self._sorted = self._file("sorted")
            for file in self._files:
                for part in range(1 << (_PART_BITS - _FILE_BITS)):
                    placed = _sorted(file.read(run, part) for run in range(file.n_runs))
                    self._sorted.append(placed, (0, len(placed.ids)))
                    n_ids, n_bytes = n_ids + len(placed.ids), n_bytes + placed.n_bytes
                file.remove()
        return n_ids, n_bytes

    def buckets(self, n_buckets: int) -> Iterator[tuple[int, SampleIds]]:
        """Give the buckets that hold ids, each with its ids in order; after `sort`."""
        bits = n_buckets.bit_length() - 1
        rank, held = -1, list[SampleIds]()
        for batch in self._batches():
            places = batch.places
            ranks = places >> np.uint32(HASH_BITS - bits) if bits else np.zeros_like(places)
            for start, stop in _runs(ranks):
                if held and int(ranks[start]) != rank:
                    yield bucket_of_rank(rank, n_buckets), SampleIds.concat(held)
                    held = []
                rank = int(ranks[start])
                held.append(ids_from_array(batch.cut(start, stop).ids, _MAX_BYTES))
        if held:
            yield bucket_of_rank(rank, n_buckets), SampleIds.concat(held)

    def _batches(self) -> Iterator[Placed]:
        if self._sorted is None:
            yield self._whole or Placed.concat(())
            return
        for run in range(self._sorted.n_runs):
            with _writing():
                placed = self._sorted.read(run, 0)
            yield placed

    def _to_files(self) -> None:
        held, self._held = self._held, []
        self._n_held = self._bytes_held = 0
        if not held:
            return
        placed = _sorted(held)  # each id once: all that repeat one would end in one part, which is sorted in memory
        parts = np.arange((1 << _PART_BITS) + 1, dtype=np.uint64) << np.uint64(HASH_BITS - _PART_BITS)
        bounds = np.searchsorted(placed.places, parts)
        per_file = 1 << (_PART_BITS - _FILE_BITS)
        with _writing():
            if not self._files:
                self._files = [self._file(f"{number:02d}") for number in range(1 << _FILE_BITS)]
            for number, file in enumerate(self._files):
                own = bounds[number * per_file : (number + 1) * per_file + 1]
                file.append(placed.cut(int(own[0]), int(own[-1])), own - own[0])

    def _file(self, name: str) -> IdFile:
        if self._folder is None:
            made = tempfile.TemporaryDirectory(prefix="fedpredict-", dir=self._parent)
            self._folder = Path(self._stack.enter_context(made))
        file = IdFile(self._folder / name)
        self._stack.callback(file.remove)
        return file


def order_of(places: Hashes, ids: pa.Array) -> tuple[NDArray[np.intp], Bools]:
    """Return ids' order in a population, and which of them, in that order, are the same as the one before.

    Args:
        places: Shape (n,).
        ids: Theirs, binary.
    """
    order = order_of_places(places)
    ordered = places[order]
    same_place = ordered[1:] == ordered[:-1]
    same = np.zeros(len(order), dtype=np.bool_)
    tied = np.flatnonzero(np.append(False, same_place) | np.append(same_place, False))
    if len(tied):
        # those alone are compared, each different one once, and none as an object of Python
        coded = ids.take(pa.array(order[tied])).dictionary_encode()
        different = np.empty(len(coded.dictionary), dtype=np.intp)
        different[pc.sort_indices(coded.dictionary).to_numpy()] = np.arange(len(different))
        ranks = different[coded.indices.to_numpy()]
        within = np.lexsort((ranks, ordered[tied]))
        order[tied], ranks = order[tied][within], ranks[within]
        same[tied[1:]] = ranks[1:] == ranks[:-1]
    return order, same


def _sorted(parts: Iterable[Placed]) -> Placed:
    """Return ids in order, each once."""
    given = Placed.concat(parts)
    order, same = order_of(given.places, given.ids)
    if same.any():
        order = order[~same]
    return Placed(given.places[order], take_ids(given.ids, order))


def _runs(values: Sequence[int] | Hashes) -> list[tuple[int, int]]:
    """Return where runs of the same value begin and end."""
    known = np.asarray(values)
    if not len(known):
        return []
    starts = [0, *(np.flatnonzero(known[1:] != known[:-1]) + 1).tolist()]
    return list(zip(starts, [*starts[1:], len(known)], strict=True))


@contextmanager
def _writing() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        told = f"sample ids cannot be sorted: {error.strerror or error} ({tempfile.gettempdir()} or TMPDIR holds them)"
        raise WarehouseWriteError(told) from error
