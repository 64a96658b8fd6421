"""The offline tasks of `Client`."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from pathlib import Path

import pyarrow as pa

from fedpredict.client import core
from fedpredict.client.background import Background
from fedpredict.client.offline import UPLOAD_TIMEOUT_S, OfflineCalls, OnTask
from fedpredict.client.populations import Population
from fedpredict.client.session import Session
from fedpredict.model.offline import RankBy, TaskInfo
from fedpredict.model.share import Mode
from fedpredict.model.task_history import TaskEvent


class TaskMethods:
    """Offline tasks: predictions for a population, however large, that are made in the background and fetched."""

    _session: Session
    _background: Background

    def submit(
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
        """Begin an offline task and return its id.

        Args:
            model_id: The model.
            population: A list of ids as for `predict`, a CSV or Parquet file (a `Path`, or `FileOf` with the column),
                a `Standing` population or a table of the initiator's (`TableOf`). Each id is answered once.
            mode: OFFLINE looks up what the parties have stored; NEARLINE scores the features that they have extracted.
            idempotency_key: 1 to 64 of A-Z, a-z, 0-9, '.', '_', '-': the same again gives the task that is there. None:
                one is made for this call.
            note: For people: at most 200 printable characters.
            rank_by: Give each result a rank, from 1, by an output: a class label, the name of its column, or "" for the
                first; or a `RankBy`, where only the first so many shall have one. The largest is first, of equal ones
                the smaller id by its bytes. Results then come when all are there.
            timeout_s: For sending the ids, not for the task.

        Raises:
            InputError: No list of ids, or no file that can be read; or as the server says.
            FieldError: There is no such population or output, or the key was used for something else.
            ModelNotFoundError, ModelNotReadyError: As the server says.
            ServerUnavailableError, DeadlineExceededError: As for `predict`.
        """
        calls = OfflineCalls(self._session)
        return self._background.run(
            calls.submit(
                model_id,
                population,
                mode=mode,
                idempotency_key=idempotency_key,
                note=note,
                rank_by=rank_by,
                timeout_s=timeout_s,
            )
        )

    def task(self, task_id: str, *, timeout_s: float = core.TIMEOUT_S) -> TaskInfo:
        """Return a task.

        Raises:
            TaskNotFoundError: There is none of that name, or it is about a model of others.
            ServerUnavailableError, DeadlineExceededError: As for `predict`.
        """
        return self._background.run(OfflineCalls(self._session).task(task_id, timeout_s=timeout_s))

    def tasks(
        self, model_id: str | None = None, *, limit: int = 100, timeout_s: float = core.TIMEOUT_S
    ) -> list[TaskInfo]:
        """Return the newest tasks of the models that this caller may ask for, or of one of them, the newest first."""
        return self._background.run(OfflineCalls(self._session).tasks(model_id, limit=limit, timeout_s=timeout_s))

    def cancel(self, task_id: str, *, timeout_s: float = core.TIMEOUT_S) -> TaskInfo:
        """End a task and return it; what is done of it stays, and one that has ended stays as it is."""
        return self._background.run(OfflineCalls(self._session).cancel(task_id, timeout_s=timeout_s))

    def retry(self, task_id: str, *, timeout_s: float = core.TIMEOUT_S) -> TaskInfo:
        """Go on with a task that failed, and return it; others stay as they are."""
        return self._background.run(OfflineCalls(self._session).retry(task_id, timeout_s=timeout_s))

    def task_history(self, task_id: str, *, timeout_s: float = core.TIMEOUT_S) -> list[TaskEvent]:
        """Return what happened to a task, the oldest first; of errors their names alone. Errors are those of `task`."""
        return self._background.run(OfflineCalls(self._session).history(task_id, timeout_s=timeout_s))

    def wait(self, task_id: str, *, timeout_s: float | None = None, on_progress: OnTask | None = None) -> TaskInfo:
        """Return a task once it has ended, well or not: see its `state`.

        Args:
            task_id: The task.
            timeout_s: How long to wait; None: as long as it takes. The task goes on either way.
            on_progress: Told the task as it is, every second or two, in the client's thread.

        Raises:
            TaskNotFoundError: There is none of that name.
            DeadlineExceededError: It has not ended in time.
            ServerUnavailableError: The server has been away for ten minutes.
        """
        calls = OfflineCalls(self._session)
        return self._background.run(calls.wait(task_id, timeout_s=timeout_s, on_progress=on_progress))

    def results(self, task_id: str, offset: int = 0, *, top: int = 0) -> Iterator[pa.RecordBatch]:
        """Give the results of a task from a row on: columns sample_id, one per output, status, origin (and rank).

        They come in the order of the task's buckets, each id once; those of a running task as they are there. After a
        lost connection they go on where they were.

        Args:
            task_id: The task.
            offset: Rows to leave out at the beginning.
            top: Only the results of so many first ranks, in their order; 0: all.

        Raises:
            TaskNotFoundError: There is none of that name.
            FieldError: The task has no ranks, or not so many.
            TaskFailedError: The task failed or was cancelled, or its results were removed: no more will come.
            ServerUnavailableError: The server has been away for ten minutes.
        """
        batches = OfflineCalls(self._session).results(task_id, offset, top=top)
        try:
            while (batch := self._background.run(_next(batches))) is not None:
                yield batch
        finally:
            self._background.run(_end(batches))

    def results_table(self, task_id: str, *, top: int = 0) -> pa.Table:
        """Return all results of a task as one table, once it is done; errors are those of `results`."""
        return pa.Table.from_batches(list(self.results(task_id, top=top)))

    def results_to_parquet(self, task_id: str, path: Path, *, top: int = 0) -> int:
        """Write the results of a task into a Parquet file, which appears when it is whole.

        Returns:
            The number of rows; errors are those of `results`.
        """
        return self._background.run(OfflineCalls(self._session).results_to_parquet(task_id, path, top=top))


async def _next(batches: AsyncGenerator[pa.RecordBatch]) -> pa.RecordBatch | None:
    return await anext(batches, None)


async def _end(batches: AsyncGenerator[pa.RecordBatch]) -> None:
    await batches.aclose()
