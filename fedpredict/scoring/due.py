"""What of a schedule is still to be done as of an instant, by what the warehouse holds."""

from __future__ import annotations

from datetime import UTC, date, datetime

from fedpredict.errors import ViewRefusedError
from fedpredict.scoring.schedule import Job
from fedpredict.tables.models import ModelVersion, current_versions, list_versions, served_versions
from fedpredict.tables.registered import registered_versions
from fedpredict.tables.shares import list_tasks
from fedpredict.tables.views import latest_snapshot, snapshot_name
from fedpredict.warehouse.base import Warehouse


def versions_to_refresh(warehouse: Warehouse, view: str, due: datetime, n_served: int = 1) -> list[int]:
    """Return those of `versions_in_use` that have no snapshot as of an instant or later.

    Raises:
        ViewRefusedError: No such view is registered.
        WarehouseError: As the warehouse says.
    """
    found = []
    for version in versions_in_use(warehouse, view, n_served):
        newest = latest_snapshot(warehouse, view, version)
        if newest is None or newest.snapshot < snapshot_name(due):
            found.append(version)
    return found


def versions_in_use(warehouse: Warehouse, view: str, n_served: int = 1) -> list[int]:
    """Return the registered versions of a view that models of this party use, and the newest; oldest first.

    Args:
        warehouse: The party's.
        view: Which.
        n_served: How many versions of a model count: 1 is the current one, and daemons serve `keep_versions`, because
            an initiator may have pinned an older one until every other party has converted the next.

    Raises:
        ViewRefusedError: No such view is registered.
        WarehouseError: As the warehouse says.
    """
    registered = check_registered(warehouse, view)
    served = served_versions(list_versions(warehouse), n_served)
    used = {each.view_version for each in served if each.view == view}
    return [version for version in registered if version in used or version == registered[-1]]


def check_registered(warehouse: Warehouse, view: str) -> list[int]:
    """Return the registered versions of a view, oldest first.

    Raises:
        ViewRefusedError: There is none.
        WarehouseError: As the warehouse says.
    """
    registered = registered_versions(warehouse)
    if view not in registered:
        known = f"registered are {', '.join(registered)}" if registered else "none is yet"
        raise ViewRefusedError(f"no view {view} is registered ({known}): fedpredict view register")
    return registered[view]


def models_to_score(warehouse: Warehouse, day: date) -> list[ModelVersion]:
    """Return the current versions whose shares of a day are not whole.

    Raises:
        WarehouseError: As the warehouse says.
    """
    done = {(each.model_id, each.params_sha256) for each in list_tasks(warehouse, day=day) if each.finished_at}
    current = current_versions(warehouse).values()
    return [each for each in current if (each.model_id, each.params_sha256) not in done]


def day_of(due: datetime) -> date:
    """Return the day that is scored at a due instant: that of UTC, as `task score` takes it."""
    return due.astimezone(UTC).date()


def is_to_be_done(warehouse: Warehouse, job: Job, due: datetime) -> bool:
    """Return whether something of a job is missing as of a due instant.

    Raises:
        ViewRefusedError: Its view is not registered.
        WarehouseError: As the warehouse says.
    """
    if job.view is None:
        return bool(models_to_score(warehouse, day_of(due)))
    return bool(versions_to_refresh(warehouse, job.view, due))
