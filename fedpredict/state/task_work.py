"""What tasks keep in the warehouse on the way to their results, as rows; and who may change a task's rows at all."""

from __future__ import annotations

from collections.abc import Callable, Collection
from datetime import UTC, datetime
from typing import Any, TypeVar

import sqlalchemy as sa
from typing_extensions import override

from fedpredict.model.offline import CombinedBy, OfflineState, OfflineTask, Totals
from fedpredict.state.engine import Database
from fedpredict.state.task_base import FAILED_WORK_KEPT, Claim, TaskCleaning, TaskWork
from fedpredict.state.task_rows import (
    EVENTS,
    GATHERED,
    PLANS,
    TASK_ROWS,
    TASKS,
    task_of_row,
    totals_from_json,
    totals_to_json,
)

_T = TypeVar("_T")
_OVER = (str(OfflineState.DONE), str(OfflineState.CANCELLED))


class SqlTaskWork(TaskWork, TaskCleaning):
    """The part of `SqlTaskStore` that is about tables of work."""

    _database: Database

    @override
    def plan(self, claim: Claim, combined_by: CombinedBy, why: str, *, has_work: bool) -> bool:
        """Record how a task is done."""
        of_task = PLANS.c.task_id == claim.task.task_id
        values = {"combined_by": str(combined_by), "combined_why": why}
        with self._database.transaction() as connection:
            if connection.execute(sa.select(TASKS.c.task_id).where(holds(claim))).first() is None:
                return False
            row = connection.execute(sa.select(PLANS).where(of_task)).one_or_none()
            if row is None:  # a task of before there were plans
                new = {"task_id": claim.task.task_id, "rank_top": 0, "has_work": has_work}
                connection.execute(sa.insert(PLANS).values(**new, **values))
            else:
                # what another way of doing it has left behind is there still
                changed = {**values, "has_work": has_work or row.has_work}
                connection.execute(sa.update(PLANS).where(of_task).values(**changed))
            is_new = row is None or row.combined_by != str(combined_by)
            if is_new and (why or combined_by is CombinedBy.ENGINE):  # numpy is what everybody expects
                tell(connection, claim.task.task_id, "combined by", f"{combined_by}: {why}" if why else combined_by)
        return True

    @override
    def gather(self, claim: Claim, bucket: int, totals: Totals, *, ran_s: float) -> bool:
        """Record a bucket whose shares are stored."""
        task_id = claim.task.task_id
        same = (GATHERED.c.task_id == task_id) & (GATHERED.c.bucket == bucket)
        with self._database.transaction() as connection:
            row = connection.execute(sa.select(TASKS.c.ran_s, TASKS.c.attempts).where(holds(claim))).one_or_none()
            if row is None:
                return False
            if connection.execute(sa.select(GATHERED.c.bucket).where(same)).first() is None:
                values = {"task_id": task_id, "bucket": bucket, "totals": totals_to_json(totals)}
                connection.execute(sa.insert(GATHERED).values(values))
            changed = {"ran_s": row.ran_s + max(0.0, ran_s), "attempts": 0}
            connection.execute(sa.update(TASKS).where(TASKS.c.task_id == task_id).values(**changed))
            if row.attempts:
                tell(connection, task_id, "goes on", f"after {row.attempts} attempts")
        return True

    @override
    def gathered(self, task_id: str) -> dict[int, Totals]:
        """Return what the parties said of the buckets whose shares are stored."""
        statement = sa.select(GATHERED).where(GATHERED.c.task_id == task_id).order_by(GATHERED.c.bucket)
        with self._database.transaction() as connection:
            rows = connection.execute(statement).all()
        return {row.bucket: self._read(totals_from_json, row.totals) for row in rows}

    @override
    def ungather(self, claim: Claim, buckets: Collection[int]) -> bool:
        """Forget that the shares of some buckets are stored."""
        task_id = claim.task.task_id
        some = (GATHERED.c.task_id == task_id) & GATHERED.c.bucket.in_(sorted(buckets))
        with self._database.transaction() as connection:
            if connection.execute(sa.select(TASKS.c.task_id).where(holds(claim))).first() is None:
                return False
            connection.execute(sa.delete(GATHERED).where(some))
        return True

    @override
    def worked(self, moment: datetime) -> list[OfflineTask]:
        """Return the tasks whose tables of work are to be emptied."""
        with self._database.transaction() as connection:
            return [self._read(task_of_row, row) for row in connection.execute(TASK_ROWS.where(_is_over(moment)))]

    @override
    def withdraw_work(self, task_id: str, moment: datetime) -> bool:
        """Have nothing of a task count as gathered, where it is over still."""
        with self._database.transaction() as connection:
            if connection.execute(TASK_ROWS.where(_is_over(moment) & (TASKS.c.task_id == task_id))).first() is None:
                return False
            connection.execute(sa.delete(GATHERED).where(GATHERED.c.task_id == task_id))
        return True

    @override
    def clear_work(self, task_id: str, moment: datetime) -> bool:
        """Record that nothing of a task is in tables of work, where it is over still."""
        with self._database.transaction() as connection:
            if connection.execute(TASK_ROWS.where(_is_over(moment) & (TASKS.c.task_id == task_id))).first() is None:
                return False
            connection.execute(sa.update(PLANS).where(PLANS.c.task_id == task_id).values(has_work=False))
        return True

    def _read(self, parse: Callable[[Any], _T], row: Any) -> _T:
        try:
            return parse(row)
        except (ValueError, TypeError) as error:
            raise self._database.damaged(str(error)) from error


def holds(claim: Claim) -> sa.ColumnElement[bool]:
    """Return the condition that a task is the claim's still: cancelling frees it, another claim has another token."""
    return (
        (TASKS.c.task_id == claim.task.task_id) & (TASKS.c.lease_owner == claim.owner) & (TASKS.c.token == claim.token)
    )


def _is_over(moment: datetime) -> sa.ColumnElement[bool]:
    """Return the condition that a task's tables of work are to be emptied; see `TaskWork.worked`."""
    before, long_before = (each.astimezone(UTC).isoformat() for each in (moment, moment - FAILED_WORK_KEPT))
    ended = TASKS.c.state.in_(_OVER) & (TASKS.c.finished_at < before)
    failed = (TASKS.c.state == str(OfflineState.FAILED)) & (TASKS.c.finished_at < long_before)
    return PLANS.c.has_work & (ended | failed | TASKS.c.results_removed)


def tell(connection: sa.Connection, task_id: str, what: str, detail: str) -> None:
    """Add to what happened to a task."""
    newest = sa.select(sa.func.coalesce(sa.func.max(EVENTS.c.number), 0)).where(EVENTS.c.task_id == task_id)
    number = int(connection.scalar(newest) or 0) + 1
    at = datetime.now(UTC).isoformat()
    values = {"task_id": task_id, "number": number, "at": at, "what": what, "detail": detail}
    connection.execute(sa.insert(EVENTS).values(values))
