"""The gRPC face of offline tasks: messages in, the use case, messages out; nothing is decided here."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from typing import TypeVar

import grpc
import pyarrow as pa
from google.protobuf.message import Message

from fedpredict.errors import DeadlineExceededError, FieldError, OverloadedError, ProtocolError, TaskFailedError
from fedpredict.initiator.audited import RequestAudit
from fedpredict.initiator.methods import METHODS, SERVICE
from fedpredict.initiator.offline.desk import TaskDesk, check_kept
from fedpredict.initiator.offline.held import check_whole
from fedpredict.initiator.offline.uploads import Read
from fedpredict.initiator.predict_stream import Holds, WhoCalls
from fedpredict.model.buckets import in_places
from fedpredict.model.offline import BucketDone, OfflineState, OfflineTask, Upload
from fedpredict.model.sample_ids import SampleIds
from fedpredict.observe.logs import add_log_context
from fedpredict.observe.metrics import outcome_of
from fedpredict.observe.tasks import TaskMetrics
from fedpredict.security.entrance import Entrance
from fedpredict.security.held_call import HeldCall
from fedpredict.security.identity import Identity
from fedpredict.tables.results import RESULTS
from fedpredict.wire import codec, offline_codec
from fedpredict.wire.handlers import Context, parse, stream, unary
from fedpredict.wire.offline_arrow import chunk_from_wire, result_rows, results_to_wire
from fedpredict.wire.v1 import initiator_pb2

_Request = TypeVar("_Request", bound=Message)

UPLOADS_AT_ONCE = 4
"""Further ones wait until they are read."""
UPLOADS_WAITING = 16
"""So many wait at most; others are told to come again."""
UPLOAD_RETRY_MS = 5_000
MAX_TOP = 1_000_000
"""The most results that are sent in the order of their ranks."""
TOP_PAGE = 100_000
"""So many of them are read at a time, each of which looks at the ranks of all."""
RECORDS = 64
"""So many records of buckets are held at a time, for whoever fetches the results of thousands."""
SILENT_S = 60.0
"""How long the next message of an upload may be away."""


class OfflineService:
    """The methods of `InitiatorService` that are about offline tasks."""

    def __init__(
        self,
        desk: TaskDesk,
        who_calls: WhoCalls,
        metrics: TaskMetrics,
        audit: RequestAudit | None = None,
        *,
        holds: Holds | None = None,
    ) -> None:
        """Prepare.

        Args:
            desk: The use case.
            who_calls: Call -> the caller's identity; raises `UnauthenticatedError`.
            metrics: Counts lists that are sent.
            audit: Writes calls down; default: nothing does.
            holds: Told of every stream; default: nobody is.
        """
        self._holds = holds
        self._desk = desk
        self._metrics = metrics
        self._who_calls = who_calls
        self._audit = audit or RequestAudit(None)
        self._uploading = asyncio.Semaphore(UPLOADS_AT_ONCE)
        self._n_uploads = 0
        # threads of its own: they wait for callers
        self._threads = ThreadPoolExecutor(UPLOADS_AT_ONCE, "fedpredict-uploads")

    def methods(self) -> Mapping[str, grpc.RpcMethodHandler[bytes, bytes]]:
        """Return the methods for `wire.handlers.service`."""
        return {
            "UploadSamples": stream(self.upload),
            "SubmitTask": self._unary("SubmitTask", initiator_pb2.SubmitTaskRequest, self.submit),
            "GetTask": self._unary("GetTask", initiator_pb2.GetTaskRequest, self.get),
            "ListTasks": self._unary("ListTasks", initiator_pb2.ListTasksRequest, self.list),
            "CancelTask": self._unary(
                "CancelTask", initiator_pb2.GetTaskRequest, self._changing("CancelTask", self._desk.cancel)
            ),
            "RetryTask": self._unary(
                "RetryTask", initiator_pb2.GetTaskRequest, self._changing("RetryTask", self._desk.retry)
            ),
            "GetTaskHistory": self._unary("GetTaskHistory", initiator_pb2.GetTaskRequest, self.history),
            "FetchResults": stream(self.fetch),
        }

    def _unary(
        self, name: str, request_type: type[_Request], method: Callable[[_Request, Context], Awaitable[Message]]
    ) -> grpc.RpcMethodHandler[bytes, bytes]:
        unread = Entrance(self._desk.access, self._audit).unread(name, METHODS[f"{SERVICE}/{name}"], self._caller)
        return unary(request_type, method, unread=unread)

    def close(self) -> None:
        """Let the threads go; those that are at work end by themselves."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def upload(self, context: Context) -> None:
        """Store the ids that a caller sends, who may ask for some model."""
        caller = self._caller(context)
        with self._audit.refusals("UploadSamples", caller):
            self._admit("UploadSamples", caller)
            async with self._held(partial(self._desk.access.known, caller), context).within():
                request_id, upload = await self._upload(caller, context)
        self._audit.uploaded(caller, request_id, upload)
        await self._audit.safe()
        reply = initiator_pb2.UploadReply(
            request_id=request_id,
            upload_id=upload.upload_id,
            rows=upload.rows,
            duplicates=upload.duplicates,
            invalid=upload.invalid,
        )
        await context.write(reply.SerializeToString())

    async def _upload(self, caller: Identity, context: Context) -> tuple[str, Upload]:
        async with self._place(caller):  # before anything is read: who waits holds no memory
            first = await _chunk(context)
            if first is None:
                raise ProtocolError("an upload without a message")
            codec.check_protocol_version(first.protocol_version)
            request_id = offline_codec.request_id_from_wire(first.request_id)
            add_log_context(request_id=request_id)
            unread = [first]

            async def read() -> SampleIds | None:
                chunk = unread.pop() if unread else await _chunk(context)
                return None if chunk is None else chunk_from_wire(chunk)

            return request_id, await self._take(read, caller)

    @asynccontextmanager
    async def _place(self, caller: Identity) -> AsyncIterator[None]:
        """Wait for a place, where not too many do so already."""
        if self._n_uploads >= UPLOADS_AT_ONCE + UPLOADS_WAITING:
            told = f"{self._n_uploads} lists are taken or wait, another comes from {caller}"
            raise OverloadedError(told, retry_after_ms=UPLOAD_RETRY_MS)
        self._n_uploads += 1
        try:
            async with self._uploading:
                yield
        finally:
            self._n_uploads -= 1

    async def _take(self, read: Read, caller: Identity) -> Upload:
        """Store a list that comes, and record it."""
        self._metrics.upload_began()
        try:
            upload = await self._desk.uploads.take(read, str(caller), self._threads)
            await self._desk.threads.state(self._desk.store.add_upload, upload)
        except BaseException as error:
            self._metrics.upload_ended(outcome_of(error))
            raise
        self._metrics.upload_ended("ok", upload.rows)
        return upload

    async def submit(self, request: initiator_pb2.SubmitTaskRequest, context: Context) -> initiator_pb2.Task:
        """Queue a task."""
        caller = self._caller(context)
        with self._audit.refusals("SubmitTask", caller):
            self._admit("SubmitTask", caller)
            submission = offline_codec.submission_from_wire(request)
        add_log_context(request_id=submission.request_id, model=submission.model_id)
        with self._audit.refusals("SubmitTask", caller, submission.request_id, submission.model_id):
            task = await self._desk.submit(submission, caller)
        self._audit.task("SubmitTask", caller, submission.request_id, task)
        await self._audit.safe()
        return offline_codec.task_to_wire(await self._desk.info(task))

    async def get(self, request: initiator_pb2.GetTaskRequest, context: Context) -> initiator_pb2.Task:
        """Tell of a task."""
        caller = self._caller(context)
        with self._audit.unanswered("GetTask", caller, request_id=request.task_id):
            return offline_codec.task_to_wire(await self._desk.get(self._asked("GetTask", request, caller), caller))

    async def list(self, request: initiator_pb2.ListTasksRequest, context: Context) -> initiator_pb2.ListTasksReply:
        """Tell of the caller's tasks."""
        caller = self._caller(context)
        with self._audit.unanswered("ListTasks", caller, request.model_id):
            self._admit("ListTasks", caller)
            codec.check_protocol_version(request.protocol_version)
            model_id = codec.model_id_from_wire(request.model_id) if request.model_id else ""
            tasks = await self._desk.list(model_id, request.limit, caller)
        return initiator_pb2.ListTasksReply(tasks=[offline_codec.task_to_wire(each) for each in tasks])

    async def history(self, request: initiator_pb2.GetTaskRequest, context: Context) -> initiator_pb2.TaskHistory:
        """Tell what happened to a task."""
        caller = self._caller(context)
        with self._audit.unanswered("GetTaskHistory", caller, request_id=request.task_id):
            task_id = self._asked("GetTaskHistory", request, caller)
            return offline_codec.history_to_wire(await self._desk.history(task_id, caller))

    async def fetch(self, context: Context) -> None:
        """Send results from a row on, as far as their buckets are done."""
        caller = self._caller(context)
        with self._audit.refusals("FetchResults", caller):
            self._admit("FetchResults", caller)
            request = await _read(initiator_pb2.FetchResultsRequest, context)
            if request is None:
                raise ProtocolError("no message that says whose results")
            codec.check_protocol_version(request.protocol_version)
            task = await self._desk.find_all(offline_codec.name_from_wire(request.task_id, "task"), caller)
            add_log_context(task=task.task_id, model=task.new.manifest.model_id)
            check_kept(task)
        # before the first row: whoever leaves half way has had some
        self._audit.task("FetchResults", caller, "", task)
        await self._audit.safe()
        held = self._held(partial(check_whole, self._desk.access, task, caller), context)
        try:
            async with held.within():
                await self._send_all(task, request, context)
        except Exception as error:
            if error is held.refused:  # the caller has a line of what it asked for, and none that it did not get it all
                self._audit.other("FetchResults", caller, task.task_id, task.new.manifest.model_id, error)
            raise

    def _held(self, look: Callable[[], object], context: Context) -> HeldCall:
        """Return what ends a stream whose caller may have it no more, as `look` or its certificate says."""
        held = HeldCall(look)
        if self._holds is not None:
            self._holds(context, held)
        return held

    async def _send_all(self, task: OfflineTask, request: initiator_pb2.FetchResultsRequest, context: Context) -> None:
        if request.top:
            end = await self._send_top(task, request, context)
        else:
            end = await self._send(task, request, context)
        if task.state is OfflineState.DONE:
            await self._check_whole(task, request.top, end)
            last = _batch(task, RESULTS.arrow_schema.empty_table(), end, with_rank=request.with_rank)
            last.last = True
            await context.write(last.SerializeToString())
        elif task.state.has_ended:
            problem = task.problem or "there are results of some buckets only"
            raise TaskFailedError(f"task {task.task_id} is {task.state}", state=task.state, problem=problem)

    async def _send_top(self, task: OfflineTask, request: initiator_pb2.FetchResultsRequest, context: Context) -> int:
        """Send the results of the first ranks, once all are there, and return how many there are."""
        _check_top(task, request.top)
        start = request.offset
        if task.state is not OfflineState.DONE:
            return start
        stop = _n_ranked(task, request.top)
        if start > stop:
            raise _beyond(task, start, stop)
        while start < stop:
            rows = await self._desk.top(task, start + 1, min(start + TOP_PAGE, stop))
            await self._send_rows(task, rows, start, request, context)
            start += rows.num_rows
        return start

    async def _check_whole(self, task: OfflineTask, top: int, end: int) -> None:
        """Raise `TaskFailedError` where results of a task that is done are missing: what was sent is not all."""
        if end == (_n_ranked(task, top) if top else task.new.ids):
            return
        now = await self._desk.threads.state(self._desk.store.task, task.task_id)
        check_kept(now)
        problem = now.problem or "some of its results are missing at the initiator: submit it again"
        raise TaskFailedError(f"task {task.task_id}: {problem}", state=now.state, problem=problem)

    async def _send(self, task: OfflineTask, request: initiator_pb2.FetchResultsRequest, context: Context) -> int:
        """Send the buckets that are done and follow each other, and return the row behind them."""
        offset = request.offset
        if task.new.ranking is not None and task.state is not OfflineState.DONE:
            return offset  # ranks come when everything else is there
        start = 0
        async for record in self._done(task):
            stop = start + record.totals.ids
            if stop > offset:
                skip = max(0, offset - start)
                rows = (await self._desk.results(task, record)).slice(skip)
                await self._send_rows(task, rows, start + skip, request, context)
            start = stop
        if offset > start and task.state.has_ended:
            raise _beyond(task, offset, start)
        return start

    async def _done(self, task: OfflineTask) -> AsyncIterator[BucketDone]:
        """Give the records of the buckets that are done and follow each other, in the order of their places."""
        buckets = in_places(task.new.n_buckets)  # as they are worked on
        for first in range(0, len(buckets), RECORDS):
            some = buckets[first : first + RECORDS]
            done = await self._desk.threads.state(self._desk.store.buckets, task.task_id, some)
            for bucket in some:
                if bucket not in done:
                    return
                yield done[bucket]

    async def _send_rows(
        self,
        task: OfflineTask,
        rows: pa.Table,
        start: int,
        request: initiator_pb2.FetchResultsRequest,
        context: Context,
    ) -> None:
        size = result_rows(task.new.manifest.n_outputs)
        for first in range(0, rows.num_rows, size):
            batch = _batch(task, rows.slice(first, size), start + first, with_rank=request.with_rank)
            await context.write(batch.SerializeToString())

    def _changing(
        self, method: str, change: Callable[[str, Identity], Awaitable[OfflineTask]]
    ) -> Callable[[initiator_pb2.GetTaskRequest, Context], Awaitable[initiator_pb2.Task]]:
        """Return a method that changes a task, which is written down."""

        async def answer(request: initiator_pb2.GetTaskRequest, context: Context) -> initiator_pb2.Task:
            caller = self._caller(context)
            with self._audit.refusals(method, caller, request.task_id):
                task_id = self._asked(method, request, caller)
                task = await change(task_id, caller)
            self._audit.task(method, caller, task_id, task)
            await self._audit.safe()
            return offline_codec.task_to_wire(await self._desk.info(task))

        return answer

    def _asked(self, method: str, request: initiator_pb2.GetTaskRequest, caller: Identity) -> str:
        """Return the name of a task, from here on in the call's log lines, that is asked for by who may call now."""
        self._admit(method, caller)
        codec.check_protocol_version(request.protocol_version)
        task_id = offline_codec.name_from_wire(request.task_id, "task")
        add_log_context(task=task_id)
        return task_id

    def _caller(self, context: Context) -> Identity:
        caller = self._who_calls(context)
        add_log_context(caller=caller.name)
        return caller

    def _admit(self, method: str, caller: Identity) -> None:
        self._desk.access.admit(caller, METHODS[f"{SERVICE}/{method}"])


