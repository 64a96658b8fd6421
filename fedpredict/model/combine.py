"""How the shares of all parties become a prediction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fedpredict.model.arrays import Floats, Statuses, all_finite
from fedpredict.model.head import Head
from fedpredict.model.links import Link
from fedpredict.model.share import PRECEDENCE, SampleStatus, Share, all_ok

_RANK = np.full(max(SampleStatus) + 1, 0, dtype=np.uint8)
for _rank, _status in enumerate(PRECEDENCE):
    _RANK[_status] = _rank
_BY_RANK = np.array(PRECEDENCE, dtype=np.uint8)


@dataclass(slots=True, eq=False)
class Combined:
    """Predictions for one batch.

    Attributes:
        raw: Shape (n_samples, n_scores), the sum of the shares; NaN where not OK.
        predictions: Shape (n_samples, n_outputs), after the inverse link; NaN where not OK.
        status: Shape (n_samples,): per sample the parties' worst status, by `PRECEDENCE`.
        all_ok: Whether every sample is OK.
        n_misfits: Samples whose shares contradicted each other.
        problem: What is wrong with the first of them, for the operator.
    """

    raw: Floats
    predictions: Floats
    status: Statuses
    all_ok: bool
    n_misfits: int = 0
    problem: str = ""


def combine_status(statuses: Sequence[Statuses]) -> Statuses:
    """Return per sample the first status by `PRECEDENCE` among the parties'; shape (n_samples,).

    Args:
        statuses: One array of shape (n_samples,) per party; at least one.
    """
    ranks = np.min([_RANK[status] for status in statuses], axis=0)
    return np.asarray(_BY_RANK[ranks], dtype=np.uint8)


def combine(link: Link, shares: Mapping[str, Share], head: Head | None = None) -> Combined:
    """Return the prediction from every party's share of the same samples.

    Shares are added in the order of the sorted party ids, so the result is the same bits in whatever order they came.
    A head takes them in that order too. Where it finds that they contradict each other, the sample is REFUSED.

    Args:
        link: Looked up by model id in the pinned manifest.
        shares: By party id; all of the same shape.
        head: What makes raw scores of the shares; None where they are added up.

    Raises:
        ValueError: No share, shares of different shapes, or of another width than the head takes.
    """
    if not shares:
        raise ValueError("no share to combine")
    ordered = [shares[party] for party in sorted(shares)]
    first = ordered[0]
    if any(share.values.shape != first.values.shape for share in ordered):
        raise ValueError(f"shares of different shapes: {sorted({share.values.shape for share in ordered})}")
    if head is not None:
        return _combine_with(head, link, {party: shares[party] for party in sorted(shares)})
    total = _sum([share.values for share in ordered])
    if all(share.all_ok for share in ordered) and all_finite(total):
        return _finish_all(link, total, first.status)
    return finish(link, total, combine_status([share.status for share in ordered]))


def _combine_with(head: Head, link: Link, shares: Mapping[str, Share]) -> Combined:
    """Return the prediction by a head, of the samples that every party scored."""
    status = combine_status([share.status for share in shares.values()])
    scored = status == SampleStatus.OK
    raw = np.full((len(status), head.combination.n_outputs), np.nan)
    widths = {share.n_scores for share in shares.values()}
    if widths != {head.n_scores}:
        raise ValueError(f"shares of width {sorted(widths)} for a head that takes {head.n_scores}")
    n_misfits, problem = 0, ""
    if scored.any():
        scores = head.raw_scores({party: share.values[scored] for party, share in shares.items()})
        raw[scored], problem = scores.raw, scores.problem
        if scores.misfit is not None:
            n_misfits = int(scores.misfit.sum())
            status[np.flatnonzero(scored)[scores.misfit]] = SampleStatus.REFUSED
    combined = finish(link, raw, status)
    combined.n_misfits, combined.problem = n_misfits, problem
    return combined


def _sum(values: Sequence[Floats]) -> Floats:
    """Return the sum in the order given; one that overflows is no accident: `finish` says OUT_OF_RANGE."""
    first = values[0]
    if first.size == 1:  # the lone sample of a lone request: the same additions without numpy's cost per call
        lone = 0.0
        for each in values:
            lone += each.item()
        return np.array([[lone]])
    with np.errstate(over="ignore", invalid="ignore"):
        total = first + 0.0  # a copy, in which -0.0 is 0.0 as in every sum
        for each in values[1:]:
            total += each
    return total


def finish(link: Link, raw: Floats, status: Statuses) -> Combined:
    """Return the prediction for summed raw scores: the inverse link where OK, NaN elsewhere.

    A sum that overflows gets OUT_OF_RANGE, as a share that overflows does; so does a sample of which the inverse link
    makes no finite number (the inverse of zero, an exponential beyond float64).

    Args:
        link: The model's.
        raw: Shape (n_samples, n_scores); not copied where all of it is finite and OK.
        status: Shape (n_samples,); copied.
    """
    status = np.array(status, dtype=np.uint8)
    return (_finish_all if all_ok(status) and all_finite(raw) else _finish_some)(link, raw, status)


def _finish_all(link: Link, raw: Floats, status: Statuses) -> Combined:
    """Return predictions where every sample has a raw score."""
    predictions = link.inverse_link(raw)
    if not (link.is_total or all_finite(predictions)):
        return _finish_some(link, raw, np.array(status, dtype=np.uint8))
    return Combined(raw, predictions.copy() if predictions is raw else predictions, status, all_ok=True)


def _finish_some(link: Link, raw: Floats, status: Statuses) -> Combined:
    """Return predictions where some sample has no number; `status` is changed."""
    _out_of_range_unless_finite(raw, status)
    scored = status == SampleStatus.OK
    predictions = np.full((len(raw), link.n_outputs(raw.shape[1])), np.nan)
    if scored.any():
        predictions[scored] = link.inverse_link(raw[scored])
        _out_of_range_unless_finite(predictions, status)
        scored = status == SampleStatus.OK
    return Combined(
        np.where(scored[:, None], raw, np.nan), np.where(scored[:, None], predictions, np.nan), status, all_ok=False
    )


def _out_of_range_unless_finite(numbers: Floats, status: Statuses) -> None:
    status[(status == SampleStatus.OK) & ~np.isfinite(numbers).all(axis=1)] = SampleStatus.OUT_OF_RANGE
