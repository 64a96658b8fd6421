"""What an initiator counts of offline tasks: their states, what parties gave for buckets, and lists that were sent."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

import numpy as np
from typing_extensions import override

from fedpredict.model.arrays import Statuses
from fedpredict.model.share import SampleStatus
from fedpredict.model.task_history import TaskOverview, TaskWaiting
from fedpredict.observe import metrics
from fedpredict.observe.counting import Reading, Source, distributions, one, tallies
from fedpredict.observe.metrics import CallOutcome, Outcome

_UNKNOWN = ("", "retrying")
"""Party and reason of a task that was being tried again whenever it was looked at."""


class TaskMetrics(Source):
    """All of them, of one process; states are those of the database that all processes share, as last read."""

    def __init__(self, reason_of: Callable[[str, str], str], clock: Callable[[], float] = time.time) -> None:
        """Begin with nothing.

        Args:
            reason_of: Returns a word of ours for a problem and the party whose it is.
            clock: Seconds since 1970.
        """
        self._reason_of = reason_of
        self._clock = clock
        self._overview = TaskOverview()
        self._reasons: dict[str, tuple[str, str]] = {}
        """By task that waits: party and reason, also while it is tried again."""
        self._bucket_seconds = distributions(metrics.TASK_BUCKET_SECONDS)
        self._party_seconds = distributions(metrics.TASK_PARTY_SECONDS)
        self._rows = tallies(metrics.TASK_ROWS)
        self._uploads = tallies(metrics.UPLOADS)
        self._upload_rows = self._open_uploads = 0

    def seen(self, overview: TaskOverview) -> None:
        """Take what the database says of all tasks."""
        self._overview = overview
        self._reasons = {each.task_id: self._told(each) for each in overview.waiting}

    def bucket_done(self, model: str, seconds: float) -> None:
        """Count a bucket whose results and record are stored."""
        self._bucket_seconds.child(model).observe(seconds)

    def asked(self, model: str, party: str, seconds: float, status: Statuses) -> None:
        """Count a party's answer for a bucket, or for some rows of one.

        Args:
            model: The task's.
            party: Whose answer it is.
            seconds: From asking to having it.
            status: Shape (n_rows,), of the share.
        """
        self._party_seconds.child(party, "ok").observe(seconds)
        for code, rows in enumerate(np.bincount(status).tolist()):
            if rows:
                self._rows.child(model, party, SampleStatus(code).name.lower()).value += rows

    def not_answered(self, party: str, seconds: float, outcome: CallOutcome) -> None:
        """Count a call for a bucket that a party gave no share for."""
        self._party_seconds.child(party, outcome).observe(seconds)

    def upload_began(self) -> None:
        """Count a list that begins to come."""
        self._open_uploads += 1

    def upload_ended(self, outcome: Outcome, rows: int = 0) -> None:
        """Count the end of a list that began, and the rows of one that was taken."""
        self._open_uploads -= 1
        self._uploads.child(outcome).value += 1
        self._upload_rows += rows

    @override
    def read(self) -> Iterable[Reading]:
        """Return everything, in the order of the declarations."""
        now = self._clock()
        waiting: dict[tuple[str, str, str], list[float]] = {}
        for each in self._overview.waiting:
            labels = (each.model_id, *self._reasons[each.task_id])
            waiting.setdefault(labels, []).append(max(0.0, now - each.since.timestamp()))
        yield Reading(metrics.TASKS, [((model, str(state)), n) for (model, state), n in self._overview.states.items()])
        yield Reading(metrics.TASKS_WAITING, [(labels, float(len(each))) for labels, each in waiting.items()])
        yield Reading(metrics.TASK_WAITING_SECONDS, [(labels, max(each)) for labels, each in waiting.items()])
        yield self._bucket_seconds.reading()
        yield self._party_seconds.reading()
        yield self._rows.reading()
        yield self._uploads.reading()
        yield one(metrics.UPLOAD_ROWS, float(self._upload_rows))
        yield one(metrics.OPEN_UPLOADS, float(self._open_uploads))

    def _told(self, task: TaskWaiting) -> tuple[str, str]:
        if not task.problem:
            return self._reasons.get(task.task_id, _UNKNOWN)
        return task.party, self._reason_of(task.problem, task.party)
