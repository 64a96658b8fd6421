"""Feature views and their snapshots: a snapshot's rows are written first, the row that makes it exist last."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import TYPE_CHECKING

import pyarrow as pa

from fedpredict.errors import FeatureNamesError, NameRefusedError, StatementError, TableCorruptError
from fedpredict.model.ids import check_view_name
from fedpredict.tables.names import column_names
from fedpredict.tables.placing import in_places
from fedpredict.tables.schemas import VIEWS, features_schema
from fedpredict.warehouse.base import Column, ColumnType, Partition, SeriesWriter, TableSchema, Value, Warehouse

if TYPE_CHECKING:
    from sqlglot import exp

_SNAPSHOT = re.compile(r"[0-9]{8}T[0-9]{6}\.[0-9]{6}Z")
_FORMAT = "%Y%m%dT%H%M%S.%fZ"
SAME_INSTANT = timedelta(milliseconds=1)
"""Within it from an instant on are the names of the instant's snapshots."""


@dataclass(frozen=True, slots=True)
class ViewFeature:
    """A feature of a view.

    Attributes:
        name: As the feature file and the models write it.
        column: Where the feature table holds it: `column_name(name)`.
        type: DOUBLE or STRING.
    """

    name: str
    column: str
    type: ColumnType


@dataclass(frozen=True, slots=True)
class FeatureView:
    """A named set of features of this party.

    Attributes:
        name: The view's name.
        version: From 1; another set of features or types is another version.
        features: In the order of the feature file.
        key: The column of the feature file that held the sample id.
        event_time: The column of the feature file that held the event time, or None where it had none.
    """

    name: str
    version: int
    features: tuple[ViewFeature, ...]
    key: str
    event_time: str | None

    def __post_init__(self) -> None:
        check_view_name(self.name)
        expected = column_names([feature.name for feature in self.features])
        wrong = [feature.name for feature in self.features if feature.column != expected[feature.name]]
        if wrong:
            raise FeatureNamesError(f"view {self.name} has other columns than its feature names give", names=wrong)
        odd = [name.name for name in self.features if name.type not in (ColumnType.DOUBLE, ColumnType.STRING)]
        if odd:
            raise FeatureNamesError(f"view {self.name}: a feature is DOUBLE or STRING, not so {odd}", names=odd)

    @property
    def columns(self) -> tuple[Column, ...]:
        """The feature columns with their types, in order."""
        return tuple(Column(feature.column, feature.type) for feature in self.features)

    @property
    def schema(self) -> TableSchema:
        """The layout of the view's feature table."""
        return features_schema(self.name, self.columns)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One complete refresh of a feature view.

    Attributes:
        view: The view, in the version that the snapshot was made for.
        snapshot: The UTC instant that names it; names sort in the order of time.
        n_rows: Rows of the snapshot, more than one per sample id allowed.
        n_ids: Distinct sample ids of the rows; None where that is not known.
        has_places: Whether its rows have the places of their ids, and stand in that order (`model.buckets`), so that
            an engine finds a bucket without reading the others.
    """

    view: FeatureView
    snapshot: str
    n_rows: int
    n_ids: int | None = None
    has_places: bool = False

    @property
    def partition(self) -> Partition:
        """Where the feature table of the view holds the rows."""
        return {"view_version": self.view.version, "snapshot": self.snapshot}


def snapshot_name(instant: datetime) -> str:
    """Return the name of a snapshot made at `instant` (with a time zone).

    >>> snapshot_name(datetime(2026, 11, 22, 8, 30, tzinfo=UTC))
    '20261122T083000.000000Z'
    """
    return instant.astimezone(UTC).strftime(_FORMAT)


def publish_snapshot(warehouse: Warehouse, view: FeatureView, snapshot: str, rows: pa.Table) -> Snapshot:
    """Write a snapshot of a view; it exists for readers when this returns, and not before.

    A call that is repeated after a crash, with the same name, replaces what was left.

    Args:
        warehouse: Where to.
        view: The view with its version.
        snapshot: Its name, from `snapshot_name`.
        rows: sample_id, event_time and the feature columns by column name, in the types of `ARROW_TYPES`.

    Raises:
        NameRefusedError: `snapshot` is no snapshot's name.
        WarehouseWriteError: A column has another type than in an older version of the view, or the write failed.
    """
    _check_name(snapshot)
    placed, n_ids = in_places(rows)
    written = Snapshot(view, snapshot, rows.num_rows, n_ids, has_places=True)
    warehouse.ensure(VIEWS)
    warehouse.ensure(view.schema)
    warehouse.replace(view.schema.name, written.partition, placed)
    write_pointer(warehouse, written)
    return written


def publish_query(
    warehouse: Warehouse,
    view: FeatureView,
    snapshot: str,
    statement: exp.Query,
    *,
    params: Mapping[str, Value],
    check: Callable[[Snapshot], None],
) -> Snapshot:
    """Write a snapshot from a query's rows, computed in the warehouse's engine; else as `publish_snapshot`.

    Args:
        warehouse: Where to.
        view: The view with its version.
        snapshot: Its name, from `snapshot_name`; no other writer uses it.
        statement: Gives sample_id, event_time and the feature columns by name, a row for each sample id.
        params: What to bind in it.
        check: Looks at the rows that were written, which no reader sees yet; what it raises leaves nothing of them. It
            must not let an id pass that has several rows.

    Raises:
        NameRefusedError: `snapshot` is no snapshot's name.
        WarehouseError: As the warehouse says.
    """
    from fedpredict.tables.buckets import query_in_places  # noqa: PLC0415  a parser of SQL, which daemons do without

    _check_name(snapshot)
    warehouse.ensure(VIEWS)
    warehouse.ensure(view.schema)
    partition = Snapshot(view, snapshot, 0).partition
    rows = query_in_places(statement)
    n_rows = warehouse.replace_from(view.schema.name, partition, rows, params)
    written = Snapshot(view, snapshot, n_rows, n_rows, has_places=True)
    try:
        check(written)
    except BaseException:
        warehouse.replace(view.schema.name, partition, view.schema.arrow_schema.empty_table())
        raise
    write_pointer(warehouse, written)
    return written


def write_pointer(warehouse: Warehouse, snapshot: Snapshot) -> None:
    """Write the row that makes a snapshot exist; its rows are there already."""
    warehouse.replace(VIEWS.name, {"view": snapshot.view.name, **snapshot.partition}, _pointer(snapshot))


def remove_snapshot(warehouse: Warehouse, snapshot: Snapshot) -> None:
    """Remove a snapshot: first for readers, then its rows; a call that was killed leaves rows that nobody reads."""
    pointer = {"view": snapshot.view.name, **snapshot.partition}
    warehouse.replace(VIEWS.name, pointer, VIEWS.arrow_schema.empty_table())
    schema = snapshot.view.schema
    warehouse.replace(schema.name, snapshot.partition, schema.arrow_schema.empty_table())


def list_snapshots(warehouse: Warehouse) -> list[Snapshot]:
    """Return every snapshot of every view, by view, version and instant."""
    return _snapshots(warehouse, {})


def latest_snapshot(warehouse: Warehouse, view: str, version: int | None = None) -> Snapshot | None:
    """Return the newest snapshot of a view, or None where there is none.

    Args:
        warehouse: Where the view lives.
        view: Its name.
        version: The version of the view; None for the newest version that has a snapshot.
    """
    where: Partition = {"view": view} if version is None else {"view": view, "view_version": version}
    found = _snapshots(warehouse, where)
    return found[-1] if found else None


def snapshot_of_day(warehouse: Warehouse, view: str, version: int, day: date) -> Snapshot | None:
    """Return the newest snapshot of a view version that was made by the end of a day (UTC), or None."""
    end = snapshot_name(datetime.combine(day + timedelta(days=1), time(), UTC))
    found = [each for each in _snapshots(warehouse, {"view": view, "view_version": version}) if each.snapshot < end]
    return found[-1] if found else None


def find_snapshot(warehouse: Warehouse, view: str, version: int, snapshot: str) -> Snapshot | None:
    """Return a snapshot by its name, or None where it is gone."""
    found = _snapshots(warehouse, {"view": view, "view_version": version, "snapshot": snapshot})
    return found[0] if found else None


def is_there(warehouse: Warehouse, view: str, version: int, snapshot: str) -> bool:
    """Return whether a snapshot is still there: a server is asked for its pointer's partition, which is quick."""
    pointer: Partition = {"view": view, "view_version": version, "snapshot": snapshot}
    if isinstance(warehouse, SeriesWriter):
        return warehouse.has_partition(VIEWS.name, pointer)
    return bool(_snapshots(warehouse, pointer))


