"""The Open Inference Protocol v2 over HTTP: JSON, and tensors as bytes after it."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

import msgspec
from msgspec import UNSET

from fedpredict.errors import FieldError, ModelNotReadyError
from fedpredict.http.application import JSON, REQUEST_ID, Answer, Endpoint, ProblemError, Request, Route
from fedpredict.http.exchange import Exchange
from fedpredict.http.problem import media_refused
from fedpredict.initiator import open_inference as oip
from fedpredict.initiator.audited import WHAT
from fedpredict.initiator.http import bodies
from fedpredict.initiator.http.bodies import InferAnswer, InferBody, InferInput, InferOutput, Parameters
from fedpredict.initiator.http.decode import (
    TRACE_HEADER,
    Incoming,
    deadline_of,
    decode,
    name_request,
)
from fedpredict.initiator.http.encode import encode
from fedpredict.initiator.http.models import Catalogued
from fedpredict.initiator.http.predict import Identify, caller_of
from fedpredict.initiator.http.refusals import Refusals
from fedpredict.initiator.predict import Predicts
from fedpredict.initiator.submit import GiveUp
from fedpredict.model.prediction import ModelInfo, Prediction, PredictTask
from fedpredict.model.sample_ids import SampleIds
from fedpredict.security.entrance import Entrance
from fedpredict.security.identity import Identity
from fedpredict.wire.members import COLON, check_body, count, has_more

BINARY = "application/octet-stream"
LENGTH_HEADER = b"inference-header-content-length"
EXTENSIONS = ["binary_tensor_data"]
BINARY_SIZE, BINARY_DATA, ALL_BINARY = "binary_data_size", "binary_data", "binary_data_output"
T = TypeVar("T")
_NOT_SERVED = ("classification", "shared_memory_region")
_decoder = msgspec.json.Decoder(InferBody)
_CELLS: dict[str, msgspec.json.Decoder[Any]] = {
    "BYTES": msgspec.json.Decoder(list[str]),
    "FP64": msgspec.json.Decoder(list[float | None]),
    "FP32": msgspec.json.Decoder(list[float | None]),
    "INT64": msgspec.json.Decoder(list[int]),
    "INT32": msgspec.json.Decoder(list[int]),
    "BOOL": msgspec.json.Decoder(list[bool]),
}
_NESTED: dict[str, msgspec.json.Decoder[Any]] = {
    "BYTES": msgspec.json.Decoder(list[list[str]]),
    "FP64": msgspec.json.Decoder(list[list[float | None]]),
    "FP32": msgspec.json.Decoder(list[list[float | None]]),
    "INT64": msgspec.json.Decoder(list[list[int]]),
    "INT32": msgspec.json.Decoder(list[list[int]]),
    "BOOL": msgspec.json.Decoder(list[list[bool]]),
}


@dataclass(frozen=True, slots=True, eq=False)
class _Parts:
    """A request cut in two: its JSON, and the bytes after it."""

    body: InferBody
    binary: memoryview


@dataclass(frozen=True, slots=True)
class _Wanted:
    """An output to send, and whether as bytes."""

    name: str
    binary: bool


@dataclass(slots=True, eq=False)
class _Asked:
    """An inference: who asks what of which model, and how the answer is to look.

    Attributes:
        caller: Who asks.
        info: The model.
        name: The request's `id`, for the answer.
        task: What is asked.
        deadline_s: How long the caller waits.
        wanted: The outputs.
        all_scored: Whether the answer is refused unless every row has a score.
    """

    caller: Identity
    info: ModelInfo
    name: str | None
    task: PredictTask
    deadline_s: float | None
    wanted: list[_Wanted]
    all_scored: bool


class InferEndpoint:
    """Inferences."""

    def __init__(
        self,
        predictor: Predicts,
        catalogued: Catalogued,
        identify: Identify,
        refusals: Refusals,
        entrance: Entrance,
    ) -> None:
        self._predictor = predictor
        self._entrance = entrance
        self._catalogued = catalogued
        self._identify = identify
        self._refusals = refusals

    def begin(self, exchange: Exchange) -> GiveUp | None:
        """Begin to answer an inference on the fast path; return what gives it up."""
        _, _, _, model, *version, _ = exchange.head.url.decode("latin-1").split("/")
        request_id = name_request(exchange.header(b"x-request-id"))
        try:
            asked = self._read(exchange, model, "".join(version[1:]))
            request_id = asked.task.request_id
            done = partial(self._answer, exchange, asked)
            return self._predictor.submit(asked.task, asked.caller, deadline_s=asked.deadline_s, done=done)
        except Exception as error:  # noqa: BLE001  an edge: nothing but a public text may leave
            self._refusals.refuse(exchange, request_id, error)
            return None

    async def answer(self, request: Request) -> Answer:
        """Answer an inference that came through ASGI."""
        asked = self._read(request, request.path_params["model"], request.path_params.get("version", ""))
        prediction = await self._predictor.predict(asked.task, asked.caller, deadline_s=asked.deadline_s)
        answer = _answer(asked, prediction)
        return replace(answer, headers={**answer.headers, REQUEST_ID: asked.task.request_id})

    def _answer(self, exchange: Exchange, asked: _Asked, ended: Prediction | BaseException) -> None:
        request_id = asked.task.request_id
        if isinstance(ended, BaseException):
            self._refusals.refuse(exchange, request_id, ended)
            return
        try:
            answer = _answer(asked, ended)
        except Exception as error:  # noqa: BLE001  an edge: the caller gets an answer, whatever happens
            self._refusals.refuse(exchange, request_id, error)
        else:
            exchange.answer(answer.status, answer.content_type, answer.body, request_id, answer.headers)

    def _read(self, request: Incoming, model_id: str, version: str) -> _Asked:
        caller = caller_of(request, self._identify)
        try:
            return self._understood(caller, request, model_id, version)
        except Exception as error:
            self._entrance.misunderstood(WHAT["oip_http"], caller, error)
            raise

    def _understood(self, caller: Identity, request: Incoming, model_id: str, version: str) -> _Asked:
        info = self._catalogued.info_for(caller, model_id)
        oip.check_version(info, version)
        parts = _split(request)
        parameters = parts.body.parameters or {}
        options, wanted = oip.parse_options(parameters), _wanted(parts.body, parameters)
        features = oip.features_of(_tensors(parts))
        task = PredictTask(
            request_id=name_request(request.header(b"x-request-id") or parts.body.id),
            model_id=info.model_id,
            mode=options.mode,
            sample_ids=features.sample_ids,
            inputs=features.inputs,
            traceparent=request.header(TRACE_HEADER) or "",
        )
        as_json = any(each.name == oip.PREDICTION and not each.binary for each in wanted)
        deadline_s = deadline_of(request, options.deadline_s)
        return _Asked(caller, info, parts.body.id, task, deadline_s, wanted, as_json and not options.allow_partial)


def open_inference_routes(catalogued: Catalogued, infer: Endpoint) -> list[Route]:
    """Return the protocol's paths, apart from health."""

    async def server(_request: Request) -> Answer:
        metadata = oip.server_metadata()
        return Answer(encode(bodies.ServerMetadataAnswer(metadata.name, metadata.version, EXTENSIONS)))

    def model(route: str) -> Endpoint:
        async def answer(request: Request) -> Answer:
            return Answer(encode(_metadata_body(oip.model_metadata(catalogued.info(route, request)))))

        return answer

    def ready(route: str) -> Endpoint:
        async def answer(request: Request) -> Answer:
            info = catalogued.info(route, request)
            if not info.ready:
                raise ModelNotReadyError(f"model {info.model_id}: {info.problem}")
            return Answer(encode(bodies.ModelReadyAnswer(info.model_id, ready=True)))

        return answer

    routes = [Route("GET", "/v2", server)]
    for path in ("/v2/models/{model}", "/v2/models/{model}/versions/{version}"):
        routes += [
            Route("GET", path, model(f"GET {path}")),
            Route("GET", f"{path}/ready", ready(f"GET {path}/ready")),
            Route("POST", f"{path}/infer", infer),
        ]
    return routes


