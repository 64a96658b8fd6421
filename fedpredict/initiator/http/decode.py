"""Bodies into values: every check on what a caller sent over HTTP is here, and raises `FieldError`."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import msgspec
import numpy as np

from fedpredict.errors import FieldError, NameRefusedError, ProtocolError, TooManySamplesError
from fedpredict.http.application import JSON, ProblemError
from fedpredict.http.problem import media_refused
from fedpredict.initiator.http.bodies import MAX_TIMEOUT_MS, PredictBody
from fedpredict.model.ids import check_model_id
from fedpredict.model.inputs import Inputs
from fedpredict.model.prediction import PredictTask
from fedpredict.model.sample_ids import SampleIds
from fedpredict.wire.codec import check_request_id, new_request_id

DEADLINE_HEADER = b"x-fedpredict-deadline-ms"
MAX_NAME_SHOWN = 100
_NAME_TOO_LONG = MAX_NAME_SHOWN + 80

_LARGE_BODY, _MANY_NAMES = 512 * 1024, 100_000

T = TypeVar("T")
_predict_decoder = msgspec.json.Decoder(PredictBody)


class Incoming(Protocol):
    """A request, whichever way it came."""

    @property
    def body(self) -> bytes | bytearray:
        """The whole body."""

    @property
    def peer_uris(self) -> tuple[str, ...] | None:
        """The URIs among the names of the caller's certificate; None without TLS."""

    def header(self, name: bytes) -> str | None:
        """Return a header by its name in lower case; None where it is missing."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A total task, and how long its caller waits (None: as long as the settings allow)."""

    task: PredictTask
    deadline_s: float | None


def read_task(request: Incoming, request_id: str, max_samples: int) -> Asked:
    """Return the task that a body of /v1/predict holds.

    Args:
        request: The request.
        request_id: Its id where the body names none.
        max_samples: Most sample ids in one call; far more are refused before they are decoded.

    Raises:
        FieldError: The body breaks its schema; it names the place.
        TooManySamplesError: Far more ids than that.
        NameRefusedError: The model's id breaks the naming rules.
        ProblemError: The body is no JSON by its headers.
    """
    _check_media(request)
    _check_number(request.body, max_samples)
    body = decode(_predict_decoder, request.body)
    sample_ids = pack_ids(body.sample_ids)
    task = PredictTask(
        request_id=request_id if body.request_id is None else _request_id(body.request_id),
        model_id=_model_id(body.model),
        mode=body.mode,
        sample_ids=sample_ids,
        inputs=read_inputs(body.inputs, len(sample_ids)) if body.inputs else None,
    )
    return Asked(task, deadline_of(request, None if body.timeout_ms is None else body.timeout_ms / 1e3))


def name_request(header: str | None) -> str:
    """Return the id of a request: what `x-request-id` says, or a new one where it is missing or breaks the rule."""
    if header is None:
        return new_request_id()
    try:
        return check_request_id(header)
    except ProtocolError:
        return new_request_id()


def decode(decoder: msgspec.json.Decoder[T], data: bytes | bytearray | memoryview) -> T:
    """Return what JSON holds; raise `FieldError` with the place, never with a value."""
    try:
        return decoder.decode(data)
    except UnicodeDecodeError as error:
        raise _body_error("$", "the JSON is not UTF-8") from error
    except RecursionError as error:
        raise _body_error("$", "nested too deeply") from error
    except msgspec.DecodeError as error:
        told, _, place = str(error).partition(" - at `")
        raise _body_error(place.removesuffix("`") or "$", _told(told)) from error


def _check_media(request: Incoming) -> None:
    """Raise `ProblemError` unless a body is JSON by its headers, uncompressed.

    A browser's form cannot send application/json to another site without asking first; so no web page can make its
    reader's browser ask for predictions.
    """
    given = request.header(b"content-type")
    is_json = given == JSON or (given or "").partition(";")[0].strip().lower() == JSON
    if not is_json or request.header(b"content-encoding") not in (None, "identity"):
        raise ProblemError(media_refused(JSON))


def deadline_of(request: Incoming, stated_s: float | None) -> float | None:
    """Return how long the caller waits: the smaller of what the body says and the header; None without either."""
    header = request.header(DEADLINE_HEADER)
    if header is None:
        return stated_s
    if not (header.isascii() and header.isdecimal() and len(header) <= 9 and 1 <= int(header) <= MAX_TIMEOUT_MS):
        place = f"header {DEADLINE_HEADER.decode()}"
        raise FieldError(f"{place} is no number", place=place, problem=f"expected 1 to {MAX_TIMEOUT_MS} milliseconds")
    header_s = int(header) / 1e3
    return header_s if stated_s is None else min(header_s, stated_s)


def pack_ids(sample_ids: list[str]) -> SampleIds:
    """Return ids packed; those of ASCII, nearly all, with one join and no loop over them."""
    text = "".join(sample_ids)
    if not text.isascii():
        return SampleIds.of([sample_id.encode() for sample_id in sample_ids])
    if len(sample_ids) == 1:
        return SampleIds(text.encode(), np.array([0, len(text)], dtype=np.int64))
    offsets = np.zeros(len(sample_ids) + 1, dtype=np.int64)
    np.cumsum(np.fromiter(map(len, sample_ids), dtype=np.int64, count=len(sample_ids)), out=offsets[1:])
    return SampleIds(text.encode(), offsets)


def read_inputs(columns: Mapping[str, Sequence[float | None]], n_samples: int) -> Inputs:
    """Return features by name as one matrix; raise `FieldError` where one has not one value per sample."""
    for name, column in columns.items():
        if len(column) != n_samples:
            place = f"$.inputs.{name[:MAX_NAME_SHOWN]}"
            raise _body_error(place, f"{len(column)} values for {n_samples} sample ids")
    try:
        # three times as fast as numpy over lists; None, a missing value, is what it does not take
        pack = struct.Struct(f"={n_samples}d").pack
        values = np.frombuffer(b"".join([pack(*column) for column in columns.values()]), dtype=np.float64)
    except struct.error:
        values = np.array(list(columns.values()), dtype=np.float64)
    return Inputs(tuple(columns), values.reshape(len(columns), n_samples).T)


def _check_number(data: bytes | bytearray, max_samples: int) -> None:
    """Refuse a body of far too many ids without making an object of each: the loop would stand still meanwhile."""
    if len(data) < _LARGE_BODY:
        return
    allowed = max_samples + _MANY_NAMES
    n_quotes = data.count(b'"')
    if n_quotes <= 2 * allowed:
        return
    n_strings = (n_quotes - data.count(b'\\"')) // 2
    if n_strings > allowed:
        raise TooManySamplesError(f"a body of some {n_strings} strings", limit=max_samples)


def _model_id(value: str) -> str:
    try:
        return check_model_id(value)
    except NameRefusedError:
        raise NameRefusedError("the model's id in a body breaks the naming rules") from None


def _request_id(value: str) -> str:
    try:
        return check_request_id(value)
    except ProtocolError as error:
        raise _body_error("$.request_id", str(error)) from error


def _told(told: str) -> str:
    """Return msgspec's words without the caller's: an unknown value is not repeated, an unknown name shortened."""
    if told.startswith("Invalid enum value"):
        return "not one of the values that it can have"
    return told if len(told) <= _NAME_TOO_LONG else f"{told[:_NAME_TOO_LONG]}…"


def _body_error(place: str, problem: str) -> FieldError:
    # what the caller is told can hold names of its own, which are not for our log
    return FieldError("a body that breaks its schema", place=place, problem=problem)
