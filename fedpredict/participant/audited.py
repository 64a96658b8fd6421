"""Calls to a participant -> lines of its audit log."""

from __future__ import annotations

from dataclasses import dataclass

from fedpredict.errors import AuditUnavailableError
from fedpredict.model.populations import BucketQuery, PopulationRows
from fedpredict.model.sample_ids import SampleIds
from fedpredict.model.scorer import PartyReply, ScoreQuery
from fedpredict.model.several import rows_of_models
from fedpredict.model.standing import BucketIds, PopulationNotice
from fedpredict.security.audit_line import AuditedCall, outcome_of
from fedpredict.security.audit_waiting import Audit, until_safe
from fedpredict.security.identity import Identity


class CallAudit:
    """Writes calls down, where there is an audit log."""

    def __init__(self, log: Audit | None) -> None:
        """Write to `log`; None: nowhere."""
        self._log = log

    def check(self) -> None:
        """Raise `AuditUnavailableError` where calls must not be answered."""
        if self._log is not None:
            self._log.check()

    async def safe(self) -> None:
        """Return when the answer may leave: at once, or with `fsync = "each"` when the disk has its line.

        Raises:
            AuditUnavailableError: The line cannot be written.
        """
        if self._log is not None and self._log.holds_answers:
            await until_safe(self._log)

    def other(self, what: str, caller: Identity, request_id: str, model_id: str, error: BaseException | None) -> None:
        """Write down a call that names no samples, or one that was refused before it was understood."""
        if self._log is not None:
            outcome = outcome_of(error)
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
                    outcome_of(error),
                    None if _is_unlisted(error) else query.sample_ids[rows],
                    status,
                )
            )

    def bucket(
        self, caller: Identity, query: BucketQuery, ids: AskedIds, answer: PartyReply | BaseException | None
    ) -> None:
        """Write down a question for the shares of a bucket."""
        if self._log is None:
            return
        error = answer if isinstance(answer, BaseException) else None
        rows = query.rows
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
                outcome_of(error),
                None if _is_unlisted(error) else ids.sample_ids,
                answer.share.status if isinstance(answer, PartyReply) else None,
                "" if _is_unlisted(error) else ids.sha256,
                f"{rows.population} version {rows.version}" if isinstance(rows, PopulationRows) else "",
            )
        )

    def population(self, caller: Identity, notice: PopulationNotice, error: BaseException | None) -> None:
        """Write down word of a version of a population, or a question what became of it."""
        if self._log is not None:
            named = f"{notice.population} version {notice.version}"
            what, outcome = "RegisterPopulation", outcome_of(error)
            self._log.add(
                AuditedCall(what, str(caller), notice.request_id, rows=notice.n_ids, outcome=outcome, population=named)
            )

    def put_bucket(self, caller: Identity, put: BucketIds, error: BaseException | None) -> None:
        """Write down ids of a population that were sent: their number, and a keyed hash of their digest."""
        if self._log is None:
            return
        content = put.content
        rows = len(content) if isinstance(content, SampleIds) else len(content.added) + len(content.removed)
        self._log.add(
            AuditedCall(
                "PutPopulationBucket",
                str(caller),
                put.request_id,
                rows=rows,
                outcome=outcome_of(error),
                sample_ids=content if isinstance(content, SampleIds) and not _is_unlisted(error) else None,
                ids_sha256="" if _is_unlisted(error) else put.sha256,
                population=f"{put.population} version {put.version}",
            )
        )


@dataclass(slots=True)
class AskedIds:
    """What is known of the ids of a bucket so far.

    Attributes:
        sample_ids: The ids.
        sha256: Their digest in hex.
    """

    sample_ids: SampleIds | None = None
    sha256: str = ""


def _is_unlisted(error: BaseException | None) -> bool:
    """Return whether the log refused the call itself: then nothing that is large may wait for it."""
    return isinstance(error, AuditUnavailableError)
