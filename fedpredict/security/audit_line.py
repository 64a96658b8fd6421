"""Calls -> lines of the audit log, many at a time: what a line costs is what an answer pays for being written down."""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from json.encoder import encode_basestring_ascii
from typing import TypeAlias

import numpy as np

from fedpredict.errors import AuditUnavailableError, TokenRefusedError
from fedpredict.model.arrays import Statuses
from fedpredict.model.kernel.lines import ID_BYTES, Bodies, CallTexts, LineKernel
from fedpredict.model.populations import digest_of
from fedpredict.model.sample_ids import SampleIds
from fedpredict.model.share import SampleStatus

TEXT = 256
"""Characters that a line has of any one text."""
_STATUSES = tuple(SampleStatus(number).name for number in range(len(SampleStatus)))
_KEPT_STATUSES = 64
"""Statuses of so many samples at most are looked up by their bytes; more are counted later, by the writing thread."""
_KNOWN = 1_024
"""Texts that are kept."""
_WEIGHT = 600
"""About what a call takes in memory beside its text and ids."""

Later: TypeAlias = "tuple[Sequence[bytes] | None, str, Statuses | None]"
"""What is still to be hashed or counted: ids, or their digest in hex; and statuses."""
Heard: TypeAlias = "tuple[int, str, str, bytes | Sequence[bytes], int, Later | None, int]"
"""When a call was answered, in microseconds since 1970; its fields; its request id; the one id that its line names, or
several; how many, -1 for no such field; the rest, if there is any; and about how many bytes it takes."""


# not frozen: one is made for every answer, and a frozen dataclass takes three times as long to make
@dataclass(slots=True)
class AuditedCall:
    """One call, as its line has it; nobody changes what it was made of.

    Attributes:
        what: The method.
        caller: Who asked.
        request_id: Names the call in every log.
        model_id: The model; empty where there is none.
        manifest_sha256: The version; empty where there is none.
        mode: The freshness asked for; empty where there is none.
        rows: How many samples.
        epoch: As in a `ScoreQuery`.
        outcome: "ok", or the kind of the error.
        sample_ids: The samples; None where the call names none.
        status: Of each, `SampleStatus` values; None where there is no answer.
        ids_sha256: The digest of the samples in hex (`digest_of`), where it is known; empty: it is computed if needed.
        population: The population and its version; empty where there is none.
        token: The id of the bearer token that the caller came with; empty where he came with none.
        purpose: What the caller asks for, as its rule says; empty where it does not.
    """

    what: str
    caller: str
    request_id: str = ""
    model_id: str = ""
    manifest_sha256: str = ""
    mode: str = ""
    rows: int = 0
    epoch: int = 0
    outcome: str = "ok"
    sample_ids: Sequence[bytes] | None = None
    status: Statuses | None = None
    ids_sha256: str = ""
    population: str = ""
    token: str = ""
    purpose: str = ""


