"""Sub-tasks for several models: taken apart, and the answers put together again. Pure."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from fedpredict.errors import FedPredictError, ProtocolError
from fedpredict.model.arrays import Micros
from fedpredict.model.reasons import joined
from fedpredict.model.sample_ids import SampleIds
from fedpredict.model.scorer import NO_EVENT_TIME, PartyReply, ScoreQuery
from fedpredict.model.share import SampleStatus, Share

_REFUSED = np.uint8(SampleStatus.REFUSED)


def rows_of_models(query: ScoreQuery) -> list[slice]:
    """Return the rows of each of several models, in order."""
    return [slice(start, end) for start, end in itertools.pairwise(itertools.accumulate(query.model_rows, initial=0))]


def split_by_model(query: ScoreQuery) -> list[ScoreQuery]:
    """Return a sub-task for each model of one for several: for a party that takes one model at a time."""
    ids, segments = SampleIds.of(query.sample_ids), iter(query.segments)
    queries = []
    for model, rows in zip(query.models, rows_of_models(query), strict=True):
        own, left = [], rows.stop - rows.start
        while left:
            own.append(next(segments))
            left -= own[-1]
        queries.append(
            ScoreQuery(
                request_id=query.request_id,
                model_id=model.model_id,
                manifest_sha256=model.manifest_sha256,
                params_sha256=model.params_sha256,
                mode=query.mode,
                sample_ids=ids.cut(rows.start, rows.stop),
                epoch=query.epoch,
                segments=tuple(own),
                traceparent=query.traceparent,
            )
        )
    return queries


def join_replies(queries: Sequence[ScoreQuery], outcomes: Sequence[PartyReply | FedPredictError]) -> PartyReply:
    """Return the answer to a sub-task for several models from those to each.

    Args:
        queries: What `split_by_model` returned.
        outcomes: For each of them its answer, or why there is none.

    Raises:
        ProtocolError: The shares are not of one width.
    """
    failures = {place: each for place, each in enumerate(outcomes) if isinstance(each, FedPredictError)}
    replies = [each for each in outcomes if isinstance(each, PartyReply)]
    n_scores = replies[0].share.n_scores if replies else 0
    if any(each.share.n_scores != n_scores for each in replies):
        raise ProtocolError("shares of different widths for models of one width")
    shares = [
        _refused(len(query.sample_ids), n_scores) if isinstance(each, FedPredictError) else each.share
        for query, each in zip(queries, outcomes, strict=True)
    ]
    known = [each.oldest_event_time for each in replies if each.oldest_event_time is not None]
    return PartyReply(
        share=Share(np.concatenate([each.values for each in shares]), np.concatenate([each.status for each in shares])),
        oldest_event_time=min(known, default=None),
        elapsed_s=max((each.elapsed_s for each in replies), default=0.0),
        segment_event_times=np.concatenate(
            [_event_times(query, each) for query, each in zip(queries, outcomes, strict=True)]
        ),
        failures=failures,
        reasons=joined(
            [None if isinstance(each, FedPredictError) else each.reasons for each in outcomes],
            [len(query.sample_ids) for query in queries],
        ),
    )


def _refused(n_samples: int, n_scores: int) -> Share:
    return Share(np.full((n_samples, n_scores), np.nan), np.full(n_samples, _REFUSED))


def _event_times(query: ScoreQuery, outcome: PartyReply | FedPredictError) -> Micros:
    if isinstance(outcome, FedPredictError) or outcome.segment_event_times is None:
        return np.full(len(query.segments), NO_EVENT_TIME, dtype=np.int64)
    return outcome.segment_event_times
