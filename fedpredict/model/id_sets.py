"""Many sample ids as sets: which are among others, and their order in a population, found by their places."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fedpredict.model.arrays import Bools
from fedpredict.model.buckets import order_of_places, places_of
from fedpredict.model.sample_ids import SampleIds


def are_among(sample_ids: SampleIds, others: SampleIds) -> Bools:
    """Return which of `sample_ids` are among `others`; shape (n,).

    >>> are_among(SampleIds.of([b"u1", b"u2"]), SampleIds.of([b"u2", b"u3"])).tolist()
    [False, True]
    """
    found = np.zeros(len(sample_ids), dtype=np.bool_)
    if not len(others):
        return found
    places, unordered = places_of(sample_ids), places_of(others)
    order = order_of_places(unordered)
    there = unordered[order]
    first = np.searchsorted(there, places)
    n_there = np.searchsorted(there, places, side="right") - first
    alone = np.flatnonzero(n_there == 1)
    found[alone] = _are_equal(sample_ids, alone, others, order[first[alone]])
    several = np.flatnonzero(n_there > 1)
    if len(several):
        crowded = np.flatnonzero(np.isin(unordered, places[several]))
        known = {others[row] for row in crowded.tolist()}
        found[several] = [sample_ids[row] in known for row in several.tolist()]
    return found


def by_place(sample_ids: SampleIds) -> SampleIds:
    """Return ids in the order of a population: by their places, then by their bytes; none is left out.

    >>> list(by_place(SampleIds.of([b"u1", b"u2", b"u3", b"u1"])))
    [b'u2', b'u3', b'u1', b'u1']
    """
    places = places_of(sample_ids)
    order = order_of_places(places)
    ordered = places[order]
    ends = np.flatnonzero(np.append(ordered[1:] != ordered[:-1], True)) + 1 if len(order) else order
    starts = np.append(0, ends[:-1])
    for run in np.flatnonzero(ends - starts > 1).tolist():
        rows = order[starts[run] : ends[run]]
        order[starts[run] : ends[run]] = sorted(rows.tolist(), key=sample_ids.__getitem__)
    return sample_ids.take(order)


def _are_equal(ids: SampleIds, rows: NDArray[np.intp], others: SampleIds, at: NDArray[np.intp]) -> Bools:
    """Return whether ids, by their rows, are the others beside them, by theirs."""
    lengths = ids.lengths[rows]
    equal = np.asarray(lengths == others.lengths[at], dtype=np.bool_)
    same_length = np.flatnonzero(equal)
    mine, theirs = ids.take(rows[same_length]), others.take(at[same_length])
    differ = np.flatnonzero(np.frombuffer(mine.data, dtype=np.uint8) != np.frombuffer(theirs.data, dtype=np.uint8))
    equal[same_length[np.searchsorted(mine.offsets, differ, side="right") - 1]] = False
    return equal
