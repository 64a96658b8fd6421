"""Small snapshots of made-up people."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from fedpredict.tables.views import FeatureView, Snapshot, ViewFeature
from fedpredict.warehouse.base import ColumnType

FIRST, SECOND, THIRD = (f"2026010{day}T000000.000000Z" for day in (1, 2, 3))
FEATURES = (ViewFeature("age", "age", ColumnType.DOUBLE), ViewFeature("income", "income", ColumnType.DOUBLE))


def snapshot_named(name: str = FIRST, *, view: str = "people", version: int = 1, n_rows: int = 100) -> Snapshot:
    return Snapshot(FeatureView(view, version, FEATURES, "id", None), name, n_rows)


def numbered(n_rows: int = 100, *, age: float = 0.0) -> pa.Table:
    """Rows of u0, u1 ...: their number is the income."""
    return rows_with([f"u{i}" for i in range(n_rows)], age=age)


def rows_with(ids: Sequence[str], *, age: float = 0.0) -> pa.Table:
    n_rows = len(ids)
    return pa.table(
        {
            "sample_id": pa.array(ids, pa.string()),
            "event_time": pa.array(np.arange(n_rows), pa.timestamp("us", tz="UTC")),
            "age": pa.array(np.full(n_rows, age)),
            "income": pa.array(np.arange(n_rows, dtype=np.float64)),
        }
    )
