"""The offline tasks of `AsyncClient`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pyarrow as pa

from fedpredict.client import core
from fedpredict.client.offline import UPLOAD_TIMEOUT_S, OfflineCalls, OnTask
from fedpredict.client.populations import Population
from fedpredict.client.session import Session
from fedpredict.model.offline import RankBy, TaskInfo
from fedpredict.model.share import Mode
from fedpredict.model.task_history import TaskEvent


class AsyncTaskMethods:
    """Offline tasks, awaited; arguments, results and errors are those of `Client`."""

    _session: Session

    async def submit(
        self,
        model_id: str,
        population: Population,
        *,
        mode: Mode = Mode.OFFLINE,
        idempotency_key: str | None = None,
        note: str = "",
        rank_by: RankBy | str | None = None,
        timeout_s: float = UPLOAD_TIMEOUT_S,
    ) -> str:
        """Begin an offline task and return its id."""
        return await OfflineCalls(self._session).submit(
            model_id,
            population,
            mode=mode,
            idempotency_key=idempotency_key,
            note=note,
            rank_by=rank_by,
            timeout_s=timeout_s,
        )

    async def task(self, task_id: str, *, timeout_s: float = core.TIMEOUT_S) -> TaskInfo:
        """Return a task."""
        return await OfflineCalls(self._session).task(task_id, timeout_s=timeout_s)

    async def tasks(
        self, model_id: str | None = None, *, limit: int = 100, timeout_s: float = core.TIMEOUT_S
    ) -> list[TaskInfo]:
        """Return the newest tasks of the models that this caller may ask for, or of one of them."""
        return await OfflineCalls(self._session).tasks(model_id, limit=limit, timeout_s=timeout_s)

    async def cancel(self, task_id: str, *, timeout_s: float = core.TIMEOUT_S) -> TaskInfo:
        """End a task; what is done of it stays, and one that has ended stays as it is."""
        return await OfflineCalls(self._session).cancel(task_id, timeout_s=timeout_s)

    async def retry(self, task_id: str, *, timeout_s: float = core.TIMEOUT_S) -> TaskInfo:
        """Go on with a task that failed; others stay as they are."""
        return await OfflineCalls(self._session).retry(task_id, timeout_s=timeout_s)

    async def task_history(self, task_id: str, *, timeout_s: float = core.TIMEOUT_S) -> list[TaskEvent]:
        """Return what happened to a task, the oldest first."""
        return await OfflineCalls(self._session).history(task_id, timeout_s=timeout_s)

    async def wait(
        self, task_id: str, *, timeout_s: float | None = None, on_progress: OnTask | None = None
    ) -> TaskInfo:
        """Return a task once it has ended, well or not."""
        return await OfflineCalls(self._session).wait(task_id, timeout_s=timeout_s, on_progress=on_progress)

    def results(self, task_id: str, offset: int = 0, *, top: int = 0) -> AsyncIterator[pa.RecordBatch]:
        """Give the results of a task, in the order of its buckets, as they are there."""
        return OfflineCalls(self._session).results(task_id, offset, top=top)

    async def results_table(self, task_id: str, *, top: int = 0) -> pa.Table:
        """Return all results of a task, once it is done."""
        return pa.Table.from_batches([batch async for batch in self.results(task_id, top=top)])

    async def results_to_parquet(self, task_id: str, path: Path, *, top: int = 0) -> int:
        """Write the results of a task into a file and return the number of rows."""
        return await OfflineCalls(self._session).results_to_parquet(task_id, path, top=top)
