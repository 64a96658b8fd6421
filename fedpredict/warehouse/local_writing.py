"""Rows of a query as Parquet files of the embedded warehouse, batch by batch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from fedpredict.warehouse.base import RowWatch

GROUP_ROWS = 122_880
"""Rows of a row group: what memory holds of it, what a thread takes at a time, and what a filter passes over."""


class _CannotWriteError(Exception):
    """The file cannot be written: told apart from one of the tables' files that cannot be read."""

    def __init__(self, reason: OSError) -> None:
        super().__init__(str(reason))
        self.reason = reason


@contextmanager
def writing() -> Iterator[None]:
    """Raise what the file's own disk said, where `write_batches` could not write."""
    try:
        yield
    except _CannotWriteError as error:
        raise error.reason from error


def runs(batches: Iterable[pa.RecordBatch], key: str) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Give rows that stand in the order of `key`, of one value of it at a time, without that column."""
    for batch in batches:
        values = batch.column(key).to_numpy()
        rest = batch.drop_columns([key])
        cuts = [0, *(np.flatnonzero(np.diff(values)) + 1).tolist(), len(values)]
        for start, stop in pairwise(cuts):
            if stop > start:
                yield int(values[start]), rest.slice(start, stop - start)


def write_batches(batches: Iterable[pa.RecordBatch], given: pa.Schema, file: BinaryIO, watch: RowWatch | None) -> int:
    """Write batches as one file, gathered into larger groups of rows, and return how many rows they had.

    Where they are watched, the last column is shown and not written.
    """
    n_rows, schema = 0, given if watch is None else given.remove(len(given) - 1)
    try:
        file.seek(0)
        file.truncate()
        # a dictionary saves little behind zstd, and ids that are all different make it slow
        with pq.ParquetWriter(
            file, schema, compression="zstd", write_page_checksum=True, use_dictionary=False
        ) as writer:
            for batch in _gathered(_seen(batches, given, watch)):
                writer.write_table(batch)
                n_rows += batch.num_rows
    except OSError as error:
        raise _CannotWriteError(error) from error
    return n_rows


def _seen(batches: Iterable[pa.RecordBatch], given: pa.Schema, watch: RowWatch | None) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        typed = batch.cast(given)
        if watch is not None:
            watch.add(typed)
            typed = typed.remove_column(len(given) - 1)
        yield typed


def fill(batches: Iterable[pa.RecordBatch], schema: pa.Schema, file: BinaryIO) -> int:
    """Write batches as one file, and return how many rows they had; raise `OSError` where that cannot be written."""
    with writing():
        return write_batches(batches, schema, file, None)


def _gathered(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.Table]:
    gathered: list[pa.RecordBatch] = []
    for batch in batches:
        gathered.append(batch)
        if sum(each.num_rows for each in gathered) >= GROUP_ROWS:
            yield pa.Table.from_batches(gathered)
            gathered = []
    if gathered:
        yield pa.Table.from_batches(gathered)
