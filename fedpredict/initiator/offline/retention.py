"""What is old is removed: results, and lists of ids that no task needs."""

from __future__ import annotations

import logging
from collections.abc import Collection
from datetime import datetime, timedelta

from fedpredict.initiator.offline.standing import standing_versions
from fedpredict.initiator.offline.uploads import UPLOAD
from fedpredict.model.offline import OfflineState, OfflineTask, Upload
from fedpredict.model.standing import PopulationState
from fedpredict.state.task_base import TaskStore
from fedpredict.tables.populations import PopulationVersion, list_versions, remove_versions
from fedpredict.tables.results import remove_results, remove_work
from fedpredict.warehouse.base import Warehouse

logger = logging.getLogger(__name__)

UNUSED_UPLOAD = timedelta(days=1)
"""How long a list is kept that no task is about."""
WORK_KEPT = timedelta(hours=1)
"""How long shares and results without ranks stay after a task ended: a worker that lost it may have a statement under
way that reads them, and must not find half of them."""
KEEP_VERSIONS = 3
"""Versions of a standing population that stay, the newest included."""
UNFINISHED = (OfflineState.QUEUED, OfflineState.RUNNING, OfflineState.WAITING, OfflineState.FAILED)
"""The states of tasks that read ids, or may again."""
MOST_UNFINISHED = 10_000


def sweep(store: TaskStore, warehouse: Warehouse, owner: str, keep_days: int | None, now: datetime) -> None:
    """Remove what is old: results, what they were made of, and lists that no task needs; repeated, it goes on.

    Args:
        store: Tasks.
        warehouse: The initiator's.
        owner: Its party.
        keep_days: Days that results are kept; None: for ever.
        now: In UTC.

    Raises:
        WarehouseError, StateError: As they say; what was removed by then stays so.
    """
    if keep_days is not None:
        for task in store.withdraw(now - timedelta(days=keep_days)):
            remove_results(warehouse, task.task_id, task.new.n_buckets)
            store.mark_removed(task.task_id)
            logger.info("task.results_removed", extra={"task": task.task_id})
    _sweep_work(store, warehouse, now - WORK_KEPT)
    for upload in store.unused_uploads(now - UNUSED_UPLOAD):
        remove_upload(warehouse, upload)
        store.drop_upload(upload.upload_id)
        logger.info("upload.removed", extra={"upload": upload.upload_id})

    for version in list_versions(warehouse, owner=owner):
        name = version.population
        is_left = name.startswith(UPLOAD) and version.created_at < now - UNUSED_UPLOAD
        if is_left and store.upload(name.removeprefix(UPLOAD)) is None:  # its sender had gone before it was recorded
            remove_versions(warehouse, [version])
        elif version.state is PopulationState.RECEIVING and version.changed_at < now - UNUSED_UPLOAD:
            remove_versions(warehouse, [version])  # whoever wrote it was killed


def _sweep_work(store: TaskStore, warehouse: Warehouse, moment: datetime) -> None:
    """Empty tables of work of tasks that are over; removing takes long, and such a task may be retried meanwhile."""
    for task in store.worked(moment):
        if store.withdraw_work(task.task_id, moment):
            remove_work(warehouse, task.task_id, task.new.n_buckets)
            store.clear_work(task.task_id, moment)
            logger.info("task.work_removed", extra={"task": task.task_id})


def sweep_populations(store: TaskStore, warehouse: Warehouse, owner: str, models: Collection[str]) -> None:
    """Remove the versions of standing populations before the newest ones, but for those that a task still needs.

    Args:
        store: Tasks.
        warehouse: The initiator's.
        owner: Its party.
        models: All of its models.

    Raises:
        WarehouseError, StateError: As they say; what was removed by then stays so.
    """
    by_name: dict[str, list[PopulationVersion]] = {}
    for version in standing_versions(warehouse, owner):
        by_name.setdefault(version.population, []).append(version)
    old = [each for versions in by_name.values() for each in versions[:-KEEP_VERSIONS]]
    if not old:
        return
    unfinished = store.tasks(models, limit=MOST_UNFINISHED, states=UNFINISHED)
    if len(unfinished) == MOST_UNFINISHED:
        return
    needed = {(each.new.population.name, each.new.population.version) for each in unfinished}
    gone = [each for each in old if (each.population, each.version) not in needed]
    remove_versions(warehouse, gone)
    for version in gone:
        extra = {"population": version.population, "version": version.version}
        logger.info("population.version_removed", extra=extra)


def remove_upload(warehouse: Warehouse, upload: Upload) -> None:
    """Remove the ids of a list."""
    ref = upload.population
    remove_versions(warehouse, list_versions(warehouse, owner=ref.owner, population=ref.name))


def why_needed(task: OfflineTask) -> str:
    """Return why the ids of a task are needed still, and what ends that; empty where nobody reads them any more."""
    if task.results_removed or task.state not in UNFINISHED:
        return ""
    name = task.task_id
    if task.state is OfflineState.FAILED:
        what = f"task {name} failed, and may go on: `fedpredict task retry {name}` to its end, or also `task cancel`"
    else:
        what = f"task {name} is {task.state}: wait for its end, or `fedpredict task cancel {name}`"
    return f"{what}; then repeat"
