"""Snapshots that are kept no longer."""

from __future__ import annotations

from datetime import datetime, timedelta

from fedpredict.tables.shares import list_tasks
from fedpredict.tables.views import Snapshot, list_snapshots, remove_snapshot, snapshot_name
from fedpredict.warehouse.base import Warehouse


def prune_snapshots(warehouse: Warehouse, view: str, version: int, keep_days: int, now: datetime) -> list[Snapshot]:
    """Remove snapshots of a view version that are older than so many days, and return them.

    The newest one stays, whatever its age, and so do those whose ids a task is still scoring. Nobody else may write
    snapshots of that version meanwhile.

    Args:
        warehouse: The party's.
        view: The view.
        version: Its version.
        keep_days: Days of 24 hours, at least 1.
        now: This moment, with a time zone.

    Raises:
        WarehouseError: As the warehouse says; what is removed stays removed.
    """
    oldest = snapshot_name(now - timedelta(days=keep_days))
    needed = {(each.view, each.view_version, each.snapshot) for each in list_tasks(warehouse) if not each.finished_at}
    mine = [each for each in list_snapshots(warehouse) if (each.view.name, each.view.version) == (view, version)]
    old = [each for each in mine[:-1] if each.snapshot < oldest and (view, version, each.snapshot) not in needed]
    for each in old:
        remove_snapshot(warehouse, each)
    return old
