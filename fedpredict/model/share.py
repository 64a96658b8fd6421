"""A party's answer for a batch of samples, and the status that every sample carries."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum, StrEnum

import numpy as np

from fedpredict.model.arrays import Floats, Statuses, all_finite, all_true, any_true


class Mode(StrEnum):
    """How fresh the features behind a prediction are."""

    REALTIME = "realtime"
    NEARLINE = "nearline"
    OFFLINE = "offline"


class SampleStatus(IntEnum):
    """What became of one sample. Zero is no status at all, so that a buffer never filled is never OK."""

    UNSPECIFIED = 0
    OK = 1
    NOT_FOUND = 2
    FEATURE_MISSING = 3
    FEATURE_INVALID = 4
    STALE = 5
    ID_INVALID = 6
    OUT_OF_RANGE = 7
    PARTY_UNAVAILABLE = 8
    REFUSED = 9


_OK = np.uint8(SampleStatus.OK)  # comparing with the enum itself converts it each time
_OUT_OF_RANGE = np.uint8(SampleStatus.OUT_OF_RANGE)
_OK_BYTE = bytes((SampleStatus.OK,))

PRECEDENCE: tuple[SampleStatus, ...] = (
    SampleStatus.UNSPECIFIED,
    SampleStatus.ID_INVALID,
    SampleStatus.REFUSED,
    SampleStatus.PARTY_UNAVAILABLE,
    SampleStatus.NOT_FOUND,
    SampleStatus.FEATURE_INVALID,
    SampleStatus.FEATURE_MISSING,
    SampleStatus.STALE,
    SampleStatus.OUT_OF_RANGE,
    SampleStatus.OK,
)
"""Where parties disagree about a sample, the first of these is the sample's status."""

"""Members of an enumeration are slow to look up and to compare with, and every share of every request does both."""


@dataclass(slots=True, eq=False)
class Share:
    """One party's share for one batch; never changed once it is made.

    Not declared frozen, like everything else that is made for each request: setting a frozen field costs eight times as
    much, and that of all of them together a tenth of a request.

    Attributes:
        values: Shape (n_samples, n_scores), before the link, in the order asked. NaN where the status is not OK.
        status: Shape (n_samples,), `SampleStatus` values.
        all_ok: Whether every sample is OK.
    """

    values: Floats
    status: Statuses
    all_ok: bool = field(init=False)

    def __post_init__(self) -> None:
        if self.values.ndim != 2 or self.status.shape != self.values.shape[:1]:
            raise ValueError(f"a share of shape {self.values.shape} with {self.status.shape} statuses")
        self.all_ok = all_ok(self.status)
        if not (all_finite(self.values) if self.all_ok else self._has_numbers_where_ok()):
            raise ValueError("a share must be finite where its status is OK, and NaN everywhere else")

    def _has_numbers_where_ok(self) -> bool:
        scored = self.status == _OK
        return all_finite(self.values[scored]) and all_true(np.isnan(self.values[~scored]))

    @property
    def n_samples(self) -> int:
        """The number of samples."""
        return int(self.values.shape[0])

    @property
    def n_scores(self) -> int:
        """The width of the share: numbers per sample."""
        return int(self.values.shape[1])

    def cut(self, rows: slice) -> Share:
        """Return the share of some consecutive samples."""
        return Share(self.values[rows], self.status[rows])


def all_ok(status: Statuses) -> bool:
    """Return whether every sample is OK.

    >>> all_ok(np.array([1, 1], np.uint8)), all_ok(np.array([1, 2], np.uint8))
    (True, False)
    """
    return status.tobytes().count(_OK_BYTE) == status.size


def all_ok_statuses(n_samples: int) -> Statuses:
    """Return OK for so many samples.

    >>> all_ok(all_ok_statuses(3))
    True
    """
    return np.frombuffer(_OK_BYTE * n_samples, dtype=np.uint8).copy()


def build_share(values: Floats, status: Statuses) -> Share:
    """Return a share from raw scores: NaN where not OK, OUT_OF_RANGE where a score overflowed.

    Args:
        values: Shape (n_samples, n_scores); copied.
        status: Shape (n_samples,); copied.
    """
    values = np.array(values, dtype=np.float64)
    status = np.array(status, dtype=np.uint8)
    if not (all_ok(status) and all_finite(values)):
        usable = status == _OK
        overflow = usable & ~np.isfinite(values).all(axis=1)
        if any_true(overflow):
            status[overflow] = _OUT_OF_RANGE
            usable &= ~overflow
        values[~usable] = np.nan
    return Share(values, status)
