"""The only translator between messages and model values: every check on what a peer sent is here.

`…_to_wire` trusts its arguments; `…_from_wire` trusts nothing and raises `ProtocolError`.
"""

from __future__ import annotations

import itertools
import math
import re
import secrets
import struct
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TypeVar, cast

import numpy as np

from fedpredict.errors import NameRefusedError, ProtocolError, TooManySamplesError
from fedpredict.model.arrays import Floats, Micros, Statuses, any_true
from fedpredict.model.ids import check_model_id, traceparent_of
from fedpredict.model.kinds import Kind
from fedpredict.model.prediction import Origin
from fedpredict.model.sample_ids import SampleIds
from fedpredict.model.scorer import NO_EVENT_TIME, ModelRef, PartyReply, ScoreQuery
from fedpredict.model.several import rows_of_models
from fedpredict.model.share import Mode, SampleStatus, Share
from fedpredict.wire.channel import MAX_MODELS, MAX_SAMPLES_PER_CALL
from fedpredict.wire.reasons import reasons_from_wire, reasons_to_wire
from fedpredict.wire.status import failure_to_wire
from fedpredict.wire.v1 import common_pb2, participant_pb2

PROTOCOL_VERSION = 1
SEVERAL_VERSION = 2
"""What a sub-task for several models says instead, so that nobody takes all of its rows for the first model's."""

_T = TypeVar("_T")
_PROCESS, _count = secrets.token_hex(8), itertools.count()
_FIRST_US, _LAST_US = -62_135_596_800_000_000, 253_402_300_799_999_999
"""The years 1 to 9999, which every calendar in use can show, in microseconds since 1970 UTC."""
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
KINDS = {kind: cast("common_pb2.Kind", common_pb2.Kind.Value(f"KIND_{kind.name}")) for kind in Kind}
MODES = {
    Mode.REALTIME: common_pb2.MODE_REALTIME,
    Mode.NEARLINE: common_pb2.MODE_NEARLINE,
    Mode.OFFLINE: common_pb2.MODE_OFFLINE,
}

