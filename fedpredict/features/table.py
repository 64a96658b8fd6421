"""A snapshot as arrays with a hash index over the bytes of its ids: immutable, and the same in memory and in a file.

Rows stand in the order of their ids' hashes. The high half of a hash, scaled to the number of rows, is the id's
bucket, and `start` says where each bucket begins: an id is found by one jump and, mostly, no or one step. No Python
object exists per id.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from fedpredict.errors import ModelNotReadyError
from fedpredict.features.base import FeatureRows
from fedpredict.features.hashing import Hashes, IdHash, id_words
from fedpredict.features.texts import Texts
from fedpredict.model.arrays import Bools, Floats, Micros, all_true, any_true
from fedpredict.model.ids import MAX_SAMPLE_ID_BYTES
from fedpredict.model.sample_ids import SampleIds
from fedpredict.tables.views import Snapshot

FEW = 20
"""So many ids are found one by one, in plain Python, faster than by passes of numpy over all of them."""

_STEPS = 3
"""So many steps bring all but one in 250 ids to their row; it pays to take them without asking who still needs one."""
_HALF = np.uint64(32)
_FOUND = np.ones(1, dtype=np.bool_)
_CLEAR = np.zeros(1, dtype=np.bool_)
for _constant in (_FOUND, _CLEAR):
    _constant.flags.writeable = False


_Chosen: TypeAlias = tuple[NDArray[np.intp] | None, Mapping[str, Texts] | None]
"""Where the columns of a look-up stand, None for all of them in their order; and the texts of those that are text."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TableArrays:
    """What a table is made of; n rows, one per sample id, in the order of `hashes`.

    Attributes:
        id_bytes: The ids' bytes, contiguous, with at least 8 more behind the last.
        offsets: Shape (n + 1,): where in `id_bytes` an id begins, and the one before ends.
        hashes: Shape (n,), rising, no two the same.
        start: Shape (n,): the first row whose bucket is this one or a later one, n if there is none.
        event_time: Shape (n,).
        ambiguous: Shape (n,), 0 or 1: whether the id has several latest rows.
        values: Shape (n, n_columns), row-major; NaN for NULL; codes where the column is text.
    """

    id_bytes: NDArray[np.uint8]
    offsets: NDArray[np.int64]
    hashes: Hashes
    start: NDArray[np.int32]
    event_time: Micros
    ambiguous: NDArray[np.uint8]
    values: Floats


