"""The gRPC face of an initiator: messages in, the use case, messages out; nothing is decided here."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Protocol

import grpc

from fedpredict.errors import FedPredictError
from fedpredict.initiator.admission import Access
from fedpredict.initiator.audited import WHAT, RequestAudit
from fedpredict.initiator.methods import METHODS, SERVICE
from fedpredict.initiator.predict import Predicts
from fedpredict.initiator.predict_stream import PredictStreams, WhoCalls
from fedpredict.model.prediction import ModelInfo
from fedpredict.observe.logs import add_log_context
from fedpredict.security.entrance import Entrance
from fedpredict.security.identity import Identity
from fedpredict.wire import codec, task_codec
from fedpredict.wire.handlers import Context, Unread, always, service, stream, unary
from fedpredict.wire.health import CHECK
from fedpredict.wire.v1 import initiator_pb2


class Models(Protocol):
    """What can be asked for."""

    @property
    def model_ids(self) -> tuple[str, ...]:
        """Every configured model, sorted."""

    def info(self, model_id: str) -> ModelInfo:
        """Return the model as its users see it; raise `ModelNotFoundError`."""


class InitiatorService:
    """`InitiatorService` of the protocol."""

    def __init__(
        self,
        predictor: Predicts,
        models: Models,
        access: Access,
        who_calls: WhoCalls,
        streams: PredictStreams,
        *,
        attach: Callable[[Context], Awaitable[None]] | None = None,
        offline: Mapping[str, grpc.RpcMethodHandler[bytes, bytes]] | None = None,
        wants: Callable[[BaseException], bool] = always,
        audit: RequestAudit | None = None,
    ) -> None:
        """Prepare.

        Args:
            predictor: The use case.
            models: What can be asked for.
            access: Who may.
            who_calls: Call -> the caller's identity; raises `UnauthenticatedError`.
            streams: Answers calls on standing streams.
            attach: Serves a participant that dials us; None where none does.
            offline: The methods of offline tasks; None where there are none.
            wants: Whether a prediction that ended in an error gets a line in the log.
            audit: Writes down what is refused before `predictor` has it; default: nothing does.
        """
        self._attach = attach
        self._offline = offline or {}
        self._wants = wants
        self._entrance = Entrance(access, audit or RequestAudit(None))
        self._streams = streams
        self._predictor = predictor
        self._models = models
        self._access = access
        self._who_calls = who_calls

    def handlers(self) -> grpc.GenericRpcHandler[bytes, bytes]:
        """Return the service for `server.add_generic_rpc_handlers`."""
        methods = {
            "Predict": unary(initiator_pb2.PredictRequest, self.predict, self._wants, self._unread("Predict")),
            "PredictStream": self._streams.handler(),
            "ListModels": unary(initiator_pb2.ListModelsRequest, self.list_models, unread=self._unread("ListModels")),
            **self._offline,
        }
        if self._attach is not None:
            methods["Attach"] = stream(self._attach)
        return service(SERVICE, methods)

    async def predict(self, request: initiator_pb2.PredictRequest, context: Context) -> initiator_pb2.PredictReply:
        """Answer a total task."""
        caller = self._caller(context)
        try:
            task = task_codec.task_from_wire(request)
        except FedPredictError as error:
            self._entrance.misunderstood(WHAT["grpc"], caller, error)
            raise
        add_log_context(request_id=task.request_id, model=task.model_id)
        sent = traceparent_sent(context)
        if sent:
            task = replace(task, traceparent=sent)
        prediction = await self._predictor.predict(task, caller, deadline_s=context.time_remaining())
        return task_codec.prediction_to_wire(prediction)

    async def list_models(
        self, request: initiator_pb2.ListModelsRequest, context: Context
    ) -> initiator_pb2.ListModelsReply:
        """Tell the models that this caller may ask for."""
        caller = self._caller(context)
        with self._entrance.look_up("ListModels", caller):
            codec.check_protocol_version(request.protocol_version)
            known = [model_id for model_id in self._models.model_ids if self._access.may_ask(caller, model_id)]
            infos = [self._models.info(model_id) for model_id in known]
        return initiator_pb2.ListModelsReply(models=[task_codec.model_info_to_wire(info) for info in infos])

    def drain(self) -> None:
        """Let the standing streams end when the calls under way on them are answered; unary calls end by themselves."""
        self._streams.drain()

    def is_ready(self, model_id: str, context: Context) -> bool:
        """Return whether a model can be answered in full; raise `ModelNotFoundError` where it is not the caller's."""
        with self._entrance.look_up(CHECK, self._caller(context), model_id):
            return self._models.info(model_id).ready

    def _unread(self, method: str) -> Unread:
        return self._entrance.unread(method, METHODS[f"{SERVICE}/{method}"], self._caller)

    def _caller(self, context: Context) -> Identity:
        caller = self._who_calls(context)
        add_log_context(caller=caller.name)
        return caller


def traceparent_sent(context: Context) -> str:
    """Return what the caller sent as W3C's metadata of that name; empty where it sent none."""
    for key, value in context.invocation_metadata() or ():
        if key == "traceparent" and isinstance(value, str):
            return value
    return ""
