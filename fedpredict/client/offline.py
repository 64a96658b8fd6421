"""Offline tasks for both clients, awaited: `AsyncClient` awaits it, `Client` waits in a thread."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing
from functools import partial
from pathlib import Path
from time import monotonic
from typing import TypeAlias

import pyarrow as pa
import pyarrow.parquet

from fedpredict.client import core
from fedpredict.client.connection import Deadline
from fedpredict.client.populations import Population, Standing, TableOf, some_of
from fedpredict.client.session import Session
from fedpredict.errors import DeadlineExceededError, InputError, ProtocolError, ServerUnavailableError
from fedpredict.model.ids import check_model_id
from fedpredict.model.offline import RankBy, TaskInfo
from fedpredict.model.sample_ids import SampleIds
from fedpredict.model.share import Mode
from fedpredict.model.task_history import TaskEvent
from fedpredict.wire import codec, offline_codec
from fedpredict.wire.offline_arrow import RANK, chunk_to_wire, results_from_wire
from fedpredict.wire.v1 import initiator_pb2

UPLOAD_TIMEOUT_S = 3_600.0
PATIENCE_S = 600.0
"""How long a server may be away while a task or its results are waited for."""
FIRST_LOOK_S, MAX_LOOK_S = 0.1, 2.0
"""The pause between two looks at a task: it doubles."""

_NO_RANKS = "this initiator knows no ranks: have it updated"

OnTask: TypeAlias = Callable[[TaskInfo], None]


class OfflineCalls:
    """What a client asks of offline tasks."""

    def __init__(self, session: Session) -> None:
        """Use a client's session."""
        self._session = session

    async def submit(
        self,
        model_id: str,
        population: Population,
        *,
        mode: Mode,
        idempotency_key: str | None,
        note: str,
        rank_by: RankBy | str | None,
        timeout_s: float,
    ) -> str:
        """Return the id of a task; see `Client.submit`."""
        check_model_id(model_id)
        deadline, request_id = Deadline(timeout_s), codec.new_request_id()
        submission = partial(
            offline_codec.Submission,
            request_id=request_id,
            model_id=model_id,
            mode=core.check_mode(mode),
            # one of our own: a call that is made again must not begin another task
            idempotency_key=secrets.token_hex(16) if idempotency_key is None else idempotency_key,
            note=note,
            rank_by=RankBy(rank_by) if isinstance(rank_by, str) else rank_by,
        )
        if isinstance(population, Standing):
            asked = submission(standing=population.name, version=population.version or 0)
        elif isinstance(population, TableOf):
            asked = submission(table=population.name)
        else:
            chunks = await asyncio.to_thread(some_of, population)
            upload = await self._upload(chunks, request_id, deadline)
            asked = submission(upload_id=upload.upload_id)
        message = offline_codec.submission_to_wire(asked)
        task = await self._about(core.SUBMIT_TASK, message.SerializeToString(), deadline, model_id)
        if asked.rank_by is not None and task.rank_by is None:
            raise ProtocolError(f"{_NO_RANKS}, or submit without ranks; it has begun task {task.task_id} without them")
        return task.task_id

    async def task(self, task_id: str, *, timeout_s: float = core.TIMEOUT_S) -> TaskInfo:
        """Return a task."""
        return await self._named(core.GET_TASK, task_id, timeout_s)

    async def cancel(self, task_id: str, *, timeout_s: float) -> TaskInfo:
        """End a task."""
        return await self._named(core.CANCEL_TASK, task_id, timeout_s)

    async def retry(self, task_id: str, *, timeout_s: float) -> TaskInfo:
        """Go on with a task that failed."""
        return await self._named(core.RETRY_TASK, task_id, timeout_s)

    async def tasks(self, model_id: str | None, *, limit: int, timeout_s: float) -> list[TaskInfo]:
        """Return the newest tasks."""
        message = initiator_pb2.ListTasksRequest(
            protocol_version=codec.PROTOCOL_VERSION, model_id=check_model_id(model_id) if model_id else "", limit=limit
        )
        question = core.Question(core.LIST_TASKS, message.SerializeToString(), model_id or "")
        with self._session.open() as connection:
            data = await connection.call(question, Deadline(timeout_s))
        return [
            offline_codec.task_from_wire(each) for each in core.parse_reply(initiator_pb2.ListTasksReply, data).tasks
        ]

    async def wait(self, task_id: str, *, timeout_s: float | None, on_progress: OnTask | None) -> TaskInfo:
        """Return a task once it has ended."""
        ends = monotonic() + timeout_s if timeout_s is not None else None
        patience, pause_s = _Patience(), FIRST_LOOK_S
        while True:
            try:
                info = await self.task(task_id)
                patience.heard()
            except (ServerUnavailableError, DeadlineExceededError) as error:
                patience.check(error)
            else:
                if on_progress is not None:
                    on_progress(info)
                if info.state.has_ended:
                    return info
            if ends is not None and monotonic() + pause_s > ends:
                raise DeadlineExceededError(f"task {task_id} has not ended within {timeout_s:g} s; it goes on")
            await asyncio.sleep(pause_s)
            pause_s = min(MAX_LOOK_S, 2.0 * pause_s)

    async def results(self, task_id: str, offset: int = 0, *, top: int = 0) -> AsyncGenerator[pa.RecordBatch]:
        """Give the results of a task from a row on, in the order of its buckets, or those of the first ranks."""
        if min(offset, top) < 0:
            raise InputError(f"offset is {offset} and top is {top}: rows are counted from 0")
        patience, pause_s, is_empty = _Patience(), FIRST_LOOK_S, True
        while True:
            try:
                async with aclosing(self._fetch(task_id, offset, top)) as messages:
                    async for message in messages:
                        patience.heard()
                        batch = _checked(message, offset, top)
                        offset, pause_s = offset + batch.num_rows, FIRST_LOOK_S
                        if batch.num_rows or (message.last and is_empty):
                            is_empty = False
                            yield batch
                        if message.last:
                            return
                patience.heard()
            except (ServerUnavailableError, DeadlineExceededError) as error:
                patience.check(error)
            await asyncio.sleep(pause_s)
            pause_s = min(MAX_LOOK_S, 2.0 * pause_s)

    async def results_to_parquet(self, task_id: str, path: Path, *, top: int = 0) -> int:
        """Write the results of a task into a file, which appears when it is whole, and return the number of rows."""
        partial_file = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
        n_rows, writer = 0, None
        try:
            async for batch in self.results(task_id, top=top):
                if writer is None:
                    writer = pa.parquet.ParquetWriter(partial_file, batch.schema, compression="zstd")
                await asyncio.to_thread(writer.write_batch, batch)
                n_rows += batch.num_rows
            if writer is not None:
                writer.close()
                partial_file.replace(path)
        finally:
            if writer is not None and writer.is_open:
                writer.close()
            partial_file.unlink(missing_ok=True)
        return n_rows

    async def _fetch(self, task_id: str, offset: int, top: int) -> AsyncGenerator[initiator_pb2.ResultBatch]:
        message = initiator_pb2.FetchResultsRequest(
            protocol_version=codec.PROTOCOL_VERSION,
            request_id=codec.new_request_id(),
            task_id=_check_task_id(task_id),
            offset=offset,
            top=top,
            with_rank=True,
        )
        question = core.Question(core.FETCH_RESULTS, message.SerializeToString())
        async with aclosing(self._session.connection().fetch(question)) as messages:
            async for data in messages:
                yield core.parse_reply(initiator_pb2.ResultBatch, data)

    async def _upload(
        self, chunks: Callable[[], Iterator[SampleIds]], request_id: str, deadline: Deadline
    ) -> initiator_pb2.UploadReply:
        def messages() -> Iterator[bytes]:
            for number, ids in enumerate(chunks()):
                yield chunk_to_wire(ids, None if number else request_id).SerializeToString()

        with self._session.open() as connection:
            data = await connection.upload(core.UPLOAD_SAMPLES, messages, deadline)
        reply = core.parse_reply(initiator_pb2.UploadReply, data)
        offline_codec.name_from_wire(reply.upload_id, "upload")
        return reply

    async def history(self, task_id: str, *, timeout_s: float = core.TIMEOUT_S) -> list[TaskEvent]:
        """Return what happened to a task, the oldest first."""
        question = core.Question(core.GET_TASK_HISTORY, _about_task(task_id))
        with self._session.open() as connection:
            data = await connection.call(question, Deadline(timeout_s))
        return offline_codec.history_from_wire(core.parse_reply(initiator_pb2.TaskHistory, data))

    async def _named(self, method: str, task_id: str, timeout_s: float) -> TaskInfo:
        return await self._about(method, _about_task(task_id), Deadline(timeout_s))

    async def _about(self, method: str, message: bytes, deadline: Deadline, model_id: str = "") -> TaskInfo:
        with self._session.open() as connection:
            data = await connection.call(core.Question(method, message, model_id), deadline)
        return offline_codec.task_from_wire(core.parse_reply(initiator_pb2.Task, data))


