"""How the shares of all parties become a prediction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fedpredict.model.arrays import Floats, Statuses
from fedpredict.model.kinds import KINDS, Kind
from fedpredict.model.share import PRECEDENCE, SampleStatus, Share

_RANK = np.full(max(SampleStatus) + 1, 0, dtype=np.uint8)
for _rank, _status in enumerate(PRECEDENCE):
    _RANK[_status] = _rank


@dataclass(frozen=True, slots=True, eq=False)
class Combined:
    """Predictions for one batch.

    Attributes:
        raw: Shape (n_samples, n_scores), the sum of the shares; NaN where not OK.
        predictions: Shape (n_samples, n_outputs), after the inverse link; NaN where not OK.
        status: Shape (n_samples,): per sample the parties' worst status, by `PRECEDENCE`.
    """

    raw: Floats
    predictions: Floats
    status: Statuses


def combine_status(statuses: Sequence[Statuses]) -> Statuses:
    """Return per sample the first status by `PRECEDENCE` among the parties'; shape (n_samples,).

    Args:
        statuses: One array of shape (n_samples,) per party; at least one.
    """
    ranks = np.min([_RANK[status] for status in statuses], axis=0)
    return np.asarray(np.array(PRECEDENCE, dtype=np.uint8)[ranks], dtype=np.uint8)


def combine(kind: Kind, shares: Mapping[str, Share]) -> Combined:
    """Return the prediction from every party's share of the same samples.

    Shares are added in the order of the sorted party ids, so the result is the same bits in whatever order they came.

    Args:
        kind: Looked up by model id in the pinned manifest.
        shares: By party id; all of the same shape.

    Raises:
        ValueError: No share, or shares of different shapes.
    """
    if not shares:
        raise ValueError("no share to combine")
    ordered = [shares[party] for party in sorted(shares)]
    shapes = {share.values.shape for share in ordered}
    if len(shapes) > 1:
        raise ValueError(f"shares of different shapes: {sorted(shapes)}")
    total = np.zeros_like(ordered[0].values)
    # a sum that overflows is no accident here: `finish` says OUT_OF_RANGE
    with np.errstate(over="ignore", invalid="ignore"):
        for share in ordered:
            total = total + share.values
    return finish(kind, total, combine_status([share.status for share in ordered]))


def finish(kind: Kind, raw: Floats, status: Statuses) -> Combined:
    """Return the prediction for summed raw scores: the inverse link where OK, NaN elsewhere.

    A sum that overflows gets OUT_OF_RANGE, as a share that overflows does.
    """
    status = np.array(status, dtype=np.uint8)
    status[(status == SampleStatus.OK) & ~np.isfinite(raw).all(axis=1)] = SampleStatus.OUT_OF_RANGE
    scored = status == SampleStatus.OK
    raw = np.where(scored[:, None], raw, np.nan)
    predictions = np.full_like(raw, np.nan)
    if scored.any():
        predictions[scored] = KINDS[kind].inverse_link(raw[scored])
    return Combined(raw, predictions, status)