_NO_BYTES = bytes(4)
_REFUSED = bytes((SampleStatus.REFUSED,))
_MODE_OF = {number: mode for mode, number in MODES.items()}
_U4, _I8, _F8 = np.dtype("<u4"), np.dtype("<i8"), np.dtype("<f8")
_UNCUT = "the offsets of the sample ids do not cut their data"
_KNOWN_BYTES: dict[type[SampleStatus] | type[Origin], bytes] = {
    SampleStatus: bytes(SampleStatus).lstrip(b"\0"),  # zero is never sent
    Origin: bytes(Origin),
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
    message = common_pb2.SampleIds()
    fill_ids(message, sample_ids)
    return message


def ids_from_wire(message: common_pb2.SampleIds, most: int = MAX_SAMPLES_PER_CALL) -> SampleIds:
    """Return the sample ids; their content is not judged here.

    Args:
        message: What came.
        most: The most that are taken.

    Raises:
        ProtocolError: The offsets do not cut the data.
        TooManySamplesError: More than any process takes.
    """
    data, sent = message.data, message.offsets  # each time they are asked for, a message makes a copy
    if len(sent) == 8:  # one id: by far the most, and numpy is slow at checking two numbers
        if sent != _NO_BYTES + len(data).to_bytes(4, "little"):
            raise ProtocolError(_UNCUT)
        return SampleIds.one(data)
    if not sent and not data:
        return SampleIds.of(())
    if len(sent) % 4 or not sent:
        raise ProtocolError("the offsets of the sample ids are not a row of uint32")
    n_samples = len(sent) // 4 - 1
    if n_samples > most:
        raise TooManySamplesError(f"{n_samples} sample ids in one message", limit=most)
    offsets = np.frombuffer(sent, dtype=_U4).astype(np.int64)
    if offsets[0] != 0 or offsets[-1] != len(data) or any_true(offsets[1:] < offsets[:-1]):
        raise ProtocolError(_UNCUT)
    return SampleIds(data, offsets)


def query_to_wire(query: ScoreQuery, remaining_ms: int) -> participant_pb2.ScoreRequest:
    """Return a sub-task as a message.

    Args:
        query: The sub-task.
        remaining_ms: How long the caller still waits.
    """
    message = participant_pb2.ScoreRequest()
    fill_query(message, query)
    message.remaining_ms = max(0, remaining_ms)
    return message


def fill_query(message: participant_pb2.ScoreRequest, query: ScoreQuery) -> None:
    """Write a sub-task into an empty message, in place: a message made apart would be copied into its frame."""
    message.protocol_version = SEVERAL_VERSION if query.further else PROTOCOL_VERSION
    message.request_id = query.request_id
    message.model_id = query.model_id
    message.manifest_sha256 = digest_to_wire(query.manifest_sha256)
    message.params_sha256 = digest_to_wire(query.params_sha256)
    message.mode = MODES[query.mode]
    fill_ids(message.sample_ids, query.sample_ids)
    if query.epoch:
        message.epoch = query.epoch
    if query.segments:
        message.segments = struct.pack(f"<{len(query.segments)}I", *query.segments)
    if query.traceparent:
        message.traceparent = query.traceparent
    if query.further:
        message.further.extend([_ref_to_wire(each) for each in query.further])
        message.model_rows = struct.pack(f"<{len(query.model_rows)}I", *query.model_rows)


def fill_ids(message: common_pb2.SampleIds, sample_ids: Sequence[bytes]) -> None:
    """Write sample ids into an empty message, in place."""
    packed = SampleIds.of(sample_ids)
    message.data = packed.data
    if len(packed) == 1:
        message.offsets = bytes(4) + len(packed.data).to_bytes(4, "little")
    else:
        message.offsets = packed.offsets.astype("<u4").tobytes()


def query_from_wire(message: participant_pb2.ScoreRequest) -> ScoreQuery:
    """Return the sub-task of a message; raise `ProtocolError` where it breaks the protocol."""
    sample_ids, segments, traceparent = ids_from_wire(message.sample_ids), message.segments, message.traceparent
    if message.protocol_version == SEVERAL_VERSION:
        further = _further(message)
    else:
        check_protocol_version(message.protocol_version)
        if len(message.further):
            raise ProtocolError(f"several models in a sub-task of protocol version {message.protocol_version}")
        further = ()
    query = ScoreQuery(
        request_id=check_request_id(message.request_id),
        model_id=model_id_from_wire(message.model_id),
        manifest_sha256=digest_from_wire(message.manifest_sha256, "manifest_sha256"),
        params_sha256=digest_from_wire(message.params_sha256, "params_sha256"),
        mode=_MODE_OF.get(message.mode) or from_enum(MODES, message.mode, "mode"),
        sample_ids=sample_ids,
        epoch=message.epoch,
        segments=_segments(segments, len(sample_ids)) if segments else (),
        traceparent=traceparent_of(traceparent) if traceparent else "",
        further=further,
        model_rows=_segments(message.model_rows, len(sample_ids)) if further else (),
    )
    if further:
        _check_model_rows(query)
    return query


@lru_cache(maxsize=4096)  # an initiator asks for the same ones again and again, and copying a message is fast
def _ref_to_wire(ref: ModelRef) -> participant_pb2.ModelRef:
    return participant_pb2.ModelRef(
        model_id=ref.model_id,
        manifest_sha256=digest_to_wire(ref.manifest_sha256),
        params_sha256=digest_to_wire(ref.params_sha256),
    )


@lru_cache(maxsize=4096)
def _ref_from_wire(model_id: str, manifest_sha256: bytes, params_sha256: bytes) -> ModelRef:
    return ModelRef(
        model_id_from_wire(model_id),
        digest_from_wire(manifest_sha256, "manifest_sha256"),
        digest_from_wire(params_sha256, "params_sha256"),
    )


def _further(message: participant_pb2.ScoreRequest) -> tuple[ModelRef, ...]:
    further = message.further
    if not 1 <= len(further) < MAX_MODELS:
        raise ProtocolError(f"{len(further)} further models in a sub-task; 1 to {MAX_MODELS - 1} may be")
    return tuple([_ref_from_wire(each.model_id, each.manifest_sha256, each.params_sha256) for each in further])


def _check_model_rows(query: ScoreQuery) -> None:
    """Raise `ProtocolError` unless every model has whole segments."""
    if len(query.model_rows) != len(query.further) + 1:
        raise ProtocolError(f"rows of {len(query.model_rows)} models for {len(query.further) + 1}")
    if not set(itertools.accumulate(query.model_rows)) <= set(itertools.accumulate(query.segments)):
        raise ProtocolError("a segment crosses from one model to the next")


def reply_to_wire(query: ScoreQuery, reply: PartyReply) -> participant_pb2.ScoreReply:
    """Return a party's answer to `query` as a message."""
    message = participant_pb2.ScoreReply()
    fill_reply(message, query, reply)
    return message


def fill_reply(message: participant_pb2.ScoreReply, query: ScoreQuery, reply: PartyReply) -> None:
    """Write a party's answer to `query` into an empty message: field by field, in place, is the fastest way."""
    share = reply.share
    message.request_id = query.request_id
    message.manifest_sha256 = digest_to_wire(query.manifest_sha256)
    message.status = share.status.tobytes()
    matrix = message.values
    matrix.rows, matrix.columns = share.values.shape
    matrix.values = share.values.astype(_F8, copy=False).tobytes()
    if reply.oldest_event_time is not None:
        message.oldest_event_time_us = reply.oldest_event_time
    message.elapsed_s = reply.elapsed_s
    if reply.segment_event_times is not None:
        message.segment_event_times_us = reply.segment_event_times.astype(_I8, copy=False).tobytes()
    if reply.reasons is not None:
        reasons_to_wire(message.reasons, reply.reasons)
    for place, error in reply.failures.items():
        message.failures.add(place=place, failure=failure_to_wire(error))


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
    if message.manifest_sha256 != digest_to_wire(query.manifest_sha256):
        raise ProtocolError("the reply is of another manifest")
    n_samples = len(query.sample_ids)
    status = statuses_from_wire(message.status, n_samples, SampleStatus)
    if not message.HasField("values"):
        raise ProtocolError("the reply holds no share of float64 values")
    values = matrix_view_from_wire(message.values, n_samples, n_scores)
    try:
        share = Share(values, status)
    except ValueError as error:
        raise ProtocolError(str(error)) from error
    return PartyReply(
        share=share,
        oldest_event_time=instant_from_wire(message.oldest_event_time_us)
        if message.HasField("oldest_event_time_us")
        else None,
        elapsed_s=seconds_from_wire(message.elapsed_s),
        segment_event_times=_segment_times(message.segment_event_times_us, query) if query.segments else None,
        reasons=reasons_from_wire(message.reasons, n_samples) if message.HasField("reasons") else None,
    )


def failures_from_wire(message: participant_pb2.ScoreReply, query: ScoreQuery) -> dict[int, common_pb2.Failure]:
    """Return why models have no share, by their places in a query for several.

    Raises:
        ProtocolError: The query has no such model, a model failed twice, or a row of it has another status.
    """
    failures: dict[int, common_pb2.Failure] = {}
    rows = rows_of_models(query)
    if len(message.failures) > len(rows):
        raise ProtocolError(f"{len(message.failures)} failures of {len(query.further) + 1} models asked for")
    for each in message.failures:
        if not (query.further and each.place < len(rows)):
            raise ProtocolError(f"a failure of model {each.place} of {len(query.further) + 1} asked for")
        if each.place in failures:
            raise ProtocolError(f"two failures of model {each.place}")
        if message.status[rows[each.place]].strip(_REFUSED):
            raise ProtocolError("a model that failed has rows that are not refused")
        failures[each.place] = each.failure
    return failures


def new_request_id() -> str:
    """Return a fresh request id: 64 random bits of this process, and a count."""
    return f"{_PROCESS}{next(_count):016x}"


def _segments(data: bytes, n_samples: int) -> tuple[int, ...]:
    if len(data) % 4:
        raise ProtocolError("the segments, or rows of models, are not a row of uint32")
    segments = tuple(np.frombuffer(data, dtype=_U4).tolist())
    if 0 in segments or sum(segments) != n_samples:
        raise ProtocolError(
            f"segments (or models) of {sum(segments)} rows, perhaps an empty one, for {n_samples} samples"
        )
    return segments


def _segment_times(data: bytes, query: ScoreQuery) -> Micros:
    if len(data) != 8 * len(query.segments):
        raise ProtocolError(f"{len(data)} bytes of event times for {len(query.segments)} segments")
    times = np.frombuffer(data, dtype="<i8").astype(np.int64)
    known = times[times != NO_EVENT_TIME]
    if len(known):
        instant_from_wire(int(known.min()))
        instant_from_wire(int(known.max()))
    return times


def matrix_to_wire(values: Floats) -> common_pb2.Matrix:
    """Return a matrix, shape (rows, columns), as a message."""
    rows, columns = values.shape
    return common_pb2.Matrix(rows=rows, columns=columns, values=values.astype("<f8", copy=False).tobytes())


def matrix_from_wire(message: common_pb2.Matrix, rows: int, columns: int) -> Floats:
    """Return the matrix of a message, which must have that shape; raise `ProtocolError`."""
    return matrix_view_from_wire(message, rows, columns).astype(np.float64)


def matrix_view_from_wire(message: common_pb2.Matrix, rows: int, columns: int) -> Floats:
    """Return what `matrix_from_wire` does, read-only and not copied once more: for large matrices that stay as sent."""
    values = message.values
    if (message.rows, message.columns) != (rows, columns) or len(values) != rows * columns * 8:
        raise ProtocolError(
            f"a matrix of {message.rows} × {message.columns} in {len(values)} bytes, not {rows} × {columns}"
        )
    return np.frombuffer(values, dtype="<f8").astype(np.float64, copy=False).reshape(rows, columns)


def statuses_from_wire(data: bytes, n_samples: int, kind: type[SampleStatus] | type[Origin]) -> Statuses:
    """Return one status or origin per sample; raise `ProtocolError` where the bytes are not that."""
    if len(data) != n_samples:
        raise ProtocolError(f"{len(data)} {kind.__name__} bytes for {n_samples} samples")
    if data.translate(None, _KNOWN_BYTES[kind]):
        raise ProtocolError(f"an unknown {kind.__name__}")
    return np.frombuffer(data, dtype=np.uint8).copy()


def from_enum(table: Mapping[_T, int], value: int, what: str) -> _T:
    """Return our value for a number of the protocol; raise `ProtocolError` for an unknown one."""
    for ours, theirs in table.items():
        if theirs == value:
            return ours
    raise ProtocolError(f"unknown {what}: {value}")


def model_id_from_wire(value: str) -> str:
    """Return `value` if it is a model id; else raise `ProtocolError`."""
    try:
        return _known_model_id(value)
    except NameRefusedError as error:
        raise ProtocolError(str(error)) from error


@lru_cache(maxsize=1024)  # every request names one of few
def digest_to_wire(value: str) -> bytes:
    """Return a SHA-256, which comes in hex, as its bytes."""
    return bytes.fromhex(value)


@lru_cache(maxsize=1024)
def _known_model_id(value: str) -> str:
    """Return what `check_model_id` does, of ids that come again and again; what is refused is not kept."""
    return check_model_id(value)


def digest_from_wire(value: bytes, what: str) -> str:
    """Return a SHA-256 in hex; raise `ProtocolError` where it has another length."""
    if len(value) != 32:
        raise ProtocolError(f"{what} has {len(value)} bytes; expected 32")
    return value.hex()


def instant_from_wire(micros: int) -> int:
    """Return an instant in microseconds UTC; raise `ProtocolError` beyond the years 1 to 9999."""
    if not _FIRST_US <= micros <= _LAST_US:
        raise ProtocolError("an instant beyond the years 1 to 9999")
    return micros


def seconds_from_wire(value: float) -> float:
    """Return a time span in seconds; raise `ProtocolError` where it is negative or not finite."""
    if not (math.isfinite(value) and value >= 0.0):
        raise ProtocolError("a time span that is negative or not finite")
    return value
