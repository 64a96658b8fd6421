"""Bodies into values: every check on what a caller sent over HTTP is here, and raises `FieldError`."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Protocol, TypeVar

import msgspec
import numpy as np
from msgspec import UNSET

from fedpredict.errors import FieldError, NameRefusedError, ProtocolError, TooManySamplesError
from fedpredict.http.application import JSON, ProblemError
from fedpredict.http.problem import media_refused
from fedpredict.initiator.http.bodies import MAX_TIMEOUT_MS, PredictBody
from fedpredict.model.arrays import Floats
from fedpredict.model.ids import check_model_id
from fedpredict.model.inputs import MAX_TEXT_BYTES, Inputs, inputs_of, is_too_long
from fedpredict.model.prediction import PredictTask
from fedpredict.model.sample_ids import SampleIds
from fedpredict.model.share import Mode
from fedpredict.security.passwords import AUTHORIZATION
from fedpredict.wire.codec import check_request_id, new_request_id
from fedpredict.wire.members import COLON, check_body, count, has_more

CALLER_HEADER, TRACE_HEADER = b"x-fedpredict-client", b"traceparent"
TOKEN_HEADER = AUTHORIZATION.encode()
DEADLINE_HEADER = b"x-fedpredict-deadline-ms"
MAX_NAME_SHOWN = 100
_NAME_TOO_LONG = MAX_NAME_SHOWN + 80

_LARGE_BODY, _MANY_NAMES = 512 * 1024, 100_000
_QUOTE = ord('"')

T = TypeVar("T")
_predict_decoder = msgspec.json.Decoder(PredictBody)


class Incoming(Protocol):
    """A request, whichever way it came."""

    @property
    def body(self) -> bytes:
        """The whole body."""

    @property
    def peer_uris(self) -> tuple[str, ...] | None:
        """The URIs among the names of the caller's certificate; None without TLS."""

    def header(self, name: bytes) -> str | None:
        """Return a header by its name in lower case; None where it is missing."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What the headers of a request say, and nothing else does.

    Attributes:
        request_id: Header `x-request-id`.
        caller: Who the caller states to be.
        authorization: Its header, with a bearer token; None without one.
        is_json: Whether the body is JSON, uncompressed.
        deadline: How long the caller waits; not checked.
        traceparent: The caller's span; empty without one.
    """

    request_id: str | None
    caller: str | None
    authorization: str | None = field(repr=False)
    is_json: bool
    deadline: str | None
    traceparent: str


@dataclass(slots=True)
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
    return parse_task(request.body, read_terms(request), request_id, max_samples)


def read_terms(request: Incoming) -> Terms:
    """Return what the headers of a request say."""
    return Terms(
        request_id=request.header(b"x-request-id"),
        caller=request.header(CALLER_HEADER),
        authorization=request.header(TOKEN_HEADER),
        is_json=_is_json(request),
        deadline=request.header(DEADLINE_HEADER),
        traceparent=request.header(TRACE_HEADER) or "",
    )


def parse_task(data: bytes, terms: Terms, request_id: str, max_samples: int) -> Asked:
    """Return what `read_task` does, from a body and what the headers said."""
    if not terms.is_json:
        raise ProblemError(media_refused(JSON))
    if len(data) >= _LARGE_BODY:
        _check_number(data, max_samples)
    body = decode(_predict_decoder, data)
    sample_ids = pack_ids(body.sample_ids)
    if has_more(data, COLON, body.n_members):
        _check_members(data, body.n_members, sample_ids)
    task = PredictTask(
        request_id=_request_id(body.request_id) if isinstance(body.request_id, str) else request_id,
        model_id=_model_id(body.model),
        mode=Mode.NEARLINE if body.mode is UNSET else body.mode,
        sample_ids=sample_ids,
        inputs=read_inputs(body.inputs, len(sample_ids)) if isinstance(body.inputs, dict) and body.inputs else None,
        traceparent=terms.traceparent,
    )
    stated_s = body.timeout_ms / 1e3 if isinstance(body.timeout_ms, int) else None
    return Asked(task, stated_s if terms.deadline is None else _smaller_deadline(terms.deadline, stated_s))


def name_request(header: str | None) -> str:
    """Return the id of a request: what `x-request-id` says, or a new one where it is missing or breaks the rule."""
    if header is None:
        return new_request_id()
    try:
        return check_request_id(header)
    except ProtocolError:
        return new_request_id()


def decode(decoder: msgspec.json.Decoder[T], data: bytes | memoryview) -> T:
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


