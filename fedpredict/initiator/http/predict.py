"""`POST /v1/predict`: without ASGI and without a task of its own, and the same through ASGI for odd spellings of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from http import HTTPStatus
from typing import TypeAlias

from fedpredict.http.application import JSON, REQUEST_ID, Answer, Request, Route, log_refusal, problem_for
from fedpredict.http.exchange import Exchange
from fedpredict.initiator.http.decode import name_request, read_task
from fedpredict.initiator.http.encode import encode, prediction_body
from fedpredict.initiator.predict import Predicts
from fedpredict.initiator.submit import GiveUp
from fedpredict.model.prediction import Prediction, PredictTask
from fedpredict.observe.logs import log_context
from fedpredict.observe.metrics import Edge, outcome_of
from fedpredict.observe.watch import PredictionWatch, RequestWatch
from fedpredict.security.identity import Identity

Identify: TypeAlias = Callable[[tuple[str, ...] | None, str | None], Identity]
"""URIs of the caller's certificate (None without TLS), and who it states to be -> the caller, or an error."""

CALLER_HEADER, TRACE_HEADER = b"x-fedpredict-client", b"traceparent"


class PredictEndpoint:
    """Total tasks as JSON."""

    def __init__(self, predictor: Predicts, identify: Identify, watch: PredictionWatch, max_samples: int) -> None:
        self._predictor = predictor
        self._identify = identify
        self._watch = watch
        self._max_samples = max_samples

    def begin(self, exchange: Exchange) -> GiveUp | None:
        """Begin to answer a request on the fast path; return what gives it up."""
        request_id = name_request(exchange.header(b"x-request-id"))
        watched: RequestWatch | None = None
        try:
            caller = self._identify(exchange.peer_uris, exchange.header(CALLER_HEADER))
            asked = read_task(exchange, request_id, self._max_samples)
            request_id = asked.task.request_id
            watched = watch_request(self._watch, "http", asked.task, exchange.header(TRACE_HEADER))
            task = traced(asked.task, watched)
            done = partial(self._answer, exchange, task, watched)
            give_up = self._predictor.submit(task, caller, deadline_s=asked.deadline_s, done=done)
        except Exception as error:  # noqa: BLE001  an edge: nothing but a public text may leave
            self._refuse(exchange, request_id, watched, error)
            return None
        return partial(_leave, give_up, watched)

    async def answer(self, request: Request) -> Answer:
        """Answer a request that came through ASGI."""
        caller = self._identify(request.peer_uris, request.header(CALLER_HEADER))
        asked = read_task(request, request.request_id, self._max_samples)
        watched = watch_request(self._watch, "http", asked.task, request.header(TRACE_HEADER))
        prediction = await predict_watched(
            self._predictor, traced(asked.task, watched), caller, asked.deadline_s, watched=watched
        )
        body = encode(prediction_body(prediction, asked.task.model_id))
        return Answer(body, headers={REQUEST_ID: asked.task.request_id})

    def _answer(
        self, exchange: Exchange, task: PredictTask, watched: RequestWatch, ended: Prediction | BaseException
    ) -> None:
        if isinstance(ended, BaseException):
            self._refuse(exchange, task.request_id, watched, ended)
            return
        try:
            body = encode(prediction_body(ended, task.model_id))
        except Exception as error:  # noqa: BLE001  an edge: the caller gets an answer, whatever happens
            self._refuse(exchange, task.request_id, watched, error)
        else:
            watched.answered(ended)
            exchange.answer(HTTPStatus.OK, JSON, body, task.request_id)

    def _refuse(self, exchange: Exchange, request_id: str, watched: RequestWatch | None, error: BaseException) -> None:
        if watched is not None:
            watched.answered(error)
        if self._watch.log.wants(outcome_of(error)):
            with log_context(request_id=request_id):
                log_refusal(error)
        exchange.refuse(problem_for(error), request_id)


def predict_route(endpoint: PredictEndpoint) -> Route:
    """Return the operation, as the application and the description have it."""
    return Route("POST", "/v1/predict", endpoint.answer)


def watch_request(watch: PredictionWatch, edge: Edge, task: PredictTask, traceparent: str | None) -> RequestWatch:
    """Say that a request has arrived; return what is told how it ended."""
    return watch.request(edge, task.model_id, task.mode, len(task.sample_ids), traceparent or "")


def traced(task: PredictTask, watched: RequestWatch) -> PredictTask:
    """Return the task with its request's span, where it has one."""
    return replace(task, traceparent=watched.traceparent) if watched.traceparent else task


async def predict_watched(
    predictor: Predicts, task: PredictTask, caller: Identity, deadline_s: float | None, *, watched: RequestWatch
) -> Prediction:
    """Return the prediction, and say how it ended."""
    try:
        prediction = await predictor.predict(task, caller, deadline_s=deadline_s)
    except BaseException as error:
        watched.answered(error)
        raise
    watched.answered(prediction)
    return prediction


def _leave(give_up: GiveUp, watched: RequestWatch) -> None:
    give_up()
    watched.answered(asyncio.CancelledError())
