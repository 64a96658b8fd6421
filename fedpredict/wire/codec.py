"""The only translator between messages and model values: every check on what a peer sent is here.

`…_to_wire` trusts its arguments; `…_from_wire` trusts nothing and raises `ProtocolError`.
"""

from __future__ import annotations

import itertools
import math
import re
import secrets
from collections.abc import Mapping, Sequence
from typing import TypeVar

import numpy as np

from fedpredict.errors import NameRefusedError, ProtocolError, TooManySamplesError
from fedpredict.model.arrays import Floats, Statuses
from fedpredict.model.ids import check_model_id
from fedpredict.model.kinds import MAX_CLASS_LABEL, MAX_CLASSES, Kind
from fedpredict.model.manifest import PartDescription
from fedpredict.model.partial import MAX_TRAINING_RUN
from fedpredict.model.prediction import ModelInfo, Origin, PartyReport, Prediction, PredictTask
from fedpredict.model.scorer import PartyReply, ScoreQuery
from fedpredict.model.share import Mode, SampleStatus, Share
from fedpredict.wire.channel import MAX_SAMPLES_PER_CALL, max_samples_of
from fedpredict.wire.v1 import common_pb2, initiator_pb2, participant_pb2

PROTOCOL_VERSION = 1

_T = TypeVar("_T")
_FIRST_US, _LAST_US = -62_135_596_800_000_000, 253_402_300_799_999_999
"""The years 1 to 9999, which every calendar in use can show, in microseconds since 1970 UTC."""
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_KINDS = {
    Kind.LINEAR: common_pb2.KIND_LINEAR,
    Kind.BINARY: common_pb2.KIND_BINARY,
    Kind.MULTINOMIAL: common_pb2.KIND_MULTINOMIAL,
    Kind.ONE_VS_REST: common_pb2.KIND_ONE_VS_REST,
}
_MODES = {
    Mode.REALTIME: common_pb2.MODE_REALTIME,
    Mode.NEARLINE: common_pb2.MODE_NEARLINE,
    Mode.OFFLINE: common_pb2.MODE_OFFLINE,
}


def check_protocol_version(version: int) -> None:
    """Raise `ProtocolError` unless a message speaks this version."""
    if version != PROTOCOL_VERSION:
        raise ProtocolError(f"protocol version {version}; this process speaks {PROTOCOL_VERSION}")


def check_request_id(value: str) -> str:
    """Return `value` if it is a request id; else raise `ProtocolError`."""
    if _REQUEST_ID.fullmatch(value) is None:
        raise ProtocolError("a request id is 1 to 64 of A-Z, a-z, 0-9, '.', '_', '-'")
    return value


def ids_to_wire(sample_ids: Sequence[bytes]) -> common_pb2.SampleIds:
    """Return sample ids as one block of bytes and their n + 1 offsets."""
    offsets = np.fromiter(
        itertools.accumulate((len(sample_id) for sample_id in sample_ids), initial=0),
        dtype="<u4",
        count=len(sample_ids) + 1,
    )
    return common_pb2.SampleIds(data=b"".join(sample_ids), offsets=offsets.tobytes())


def ids_from_wire(message: common_pb2.SampleIds) -> list[bytes]:
    """Return the sample ids; their content is not judged here.

    Raises:
        ProtocolError: The offsets do not cut the data.
        TooManySamplesError: More than any process takes; said before they are cut, because cutting millions takes
            seconds of a process that answers others too.
    """
    if not message.offsets and not message.data:
        return []
    if len(message.offsets) % 4 or not message.offsets:
        raise ProtocolError("the offsets of the sample ids are not a row of uint32")
    n_samples = len(message.offsets) // 4 - 1
    if n_samples > MAX_SAMPLES_PER_CALL:
        raise TooManySamplesError(f"{n_samples} sample ids in one message", limit=MAX_SAMPLES_PER_CALL)
    offsets = np.frombuffer(message.offsets, dtype="<u4").astype(np.int64)
    if offsets[0] != 0 or offsets[-1] != len(message.data) or (np.diff(offsets) < 0).any():
        raise ProtocolError("the offsets of the sample ids do not cut their data")
    data, cuts = message.data, offsets.tolist()
    return [data[start:end] for start, end in itertools.pairwise(cuts)]


