"""The aggregates of a script over numpy arrays, whose rows stand group by group."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedpredict.features.array_values import Array, Values
from fedpredict.model.arrays import Bools
from fedpredict.tables.script_types import WORD_DIGITS

_LEAST, _MOST = np.iinfo(np.int64).min, np.iinfo(np.int64).max
_FAR = 10**40
"""Beyond every number of 38 digits."""


@dataclass(slots=True, eq=False)
class Groups:
    """Where groups of rows begin; every group has a row.

    Attributes:
        starts: Shape (n_groups,): the first row of each.
        n_rows: Of all groups.
    """

    starts: NDArray[np.intp]
    n_rows: int

    def full(self, array: Array) -> Array:
        """Return an array with an element for each row."""
        return array if len(array) == self.n_rows else np.broadcast_to(array, (self.n_rows,))

    def count(self, met: Bools) -> Values:
        """Return how many rows of each group are met."""
        return _all_valid(np.add.reduceat(self.full(met).astype(np.int64), self.starts))

    def sum(self, values: Values, digits: int) -> Values:
        """Return the sum of what is not NULL; NULL where there is nothing.

        Args:
            values: Doubles, or whole numbers.
            digits: The most that a whole number has; 0 for doubles.
        """
        data, valid = self.full(values.data), self.full(values.valid)
        if digits and digits + len(str(self.n_rows)) > WORD_DIGITS:
            data = data.astype(object)
        return Values(np.add.reduceat(np.where(valid, data, 0), self.starts), self._any(valid))

    def extreme(self, values: Values, *, largest: bool) -> Values:
        """Return the largest or the smallest of what is not NULL; NULL where there is nothing."""
        data, valid = self.full(values.data), self.full(values.valid)
        reduce = np.maximum if largest else np.minimum
        if data.dtype == object:
            filler: float = -_FAR if largest else _FAR
        elif data.dtype.kind == "f":
            filler = -np.inf if largest else np.inf
        else:
            filler = _LEAST if largest else _MOST
        return Values(reduce.reduceat(np.where(valid, data, filler), self.starts), self._any(valid))

    def distinct(self, values: Values) -> Values:
        """Return how many different values there are that are not NULL."""
        data, valid = self.full(values.data), self.full(values.valid)
        counts = [len(set(data[span][valid[span]].tolist())) for span in self._spans()]
        return _all_valid(np.array(counts, dtype=np.int64))

    def last(self, time: Values, number: Values, values: Values, met: Bools) -> Values:
        """Return the value of the newest row that is met: by time, then by number, then by the value itself.

        Args:
            time: Not NULL where met.
            number: Never NULL.
            values: Not NULL where met.
            met: Which rows count.
        """
        met, times = self.full(met), self.full(time.data)
        numbers, data = self.full(number.data), self.full(values.data)
        newest = np.maximum.reduceat(np.where(met, times, _LEAST), self.starts)
        valid, rows = self._any(met), []
        for span, moment in zip(self._spans(), newest.tolist(), strict=True):
            at = np.flatnonzero(met[span] & (times[span] == moment)) + span.start
            if len(at) > 1:  # ties, which are few
                rows.append(max(at.tolist(), key=lambda row: (numbers[row], data[row])))
            else:
                rows.append(int(at[0]) if len(at) else span.start)
        return Values(data[np.array(rows, dtype=np.intp)], valid)

    def _any(self, met: Bools) -> Bools:
        return np.logical_or.reduceat(met, self.starts)

    def _spans(self) -> list[slice]:
        ends = [*self.starts[1:].tolist(), self.n_rows]
        return [slice(start, end) for start, end in zip(self.starts.tolist(), ends, strict=True)]


def _all_valid(data: Array) -> Values:
    return Values(data, np.ones(len(data), dtype=np.bool_))
