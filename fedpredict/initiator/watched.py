"""A use case whose every task is counted and traced, by the edge that it came through."""

from __future__ import annotations

from asyncio import CancelledError
from dataclasses import replace

from typing_extensions import override

from fedpredict.initiator.audited import RequestAudit
from fedpredict.initiator.predict import Predicts
from fedpredict.initiator.submit import Done, GiveUp
from fedpredict.model.prediction import Prediction, PredictTask
from fedpredict.observe.metrics import Edge
from fedpredict.observe.watch import PredictionWatch, RequestWatch
from fedpredict.security.identity import Identity


def watched(predictor: Predicts, edge: Edge, watch: PredictionWatch, audit: RequestAudit | None = None) -> Predicts:
    """Return `predictor`, seen by `watch` and written down by `audit`; itself where nothing is.

    Args:
        predictor: The use case.
        edge: Who hands tasks over; a task's `traceparent` is what its caller sent.
        watch: Told of each of them.
        audit: Writes each of them down; default: nothing does.
    """
    if audit is not None:
        predictor = audit.predictor(predictor, edge)
    return _Watched(predictor, edge, watch) if watch.serving.counts or watch.traces.on else predictor


class _Watched(Predicts):
    def __init__(self, predictor: Predicts, edge: Edge, watch: PredictionWatch) -> None:
        self._predictor = predictor
        self._edge = edge
        self._watch = watch

    @override
    async def predict(self, task: PredictTask, caller: Identity, *, deadline_s: float | None) -> Prediction:
        seen, task = self._begin(task)
        try:
            prediction = await self._predictor.predict(task, caller, deadline_s=deadline_s)
        except BaseException as error:
            seen.answered(error)
            raise
        seen.answered(prediction)
        return prediction

    @override
    def submit(self, task: PredictTask, caller: Identity, *, deadline_s: float | None, done: Done) -> GiveUp:
        seen, task = self._begin(task)
        over = False

        def ended(outcome: Prediction | BaseException) -> None:
            nonlocal over
            over = True
            seen.answered(outcome)
            done(outcome)

        try:
            give_up = self._predictor.submit(task, caller, deadline_s=deadline_s, done=ended)
        except BaseException as error:
            seen.answered(error)
            raise

        def left() -> None:
            nonlocal over
            give_up()
            if not over:
                over = True
                seen.answered(CancelledError())

        return left

    def _begin(self, task: PredictTask) -> tuple[RequestWatch, PredictTask]:
        seen = self._watch.request(self._edge, task.model_id, task.mode, len(task.sample_ids), task.traceparent)
        # a caller's span that is not traced here must not travel on either
        return seen, task if seen.traceparent == task.traceparent else replace(task, traceparent=seen.traceparent)
