"""The gRPC face of the Open Inference Protocol v2: its messages in, the use case, its messages out.

What tensors, options and versions mean is in `initiator.open_inference`, for HTTP and gRPC alike. `ModelStreamInfer`,
an extension of one server, is not offered: `PredictStream` is the stream of this initiator.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import grpc

from fedpredict.errors import FedPredictError, FieldError, ProtocolError
from fedpredict.initiator import open_inference as oip
from fedpredict.initiator.admission import Access
from fedpredict.initiator.audited import WHAT, RequestAudit
from fedpredict.initiator.methods import INFERENCE, METHODS
from fedpredict.initiator.predict import Predicts
from fedpredict.initiator.predict_stream import WhoCalls
from fedpredict.initiator.service import Models, traceparent_sent
from fedpredict.model.prediction import ModelInfo, Prediction, PredictTask
from fedpredict.observe.logs import add_log_context
from fedpredict.security.entrance import Entrance
from fedpredict.security.identity import Identity
from fedpredict.wire.codec import check_request_id, new_request_id
from fedpredict.wire.handlers import Context, Unread, always, service, unary
from fedpredict.wire.inference import grpc_service_pb2 as pb

_CONTENTS = {
    "BYTES": "bytes_contents",
    "FP64": "fp64_contents",
    "FP32": "fp32_contents",
    "INT64": "int64_contents",
    "INT32": "int_contents",
    "BOOL": "bool_contents",
}
"""Datatype -> the field of `InferTensorContents` that holds its cells."""


class InferenceService:
    """`inference.GRPCInferenceService` of the protocol."""

    def __init__(
        self,
        predictor: Predicts,
        models: Models,
        access: Access,
        who_calls: WhoCalls,
        *,
        ready: Callable[[], bool],
        wants: Callable[[BaseException], bool] = always,
        audit: RequestAudit | None = None,
    ) -> None:
        """Prepare.

        Args:
            predictor: The use case.
            models: What can be asked for.
            access: Who may.
            who_calls: Call -> the caller's identity; raises `UnauthenticatedError`.
            ready: Whether this process takes requests; not whether any model can be answered.
            wants: Whether an inference that ended in an error gets a line in the log.
            audit: Writes down what is refused before `predictor` has it; default: nothing does.
        """
        self._predictor = predictor
        self._models = models
        self._access = access
        self._who_calls = who_calls
        self._ready = ready
        self._wants = wants
        self._entrance = Entrance(access, audit or RequestAudit(None))

    def handlers(self) -> grpc.GenericRpcHandler[bytes, bytes]:
        """Return the service for `server.add_generic_rpc_handlers`."""
        return service(
            INFERENCE,
            {
                "ServerLive": unary(pb.ServerLiveRequest, self.server_live),
                "ServerReady": unary(pb.ServerReadyRequest, self.server_ready),
                "ServerMetadata": unary(pb.ServerMetadataRequest, self.server_metadata),
                "ModelReady": unary(pb.ModelReadyRequest, self.model_ready, unread=self._unread("ModelReady")),
                "ModelMetadata": unary(
                    pb.ModelMetadataRequest, self.model_metadata, unread=self._unread("ModelMetadata")
                ),
                "ModelInfer": unary(pb.ModelInferRequest, self.model_infer, self._wants, self._unread("ModelInfer")),
            },
        )

    async def server_live(self, _request: pb.ServerLiveRequest, _context: Context) -> pb.ServerLiveResponse:
        """Tell that this process runs."""
        return pb.ServerLiveResponse(live=True)

    async def server_ready(self, _request: pb.ServerReadyRequest, _context: Context) -> pb.ServerReadyResponse:
        """Tell whether this process takes requests."""
        return pb.ServerReadyResponse(ready=self._ready())

    async def server_metadata(self, _request: pb.ServerMetadataRequest, _context: Context) -> pb.ServerMetadataResponse:
        """Tell what this server is."""
        metadata = oip.server_metadata()
        return pb.ServerMetadataResponse(name=metadata.name, version=metadata.version)

    async def model_ready(self, request: pb.ModelReadyRequest, context: Context) -> pb.ModelReadyResponse:
        """Tell whether a model can be answered in full."""
        with self._entrance.look_up("ModelReady", self._caller(context), request.name):
            return pb.ModelReadyResponse(ready=self._info(request.name, request.version).ready)

    async def model_metadata(self, request: pb.ModelMetadataRequest, context: Context) -> pb.ModelMetadataResponse:
        """Tell what a model takes and gives."""
        with self._entrance.look_up("ModelMetadata", self._caller(context), request.name):
            metadata = oip.model_metadata(self._info(request.name, request.version))
        return pb.ModelMetadataResponse(
            name=metadata.name,
            versions=metadata.versions,
            platform=metadata.platform,
            inputs=_described(metadata.inputs),
            outputs=_described(metadata.outputs),
        )

    async def model_infer(self, request: pb.ModelInferRequest, context: Context) -> pb.ModelInferResponse:
        """Answer an inference; rows without a score are NaN, and their status says why."""
        caller = self._caller(context)
        try:
            task, options, names = self._understood(request, context, caller)
        except FedPredictError as error:
            self._entrance.misunderstood(WHAT["oip_grpc"], caller, error)
            raise
        add_log_context(request_id=task.request_id, model=task.model_id)
        limits = [limit for limit in (context.time_remaining(), options.deadline_s) if limit is not None]
        prediction = await self._predictor.predict(task, caller, deadline_s=min(limits, default=None))
        return _response(request, prediction, names)

    def _understood(
        self, request: pb.ModelInferRequest, context: Context, caller: Identity
    ) -> tuple[PredictTask, oip.Options, Sequence[str]]:
        """Return what is asked: the task, how, and which outputs are wanted."""
        self._access.check(caller, request.model_name)
        info = self._info(request.model_name, request.model_version)
        options = oip.parse_options(_parameters(request.parameters))
        names = oip.check_outputs([output.name for output in request.outputs])
        features = oip.features_of(_tensors(request))
        task = PredictTask(
            request_id=_request_id(request.id),
            model_id=info.model_id,
            mode=options.mode,
            sample_ids=features.sample_ids,
            inputs=features.inputs,
            traceparent=traceparent_sent(context),
        )
        return task, options, names

    def _unread(self, method: str) -> Unread:
        return self._entrance.unread(method, METHODS[f"{INFERENCE}/{method}"], self._caller)

    def _caller(self, context: Context) -> Identity:
        caller = self._who_calls(context)
        add_log_context(caller=caller.name)
        return caller

    def _info(self, model_id: str, version: str) -> ModelInfo:
        info = self._models.info(model_id)
        oip.check_version(info, version)
        return info


def _described(tensors: Sequence[oip.TensorMetadata]) -> list[pb.ModelMetadataResponse.TensorMetadata]:
    return [
        pb.ModelMetadataResponse.TensorMetadata(name=each.name, datatype=each.datatype, shape=each.shape)
        for each in tensors
    ]


def _parameters(given: Mapping[str, pb.InferParameter]) -> dict[str, oip.Parameter]:
    choices = {name: (each, each.WhichOneof("parameter_choice")) for name, each in given.items()}
    return {name: getattr(each, choice) for name, (each, choice) in choices.items() if choice is not None}


def _tensors(request: pb.ModelInferRequest) -> list[oip.Tensor]:
    raws = request.raw_input_contents
    if not raws:
        return [_typed_tensor(each) for each in request.inputs]
    if len(raws) != len(request.inputs):
        problem = f"{len(raws)} raw contents for {len(request.inputs)} tensors"
        raise FieldError(problem, place="raw_input_contents", problem=problem)
    return [
        oip.parse_raw(each.name, each.datatype, each.shape, raw) for each, raw in zip(request.inputs, raws, strict=True)
    ]


def _typed_tensor(tensor: pb.ModelInferRequest.InferInputTensor) -> oip.Tensor:
    field = _CONTENTS.get(tensor.datatype)
    cells = getattr(tensor.contents, field) if field is not None else ()
    return oip.parse_cells(tensor.name, tensor.datatype, tensor.shape, cells)


def _request_id(given: str) -> str:
    """Return the caller's id where it can name a request in logs, else one of ours; the response echoes theirs."""
    try:
        return check_request_id(given)
    except ProtocolError:
        return new_request_id()


def _response(request: pb.ModelInferRequest, prediction: Prediction, names: Sequence[str]) -> pb.ModelInferResponse:
    tensors = oip.output_tensors(prediction, names)
    return pb.ModelInferResponse(
        model_name=request.model_name,
        model_version=prediction.manifest_sha256[: oip.SHORT_VERSION],
        id=request.id,
        parameters={
            "request_id": pb.InferParameter(string_param=prediction.request_id),
            **({"simulated": pb.InferParameter(bool_param=True)} if prediction.simulated else {}),
        },
        outputs=[
            pb.ModelInferResponse.InferOutputTensor(name=each.name, datatype=each.datatype, shape=each.shape)
            for each in tensors
        ],
        raw_output_contents=[each.to_raw() for each in tensors],
    )
