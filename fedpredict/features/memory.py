"""The online store in this process's memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from typing_extensions import override

from fedpredict.errors import ModelNotReadyError, TableCorruptError
from fedpredict.features.base import FeatureRows, OnlineStore
from fedpredict.features.rows import latest_rows, to_micros
from fedpredict.model.arrays import Bools, Floats, Micros
from fedpredict.tables.views import Snapshot
from fedpredict.warehouse.base import ColumnType


@dataclass(frozen=True, slots=True, eq=False)
class _Table:
    """One snapshot, never changed: `rows` gives an id's place in the arrays, `columns` a column's."""

    snapshot: Snapshot
    rows: Mapping[bytes, int]
    columns: Mapping[str, int]
    values: Floats
    ambiguous: Bools
    event_time: Micros


class MemoryStore(OnlineStore):
    """Snapshots as arrays, with a dictionary from sample id to row: some 150 bytes per id, and 8 per feature.

    A snapshot is built aside and put in place by one assignment, so that readers need no lock.
    """

    def __init__(self) -> None:
        self._tables: dict[tuple[str, int], _Table] = {}

    @override
    def publish(self, snapshot: Snapshot, rows: pa.Table) -> None:
        """Replace the view version's snapshot; the one before is freed when its last reader is done."""
        self._tables[snapshot.view.name, snapshot.view.version] = _build(snapshot, rows)

    @override
    def lookup(self, view: str, view_version: int, columns: Sequence[str], sample_ids: Sequence[bytes]) -> FeatureRows:
        """Return features of samples from the snapshot that is served at this moment."""
        table = self._tables.get((view, view_version))
        if table is None:
            raise ModelNotReadyError(f"no snapshot of view {view} version {view_version} is loaded")
        chosen = _chosen(table, columns)
        places = np.fromiter((table.rows.get(each, -1) for each in sample_ids), dtype=np.int64, count=len(sample_ids))
        found = places >= 0
        values = np.full((len(sample_ids), len(chosen)), np.nan)
        values[found] = table.values[np.ix_(places[found], chosen)]
        ambiguous = np.zeros(len(sample_ids), dtype=np.bool_)
        ambiguous[found] = table.ambiguous[places[found]]
        event_time = np.zeros(len(sample_ids), dtype=np.int64)
        event_time[found] = table.event_time[places[found]]
        return FeatureRows(values, found, ambiguous, event_time)

    @override
    def snapshot_of(self, view: str, view_version: int) -> Snapshot | None:
        """Return the snapshot that is served at this moment."""
        table = self._tables.get((view, view_version))
        return None if table is None else table.snapshot

    @override
    def drop(self, view: str, view_version: int) -> None:
        """Forget a view version."""
        self._tables.pop((view, view_version), None)


def _build(snapshot: Snapshot, rows: pa.Table) -> _Table:
    for name in ("sample_id", "event_time"):
        if rows.column(name).null_count:
            raise TableCorruptError(
                f"snapshot {snapshot.snapshot} of view {snapshot.view.name}: {rows.column(name).null_count} rows "
                f"have no {name}; load the features again"
            )
    event_time = to_micros(rows.column("event_time"))
    latest = latest_rows(rows.column("sample_id"), event_time)
    present = set(rows.column_names)
    columns = [
        feature.column
        for feature in snapshot.view.features
        if feature.type is ColumnType.DOUBLE and feature.column in present
    ]
    values = np.empty((len(latest.rows), len(columns)), dtype=np.float64)
    for position, column in enumerate(columns):
        values[:, position] = rows.column(column).to_numpy()[latest.rows]
    return _Table(
        snapshot=snapshot,
        rows={sample_id: row for row, sample_id in enumerate(latest.sample_ids)},
        columns={column: position for position, column in enumerate(columns)},
        values=values,
        ambiguous=latest.ambiguous,
        event_time=event_time[latest.rows],
    )


def _chosen(table: _Table, columns: Sequence[str]) -> NDArray[np.intp]:
    missing = [column for column in columns if column not in table.columns]
    if missing:
        view = table.snapshot.view
        raise ModelNotReadyError(f"view {view.name} version {view.version} has no numeric column {', '.join(missing)}")
    return np.array([table.columns[column] for column in columns], dtype=np.intp)