def _is_json(request: Incoming) -> bool:
    """Return whether a body is JSON by its headers, uncompressed.

    A browser's form cannot send application/json to another site without asking first; so no web page can make its
    reader's browser ask for predictions.
    """
    given = request.header(b"content-type")
    is_json = given == JSON or (given or "").partition(";")[0].strip().lower() == JSON
    return is_json and request.header(b"content-encoding") in (None, "identity")


def deadline_of(request: Incoming, stated_s: float | None) -> float | None:
    """Return how long the caller waits: the smaller of what the body says and the header; None without either."""
    header = request.header(DEADLINE_HEADER)
    return stated_s if header is None else _smaller_deadline(header, stated_s)


def _smaller_deadline(header: str, stated_s: float | None) -> float:
    if not (header.isascii() and header.isdecimal() and len(header) <= 9 and 1 <= int(header) <= MAX_TIMEOUT_MS):
        place = f"header {DEADLINE_HEADER.decode()}"
        raise FieldError(f"{place} is no number", place=place, problem=f"expected 1 to {MAX_TIMEOUT_MS} milliseconds")
    header_s = int(header) / 1e3
    return header_s if stated_s is None else min(header_s, stated_s)


def pack_ids(sample_ids: list[str]) -> Sequence[bytes]:
    """Return ids as bytes, packed unless there is only one; those of ASCII, nearly all, with no loop over them."""
    if len(sample_ids) == 1:
        return [sample_ids[0].encode()]
    text = "".join(sample_ids)
    if not text.isascii():
        return SampleIds.of([sample_id.encode() for sample_id in sample_ids])
    offsets = np.zeros(len(sample_ids) + 1, dtype=np.int64)
    np.cumsum(np.fromiter(map(len, sample_ids), dtype=np.int64, count=len(sample_ids)), out=offsets[1:])
    return SampleIds(text.encode(), offsets)


def read_inputs(columns: Mapping[str, Sequence[float | str | None]], n_samples: int) -> Inputs:
    """Return features by name as one matrix.

    Raises:
        FieldError: A feature has not one value per sample, has numbers and texts, or a text that is too long.
    """
    for name, column in columns.items():
        if len(column) != n_samples:
            raise _input_error(name, f"{len(column)} values for {n_samples} sample ids")
    try:
        # three times as fast as numpy over lists; None, a missing value, is what it does not take, and texts are
        pack = struct.Struct(f"={n_samples}d").pack
        values = np.frombuffer(b"".join([pack(*column) for column in columns.values()]), dtype=np.float64)
    except struct.error:
        return _read_mixed(columns, n_samples)
    return Inputs(tuple(columns), values.reshape(len(columns), n_samples).T)


def _read_mixed(columns: Mapping[str, Sequence[float | str | None]], n_samples: int) -> Inputs:
    numbers: dict[str, Floats] = {}
    texts: dict[str, list[str | None]] = {}
    for name, column in columns.items():
        cells = [cell for cell in column if cell is None or isinstance(cell, str)]
        n_texts = len(cells) - cells.count(None)
        if not n_texts:
            numbers[name] = np.array(column, dtype=np.float64)
        elif len(cells) < n_samples:
            raise _input_error(name, "numbers and texts in one feature")
        elif any(cell is not None and is_too_long(cell) for cell in cells):
            raise _input_error(name, f"a text of more than {MAX_TEXT_BYTES} bytes")
        else:
            texts[name] = cells
    return inputs_of(numbers, texts, n_samples)


def _input_error(name: str, problem: str) -> FieldError:
    return _body_error(f"$.inputs.{name[:MAX_NAME_SHOWN]}", problem)


def _check_number(data: bytes, max_samples: int) -> None:
    """Refuse a body of far too many ids without making an object of each: the loop would stand still meanwhile."""
    allowed = max_samples + _MANY_NAMES
    n_quotes = int(np.count_nonzero(np.frombuffer(data, dtype=np.uint8) == _QUOTE))  # a tenth of `count`'s time
    if n_quotes <= 2 * allowed:
        return
    n_strings = (n_quotes - data.count(b'\\"')) // 2
    if n_strings > allowed:
        raise TooManySamplesError(f"a body of some {n_strings} strings", limit=max_samples)


def _check_members(data: bytes, n_members: int, sample_ids: Sequence[bytes]) -> None:
    """Refuse a body that has a member twice; that ids have colons is no reason to read it once more."""
    joined = sample_ids.data if isinstance(sample_ids, SampleIds) else b"".join(sample_ids)
    if b"\\" in data or count(data, COLON) != n_members + count(joined, COLON):
        check_body(data)


@lru_cache(maxsize=1024)
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