class _Patience:
    """How long a server has been away."""

    def __init__(self) -> None:
        self._heard = monotonic()

    def heard(self) -> None:
        """Learn that it is there."""
        self._heard = monotonic()

    def check(self, error: Exception) -> None:
        """Raise `error` where it has been away for too long."""
        if monotonic() - self._heard > PATIENCE_S:
            raise error


def _checked(message: initiator_pb2.ResultBatch, offset: int, top: int) -> pa.RecordBatch:
    """Return results that are to begin at a row, and, where `top` is given, to be among the first ranks."""
    batch = results_from_wire(message)
    if message.offset != offset:
        raise ProtocolError(f"results from row {message.offset} on, not {offset}")
    if top and (RANK not in batch.schema.names or (batch.num_rows and offset + batch.num_rows > top)):
        raise ProtocolError(f"{_NO_RANKS}, or fetch all results")
    return batch


def _about_task(task_id: str) -> bytes:
    return initiator_pb2.GetTaskRequest(
        protocol_version=codec.PROTOCOL_VERSION, request_id=codec.new_request_id(), task_id=_check_task_id(task_id)
    ).SerializeToString()


def _check_task_id(task_id: str) -> str:
    try:
        return offline_codec.name_from_wire(task_id, "task")
    except ProtocolError as error:
        raise InputError(f"{task_id!r} is {error}") from error
