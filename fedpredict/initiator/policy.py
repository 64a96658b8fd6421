"""What becomes of samples that some party could not score: pure functions on shares and predictions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fedpredict.model.arrays import Bools, Floats, Statuses
from fedpredict.model.combine import Combined, combine
from fedpredict.model.head import Head
from fedpredict.model.links import Link
from fedpredict.model.prediction import Origin
from fedpredict.model.share import SampleStatus, Share

_MODEL = int(Origin.MODEL)
_NEVER_STANDS_IN = (SampleStatus.OK, SampleStatus.ID_INVALID)


@dataclass(slots=True, eq=False)
class Answer:
    """Predictions for one batch, and where they come from.

    Attributes:
        predictions: Shape (n_samples, n_outputs); NaN where the status is not OK.
        status: Shape (n_samples,), `SampleStatus` values.
        origin: Shape (n_samples,), `Origin` values; UNSPECIFIED where the status is not OK.
        all_ok: Whether every sample is OK.
        n_misfits: Samples whose shares contradicted each other.
        problem: What is wrong with the first of them, for the operator.
    """

    predictions: Floats
    status: Statuses
    origin: Statuses
    all_ok: bool = False
    n_misfits: int = 0
    problem: str = ""

    def cut(self, rows: slice) -> Answer:
        """Return the answer for some consecutive samples."""
        return Answer(self.predictions[rows], self.status[rows], self.origin[rows], self.all_ok)


def fail(link: Link, shares: Mapping[str, Share], head: Head | None = None) -> Answer:
    """Return predictions for the samples that every party scored; the others get the worst party's status, no number.

    Args:
        link: Of the pinned manifest.
        shares: By party, every party of the manifest; all of one shape.
        head: Of the pinned manifest; None where shares are added up.
    """
    combined = combine(link, shares, head)
    if combined.all_ok:
        origin = np.full(len(combined.status), _MODEL, dtype=np.uint8)
        return Answer(combined.predictions, combined.status, origin, all_ok=True)
    return _answer(combined, np.zeros(_n_samples(shares), dtype=np.bool_))


def default_partial(link: Link, shares: Mapping[str, Share], defaults: Mapping[str, Sequence[float]]) -> Answer:
    """Return predictions in which a stated constant stands in where a party has no score for a sample.

    A constant never stands in for an id that is no id, nor where no party at all scored the sample: an answer made of
    constants alone would say nothing about it. A party without a constant is not stood in for.

    Args:
        link: Of the pinned manifest.
        shares: By party, every party of the manifest; all of one shape.
        defaults: By party, n_scores numbers before the link.
    """
    someone_scored = np.any([share.status == SampleStatus.OK for share in shares.values()], axis=0)
    stood_in = np.zeros(_n_samples(shares), dtype=np.bool_)
    completed: dict[str, Share] = {}
    for party, share in shares.items():
        missing = someone_scored & ~np.isin(share.status, _NEVER_STANDS_IN) & (party in defaults)
        completed[party] = _with_constant(share, missing, defaults.get(party, ()))
        stood_in |= missing
    return _answer(combine(link, completed), stood_in)


def fallback_model(answer: Answer, fallback: Combined) -> Answer:
    """Return `answer` with the fallback model's predictions for samples that have none.

    An id that is no id keeps its status; so does a sample that the fallback model could not score either.

    Args:
        answer: Of the federated model.
        fallback: Of the fallback model, for the same samples, with the same outputs.
    """
    taken = (
        (answer.status != SampleStatus.OK)
        & (answer.status != SampleStatus.ID_INVALID)
        & (fallback.status == SampleStatus.OK)
    )
    return Answer(
        predictions=np.where(taken[:, None], fallback.predictions, answer.predictions),
        status=np.where(taken, np.uint8(SampleStatus.OK), answer.status),
        origin=np.where(taken, np.uint8(Origin.FALLBACK_MODEL), answer.origin),
    )


def absent_share(valid: Bools, n_scores: int, status: SampleStatus) -> Share:
    """Return the share of a party that has none: `status` for every valid id, ID_INVALID for the others.

    Args:
        valid: Shape (n_samples,): which sample ids are ids.
        n_scores: The width of a share.
        status: Why there is no share.
    """
    statuses = np.where(valid, np.uint8(status), np.uint8(SampleStatus.ID_INVALID))
    return Share(np.full((len(valid), n_scores), np.nan), statuses)


def spread_share(share: Share, valid: Bools) -> Share:
    """Return a share of the valid ids as one of all ids, ID_INVALID where nothing was asked.

    Args:
        share: Shape (n_valid, n_scores), in the order of the valid ids.
        valid: Shape (n_samples,).
    """
    if valid.all():
        return share
    values = np.full((len(valid), share.n_scores), np.nan)
    values[valid] = share.values
    status = np.full(len(valid), SampleStatus.ID_INVALID, dtype=np.uint8)
    status[valid] = share.status
    return Share(values, status)


def _with_constant(share: Share, missing: Bools, constant: Sequence[float]) -> Share:
    if not missing.any():
        return share
    values, status = share.values.copy(), share.status.copy()
    values[missing] = constant
    status[missing] = SampleStatus.OK
    return Share(values, status)


def _answer(combined: Combined, stood_in: Bools) -> Answer:
    origin = np.where(stood_in, np.uint8(Origin.DEFAULT_PARTIAL), np.uint8(Origin.MODEL))
    origin[combined.status != SampleStatus.OK] = Origin.UNSPECIFIED
    return Answer(combined.predictions, combined.status, origin, n_misfits=combined.n_misfits, problem=combined.problem)


def _n_samples(shares: Mapping[str, Share]) -> int:
    return next(iter(shares.values())).n_samples
