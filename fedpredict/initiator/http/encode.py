"""Predictions and models as JSON bodies."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import lru_cache

import msgspec
import numpy as np

from fedpredict.initiator.http.bodies import (
    ORIGIN_NAMES,
    STATUS_NAMES,
    ModelAnswer,
    PartyAnswer,
    PredictAnswer,
    ReasonAnswer,
)
from fedpredict.model.arrays import Statuses
from fedpredict.model.prediction import ModelInfo, PartyReport, Prediction
from fedpredict.model.share import SampleStatus

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_encoder = msgspec.json.Encoder()


def encode(body: msgspec.Struct) -> bytes:
    """Return a body as JSON."""
    return _encoder.encode(body)


def prediction_body(prediction: Prediction, model_id: str) -> PredictAnswer:
    """Return the answer to a prediction."""
    status = prediction.status.tolist()
    return PredictAnswer(
        request_id=prediction.request_id,
        model=model_id,
        manifest_sha256=prediction.manifest_sha256,
        classes=list(prediction.classes),
        predictions=_numbers(prediction, status),
        status=[STATUS_NAMES[code] for code in status],
        origin=[ORIGIN_NAMES[code] for code in prediction.origin.tolist()],
        reasons=[reason for report in prediction.parties if report.status is not None for reason in _reasons(report)],
        parties=[_party_body(report) for report in prediction.parties],
        simulated=prediction.simulated,
    )


def model_body(info: ModelInfo) -> ModelAnswer:
    """Return what users see of a model."""
    return ModelAnswer(
        model=info.model_id,
        ready=info.ready,
        problem=info.problem,
        kind=info.kind,
        classes=list(info.classes),
        parties=list(info.parties),
        manifest_sha256=info.manifest_sha256,
        n_outputs=info.n_outputs,
    )


def _numbers(prediction: Prediction, status: list[int]) -> list[list[float] | None]:
    rows: list[list[float] | None] = prediction.predictions.tolist()
    if status.count(SampleStatus.OK) != len(status):
        return [row if code == SampleStatus.OK else None for row, code in zip(rows, status, strict=True)]
    return rows


def _reasons(report: PartyReport) -> list[ReasonAnswer]:
    status: Statuses = np.zeros(0, np.uint8) if report.status is None else report.status
    where = np.flatnonzero(status != SampleStatus.OK)
    return [
        ReasonAnswer(sample, report.party, STATUS_NAMES[code])
        for sample, code in zip(where.tolist(), status[where].tolist(), strict=True)
    ]


def _party_body(report: PartyReport) -> PartyAnswer:
    oldest = report.oldest_event_time
    return PartyAnswer(
        party=report.party,
        oldest_event_time=None if oldest is None else _iso(oldest),
        round_trip_s=report.round_trip_s,
        elapsed_s=report.elapsed_s,
        problem=report.problem,
    )


@lru_cache(maxsize=1024)  # of a snapshot loaded at once, all rows have one
def _iso(micros: int) -> str:
    return (_EPOCH + timedelta(microseconds=micros)).isoformat().replace("+00:00", "Z")
