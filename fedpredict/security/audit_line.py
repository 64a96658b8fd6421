"""What a line of the audit log is made of."""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from json.encoder import encode_basestring_ascii

import numpy as np

from fedpredict.errors import AuditUnavailableError, TokenRefusedError
from fedpredict.model.arrays import Statuses
from fedpredict.model.kernel.lines import ID_BYTES, pack_call
from fedpredict.model.sample_ids import SampleIds
from fedpredict.model.share import SampleStatus

TEXT = 256
"""Characters that a line has of any one text."""
_STATUSES = tuple(SampleStatus(number).name for number in range(len(SampleStatus)))


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


class CallPacker:
    """Packs the calls of one party's log, as `LineKernel` takes them."""

    def __init__(self, key: bytes, ids_per_line: int) -> None:
        """Prepare.

        Args:
            key: Hides sample ids.
            ids_per_line: Of a call about so many ids at most, each is written.
        """
        self._key = key
        self._ids_per_line = ids_per_line

    def pack(self, at_ns: int, call: AuditedCall) -> bytes:
        """Return a call of that time, in nanoseconds since 1970, without ids that its line leaves out."""
        ids, text = call.sample_ids, fields_of(call)
        if call.ids_sha256 and (ids is None or len(ids) > self._ids_per_line):
            root = hmac.digest(self._key, bytes.fromhex(call.ids_sha256), "sha256").hex()
            ids, text = None, text + f',"root":"{root}"'.encode("ascii")
        return pack_call(at_ns, text, call.request_id[:TEXT], None if ids is None else SampleIds.of(ids))


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


def fields_of(call: AuditedCall) -> bytes:
    """Return a line's fields but for its time, request and ids, in JSON without braces."""
    named = {"what": call.what, "caller": call.caller, "model": call.model_id, "manifest": call.manifest_sha256}
    named |= {"mode": call.mode, "population": call.population, "purpose": call.purpose, "token": call.token}
    said = "".join([f'"{name}":{encode_basestring_ascii(value[:TEXT])},' for name, value in named.items() if value])
    counts = f'"rows":{call.rows},"epoch":{call.epoch},"outcome":{encode_basestring_ascii(call.outcome)}'
    return f"{said}{counts}{'' if call.status is None else _counted(call.status)}".encode("ascii")


def _counted(status: Statuses) -> str:
    counts = np.bincount(status, minlength=len(_STATUSES)).tolist()
    named = ",".join([f'"{name}":{n}' for name, n in zip(_STATUSES, counts, strict=True) if n])
    return f',"statuses":{{{named}}}'