class FeatureTable:
    """One snapshot, served."""

    def __init__(
        self, snapshot: Snapshot, columns: Sequence[str], seed: int, arrays: TableArrays, texts: Mapping[str, Texts]
    ) -> None:
        """Serve arrays that nobody changes any more.

        Args:
            snapshot: What it is.
            columns: The columns of `arrays.values`.
            seed: Of the hash.
            arrays: As `TableArrays` says.
            texts: By column that is text, what its codes are positions in.
        """
        self.snapshot = snapshot
        self._columns = {column: position for position, column in enumerate(columns)}
        self._arrays = arrays
        self._texts = texts
        self._hash = IdHash(seed)
        self._n_rows = len(arrays.hashes)
        self._n_buckets = np.uint64(self._n_rows)
        self._has_ambiguous = any_true(arrays.ambiguous != 0)
        self._chosen: dict[tuple[str, ...], _Chosen] = {tuple(columns): (None, texts or None)}
        # items of a memoryview are plain integers, three times faster than numpy's
        self._hash_items = arrays.hashes.data
        self._start_items = arrays.start.data
        self._offset_items = arrays.offsets.data
        self._id_items = arrays.id_bytes.data

    @property
    def n_rows(self) -> int:
        """The number of ids."""
        return self._n_rows

    @property
    def n_bytes(self) -> int:
        """The bytes that its arrays take, in memory or mapped."""
        arrays = self._arrays
        n_bytes = sum(int(getattr(arrays, name).nbytes) for name in arrays.__slots__)
        return n_bytes + sum(int(each.nbytes) for each in self._texts.values())

    def lookup(self, columns: Sequence[str], sample_ids: Sequence[bytes]) -> FeatureRows:
        """Return features of samples, as `OnlineStore.lookup` says."""
        chosen = self._positions(tuple(columns))
        n_samples = len(sample_ids)
        if n_samples > FEW and self._n_rows:
            return self._rows(*self._find(SampleIds.of(sample_ids)), chosen)
        rows = self._find_few(
            (sample_ids.data,) if isinstance(sample_ids, SampleIds) and n_samples == 1 else sample_ids
        )
        if n_samples == 1 and rows[0] >= 0:
            return self._row(rows[0], chosen)
        places = np.array(rows, dtype=np.int64)
        return self._rows(places, places >= 0, chosen)

    def _positions(self, columns: tuple[str, ...]) -> _Chosen:
        known = self._chosen.get(columns)
        if known is not None:
            return known
        missing = [column for column in columns if column not in self._columns]
        if missing:
            view = self.snapshot.view
            told = f"view {view.name} version {view.version} has no column {', '.join(missing)}"
            raise ModelNotReadyError(told)
        # as many as there are models; a race computes one twice
        positions = np.array([self._columns[column] for column in columns], dtype=np.intp)
        texts = {column: self._texts[column] for column in columns if column in self._texts}
        return self._chosen.setdefault(columns, (positions, texts or None))

    def _find_few(self, sample_ids: Iterable[bytes]) -> list[int]:
        """Return the ids' rows, -1 where not found."""
        n_rows = self._n_rows
        ids = tuple(sample_ids)
        if not n_rows:
            return [-1] * len(ids)
        starts, hashes, offsets, stored = self._start_items, self._hash_items, self._offset_items, self._id_items
        rows = []
        for sample_id, wanted in zip(ids, self._hash.few(ids), strict=True):
            row = starts[(wanted >> 32) * n_rows >> 32]
            while row < n_rows and hashes[row] < wanted:
                row += 1
            is_found = (
                row < n_rows
                and hashes[row] == wanted
                and stored[offsets[row] : offsets[row + 1]] == sample_id
                and len(sample_id) <= MAX_SAMPLE_ID_BYTES
            )
            rows.append(row if is_found else -1)
        return rows

    def _find(self, sample_ids: SampleIds) -> tuple[NDArray[np.int64], Bools]:
        """Return the ids' rows, anything where not found, and which are found."""
        arrays, hashed = self._arrays, self._hash.many(sample_ids)
        wanted = hashed.hashes
        buckets = wanted >> _HALF
        buckets *= self._n_buckets
        buckets >>= _HALF
        rows = arrays.start.take(buckets.view(np.int64)).astype(np.int64)
        # hashes rise, so the row is the first whose hash is not smaller; beyond the last row, clip reads the last
        for _ in range(_STEPS):
            rows += arrays.hashes.take(rows, mode="clip") < wanted
        behind = np.flatnonzero(arrays.hashes.take(rows, mode="clip") < wanted)
        while len(behind):
            further = rows[behind] + 1
            rows[behind] = further
            is_behind = arrays.hashes.take(further, mode="clip") < wanted[behind]
            behind = behind[is_behind & (further < self._n_rows)]
        found: Bools = arrays.hashes.take(rows, mode="clip") == wanted
        starts = arrays.offsets.take(rows, mode="clip")
        found &= arrays.offsets.take(rows + 1, mode="clip") - starts == hashed.lengths
        theirs = id_words(arrays.id_bytes, starts, hashed.lengths, 8 * len(hashed.words))
        for word, other in zip(hashed.words, theirs, strict=True):
            found &= word == other
        return rows, found

    def _row(self, row: int, chosen: _Chosen) -> FeatureRows:
        """Return one row without a copy."""
        arrays, (positions, texts) = self._arrays, chosen
        values = arrays.values[row : row + 1]
        if positions is not None:
            values = values.take(positions, axis=1)
        is_clear = not (self._has_ambiguous and arrays.ambiguous[row])
        event_time = arrays.event_time[row : row + 1]
        return FeatureRows(values, _FOUND, _CLEAR if is_clear else _FOUND, event_time, is_clear, texts)

    def _rows(self, rows: NDArray[np.int64], found: Bools, chosen: _Chosen) -> FeatureRows:
        arrays, n_samples = self._arrays, len(rows)
        positions, texts = chosen
        n_columns = arrays.values.shape[1] if positions is None else len(positions)
        ambiguous = np.zeros(n_samples, dtype=np.bool_)
        if not self._n_rows:
            values, never = np.full((n_samples, n_columns), np.nan), np.zeros(n_samples, dtype=np.int64)
            return FeatureRows(values, found, ambiguous, never, texts=texts)
        if positions is None:
            values = arrays.values.take(rows, axis=0, mode="clip")
        else:
            at = (rows * arrays.values.shape[1])[:, None] + positions
            values = arrays.values.reshape(-1).take(at, mode="clip")
        event_time = arrays.event_time.take(rows, mode="clip")
        if self._has_ambiguous:
            ambiguous = arrays.ambiguous.take(rows, mode="clip") != 0
        all_found = all_true(found)
        if not all_found:
            absent = ~found
            values[absent] = np.nan
            event_time[absent] = 0
            ambiguous[absent] = False
        return FeatureRows(values, found, ambiguous, event_time, all_found and not self._has_ambiguous, texts)


def bucket_starts(hashes: Hashes) -> NDArray[np.int32]:
    """Return `TableArrays.start` for rising hashes, fewer than 2^31."""
    n_rows = len(hashes)
    buckets = (hashes >> _HALF) * np.uint64(n_rows) >> _HALF
    return np.searchsorted(buckets, np.arange(n_rows, dtype=np.uint64)).astype(np.int32)
