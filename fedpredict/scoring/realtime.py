"""Mode realtime: features are computed from raw rows as of the question, then scored; several models' at once."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from fedpredict.errors import InputsRefusedError, ModelNotReadyError, UnsupportedModeError
from fedpredict.features.base import FeatureRows
from fedpredict.model.arrays import Bools, Floats
from fedpredict.model.ids import valid_sample_ids
from fedpredict.model.reasons import reasons_of
from fedpredict.model.sample_ids import SampleIds
from fedpredict.model.scorer import PartyReply, ScoreQuery
from fedpredict.model.several import rows_of_models
from fedpredict.scoring.replies import one_by_one, reply_of
from fedpredict.scoring.row_shares import share_of_rows
from fedpredict.scoring.state import LoadedModel, PartyState

if TYPE_CHECKING:  # who computes no view needs no parser of SQL, which is large
    from fedpredict.features.realtime import Extracted, RealtimeView

ComputedViews: TypeAlias = "Callable[[str, int], RealtimeView]"
"""View and version -> what computes it; raises `UnsupportedModeError` or `ModelNotReadyError` where nothing does."""

_UNUSED = "is sent with mode realtime, which computes features: ask for mode nearline"
_Key: TypeAlias = tuple[str, int]


def no_views(view: str, _view_version: int) -> RealtimeView:
    """Return nothing: no view is computed in mode realtime."""
    raise not_computed(view, f"has no [realtime.{view}] in the settings")


def not_computed(view: str, why: str) -> UnsupportedModeError:
    """Return the error of a view that is not computed in mode realtime."""
    return UnsupportedModeError(f"mode realtime asked, and view {view} {why}", mode="realtime")


def score_now(views: ComputedViews, state: PartyState, query: ScoreQuery, now: int) -> PartyReply:
    """Return the share of one model or several from raw rows, as of an instant.

    A view that several models read is computed once, for all ids that they are asked for.

    Args:
        views: What computes views.
        state: The models.
        query: The query.
        now: The instant, in microseconds since 1970 UTC.

    Raises:
        UnsupportedModeError: The view is not computed in this mode.
        ModelNotFoundError, ManifestMismatchError, ModelNotReadyError, InputsRefusedError: As `LocalParty.score`.
        FedPredictError: The source of raw rows cannot be read.
    """
    asked = _asked(state, query)
    known: dict[_Key, Extracted] = {}

    def of_one(query: ScoreQuery) -> PartyReply:
        start = time.perf_counter()
        if query.inputs is not None:
            raise InputsRefusedError("inputs came with mode realtime", feature=query.inputs.names[0], problem=_UNUSED)
        model = state.version(query.model_id, query.params_sha256)
        key = (model.view, model.view_version)
        if key not in known:
            known[key] = views(*key).extract(asked[key], now)
        rows = _rows(known[key], model, query.sample_ids, now)
        share, event_time = share_of_rows(model.part, rows, query.sample_ids)
        reply = reply_of(query, share, event_time, start)
        reply.reasons = reasons_of(model.part, rows.values, None if share.all_ok else share.status)
        return reply

    return one_by_one(query, of_one)


def _asked(state: PartyState, query: ScoreQuery) -> dict[_Key, Sequence[str]]:
    """Return the different ids that each view is asked for; what is no sample id is nobody's."""
    ids = SampleIds.of(query.sample_ids)
    spans = rows_of_models(query) if query.further else [slice(0, len(ids))]
    asked: dict[_Key, dict[str, None]] = {}
    for each, span in zip(query.models, spans, strict=True):
        model = state.loaded.get((each.model_id, each.params_sha256))
        if model is not None:
            some = ids.cut(span.start, span.stop)
            valid = some.select(valid_sample_ids(some))
            asked.setdefault((model.view, model.view_version), {}).update(dict.fromkeys(id_.decode() for id_ in valid))
    return {key: list(some) for key, some in asked.items()}


def _rows(extracted: Extracted, model: LoadedModel, sample_ids: Sequence[bytes], now: int) -> FeatureRows:
    """Return the features of a model as a store would; a text that the view does not allow makes a row ambiguous."""
    places = extracted.places
    rows = np.array([places.get(each.decode("utf-8", "surrogateescape"), -1) for each in sample_ids], dtype=np.intp)
    found: Bools = rows >= 0
    odd = np.zeros(len(rows), dtype=np.bool_)
    values = np.full((len(rows), len(model.columns)), np.nan)
    if found.any():
        for at, (column, feature) in enumerate(zip(model.columns, model.part.features, strict=True)):
            values[:, at] = _column(extracted, model, column, feature).take(rows, mode="clip")
            if column in extracted.refused:
                odd |= extracted.refused[column].take(rows, mode="clip")
        values[~found] = np.nan
    event_time = np.where(found, np.int64(now), np.int64(0))
    return FeatureRows(values, found, odd & found, event_time, bool(found.all() and not odd.any()))


def _column(extracted: Extracted, model: LoadedModel, column: str, feature: str) -> Floats:
    """Return a column as the part knows it: numbers, or codes of texts.

    Raises:
        ModelNotReadyError: The view has no such column, or one of another type.
    """
    if feature not in model.part.categories and column in extracted.numbers:
        return extracted.numbers[column]
    if feature not in model.part.categories or column not in extracted.texts or model.texts is None:
        kind = "text" if feature in model.part.categories else "number"
        raise ModelNotReadyError(f"view {model.view} version {model.view_version} has no {kind} {feature}")
    different: dict[str, int] = {}
    texts = extracted.texts[column]
    codes = np.array([-1 if each is None else different.setdefault(each, len(different)) for each in texts])
    return model.texts.codes(feature, list(different)).take(codes)  # the last is that of a missing one
