"""Which row counts for a sample: the latest by event time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fedpredict.model.arrays import Bools, Micros


@dataclass(frozen=True, slots=True, eq=False)
class LatestRows:
    """The rows of a snapshot, grouped by sample id.

    Attributes:
        sample_ids: The distinct ids.
        rows: Shape (n_ids,): the row with the id's latest event time.
        ambiguous: Shape (n_ids,): whether more than one row has that event time.
        repeats: Indices of rows whose (id, event time) an earlier row in event-time order has as well.
    """

    sample_ids: list[bytes]
    rows: NDArray[np.int64]
    ambiguous: Bools
    repeats: NDArray[np.int64]


def latest_rows(sample_ids: pa.ChunkedArray, event_time: Micros) -> LatestRows:
    """Return the latest row of every sample id.

    Args:
        sample_ids: Strings without NULL.
        event_time: Shape (n_rows,).
    """
    encoded = sample_ids.cast(pa.large_binary()).combine_chunks().dictionary_encode()
    codes = encoded.indices.to_numpy()
    order = np.lexsort((event_time, codes))
    same_id = codes[order][1:] == codes[order][:-1]
    repeated = np.concatenate(([False], same_id & (event_time[order][1:] == event_time[order][:-1])))[: len(order)]
    last = np.concatenate((~same_id, [True]))[: len(order)]
    # codes count up from 0, so that the last rows stand in the order of the dictionary
    return LatestRows(encoded.dictionary.to_pylist(), order[last], repeated[last], np.sort(order[repeated]))


def to_micros(event_time: pa.ChunkedArray) -> Micros:
    """Return timestamps without NULL as microseconds since 1970 UTC; shape (n_rows,)."""
    micros = event_time.cast(pa.timestamp("us", tz="UTC")).cast(pa.int64())
    return np.asarray(micros.to_numpy(), dtype=np.int64)
