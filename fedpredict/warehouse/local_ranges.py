"""Rows of a Parquet file whose text is in a range, found by what the file says of its groups of rows.

A snapshot stands in the order of places, and a bucket is a range of them (ADR 0030): its rows follow on each other. To
name them by their numbers spares the engine the places of all rows, which take as long to read and compare as the
arithmetic of ten features.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

_MOST_CUT = 2
"""Groups that lie in a range with a part of their rows are read: the first and the last, where rows are in order."""


@dataclass(frozen=True, slots=True)
class TextRange:
    """A text column, and which of its texts: `first` and all that follow, up to `end`, which is not among them."""

    column: str
    first: str
    end: str


def rows_within(path: Path, wanted: TextRange, footer: pq.FileMetaData | None = None) -> tuple[int, int] | None:
    """Return the first row of a range and the one behind its last, counted from 0; (0, 0) where there is none.

    None: the rows do not follow on each other, or that cannot be seen without reading most of them.

    Args:
        path: The file.
        wanted: The range.
        footer: The file's own, where it was read already.

    Raises:
        OSError, pyarrow.ArrowInvalid: The file cannot be read.
    """
    with pq.ParquetFile(path, metadata=footer) as file:
        if wanted.column not in file.schema_arrow.names or file.schema_arrow.field(wanted.column).type != pa.string():
            return None
        groups = _groups(file.metadata, wanted)
        if groups is None or sum(is_cut for *_, is_cut in groups) > _MOST_CUT:
            return None
        found = (0, 0)
        for number, start, stop, is_cut in groups:
            part = _cut(file, number, wanted, start) if is_cut else (start, stop)
            if part is None:
                return None
            if part[0] == part[1]:
                continue
            if found[0] != found[1] and found[1] != part[0]:
                return None
            found = (found[0] if found[0] != found[1] else part[0], part[1])
    return found


def _groups(metadata: pq.FileMetaData, wanted: TextRange) -> list[tuple[int, int, int, bool]] | None:
    """Return the groups that may have rows of a range: number, first row, end, and whether only a part may be of it."""
    found, start, column = [], 0, None
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        if column is None:
            column = next(at for at in range(group.num_columns) if group.column(at).path_in_schema == wanted.column)
        statistics = group.column(column).statistics
        if statistics is None or not statistics.has_min_max:
            return None
        least, most = statistics.min, statistics.max
        if most >= wanted.first and least < wanted.end:
            has_others = least < wanted.first or most >= wanted.end
            is_cut = has_others or not statistics.has_null_count or statistics.null_count > 0
            found.append((number, start, start + group.num_rows, is_cut))
        start += group.num_rows
    return found


def _cut(file: pq.ParquetFile, number: int, wanted: TextRange, start: int) -> tuple[int, int] | None:
    """Return which rows of a group are of a range, if they follow on each other."""
    texts = file.read_row_group(number, columns=[wanted.column], use_threads=False).column(0)
    is_within = pc.and_(pc.greater_equal(texts, wanted.first), pc.less(texts, wanted.end))
    at = np.flatnonzero(pc.fill_null(is_within, fill_value=False).to_numpy())
    if not len(at):
        return start, start
    first, end = int(at[0]), int(at[-1]) + 1
    return (start + first, start + end) if end - first == len(at) else None
