"""Stored shares as they are read: rows of a snapshot of their own, and lists of scores as matrices."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fedpredict.errors import TableCorruptError
from fedpredict.model.arrays import Floats
from fedpredict.tables.shares import SHARES, ShareTask, shares_columns
from fedpredict.warehouse.base import ARROW_TYPES, ColumnType, Warehouse
from fedpredict.wire.arrow_ids import joined


def read_shares(warehouse: Warehouse, task: ShareTask) -> pa.Table:
    """Return a finished task's shares as rows of that snapshot: sample_id, event_time, and the view's columns.

    Raises:
        TableCorruptError: There are not the rows that the records say.
    """
    tables = []
    for bucket in range(task.n_buckets):
        names = ["sample_id", "event_time", "status", "scores"]
        rows = warehouse.read(SHARES.name, names, {**task.partition, "bucket": bucket})
        if rows.num_rows:
            tables.append(_flat(rows, task.n_scores))
    found = pa.concat_tables(tables) if tables else _flat(SHARES.arrow_schema.empty_table(), task.n_scores)
    if found.num_rows != task.n_ids:
        raise TableCorruptError(
            f"{SHARES.name} has {found.num_rows} shares of {task.model_id} of {task.day} instead of {task.n_ids}; "
            f"`fedpredict task score --date {task.day} --model {task.model_id} --again` makes them again"
        )
    return found


def scores_matrix(scores: pa.ChunkedArray, width: int) -> Floats:
    """Return lists of scores as a matrix, shape (n_rows, width); NaN where there is no list.

    Raises:
        TableCorruptError: A list has another length.
    """
    lists = joined(scores)
    has_scores = lists.is_valid().to_numpy(zero_copy_only=False)
    values: Floats = lists.flatten().to_numpy()  # without those of NULL
    lengths = pc.list_value_length(lists).drop_null().to_numpy()
    if (lengths != width).any():
        raise TableCorruptError(f"{SHARES.name} has a list that is not of {width} scores; make the shares again")
    if lists.null_count == 0:
        return values.reshape(len(lists), width)
    matrix = np.full((len(lists), width), np.nan)
    matrix[has_scores] = values.reshape(-1, width)
    return matrix


def _flat(rows: pa.Table, width: int) -> pa.Table:
    """Return rows of `fp_partial_scores` with a column for each score, NULL where there is no list."""
    columns: dict[str, pa.ChunkedArray] = {
        "sample_id": rows.column("sample_id"),
        "event_time": rows.column("event_time").cast(ARROW_TYPES[ColumnType.TIMESTAMP]),
        "status": rows.column("status").cast(pa.float64()),
    }
    matrix, has_none = scores_matrix(rows.column("scores"), width), rows.column("scores").is_null().to_numpy()
    for output, name in enumerate(shares_columns(width)[1:]):
        columns[name] = pa.chunked_array([pa.array(matrix[:, output], pa.float64(), mask=has_none)])
    return pa.table(columns)