def snapshots_of(warehouse: Warehouse, view: str, version: int, as_of: datetime) -> list[str]:
    """Return the names of a view version's snapshots as of an instant: those that begin in its millisecond, in order.

    Another snapshot of one instant gets the next microsecond, so names of one instant stand beside each other.
    """
    first, end = snapshot_name(as_of), snapshot_name(as_of + SAME_INSTANT)
    found = _snapshots(warehouse, {"view": view, "view_version": version})
    return [each.snapshot for each in found if first <= each.snapshot < end]


def instant_of(snapshot: str) -> datetime:
    """Return the instant that names a snapshot.

    >>> instant_of("20261122T083000.000000Z")
    datetime.datetime(2026, 11, 22, 8, 30, tzinfo=datetime.timezone.utc)
    """
    _check_name(snapshot)
    return datetime.strptime(snapshot, _FORMAT).replace(tzinfo=UTC)


def read_snapshot_rows(warehouse: Warehouse, snapshot: Snapshot, columns: Sequence[str]) -> pa.Table:
    """Return columns (by column name) of a snapshot's rows, in any order.

    Raises:
        TableCorruptError: The number of rows is not the one that was published.
    """
    rows = warehouse.read(snapshot.view.schema.name, columns, snapshot.partition)
    if rows.num_rows != snapshot.n_rows:
        raise TableCorruptError(
            f"snapshot {snapshot.snapshot} of view {snapshot.view.name} has {rows.num_rows} rows instead of"
            f" {snapshot.n_rows}; load the features again"
        )
    return rows


