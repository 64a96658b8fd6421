"""A file of features -> one snapshot of a feature view in the warehouse."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa

from fedpredict.errors import FeatureFileError
from fedpredict.features.files import FileColumns, read_columns
from fedpredict.features.rows import latest_rows, seeds, to_micros, to_packed
from fedpredict.features.values import to_event_time, to_feature, to_sample_ids
from fedpredict.model.ids import check_view_name
from fedpredict.tables.names import column_names
from fedpredict.tables.schemas import VIEWS
from fedpredict.tables.script_store import list_scripts, versions_of
from fedpredict.tables.views import (
    FeatureView,
    Snapshot,
    ViewFeature,
    latest_snapshot,
    publish_snapshot,
    snapshot_name,
)
from fedpredict.warehouse.base import ARROW_TYPES, ColumnType, Warehouse

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadReport:
    """What `load_file` made.

    Attributes:
        view: The feature view.
        version: Its version.
        snapshot: The new snapshot's name.
        n_rows: Rows loaded.
        n_ids: Distinct sample ids.
        columns: The view's features, in its order.
        new_version: Whether the view's version is new.
    """

    view: str
    version: int
    snapshot: str
    n_rows: int
    n_ids: int
    columns: tuple[ViewFeature, ...]
    new_version: bool


def load_file(
    warehouse: Warehouse,
    path: Path,
    *,
    view: str,
    key: str,
    event_time: str | None = None,
    types: Mapping[str, ColumnType] | None = None,
    new_version: bool = False,
    now: datetime | None = None,
    still_ours: Callable[[], None] = lambda: None,
) -> LoadReport:
    """Load a CSV or Parquet file as a snapshot of a view; a view's first file makes its version 1.

    Every column but the key and the event time is a feature under its own name. The snapshot becomes visible last and
    whole; on any error nothing is visible.

    Args:
        warehouse: Where to.
        path: The file.
        view: The feature view.
        key: The column of sample ids.
        event_time: The column that says when a row's values held; without one, all rows get the load instant.
        types: Feature -> DOUBLE or STRING, where the file does not tell it right.
        new_version: Make a new version of the view, whose columns may be others. Models keep the version that they
            were converted for.
        now: The load instant; default: this moment.
        still_ours: Called right before the snapshot is written; what it raises keeps it from that.

    Raises:
        FeatureFileError: The file cannot be loaded as it is, or its columns are not the view's.
        FeatureNamesError, NameRefusedError: A name that no column can have, or two that would be one column.
        WarehouseError: As the warehouse says.
    """
    check_view_name(view)
    now = now or datetime.now(UTC)
    file = read_columns(path)
    # before the first load there may be no warehouse to read from
    warehouse.ensure(VIEWS)
    newest, made = latest_snapshot(warehouse, view), versions_of(warehouse, view)
    like = _view_like(warehouse, view, newest)
    names = _feature_names(file, key, event_time)
    known = {} if like is None or new_version else {each.name: each.type for each in like.features}
    features, columns = _features(file, names, {**known, **_checked_types(names, types or {})})
    loaded = FeatureView(view, max(made, default=0) + 1, features, key, event_time)
    target = loaded if like is None or new_version else _target(like, loaded)
    instants = _event_time(file, event_time, now)
    rows = pa.table({"sample_id": to_sample_ids(file.columns[key], key), "event_time": instants, **columns})
    n_ids = _count_ids(rows, event_time)
    still_ours()
    snapshot = publish_snapshot(warehouse, target, _snapshot_name(now, newest), rows)
    return _report(snapshot, n_ids, new_version=target.version not in made)


def version_to_load(warehouse: Warehouse, view: str, *, new_version: bool) -> int:
    """Return the version of a view that a file makes a snapshot of, as `load_file` chooses it.

    Raises:
        WarehouseError: As the warehouse says.
    """
    like = None if new_version else _view_like(warehouse, view, latest_snapshot(warehouse, view))
    return max(versions_of(warehouse, view), default=0) + 1 if like is None else like.version


def _view_like(warehouse: Warehouse, view: str, newest: Snapshot | None) -> FeatureView | None:
    """Return what a file must look like: the newest snapshot's view, else the registered one, else nothing yet."""
    if newest is not None:
        return newest.view
    registered = list_scripts(warehouse, view)
    return registered[-1].view.feature_view(registered[-1].version) if registered else None


