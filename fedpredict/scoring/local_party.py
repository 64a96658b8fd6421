"""A party's share, computed in this process: models + features + mode -> `Share`."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Sequence

import numpy as np
from typing_extensions import override

from fedpredict.errors import ModelNotReadyError, PartyTimeoutError, UnsupportedModeError
from fedpredict.features.base import FeatureRows, OnlineStore
from fedpredict.model.arrays import Bools, Floats, Micros, Statuses, all_finite, all_true, any_true
from fedpredict.model.ids import valid_sample_ids
from fedpredict.model.manifest import PartDescription
from fedpredict.model.sample_ids import SampleIds
from fedpredict.model.scorer import NO_EVENT_TIME, PartyReply, PartyScorer, ScoreQuery
from fedpredict.model.share import Mode, SampleStatus, Share, all_ok_statuses, build_share
from fedpredict.scoring.inputs import NEVER, rows_of_inputs
from fedpredict.scoring.state import LoadedModel, PartyState

_FEW = 16
"""So many ids are taken out of a batch one by one faster than by passes over all."""
_OK = np.uint8(SampleStatus.OK)
_NOT_FOUND, _ID_INVALID = np.uint8(SampleStatus.NOT_FOUND), np.uint8(SampleStatus.ID_INVALID)
_NEARLINE = Mode.NEARLINE  # members of an enumeration are slow to look up
INLINE_SAMPLES = 4_000
"""Larger batches are computed in a thread, so that the event loop answers others meanwhile; so many take about 1 ms."""


class LocalParty(PartyScorer):
    """The part that this process holds, behind the interface of every party."""

    def __init__(self, party: str, state: Callable[[], PartyState], store: OnlineStore) -> None:
        """Serve what `state` returns at the moment of a call, with the features of `store`.

        Args:
            party: This party's id.
            state: Such as `lambda: loader.state`.
            store: Holds a snapshot of every view version that the state's models read.
        """
        self._party = party
        self._state = state
        self._store = store

    @property
    @override
    def party(self) -> str:
        """This party's id."""
        return self._party

    @override
    async def describe(self, model_id: str, *, deadline_s: float) -> PartDescription:
        """Return the description of the newest loaded version; takes no time.

        Raises:
            ModelNotFoundError: The warehouse has no such model.
            ModelNotReadyError: It has, but no version could be loaded.
        """
        return self._state().newest(model_id).description

    @override
    async def score(self, query: ScoreQuery, *, deadline_s: float) -> PartyReply:
        """Return this party's share.

        Raises:
            UnsupportedModeError: Any mode but nearline.
            ModelNotFoundError: The warehouse has no such model.
            ManifestMismatchError: The digest asked for is not loaded.
            ModelNotReadyError: Nothing is loaded for the model, or no snapshot of its features.
            InputsRefusedError: The query's inputs are not features of the model's view.
            PartyTimeoutError: `deadline_s` passed; what was begun is dropped.
        """
        if query.mode is not _NEARLINE:
            raise UnsupportedModeError(f"mode {query.mode} asked, nearline is served", mode=query.mode.value)
        model = self._state().version(query.model_id, query.params_sha256)
        if len(query.sample_ids) <= INLINE_SAMPLES:
            return self._compute(model, query)
        try:
            async with asyncio.timeout(deadline_s):
                return await asyncio.to_thread(self._compute, model, query)
        except TimeoutError as error:
            raise PartyTimeoutError(f"no share within {deadline_s:.3f} s", party=self._party) from error

    def _compute(self, model: LoadedModel, query: ScoreQuery) -> PartyReply:
        start = time.perf_counter()
        rows = self._rows(model, query)
        status = _statuses(rows, query.sample_ids)
        if status is None:
            share, event_time = _share_of_all(model.part.partial_scores(rows.values)), rows.event_time
        else:
            # of what is not usable numbers come out as well, which the share does not keep
            share = build_share(model.part.partial_scores(rows.values), status)
            event_time = np.where(status == _OK, rows.event_time, NEVER)
        oldest, of_segments = _oldest(event_time, query.segments)
        return PartyReply(
            share=share,
            oldest_event_time=oldest,
            elapsed_s=time.perf_counter() - start,
            segment_event_times=of_segments,
        )

    def _rows(self, model: LoadedModel, query: ScoreQuery) -> FeatureRows:
        if query.inputs is None:
            return self._store.lookup(model.view, model.view_version, model.columns, query.sample_ids)
        snapshot = self._store.snapshot_of(model.view, model.view_version)
        if snapshot is None:
            raise ModelNotReadyError(f"no snapshot of view {model.view} version {model.view_version} is loaded")
        return rows_of_inputs(query.inputs, snapshot.view, model.part.features, query.sample_ids)


def _statuses(rows: FeatureRows, sample_ids: Sequence[bytes]) -> Statuses | None:
    """Return a status per sample, as far as it is known before scoring; None where all are OK, as mostly they are.

    What is found is a sample id: see `OnlineStore.lookup`.
    """
    is_clear = rows.is_clear or (all_true(rows.found) and not any_true(rows.ambiguous))
    if is_clear and all_finite(rows.values):
        return None
    # from the weakest to the strongest, so that the strongest stays: model.share.PRECEDENCE
    status = all_ok_statuses(len(sample_ids))
    absent = ~rows.found
    # what is absent has no features, so that mostly there is no need to look for single ones that are missing
    odd = np.flatnonzero(~np.isfinite(rows.values).all(axis=1) | rows.ambiguous | absent)
    present = odd[rows.found[odd]]
    if len(present):
        values = rows.values[present]
        status[present[np.isnan(values).any(axis=1)]] = SampleStatus.FEATURE_MISSING
        status[present[np.isinf(values).any(axis=1) | rows.ambiguous[present]]] = SampleStatus.FEATURE_INVALID
    status[absent] = _statuses_of_absent(sample_ids, absent)
    return status


def _share_of_all(scores: Floats) -> Share:
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


def _oldest(event_time: Micros, segments: tuple[int, ...]) -> tuple[int | None, Micros | None]:
    """Return the oldest event time of all samples, and of each segment; `NEVER` is none.

    Args:
        event_time: Shape (n_samples,).
        segments: As in the query.
    """
    if not len(event_time):
        return None, None
    if not segments:
        oldest: int = event_time.item(0) if len(event_time) == 1 else int(np.minimum.reduce(event_time))
        return (None if oldest == NEVER else oldest), None
    if len(segments) == len(event_time):  # each is one row
        of_segments = event_time
    else:
        of_segments = np.minimum.reduceat(event_time, list(itertools.accumulate(segments[:-1], initial=0)))
    oldest = int(np.minimum.reduce(of_segments))
    if int(np.maximum.reduce(of_segments)) == NEVER:
        of_segments = np.where(of_segments == NEVER, NO_EVENT_TIME, of_segments)
    return (None if oldest == NEVER else oldest), of_segments
