"""What is counted of stored shares while they are written: statuses, the distribution of scores, and a checksum."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
from typing_extensions import override

from fedpredict.model.arrays import Floats
from fedpredict.model.distribution import N_BINS, bins_around
from fedpredict.model.share import SampleStatus
from fedpredict.tables.share_rows import scores_matrix
from fedpredict.tables.shares import MAX_BINNED
from fedpredict.warehouse.base import Column, ColumnType, RowWatch

CHECK = Column("fp_check", ColumnType.BIGINT)
"""Each row's number for the checksum."""
ENOUGH = 100_000
"""Bins are chosen around so many scores, where there are none from the day before."""

Bins = tuple[tuple[float, float], ...]


class Tally(RowWatch):
    """Counts rows of shares, a batch at a time.

    Attributes:
        further: `CHECK`.
        bins: For each output whose distribution is recorded, where its inner bins begin and how wide each is.
    """

    def __init__(self, bins: Bins, n_scores: int, *, chooses: bool) -> None:
        """Count nothing yet.

        Args:
            bins: What is known; empty: none.
            n_scores: The width of a share.
            chooses: Whether bins are chosen where none are known.
        """
        self.further = CHECK
        self._given = bins
        self._n_scores = n_scores
        self._chooses = chooses and not bins
        self.begin()

    @override
    def begin(self) -> None:
        """Forget all rows: they come again."""
        self.bins = self._given
        self._checksum = 0
        self._statuses = np.zeros(256, dtype=np.int64)
        self._histograms = np.zeros((len(self.bins), N_BINS + 2), dtype=np.int64)
        self._waiting: list[Floats] = []

    @override
    def add(self, batch: pa.RecordBatch) -> None:
        """Count a batch with the columns status, scores and `CHECK`."""
        status = batch.column("status").to_numpy(zero_copy_only=False)
        self._statuses += np.bincount(status, minlength=256)
        self._checksum += int(batch.column(CHECK.name).to_numpy(zero_copy_only=False).sum())
        if not self.bins and not self._chooses:
            return
        scores = scores_matrix(pa.chunked_array([batch.column("scores").drop_null()]), self._n_scores)
        if self.bins:
            self._count(scores)
            return
        self._waiting.append(scores)
        if sum(map(len, self._waiting)) >= ENOUGH:
            self._choose()

    def counts(self) -> tuple[Mapping[SampleStatus, int], tuple[tuple[int, ...], ...], int]:
        """Return the ids by status, the scores by output and bin, and the checksum; after the last batch."""
        if self._waiting:
            self._choose()
        statuses = {status: int(n) for status in SampleStatus if (n := self._statuses[status])}
        return statuses, tuple(tuple(map(int, each)) for each in self._histograms), self._checksum

    def _choose(self) -> None:
        scores, self._waiting = np.concatenate(self._waiting)[:, :MAX_BINNED], []
        if len(scores):
            moments = zip(scores.mean(axis=0), scores.std(axis=0), strict=True)
            self.bins = tuple(bins_around(float(mean), float(deviation)) for mean, deviation in moments)
            self._histograms = np.zeros((len(self.bins), N_BINS + 2), dtype=np.int64)
            self._count(scores)

    def _count(self, scores: Floats) -> None:
        for output, (first, width) in enumerate(self.bins):
            # bin 0 is below the inner ones, the last above
            at = np.floor((scores[:, output] - first) / width)
            np.clip(at, -1, N_BINS, out=at)
            self._histograms[output] += np.bincount(at.astype(np.intp) + 1, minlength=N_BINS + 2)