def query_to_wire(query: ScoreQuery, remaining_ms: int) -> participant_pb2.ScoreRequest:
    """Return a sub-task as a message.

    Args:
        query: The sub-task.
        remaining_ms: How long the caller still waits.
    """
    return participant_pb2.ScoreRequest(
        protocol_version=PROTOCOL_VERSION,
        request_id=query.request_id,
        model_id=query.model_id,
        manifest_sha256=bytes.fromhex(query.manifest_sha256),
        params_sha256=bytes.fromhex(query.params_sha256),
        epoch=query.epoch,
        mode=_MODES[query.mode],
        sample_ids=ids_to_wire(query.sample_ids),
        remaining_ms=max(0, remaining_ms),
    )


def query_from_wire(message: participant_pb2.ScoreRequest) -> ScoreQuery:
    """Return the sub-task of a message; raise `ProtocolError` where it breaks the protocol."""
    check_protocol_version(message.protocol_version)
    return ScoreQuery(
        request_id=check_request_id(message.request_id),
        model_id=_model_id(message.model_id),
        manifest_sha256=_digest(message.manifest_sha256, "manifest_sha256"),
        params_sha256=_digest(message.params_sha256, "params_sha256"),
        mode=_from_enum(_MODES, message.mode, "mode"),
        sample_ids=ids_from_wire(message.sample_ids),
        epoch=message.epoch,
    )


def reply_to_wire(query: ScoreQuery, reply: PartyReply) -> participant_pb2.ScoreReply:
    """Return a party's answer to `query` as a message."""
    return participant_pb2.ScoreReply(
        request_id=query.request_id,
        manifest_sha256=bytes.fromhex(query.manifest_sha256),
        status=reply.share.status.tobytes(),
        values=_matrix_to_wire(reply.share.values),
        oldest_event_time_us=reply.oldest_event_time,
        elapsed_s=reply.elapsed_s,
    )


def reply_from_wire(message: participant_pb2.ScoreReply, query: ScoreQuery, n_scores: int) -> PartyReply:
    """Return a party's answer, checked against what was asked.

    Args:
        message: What came.
        query: What was asked.
        n_scores: The width that the manifest says the share has.

    Raises:
        ProtocolError: Another request, manifest, shape or status, or a number where there may be none.
    """
    if message.request_id != query.request_id:
        raise ProtocolError("the reply is to another request")
    if message.manifest_sha256 != bytes.fromhex(query.manifest_sha256):
        raise ProtocolError("the reply is of another manifest")
    status = _statuses(message.status, len(query.sample_ids), SampleStatus)
    if message.WhichOneof("share") != "values":
        raise ProtocolError("the reply holds no share of float64 values")
    values = _matrix_from_wire(message.values, len(query.sample_ids), n_scores)
    try:
        share = Share(values, status)
    except ValueError as error:
        raise ProtocolError(str(error)) from error
    return PartyReply(
        share=share,
        oldest_event_time=_instant(message.oldest_event_time_us) if message.HasField("oldest_event_time_us") else None,
        elapsed_s=_seconds(message.elapsed_s),
    )


def description_to_wire(request_id: str, part: PartDescription) -> participant_pb2.DescribeModelReply:
    """Return what a party tells of its part as a message."""
    return participant_pb2.DescribeModelReply(
        request_id=request_id,
        party=part.party,
        model_id=part.model_id,
        params_sha256=bytes.fromhex(part.params_sha256),
        training_run=part.training_run,
        kind=_KINDS[part.kind],
        classes=part.classes,
        n_scores=part.n_scores,
        holds_intercept=part.holds_intercept,
        fit_intercept=part.fit_intercept,
    )


