"""What both clients share, pure: sample ids in, requests out; replies in, one result out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias, TypeVar

import numpy as np
from google.protobuf.message import DecodeError, Message

from fedpredict.client.failures import TooLargeError, from_failure
from fedpredict.client.ids import GivenIds, SampleIdsLike, take_ids
from fedpredict.client.own_inputs import InputsLike, take_inputs
from fedpredict.client.predictions import Predictions
from fedpredict.errors import EmptyRequestError, InputError, ManifestMismatchError, ProtocolError
from fedpredict.model.ids import check_model_id
from fedpredict.model.prediction import ModelInfo, Prediction, PredictTask, join_reports
from fedpredict.model.share import Mode
from fedpredict.observe.traces import current_traceparent
from fedpredict.wire import arrow_codec, codec, task_codec
from fedpredict.wire.channel import MAX_MESSAGE_BYTES
from fedpredict.wire.v1 import initiator_pb2

_Reply = TypeVar("_Reply", bound=Message)

_SERVICE = initiator_pb2.DESCRIPTOR.services_by_name["InitiatorService"].full_name
PREDICT = f"/{_SERVICE}/Predict"
PREDICT_STREAM = f"/{_SERVICE}/PredictStream"
LIST_MODELS = f"/{_SERVICE}/ListModels"
UPLOAD_SAMPLES = f"/{_SERVICE}/UploadSamples"
SUBMIT_TASK = f"/{_SERVICE}/SubmitTask"
GET_TASK = f"/{_SERVICE}/GetTask"
LIST_TASKS = f"/{_SERVICE}/ListTasks"
CANCEL_TASK = f"/{_SERVICE}/CancelTask"
RETRY_TASK = f"/{_SERVICE}/RetryTask"
GET_TASK_HISTORY = f"/{_SERVICE}/GetTaskHistory"
FETCH_RESULTS = f"/{_SERVICE}/FetchResults"
CHUNK_SIZE = 10_000
TIMEOUT_S = 30.0
CALLS_AT_ONCE = 4
"""Chunks of one prediction that are under way at the same time."""

Advance: TypeAlias = Callable[[int, int], None]
"""Told (samples answered, samples in all)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One prediction as the calls that it takes.

    Attributes:
        request_id: Of the whole.
        given: The sample ids.
        tasks: One per call, in order; several are told apart by a number behind the request id, from 0.
    """

    request_id: str
    given: GivenIds
    tasks: tuple[PredictTask, ...]


def plan(
    model_id: str, sample_ids: SampleIdsLike, mode: Mode, chunk_size: int, inputs: InputsLike | None = None
) -> Plan:
    """Return the calls that a prediction takes: chunks of at most `chunk_size` ids, in order.

    Where the program that calls has a span of OpenTelemetry's open, it goes with each of them.

    Raises:
        NameRefusedError: The model id breaks the rules.
        InputError: As `take_ids` and `take_inputs`; or there is no such mode.
        EmptyRequestError: There are no ids.

    >>> [list(task.sample_ids) for task in plan("m", ["u1", "u2", "u3"], Mode.NEARLINE, 2).tasks]
    [[b'u1', b'u2'], [b'u3']]
    """
    check_model_id(model_id)
    mode = check_mode(mode)
    given = take_ids(sample_ids)
    if not len(given):
        raise EmptyRequestError("there are no sample ids to predict")
    own = None if inputs is None else take_inputs(inputs, len(given))
    request_id, traceparent = codec.new_request_id(), current_traceparent()
    starts = range(0, len(given), chunk_size)
    names = [request_id] if len(starts) == 1 else [f"{request_id}.{number}" for number in range(len(starts))]
    tasks = (
        PredictTask(
            request_id=name,
            model_id=model_id,
            mode=mode,
            sample_ids=given.packed[start : start + chunk_size],
            inputs=own and own.of(slice(start, start + chunk_size)),
            traceparent=traceparent,
        )
        for name, start in zip(names, starts, strict=True)
    )
    return Plan(request_id=request_id, given=given, tasks=tuple(tasks))


def finish(prediction_plan: Plan, answers: Sequence[Prediction]) -> Predictions:
    """Return the result of a prediction from the answers to its tasks, in their order."""
    return Predictions(prediction_plan.given, join(prediction_plan.request_id, answers))


@dataclass(frozen=True, slots=True)
class Question:
    """One call: which method, the message, the model that it is about, and the caller's span (empty: none)."""

    method: str
    message: bytes
    model_id: str = ""
    traceparent: str = ""

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What goes with the call alone."""
        return (("traceparent", self.traceparent),) if self.traceparent else ()


def question(task: PredictTask) -> Question:
    """Return the call that asks for one task; raise `TooLargeError` where no server takes it."""
    message = _within_limit(task_codec.task_to_wire(task).SerializeToString())
    return Question(PREDICT, message, task.model_id, task.traceparent)


def stream_call(call_id: int, task: PredictTask, remaining_s: float, *, as_table: bool) -> bytes:
    """Return the message that asks for one task on a `PredictStream`.

    Args:
        call_id: Names the call on its stream.
        task: What is asked for.
        remaining_s: How long the caller still waits.
        as_table: As Arrow columns.

    Raises:
        TooLargeError: No server takes it.
    """
    call = initiator_pb2.PredictCall(id=call_id, remaining_ms=max(1, int(remaining_s * 1000)))
    if task.traceparent:
        call.traceparent = task.traceparent
    if as_table:
        arrow_codec.task_to_arrow(task, call.arrow)
    else:
        task_codec.task_to_wire(task, call.predict)
    return _within_limit(call.SerializeToString())


def parse_stream_answer(answer: initiator_pb2.PredictAnswer, task: PredictTask) -> Prediction:
    """Return the answer to one task from a `PredictStream`.

    Raises:
        LostConnectionError: The stream did not take the call.
        FedPredictError: What the call failed with, or `ProtocolError` where this is no answer to it.
    """
    body = answer.WhichOneof("body")
    if body == "failure":
        raise from_failure(answer.failure)
    if body not in ("reply", "arrow"):
        raise ProtocolError("an answer without content")
    n_samples = len(task.sample_ids)
    if body == "arrow":
        prediction = arrow_codec.prediction_from_arrow(answer.arrow, n_samples)
    else:
        prediction = task_codec.prediction_from_wire(answer.reply, n_samples)
    return _checked(prediction, task)


def models_question() -> Question:
    """Return the call that asks for the models."""
    message = initiator_pb2.ListModelsRequest(protocol_version=codec.PROTOCOL_VERSION)
    return Question(LIST_MODELS, message.SerializeToString())


def parse_answer(data: bytes, task: PredictTask) -> Prediction:
    """Return the answer to one task; raise `ProtocolError` where it is not one."""
    reply = parse_reply(initiator_pb2.PredictReply, data)
    return _checked(task_codec.prediction_from_wire(reply, len(task.sample_ids)), task)


def advance(on_progress: Advance | None, answers: Sequence[Prediction], prediction_plan: Plan) -> None:
    """Tell whoever wants to know how many samples are answered."""
    if on_progress is not None:
        on_progress(sum(len(answer.status) for answer in answers), len(prediction_plan.given))


def parse_models(data: bytes) -> list[ModelInfo]:
    """Return the models of a reply; raise `ProtocolError` where it breaks the protocol."""
    return [
        task_codec.model_info_from_wire(message) for message in parse_reply(initiator_pb2.ListModelsReply, data).models
    ]


def join(request_id: str, predictions: Sequence[Prediction]) -> Prediction:
    """Return one answer from the answers to consecutive chunks, in order.

    Per party: the oldest event time of all chunks, the longest times, and every problem that occurred.

    Raises:
        ManifestMismatchError: The version, the classes, the parties or the widths changed between chunks, so that the
            rows would not be comparable.
    """
    first = predictions[0]
    if len(predictions) == 1:
        return first
    for other in predictions[1:]:
        if _version(other) != _version(first):
            raise ManifestMismatchError(
                f"request {request_id}: the model's version changed between two chunks (manifest "
                f"{first.manifest_sha256 or 'none'}, then {other.manifest_sha256 or 'none'}); ask again"
            )
    sizes = [len(prediction.status) for prediction in predictions]
    reports = [
        join_reports([prediction.parties[i] for prediction in predictions], sizes) for i in range(len(first.parties))
    ]
    return replace(
        first,
        request_id=request_id,
        predictions=np.concatenate([prediction.predictions for prediction in predictions]),
        status=np.concatenate([prediction.status for prediction in predictions]),
        origin=np.concatenate([prediction.origin for prediction in predictions]),
        parties=tuple(reports),
    )


def check_mode(mode: Mode) -> Mode:
    """Return `mode` as a member; raise `InputError` where there is no such mode."""
    try:
        return Mode(mode)
    except ValueError as error:
        raise InputError(f"mode is {mode!r}; one of {', '.join(Mode)} is needed") from error


def _within_limit(message: bytes) -> bytes:
    if len(message) > MAX_MESSAGE_BYTES:
        raise TooLargeError(
            f"{len(message) / 2**20:.1f} MiB in one call; the limit is {MAX_MESSAGE_BYTES >> 20} MiB: pass a smaller "
            "chunk_size"
        )
    return message


def parse_reply(reply_type: type[_Reply], data: bytes) -> _Reply:
    """Return a reply's message; raise `ProtocolError` where it does not parse."""
    try:
        return reply_type.FromString(data)
    except DecodeError as error:
        raise ProtocolError("the server's reply does not parse; is it an initiator?") from error


def _checked(prediction: Prediction, task: PredictTask) -> Prediction:
    if prediction.request_id != task.request_id:
        raise ProtocolError("the server answered another request")
    return prediction


def _version(prediction: Prediction) -> tuple[object, ...]:
    return (
        prediction.manifest_sha256,
        prediction.classes,
        prediction.predictions.shape[1],
        tuple(report.party for report in prediction.parties),
        prediction.simulated,
    )
