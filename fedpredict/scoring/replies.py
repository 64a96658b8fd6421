"""What a party computed -> its reply: with the oldest event time of each request, and of several models one by one."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable

import numpy as np

from fedpredict.errors import FedPredictError
from fedpredict.model.arrays import Micros
from fedpredict.model.scorer import NO_EVENT_TIME, PartyReply, ScoreQuery
from fedpredict.model.several import join_replies, split_by_model
from fedpredict.model.share import Share
from fedpredict.scoring.inputs import NEVER


def one_by_one(query: ScoreQuery, answer: Callable[[ScoreQuery], PartyReply]) -> PartyReply:
    """Return the answer to a query for one model or several, from what answers one; a failure takes no other's share.

    Args:
        query: The query.
        answer: Of one model; what it raises for the only model is raised.
    """
    if not query.further:
        return answer(query)
    queries = split_by_model(query)
    outcomes: list[PartyReply | FedPredictError] = []
    for each in queries:
        try:
            outcomes.append(answer(each))
        except FedPredictError as error:
            outcomes.append(error)
    return join_replies(queries, outcomes)


def reply_of(query: ScoreQuery, share: Share, event_time: Micros, start: float) -> PartyReply:
    """Return the answer to a query.

    Args:
        query: The query.
        share: Its samples', in order.
        event_time: Shape (n_samples,): of the features used, `NEVER` where there are none.
        start: When the work began, by `time.perf_counter`.
    """
    oldest, of_segments = oldest_of(event_time, query.segments)
    return PartyReply(
        share=share,
        oldest_event_time=oldest,
        elapsed_s=time.perf_counter() - start,
        segment_event_times=of_segments,
    )


def oldest_of(event_time: Micros, segments: tuple[int, ...]) -> tuple[int | None, Micros | None]:
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
