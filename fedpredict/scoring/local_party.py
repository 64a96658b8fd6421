"""A party's share, computed in this process: models + features + mode -> `Share`."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from fedpredict.errors import (
    FedPredictError,
    InputsRefusedError,
    ModelNotReadyError,
    PartyTimeoutError,
    ProtocolError,
    UnsupportedModeError,
)
from fedpredict.features.base import FeatureRows, OnlineStore
from fedpredict.model.arrays import Bools, Floats, Micros, Statuses, all_true, any_true
from fedpredict.model.ids import valid_sample_ids
from fedpredict.model.inputs import Inputs
from fedpredict.model.linear import LinearPart, partial_scores_of
from fedpredict.model.manifest import PartDescription
from fedpredict.model.part import Part
from fedpredict.model.reasons import NO_MORE, Reasons, joined, reasons_of
from fedpredict.model.sample_ids import SampleIds
from fedpredict.model.scorer import NO_EVENT_TIME, PartyReply, PartyScorer, ScoreQuery
from fedpredict.model.several import join_replies, rows_of_models, split_by_model
from fedpredict.model.share import Mode, SampleStatus, Share, all_ok, all_ok_statuses, build_share
from fedpredict.scoring.freshness import ViewFreshness
from fedpredict.scoring.inputs import NEVER, check_types, rows_of_inputs
from fedpredict.scoring.state import LoadedModel, PartyState
from fedpredict.scoring.stored import stored_share
from fedpredict.scoring.texts import TextCodes

_FEW = 16
"""So many ids are taken out of a batch one by one faster than by passes over all."""
_OK = np.uint8(SampleStatus.OK)
_REFUSED = np.uint8(SampleStatus.REFUSED)
_NOT_FOUND, _ID_INVALID = np.uint8(SampleStatus.NOT_FOUND), np.uint8(SampleStatus.ID_INVALID)
_NEARLINE, _OFFLINE = Mode.NEARLINE, Mode.OFFLINE  # members of an enumeration are slow to look up
_UNUSED = "is sent with mode offline, which looks scores up: ask for mode nearline"
INLINE_SAMPLES = 4_000
"""Larger batches are computed in a thread, so that the event loop answers others meanwhile; so many take about 1 ms."""
WAITING_THREADS = 16
"""So many look-ups may wait for a remote store at the same time."""


class LocalParty(PartyScorer):
    """The part that this process holds, behind the interface of every party."""

    def __init__(
        self,
        party: str,
        state: Callable[[], PartyState],
        store: OnlineStore,
        *,
        freshness: Mapping[str, ViewFreshness] | None = None,
        now: Callable[[], int] = lambda: time.time_ns() // 1000,
    ) -> None:
        """Serve what `state` returns at the moment of a call, with the features of `store`.

        Args:
            party: This party's id.
            state: Such as `lambda: loader.state`.
            store: Holds a snapshot of every view version that the state's models read.
            freshness: By view, how old features may be; default: what the registered view says, else any age.
            now: In microseconds since 1970 UTC.
        """
        self._party = party
        self._state = state
        self._store = store
        self._freshness = freshness or {}
        self._now = now
        # a remote store must not hold up the event loop, nor those who share its threads
        self._waiting = ThreadPoolExecutor(WAITING_THREADS, "fedpredict-features") if store.is_remote else None

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

    def check_types(self, model_id: str, params_sha256: str, inputs: Inputs) -> None:
        """Check inputs before they are put together with those of other requests; of what is not loaded, nothing.

        Raises:
            InputsRefusedError: A feature of the part is a number and came as text, or the reverse.
        """
        model = self._state().loaded.get((model_id, params_sha256))
        if model is not None:
            check_types(inputs, model.part)

    @override
    async def score(self, query: ScoreQuery, *, deadline_s: float) -> PartyReply:
        """Return this party's share.

        Raises:
            UnsupportedModeError: Mode realtime.
            ModelNotFoundError: The warehouse has no such model.
            ManifestMismatchError: The digest asked for is not loaded.
            ModelNotReadyError: Nothing is loaded for the model, or no snapshot of its features, or no stored shares.
            InputsRefusedError: The query's inputs are not features of the model's view.
            PartyTimeoutError: `deadline_s` passed; what was begun is dropped.
        """
        if query.mode is _OFFLINE:
            compute = partial(self._look_up, self._state(), query)
        elif query.mode is not _NEARLINE:
            raise UnsupportedModeError(f"mode {query.mode} asked, nearline and offline are", mode=query.mode.value)
        elif query.further:
            compute = partial(self._compute_several, self._state(), query)
        else:
            compute = partial(self._compute, self._state().version(query.model_id, query.params_sha256), query)
        pool = self._waiting if query.inputs is None else None
        if pool is None and len(query.sample_ids) <= INLINE_SAMPLES:
            return compute()
        try:
            async with asyncio.timeout(deadline_s):
                return await asyncio.get_running_loop().run_in_executor(pool, copy_context().run, compute)
        except TimeoutError as error:
            raise PartyTimeoutError(f"no share within {deadline_s:.3f} s", party=self._party) from error

    def _look_up(self, state: PartyState, query: ScoreQuery) -> PartyReply:
        """Return the share of one model or several as it is stored."""
        if not query.further:
            return self._look_up_one(state, query)
        queries = split_by_model(query)
        outcomes: list[PartyReply | FedPredictError] = []
        for each in queries:
            try:
                outcomes.append(self._look_up_one(state, each))
            except FedPredictError as error:
                outcomes.append(error)
        return join_replies(queries, outcomes)

    def _look_up_one(self, state: PartyState, query: ScoreQuery) -> PartyReply:
        start = time.perf_counter()
        if query.inputs is not None:
            raise InputsRefusedError(
                "inputs came with mode offline, which looks stored shares up",
                feature=query.inputs.names[0],
                problem=_UNUSED,
            )
        model = state.version(query.model_id, query.params_sha256)
        oldest = self._oldest(self._limit(model, _OFFLINE))
        share, event_time = stored_share(self._store, model.description, query.sample_ids, oldest)
        return _reply(query, share, event_time, start)

    def _compute_several(self, state: PartyState, query: ScoreQuery) -> PartyReply:
        """Return the share of several models: features that models have in common are looked up at once."""
        start = time.perf_counter()
        groups, failures = _by_features(state, query, self._limit)
        n_samples = len(query.sample_ids)
        scores = np.full((n_samples, groups[0].n_scores if groups else 0), np.nan)
        status, event_time = np.full(n_samples, _REFUSED), np.full(n_samples, NEVER, dtype=np.int64)
        told: list[tuple[slice | NDArray[np.intp], Reasons | None]] = []
        for group in groups:
            if group.n_scores != scores.shape[1]:
                raise ProtocolError("models of different widths in one sub-task")
            try:
                told.append(self._fill(group, SampleIds.of(query.sample_ids), scores, status, event_time))
            except ModelNotReadyError as error:
                failures.update(dict.fromkeys(group.places, error))
        if all_ok(status):
            share = _share_of_all(scores)
        else:
            share = build_share(scores, status)
            event_time[status != _OK] = NEVER
        reply = _reply(query, share, event_time, start)
        reply.failures = failures
        reply.reasons = _placed(told, n_samples)
        return reply

    def _fill(
        self, group: _Group, sample_ids: SampleIds, scores: Floats, status: Statuses, event_time: Micros
    ) -> tuple[slice | NDArray[np.intp], Reasons | None]:
        """Write what models with the same features say of their rows into the arrays of all rows.

        Returns:
            Which rows, and the reasons that go with them.
        """
        model, spans = group.model, group.rows
        at: slice | NDArray[np.intp] = slice(spans[0].start, spans[-1].stop)
        ids = sample_ids.cut(spans[0].start, spans[-1].stop)
        if sum([each.stop - each.start for each in spans]) < len(ids):  # rows of other models stand between
            at = np.concatenate([np.arange(each.start, each.stop) for each in spans])
            ids = SampleIds.concat([sample_ids.cut(each.start, each.stop) for each in spans])
        rows = self._store.lookup(model.view, model.view_version, model.columns, ids)
        if rows.texts is not None or model.texts is not None:
            rows = _coded(model, rows)
        if group.linear:
            own = partial_scores_of(group.linear, [each.stop - each.start for each in spans], rows.values)
            known = model.part.statuses(rows.values)
        else:
            own, known = model.part.scores_and_statuses(rows.values)
        known = _with_stale(_with_lookup(known, rows, ids), rows, self._oldest(group.limit))
        scores[at] = own
        status[at] = _OK if known is None else known
        event_time[at] = rows.event_time
        return at, reasons_of(model.part, rows.values, known)

    def _compute(self, model: LoadedModel, query: ScoreQuery) -> PartyReply:
        start = time.perf_counter()
        rows = self._rows(model, query)
        share, event_time = share_of_rows(model.part, rows, query.sample_ids, self._oldest(self._limit(model)))
        reply = _reply(query, share, event_time, start)
        reply.reasons = reasons_of(model.part, rows.values, None if share.all_ok else share.status)
        return reply

    def _limit(self, model: LoadedModel, mode: Mode = _NEARLINE) -> int | None:
        rule, default = self._freshness.get(model.view), model.max_age.get(mode)
        return default if rule is None else rule.limit(model.description.model_id, mode, default)

    def _oldest(self, limit: int | None) -> int | None:
        """Return the event time before which features are stale."""
        return None if limit is None else self._now() - limit

    def _rows(self, model: LoadedModel, query: ScoreQuery) -> FeatureRows:
        if query.inputs is None:
            rows = self._store.lookup(model.view, model.view_version, model.columns, query.sample_ids)
            return rows if rows.texts is None and model.texts is None else _coded(model, rows)
        snapshot = self._store.snapshot_of(model.view, model.view_version)
        if snapshot is None:
            raise ModelNotReadyError(f"no snapshot of view {model.view} version {model.view_version} is loaded")
        return rows_of_inputs(query.inputs, snapshot.view, model, query.sample_ids)


@dataclass(slots=True, eq=False)
class _Group:
    """Linear models of a query for several that read the same features; or one of another family, or with exposure."""

    model: LoadedModel
    """The first of them."""
    limit: int | None
    """How old the features may be, in microseconds."""
    places: list[int] = field(default_factory=list)
    """In the query."""
    linear: list[LinearPart] = field(default_factory=list)
    """The parts, where they are linear and have no exposure."""
    rows: list[slice] = field(default_factory=list)

    @property
    def n_scores(self) -> int:
        return self.model.part.n_scores


def _by_features(
    state: PartyState, query: ScoreQuery, limit_of: Callable[[LoadedModel], int | None]
) -> tuple[list[_Group], dict[int, FedPredictError]]:
    """Return the models of a query that can be scored, and by place why the others cannot."""
    groups: dict[tuple[str, int, tuple[str, ...], int, int | None, int | None], _Group] = {}
    failures: dict[int, FedPredictError] = {}
    for place, (asked, rows) in enumerate(zip(query.models, rows_of_models(query), strict=True)):
        try:
            model = state.version(asked.model_id, asked.params_sha256)
        except FedPredictError as error:
            failures[place] = error
            continue
        part = model.part
        linear = [part] if isinstance(part, LinearPart) and part.exposure is None else []
        limit = limit_of(model)
        key = (model.view, model.view_version, model.columns, part.n_scores, None if linear else place, limit)
        group = groups.get(key)
        if group is None:
            group = groups[key] = _Group(model, limit)
        group.places.append(place)
        group.linear += linear
        group.rows.append(rows)
    return list(groups.values()), failures


def _placed(told: Sequence[tuple[slice | NDArray[np.intp], Reasons | None]], n_samples: int) -> Reasons | None:
    """Return the reasons of groups of rows in the order of all rows; None where no group has any."""
    groups = [(np.arange(n_samples)[at], reasons) for at, reasons in told if reasons is not None]
    whole = joined([reasons for _, reasons in groups], [len(at) for at, _ in groups])
    if whole is None:
        return None
    which = np.full((n_samples, whole.which.shape[1]), NO_MORE, dtype=np.uint16)
    which[np.concatenate([at for at, _ in groups])] = whole.which
    return Reasons(whole.codes, which)


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
    status = _with_stale(_with_lookup(status, rows, sample_ids), rows, oldest)
    if status is None:
        return _share_of_all(scores), rows.event_time
    # of what is not usable numbers come out as well, which the share does not keep
    return build_share(scores, status), np.where(status == _OK, rows.event_time, NEVER)


def _coded(model: LoadedModel, rows: FeatureRows) -> FeatureRows:
    """Return the rows with the part's codes of texts in place of the snapshot's."""
    texts = model.texts or TextCodes(model.part, model.columns)  # of no text feature: it says which column is text
    return replace(rows, values=texts.translated(rows))


def _with_lookup(status: Statuses | None, rows: FeatureRows, sample_ids: Sequence[bytes]) -> Statuses | None:
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


def _with_stale(status: Statuses | None, rows: FeatureRows, oldest: int | None) -> Statuses | None:
    """Return the statuses with STALE where all is well but the features' age."""
    if oldest is None or not any_true(stale := rows.event_time < oldest):
        return status
    if status is None:
        status = all_ok_statuses(len(stale))
    status[stale & (status == _OK)] = SampleStatus.STALE
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


def _reply(query: ScoreQuery, share: Share, event_time: Micros, start: float) -> PartyReply:
    oldest, of_segments = _oldest(event_time, query.segments)
    return PartyReply(
        share=share,
        oldest_event_time=oldest,
        elapsed_s=time.perf_counter() - start,
        segment_event_times=of_segments,
    )


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
