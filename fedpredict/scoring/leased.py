"""Refreshing a view and scoring a day under a lease: one process at a time, whoever asked for it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from datetime import UTC, date, datetime
from pathlib import Path

from fedpredict.errors import FedPredictError, LeaseHeldError
from fedpredict.features.load import LoadReport, load_file, version_to_load
from fedpredict.features.refresh import MAX_SHRINK, RefreshReport, refresh_view
from fedpredict.features.retention import prune_snapshots
from fedpredict.model.ids import check_view_name
from fedpredict.scoring.due import models_to_score, versions_in_use, versions_to_refresh
from fedpredict.scoring.settings import TaskSettings
from fedpredict.scoring.task_report import report_of
from fedpredict.scoring.tasks import BUCKET_ROWS, outdated, previous_state, score_day
from fedpredict.state.leases import Alone, hold
from fedpredict.tables.models import ModelVersion
from fedpredict.tables.schemas import VIEWS
from fedpredict.tables.script_store import RegisteredView, list_scripts
from fedpredict.tables.shares import ShareTask, TaskState, remove_task
from fedpredict.tables.views import Snapshot, latest_snapshot, list_snapshots
from fedpredict.warehouse.base import ColumnType, Warehouse

logger = logging.getLogger(__name__)


def refresh_name(view: str, version: int) -> str:
    """Return the name of the lease on the snapshots of a view version.

    >>> refresh_name("transactions", 3)
    'refresh:transactions:3'
    """
    return f"refresh:{view}:{version}"


def versions_name(view: str) -> str:
    """Return the name of the lease on which versions there are of a view.

    >>> versions_name("transactions")
    'view:transactions'
    """
    return f"view:{view}"


def score_name(model_id: str, params_sha256: str, day: date) -> str:
    """Return the name of the lease on a model's shares of a day.

    >>> score_name("credit", "0" * 64, date(2026, 11, 26))
    'score:credit:000000000000:2026-11-26'
    """
    return f"score:{model_id}:{params_sha256[:12]}:{day.isoformat()}"


def refresh_alone(
    alone: Alone,
    warehouse: Warehouse,
    registered: RegisteredView,
    as_of: datetime,
    *,
    max_shrink: float = MAX_SHRINK,
    force: bool = False,
    keep_days: int | None = None,
) -> RefreshReport:
    """Refresh a view as `refresh_view` says, while no other process does; then remove what is older than `keep_days`.

    Raises:
        LeaseHeldError: Another one does.
        LeaseLostError: Another one took it over; nothing was published.
        ViewRefusedError, WarehouseError: As `refresh_view` says.
        StateError, StoreError: The leases cannot be used.
    """
    with alone.hold(refresh_name(registered.view.name, registered.version)) as lease:
        report = refresh_view(
            warehouse,
            registered,
            as_of,
            max_shrink=max_shrink,
            force=force,
            turn=lease.turn,
            still_ours=lease.check,
        )
        _prune(warehouse, registered.view.name, registered.version, keep_days)
    return report


def refresh_each(
    alone: Alone,
    warehouse: Warehouse,
    registered: Sequence[RegisteredView],
    as_of: datetime,
    *,
    max_shrink: float = MAX_SHRINK,
    force: bool = False,
    keep_days: int | None = None,
) -> tuple[list[RefreshReport], list[tuple[RegisteredView, FedPredictError]]]:
    """Refresh versions of a view, each as `refresh_alone` says, and return what was made and which failed."""
    reports: list[RefreshReport] = []
    failures: list[tuple[RegisteredView, FedPredictError]] = []
    for each in registered:
        try:
            reports.append(
                refresh_alone(alone, warehouse, each, as_of, max_shrink=max_shrink, force=force, keep_days=keep_days)
            )
        except FedPredictError as error:
            failures.append((each, error))
    return reports, failures


def load_alone(
    alone: Alone,
    warehouse: Warehouse,
    path: Path,
    *,
    view: str,
    key: str,
    event_time: str | None = None,
    types: Mapping[str, ColumnType] | None = None,
    new_version: bool = False,
) -> LoadReport:
    """Load a file as `load_file` says, while no other process loads or refreshes that version of the view.

    Where it makes a version, no other process makes one of that view meanwhile.

    Raises:
        LeaseHeldError: Another one does.
        LeaseLostError: Another one took it over; nothing was loaded.
        FeatureFileError, FeatureNamesError, NameRefusedError, WarehouseError: As `load_file` says.
        StateError, StoreError: The leases cannot be used.
    """
    check_view_name(view)
    warehouse.ensure(VIEWS)  # before the first load there may be no warehouse to read from
    with ExitStack() as held:
        if new_version or latest_snapshot(warehouse, view) is None:
            held.enter_context(alone.hold(versions_name(view)))
        version = version_to_load(warehouse, view, new_version=new_version)
        lease = held.enter_context(alone.hold(refresh_name(view, version)))
        return load_file(
            warehouse,
            path,
            view=view,
            key=key,
            event_time=event_time,
            types=types,
            new_version=new_version,
            still_ours=lease.check,
        )


def score_alone(
    alone: Alone,
    warehouse: Warehouse,
    version: ModelVersion,
    day: date,
    *,
    rows_per_bucket: int = BUCKET_ROWS,
    n_buckets: int | None = None,
    again: bool = False,
    advance: Callable[[int, int], None] = lambda _done, _of: None,
) -> TaskState:
    """Score a day as `score_day` says, while no other process does; what was done meanwhile is not done again.

    Raises:
        LeaseHeldError: Another one does.
        LeaseLostError: Another one took it over; the buckets that are done stay.
        InputError, ModelNotReadyError, WarehouseError: As `score_day` says.
        StateError, StoreError: The leases cannot be used.
    """
    with alone.hold(score_name(version.model_id, version.params_sha256, day)) as lease:
        return score_day(
            warehouse,
            version,
            day,
            rows_per_bucket=rows_per_bucket,
            n_buckets=n_buckets,
            again=again,
            advance=advance,
            still_ours=lease.check,
        )


def prune_shares_alone(alone: Alone, warehouse: Warehouse, keep_days: int) -> list[ShareTask]:
    """Remove the shares that are `outdated` today (UTC), and return whose they were; what is being scored stays.

    Raises:
        WarehouseError: As the warehouse says.
        StateError, StoreError: The leases cannot be used.
    """
    removed: list[ShareTask] = []
    for task in outdated(warehouse, keep_days, datetime.now(UTC).date()):
        name = score_name(task.model_id, task.params_sha256, task.day)
        try:
            with hold(alone.leases, name):
                remove_task(warehouse, task)
        except LeaseHeldError as error:
            logger.info("task.kept", extra={"model": task.model_id, "reason": str(error)})
            continue
        removed.append(task)
    return removed


def prune_alone(alone: Alone, warehouse: Warehouse, keep_days: int) -> list[Snapshot]:
    """Remove snapshots older than so many days, of every view version while nobody refreshes it, and return them.

    Raises:
        LeaseHeldError: Somebody does.
        WarehouseError: As the warehouse says.
        StateError, StoreError: The leases cannot be used.
    """
    removed: list[Snapshot] = []
    for view, version in sorted({(each.view.name, each.view.version) for each in list_snapshots(warehouse)}):
        with alone.hold(refresh_name(view, version)):
            removed += _prune(warehouse, view, version, keep_days)
    return removed


def _prune(warehouse: Warehouse, view: str, version: int, keep_days: int | None) -> list[Snapshot]:
    if keep_days is None:
        return []
    removed = prune_snapshots(warehouse, view, version, keep_days, datetime.now(UTC))
    for each in removed:
        extra = {"view": view, "view_version": version, "snapshot": each.snapshot}
        logger.info("features.removed", extra=extra)
    return removed


def refresh_due(
    alone: Alone,
    warehouse: Warehouse,
    view: str,
    due: datetime,
    keep_days: int | None = None,
    *,
    n_served: int = 1,
) -> None:
    """Refresh the versions of a view that have no snapshot as of a due instant, or later; others are left alone.

    That a version fails which only older versions of models use is in the log alone: raw tables may have moved on.

    Args:
        alone: Holds the leases.
        warehouse: The party's.
        view: Which.
        due: As of when.
        keep_days: Older snapshots are removed; None: none.
        n_served: As `versions_in_use` says.

    Raises:
        FedPredictError: As `refresh_alone` says, of the first version that failed, when all were tried.
    """
    failures: list[FedPredictError] = []
    scripts = {each.version: each for each in list_scripts(warehouse, view)}
    current = versions_in_use(warehouse, view)
    for version in versions_to_refresh(warehouse, view, due, n_served):
        try:
            with alone.hold(refresh_name(view, version)) as lease:
                if version in versions_to_refresh(warehouse, view, due, n_served):  # nobody was faster
                    refresh_view(warehouse, scripts[version], due, turn=lease.turn, still_ours=lease.check)
                    _prune(warehouse, view, version, keep_days)
        except FedPredictError as error:
            logger.warning("schedule.version_failed", extra={"view": view, "version": version, "reason": str(error)})
            if version in current:
                failures.append(error)
    if failures:
        raise failures[0]


def score_due(alone: Alone, warehouse: Warehouse, day: date, settings: TaskSettings) -> None:
    """Score the models whose shares of a day are not whole, then remove days beyond `keep_days`.

    Raises:
        FedPredictError: As `score_alone` says, of the first model that failed, when all were tried.
    """
    failures: list[FedPredictError] = []
    for version in models_to_score(warehouse, day):
        try:
            state = score_alone(alone, warehouse, version, day, rows_per_bucket=settings.bucket_rows)
        except FedPredictError as error:
            logger.warning("schedule.model_failed", extra={"model": version.model_id, "reason": str(error)})
            failures.append(error)
            continue
        before = previous_state(warehouse, state.task)
        for warning in report_of(state, before, limit=settings.stability_limit)["warnings"]:
            logger.warning("task.moved", extra={"model": version.model_id, "warning": warning})
    if settings.keep_days is not None:
        prune_shares_alone(alone, warehouse, settings.keep_days)
    if failures:
        raise failures[0]
