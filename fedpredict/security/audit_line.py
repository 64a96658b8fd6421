"""Calls -> lines of the audit log, many at a time: what a line costs is what an answer pays for being written down."""

from __future__ import annotations

import hmac
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from json.encoder import encode_basestring_ascii
from typing import Any, TypeAlias

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
_KNOWN = 1_024
"""Texts that are kept."""
_KEPT_STATUSES = 64
"""Those of calls about so many samples at most."""
_WEIGHT = 1_000
"""About what a call takes in memory without its ids."""

CallsOf: TypeAlias = "Callable[[Any], Sequence[AuditedCall]]"
"""Puts calls together of what was kept of them; called by the thread that writes."""
Heard: TypeAlias = "tuple[int, CallsOf | None, Any, int]"
"""When calls were answered, in microseconds since 1970; a call, or what one or several are put together of and by what;
and about how many bytes that takes."""


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
    """Makes the lines of one party's log; `bodies` is used by one thread."""

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

    def weight(self, call: AuditedCall) -> int:
        """Return about how many bytes a call takes while it waits; ids that its line will not have do not wait."""
        ids = call.sample_ids
        if ids is None:
            return _WEIGHT
        if call.ids_sha256 and len(ids) > self._ids_per_line:
            call.sample_ids = None
            return _WEIGHT
        return weight_of(ids) + call.rows

    def bodies(self, heard: Sequence[Heard]) -> Bodies:
        """Return a line for each call, without its number and hash."""
        micros, texts, requests, n_ids, asked = list[int](), list[str](), list[str](), list[int](), list[bytes]()
        for at, calls_of, kept, _ in heard:
            for call in (kept,) if calls_of is None else calls_of(kept):
                ids, text = call.sample_ids, self._text(call)
                if ids is None or len(ids) > self._ids_per_line:
                    text += self._root(call)
                    n_ids.append(-1)
                else:
                    n_ids.append(len(ids))
                    # mostly there is one, and to walk them takes longest of it
                    asked += (ids.data,) if len(ids) == 1 and isinstance(ids, SampleIds) else ids
                micros.append(at)
                texts.append(text)
                requests.append(call.request_id[:TEXT])
        return self._kernel.bodies(
            CallTexts(
                micros=np.array(micros, dtype=np.int64),
                texts=texts,
                request_ids=list(map(encode_basestring_ascii, requests)),
                n_ids=np.array(n_ids, dtype=np.int64),
                sample_ids=SampleIds.of(asked),
            )
        )

    def _text(self, call: AuditedCall) -> str:
        """Return a line's fields but for its time, request and ids; those of calls that are answered are looked up."""
        status = call.status
        if call.outcome != "ok" or (status is not None and len(status) > _KEPT_STATUSES):
            return _text(call)  # not kept: it may be a stranger's, or large
        key = (
            *(call.what, call.caller, call.model_id, call.manifest_sha256, call.mode, call.rows, call.epoch),
            *(call.population, call.purpose, call.token, None if status is None else status.tobytes()),
        )
        text = self._known.get(key)
        if text is None:
            if len(self._known) >= _KNOWN:
                self._known.clear()
            text = self._known[key] = _text(call)
        return text

    def _root(self, call: AuditedCall) -> str:
        if call.sample_ids is None and not call.ids_sha256:
            return ""
        digest = call.ids_sha256 or digest_of(SampleIds.of(call.sample_ids or ()))
        return f',"root":"{hmac.digest(self._key, bytes.fromhex(digest), "sha256").hex()}"'


def weight_of(ids: Sequence[bytes]) -> int:
    """Return about how many bytes a call about some samples takes."""
    return _WEIGHT + 8 * len(ids) + (len(ids.data) if isinstance(ids, SampleIds) else sum(map(len, ids)))


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


def _text(call: AuditedCall) -> str:
    named = {"what": call.what, "caller": call.caller, "model": call.model_id, "manifest": call.manifest_sha256}
    named |= {"mode": call.mode, "population": call.population, "purpose": call.purpose, "token": call.token}
    said = "".join([f'"{name}":{encode_basestring_ascii(value[:TEXT])},' for name, value in named.items() if value])
    counts = f'"rows":{call.rows},"epoch":{call.epoch},"outcome":{encode_basestring_ascii(call.outcome)}'
    return said + counts if call.status is None else f"{said}{counts}{_counted(call.status)}"


def _counted(status: Statuses) -> str:
    counts = np.bincount(status, minlength=len(_STATUSES)).tolist()
    named = ",".join([f'"{name}":{n}' for name, n in zip(_STATUSES, counts, strict=True) if n])
    return f',"statuses":{{{named}}}'
