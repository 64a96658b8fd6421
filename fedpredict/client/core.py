"""What both clients share, pure: sample ids in, requests out; replies in, one result out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, TypeAlias, TypeVar, cast

import numpy as np
from google.protobuf.message import DecodeError, Message

from fedpredict.client.predictions import Predictions
from fedpredict.errors import EmptyRequestError, InputError, ManifestMismatchError, ProtocolError
from fedpredict.model.arrays import Statuses
from fedpredict.model.ids import MAX_SAMPLE_ID_BYTES, check_model_id
from fedpredict.model.prediction import ModelInfo, PartyReport, Prediction, PredictTask
from fedpredict.model.share import Mode, SampleStatus
from fedpredict.wire import codec, task_codec
from fedpredict.wire.v1 import initiator_pb2

_Reply = TypeVar("_Reply", bound=Message)

_SERVICE = initiator_pb2.DESCRIPTOR.services_by_name["InitiatorService"].full_name
PREDICT = f"/{_SERVICE}/Predict"
LIST_MODELS = f"/{_SERVICE}/ListModels"
CHUNK_SIZE = 10_000
TIMEOUT_S = 30.0
CALLS_AT_ONCE = 4
"""Chunks of one prediction that are under way at the same time."""

Advance: TypeAlias = Callable[[int, int], None]
"""Told (samples answered, samples in all)."""


class IdColumn(Protocol):
    """A pandas Series or Index, a numpy array, or anything else that gives its values as a list."""

    def tolist(self) -> list[object]:
        """Return the values as Python objects."""


SampleIdsLike: TypeAlias = "Sequence[str] | Sequence[bytes] | Iterable[str | bytes] | IdColumn"
"""list, tuple, numpy array, pandas Series, pyarrow array or any other iterable of text or bytes."""


def list_ids(sample_ids: SampleIdsLike) -> list[str | bytes]:
    """Return the sample ids as a list, each as it was given.

    Raises:
        InputError: A single string or a table instead of several ids, or an element that is neither text nor bytes;
            with its position.

    >>> list_ids(np.array(["u1", "u2"]))
    ['u1', 'u2']
    """
    if isinstance(sample_ids, str | bytes):
        raise InputError("sample_ids is one string; pass a list of sample ids, even for one: [sample_id]")
    if hasattr(sample_ids, "columns"):
        raise InputError(f"sample_ids is {_a(type(sample_ids).__name__)}; pass the one column that holds the ids")
    return [_check(position, value) for position, value in enumerate(_elements(sample_ids))]


def encode_ids(sample_ids: Sequence[str | bytes]) -> list[bytes]:
    r"""Return sample ids as the bytes that travel: text in UTF-8, bytes as they are.

    Nothing is trimmed or normalised, and an id that breaks the rules is not refused here: the answer has a status for
    it. A lone surrogate is not text, so it travels as bytes that are not UTF-8; of an id that is too long, as much
    travels as makes it too long.

    >>> encode_ids(["u1", b"u2", "\ud800"])
    [b'u1', b'u2', b'\xed\xa0\x80']
    """
    encoded = (value.encode("utf-8", "surrogatepass") if isinstance(value, str) else value for value in sample_ids)
    return [value[: MAX_SAMPLE_ID_BYTES + 1] for value in encoded]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One prediction as the calls that it takes.

    Attributes:
        request_id: Of the whole.
        sample_ids: As given.
        tasks: One per call, in order; several are told apart by a number behind the request id, from 0.
    """

    request_id: str
    sample_ids: list[str | bytes]
    tasks: tuple[PredictTask, ...]


def plan(model_id: str, sample_ids: SampleIdsLike, mode: Mode, chunk_size: int) -> Plan:
    """Return the calls that a prediction takes: chunks of at most `chunk_size` ids, in order.

    Raises:
        NameRefusedError: The model id breaks the rules.
        InputError: As `list_ids`.
        EmptyRequestError: There are no ids.

    >>> [task.sample_ids for task in plan("m", ["u1", "u2", "u3"], Mode.NEARLINE, 2).tasks]
    [[b'u1', b'u2'], [b'u3']]
    """
    check_model_id(model_id)
    ids = list_ids(sample_ids)
    if not ids:
        raise EmptyRequestError("there are no sample ids to predict")
    encoded, request_id = encode_ids(ids), codec.new_request_id()
    chunks = [encoded[start : start + chunk_size] for start in range(0, len(encoded), chunk_size)]
    names = [request_id] if len(chunks) == 1 else [f"{request_id}.{number}" for number in range(len(chunks))]
    tasks = (
        PredictTask(request_id=name, model_id=model_id, mode=mode, sample_ids=chunk)
        for name, chunk in zip(names, chunks, strict=True)
    )
    return Plan(request_id=request_id, sample_ids=ids, tasks=tuple(tasks))


def finish(prediction_plan: Plan, answers: Sequence[Prediction]) -> Predictions:
    """Return the result of a prediction from the answers to its tasks, in their order."""
    return Predictions(prediction_plan.sample_ids, join(prediction_plan.request_id, answers))


