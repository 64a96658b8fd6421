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
from fedpredict.model.buckets import HASH_BITS, Hashes, bucket_of_rank, places_of
from fedpredict.model.sample_ids import SampleIds
from fedpredict.wire.arrow_ids import ids_from_array, ids_to_array

HELD_ROWS = 2_000_000
"""So many ids are held in memory before they go to files."""
HELD_BYTES = 128 * 1024 * 1024
_PIECE = 262_144
_PART_SHIFT = np.uint32(24)
"""The first eight bits of a place say which of 256 files an id goes to: each is sorted in memory."""
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
        self._held: list[pa.RecordBatch] = []
        self._n_held = self._bytes_held = 0
        self._sorted: list[pa.RecordBatch | Path] = []

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
            self._held.append(_batch(places_of(piece), ids_to_array(piece)))
            self._n_held += len(piece)
            self._bytes_held += len(piece.data)
            if self._n_held >= self._held_rows or self._bytes_held >= HELD_BYTES:
                self._to_files()

    def sort(self) -> tuple[int, int]:
        """Sort what was added, and return how many ids are left, and their bytes; once, after the last `add`.

        Raises:
            WarehouseWriteError: A file cannot be written.
        """
        if self._folder is None:
            held, self._held = self._held, []
            self._sorted = [_sorted(held)] if held else []
            return _size(batch for batch in self._sorted if isinstance(batch, pa.RecordBatch))
        self._to_files()
        n_ids = n_bytes = 0
        with _writing():
            for path in sorted(self._folder.iterdir()):
                batch = _sorted(_read(path))
                path.unlink()
                _append(path, batch)
                self._sorted.append(path)
                ids, data = _size([batch])
                n_ids, n_bytes = n_ids + ids, n_bytes + data
        return n_ids, n_bytes

    def buckets(self, n_buckets: int) -> Iterator[tuple[int, SampleIds]]:
        """Give the buckets that hold ids, each with its ids in order; after `sort`."""
        bits = n_buckets.bit_length() - 1
        rank, held = -1, list[SampleIds]()
        for batch in self._batches():
            places = batch.column("place").to_numpy()
            ranks = places >> np.uint32(HASH_BITS - bits) if bits else np.zeros_like(places)
            for start, stop in _runs(ranks):
                if held and int(ranks[start]) != rank:
                    yield bucket_of_rank(rank, n_buckets), SampleIds.concat(held)
                    held = []
                rank = int(ranks[start])
                held.append(ids_from_array(batch.column("id").slice(start, stop - start), _MAX_BYTES))
        if held:
            yield bucket_of_rank(rank, n_buckets), SampleIds.concat(held)

    def _batches(self) -> Iterator[pa.RecordBatch]:
        for each in self._sorted:
            if isinstance(each, Path):
                yield from _read(each)
            else:
                yield each

    def _to_files(self) -> None:
        held, self._held = self._held, []
        self._n_held = self._bytes_held = 0
        if not held:
            return
        batch = _sorted(held)  # each id once: all that repeat one would end in one file, which is sorted in memory
        parts = batch.column("place").to_numpy() >> _PART_SHIFT
        with _writing():
            if self._folder is None:
                made = tempfile.TemporaryDirectory(prefix="fedpredict-", dir=self._parent)
                self._folder = Path(self._stack.enter_context(made))
            for start, stop in _runs(parts):
                _append(self._folder / f"{int(parts[start]):03d}", batch.slice(start, stop - start))


def order_of(places: Hashes, ids: pa.Array) -> tuple[NDArray[np.intp], Bools]:
    """Return ids' order in a population, and which of them, in that order, are the same as the one before.

    Args:
        places: Shape (n,).
        ids: Theirs, binary.
    """
    order = np.argsort(places, kind="stable")
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


def _sorted(batches: Iterable[pa.RecordBatch]) -> pa.RecordBatch:
    (batch,) = pa.Table.from_batches(batches).combine_chunks().to_batches()
    order, same = order_of(batch.column("place").to_numpy(), batch.column("id"))
    return batch.take(pa.array(order[~same]))


def _size(batches: Iterable[pa.RecordBatch]) -> tuple[int, int]:
    """Return the number of ids in batches, and of their bytes."""
    columns = [batch.column("id") for batch in batches]
    return sum(map(len, columns)), sum(len(ids_from_array(column, _MAX_BYTES).data) for column in columns)


def _batch(places: Hashes, ids: pa.Array) -> pa.RecordBatch:
    return pa.record_batch([pa.array(places), ids], ["place", "id"])


def _runs(values: Sequence[int] | Hashes) -> list[tuple[int, int]]:
    """Return where runs of the same value begin and end."""
    known = np.asarray(values)
    if not len(known):
        return []
    starts = [0, *(np.flatnonzero(known[1:] != known[:-1]) + 1).tolist()]
    return list(zip(starts, [*starts[1:], len(known)], strict=True))


def _append(path: Path, batch: pa.RecordBatch) -> None:
    with path.open("ab") as file, pa.ipc.new_stream(file, batch.schema) as writer:
        writer.write_batch(batch)


def _read(path: Path) -> Iterator[pa.RecordBatch]:
    """Give what was appended to a file."""
    with path.open("rb") as file:
        size = path.stat().st_size
        while file.tell() < size:
            yield from pa.ipc.open_stream(file)


@contextmanager
def _writing() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        told = f"sample ids cannot be sorted: {error.strerror or error} ({tempfile.gettempdir()} or TMPDIR holds them)"
        raise WarehouseWriteError(told) from error
