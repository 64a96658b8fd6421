"""Masked shares -> their sum, in the place of one party's share: what follows adds shares up as always. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fedpredict.initiator.batch import ModelRows
from fedpredict.initiator.masking import MaskedSum
from fedpredict.model.arrays import Floats, Statuses
from fedpredict.model.fixed_point import MaskedWords, sum_words
from fedpredict.model.scorer import PartyReply
from fedpredict.model.share import SampleStatus, Share, all_ok

_OK, _REFUSED = np.uint8(SampleStatus.OK), np.uint8(SampleStatus.REFUSED)


@dataclass(slots=True, eq=False)
class Unmasked:
    """The sum of masked shares.

    Attributes:
        party: Whose share it stands for; the others' are 0.
        share: Of the rows that were asked for. REFUSED where the masks did not cancel.
        misfits: The models of which they did not.
    """

    party: str
    share: Share
    misfits: list[ModelRows]


def share_without_numbers(masked: MaskedWords, status: Statuses) -> Share:
    """Return what a masked share says by itself: 0 where the status is OK, so that it adds nothing, NaN elsewhere."""
    values = np.zeros(masked.words.shape)
    if not all_ok(status):
        values[status != _OK] = np.nan
    return Share(values, status)


def unmasked(
    masked: MaskedSum, parts: Sequence[ModelRows], n_scores: int, replies: Mapping[str, PartyReply | None]
) -> Unmasked | None:
    """Return the sum of the masked shares of a round; None where some party has none, so that nothing can be read.

    Args:
        masked: Whose shares are masked, and how.
        parts: The models, in the order in which they were asked for.
        n_scores: The width of a share.
        replies: By party; None where it did not answer.
    """
    answered = [reply for party in masked.parties if (reply := replies[party]) is not None]
    shares = [reply.masked for reply in answered if reply.masked is not None]
    n_rows = sum(part.n_asked for part in parts)
    if len(shares) != len(masked.parties) or any(each.words.shape != (n_rows, n_scores) for each in shares):
        return None
    values = masked.fixed.decode(sum_words([each.words for each in shares]))
    status, misfits = answered[0].share.status, _misfits(parts, answered, shares)
    if misfits:
        status = status.copy()
        for _, rows in misfits:
            status[rows] = _REFUSED
    if misfits or not all(reply.share.all_ok for reply in answered):
        values = _only_whole(values, status, answered)
    return Unmasked(masked.parties[0], Share(values, status), [part for part, _ in misfits])


def _misfits(
    parts: Sequence[ModelRows], replies: Sequence[PartyReply], shares: Sequence[MaskedWords]
) -> list[tuple[ModelRows, slice]]:
    """Return the models, and their rows, of which the masks do not cancel."""
    checks, misfits, start = sum_words([each.checks for each in shares]), [], 0
    for place, part in enumerate(parts):
        rows = slice(start, start + part.n_asked)
        start = rows.stop
        # a party that has no share of a model sends no mask of it either
        if checks[place] and not any(place in reply.failures for reply in replies):
            misfits.append((part, rows))
    return misfits


def _only_whole(values: Floats, status: Statuses, replies: Sequence[PartyReply]) -> Floats:
    """Return the sums of samples that every party scored, and else what `share_without_numbers` says."""
    whole = np.logical_and.reduce([reply.share.status == _OK for reply in replies])
    only = np.where(whole[:, None], values, 0.0)
    only[status != _OK] = np.nan
    return only