def _check_name(snapshot: str) -> None:
    if _SNAPSHOT.fullmatch(snapshot) is None:
        raise NameRefusedError(f"{snapshot!r} does not name a snapshot: a UTC instant like 20261122T083000.000000Z")


def _pointer(snapshot: Snapshot) -> pa.Table:
    view = snapshot.view
    features = [{"name": each.name, "column": each.column, "type": each.type.value} for each in view.features]
    row = {
        "n_rows": snapshot.n_rows,
        "features": json.dumps(features),
        "key": view.key,
        "event_time": view.event_time,
        "created_at": datetime.now(UTC),
        "n_ids": snapshot.n_ids,
        "has_places": snapshot.has_places,
    }
    return pa.Table.from_pylist([row], schema=VIEWS.arrow_schema)


def _snapshots(warehouse: Warehouse, where: Partition) -> list[Snapshot]:
    rows = _read_pointers(warehouse, where).to_pylist()
    found = [_parse_snapshot(row) for row in rows]
    return sorted(found, key=lambda each: (each.view.name, each.view.version, each.snapshot))


def _read_pointers(warehouse: Warehouse, where: Partition) -> pa.Table:
    known = ["view", "view_version", "snapshot", "n_rows", "features", "key", "event_time"]
    try:
        return warehouse.read(VIEWS.name, [*known, "n_ids", "has_places"], where)
    except StatementError:  # a table of before there were these: the next snapshot adds them
        return warehouse.read(VIEWS.name, known, where)


def _parse_snapshot(row: dict[str, object]) -> Snapshot:
    try:
        features = tuple(
            ViewFeature(entry["name"], entry["column"], ColumnType(entry["type"]))
            for entry in _list(json.loads(str(row["features"])))
        )
        event_time = None if row["event_time"] is None else str(row["event_time"])
        view = FeatureView(str(row["view"]), int(str(row["view_version"])), features, str(row["key"]), event_time)
        n_ids = None if row.get("n_ids") is None else int(str(row["n_ids"]))
        n_rows, has_places = int(str(row["n_rows"])), bool(row.get("has_places"))
        return Snapshot(view, str(row["snapshot"]), n_rows, n_ids, has_places)
    except (ValueError, KeyError, TypeError, NameRefusedError, FeatureNamesError) as error:
        raise TableCorruptError(
            f"{VIEWS.name} has a damaged row for view {row['view']} ({error}); load the features again"
        ) from error


def _list(value: object) -> list[dict[str, str]]:
    if not isinstance(value, list):
        raise TypeError("the features are no list")
    return value