def _metadata_body(metadata: oip.ModelMetadata) -> bodies.ModelMetadataAnswer:
    def tensors(described: tuple[oip.TensorMetadata, ...]) -> list[bodies.TensorAnswer]:
        return [bodies.TensorAnswer(each.name, each.datatype, list(each.shape)) for each in described]

    return bodies.ModelMetadataAnswer(
        name=metadata.name,
        versions=list(metadata.versions),
        platform=metadata.platform,
        inputs=tensors(metadata.inputs),
        outputs=tensors(metadata.outputs),
    )


def _split(request: Incoming) -> _Parts:
    media = (request.header(b"content-type") or JSON).partition(";")[0].strip().lower()
    # what forms send without asking first is no request for a prediction; the protocol's own clients may leave it out
    if media not in (JSON, BINARY) or request.header(b"content-encoding") not in (None, "identity"):
        raise ProblemError(media_refused(f"{JSON} or {BINARY}"))
    view, length = memoryview(request.body), request.header(LENGTH_HEADER)
    if length is None:
        return _Parts(_body(view), view[:0])
    if not (length.isascii() and length.isdecimal() and len(length) < 12 and int(length) <= len(view)):
        place = f"header {LENGTH_HEADER.decode()}"
        raise FieldError(f"{place} does not fit", place=place, problem="not the length of the JSON in the body")
    return _Parts(_body(view[: int(length)]), view[int(length) :])


