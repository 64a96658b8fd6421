"""What happened to offline tasks, and where all of them stand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from fedpredict.model.offline import OfflineState


@dataclass(frozen=True, slots=True)
class TaskEvent:
    """Something that happened to a task.

    Attributes:
        at: When, in UTC.
        what: "submitted", "started", "waiting", "failed", "done", "cancelled", "retried", ...
        detail: More of it, in words; may be empty.
    """

    at: datetime
    what: str
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskWaiting:
    """A task that waits, or is being tried again after it waited.

    Attributes:
        task_id: Which.
        model_id: Its model.
        party: Whose problem it is; empty where it is no party's, or where the task is just being tried again.
        problem: Why it waits, in words that are public; empty where it is just being tried again.
        since: When it began to wait, in UTC; no bucket was done since.
    """

    task_id: str
    model_id: str
    party: str
    problem: str
    since: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskOverview:
    """All tasks at one moment.

    Attributes:
        states: How many, by model and state.
        waiting: Those that wait.
    """

    states: Mapping[tuple[str, OfflineState], int] = field(default_factory=dict)
    waiting: tuple[TaskWaiting, ...] = ()