def description_from_wire(message: participant_pb2.DescribeModelReply) -> PartDescription:
    """Return what a party tells of its part; raise `ProtocolError` where it breaks the protocol."""
    if not max_samples_of(message.n_scores):
        raise ProtocolError(f"{message.n_scores} scores a sample, which no message holds")
    if not 1 <= len(message.training_run) <= MAX_TRAINING_RUN or not message.training_run.isprintable():
        raise ProtocolError(f"a training run is named by 1 to {MAX_TRAINING_RUN} printable characters")
    if len(message.classes) > MAX_CLASSES or any(len(label) > MAX_CLASS_LABEL for label in message.classes):
        raise ProtocolError(f"more than {MAX_CLASSES} classes, or a label of more than {MAX_CLASS_LABEL} characters")
    return PartDescription(
        party=message.party,
        model_id=_model_id(message.model_id),
        params_sha256=_digest(message.params_sha256, "params_sha256"),
        training_run=message.training_run,
        kind=_from_enum(_KINDS, message.kind, "kind"),
        classes=tuple(message.classes),
        n_scores=message.n_scores,
        holds_intercept=message.holds_intercept,
        fit_intercept=message.fit_intercept,
    )


def task_to_wire(task: PredictTask) -> initiator_pb2.PredictRequest:
    """Return a total task as a message."""
    return initiator_pb2.PredictRequest(
        protocol_version=PROTOCOL_VERSION,
        request_id=task.request_id,
        model_id=task.model_id,
        mode=_MODES[task.mode],
        sample_ids=ids_to_wire(task.sample_ids),
    )


def task_from_wire(message: initiator_pb2.PredictRequest) -> PredictTask:
    """Return the total task of a message, with a request id of ours where it has none; or raise `ProtocolError`."""
    check_protocol_version(message.protocol_version)
    return PredictTask(
        request_id=check_request_id(message.request_id) if message.request_id else new_request_id(),
        model_id=_model_id(message.model_id),
        mode=_from_enum(_MODES, message.mode, "mode"),
        sample_ids=ids_from_wire(message.sample_ids),
    )


def prediction_to_wire(prediction: Prediction) -> initiator_pb2.PredictReply:
    """Return an answer to a total task as a message."""
    return initiator_pb2.PredictReply(
        request_id=prediction.request_id,
        manifest_sha256=bytes.fromhex(prediction.manifest_sha256),
        status=prediction.status.tobytes(),
        predictions=_matrix_to_wire(prediction.predictions),
        origin=prediction.origin.tobytes(),
        classes=prediction.classes,
        parties=[_report_to_wire(report) for report in prediction.parties],
        simulated=prediction.simulated,
    )


def prediction_from_wire(message: initiator_pb2.PredictReply, n_samples: int) -> Prediction:
    """Return the answer to a total task of `n_samples`; raise `ProtocolError` where it breaks the protocol."""
    status = _statuses(message.status, n_samples, SampleStatus)
    predictions = _matrix_from_wire(message.predictions, n_samples, message.predictions.columns)
    scored = status == SampleStatus.OK
    if not np.isnan(predictions[~scored]).all() or not np.isfinite(predictions[scored]).all():
        raise ProtocolError("a prediction for a sample that was not scored, or none for one that was")
    return Prediction(
        request_id=message.request_id,
        manifest_sha256=message.manifest_sha256.hex(),
        predictions=predictions,
        status=status,
        origin=_statuses(message.origin, n_samples, Origin),
        classes=tuple(message.classes),
        parties=tuple(_report_from_wire(report, n_samples) for report in message.parties),
        simulated=message.simulated,
    )


def model_info_to_wire(info: ModelInfo) -> initiator_pb2.Model:
    """Return what users see of a model as a message."""
    return initiator_pb2.Model(
        model_id=info.model_id,
        ready=info.ready,
        problem=info.problem,
        kind=_KINDS[info.kind] if info.kind else common_pb2.KIND_UNSPECIFIED,
        classes=info.classes,
        parties=info.parties,
        manifest_sha256=bytes.fromhex(info.manifest_sha256),
        n_outputs=info.n_outputs,
    )


