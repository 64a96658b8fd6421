"""Calls -> lines of the audit log, many at a time: what a line costs is what an answer pays for being written down."""

from __future__ import annotations

import hmac
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from json.encoder import encode_basestring_ascii
from typing import TypeAlias

import numpy as np

from fedpredict.errors import AuditUnavailableError, TokenRefusedError
from fedpredict.model.arrays import Statuses
from fedpredict.model.kernel.hmacs import N_BYTES, hmac_halves
from fedpredict.model.populations import digest_of
from fedpredict.model.sample_ids import SampleIds
from fedpredict.model.share import SampleStatus
from fedpredict.security.audit_file import text_of

TEXT = 256
"""Characters that a line has of any one text."""
_HEX = 2 * N_BYTES
_STATUSES = tuple(SampleStatus(number).name for number in range(len(SampleStatus)))
_KEPT_STATUSES = 64
"""Statuses of so many samples at most are looked up by their bytes."""
_WEIGHT = 1_000
"""About what a call takes in memory without its ids."""

Heard: TypeAlias = "tuple[datetime, AuditedCall, int]"
"""When a call was answered, the call, and its weight."""


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
    """Makes the lines of one party's log; used by one thread."""

    def __init__(self, key: bytes, ids_per_line: int) -> None:
        """Prepare.

        Args:
            key: Hides sample ids.
            ids_per_line: Of a call about so many ids at most, each is written.
        """
        self._key = key
        self._ids_per_line = ids_per_line
        self._halves = hmac_halves(key)

    def weight(self, call: AuditedCall) -> int:
        """Return about how many bytes a call takes while it waits; ids that its line will not have do not wait."""
        ids = call.sample_ids
        if ids is None:
            return _WEIGHT
        if call.ids_sha256 and len(ids) > self._ids_per_line:
            call.sample_ids = None
            return _WEIGHT
        return _WEIGHT + (len(ids.data) if isinstance(ids, SampleIds) else sum(map(len, ids))) + 9 * call.rows

    def lines(self, heard: Sequence[Heard]) -> list[bytes]:
        """Return a line for each call, without its number and hash."""
        ids = self._hidden([call for _, call, _ in heard if self._has_each(call)])
        return [self._line(at, call, ids).encode() for at, call, _ in heard]

    def _has_each(self, call: AuditedCall) -> bool:
        return call.sample_ids is not None and len(call.sample_ids) <= self._ids_per_line

    def _hidden(self, some: Sequence[AuditedCall]) -> Callable[[int], str]:
        """Hide the ids of several calls at once; return what takes the next few, as a line has them."""
        asked: list[bytes] = []
        for call in some:
            ids = call.sample_ids or ()
            # mostly there is one, and to walk them takes longest of it
            asked += (ids.data,) if isinstance(ids, SampleIds) and len(ids) == 1 else ids
        text, at = self._halves(SampleIds.of(asked)).hex(), 0

        def take(n: int) -> str:
            nonlocal at
            first, at = at, at + n * _HEX
            if n == 1:
                return text[first:at]
            return '","'.join([text[each : each + _HEX] for each in range(first, at, _HEX)])

        return take

    def _line(self, at: datetime, call: AuditedCall, ids: Callable[[int], str]) -> str:
        # cut before they are looked up: what a stranger sent must not stay
        version = (call.model_id[:TEXT], call.manifest_sha256[:TEXT])
        said = (call.mode[:TEXT], call.population[:TEXT], call.purpose[:TEXT])
        head = _head(call.what, call.caller[:TEXT], version, said)
        request = f'"request":{encode_basestring_ascii(call.request_id[:TEXT])},' if call.request_id else ""
        token = f'"token":{encode_basestring_ascii(call.token[:TEXT])},' if call.token else ""
        counts = f'"rows":{call.rows},"epoch":{call.epoch},"outcome":{encode_basestring_ascii(call.outcome)}'
        statuses = "" if call.status is None else f',"statuses":{_statuses(call.status)}'
        return f'{{"kind":"call","t":"{text_of(at)}",{head}{token}{request}{counts}{statuses}{self._ids(call, ids)}}}'

    def _ids(self, call: AuditedCall, ids: Callable[[int], str]) -> str:
        asked = call.sample_ids
        if asked is not None and len(asked) <= self._ids_per_line:
            return f',"ids":["{ids(len(asked))}"]' if asked else ',"ids":[]'
        if asked is None and not call.ids_sha256:
            return ""
        digest = call.ids_sha256 or digest_of(SampleIds.of(asked or ()))
        return f',"root":"{hmac.digest(self._key, bytes.fromhex(digest), "sha256").hex()}"'


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
    return hmac.digest(key, sample_id, "sha256")[:N_BYTES].hex()


@lru_cache(maxsize=1024)
def _head(what: str, caller: str, version: tuple[str, str], said: tuple[str, str, str]) -> str:
    """Return what is the same for many calls, with a comma behind it; `version` is the model's id and manifest.

    `said` is the mode, the population and the purpose.
    """
    named = {"what": what[:TEXT], "caller": caller, "model": version[0], "manifest": version[1]}
    named |= dict(zip(("mode", "population", "purpose"), said, strict=True))
    return "".join([f'"{name}":{encode_basestring_ascii(value)},' for name, value in named.items() if value])


def _statuses(status: Statuses) -> str:
    return _counted(status.tobytes()) if len(status) <= _KEPT_STATUSES else _count(status)


@lru_cache(maxsize=1024)
def _counted(status: bytes) -> str:
    return _count(np.frombuffer(status, dtype=np.uint8))


def _count(status: Statuses) -> str:
    counts = np.bincount(status, minlength=len(_STATUSES)).tolist()
    return "{" + ",".join([f'"{name}":{n}' for name, n in zip(_STATUSES, counts, strict=True) if n]) + "}"
