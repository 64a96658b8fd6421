"""The use case of offline tasks: what may be submitted, and what users may see and change."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TypeVar

import pyarrow as pa

from fedpredict.errors import (
    EmptyRequestError,
    FieldError,
    InputError,
    TableCorruptError,
    TaskFailedError,
    UnsupportedModeError,
)
from fedpredict.initiator.admission import Access
from fedpredict.initiator.catalogue import Catalogue
from fedpredict.initiator.offline.held import check_whole, rule_for
from fedpredict.initiator.offline.recorded import ranked_results, recorded_results
from fedpredict.initiator.offline.report import info_of
from fedpredict.initiator.offline.standing import version_for_task
from fedpredict.initiator.offline.uploads import Uploads
from fedpredict.initiator.task_settings import InitiatorTaskSettings
from fedpredict.model.manifest import (
    Manifest,
)
from fedpredict.model.offline import (
    BucketDone,
    NewTask,
    OfflineState,
    OfflineTask,
    PopulationRef,
    RankBy,
    Ranking,
    TaskInfo,
    Upload,
)
from fedpredict.model.share import Mode
from fedpredict.model.task_history import TaskEvent
from fedpredict.security.identity import Identity
from fedpredict.security.policy import Rule
from fedpredict.state.task_base import TaskStore, Why, not_sent, used_otherwise
from fedpredict.tables.populations import list_versions
from fedpredict.warehouse.base import Warehouse
from fedpredict.wire.arrow_codec import output_names
from fedpredict.wire.offline_codec import Submission

logger = logging.getLogger(__name__)

_T = TypeVar("_T")

_TOLD_IN_OUR_WORDS = frozenset({"submitted", "started", "taken over", "goes on", "combined by"})
"""Events whose details hold no error's text."""
STATE_THREADS, WAREHOUSE_THREADS = 4, 4
MAX_LISTED, LISTED = 1_000, 100
"""Tasks in one listing: at most, and where the caller says nothing."""


