"""Rows of features -> a part's share of them, with what the look-up and the features' age say of each sample."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from fedpredict.features.base import FeatureRows
from fedpredict.model.arrays import Bools, Floats, Micros, Statuses, all_true, any_true
from fedpredict.model.ids import valid_sample_ids
from fedpredict.model.part import Part
from fedpredict.model.sample_ids import SampleIds
from fedpredict.model.share import SampleStatus, Share, all_ok_statuses, build_share
from fedpredict.scoring.inputs import NEVER
from fedpredict.scoring.state import LoadedModel
from fedpredict.scoring.texts import TextCodes

_FEW = 16
"""So many ids are taken out of a batch one by one faster than by passes over all."""
_OK = np.uint8(SampleStatus.OK)
_NOT_FOUND, _ID_INVALID = np.uint8(SampleStatus.NOT_FOUND), np.uint8(SampleStatus.ID_INVALID)


def share_of_rows(
    part: Part, rows: FeatureRows, sample_ids: Sequence[bytes], oldest: int | None = None
) -> tuple[Share, Micros]:
    """Return a part's share of samples, and the event time of each that is OK, `NEVER` of the others.

    Args:
        part: The parameters.
        rows: Of the samples, with the part's codes of texts.
        sample_ids: Theirs.
        oldest: The event time before which features are stale; None: never.
    """
    scores, status = part.scores_and_statuses(rows.values)
    status = with_stale(with_lookup(status, rows, sample_ids), rows, oldest)
    if status is None:
        return share_of_all(scores), rows.event_time
    # of what is not usable numbers come out as well, which the share does not keep
    return build_share(scores, status), np.where(status == _OK, rows.event_time, NEVER)


def coded_rows(model: LoadedModel, rows: FeatureRows) -> FeatureRows:
    """Return the rows with the part's codes of texts in place of the snapshot's."""
    texts = model.texts or TextCodes(model.part, model.columns)  # of no text feature: it says which column is text
    return replace(rows, values=texts.translated(rows))


def with_lookup(status: Statuses | None, rows: FeatureRows, sample_ids: Sequence[bytes]) -> Statuses | None:
    """Return the part's statuses with what the look-up says; None where all are OK, as mostly they are.

    What is found is a sample id: see `OnlineStore.lookup`.
    """
    if rows.is_clear or (all_true(rows.found) and not any_true(rows.ambiguous)):
        return status
    # from the weakest to the strongest, so that the strongest stays: model.share.PRECEDENCE
    if status is None:
        status = all_ok_statuses(len(sample_ids))
    status[rows.ambiguous] = SampleStatus.FEATURE_INVALID
    absent = ~rows.found
    status[absent] = _statuses_of_absent(sample_ids, absent)
    return status


def with_stale(status: Statuses | None, rows: FeatureRows, oldest: int | None) -> Statuses | None:
    """Return the statuses with STALE where all is well but the features' age."""
    if oldest is None or not any_true(stale := rows.event_time < oldest):
        return status
    if status is None:
        status = all_ok_statuses(len(stale))
    status[stale & (status == _OK)] = SampleStatus.STALE
    return status


def share_of_all(scores: Floats) -> Share:
    """Return the share of scores of which each belongs to a usable sample; OUT_OF_RANGE where one overflowed."""
    status = all_ok_statuses(len(scores))
    try:
        return Share(scores, status)  # it looks for itself whether all are finite: asking first would be twice
    except ValueError:
        return build_share(scores, status)


def _statuses_of_absent(sample_ids: Sequence[bytes], absent: Bools) -> Statuses:
    at = np.flatnonzero(absent)
    few = len(at) <= _FEW
    ids = [sample_ids[index] for index in at.tolist()] if few else SampleIds.of(sample_ids).select(absent)
    return np.where(valid_sample_ids(ids), _NOT_FOUND, _ID_INVALID)