@dataclass(frozen=True, slots=True)
class Question:
    """One call: which method, the message, and the model that it is about (empty: none)."""

    method: str
    message: bytes
    model_id: str = ""


def question(task: PredictTask) -> Question:
    """Return the call that asks for one task."""
    return Question(PREDICT, task_codec.task_to_wire(task).SerializeToString(), task.model_id)


def models_question() -> Question:
    """Return the call that asks for the models."""
    message = initiator_pb2.ListModelsRequest(protocol_version=codec.PROTOCOL_VERSION)
    return Question(LIST_MODELS, message.SerializeToString())


def parse_answer(data: bytes, task: PredictTask) -> Prediction:
    """Return the answer to one task; raise `ProtocolError` where it is not one."""
    reply = _parse(initiator_pb2.PredictReply, data)
    if reply.request_id != task.request_id:
        raise ProtocolError("the server answered another request")
    return task_codec.prediction_from_wire(reply, len(task.sample_ids))


def advance(on_progress: Advance | None, answers: Sequence[Prediction], prediction_plan: Plan) -> None:
    """Tell whoever wants to know how many samples are answered."""
    if on_progress is not None:
        on_progress(sum(len(answer.status) for answer in answers), len(prediction_plan.sample_ids))


def parse_models(data: bytes) -> list[ModelInfo]:
    """Return the models of a reply; raise `ProtocolError` where it breaks the protocol."""
    return [task_codec.model_info_from_wire(message) for message in _parse(initiator_pb2.ListModelsReply, data).models]


def join(request_id: str, predictions: Sequence[Prediction]) -> Prediction:
    """Return one answer from the answers to consecutive chunks, in order.

    Per party: the oldest event time of all chunks, the longest times, and every problem that occurred.

    Raises:
        ManifestMismatchError: The version, the classes, the parties or the widths changed between chunks, so that the
            rows would not be comparable.
    """
    first = predictions[0]
    for other in predictions[1:]:
        if _version(other) != _version(first):
            raise ManifestMismatchError(
                f"request {request_id}: the model's version changed between two chunks (manifest "
                f"{first.manifest_sha256 or 'none'}, then {other.manifest_sha256 or 'none'}); ask again"
            )
    sizes = [len(prediction.status) for prediction in predictions]
    reports = [
        _join_reports([prediction.parties[i] for prediction in predictions], sizes) for i in range(len(first.parties))
    ]
    return replace(
        first,
        request_id=request_id,
        predictions=np.concatenate([prediction.predictions for prediction in predictions]),
        status=np.concatenate([prediction.status for prediction in predictions]),
        origin=np.concatenate([prediction.origin for prediction in predictions]),
        parties=tuple(reports),
    )


def _parse(reply_type: type[_Reply], data: bytes) -> _Reply:
    try:
        return reply_type.FromString(data)
    except DecodeError as error:
        raise ProtocolError("the server's reply does not parse; is it an initiator?") from error


def _elements(sample_ids: SampleIdsLike) -> Iterable[object]:
    for method in ("to_pylist", "tolist"):
        convert = getattr(sample_ids, method, None)
        if convert is not None:
            return cast("list[object]", convert())
    return cast("Iterable[object]", sample_ids)


def _check(position: int, value: object) -> str | bytes:
    if isinstance(value, str | bytes):
        return value
    raise InputError(
        f"sample_ids[{position}] is {_a(type(value).__name__)}; ids are text, compared byte by byte, and fedpredict "
        "does not guess how a number was written (1, 01, 1.0): convert it to str as the parties' tables have it"
    )


def _a(noun: str) -> str:
    return f"{'an' if noun[:1].lower() in 'aeiou' else 'a'} {noun}"


def _version(prediction: Prediction) -> tuple[object, ...]:
    return (
        prediction.manifest_sha256,
        prediction.classes,
        prediction.predictions.shape[1],
        tuple(report.party for report in prediction.parties),
        prediction.simulated,
    )


def _join_reports(reports: Sequence[PartyReport], sizes: Sequence[int]) -> PartyReport:
    event_times = [report.oldest_event_time for report in reports if report.oldest_event_time is not None]
    return PartyReport(
        party=reports[0].party,
        status=_join_statuses(reports, sizes),
        oldest_event_time=min(event_times, default=None),
        round_trip_s=max(report.round_trip_s for report in reports),
        elapsed_s=max(report.elapsed_s for report in reports),
        problem="; ".join(dict.fromkeys(report.problem for report in reports if report.problem)),
    )


def _join_statuses(reports: Sequence[PartyReport], sizes: Sequence[int]) -> Statuses | None:
    if all(report.status is None for report in reports):
        return None
    return np.concatenate(
        [
            np.full(size, SampleStatus.OK, dtype=np.uint8) if report.status is None else report.status
            for report, size in zip(reports, sizes, strict=True)
        ]
    )
