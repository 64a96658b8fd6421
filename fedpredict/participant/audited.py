"""Calls to a participant -> lines of its audit log."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from fedpredict.model.arrays import Statuses
from fedpredict.model.populations import BucketQuery
from fedpredict.model.scorer import PartyReply, ScoreQuery
from fedpredict.model.several import rows_of_models
from fedpredict.security.audit_log import AuditedCall
from fedpredict.security.identity import Identity


class Audit(Protocol):
    """What takes lines; `AuditLog` does."""

    def check(self) -> None:
        """Raise `AuditUnavailableError` where calls must not be answered, because they could not be written down."""

    def add(self, call: AuditedCall) -> None:
        """Have a call written down."""


class CallAudit:
    """Writes calls down, where there is an audit log."""

    def __init__(self, log: Audit | None) -> None:
        """Write to `log`; None: nowhere."""
        self._log = log

    def check(self) -> None:
        """Raise `AuditUnavailableError` where calls must not be answered."""
        if self._log is not None:
            self._log.check()

    def other(self, what: str, caller: Identity, request_id: str, model_id: str, error: BaseException | None) -> None:
        """Write down a call that names no samples, or one that was refused before it was understood."""
        if self._log is not None:
            outcome = _outcome(error)
            self._log.add(AuditedCall(what, str(caller), request_id, model_id, outcome=outcome))

    def scored(self, caller: Identity, query: ScoreQuery, answer: PartyReply | BaseException) -> None:
        """Write down a question for shares, a line for each model that it asks for."""
        if self._log is None:
            return
        reply = answer if isinstance(answer, PartyReply) else None
        rows_of = rows_of_models(query) if query.further else [slice(0, len(query.sample_ids))]
        for place, (model, rows) in enumerate(zip(query.models, rows_of, strict=True)):
            error = answer if isinstance(answer, BaseException) else answer.failures.get(place)
            status = None if reply is None or error is not None else reply.share.status[rows]
            self._log.add(
                AuditedCall(
                    "Score",
                    str(caller),
                    query.request_id,
                    model.model_id,
                    model.manifest_sha256,
                    query.mode.value,
                    rows.stop - rows.start,
                    query.epoch,
                    _outcome(error),
                    query.sample_ids[rows],
                    status,
                )
            )

    def bucket(
        self,
        caller: Identity,
        query: BucketQuery,
        sample_ids: Sequence[bytes] | None,
        status: Statuses | None,
        error: BaseException | None = None,
    ) -> None:
        """Write down a question for the shares of a bucket."""
        if self._log is None:
            return
        self._log.add(
            AuditedCall(
                "ScoreBucket",
                str(caller),
                query.request_id,
                query.model_id,
                query.manifest_sha256,
                query.mode.value,
                query.n_rows,
                query.epoch,
                _outcome(error),
                sample_ids,
                status,
            )
        )


def _outcome(error: BaseException | None) -> str:
    return "ok" if error is None else type(error).__name__