def model_info_from_wire(message: initiator_pb2.Model) -> ModelInfo:
    """Return what users see of a model; raise `ProtocolError` where the message breaks the protocol."""
    known = message.kind != common_pb2.KIND_UNSPECIFIED
    return ModelInfo(
        model_id=_model_id(message.model_id),
        ready=message.ready,
        problem=message.problem,
        kind=_from_enum(_KINDS, message.kind, "kind") if known else None,
        classes=tuple(message.classes),
        parties=tuple(message.parties),
        manifest_sha256=message.manifest_sha256.hex(),
        n_outputs=message.n_outputs,
    )


def new_request_id() -> str:
    """Return a fresh request id: 128 random bits in hex."""
    return secrets.token_hex(16)


def _report_to_wire(report: PartyReport) -> initiator_pb2.PartyReport:
    return initiator_pb2.PartyReport(
        party=report.party,
        status=b"" if report.status is None else report.status.tobytes(),
        oldest_event_time_us=report.oldest_event_time,
        round_trip_s=report.round_trip_s,
        elapsed_s=report.elapsed_s,
        problem=report.problem,
    )


def _report_from_wire(message: initiator_pb2.PartyReport, n_samples: int) -> PartyReport:
    return PartyReport(
        party=message.party,
        status=_statuses(message.status, n_samples, SampleStatus) if message.status else None,
        oldest_event_time=_instant(message.oldest_event_time_us) if message.HasField("oldest_event_time_us") else None,
        round_trip_s=_seconds(message.round_trip_s),
        elapsed_s=_seconds(message.elapsed_s),
        problem=message.problem,
    )


def _matrix_to_wire(values: Floats) -> common_pb2.Matrix:
    rows, columns = values.shape
    return common_pb2.Matrix(rows=rows, columns=columns, values=np.ascontiguousarray(values, dtype="<f8").tobytes())


def _matrix_from_wire(message: common_pb2.Matrix, rows: int, columns: int) -> Floats:
    if (message.rows, message.columns) != (rows, columns) or len(message.values) != rows * columns * 8:
        raise ProtocolError(
            f"a matrix of {message.rows} × {message.columns} in {len(message.values)} bytes, not {rows} × {columns}"
        )
    return np.frombuffer(message.values, dtype="<f8").astype(np.float64).reshape(rows, columns)


def _statuses(data: bytes, n_samples: int, kind: type[SampleStatus] | type[Origin]) -> Statuses:
    status = np.frombuffer(data, dtype=np.uint8).copy()
    if len(status) != n_samples:
        raise ProtocolError(f"{len(status)} {kind.__name__} bytes for {n_samples} samples")
    lowest = 1 if kind is SampleStatus else 0
    if n_samples and (status.min() < lowest or status.max() > max(kind)):
        raise ProtocolError(f"an unknown {kind.__name__}")
    return status


def _from_enum(table: Mapping[_T, int], value: int, what: str) -> _T:
    for ours, theirs in table.items():
        if theirs == value:
            return ours
    raise ProtocolError(f"unknown {what}: {value}")


def _model_id(value: str) -> str:
    try:
        return check_model_id(value)
    except NameRefusedError as error:
        raise ProtocolError(str(error)) from error


def _digest(value: bytes, what: str) -> str:
    if len(value) != 32:
        raise ProtocolError(f"{what} has {len(value)} bytes; expected 32")
    return value.hex()


def _instant(micros: int) -> int:
    if not _FIRST_US <= micros <= _LAST_US:
        raise ProtocolError("an instant beyond the years 1 to 9999")
    return micros


def _seconds(value: float) -> float:
    if not (math.isfinite(value) and value >= 0.0):
        raise ProtocolError("a time span that is negative or not finite")
    return value
