"""The task store in any database that SQLAlchemy reaches; SQLite in a file by default."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable, Collection
from datetime import UTC, datetime
from functools import reduce
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa
from typing_extensions import override

from fedpredict.errors import TaskNotFoundError
from fedpredict.model.offline import Bins, BucketDone, NewTask, OfflineState, OfflineTask, Totals, Upload, add_totals
from fedpredict.model.task_history import TaskEvent, TaskOverview, TaskWaiting
from fedpredict.state.engine import Database, open_engine
from fedpredict.state.task_base import LEASE_S, NOTHING, TAKEN_OVER, Claim, TaskStore, Why, not_sent, used_otherwise
from fedpredict.state.task_erasing import SqlTaskErasing
from fedpredict.state.task_rows import (
    BUCKETS,
    EVENTS,
    METADATA,
    PLANS,
    TASK_ROWS,
    TASKS,
    UPLOADS,
    bucket_of_row,
    row_of_plan,
    row_of_task,
    row_of_upload,
    task_of_row,
    totals_from_json,
    totals_to_json,
    upload_of_row,
)
from fedpredict.state.task_work import holds, tell

SCHEMA_VERSION = 1
_COMPONENT = "offline tasks"
_ENDED = tuple(str(state) for state in OfflineState if state.has_ended)
_T = TypeVar("_T")


def open_task_store(url: str, base: Path = Path(), password: str | None = None) -> SqlTaskStore:
    """Open the store, and make its tables where there are none; arguments and errors are those of `open_pin_store`."""
    return SqlTaskStore(Database(open_engine(url, base, password), _COMPONENT, SCHEMA_VERSION, METADATA))


class SqlTaskStore(SqlTaskErasing, TaskStore):
    """Tasks, their buckets and their history in tables; every call is one transaction."""

    def __init__(self, database: Database, clock: Callable[[], float] = time.time) -> None:
        """Use a database.

        Args:
            database: Open; this object closes it.
            clock: Seconds since 1970, for claims: those of several machines must agree to a few seconds.
        """
        self._database = database
        self._clock = clock

    @override
    def submit(self, new: NewTask, *, upload_id: str = "") -> OfflineTask:
        """Queue a task, or return the one that its submitter's key names."""
        now = datetime.now(UTC)
        task_id = f"{now:%Y%m%dT%H%M%S}-{secrets.token_hex(8)}"
        with self._database.transaction() as connection:
            found = self._by_key(connection, new.submitted_by, new.idempotency_key)
            if found is not None:
                return _checked(found, new)
            # in this transaction: an erasure withdraws a list that no task is about
            list_of_it = sa.select(UPLOADS.c.upload_id).where(UPLOADS.c.upload_id == upload_id)
            if upload_id and connection.execute(list_of_it).first() is None:
                raise not_sent(upload_id, new.submitted_by)
            connection.execute(sa.insert(TASKS).values(row_of_task(task_id, new, now)))
            connection.execute(sa.insert(PLANS).values(row_of_plan(task_id, new)))
            tell(connection, task_id, "submitted", f"by {new.submitted_by}: {new.ids} ids in {new.n_buckets} buckets")
            return self._task(connection, task_id)

    @override
    def task(self, task_id: str) -> OfflineTask:
        """Return a task."""
        with self._database.transaction() as connection:
            return self._task(connection, task_id)

    @override
    def tasks(
        self, models: Collection[str], *, limit: int, states: Collection[OfflineState] = tuple(OfflineState)
    ) -> list[OfflineTask]:
        """Return the newest tasks of some models."""
        chosen = TASKS.c.model_id.in_(list(models)) & TASKS.c.state.in_([str(each) for each in states])
        statement = TASK_ROWS.where(chosen).order_by(TASKS.c.submitted_at.desc(), TASKS.c.task_id.desc())
        with self._database.transaction() as connection:
            return [self._read(task_of_row, row) for row in connection.execute(statement.limit(limit))]

    @override
    def cancel(self, task_id: str) -> OfflineTask:
        """End a task, unless it has ended."""
        values = {"state": str(OfflineState.CANCELLED), "problem": "", "problem_party": "", **_FREE}
        return self._change(task_id, TASKS.c.state.not_in(_ENDED), "cancelled", **values, finished_at=_now())

    @override
    def retry(self, task_id: str) -> OfflineTask:
        """Queue a task that failed again."""
        values = {"state": str(OfflineState.QUEUED), "problem": "", "problem_party": "", "finished_at": None, **_FREE}
        failed = (TASKS.c.state == str(OfflineState.FAILED)) & sa.not_(TASKS.c.results_removed)
        return self._change(task_id, failed, "retried", **values, not_before=0.0, attempts=0)

    @override
    def claim(self, owner: str, *, lease_s: float = LEASE_S) -> Claim | None:
        """Return the oldest task that may go on, held by `owner`."""
        now = self._clock()
        open_ = [str(state) for state in OfflineState if not state.has_ended]
        free = TASKS.c.state.in_(open_) & (TASKS.c.lease_until <= now) & (TASKS.c.not_before <= now)
        oldest = TASK_ROWS.where(free).order_by(TASKS.c.submitted_at, TASKS.c.task_id).limit(1)
        with self._database.transaction() as connection:
            row = connection.execute(oldest).one_or_none()
            if row is None:
                return None
            values = {
                "state": str(OfflineState.RUNNING),
                "problem": "",
                "problem_party": "",
                "started_at": row.started_at or _now(),
                "lease_owner": owner,
                "lease_until": now + lease_s,
                "token": row.token + 1,
            }
            connection.execute(sa.update(TASKS).where(TASKS.c.task_id == row.task_id).values(values))
            if row.state != str(OfflineState.WAITING):  # of a task that waits, every look would be told
                was_left = row.state == str(OfflineState.RUNNING)
                tell(connection, row.task_id, TAKEN_OVER if was_left else "started", f"by worker {owner}")
            task = self._task(connection, row.task_id)
        return Claim(task=task, owner=owner, token=row.token + 1, attempts=row.attempts)

    @override
    def renew(self, claim: Claim, *, lease_s: float = LEASE_S) -> bool:
        """Hold a task for longer."""
        return self._held(claim, lease_until=self._clock() + lease_s)

    @override
    def begin(self, claim: Claim, bins: Bins) -> bool:
        """Record the bins of a task's histograms."""
        return self._held(claim, bins=json.dumps(bins))

    @override
    def record(self, claim: Claim, done: BucketDone, *, ran_s: float) -> bool:
        """Record a bucket once."""
        task_id = claim.task.task_id
        same = (BUCKETS.c.task_id == task_id) & (BUCKETS.c.bucket == done.bucket)
        with self._database.transaction() as connection:
            row = connection.execute(sa.select(TASKS).where(holds(claim))).one_or_none()
            if row is None:
                return False
            if connection.execute(sa.select(BUCKETS.c.bucket).where(same)).first() is not None:
                return True
            values = {
                "task_id": task_id,
                "bucket": done.bucket,
                "totals": totals_to_json(done.totals),
                "results_sha256": done.results_sha256,
                "seconds": done.seconds,
                "finished_at": done.finished_at.isoformat(),
            }
            connection.execute(sa.insert(BUCKETS).values(values))
            totals = add_totals(self._read(totals_from_json, row.totals), done.totals)
            changed = {
                "buckets_done": row.buckets_done + 1,
                "totals": totals_to_json(totals),
                "ran_s": row.ran_s + max(0.0, ran_s),
                "attempts": 0,
            }
            connection.execute(sa.update(TASKS).where(TASKS.c.task_id == task_id).values(changed))
            if row.attempts:
                tell(connection, task_id, "goes on", f"after {row.attempts} attempts")
        return True

    @override
    def settle(self, claim: Claim, state: OfflineState, why: Why = NOTHING, *, wait_s: float = 0.0) -> bool:
        """End a claim."""
        values: dict[str, object] = {"state": str(state), "problem": why.problem, "problem_party": why.party, **_FREE}
        values["not_before"] = self._clock() + wait_s if wait_s else 0.0
        if state is OfflineState.WAITING:
            values["attempts"] = TASKS.c.attempts + 1
        if state.has_ended:
            values["finished_at"] = _now()
        is_told = state is not OfflineState.WAITING or not claim.attempts
        return self._held(claim, told=(str(state), why.detail or why.problem) if is_told else None, **values)

    @override
    def buckets(self, task_id: str, among: Collection[int] | None = None) -> dict[int, BucketDone]:
        """Return the records of the buckets that are done."""
        statement = sa.select(BUCKETS).where(BUCKETS.c.task_id == task_id).order_by(BUCKETS.c.bucket)
        if among is not None:
            statement = statement.where(BUCKETS.c.bucket.in_(among))
        with self._database.transaction() as connection:
            return {row.bucket: self._read(bucket_of_row, row) for row in connection.execute(statement)}

    @override
    def recorded(self, task_id: str) -> set[int]:
        """Return the numbers of the buckets that are done."""
        with self._database.transaction() as connection:
            return set(connection.scalars(sa.select(BUCKETS.c.bucket).where(BUCKETS.c.task_id == task_id)))

    @override
    def before(self, task: OfflineTask) -> OfflineTask | None:
        """Return the newest task of the same model that was done before."""
        earlier = (TASKS.c.state == str(OfflineState.DONE)) & (TASKS.c.finished_at <= task.submitted_at.isoformat())
        chosen = earlier & (TASKS.c.model_id == task.new.manifest.model_id) & (TASKS.c.task_id != task.task_id)
        statement = TASK_ROWS.where(chosen).order_by(TASKS.c.finished_at.desc()).limit(1)
        with self._database.transaction() as connection:
            row = connection.execute(statement).one_or_none()
        return None if row is None else self._read(task_of_row, row)

    @override
    def events(self, task_id: str) -> list[TaskEvent]:
        """Return what happened to a task."""
        statement = sa.select(EVENTS).where(EVENTS.c.task_id == task_id).order_by(EVENTS.c.number)
        with self._database.transaction() as connection:
            self._task(connection, task_id)
            rows = connection.execute(statement).all()
        return [TaskEvent(self._read(datetime.fromisoformat, row.at), row.what, row.detail) for row in rows]

    @override
    def withdraw(self, moment: datetime) -> list[OfflineTask]:
        """Withdraw old results, and return the tasks whose results are to be removed."""
        old = TASKS.c.state.in_(_ENDED) & (TASKS.c.finished_at < moment.astimezone(UTC).isoformat())
        withdrawn = sa.update(TASKS).where(old & sa.not_(TASKS.c.results_removed)).values(results_removed=True)
        statement = TASK_ROWS.where(TASKS.c.results_removed & sa.not_(TASKS.c.is_swept))
        with self._database.transaction() as connection:
            connection.execute(withdrawn)
            return [self._read(task_of_row, row) for row in connection.execute(statement)]

    @override
    def mark_removed(self, task_id: str) -> None:
        """Record that a task's results were removed."""
        unmarked = TASKS.c.results_removed & sa.not_(TASKS.c.is_swept)
        self._change(task_id, unmarked, "results removed", is_swept=True)

    @override
    def lose(self, task_id: str, lost: Collection[BucketDone], why: Why) -> OfflineTask:
        """Forget the records of buckets and have their task fail."""
        of_task = BUCKETS.c.task_id == task_id
        same = [(BUCKETS.c.bucket == each.bucket) & (BUCKETS.c.results_sha256 == each.results_sha256) for each in lost]
        with self._database.transaction() as connection:
            task = self._task(connection, task_id)
            if task.state is OfflineState.CANCELLED or task.results_removed:
                return task
            if not sum(connection.execute(sa.delete(BUCKETS).where(of_task & each)).rowcount for each in same):
                return task
            left = connection.execute(sa.select(BUCKETS.c.totals).where(of_task)).all()
            values = {
                "state": str(OfflineState.FAILED),
                "problem": why.problem,
                "problem_party": why.party,
                "finished_at": _now(),
                "buckets_done": len(left),
                "totals": totals_to_json(reduce(add_totals, (self._read(_totals, row) for row in left), Totals())),
                **_FREE,
            }
            connection.execute(sa.update(TASKS).where(TASKS.c.task_id == task_id).values(values))
            tell(connection, task_id, str(OfflineState.FAILED), why.detail or why.problem)
            return self._task(connection, task_id)

    @override
    def by_key(self, submitted_by: str, idempotency_key: str) -> OfflineTask | None:
        """Return the task that a caller's key names, or None."""
        with self._database.transaction() as connection:
            return self._by_key(connection, submitted_by, idempotency_key)

    @override
    def overview(self) -> TaskOverview:
        """Return how many tasks are in which state, and which wait."""
        counted = sa.select(TASKS.c.model_id, TASKS.c.state, sa.func.count()).group_by(TASKS.c.model_id, TASKS.c.state)
        # a task that is tried again stands as running for a moment; that it waited is told once, when it began to
        began = sa.select(EVENTS.c.task_id, sa.func.max(EVENTS.c.at).label("since"))
        began_at = began.where(EVENTS.c.what == str(OfflineState.WAITING)).group_by(EVENTS.c.task_id).subquery()
        tried = TASKS.c.state.not_in(_ENDED) & (TASKS.c.attempts > 0)
        columns = (TASKS.c.task_id, TASKS.c.model_id, TASKS.c.problem_party, TASKS.c.problem, began_at.c.since)
        waiting = sa.select(*columns).join(began_at, TASKS.c.task_id == began_at.c.task_id).where(tried)
        with self._database.transaction() as connection:
            states = {(row[0], self._read(OfflineState, row[1])): row[2] for row in connection.execute(counted)}
            rows = connection.execute(waiting.order_by(TASKS.c.task_id)).all()
        return TaskOverview(states=states, waiting=tuple(self._read(_waiting, row) for row in rows))

    @override
    def add_upload(self, upload: Upload) -> None:
        """Record a list."""
        with self._database.transaction() as connection:
            connection.execute(sa.insert(UPLOADS).values(row_of_upload(upload)))

    @override
    def upload(self, upload_id: str) -> Upload | None:
        """Return a list, or None."""
        with self._database.transaction() as connection:
            row = connection.execute(sa.select(UPLOADS).where(UPLOADS.c.upload_id == upload_id)).one_or_none()
        return None if row is None else self._read(upload_of_row, row)

    @override
    def unused_uploads(self, moment: datetime) -> list[Upload]:
        """Return the old lists that no task needs."""
        names = sa.select(TASKS.c.population).where(sa.not_(TASKS.c.results_removed) & sa.not_(TASKS.c.is_standing))
        old = UPLOADS.c.uploaded_at < moment.astimezone(UTC).isoformat()
        statement = sa.select(UPLOADS).where(old & UPLOADS.c.population.not_in(names))
        with self._database.transaction() as connection:
            return [self._read(upload_of_row, row) for row in connection.execute(statement)]

    @override
    def drop_upload(self, upload_id: str) -> None:
        """Forget a list."""
        with self._database.transaction() as connection:
            connection.execute(sa.delete(UPLOADS).where(UPLOADS.c.upload_id == upload_id))

    @override
    def close(self) -> None:
        """Close every connection."""
        self._database.close()

    def _change(self, task_id: str, where: sa.ColumnElement[bool], what: str, **values: object) -> OfflineTask:
        """Change a task where a condition holds, and return it as it is then."""
        with self._database.transaction() as connection:
            chosen = (TASKS.c.task_id == task_id) & where
            if connection.execute(sa.update(TASKS).where(chosen).values(**values)).rowcount:
                tell(connection, task_id, what, "")
            return self._task(connection, task_id)

    def _held(self, claim: Claim, *, told: tuple[str, str] | None = None, **values: object) -> bool:
        """Change a task that is still the claim's; return whether it was."""
        with self._database.transaction() as connection:
            held = bool(connection.execute(sa.update(TASKS).where(holds(claim)).values(**values)).rowcount)
            if held and told is not None:
                tell(connection, claim.task.task_id, *told)
        return held

    def _by_key(self, connection: sa.Connection, submitted_by: str, key: str) -> OfflineTask | None:
        same = (TASKS.c.submitted_by == submitted_by) & (TASKS.c.idempotency_key == key)
        row = connection.execute(TASK_ROWS.where(same)).one_or_none() if key else None
        return None if row is None else self._read(task_of_row, row)

    def _task(self, connection: sa.Connection, task_id: str) -> OfflineTask:
        row = connection.execute(TASK_ROWS.where(TASKS.c.task_id == task_id)).one_or_none()
        if row is None:
            raise TaskNotFoundError(f"there is no task {task_id[:64]!r}")
        return self._read(task_of_row, row)


_FREE: dict[str, object] = {"lease_owner": "", "lease_until": 0.0}


def _checked(task: OfflineTask, new: NewTask) -> OfflineTask:
    if _asked(task.new) == _asked(new):
        return task
    raise used_otherwise(task)


def _asked(new: NewTask) -> tuple[object, ...]:
    """Return what must be the same where a key is used again."""
    return new.manifest.model_id, new.mode, new.asked_for, new.ranking


def _waiting(row: sa.Row[Any]) -> TaskWaiting:
    return TaskWaiting(
        task_id=row.task_id,
        model_id=row.model_id,
        party=row.problem_party,
        problem=row.problem,
        since=datetime.fromisoformat(row.since),
    )


def _totals(row: sa.Row[Any]) -> Totals:
    return totals_from_json(row.totals)


def _now() -> str:
    return datetime.now(UTC).isoformat()
