"""The order of a snapshot's rows: by the places of their ids, so that a bucket's rows stand together in a file."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fedpredict.model.buckets import PLACE_DIGITS, Hashes, place_texts, places_of
from fedpredict.tables.names import PLACE


def in_places(rows: pa.Table) -> tuple[pa.Table, int]:
    """Return rows in the order of their ids' places, with a column of the places, and the number of distinct ids.

    Args:
        rows: With a column `sample_id`; rows without an id come last, have no place, and count as none.
    """
    ids: list[bytes | None] = rows.column("sample_id").cast(pa.large_binary()).to_pylist()
    is_id = np.array([each is not None for each in ids], dtype=np.bool_)
    at = np.flatnonzero(is_id)
    places = places_of([each for each in ids if each is not None])
    order = np.argsort(places, kind="stable")
    places, at = places[order], at[order]
    n_ids = _distinct(places, [ids[row] for row in at.tolist()])
    placed = rows.drop_columns([PLACE]) if PLACE in rows.column_names else rows
    taken = placed.take(pa.array(np.concatenate([at, np.flatnonzero(~is_id)])))
    return taken.append_column(PLACE, _as_texts(places, len(ids))), n_ids


def _distinct(places: Hashes, ids: Sequence[bytes | None]) -> int:
    """Return how many ids there are; `places` rise, and the same id has the same place."""
    if not len(places):
        return 0
    starts: NDArray[np.intp] = np.flatnonzero(np.concatenate([[True], places[1:] != places[:-1]]))
    ends = np.append(starts[1:], len(places))
    several = np.flatnonzero(ends - starts > 1)
    more = sum(len(set(ids[starts[run] : ends[run]])) - 1 for run in several.tolist())
    return len(starts) + more


def _as_texts(places: Hashes, n_rows: int) -> pa.Array:
    """Return the places as text, and NULL for the rows behind them."""
    offsets = np.arange(len(places) + 1, dtype=np.int32) * PLACE_DIGITS
    texts = pa.StringArray.from_buffers(
        len(places), pa.py_buffer(offsets), pa.py_buffer(np.ascontiguousarray(place_texts(places)))
    )
    return pa.concat_arrays([texts, pa.nulls(n_rows - len(places), pa.string())])
