"""Reason codes: what a party tells of the largest losses of points behind its shares."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedpredict.model.arrays import Bools, Floats, Statuses
from fedpredict.model.part import Part
from fedpredict.model.scorecard import ScorecardPart
from fedpredict.model.share import SampleStatus

NO_MORE = 2**16 - 1
"""In `Reasons.which`: the sample has no more codes."""

Places = NDArray[np.uint16]


@dataclass(frozen=True, slots=True, eq=False)
class Reasons:
    """Codes of one party, for some samples.

    Attributes:
        codes: Those that occur, each once.
        which: Shape (n_samples, width): places in `codes`, the largest loss first; `NO_MORE` behind the last.
    """

    codes: tuple[str, ...]
    which: Places

    def cut(self, rows: slice) -> Reasons:
        """Return the reasons of some consecutive samples, with no codes but theirs."""
        return _with_own_codes(self.codes, self.which[rows])

    def only(self, kept: Bools) -> Reasons:
        """Return the same samples with the reasons of some alone."""
        return _with_own_codes(self.codes, np.where(kept[:, None], self.which, np.uint16(NO_MORE)))

    def spread(self, valid: Bools) -> Reasons:
        """Return the reasons of those samples that are `valid` as reasons of all."""
        which = np.full((len(valid), self.which.shape[1]), NO_MORE, dtype=np.uint16)
        which[valid] = self.which
        return Reasons(self.codes, which)

    def texts(self) -> list[tuple[str, ...]]:
        """Return each sample's codes."""
        return [tuple([self.codes[each] for each in row if each != NO_MORE]) for row in self.which.tolist()]


def reasons_of(part: Part, features: Floats, status: Statuses | None) -> Reasons | None:
    """Return what a part tells of the samples that it scored; None where it tells nothing.

    Args:
        part: Only scorecards whose options say so tell reasons.
        features: Shape (n_samples, n_features).
        status: Shape (n_samples,); None where all are OK.
    """
    if not isinstance(part, ScorecardPart) or not part.n_reasons:
        return None
    positions, _ = part.losses(features, part.n_reasons)
    which = np.where(positions < 0, NO_MORE, positions).astype(np.uint16)
    reasons = _with_own_codes([part.reason_of(at) for at in range(len(part.scored))], which)
    return reasons if status is None else reasons.only(status == SampleStatus.OK)


def joined(reasons: Sequence[Reasons | None], sizes: Sequence[int]) -> Reasons | None:
    """Return the reasons of runs of samples as those of all; None where no run has any.

    Args:
        reasons: In the order of the runs.
        sizes: The samples of each.
    """
    known = [each for each in reasons if each is not None]
    if not known:
        return None
    codes = list(dict.fromkeys(code for each in known for code in each.codes))
    which = np.full((sum(sizes), max(each.which.shape[1] for each in known)), NO_MORE, dtype=np.uint16)
    start = 0
    for each, size in zip(reasons, sizes, strict=True):
        if each is not None:
            places = np.array([*(codes.index(code) for code in each.codes), NO_MORE], dtype=np.uint16)
            own = np.where(each.which == NO_MORE, len(each.codes), each.which)
            which[start : start + size, : own.shape[1]] = places[own]
        start += size
    return Reasons(tuple(codes), which)


def _with_own_codes(codes: Sequence[str], which: Places) -> Reasons:
    """Return reasons without codes that do not occur, nor any twice: what is not told must not be known."""
    known = dict.fromkeys(codes[at] for at in np.unique(which).tolist() if at != NO_MORE)
    places = {code: place for place, code in enumerate(known)}
    table = np.array([*(places.get(code, NO_MORE) for code in codes), NO_MORE], dtype=np.uint16)
    return Reasons(tuple(known), table[np.where(which == NO_MORE, len(codes), which)])
