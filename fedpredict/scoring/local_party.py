"""A party's share, computed in this process: models + features + mode -> `Share`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import numpy as np
from typing_extensions import override

from fedpredict.errors import PartyTimeoutError, UnsupportedModeError
from fedpredict.features.base import OnlineStore
from fedpredict.model.ids import valid_sample_ids
from fedpredict.model.manifest import PartDescription
from fedpredict.model.scorer import PartyReply, PartyScorer, ScoreQuery
from fedpredict.model.share import Mode, SampleStatus, build_share
from fedpredict.scoring.state import LoadedModel, PartyState

INLINE_SAMPLES = 500
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
            PartyTimeoutError: `deadline_s` passed; what was begun is dropped.
        """
        if query.mode is not Mode.NEARLINE:
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
        rows = self._store.lookup(model.view, model.view_version, model.columns, query.sample_ids)
        infinite = np.isinf(rows.values).any(axis=1)
        # from the weakest to the strongest, so that the strongest stays: model.share.PRECEDENCE
        status = np.full(len(query.sample_ids), SampleStatus.OK, dtype=np.uint8)
        status[np.isnan(rows.values).any(axis=1)] = SampleStatus.FEATURE_MISSING
        status[infinite | rows.ambiguous] = SampleStatus.FEATURE_INVALID
        status[~rows.found] = SampleStatus.NOT_FOUND
        status[~valid_sample_ids(query.sample_ids)] = SampleStatus.ID_INVALID
        usable = status == SampleStatus.OK
        values = np.full((len(status), model.part.n_scores), np.nan)
        # an overflow is no accident here: the share says OUT_OF_RANGE
        with np.errstate(over="ignore", invalid="ignore"):
            values[usable] = model.part.partial_scores(rows.values[usable])
        return PartyReply(
            share=build_share(values, status),
            oldest_event_time=int(rows.event_time[usable].min()) if usable.any() else None,
            elapsed_s=time.perf_counter() - start,
        )
