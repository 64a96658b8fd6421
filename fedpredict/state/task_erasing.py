"""Results of tasks that are written anew without a person, as rows of the task store."""

from __future__ import annotations

from functools import reduce

import sqlalchemy as sa
from typing_extensions import override

from fedpredict.model.offline import BucketDone, OfflineState, OfflineTask, Totals, add_totals
from fedpredict.state.task_base import TaskErasing, TaskProgress
from fedpredict.state.task_rows import (
    BUCKETS,
    REWRITTEN,
    TASK_ROWS,
    TASKS,
    UPLOADS,
    task_of_row,
    totals_from_json,
    totals_to_json,
)
from fedpredict.state.task_work import SqlTaskWork, tell

_OVER = (str(OfflineState.DONE), str(OfflineState.CANCELLED))


class SqlTaskErasing(SqlTaskWork, TaskProgress, TaskErasing):
    """The part of `SqlTaskStore` that erasing a person needs."""

    @override
    def about(self, owner: str, population: str) -> list[OfflineTask]:
        """Return the tasks about a population or list."""
        chosen = (TASKS.c.owner == owner) & (TASKS.c.population == population)
        statement = TASK_ROWS.where(chosen).order_by(TASKS.c.submitted_at, TASKS.c.task_id)
        with self._database.transaction() as connection:
            return [self._read(task_of_row, row) for row in connection.execute(statement)]

    @override
    def digests(self, task_id: str, bucket: int) -> set[str]:
        """Return what the results of a bucket may have as their digest."""
        both = [
            sa.select(table.c.results_sha256).where((table.c.task_id == task_id) & (table.c.bucket == bucket))
            for table in (BUCKETS, REWRITTEN)
        ]
        with self._database.transaction() as connection:
            return {str(digest) for statement in both for digest in connection.scalars(statement)}

    @override
    def rerecord(self, task_id: str, before: BucketDone, after: BucketDone, stored_sha256: str) -> bool:
        """Record what the results of a bucket will be."""
        place = {"task_id": task_id, "bucket": before.bucket}
        same = (BUCKETS.c.task_id == task_id) & (BUCKETS.c.bucket == before.bucket)
        same &= (BUCKETS.c.results_sha256 == before.results_sha256) & (
            BUCKETS.c.finished_at == before.finished_at.isoformat()
        )
        over = (TASKS.c.task_id == task_id) & TASKS.c.state.in_(_OVER) & sa.not_(TASKS.c.results_removed)
        values = {"totals": totals_to_json(after.totals), "results_sha256": after.results_sha256}
        with self._database.transaction() as connection:
            if connection.execute(sa.select(TASKS.c.task_id).where(over)).first() is None:
                return False
            if not connection.execute(sa.update(BUCKETS).where(same).values(values)).rowcount:
                return False
            connection.execute(sa.delete(REWRITTEN).where(_is_of(task_id, before.bucket)))
            connection.execute(sa.insert(REWRITTEN).values(**place, results_sha256=stored_sha256))
            rows = connection.execute(sa.select(BUCKETS.c.totals).where(BUCKETS.c.task_id == task_id)).all()
            every = [self._read(totals_from_json, row.totals) for row in rows]
            totals = totals_to_json(reduce(add_totals, every, Totals()))
            connection.execute(sa.update(TASKS).where(TASKS.c.task_id == task_id).values(totals=totals))
            tell(connection, task_id, "a person was erased", f"from bucket {before.bucket}")
        return True

    @override
    def rewriting(self) -> list[tuple[str, int]]:
        """Return the buckets whose results are written anew."""
        statement = sa.select(REWRITTEN.c.task_id, REWRITTEN.c.bucket).order_by(*REWRITTEN.primary_key)
        with self._database.transaction() as connection:
            return [(str(task_id), int(bucket)) for task_id, bucket in connection.execute(statement)]

    @override
    def rewritten(self, task_id: str, bucket: int) -> None:
        """Record that the results of a bucket are those of its record."""
        with self._database.transaction() as connection:
            connection.execute(sa.delete(REWRITTEN).where(_is_of(task_id, bucket)))

    @override
    def withdraw_upload(self, upload_id: str) -> bool:
        """Forget a list that no task needs."""
        population = sa.select(UPLOADS.c.population).where(UPLOADS.c.upload_id == upload_id).scalar_subquery()
        needed = TASKS.c.state.not_in(_OVER) & sa.not_(TASKS.c.results_removed) & sa.not_(TASKS.c.is_standing)
        with self._database.transaction() as connection:
            if connection.execute(
                sa.select(TASKS.c.task_id).where(needed & (TASKS.c.population == population))
            ).first():
                return False
            connection.execute(sa.delete(UPLOADS).where(UPLOADS.c.upload_id == upload_id))
        return True


def _is_of(task_id: str, bucket: int) -> sa.ColumnElement[bool]:
    return (REWRITTEN.c.task_id == task_id) & (REWRITTEN.c.bucket == bucket)
