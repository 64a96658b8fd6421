"""The contract of the task store: what an initiator's offline tasks are, who works on them, and what is done of them.

Several processes work on one store at the same time. A worker *claims* a task for a while and renews its claim; when it
no longer does, another one may claim the task. Everything that a worker changes is refused once its claim is another's,
so a bucket is recorded once, by whoever holds the task.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from fedpredict.errors import FieldError
from fedpredict.model.offline import Bins, BucketDone, CombinedBy, NewTask, OfflineState, OfflineTask, Totals, Upload
from fedpredict.model.task_history import TaskEvent, TaskOverview

LEASE_S = 15.0
"""How long a claim holds without being renewed."""
FAILED_WORK_KEPT = timedelta(days=7)
"""How long the shares of a task that failed stay, so that a retry need not ask for them again."""

TAKEN_OVER = "taken over"
"""What the history says where a worker lost a task to another one, and may be writing still."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A worker's hold on a task.

    Attributes:
        task: As it was when it was claimed.
        owner: The worker.
        token: Rises with every claim of the task: an older one counts no more.
        attempts: How often the task waited for a party since a bucket was last done.
    """

    task: OfflineTask
    owner: str
    token: int
    attempts: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Why:
    """What is the matter with a task.

    Attributes:
        problem: In words that are public.
        party: Whose problem it is; empty where it is no party's.
        detail: In this process's words, for the operator.
    """

    problem: str = ""
    party: str = ""
    detail: str = ""


NOTHING = Why()


def used_otherwise(task: OfflineTask) -> FieldError:
    """Return the error of a submission with the key of a task that is about something else."""
    return FieldError(
        f"key {task.new.idempotency_key} of {task.new.submitted_by} is task {task.task_id}'s, which is about another "
        "model, mode, population or ranking",
        place="idempotency_key",
        problem="was used for another model, mode or population, or with other ranks",
    )


def not_sent(upload_id: str, submitted_by: str) -> FieldError:
    """Return the error of a submission about a list that is not there."""
    problem = "is no list that you have sent, or not any more: send the ids again"
    return FieldError(f"no upload {upload_id} of {submitted_by}", place="upload_id", problem=problem)


class TaskBook(Protocol):
    """What users ask for."""

    def submit(self, new: NewTask, *, upload_id: str = "") -> OfflineTask:
        """Queue a task; where its submitter used the key before, return that task.

        Args:
            new: The task.
            upload_id: The list that it is about, which must be there still; empty where it is about none.

        Raises:
            FieldError: The key was used for another model, mode or population, or with other ranks; or the list was
                withdrawn.
            StateError: The database cannot be used.
        """

    def task(self, task_id: str) -> OfflineTask:
        """Return a task.

        Raises:
            TaskNotFoundError: There is none of that name.
            StateError: The database cannot be used.
        """

    def tasks(
        self, models: Collection[str], *, limit: int, states: Collection[OfflineState] = tuple(OfflineState)
    ) -> list[OfflineTask]:
        """Return the newest tasks of some models, the newest first."""

    def cancel(self, task_id: str) -> OfflineTask:
        """End a task, unless it has ended, and return it; raise `TaskNotFoundError`."""

    def retry(self, task_id: str) -> OfflineTask:
        """Queue a task that failed again, and return it; others stay as they are. Raise `TaskNotFoundError`.

        One whose results were withdrawn stays too: what is recorded of it is not there any more.
        """


class TaskClaims(Protocol):
    """What workers do."""

    def claim(self, owner: str, *, lease_s: float = LEASE_S) -> Claim | None:
        """Return the oldest task that nobody works on and that may go on now, held by `owner`; None: there is none."""

    def renew(self, claim: Claim, *, lease_s: float = LEASE_S) -> bool:
        """Hold a task for longer; return whether it is still held: it may have been cancelled, or be another's."""

    def begin(self, claim: Claim, bins: Bins) -> bool:
        """Record the bins of a task's histograms; return whether the task is still held."""

    def record(self, claim: Claim, done: BucketDone, *, ran_s: float) -> bool:
        """Record a bucket whose results are stored, once; return whether the task is still held.

        Args:
            claim: The worker's.
            done: What became of the bucket; one that is recorded already stays as it is.
            ran_s: Seconds since the claim, or since the bucket before.
        """

    def settle(self, claim: Claim, state: OfflineState, why: Why = NOTHING, *, wait_s: float = 0.0) -> bool:
        """End a claim; return whether the task was still held.

        Args:
            claim: The worker's.
            state: What becomes of the task: done, failed, waiting, or queued for another worker.
            why: What is the matter.
            wait_s: For so many seconds nobody claims it.
        """


class TaskResults(Protocol):
    """What is known of tasks beside their state."""

    def buckets(self, task_id: str, among: Collection[int] | None = None) -> dict[int, BucketDone]:
        """Return the records of the buckets that are done, ascending; of those `among` some, which are few, or of all.

        A record takes some kilobytes, and a task may have thousands: who needs numbers alone asks `recorded`.
        """

    def before(self, task: OfflineTask) -> OfflineTask | None:
        """Return the newest task of the same model that was done before this one was submitted."""

    def events(self, task_id: str) -> list[TaskEvent]:
        """Return what happened to a task, the oldest first; raise `TaskNotFoundError`."""

    def withdraw(self, moment: datetime) -> list[OfflineTask]:
        """Withdraw the results of tasks that ended before a moment, and return all whose results are to be removed.

        Nobody fetches them from then on, nor has such a task go on. A task is returned until it is marked.
        """

    def mark_removed(self, task_id: str) -> None:
        """Record that a task's results, which were withdrawn, are removed."""


