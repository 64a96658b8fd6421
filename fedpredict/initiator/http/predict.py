"""`POST /v1/predict`: without ASGI and without a task of its own, and the same through ASGI for odd spellings of it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TypeAlias

from fedpredict.http.application import REQUEST_ID, Answer, Request, Route
from fedpredict.http.exchange import Exchange
from fedpredict.initiator.audited import WHAT
from fedpredict.initiator.http.decode import (
    CALLER_HEADER,
    TOKEN_HEADER,
    Incoming,
    Terms,
    name_request,
    parse_task,
    read_task,
    read_terms,
)
from fedpredict.initiator.http.encode import prediction_json
from fedpredict.initiator.http.refusals import Refusals
from fedpredict.initiator.predict import Predicts
from fedpredict.initiator.submit import GiveUp
from fedpredict.model.prediction import Prediction, PredictTask
from fedpredict.security.entrance import Entrance
from fedpredict.security.identity import Identity

Identify: TypeAlias = Callable[[tuple[str, ...] | None, str | None, str | None], Identity]
"""The URIs of a certificate (None without TLS), the stated name, `authorization` -> the caller, or an error."""


def caller_of(request: Incoming, identify: Identify) -> Identity:
    """Return who a request is from."""
    return identify(request.peer_uris, request.header(CALLER_HEADER), request.header(TOKEN_HEADER))


class PredictEndpoint:
    """Total tasks as JSON."""

    def __init__(
        self,
        predictor: Predicts,
        identify: Identify,
        refusals: Refusals,
        *,
        max_samples: int,
        entrance: Entrance,
    ) -> None:
        self._predictor = predictor
        self._entrance = entrance
        self._identify = identify
        self._refusals = refusals
        self._max_samples = max_samples

    def begin(self, exchange: Exchange) -> GiveUp | None:
        """Begin to answer a request on the fast path; return what gives it up."""
        terms = exchange.head.memo
        if not isinstance(terms, Terms):
            terms = exchange.head.memo = read_terms(exchange)
        request_id = name_request(terms.request_id)
        try:
            caller = self._identify(exchange.peer_uris, terms.caller, terms.authorization)
            try:
                asked = parse_task(exchange.body, terms, request_id, self._max_samples)
            except Exception as error:
                self._entrance.misunderstood(WHAT["http"], caller, error)
                raise
            task = asked.task
            request_id = task.request_id
            done = partial(self._answer, exchange, task)
            return self._predictor.submit(task, caller, deadline_s=asked.deadline_s, done=done)
        except Exception as error:  # noqa: BLE001  an edge: nothing but a public text may leave
            self._refusals.refuse(exchange, request_id, error)
            return None

    async def answer(self, request: Request) -> Answer:
        """Answer a request that came through ASGI."""
        caller = caller_of(request, self._identify)
        try:
            asked = read_task(request, request.request_id, self._max_samples)
        except Exception as error:
            self._entrance.misunderstood(WHAT["http"], caller, error)
            raise
        prediction = await self._predictor.predict(asked.task, caller, deadline_s=asked.deadline_s)
        body = prediction_json(prediction, asked.task.model_id)
        return Answer(body, headers={REQUEST_ID: asked.task.request_id})

    def _answer(self, exchange: Exchange, task: PredictTask, ended: Prediction | BaseException) -> None:
        if isinstance(ended, BaseException):
            self._refusals.refuse(exchange, task.request_id, ended)
            return
        try:
            body = prediction_json(ended, task.model_id)
        except Exception as error:  # noqa: BLE001  an edge: the caller gets an answer, whatever happens
            self._refusals.refuse(exchange, task.request_id, error)
        else:
            exchange.answer_json(body, task.request_id)


def predict_route(endpoint: PredictEndpoint) -> Route:
    """Return the operation, as the application and the description have it."""
    return Route("POST", "/v1/predict", endpoint.answer)
