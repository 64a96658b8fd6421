"""Which row counts for a sample: the latest by event time."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fedpredict.features.hashing import Hashes, IdHash, same_ids
from fedpredict.model.arrays import Bools, Micros, all_true, any_true
from fedpredict.model.sample_ids import SampleIds

_BLOCK = 65_536
"""So many ids are hashed at a time, to bound the memory."""


@dataclass(frozen=True, slots=True, eq=False)
class LatestRows:
    """The rows of a snapshot, one per sample id, in the order of the ids' hashes.

    Attributes:
        seed: Of the hash; no two different ids of the snapshot have the same.
        hashes: Shape (n_ids,), rising.
        rows: Shape (n_ids,): the row with the id's latest event time.
        ambiguous: Shape (n_ids,): whether more than one row has that event time.
        repeats: Indices of rows whose (id, event time) an earlier row in event-time order has as well.
    """

    seed: int
    hashes: Hashes
    rows: NDArray[np.int64]
    ambiguous: Bools
    repeats: NDArray[np.int64]


def seeds() -> Iterator[int]:
    """Return seeds that nobody can foretell, without end."""
    while True:
        yield secrets.randbits(64)


def latest_rows(sample_ids: SampleIds, event_time: Micros, seeds: Iterable[int]) -> LatestRows:
    """Return the latest row of every sample id.

    Args:
        sample_ids: One per row.
        event_time: Shape (n_rows,).
        seeds: The first is taken with which no two different ids have the same hash; enough of them.
    """
    for seed in seeds:
        found = _with_hashes(seed, _hash_all(sample_ids, IdHash(seed)), sample_ids, event_time)
        if found is not None:
            return found
    raise ValueError("no seed tells all sample ids apart")


def _with_hashes(seed: int, hashes: Hashes, sample_ids: SampleIds, event_time: Micros) -> LatestRows | None:
    order: NDArray[np.int64] = np.argsort(hashes)
    ordered = hashes[order]
    same = ordered[1:] == ordered[:-1]
    if not any_true(same):
        return LatestRows(seed, ordered, order, np.zeros(len(order), dtype=np.bool_), np.zeros(0, dtype=np.int64))
    order = np.lexsort((event_time, hashes))
    pairs = np.flatnonzero(same)
    if not all_true(same_ids(sample_ids, order[pairs], order[pairs + 1])):
        return None
    repeated = np.concatenate(([False], same & (event_time[order][1:] == event_time[order][:-1])))
    last = np.concatenate((~same, [True]))
    return LatestRows(seed, ordered[last], order[last], repeated[last], np.sort(order[repeated]))


def _hash_all(sample_ids: SampleIds, hashing: IdHash) -> Hashes:
    hashes = np.empty(len(sample_ids), dtype=np.uint64)
    for begin in range(0, len(hashes), _BLOCK):
        some = sample_ids.cut(begin, min(begin + _BLOCK, len(hashes)))
        hashes[begin : begin + _BLOCK] = hashing.many(some).hashes
    return hashes


def to_packed(sample_ids: pa.ChunkedArray) -> SampleIds:
    """Return strings without NULL as packed ids."""
    ids = sample_ids.cast(pa.large_binary()).combine_chunks()
    _, offsets, data = ids.buffers()
    if not len(ids):
        return SampleIds.of(())
    ends = np.frombuffer(offsets, dtype=np.int64)[ids.offset : ids.offset + len(ids) + 1]
    if data is None:
        return SampleIds(b"", ends.copy())
    return SampleIds(data[int(ends[0]) : int(ends[-1])].to_pybytes(), ends - ends[0])


def to_micros(event_time: pa.ChunkedArray) -> Micros:
    """Return timestamps without NULL as microseconds since 1970 UTC; shape (n_rows,)."""
    micros = event_time.cast(pa.timestamp("us", tz="UTC")).cast(pa.int64())
    return np.asarray(micros.to_numpy(), dtype=np.int64)
