"""Between the messages of offline tasks, as an initiator's users see them, and model values.

`…_to_wire` trusts its arguments; `…_from_wire` trusts nothing and raises `ProtocolError`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import cast

from fedpredict.errors import FieldError, NameRefusedError, ProtocolError
from fedpredict.model.ids import check_name
from fedpredict.model.offline import CombinedBy, Counts, HistogramView, OfflineState, PartyView, RankBy, TaskInfo
from fedpredict.model.share import Mode, SampleStatus
from fedpredict.model.task_history import TaskEvent
from fedpredict.wire.codec import (
    MODES,
    PROTOCOL_VERSION,
    check_protocol_version,
    check_request_id,
    from_enum,
    instant_from_wire,
    model_id_from_wire,
    new_request_id,
    seconds_from_wire,
)
from fedpredict.wire.v1 import initiator_pb2

MAX_NOTE = 200
MAX_RANKED = 2**62
_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_STATES = {
    state: cast("initiator_pb2.TaskState", initiator_pb2.TaskState.Value(f"TASK_STATE_{state.name}"))
    for state in OfflineState
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """An offline task as a user asks for it.

    Attributes:
        request_id: Names the call in every log.
        model_id: The model.
        mode: Nearline or offline.
        upload_id: What an upload is named; empty: the ids are not those of one.
        standing: A standing population; empty: the ids are not those of one.
        version: Its version; 0: the newest.
        table: A table that the initiator's settings offer; empty: the ids are not those of one.
        idempotency_key: The same again gives the task that is there; empty: none.
        note: For people.
        rank_by: What results are ranked by; None: they are not.
    """

    request_id: str
    model_id: str
    mode: Mode
    upload_id: str = ""
    standing: str = ""
    version: int = 0
    table: str = ""
    idempotency_key: str = ""
    note: str = ""
    rank_by: RankBy | None = None


def submission_to_wire(submission: Submission) -> initiator_pb2.SubmitTaskRequest:
    """Return what a user asks for as a message."""
    message = initiator_pb2.SubmitTaskRequest(
        protocol_version=PROTOCOL_VERSION,
        request_id=submission.request_id,
        model_id=submission.model_id,
        mode=MODES[submission.mode],
        idempotency_key=submission.idempotency_key,
        note=submission.note,
    )
    if submission.rank_by is not None:
        message.rank_by.CopyFrom(_rank_by_to_wire(submission.rank_by))
    if submission.standing:
        message.standing.population, message.standing.version = submission.standing, submission.version
    elif submission.table:
        message.table = submission.table
    else:
        message.upload_id = submission.upload_id
    return message


def submission_from_wire(message: initiator_pb2.SubmitTaskRequest) -> Submission:
    """Return what a user asks for.

    Raises:
        ProtocolError: The message breaks the protocol.
        FieldError: The key or the note breaks its rule, or no population is named.
    """
    check_protocol_version(message.protocol_version)
    kind = message.WhichOneof("population")
    if kind is None:
        raise FieldError("a task without a population", place="population", problem="is missing")
    key = message.idempotency_key
    if key and _NAME.fullmatch(key) is None:
        problem = "must be 1 to 64 of A-Z, a-z, 0-9, '.', '_', '-'"
        raise FieldError("an idempotency key that breaks the rule", place="idempotency_key", problem=problem)
    if len(message.note) > MAX_NOTE or not (message.note.isprintable()):
        problem = f"must be at most {MAX_NOTE} printable characters"
        raise FieldError("a note that breaks the rule", place="note", problem=problem)
    return Submission(
        request_id=request_id_from_wire(message.request_id),
        model_id=model_id_from_wire(message.model_id),
        mode=from_enum(MODES, message.mode, "mode"),
        upload_id=name_from_wire(message.upload_id, "upload") if kind == "upload_id" else "",
        standing=_population(message.standing.population) if kind == "standing" else "",
        version=message.standing.version,
        table=_population(message.table) if kind == "table" else "",
        idempotency_key=key,
        note=message.note,
        rank_by=_rank_by_from_wire(message),
    )


def _rank_by_to_wire(rank_by: RankBy) -> initiator_pb2.RankBy:
    return initiator_pb2.RankBy(output=rank_by.output, top=rank_by.top)


def _rank_by_from_wire(message: initiator_pb2.SubmitTaskRequest | initiator_pb2.Task) -> RankBy | None:
    if not message.HasField("rank_by"):
        return None
    if message.rank_by.top > MAX_RANKED:
        problem = f"must be at most {MAX_RANKED}"
        raise FieldError("ranks of more than there can be", place="rank_by.top", problem=problem)
    return RankBy(message.rank_by.output, message.rank_by.top)


def request_id_from_wire(value: str) -> str:
    """Return a request id, one of ours where there is none; raise `ProtocolError`."""
    return check_request_id(value) if value else new_request_id()


def name_from_wire(value: str, what: str) -> str:
    """Return the name of a task or an upload; raise `ProtocolError` where it is none."""
    if _NAME.fullmatch(value) is None:
        raise ProtocolError(f"no name of a {what}: 1 to 64 of A-Z, a-z, 0-9, '.', '_', '-'")
    return value


def _population(value: str) -> str:
    try:
        return check_name(value, "population")
    except NameRefusedError as error:
        raise ProtocolError(str(error)) from error


def task_to_wire(info: TaskInfo) -> initiator_pb2.Task:
    """Return a task as a message."""
    return initiator_pb2.Task(
        task_id=info.task_id,
        model_id=info.model_id,
        manifest_sha256=bytes.fromhex(info.manifest_sha256),
        mode=MODES[info.mode],
        state=_STATES[info.state],
        problem=info.problem,
        note=info.note,
        population=info.population,
        n_buckets=info.n_buckets,
        buckets_done=info.buckets_done,
        rows=info.rows,
        ids=info.ids,
        ids_done=info.ids_done,
        scored=info.scored,
        duplicates=info.duplicates,
        invalid=info.invalid,
        statuses=_counts_to_wire(info.statuses),
        parties=[
            initiator_pb2.TaskParty(
                party=each.party,
                statuses=_counts_to_wire(each.statuses),
                buckets_done=each.buckets_done,
                problem=each.problem,
                oldest_event_time_us=each.oldest_event_time,
                sources=each.sources,
            )
            for each in info.parties
        ],
        ids_per_s=info.ids_per_s,
        remaining_s=info.remaining_s,
        submitted_us=_micros(info.submitted_at),
        started_us=_micros(info.started_at),
        finished_us=_micros(info.finished_at),
        classes=info.classes,
        histograms=[
            initiator_pb2.Histogram(
                output=each.output, first=each.first, width=each.width, counts=each.counts, stability=each.stability
            )
            for each in info.histograms
        ],
        warnings=info.warnings,
        submitted_by=info.submitted_by,
        rank_by=None if info.rank_by is None else _rank_by_to_wire(info.rank_by),
        combined_by=str(info.combined_by),
        combined_why=info.combined_why,
        buckets_gathered=info.buckets_gathered,
    )


def task_from_wire(message: initiator_pb2.Task) -> TaskInfo:
    """Return a task; raise `ProtocolError` where the message breaks the protocol."""
    submitted_at = _instant(message.submitted_us)
    if submitted_at is None:
        raise ProtocolError("a task without the time when it was submitted")
    return TaskInfo(
        task_id=name_from_wire(message.task_id, "task"),
        model_id=model_id_from_wire(message.model_id),
        manifest_sha256=message.manifest_sha256.hex(),
        mode=from_enum(MODES, message.mode, "mode"),
        state=from_enum(_STATES, message.state, "state of a task"),
        problem=message.problem,
        note=message.note,
        population=message.population,
        n_buckets=message.n_buckets,
        buckets_done=message.buckets_done,
        rows=message.rows,
        ids=message.ids,
        ids_done=message.ids_done,
        scored=message.scored,
        duplicates=message.duplicates,
        invalid=message.invalid,
        statuses=_counts_from_wire(message.statuses),
        parties=tuple(_party_from_wire(each) for each in message.parties),
        ids_per_s=seconds_from_wire(message.ids_per_s),
        remaining_s=seconds_from_wire(message.remaining_s),
        submitted_at=submitted_at,
        started_at=_instant(message.started_us),
        finished_at=_instant(message.finished_us),
        classes=tuple(message.classes),
        histograms=tuple(
            HistogramView(
                output=each.output,
                first=each.first,
                width=each.width,
                counts=tuple(each.counts),
                stability=each.stability if each.HasField("stability") else None,
            )
            for each in message.histograms
        ),
        warnings=tuple(message.warnings),
        submitted_by=message.submitted_by,
        rank_by=_rank_by_from_wire(message),
        combined_by=_combined_by(message.combined_by),
        combined_why=message.combined_why,
        buckets_gathered=message.buckets_gathered,
    )


def _combined_by(value: str) -> CombinedBy:
    try:
        return CombinedBy(value)
    except ValueError:  # of a newer initiator: all else that it says of the task is as good
        return CombinedBy.UNDECIDED


def _party_from_wire(message: initiator_pb2.TaskParty) -> PartyView:
    has_time = message.HasField("oldest_event_time_us")
    return PartyView(
        party=message.party,
        statuses=_counts_from_wire(message.statuses),
        buckets_done=message.buckets_done,
        problem=message.problem,
        oldest_event_time=instant_from_wire(message.oldest_event_time_us) if has_time else None,
        sources=tuple(message.sources),
    )


def history_to_wire(events: Sequence[TaskEvent]) -> initiator_pb2.TaskHistory:
    """Return what happened to a task as a message; details are those that its users may read."""
    told = [initiator_pb2.TaskEvent(at_us=_micros(each.at), what=each.what, detail=each.detail) for each in events]
    return initiator_pb2.TaskHistory(events=told)


def history_from_wire(message: initiator_pb2.TaskHistory) -> list[TaskEvent]:
    """Return what happened to a task; raise `ProtocolError` where the message breaks the protocol."""
    events = []
    for each in message.events:
        at = _instant(each.at_us)
        if at is None:
            raise ProtocolError("something that happened to a task, without a time")
        events.append(TaskEvent(at, each.what, each.detail))
    return events


def _counts_to_wire(counts: Counts) -> list[initiator_pb2.StatusCount]:
    # the numbers of the enumeration are ours: see `wire.codec`
    return [initiator_pb2.StatusCount(status=int(status), count=count) for status, count in counts.items()]  # type: ignore[arg-type]


def _counts_from_wire(messages: Iterable[initiator_pb2.StatusCount]) -> dict[SampleStatus, int]:
    try:
        return {SampleStatus(each.status): each.count for each in messages}
    except ValueError as error:
        raise ProtocolError("an unknown SampleStatus") from error


def _micros(moment: datetime | None) -> int:
    return 0 if moment is None else (moment - _EPOCH) // _MICROSECOND


def _instant(micros: int) -> datetime | None:
    return _EPOCH + timedelta(microseconds=instant_from_wire(micros)) if micros else None