class TaskWork(Protocol):
    """What a task keeps in the warehouse on the way to its results: shares to combine, results to rank."""

    def plan(self, claim: Claim, combined_by: CombinedBy, why: str, *, has_work: bool) -> bool:
        """Record how a task is done; return whether it is still held.

        Args:
            claim: The worker's.
            combined_by: What combines its shares.
            why: Why that is not the engine, where the settings ask for it; empty otherwise.
            has_work: Whether it may keep something in tables of work from now on.
        """

    def gather(self, claim: Claim, bucket: int, totals: Totals, *, ran_s: float) -> bool:
        """Record a bucket whose shares are stored, once; return whether the task is still held.

        Args:
            claim: The worker's.
            bucket: Which.
            totals: What the parties said of it.
            ran_s: Seconds since the claim, or since the bucket before.
        """

    def gathered(self, task_id: str) -> dict[int, Totals]:
        """Return what the parties said of the buckets whose shares are stored, ascending."""

    def worked(self, moment: datetime) -> list[OfflineTask]:
        """Return the tasks whose tables of work are to be emptied: all that have something there and are over.

        A task is over where it was done or cancelled before a moment, or failed `FAILED_WORK_KEPT` before that, or its
        results were withdrawn.
        """


class TaskCleaning(Protocol):
    """How what was gathered is forgotten again.

    Who empties tables of work withdraws what is there, removes the rows, and clears. Between two of these steps a task
    may be lost and retried: then it is over no more, and the next step refuses.
    """

    def ungather(self, claim: Claim, buckets: Collection[int]) -> bool:
        """Have some buckets count as gathered no more, so that they are asked for again.

        Return whether the task is still held; nothing changes where it is not.
        """

    def withdraw_work(self, task_id: str, moment: datetime) -> bool:
        """Have no bucket of a task count as gathered, where it is over still (as `worked` says); return whether so."""

    def clear_work(self, task_id: str, moment: datetime) -> bool:
        """Record that nothing of a task is in tables of work, where it is over still; return whether so."""


class TaskProgress(Protocol):
    """How far tasks are."""

    def recorded(self, task_id: str) -> set[int]:
        """Return the numbers of the buckets that are done."""

    def rewriting(self) -> list[tuple[str, int]]:
        """Return the buckets, of any task, whose results are written anew, or were when somebody was killed."""


class TaskRepairs(Protocol):
    """What is done about results that are not what was recorded."""

    def lose(self, task_id: str, lost: Collection[BucketDone], why: Why) -> OfflineTask:
        """Forget the records of buckets and have their task fail, so that a retry does these buckets again.

        Nothing changes where the buckets have other records by now, or the task was cancelled or its results withdrawn.
        Return the task; raise `TaskNotFoundError`.
        """


class TaskErasing(Protocol):
    """How results are written anew without a person, while others read them."""

    def about(self, owner: str, population: str) -> list[OfflineTask]:
        """Return the tasks whose ids are those of a population or list, the oldest first."""

    def digests(self, task_id: str, bucket: int) -> set[str]:
        """Return what the results of a bucket may have as their digest; none where it has no record.

        That is the recorded one, and, while they are written anew, that of those before.
        """

    def rerecord(self, task_id: str, before: BucketDone, after: BucketDone, stored_sha256: str) -> bool:
        """Record what the results of a bucket will be, and add up its task's anew; return whether that was done.

        Nothing changes where the task has not ended or failed, where its results were withdrawn, or where the bucket
        has another record than `before`.

        Args:
            task_id: The task.
            before: The bucket's record.
            after: What is recorded in its place; the rows follow, and then `rewritten`.
            stored_sha256: The digest of the rows that are there until then.
        """

    def rewritten(self, task_id: str, bucket: int) -> None:
        """Record that the results of a bucket are those of its record."""

    def withdraw_upload(self, upload_id: str) -> bool:
        """Forget a list, so that no task may be about it; return whether that is so: one may be that is not over."""


class TaskUploads(Protocol):
    """What there is before there is a task: keys, and lists of ids that were sent."""

    def by_key(self, submitted_by: str, idempotency_key: str) -> OfflineTask | None:
        """Return the task that a caller's key names; None: it names none yet."""

    def add_upload(self, upload: Upload) -> None:
        """Record a list whose ids are stored."""

    def upload(self, upload_id: str) -> Upload | None:
        """Return a list; None: there is none of that name."""

    def unused_uploads(self, moment: datetime) -> list[Upload]:
        """Return the lists sent before a moment that no task is about, or only tasks whose results were withdrawn."""

    def drop_upload(self, upload_id: str) -> None:
        """Forget a list whose ids were removed."""


class TaskWatch(Protocol):
    """What operators watch."""

    def overview(self) -> TaskOverview:
        """Return how many tasks are in which state, and which ones wait since when."""


class TaskStore(
    TaskBook,
    TaskClaims,
    TaskResults,
    TaskWork,
    TaskCleaning,
    TaskProgress,
    TaskRepairs,
    TaskErasing,
    TaskUploads,
    TaskWatch,
    Protocol,
):
    """Offline tasks. Calls may come from any thread; each blocks for as long as the database takes."""

    def close(self) -> None:
        """Release connections; closing twice is harmless."""
