"""A snapshot's rows -> what a table is made of, in bounded pieces."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fedpredict.errors import TableCorruptError
from fedpredict.features.rows import latest_rows, seeds, to_micros, to_packed
from fedpredict.features.table import FeatureTable, TableArrays, bucket_starts
from fedpredict.features.texts import Texts, encode
from fedpredict.model.arrays import Floats, Micros, all_true
from fedpredict.model.ids import valid_sample_ids
from fedpredict.model.sample_ids import SampleIds
from fedpredict.tables.views import Snapshot
from fedpredict.warehouse.base import ColumnType

BLOCK_BYTES = 1 << 20
"""So much of the values exists at a time while they are put into row order."""
_MOST_IDS = 2**31 - 1
_PADDING = 8
"""Bytes behind the last id, so that a word may be read where an id begins."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TableParts:
    """A table but for its values, which come block by block.

    Attributes:
        snapshot: What it is.
        columns: The feature columns.
        seed: Of the hash.
        sample_ids: In the order of the table, as everything is.
        start, event_time, ambiguous, hashes: As in `TableArrays`.
        rows: Shape (n,): where in the columns below a row's values are.
        numbers: By column; of text, the codes.
        texts: By column that is text, what its codes are positions in.
    """

    snapshot: Snapshot
    columns: tuple[str, ...]
    seed: int
    sample_ids: SampleIds
    hashes: NDArray[np.uint64]
    start: NDArray[np.int32]
    event_time: Micros
    ambiguous: NDArray[np.uint8]
    rows: NDArray[np.int64]
    numbers: Mapping[str, Floats]
    texts: Mapping[str, Texts]

    def blocks(self) -> Iterator[Floats]:
        """Return the values, shape (n, n_columns), as blocks of some rows each, in order."""
        n_columns = len(self.columns)
        step = max(1, BLOCK_BYTES // (8 * max(1, n_columns)))
        for begin in range(0, len(self.rows), step):
            yield self.block(begin, begin + step)

    def block(self, begin: int, end: int) -> Floats:
        """Return the values of some rows, shape (n_rows, n_columns)."""
        rows = self.rows[begin:end]
        block = np.empty((len(rows), len(self.columns)), dtype=np.float64)
        for position, column in enumerate(self.columns):
            block[:, position] = self.numbers[column][rows]
        return block


def prepare(snapshot: Snapshot, rows: pa.Table, some_seeds: Iterable[int] | None = None) -> TableParts:
    """Return what a table of the rows is made of.

    Args:
        snapshot: What `rows` are a snapshot of.
        rows: As `OnlineStore.publish` says.
        some_seeds: For the hash; default: random ones.

    Raises:
        TableCorruptError: A row has no sample id or no event time.
    """
    _check_keys(snapshot, rows)
    sample_ids, event_time = to_packed(rows.column("sample_id")), to_micros(rows.column("event_time"))
    # what is no sample id is not found, so that an id that is found need not be judged again
    usable = valid_sample_ids(sample_ids)
    places = None if all_true(usable) else np.flatnonzero(usable)
    if places is not None:
        sample_ids, event_time = sample_ids.select(usable), event_time[places]
    types = _column_types(snapshot, rows)
    # column by column, so that what was read and what becomes of it do not both stand in memory as a whole
    given = {column: rows.column(column) for column in types}
    del rows
    numbers: dict[str, Floats] = {}
    texts: dict[str, Texts] = {}
    for column, kind in types.items():
        if kind is ColumnType.STRING:
            numbers[column], texts[column] = encode(given.pop(column))
        else:
            numbers[column] = np.asarray(given.pop(column).to_numpy(), dtype=np.float64)
    latest = latest_rows(sample_ids, event_time, seeds() if some_seeds is None else some_seeds)
    return TableParts(
        snapshot=snapshot,
        columns=tuple(types),
        seed=latest.seed,
        sample_ids=_picked(sample_ids, latest.rows),
        hashes=latest.hashes,
        start=bucket_starts(latest.hashes),
        event_time=event_time[latest.rows],
        ambiguous=latest.ambiguous.astype(np.uint8),
        rows=latest.rows if places is None else places[latest.rows],
        numbers=numbers,
        texts=texts,
    )


def build_table(parts: TableParts) -> FeatureTable:
    """Return the table in this process's memory."""
    values = np.empty((len(parts.rows), len(parts.columns)), dtype=np.float64)
    begin = 0
    for block in parts.blocks():
        values[begin : begin + len(block)] = block
        begin += len(block)
    arrays = TableArrays(
        id_bytes=np.frombuffer(parts.sample_ids.data + bytes(_PADDING), dtype=np.uint8),
        offsets=parts.sample_ids.offsets,
        hashes=parts.hashes,
        start=parts.start,
        event_time=parts.event_time,
        ambiguous=parts.ambiguous,
        values=values,
    )
    for array in (arrays.values, arrays.event_time):  # what a look-up may hand out without a copy
        array.flags.writeable = False
    return FeatureTable(parts.snapshot, parts.columns, parts.seed, arrays, parts.texts)


def _check_keys(snapshot: Snapshot, rows: pa.Table) -> None:
    for name in ("sample_id", "event_time"):
        if rows.column(name).null_count:
            raise TableCorruptError(
                f"snapshot {snapshot.snapshot} of view {snapshot.view.name}: {rows.column(name).null_count} rows "
                f"have no {name}; load the features again"
            )
    if rows.num_rows > _MOST_IDS:
        raise TableCorruptError(
            f"snapshot {snapshot.snapshot} of view {snapshot.view.name} has {rows.num_rows} rows; an online store "
            f"holds {_MOST_IDS}: load fewer"
        )


def _column_types(snapshot: Snapshot, rows: pa.Table) -> dict[str, ColumnType]:
    present = set(rows.column_names)
    return {feature.column: feature.type for feature in snapshot.view.features if feature.column in present}


def _picked(sample_ids: SampleIds, rows: NDArray[np.int64]) -> SampleIds:
    ids = pa.LargeBinaryArray.from_buffers(
        pa.large_binary(), len(sample_ids), [None, pa.py_buffer(sample_ids.offsets), pa.py_buffer(sample_ids.data)]
    )
    return to_packed(pa.chunked_array([ids.take(pa.array(rows))], pa.large_binary()))
