"""Masked shares -> their sum, in the place of one party's share: what follows adds shares up as always. Pure."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fedpredict.initiator.masking import MaskedSum
from fedpredict.model.arrays import Floats, Statuses
from fedpredict.model.fixed_point import MaskedWords, sum_words
from fedpredict.model.populations import BucketAnswer
from fedpredict.model.scorer import PartyReply
from fedpredict.model.share import SampleStatus, Share, all_ok

_OK, _REFUSED = np.uint8(SampleStatus.OK), np.uint8(SampleStatus.REFUSED)


@dataclass(slots=True, eq=False)
class Unmasked:
    """The sum of masked shares.

    Attributes:
        party: Whose share it stands for; the others' are 0.
        share: Of the rows that were asked for. REFUSED where the masks did not cancel.
        misfits: The places of the models of which they did not.
    """

    party: str
    share: Share
    misfits: list[int]


def share_without_numbers(masked: MaskedWords, status: Statuses) -> Share:
    """Return what a masked share says by itself: 0 where the status is OK, so that it adds nothing, NaN elsewhere."""
    values = np.zeros(masked.words.shape)
    if not all_ok(status):
        values[status != _OK] = np.nan
    return Share(values, status)


def open_defaults(masked: MaskedSum | None, defaults: Mapping[str, Sequence[float]]) -> Mapping[str, Sequence[float]]:
    """Return the constants that may stand in: none does for a share that is in a masked sum, or should be.

    Args:
        masked: The sum that was asked for; None where no share is masked.
        defaults: By party.
    """
    if masked is None:
        return defaults
    return {party: each for party, each in defaults.items() if party not in masked.parties}


def unmasked(
    masked: MaskedSum, n_rows: Sequence[int], n_scores: int, replies: Mapping[str, PartyReply | BucketAnswer | None]
) -> Unmasked | None:
    """Return the sum of the masked shares of a round; None where some party has none, so that nothing can be read.

    Args:
        masked: Whose shares are masked, and how.
        n_rows: The rows of each model, in the order in which they were asked for.
        n_scores: The width of a share.
        replies: By party; None where it did not answer.
    """
    answered = [reply for party in masked.parties if (reply := replies[party]) is not None]
    shares = [reply.masked for reply in answered if reply.masked is not None]
    expected = (sum(n_rows), n_scores)
    if len(shares) != len(masked.parties) or any(each.words.shape != expected for each in shares):
        return None
    values = masked.fixed.decode(sum_words([each.words for each in shares]))
    status, misfits = answered[0].share.status, _misfits(answered, shares)
    if misfits:
        status = status.copy()
        ends = list(itertools.accumulate(n_rows, initial=0))
        for place in misfits:
            status[ends[place] : ends[place + 1]] = _REFUSED
    if misfits or not all(reply.share.all_ok for reply in answered):
        values = _only_whole(values, status, [reply.share.status for reply in answered])
    return Unmasked(masked.parties[0], Share(values, status), misfits)


def _misfits(replies: Sequence[PartyReply | BucketAnswer], shares: Sequence[MaskedWords]) -> list[int]:
    """Return the places of the models of which the masks do not cancel."""
    checks = sum_words([each.checks for each in shares])
    # a party that has no share of a model sends no mask of it either
    failed = {place for reply in replies if isinstance(reply, PartyReply) for place in reply.failures}
    return [place for place, check in enumerate(checks.tolist()) if check and place not in failed]


def _only_whole(values: Floats, status: Statuses, statuses: Sequence[Statuses]) -> Floats:
    """Return the sums of samples that every party scored, and else what `share_without_numbers` says."""
    whole = np.logical_and.reduce([each == _OK for each in statuses])
    only = np.where(whole[:, None], values, 0.0)
    only[status != _OK] = np.nan
    return only