class DeskThreads:
    """Threads for tasks' states and others for the warehouse, which may be slow: states are told whatever that does."""

    def __init__(self) -> None:
        self._state = ThreadPoolExecutor(STATE_THREADS, "fedpredict-task-state")
        self._warehouse = ThreadPoolExecutor(WAREHOUSE_THREADS, "fedpredict-task-warehouse")

    async def state(self, work: Callable[..., _T], *args: object) -> _T:
        """Return what a call to the store returns."""
        return await asyncio.get_running_loop().run_in_executor(self._state, work, *args)

    async def warehouse(self, work: Callable[..., _T], *args: object) -> _T:
        """Return what something returns that asks the warehouse; it waits where several do so."""
        return await asyncio.get_running_loop().run_in_executor(self._warehouse, work, *args)

    def close(self) -> None:
        """Let the threads go; those that are at work end by themselves."""
        self._state.shutdown(wait=False, cancel_futures=True)
        self._warehouse.shutdown(wait=False, cancel_futures=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskDesk:
    """Takes tasks and tells of them.

    Attributes:
        store: Tasks.
        warehouse: The initiator's.
        catalogue: Models.
        access: Who may ask for what.
        uploads: Takes lists.
        settings: `[tasks]`.
        own_party: This initiator's.
        look: Tells the worker of this process that something is to be done.
        threads: Where the store and the warehouse are waited for.
    """

    store: TaskStore
    warehouse: Warehouse
    catalogue: Catalogue
    access: Access
    uploads: Uploads
    settings: InitiatorTaskSettings
    own_party: str
    look: Callable[[], None]
    threads: DeskThreads = field(default_factory=DeskThreads)

    def close(self) -> None:
        """Let the threads go; those that are at work end by themselves."""
        self.threads.close()

    async def submit(self, submission: Submission, caller: Identity) -> OfflineTask:
        """Queue a task, and return it; nothing that can fail follows once it is queued.

        Raises:
            ModelNotFoundError: No such model, or not this caller's.
            ModelNotReadyError: Nothing usable is pinned; that a party is away is no reason.
            NotPermittedError: A mode that is not this caller's.
            UnsupportedModeError: Mode realtime.
            TooManySamplesError: More rows than this caller may ask for.
            EmptyRequestError: The population has no id.
            FieldError: There is no such population or output, or the key was used for something else.
            WarehouseError, StateError: As they say.
        """
        rule = self.access.known(caller)  # the service counted the call
        rule.check_model(submission.model_id)
        rule.check_mode(submission.mode)
        if submission.mode is Mode.REALTIME:
            raise UnsupportedModeError(f"a task in mode {submission.mode} from {caller}", mode=submission.mode)
        found = await self._known(submission, caller)
        if found is not None:
            return found
        manifest = self.catalogue.answerable(submission.model_id)
        ids = await self._ids(submission, manifest, caller)
        if not ids.ids:
            raise EmptyRequestError(f"a task about a population without ids, from {caller}")
        rule.check_offline_rows(ids.rows)
        asked_for = await self.threads.warehouse(self._asked_for, submission, ids.population)
        new = NewTask(
            manifest=manifest,
            mode=submission.mode,
            population=ids.population,
            asked_for=asked_for,
            n_buckets=ids.n_buckets,
            rows=ids.rows,
            ids=ids.ids,
            duplicates=ids.duplicates,
            invalid=ids.invalid,
            idempotency_key=submission.idempotency_key,
            note=submission.note,
            submitted_by=str(caller),
            ranking=ranking_of(submission.rank_by, manifest),
        )
        task = await self.threads.state(partial(self.store.submit, new, upload_id=ids.upload_id))
        self.look()
        return task

    async def get(self, task_id: str, caller: Identity) -> TaskInfo:
        """Return a task; raise `TaskNotFoundError` for one that is not there or not of this caller's models."""
        return await self.info(await self.find(task_id, caller))

    async def list(self, model_id: str, limit: int, caller: Identity) -> list[TaskInfo]:
        """Return the newest tasks of the caller's models, or of one of them."""
        if model_id:
            self.access.check(caller, model_id)
        known = [model_id] if model_id else self.catalogue.model_ids
        models = [each for each in known if self.access.may_ask(caller, each)]
        n_listed = min(limit or LISTED, MAX_LISTED)
        tasks = await self.threads.state(lambda: self.store.tasks(models, limit=n_listed))
        return [info_of(task, None, limit=self.settings.stability_limit) for task in tasks]

    async def cancel(self, task_id: str, caller: Identity) -> OfflineTask:
        """End a task; one that has ended stays as it is. Raise as `find` does, and `NotPermittedError` for its mode."""
        found, rule = await self._found(task_id, caller)
        rule.check_mode(found.new.mode)
        task = await self.threads.state(self.store.cancel, task_id)
        self.look()
        return task

    async def retry(self, task_id: str, caller: Identity) -> OfflineTask:
        """Go on with a task that failed; others stay as they are.

        Raises:
            TaskNotFoundError, NotPermittedError, TooManySamplesError: As `find_all` says.
            TaskFailedError: Its results were removed: what is left would never be whole.
        """
        await self.find_all(task_id, caller)
        task = await self.threads.state(self.store.retry, task_id)
        if task.state is OfflineState.FAILED and task.results_removed:
            problem = "its results were removed, because they were old: submit it again"
            raise TaskFailedError(f"task {task_id}: {problem}", state=task.state, problem=problem)
        self.look()
        return task

    async def history(self, task_id: str, caller: Identity) -> tuple[TaskEvent, ...]:
        """Return what happened to a task, the oldest first; of errors their names alone. Raise `TaskNotFoundError`."""
        await self.find(task_id, caller)
        events = await self.threads.state(self.store.events, task_id)
        return tuple(replace(each, detail=_public_detail(each)) for each in events)

    async def find(self, task_id: str, caller: Identity) -> OfflineTask:
        """Return a task of a model that is the caller's; raise `TaskNotFoundError`."""
        task, _ = await self._found(task_id, caller)
        return task

    async def find_all(self, task_id: str, caller: Identity) -> OfflineTask:
        """Return a task of which the caller may have every row, whoever submitted it.

        Raises:
            TaskNotFoundError: As `find` says.
            NotPermittedError: It is in a mode that is not this caller's.
            TooManySamplesError: It is about more rows than this caller may ask for.
        """
        task, _ = await self._found(task_id, caller)
        check_whole(self.access, task, caller)
        return task

    async def _found(self, task_id: str, caller: Identity) -> tuple[OfflineTask, Rule]:
        task = await self.threads.state(self.store.task, task_id)
        return task, rule_for(self.access, task, caller)

    async def results(self, task: OfflineTask, record: BucketDone) -> pa.Table:
        """Return the results of a bucket, as `recorded_results` does.

        Raises:
            TaskFailedError: They are not what was recorded, so the task has failed: a worker that stood still for
                longer than its lease may have written behind its successor, or a file was damaged.
            WarehouseError, StateError: As they say.
        """
        bucket, store = record.bucket, self.store
        try:
            return await self.threads.warehouse(recorded_results, store, self.warehouse, task, record)
        except TableCorruptError as error:
            extra = {"task": task.task_id, "bucket": bucket, "reason": str(error)}
            logger.error("task.results_damaged", extra=extra)  # noqa: TRY400  # the reason says it all
            problem = f"the results of bucket {bucket} are damaged at the initiator: retry, and they are made again"
            why = Why(problem=problem, detail=str(error))
            failed = await self.threads.state(store.lose, task.task_id, [record], why)
            raise TaskFailedError(f"task {task.task_id}: {problem}", state=failed.state, problem=problem) from error

    async def top(self, task: OfflineTask, first: int, last: int) -> pa.Table:
        """Return the results with ranks from `first` to `last`, all of which there must be, in their order.

        They have a column `rank`.

        Raises:
            TaskFailedError: Ranks are missing there, or the results were removed meanwhile.
            WarehouseError: As it says.
        """
        rows = await self.threads.warehouse(ranked_results, self.store, self.warehouse, task.task_id, first, last)
        if rows is None:
            check_kept(await self.threads.state(self.store.task, task.task_id))
            problem = "its ranks are damaged at the initiator: submit it again"
            raise TaskFailedError(f"task {task.task_id}: {problem}", state=task.state, problem=problem)
        return rows

    async def info(self, task: OfflineTask) -> TaskInfo:
        """Return a task as its users see it."""
        before = await self.threads.state(self.store.before, task)
        return info_of(task, before, limit=self.settings.stability_limit)

    async def _ids(self, submission: Submission, manifest: Manifest, caller: Identity) -> Upload:
        """Return the population that is asked for, with its counts."""
        if submission.standing:
            return await self.threads.warehouse(self._standing, submission, manifest, caller)
        if submission.table:
            return await self.threads.warehouse(self._table, submission.table, caller)
        upload = await self.threads.state(self.store.upload, submission.upload_id)
        if upload is None or upload.uploaded_by != str(caller):
            raise not_sent(submission.upload_id, str(caller))
        return upload

    async def _known(self, submission: Submission, caller: Identity) -> OfflineTask | None:
        """Return the task that a key names, where what it is about is here: it may be of a newer version by now.

        Raises:
            FieldError: The task is about something else.
        """
        if submission.upload_id or not submission.idempotency_key:
            return None
        task = await self.threads.state(self.store.by_key, str(caller), submission.idempotency_key)
        if task is None:
            return None
        population = task.new.population
        if submission.table:
            same = task.new.asked_for == _table_of(submission)
        else:
            same = population.is_standing and population.name == submission.standing
            same = same and submission.version in (0, population.version)
        same = same and ranking_of(submission.rank_by, task.new.manifest) == task.new.ranking
        if not same or (task.new.manifest.model_id, task.new.mode) != (submission.model_id, submission.mode):
            raise used_otherwise(task)
        return task

    def _asked_for(self, submission: Submission, population: PopulationRef) -> str:
        """Return what must be the same where the key is used again; a list that is sent again has another name."""
        if submission.table:
            return _table_of(submission)
        if population.is_standing:
            return f"population {population}"
        digests = hashlib.sha256()
        for version in list_versions(self.warehouse, owner=population.owner, population=population.name):
            digests.update("".join(version.digests).encode())
        return f"ids {digests.hexdigest()}"

    def _table(self, name: str, caller: Identity) -> Upload:
        """Take the ids of a table as a list."""
        table = self.settings.tables.get(name)
        if table is None:
            problem = f"{name} is none that this initiator offers: see [tasks.tables] in its settings"
            raise FieldError(f"no table {name}, asked for by {caller}", place="table", problem=problem)
        # parsers of SQL are large, and most initiators offer no table
        from fedpredict.tables.id_tables import ids_of_table  # noqa: PLC0415

        try:
            upload = self.uploads.store(ids_of_table(self.warehouse, table.table, table.column), str(caller))
        except EmptyRequestError:
            raise
        except InputError as error:  # the settings are wrong, not the request
            problem = f"{name} cannot be read: at the initiator, `fedpredict doctor` says what is wrong with it"
            raise FieldError(f"[tasks.tables.{name}]: {error}", place="table", problem=problem) from error
        self.store.add_upload(upload)
        return upload

    def _standing(self, submission: Submission, manifest: Manifest, caller: Identity) -> Upload:
        others = [party for party in manifest.parties if party != self.own_party]
        version = version_for_task(self.warehouse, self.own_party, submission.standing, submission.version, others)
        if version is None:
            asked = submission.standing + (f" version {submission.version}" if submission.version else "")
            raise FieldError(
                f"no population {submission.standing} version {submission.version}, asked for by {caller}",
                place="population",
                problem=f"{asked} is not known: see `fedpredict population list` at the initiator",
            )
        return Upload(
            upload_id="",
            population=PopulationRef(
                owner=version.owner, name=version.population, version=version.version, is_standing=True
            ),
            n_buckets=version.n_buckets,
            rows=version.n_ids,
            ids=version.n_ids,
            duplicates=0,
            invalid=0,
            uploaded_by=version.changed_by,
            uploaded_at=version.created_at,
        )


def check_kept(task: OfflineTask) -> None:
    """Raise `TaskFailedError` where a task's results were removed."""
    if task.results_removed:
        problem = "its results were removed, because they were old"
        raise TaskFailedError(f"task {task.task_id}: {problem}", state=task.state, problem=problem)


def ranking_of(rank_by: RankBy | None, manifest: Manifest) -> Ranking | None:
    """Return what results are to be ranked by; raise `FieldError` where the model has no such output."""
    if rank_by is None:
        return None
    names = output_names(manifest.classes, manifest.n_outputs)
    labels = manifest.classes[-manifest.n_outputs :]  # a binary model has one output, the probability of the second
    for output, name in enumerate(names):
        if rank_by.output in ("", name, *labels[output : output + 1]):
            return Ranking(output, rank_by.top)
    raise FieldError(
        f"ranks by {rank_by.output[:100]!r} of model {manifest.model_id}",
        place="rank_by",
        problem=f"is no output of the model: it has {', '.join((*labels[:20], *names[:20]))}",
    )


def _public_detail(event: TaskEvent) -> str:
    """Return what a task's users may read of an event: an error's own words are for this initiator's operator."""
    if event.what in _TOLD_IN_OUR_WORDS:
        return event.detail
    name, colon, _ = event.detail.partition(": ")
    return name if colon and name.isidentifier() and name.endswith("Error") else ""


def _table_of(submission: Submission) -> str:
    return f"table {submission.table}"