def _body(text: memoryview) -> InferBody:
    body = decode(_decoder, text)
    n_members = body.n_members
    if has_more(bytes(text), COLON, n_members):
        # those in tensors' cells are no members, as cells that are objects are refused
        n_in_cells = sum(count(bytes(tensor.data), COLON) for tensor in body.inputs if tensor.data is not UNSET)
        if count(text, COLON) != n_members + n_in_cells:
            check_body(text)
    return body


def _tensors(parts: _Parts) -> list[oip.Tensor]:
    tensors, at = [], 0
    for tensor in parts.body.inputs:
        size = (tensor.parameters or {}).get(BINARY_SIZE)
        if size is None:
            tensors.append(_json_tensor(tensor))
            continue
        if isinstance(size, bool) or not isinstance(size, int) or not 0 <= size <= len(parts.binary) - at:
            raise _wrong(tensor, "binary_data_size is not the number of its bytes after the JSON")
        tensors.append(oip.parse_raw(tensor.name, tensor.datatype, tensor.shape, parts.binary[at : at + size]))
        at += size
    if at != len(parts.binary):
        raise FieldError("bytes of no tensor", place="body", problem="more bytes after the JSON than the tensors have")
    return tensors


def _json_tensor(tensor: InferInput) -> oip.Tensor:
    if tensor.datatype not in _CELLS:
        return oip.parse_cells(tensor.name, tensor.datatype, tensor.shape, ())
    data = b"null" if tensor.data is UNSET else bytes(tensor.data)
    if data[1:].lstrip()[:1] == b"[":
        cells = list(itertools.chain.from_iterable(_cells(tensor, _NESTED[tensor.datatype], data)))
    else:
        cells = _cells(tensor, _CELLS[tensor.datatype], data)
    return oip.parse_cells(tensor.name, tensor.datatype, tensor.shape, cells)


def _cells(tensor: InferInput, decoder: msgspec.json.Decoder[list[T]], data: bytes) -> list[T]:
    try:
        return decode(decoder, data)
    except FieldError as error:
        raise _wrong(tensor, f"data: {error.problem}") from error


def _wanted(body: InferBody, parameters: Parameters) -> list[_Wanted]:
    asked = body.outputs or []
    all_binary = parameters.get(ALL_BINARY, False) is True
    names = oip.check_outputs([output.name for output in asked])
    if not asked:
        return [_Wanted(name, all_binary) for name in names]
    wanted = []
    for output in asked:
        said = output.parameters or {}
        strange = next((name for name in _NOT_SERVED if name in said), None)
        if strange is not None:
            raise FieldError(f"output parameter {strange}", place=f"parameter {strange}", problem="not served")
        wanted.append(_Wanted(output.name, said.get(BINARY_DATA, all_binary) is True))
    return wanted


def _answer(asked: _Asked, prediction: Prediction) -> Answer:
    if asked.all_scored:
        oip.check_all_scored(prediction)
    tensors = oip.output_tensors(prediction, [each.name for each in asked.wanted])
    raws = [tensor.to_raw() if each.binary else None for tensor, each in zip(tensors, asked.wanted, strict=True)]
    body = encode(
        InferAnswer(
            model_name=asked.info.model_id,
            model_version=prediction.manifest_sha256[: oip.SHORT_VERSION],
            id=asked.name,
            outputs=[_output(tensor, raw) for tensor, raw in zip(tensors, raws, strict=True)],
            parameters={
                "request_id": prediction.request_id,
                "manifest_sha256": prediction.manifest_sha256,
                "simulated": prediction.simulated,
            },
        )
    )
    binary = [raw for raw in raws if raw is not None]
    if not binary:
        return Answer(body)
    return Answer(b"".join([body, *binary]), BINARY, headers={LENGTH_HEADER.decode(): str(len(body))})


def _output(tensor: oip.Tensor, raw: bytes | None) -> InferOutput:
    output = InferOutput(tensor.name, tensor.datatype, list(tensor.shape))
    if raw is not None:
        output.parameters = {BINARY_SIZE: len(raw)}
    elif isinstance(tensor.cells, SampleIds):
        output.data = [cell.decode() for cell in tensor.cells]
    else:
        output.data = [None if math.isnan(cell) else cell for cell in tensor.cells.tolist()]
    return output


def _wrong(tensor: InferInput, problem: str) -> FieldError:
    return FieldError("a tensor that does not fit", place=f"tensor {tensor.name[:100]!r}", problem=problem)
