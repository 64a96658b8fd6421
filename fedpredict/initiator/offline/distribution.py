"""How the predictions of a task are distributed: pure functions on arrays."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fedpredict.model.arrays import Floats, Statuses
from fedpredict.model.distribution import N_BINS, bins_around
from fedpredict.model.kinds import KINDS, Kind, Output
from fedpredict.model.offline import Bins
from fedpredict.model.share import SampleStatus

MAX_BINNED = 8
"""Of so many outputs the distribution of the predictions is recorded."""


def bins_for(kind: Kind, predictions: Floats) -> Bins:
    """Return bins for the outputs of a model: from 0 to 1 for probabilities, else around what was predicted first.

    Args:
        kind: The model's.
        predictions: Shape (n_samples, n_outputs); NaN where there is none.

    Returns:
        By output; none at all where nothing was predicted that bins could be around.

    >>> bins_for(Kind.BINARY, np.array([[0.5]])), bins_for(Kind.LINEAR, np.array([[np.nan]]))
    (((0.0, 0.03125),), ())
    """
    n_binned = min(int(predictions.shape[1]), MAX_BINNED)
    if KINDS[kind].output is Output.PROBABILITY:
        return ((0.0, 1.0 / N_BINS),) * n_binned
    known = predictions[np.isfinite(predictions).all(axis=1), :n_binned]
    if not len(known):
        return ()
    return tuple(bins_around(float(column.mean()), float(column.std())) for column in known.T)


def have_missed(histograms: Sequence[Sequence[int]]) -> bool:
    """Return whether most predictions of an output are beyond its bins, which tell little then.

    >>> have_missed([[0, 5, 1], [2, 1, 4]]), have_missed([[3, 4, 0], [0, 0, 0]]), have_missed([])
    (True, False, False)
    """
    return any(2 * sum(counts[1:-1]) < sum(counts) for counts in histograms)


def histograms_of(bins: Bins, predictions: Floats, status: Statuses) -> tuple[tuple[int, ...], ...]:
    """Return for each output with bins how many predictions are below, in each inner bin, and above.

    A prediction on the upper edge of the last inner bin is in it.

    >>> histograms_of(((0.0, 1 / 32),), np.array([[0.0], [1.0], [np.nan]]), np.array([1, 1, 2], np.uint8))[0][1::31]
    (1, 1)
    """
    known = predictions[status == SampleStatus.OK]
    counts = []
    for (first, width), column in zip(bins, known.T, strict=False):
        at = np.floor((column - first) / width)
        at[column == first + N_BINS * width] = N_BINS - 1
        places = np.clip(at + 1.0, 0.0, N_BINS + 1.0).astype(np.int64)
        counts.append(tuple(np.bincount(places, minlength=N_BINS + 2).tolist()))
    return tuple(counts)


def counts_of(status: Statuses) -> dict[SampleStatus, int]:
    """Return how many samples have each status.

    >>> counts_of(np.array([1, 1, 2], np.uint8)) == {SampleStatus.OK: 2, SampleStatus.NOT_FOUND: 1}
    True
    """
    counts = np.bincount(status, minlength=max(SampleStatus) + 1)
    return {each: int(counts[each]) for each in SampleStatus if counts[each]}
