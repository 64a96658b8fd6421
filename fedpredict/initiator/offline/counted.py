"""Parties that are asked for buckets, counted."""

from __future__ import annotations

import asyncio
import logging
import time

from typing_extensions import override

from fedpredict.errors import FedPredictError
from fedpredict.model.populations import BucketAnswer, BucketQuery, BucketScorer
from fedpredict.observe.metrics import call_outcome_of
from fedpredict.observe.tasks import TaskMetrics
from fedpredict.state.task_base import TaskWatch

logger = logging.getLogger(__name__)

WATCH_S = 5.0
"""How often the states of all tasks are read for the metrics."""


class CountedBuckets(BucketScorer):
    """A party as it is, told to the metrics."""

    def __init__(self, inner: BucketScorer, metrics: TaskMetrics) -> None:
        """Wrap a party.

        Args:
            inner: Is asked.
            metrics: Told of every answer.
        """
        self._inner = inner
        self._metrics = metrics

    @property
    @override
    def party(self) -> str:
        """The party's id."""
        return self._inner.party

    @override
    async def score_bucket(self, query: BucketQuery, *, deadline_s: float) -> BucketAnswer:
        began = time.perf_counter()
        try:
            answer = await self._inner.score_bucket(query, deadline_s=deadline_s)
        except FedPredictError as error:
            self._metrics.not_answered(self.party, time.perf_counter() - began, call_outcome_of(error))
            raise
        self._metrics.asked(query.model_id, self.party, time.perf_counter() - began, answer.share.status)
        return answer


async def watch_tasks(store: TaskWatch, metrics: TaskMetrics) -> None:
    """Tell the metrics of all tasks, again and again, until cancelled."""
    told = ""
    while True:
        try:
            metrics.seen(await asyncio.to_thread(store.overview))
            told = ""
        except FedPredictError as error:
            if str(error) != told:
                logger.warning("tasks.not_watched", extra={"reason": str(error)})
            told = str(error)
        await asyncio.sleep(WATCH_S)
