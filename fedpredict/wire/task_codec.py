"""Between the messages of an initiator's users and model values; what `wire.codec` is between parties.

`…_to_wire` trusts its arguments; `…_from_wire` trusts nothing and raises `ProtocolError`.
"""

from __future__ import annotations

import numpy as np

from fedpredict.errors import ProtocolError
from fedpredict.model.arrays import Bools, Floats
from fedpredict.model.prediction import ModelInfo, Origin, PartyReport, Prediction, PredictTask
from fedpredict.model.sample_ids import SampleIds
from fedpredict.model.share import SampleStatus
from fedpredict.wire.codec import (
    KINDS,
    MODES,
    PROTOCOL_VERSION,
    check_protocol_version,
    check_request_id,
    from_enum,
    ids_from_wire,
    instant_from_wire,
    matrix_from_wire,
    matrix_to_wire,
    model_id_from_wire,
    new_request_id,
    seconds_from_wire,
    statuses_from_wire,
)
from fedpredict.wire.description import link_from_wire
from fedpredict.wire.inputs import inputs_from_wire, inputs_to_wire
from fedpredict.wire.reasons import reasons_from_wire, reasons_to_wire
from fedpredict.wire.v1 import common_pb2, initiator_pb2


def task_to_wire(
    task: PredictTask, message: initiator_pb2.PredictRequest | None = None
) -> initiator_pb2.PredictRequest:
    """Return a total task as a message.

    Args:
        task: The task.
        message: What to fill, where the message is a part of another: a part that is assigned is copied.
    """
    message = initiator_pb2.PredictRequest() if message is None else message
    message.protocol_version = PROTOCOL_VERSION
    message.request_id = task.request_id
    message.model_id = task.model_id
    message.mode = MODES[task.mode]
    ids = SampleIds.of(task.sample_ids)
    message.sample_ids.data = ids.data
    message.sample_ids.offsets = ids.offsets.astype("<u4").tobytes()
    if task.inputs is not None:
        inputs_to_wire(task.inputs, message.inputs)
    return message


def task_from_wire(message: initiator_pb2.PredictRequest) -> PredictTask:
    """Return the total task of a message, with a request id of ours where it has none; or raise `ProtocolError`."""
    check_protocol_version(message.protocol_version)
    sample_ids = ids_from_wire(message.sample_ids)
    return PredictTask(
        request_id=check_request_id(message.request_id) if message.request_id else new_request_id(),
        model_id=model_id_from_wire(message.model_id),
        mode=from_enum(MODES, message.mode, "mode"),
        sample_ids=sample_ids,
        inputs=inputs_from_wire(message.inputs, len(sample_ids)) if message.HasField("inputs") else None,
    )


def prediction_to_wire(prediction: Prediction) -> initiator_pb2.PredictReply:
    """Return an answer to a total task as a message."""
    return initiator_pb2.PredictReply(
        request_id=prediction.request_id,
        manifest_sha256=bytes.fromhex(prediction.manifest_sha256),
        status=prediction.status.tobytes(),
        predictions=matrix_to_wire(prediction.predictions),
        origin=prediction.origin.tobytes(),
        classes=prediction.classes,
        parties=[report_to_wire(report) for report in prediction.parties],
        simulated=prediction.simulated,
    )


def prediction_from_wire(message: initiator_pb2.PredictReply, n_samples: int) -> Prediction:
    """Return the answer to a total task of `n_samples`; raise `ProtocolError` where it breaks the protocol."""
    status = statuses_from_wire(message.status, n_samples, SampleStatus)
    predictions = matrix_from_wire(message.predictions, n_samples, message.predictions.columns)
    check_numbers(predictions, status == SampleStatus.OK)
    return Prediction(
        request_id=message.request_id,
        manifest_sha256=message.manifest_sha256.hex(),
        predictions=predictions,
        status=status,
        origin=statuses_from_wire(message.origin, n_samples, Origin),
        classes=tuple(message.classes),
        parties=tuple(report_from_wire(report, n_samples) for report in message.parties),
        simulated=message.simulated,
    )


def check_numbers(predictions: Floats, scored: Bools) -> None:
    """Raise `ProtocolError` unless exactly the samples that are `scored` have numbers."""
    if not np.isnan(predictions[~scored]).all() or not np.isfinite(predictions[scored]).all():
        raise ProtocolError("a prediction for a sample that was not scored, or none for one that was")


def model_info_to_wire(info: ModelInfo) -> initiator_pb2.Model:
    """Return what users see of a model as a message."""
    return initiator_pb2.Model(
        model_id=info.model_id,
        ready=info.ready,
        problem=info.problem,
        kind=KINDS[info.kind] if info.kind else common_pb2.KIND_UNSPECIFIED,
        link=str(info.link) if info.link else "",
        classes=info.classes,
        parties=info.parties,
        manifest_sha256=bytes.fromhex(info.manifest_sha256),
        n_outputs=info.n_outputs,
    )


def model_info_from_wire(message: initiator_pb2.Model) -> ModelInfo:
    """Return what users see of a model; raise `ProtocolError` where the message breaks the protocol."""
    known = message.kind != common_pb2.KIND_UNSPECIFIED
    kind = from_enum(KINDS, message.kind, "kind") if known else None
    return ModelInfo(
        model_id=model_id_from_wire(message.model_id),
        ready=message.ready,
        problem=message.problem,
        kind=kind,
        link=link_from_wire(message.link, kind) if kind else None,
        classes=tuple(message.classes),
        parties=tuple(message.parties),
        manifest_sha256=message.manifest_sha256.hex(),
        n_outputs=message.n_outputs,
    )


def report_to_wire(report: PartyReport) -> initiator_pb2.PartyReport:
    """Return one party's side of a prediction as a message."""
    message = initiator_pb2.PartyReport(
        party=report.party,
        status=b"" if report.status is None else report.status.tobytes(),
        oldest_event_time_us=report.oldest_event_time,
        round_trip_s=report.round_trip_s,
        elapsed_s=report.elapsed_s,
        problem=report.problem,
    )
    if report.reasons is not None:
        reasons_to_wire(message.reasons, report.reasons)
    return message


def report_from_wire(message: initiator_pb2.PartyReport, n_samples: int) -> PartyReport:
    """Return one party's side of a prediction of `n_samples`; raise `ProtocolError` where it breaks the protocol."""
    return PartyReport(
        party=message.party,
        status=statuses_from_wire(message.status, n_samples, SampleStatus) if message.status else None,
        oldest_event_time=instant_from_wire(message.oldest_event_time_us)
        if message.HasField("oldest_event_time_us")
        else None,
        round_trip_s=seconds_from_wire(message.round_trip_s),
        elapsed_s=seconds_from_wire(message.elapsed_s),
        problem=message.problem,
        reasons=reasons_from_wire(message.reasons, n_samples) if message.HasField("reasons") else None,
    )
