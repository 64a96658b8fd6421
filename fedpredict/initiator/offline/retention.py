"""What is old is removed: results, and lists of ids that no task needs."""

from __future__ import annotations

import logging
from datetime import datetime, timedelta

from fedpredict.initiator.offline.uploads import UPLOAD
from fedpredict.model.offline import Upload
from fedpredict.state.task_base import TaskStore
from fedpredict.tables.populations import list_versions, remove_versions
from fedpredict.tables.results import remove_results
from fedpredict.warehouse.base import Warehouse

logger = logging.getLogger(__name__)

UNUSED_UPLOAD = timedelta(days=1)
"""How long a list is kept that no task is about."""


def sweep(store: TaskStore, warehouse: Warehouse, owner: str, keep_days: int | None, now: datetime) -> None:
    """Remove the results of tasks that ended long ago, and lists that no task needs; repeated, it goes on.

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
        for task in store.ended_before(now - timedelta(days=keep_days)):
            remove_results(warehouse, task.task_id, task.new.n_buckets)
            store.mark_removed(task.task_id)
            logger.info("task.results_removed", extra={"task": task.task_id})
    for upload in store.unused_uploads(now - UNUSED_UPLOAD):
        remove_upload(warehouse, upload)
        store.drop_upload(upload.upload_id)
        logger.info("upload.removed", extra={"upload": upload.upload_id})

    for version in list_versions(warehouse, owner=owner):
        name = version.population
        is_left = name.startswith(UPLOAD) and version.created_at < now - UNUSED_UPLOAD
        if is_left and store.upload(name.removeprefix(UPLOAD)) is None:  # its sender had gone before it was recorded
            remove_versions(warehouse, [version])


def remove_upload(warehouse: Warehouse, upload: Upload) -> None:
    """Remove the ids of a list."""
    ref = upload.population
    remove_versions(warehouse, list_versions(warehouse, owner=ref.owner, population=ref.name))