class LineMaker:
    """Makes the lines of one party's log: begun by who answers calls, finished by the thread that writes."""

    def __init__(self, key: bytes, ids_per_line: int) -> None:
        """Prepare.

        Args:
            key: Hides sample ids.
            ids_per_line: Of a call about so many ids at most, each is written.
        """
        self._key = key
        self._ids_per_line = ids_per_line
        self._kernel = LineKernel(key)
        self._known: dict[tuple[object, ...], str] = {}

    def heard(self, micros: int, call: AuditedCall) -> Heard:
        """Return what waits of a call: what is quickly made while all of it is at hand.

        Ids that the line will not have do not wait.
        """
        ids, digest, status, size = call.sample_ids, call.ids_sha256, call.status, _WEIGHT
        late_status, late_ids = None, None
        if status is None:
            text = self._text(call, None)
        elif len(status) <= _KEPT_STATUSES:
            text = self._text(call, status.tobytes())
        else:
            text, late_status = self._text(call, None), status
            size += len(status)
        asked: bytes | Sequence[bytes] = b""
        n_ids = -1
        if ids is not None:
            n_ids = len(ids)
            if n_ids == 1 and self._ids_per_line:  # mostly
                asked, digest = (ids.data if isinstance(ids, SampleIds) else ids[0]), ""
                size += len(asked)
            elif n_ids <= self._ids_per_line:
                asked, digest = ids, ""
                size += _bytes_of(ids)
            elif digest:
                n_ids = -1
            else:
                late_ids, n_ids = ids, -1
                size += _bytes_of(ids)
        is_late = digest or late_ids is not None or late_status is not None
        later = (late_ids, digest, late_status) if is_late else None
        return micros, text, call.request_id[:TEXT], asked, n_ids, later, size

    def bodies(self, heard: Sequence[Heard]) -> Bodies:
        """Return a line for each call, at least one, without its number and hash."""
        # taken apart column by column: other threads wait meanwhile, and a loop in Python takes four times as long
        micros, texts, requests, asked, n_ids, later, _ = zip(*heard, strict=True)
        if any(later):
            texts = tuple([text + self._told(more) if more else text for text, more in zip(texts, later, strict=True)])
        if min(n_ids) < 1 or max(n_ids) > 1:
            several = [(each,) if n == 1 else each for each, n in zip(asked, n_ids, strict=True) if n > 0]
            asked = tuple(chain.from_iterable(several))
        return self._kernel.bodies(
            CallTexts(
                micros=np.array(micros, dtype=np.int64),
                texts=texts,
                request_ids=list(map(encode_basestring_ascii, requests)),
                n_ids=np.array(n_ids, dtype=np.int64),
                sample_ids=SampleIds.of(asked),
            )
        )

    def _text(self, call: AuditedCall, status: bytes | None) -> str:
        """Return a line's fields but for its time, request and ids; those of calls that are answered are looked up."""
        if call.outcome != "ok":  # what a stranger sent must not stay
            return _text(call, status)
        key = (
            *(call.what, call.caller, call.model_id, call.manifest_sha256, call.mode, call.rows, call.epoch, status),
            *(call.population, call.purpose, call.token),
        )
        text = self._known.get(key)
        if text is None:
            if len(self._known) >= _KNOWN:
                self._known.clear()
            text = self._known[key] = _text(call, status)
        return text

    def _told(self, later: Later) -> str:
        ids, digest, status = later
        counted = "" if status is None else _counted(status)
        return counted + self._root(ids, digest)

    def _root(self, ids: Sequence[bytes] | None, digest: str) -> str:
        if ids is None and not digest:
            return ""
        hashed = bytes.fromhex(digest or digest_of(SampleIds.of(ids or ())))
        return f',"root":"{hmac.digest(self._key, hashed, "sha256").hex()}"'


def outcome_of(error: BaseException | None) -> str:
    """Return what a line says of how a call ended: "ok", or the kind of the error, and of a token why it is refused."""
    if isinstance(error, TokenRefusedError) and error.reason:
        return f"{type(error).__name__}: {error.reason}"
    return "ok" if error is None else type(error).__name__


def is_unlisted(outcome: object) -> bool:
    """Return whether the log refused the call itself: then nothing that is large may wait for it."""
    return isinstance(outcome, AuditUnavailableError)


def hashed_id(key: bytes, sample_id: bytes) -> str:
    """Return what the log has in place of a sample id: the first half of its HMAC-SHA-256, in hex."""
    return hmac.digest(key, sample_id, "sha256")[:ID_BYTES].hex()


def _text(call: AuditedCall, status: bytes | None) -> str:
    named = {"what": call.what, "caller": call.caller, "model": call.model_id, "manifest": call.manifest_sha256}
    named |= {"mode": call.mode, "population": call.population, "purpose": call.purpose, "token": call.token}
    said = "".join([f'"{name}":{encode_basestring_ascii(value[:TEXT])},' for name, value in named.items() if value])
    statuses = "" if status is None else _counted(np.frombuffer(status, dtype=np.uint8))
    counts = f'"rows":{call.rows},"epoch":{call.epoch},"outcome":{encode_basestring_ascii(call.outcome)}'
    return f"{said}{counts}{statuses}"


def _bytes_of(ids: Sequence[bytes]) -> int:
    return 8 * len(ids) + (len(ids.data) if isinstance(ids, SampleIds) else sum(map(len, ids)))


def _counted(status: Statuses) -> str:
    counts = np.bincount(status, minlength=len(_STATUSES)).tolist()
    named = ",".join([f'"{name}":{n}' for name, n in zip(_STATUSES, counts, strict=True) if n])
    return f',"statuses":{{{named}}}'
