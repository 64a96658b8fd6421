"""Features that have no category but those of training, where the trainer refuses any other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fedpredict.model.arrays import Bools, Floats, any_true

if TYPE_CHECKING:
    from fedpredict.model.trees import Trees

Closed: TypeAlias = Mapping[str, NDArray[np.int32] | None]
"""Feature -> the only categories that it may have: of a number the codes, sorted; of a text None, as it may have those
that the part lists."""


class ClosedColumns:
    """Tells samples with a category that training did not know; calls may come from any thread."""

    def __init__(
        self, features: Sequence[str], categories: Mapping[str, Sequence[str]], closed: Closed, trees: Trees
    ) -> None:
        """Look the features up.

        Args:
            features: In the order of the columns.
            categories: Those of the text features.
            closed: Some of the features.
            trees: Say which numbers are the code of a category.

        Raises:
            ValueError: A feature that there is not, a number without codes or a text with some, or codes that are not
                sorted, repeat or are negative.
        """
        odd = sorted(closed.keys() - set(features))
        if odd:
            raise ValueError(f"closed names {odd[0]!a}, which is no feature")
        self._texts = np.array([features.index(name) for name in closed if name in categories], dtype=np.intp)
        self._numbers: list[tuple[int, Floats]] = []
        self._trees = trees
        for name, codes in closed.items():
            if (codes is None) != (name in categories):
                raise ValueError(f"closed has codes of {name!a}, a text, or none of it, a number")
            if codes is not None:
                if codes.ndim != 1 or (np.diff(codes.astype(np.int64), prepend=-1) <= 0).any():
                    raise ValueError(f"the codes in closed of {name!a} are not sorted, repeat, or are negative")
                # the infinity at the end is no code, and what is above all codes finds it
                self._numbers.append((features.index(name), np.append(codes.astype(np.float64), np.inf)))

    def outside(self, features: Floats) -> Bools | None:
        """Return which samples have a category that training did not know; None where none has. A missing one is none.

        Args:
            features: Shape (n_samples, n_features).
        """
        found = np.zeros(len(features), dtype=np.bool_)
        if len(self._texts):
            found |= (features.take(self._texts, axis=1) < 0.0).any(axis=1)
        for place, known in self._numbers:
            codes = self._trees.codes_of(features[:, place])
            is_known = known.take(np.searchsorted(known, codes), mode="clip") == codes
            found |= ~is_known & ~np.isnan(codes)
        return found if any_true(found) else None