def _check_top(task: OfflineTask, top: int) -> None:
    ranking, problem = task.new.ranking, ""
    if ranking is None:
        problem = "is of tasks that were submitted with ranks, which this one was not"
    elif top > MAX_TOP:
        problem = f"must be at most {MAX_TOP}: fetch all results instead, each has its rank"
    elif ranking.top and top > ranking.top:
        problem = f"is more than the {ranking.top} that the task gives ranks to"
    if problem:
        raise FieldError(f"the first {top} of task {task.task_id}: {problem}", place="top", problem=problem)


def _n_ranked(task: OfflineTask, top: int) -> int:
    """Return how many of the first `top` ranks there are; those of people who were erased are among them."""
    ranking, n_scored = task.new.ranking, sum(task.totals.origins.values())
    return min(top, ranking.top if ranking is not None and ranking.top else top, n_scored)


def _beyond(task: OfflineTask, offset: int, n_rows: int) -> FieldError:
    told = f"offset {offset} of task {task.task_id}, which has {n_rows} rows"
    return FieldError(told, place="offset", problem="is beyond the last row")


def _batch(task: OfflineTask, rows: pa.Table, offset: int, *, with_rank: bool) -> initiator_pb2.ResultBatch:
    manifest = task.new.manifest
    has_rank = with_rank and task.new.ranking is not None
    return results_to_wire(rows, offset, manifest.classes, manifest.n_outputs, has_rank=has_rank)


async def _chunk(context: Context) -> initiator_pb2.UploadChunk | None:
    try:
        async with asyncio.timeout(SILENT_S):
            return await _read(initiator_pb2.UploadChunk, context)
    except TimeoutError:
        raise DeadlineExceededError(f"an upload of which nothing came for {SILENT_S:g} s") from None


async def _read(request_type: type[_Request], context: Context) -> _Request | None:
    data: object = await context.read()  # bytes, or the end
    return parse(request_type, data) if isinstance(data, bytes) else None
