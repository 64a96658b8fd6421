"""Calls to a participant -> lines of its audit log."""

from __future__ import annotations

from dataclasses import dataclass

from fedpredict.model.populations import BucketQuery, PopulationRows
from fedpredict.model.sample_ids import SampleIds
from fedpredict.model.scorer import PartyReply, ScoreQuery
from fedpredict.model.several import rows_of_models
from fedpredict.model.standing import BucketIds, PopulationNotice
from fedpredict.security.audit_calls import AuditedCalls
from fedpredict.security.audit_line import AuditedCall, is_unlisted, outcome_of
from fedpredict.security.identity import Identity

EVENTS = "POST /v1/events"
_SCORE = "Score"


class CallAudit(AuditedCalls):
    """Writes calls down, where there is an audit log."""

    def scored(self, caller: Identity, query: ScoreQuery, answer: PartyReply | BaseException) -> None:
        """Write down a question for shares, a line for each model that it asks for."""
        if self._log is None:
            return
        reply = answer if isinstance(answer, PartyReply) else None
        rows_of = rows_of_models(query) if query.further else [slice(0, len(query.sample_ids))]
        for place, (model, rows) in enumerate(zip(query.models, rows_of, strict=True)):
            error = answer if isinstance(answer, BaseException) else answer.failures.get(place)
            ids = query.sample_ids[rows] if query.further else query.sample_ids
            if reply is not None and error is None:
                self.answered(
                    _SCORE,
                    caller,
                    query.request_id,
                    model_id=model.model_id,
                    manifest_sha256=model.manifest_sha256,
                    mode=query.mode,
                    epoch=query.epoch,
                    sample_ids=ids,
                    status=reply.share.status[rows],
                )
                continue
            call = AuditedCall(
                _SCORE,
                "",
                query.request_id,
                model.model_id,
                model.manifest_sha256,
                query.mode.value,
                len(ids),
                query.epoch,
                outcome_of(error),
                None if is_unlisted(error) else ids,
            )
            self.write(call, caller, error)

    def bucket(
        self, caller: Identity, query: BucketQuery, ids: AskedIds, answer: PartyReply | BaseException | None
    ) -> None:
        """Write down a question for the shares of a bucket."""
        if self._log is None:
            return
        error = answer if isinstance(answer, BaseException) else None
        rows = query.rows
        self.write(
            AuditedCall(
                "ScoreBucket",
                "",
                query.request_id,
                query.model_id,
                query.manifest_sha256,
                query.mode.value,
                query.n_rows,
                query.epoch,
                outcome_of(error),
                None if is_unlisted(error) else ids.sample_ids,
                answer.share.status if isinstance(answer, PartyReply) else None,
                "" if is_unlisted(error) else ids.sha256,
                f"{rows.population} version {rows.version}" if isinstance(rows, PopulationRows) else "",
            ),
            caller,
            error,
        )

    def population(self, caller: Identity, notice: PopulationNotice, error: BaseException | None) -> None:
        """Write down word of a version of a population, or a question what became of it."""
        if self._log is not None:
            named = f"{notice.population} version {notice.version}"
            self.write(
                AuditedCall(
                    "RegisterPopulation",
                    "",
                    notice.request_id,
                    rows=notice.n_ids,
                    outcome=outcome_of(error),
                    population=named,
                ),
                caller,
                error,
            )

    def events(self, sender: Identity, request_id: str, view: str, n_rows: int) -> None:
        """Write down raw events that were taken."""
        if self._log is not None:
            self.write(AuditedCall(EVENTS, "", request_id, rows=n_rows, population=f"view {view}"), sender, None)

    def put_bucket(self, caller: Identity, put: BucketIds, error: BaseException | None) -> None:
        """Write down ids of a population that were sent: their number, and a keyed hash of their digest."""
        if self._log is None:
            return
        content = put.content
        rows = len(content) if isinstance(content, SampleIds) else len(content.added) + len(content.removed)
        self.write(
            AuditedCall(
                "PutPopulationBucket",
                "",
                put.request_id,
                rows=rows,
                outcome=outcome_of(error),
                sample_ids=content if isinstance(content, SampleIds) and not is_unlisted(error) else None,
                ids_sha256="" if is_unlisted(error) else put.sha256,
                population=f"{put.population} version {put.version}",
            ),
            caller,
            error,
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
