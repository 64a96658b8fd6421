"""A party's share, computed in this process: models + features + mode -> `Share`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from fedpredict.errors import (
    FedPredictError,
    ModelNotReadyError,
    PartyTimeoutError,
    ProtocolError,
)
from fedpredict.features.base import FeatureRows, OnlineStore
from fedpredict.model.arrays import Floats, Micros, Statuses
from fedpredict.model.inputs import Inputs
from fedpredict.model.linear import LinearPart, partial_scores_of
from fedpredict.model.manifest import PartDescription
from fedpredict.model.populations import BucketQuery
from fedpredict.model.reasons import NO_MORE, Reasons, joined, reasons_of
from fedpredict.model.sample_ids import SampleIds
from fedpredict.model.scorer import PartyReply, PartyScorer, ScoreQuery
from fedpredict.model.several import rows_of_models
from fedpredict.model.share import Mode, SampleStatus, all_ok, build_share
from fedpredict.scoring.freshness import ViewFreshness
from fedpredict.scoring.inputs import NEVER, check_types, rows_of_inputs
from fedpredict.scoring.offline import look_up
from fedpredict.scoring.realtime import ComputedViews, no_views, score_now
from fedpredict.scoring.replies import reply_of
from fedpredict.scoring.row_shares import coded_rows, share_of_all, share_of_rows, with_lookup, with_stale
from fedpredict.scoring.state import LoadedModel, PartyState
from fedpredict.tables.shares import VIEW_VERSION, shares_view, source_of_day

_OK = np.uint8(SampleStatus.OK)
_REFUSED = np.uint8(SampleStatus.REFUSED)
# members of an enumeration are slow to look up
_REALTIME, _NEARLINE, _OFFLINE = Mode.REALTIME, Mode.NEARLINE, Mode.OFFLINE
INLINE_SAMPLES = 4_000
"""Larger batches are computed in a thread, so that the event loop answers others meanwhile; so many take about 1 ms."""
WAITING_THREADS = 16
"""So many look-ups may wait for a remote store at the same time."""
EXTRACTING_THREADS = 16
"""So many questions of mode realtime are answered at the same time; the next ones wait until their deadline."""


class LocalParty(PartyScorer):
    """The part that this process holds, behind the interface of every party."""

    def __init__(
        self,
        party: str,
        state: Callable[[], PartyState],
        store: OnlineStore,
        *,
        freshness: Mapping[str, ViewFreshness] | None = None,
        realtime: ComputedViews = no_views,
        now: Callable[[], int] = lambda: time.time_ns() // 1000,
    ) -> None:
        """Serve what `state` returns at the moment of a call, with the features of `store`.

        Args:
            party: This party's id.
            state: Such as `lambda: loader.state`.
            store: Holds a snapshot of every view version that the state's models read.
            freshness: By view, how old features may be; default: what the registered view says, else any age.
            realtime: The views that are computed when they are asked for; default: none is.
            now: In microseconds since 1970 UTC.
        """
        self._party = party
        self._state = state
        self._store = store
        self._freshness = freshness or {}
        self._views = realtime
        self._now = now
        # a remote store must not hold up the event loop, nor those who share its threads
        self._waiting = ThreadPoolExecutor(WAITING_THREADS, "fedpredict-features") if store.is_remote else None
        # nor may a database, or an engine; threads are started when they are needed
        self._extracting = ThreadPoolExecutor(EXTRACTING_THREADS, "fedpredict-realtime")

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
            UnsupportedModeError: Mode realtime, of a view that is not computed in it.
            ModelNotFoundError: The warehouse has no such model.
            ManifestMismatchError: The digest asked for is not loaded.
            ModelNotReadyError: Nothing is loaded for the model, or no snapshot of its features, or no stored shares.
            InputsRefusedError: The query's inputs are not features of the model's view, or the mode takes none.
            FedPredictError: Mode realtime: the source of raw rows cannot be read.
            PartyTimeoutError: `deadline_s` passed; what was begun is dropped.
        """
        pool = self._waiting if query.inputs is None else None
        if query.mode is _REALTIME:
            compute = partial(self._extract, self._state(), query)
            pool = self._extracting
        elif query.mode is _OFFLINE:
            compute = partial(look_up, self._store, self._state(), query, self._oldest_stored)
        elif query.further:
            compute = partial(self._compute_several, self._state(), query)
        else:
            compute = partial(self._compute, self._state().version(query.model_id, query.params_sha256), query)
        if pool is None and len(query.sample_ids) <= INLINE_SAMPLES:
            return compute()
        future = asyncio.get_running_loop().run_in_executor(pool, copy_context().run, compute)
        try:
            # not `asyncio.timeout`, which needs a task: links begin small calls without one
            await asyncio.wait((future,), timeout=deadline_s)
            if not future.done():
                raise PartyTimeoutError(f"no share within {deadline_s:.3f} s", party=self._party)
            return future.result()
        finally:
            future.cancel()

    def _extract(self, state: PartyState, query: ScoreQuery) -> PartyReply:
        return score_now(self._views, state, query, self._now())

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
            share = share_of_all(scores)
        else:
            share = build_share(scores, status)
            event_time[status != _OK] = NEVER
        reply = reply_of(query, share, event_time, start)
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
            rows = coded_rows(model, rows)
        if group.linear:
            own = partial_scores_of(group.linear, [each.stop - each.start for each in spans], rows.values)
            known = model.part.statuses(rows.values)
        else:
            own, known = model.part.scores_and_statuses(rows.values)
        known = with_stale(with_lookup(known, rows, ids), rows, self._oldest(group.limit))
        scores[at] = own
        status[at] = _OK if known is None else known
        event_time[at] = rows.event_time
        return at, reasons_of(model.part, rows.values, known)

    def _compute(self, model: LoadedModel, query: ScoreQuery) -> PartyReply:
        start = time.perf_counter()
        rows = self._rows(model, query)
        share, event_time = share_of_rows(model.part, rows, query.sample_ids, self._oldest(self._limit(model)))
        reply = reply_of(query, share, event_time, start)
        reply.reasons = reasons_of(model.part, rows.values, None if share.all_ok else share.status)
        return reply

    def _limit(self, model: LoadedModel, mode: Mode = _NEARLINE) -> int | None:
        rule, default = self._freshness.get(model.view), model.max_age.get(mode)
        return default if rule is None else rule.limit(model.description.model_id, mode, default)

    def oldest(self, model: LoadedModel, mode: Mode) -> int | None:
        """Return the event time before which a model's shares are STALE, in microseconds; None: none is."""
        return self._oldest(self._limit(model, mode))

    def source_of(self, query: BucketQuery) -> str:
        """Return which snapshot, or which day's shares, a bucket would be answered from now; empty: there is none."""
        if query.mode is _OFFLINE:
            served = self._store.snapshot_of(shares_view(query.model_id, query.params_sha256), VIEW_VERSION)
            return "" if served is None else source_of_day(served.snapshot)
        model = self._state().loaded.get((query.model_id, query.params_sha256))
        served = None if model is None else self._store.snapshot_of(model.view, model.view_version)
        return "" if served is None else f"snapshot {served.snapshot}"

    def _oldest_stored(self, model: LoadedModel) -> int | None:
        return self.oldest(model, _OFFLINE)

    def _oldest(self, limit: int | None) -> int | None:
        """Return the event time before which features are stale."""
        return None if limit is None else self._now() - limit

    def _rows(self, model: LoadedModel, query: ScoreQuery) -> FeatureRows:
        if query.inputs is None:
            rows = self._store.lookup(model.view, model.view_version, model.columns, query.sample_ids)
            return rows if rows.texts is None and model.texts is None else coded_rows(model, rows)
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