def _report(snapshot: Snapshot, n_ids: int, *, new_version: bool) -> LoadReport:
    view = snapshot.view
    extra = {"view": view.name, "view_version": view.version, "snapshot": snapshot.snapshot, "n_rows": snapshot.n_rows}
    logger.info("features.loaded", extra=extra)
    return LoadReport(
        view=view.name,
        version=view.version,
        snapshot=snapshot.snapshot,
        n_rows=snapshot.n_rows,
        n_ids=n_ids,
        columns=view.features,
        new_version=new_version,
    )


def _feature_names(file: FileColumns, key: str, event_time: str | None) -> list[str]:
    for role, name in (("key", key), ("event-time", event_time)):
        if name is not None and name not in file.columns:
            near = difflib.get_close_matches(name, file.columns, n=3, cutoff=0.5) or list(file.columns)[:10]
            raise FeatureFileError(f"no {role} column {name!r} in the file; near it: {', '.join(map(repr, near))}")
    if key == event_time:
        raise FeatureFileError(f"column {key!r} cannot be both the key and the event time")
    names = [name for name in file.columns if name not in (key, event_time)]
    if not names:
        raise FeatureFileError("the file has no feature: every column is the key or the event time")
    return names


def _checked_types(names: Sequence[str], types: Mapping[str, ColumnType]) -> Mapping[str, ColumnType]:
    unknown = sorted(set(types) - set(names))
    if unknown:
        raise FeatureFileError(f"types are given for {', '.join(map(repr, unknown))}, which the file does not have")
    other = sorted(set(types.values()) - {ColumnType.DOUBLE, ColumnType.STRING})
    if other:
        raise FeatureFileError(f"a feature is double or string, not {', '.join(other)}")
    return types


def _features(
    file: FileColumns, names: Sequence[str], expected: Mapping[str, ColumnType]
) -> tuple[tuple[ViewFeature, ...], dict[str, pa.ChunkedArray]]:
    column_of = column_names(names)
    features: list[ViewFeature] = []
    columns: dict[str, pa.ChunkedArray] = {}
    for name in names:
        values, kind = to_feature(file.columns[name], name, typed=file.typed, expected=expected.get(name))
        columns[column_of[name]] = values.cast(ARROW_TYPES[kind])
        features.append(ViewFeature(name, column_of[name], kind))
    return tuple(features), columns


def _target(like: FeatureView, loaded: FeatureView) -> FeatureView:
    """Return the view that the snapshot is of, features in the view's own order; or say how the file differs."""
    before = {each.name: each for each in like.features}
    after = {each.name: each for each in loaded.features}
    told = [f"{name!r} is new" for name in after if name not in before]
    told += [f"{name!r} is missing" for name in before if name not in after]
    told += [
        f"{name!r} is {after[name].type}, was {before[name].type}"
        for name in after
        if name in before and after[name].type is not before[name].type
    ]
    if told:
        raise FeatureFileError(
            f"the file's columns are not those of view {loaded.name} version {like.version}: {'; '.join(told)}. "
            "Correct the file, or ask for a new version of the view"
        )
    return replace(like, key=loaded.key, event_time=loaded.event_time)


def _event_time(file: FileColumns, name: str | None, now: datetime) -> pa.ChunkedArray:
    if name is not None:
        return to_event_time(file.columns[name], name)
    return pa.chunked_array([pa.repeat(pa.scalar(now, ARROW_TYPES[ColumnType.TIMESTAMP]), file.n_rows)])


def _count_ids(rows: pa.Table, event_time: str | None) -> int:
    latest = latest_rows(to_packed(rows.column("sample_id")), to_micros(rows.column("event_time")), seeds())
    if len(latest.repeats):
        fix = "name the event-time column" if event_time is None else "keep one of them"
        raise FeatureFileError(
            f"{len(latest.repeats)} rows have the sample id and event time of another row, the first is data row "
            f"{latest.repeats[0] + 1}: {fix}"
        )
    return len(latest.rows)


def _snapshot_name(now: datetime, newest: Snapshot | None) -> str:
    """Return a name that sorts after the newest snapshot's, also when the clock was set back since."""
    name = snapshot_name(now)
    if newest is not None and name <= newest.snapshot:
        before = datetime.strptime(newest.snapshot, "%Y%m%dT%H%M%S.%fZ").replace(tzinfo=UTC)
        return snapshot_name(before + timedelta(microseconds=1))
    return name
