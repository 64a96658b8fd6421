"""The order of a snapshot's rows: by the places of their ids, so that a bucket's rows stand together in a file."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fedpredict.model.buckets import PLACE_DIGITS, Hashes, order_of_places, place_texts, places_of
from fedpredict.model.sample_ids import SampleIds
from fedpredict.tables.names import PLACE
from fedpredict.wire.arrow_ids import whole_ids


def in_places(rows: pa.Table) -> tuple[pa.Table, int]:
    """Return rows in the order of their ids' places, with a column of the places, and the number of distinct ids.

    Args:
        rows: With a column `sample_id`; rows without an id come last, have no place, and count as none.
    """
    column = rows.column("sample_id")
    is_id = column.is_valid().to_numpy()
    at = np.flatnonzero(is_id)
    ids = whole_ids(column.drop_null())
    places = places_of(ids)
    order = order_of_places(places)
    places, at = places[order], at[order]
    n_ids = _distinct(places, order, ids)
    placed = rows.drop_columns([PLACE]) if PLACE in rows.column_names else rows
    taken = placed.take(pa.array(np.concatenate([at, np.flatnonzero(~is_id)])))
    return taken.append_column(PLACE, _as_texts(places, len(is_id))), n_ids


def _distinct(places: Hashes, order: NDArray[np.intp], ids: SampleIds) -> int:
    """Return how many ids there are; `places` rise, are those of `ids` in `order`, and the same id has the same."""
    again = places[1:] == places[:-1]
    tied = order[np.append(again, False) | np.append(False, again)] if len(order) else order
    return len(order) - len(tied) + len({ids[row] for row in tied.tolist()})


def _as_texts(places: Hashes, n_rows: int) -> pa.Array:
    """Return the places as text, and NULL for the rows behind them."""
    offsets = np.arange(len(places) + 1, dtype=np.int32) * PLACE_DIGITS
    texts = pa.StringArray.from_buffers(
        len(places), pa.py_buffer(offsets), pa.py_buffer(np.ascontiguousarray(place_texts(places)))
    )
    return pa.concat_arrays([texts, pa.nulls(n_rows - len(places), pa.string())])
