"""Predictions and models as JSON bodies."""

from __future__ import annotations

from datetime import date, timedelta
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
from fedpredict.model.arrays import Floats, Statuses
from fedpredict.model.prediction import ModelInfo, Origin, PartyReport, Prediction
from fedpredict.model.share import SampleStatus

_EPOCH = date(1970, 1, 1)
_OK, _MODEL = bytes([SampleStatus.OK]), bytes([Origin.MODEL])
_MINUTES = [f"{hour:02}:{minute:02}:" for hour in range(24) for minute in range(60)]
_SECONDS = [f"{second:02}" for second in range(60)]
_encoder = msgspec.json.Encoder()


def encode(body: msgspec.Struct) -> bytes:
    """Return a body as JSON."""
    return _encoder.encode(body)


def prediction_json(prediction: Prediction, model_id: str) -> bytes:
    """Return the answer to a prediction as JSON.

    It is always what msgspec makes of `prediction_body`; where every sample is OK at every party, it is put together
    from bytes that are the same from answer to answer, which takes a third of the time.
    """
    n_samples = len(prediction.status)
    if not (n_samples and prediction.parties):
        return encode(prediction_body(prediction, model_id))
    if prediction.status.tobytes() != _OK * n_samples or prediction.origin.tobytes() != _MODEL * n_samples:
        return encode(prediction_body(prediction, model_id))
    spans: list[float] = []
    for report in prediction.parties:
        if report.status is not None or report.problem or report.reasons is not None:
            return encode(prediction_body(prediction, model_id))
        spans += (report.round_trip_s, report.elapsed_s)
    numbers = _encoder.encode(spans)[1:-1].split(b",")
    parties = [
        b'%b%b,"round_trip_s":%b,"elapsed_s":%b,"problem":""}'
        % (_party_begins(report.party), _json_time(report.oldest_event_time), round_trip, elapsed)
        for report, round_trip, elapsed in zip(prediction.parties, numbers[::2], numbers[1::2], strict=True)
    ]
    return b'{"request_id":%b%b%b%b%b],"simulated":%b}' % (
        _encoder.encode(prediction.request_id),
        _answer_begins(model_id, prediction.manifest_sha256, prediction.classes),
        _rows(prediction.predictions),
        _all_ok(n_samples),
        b",".join(parties),
        b"true" if prediction.simulated else b"false",
    )


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
        link=str(info.link) if info.link else None,
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
        oldest_event_time=None if oldest is None else iso_time(oldest),
        round_trip_s=report.round_trip_s,
        elapsed_s=report.elapsed_s,
        problem=report.problem,
        reason_codes=msgspec.UNSET if report.reasons is None else [list(each) for each in report.reasons.texts()],
    )


def _rows(predictions: Floats) -> bytes:
    if predictions.shape[1] != 1:
        return _encoder.encode(predictions.tolist())
    # one list of numbers instead of a list for each
    return b"[%b]" % _encoder.encode(predictions.ravel().tolist()).replace(b",", b"],[")


@lru_cache(maxsize=1024)
def _answer_begins(model_id: str, manifest_sha256: str, classes: tuple[str, ...]) -> bytes:
    return b',"model":%b,"manifest_sha256":%b,"classes":%b,"predictions":' % (
        _encoder.encode(model_id),
        _encoder.encode(manifest_sha256),
        _encoder.encode(classes),
    )


@lru_cache(maxsize=16)
def _all_ok(n_samples: int) -> bytes:
    more = n_samples - 1
    return b',"status":["OK"%b],"origin":["MODEL"%b],"reasons":[],"parties":[' % (b',"OK"' * more, b',"MODEL"' * more)


@lru_cache(maxsize=1024)
def _party_begins(party: str) -> bytes:
    return b'{"party":%b,"oldest_event_time":' % _encoder.encode(party)


@lru_cache(maxsize=1024)
def _json_time(micros: int | None) -> bytes:
    return b"null" if micros is None else b'"%b"' % iso_time(micros).encode()


@lru_cache(maxsize=1024)  # of a snapshot loaded at once, all rows have one
def iso_time(micros: int) -> str:
    """Return an instant in microseconds since 1970 UTC as `datetime.isoformat` writes it, with Z; much faster.

    >>> iso_time(1_790_000_000_000_000), iso_time(-1)
    ('2026-09-21T14:13:20Z', '1969-12-31T23:59:59.999999Z')
    """
    second = micros // 1_000_000
    day = second // 86_400
    second -= day * 86_400
    minute = second // 60
    fraction = micros % 1_000_000
    shown = f".{fraction:06}" if fraction else ""
    return f"{_date(day)}T{_MINUTES[minute]}{_SECONDS[second - minute * 60]}{shown}Z"


@lru_cache(maxsize=4096)
def _date(days: int) -> str:
    return (_EPOCH + timedelta(days=days)).isoformat()
