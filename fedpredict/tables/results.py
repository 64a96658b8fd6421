"""Results of offline tasks in the initiator's warehouse: `fp_results`, one partition per task and bucket.

A bucket's rows stand in the population's order, and count when the task store has a record of the bucket, which is
written after them and has their digest.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection

import numpy as np
import pyarrow as pa

from fedpredict.errors import TableCorruptError
from fedpredict.model.arrays import Floats, Statuses
from fedpredict.model.sample_ids import SampleIds
from fedpredict.model.share import SampleStatus
from fedpredict.tables.task_shares import TASK_SHARES, number_lists
from fedpredict.warehouse.base import Column, ColumnType, Partition, TableSchema, Warehouse
from fedpredict.wire.arrow_ids import ids_to_array, joined

UNRANKED = TableSchema(
    "fp_unranked",
    (
        Column("position", ColumnType.INT),
        Column("sample_id", ColumnType.STRING),
        Column("status", ColumnType.INT),
        Column("origin", ColumnType.INT),
        Column("predictions", ColumnType.DOUBLES),
    ),
    (Column("task_id", ColumnType.STRING), Column("bucket", ColumnType.INT)),
)
"""One row per sample id; `position` counts from 0 in the bucket; `origin` says where the numbers come from, 0
where there are none; `predictions` is NULL unless the status is OK. Here they wait for their ranks.
"""
RESULTS = TableSchema("fp_results", (*UNRANKED.columns, Column("rank", ColumnType.BIGINT)), UNRANKED.partitioned_by)
"""As `UNRANKED`, with the rank of a task's row, where it asks for ranks; NULL elsewhere."""

UNCHECKED = ""
"""In place of a digest, for results that an engine wrote: they are checked by their number and positions."""

_COLUMNS = [column.name for column in UNRANKED.columns]


def ensure_results(warehouse: Warehouse) -> None:
    """Create the tables."""
    warehouse.ensure(RESULTS)
    warehouse.ensure(UNRANKED)


def write_results(
    warehouse: Warehouse,
    task_id: str,
    bucket: int,
    sample_ids: SampleIds,
    *,
    predictions: Floats,
    status: Statuses,
    origin: Statuses,
    table: str = RESULTS.name,
) -> str:
    """Write the results of a bucket, in place of what was there, and return their digest.

    Args:
        warehouse: The initiator's.
        task_id: The task.
        bucket: Which.
        sample_ids: In the population's order.
        predictions: Shape (n_ids, n_outputs); NaN where the status is not OK.
        status: Shape (n_ids,), `SampleStatus` values.
        origin: Shape (n_ids,), `Origin` values.
        table: `fp_unranked` for those that are to get ranks.

    Raises:
        WarehouseError: As the warehouse says; what was there may be there still.
    """
    predictions = predictions + 0.0  # no negative zero: not every engine keeps it
    scored = status == SampleStatus.OK
    if len(sample_ids):
        columns = [
            pa.array(np.arange(len(sample_ids), dtype=np.int32)),
            ids_to_array(sample_ids).cast(pa.string()),
            pa.array(status.astype(np.int32)),
            pa.array(origin.astype(np.int32)),
            number_lists(predictions, scored),
        ]
        rows = pa.table(columns, schema=UNRANKED.arrow_schema)
    else:
        rows = UNRANKED.arrow_schema.empty_table()
    warehouse.replace(table, results_partition(task_id, bucket), rows)
    return results_digest(rows)


def read_results(
    warehouse: Warehouse,
    task_id: str,
    bucket: int,
    n_ids: int,
    sha256: str,
    *,
    with_rank: bool = False,
    others: Collection[str] = (),
) -> pa.Table:
    """Return the results of a bucket in the population's order: sample_id, status, origin, predictions (and rank).

    Args:
        warehouse: The initiator's.
        task_id: The task.
        bucket: Which.
        n_ids: How many there are.
        sha256: Their digest, as `write_results` returned it; or `UNCHECKED`.
        with_rank: Whether their ranks are wanted.
        others: Digests that they may have as well, while somebody writes them anew.

    Raises:
        TableCorruptError: Other rows are stored.
    """
    columns = [*_COLUMNS, "rank"] if with_rank else _COLUMNS
    rows = RESULTS.arrow_schema.empty_table()
    if n_ids:
        rows = stored_results(warehouse, task_id, bucket, with_rank=with_rank)
    if rows.num_rows != n_ids or not _is_recorded(rows, {sha256, *others}):
        raise TableCorruptError(
            f"{RESULTS.name}: bucket {bucket} of task {task_id} has {rows.num_rows} rows that are not those recorded"
        )
    return rows.select([name for name in (*_COLUMNS[1:], "rank") if name in columns])


def stored_results(
    warehouse: Warehouse, task_id: str, bucket: int, *, with_rank: bool = False, table: str = RESULTS.name
) -> pa.Table:
    """Return what is stored of a bucket's results by position, whether it is what was recorded or not."""
    columns = [*_COLUMNS, "rank"] if with_rank else _COLUMNS
    rows = warehouse.read(table, columns, results_partition(task_id, bucket))
    in_order = np.array_equal(rows.column("position").to_numpy(), np.arange(rows.num_rows))
    return rows if in_order else rows.sort_by("position")


def remove_results(warehouse: Warehouse, task_id: str, n_buckets: int) -> None:
    """Remove the results of a task, recorded or not."""
    _remove(warehouse, RESULTS, task_id, n_buckets)


def remove_work(warehouse: Warehouse, task_id: str, n_buckets: int) -> None:
    """Remove the shares of a task, and its results that wait for ranks."""
    remove_shares(warehouse, task_id, n_buckets)
    _remove(warehouse, UNRANKED, task_id, n_buckets)


def remove_shares(warehouse: Warehouse, task_id: str, n_buckets: int) -> None:
    """Remove the shares of a task."""
    _remove(warehouse, TASK_SHARES, task_id, n_buckets)


def _remove(warehouse: Warehouse, schema: TableSchema, task_id: str, n_buckets: int) -> None:
    warehouse.ensure(schema)
    for bucket in range(n_buckets):
        warehouse.replace(schema.name, results_partition(task_id, bucket), schema.arrow_schema.empty_table())


def results_partition(task_id: str, bucket: int) -> Partition:
    """Return where the results of a bucket are."""
    return {"task_id": task_id, "bucket": bucket}


def _is_recorded(rows: pa.Table, digests: Collection[str]) -> bool:
    if UNCHECKED in digests:
        return np.array_equal(rows.column("position").to_numpy(), np.arange(rows.num_rows))
    return results_digest(rows) in digests


def results_digest(rows: pa.Table) -> str:
    """Return the SHA-256 of rows in order: ids and where each ends, statuses, origins, the numbers of those scored."""
    hashed = hashlib.sha256(rows.num_rows.to_bytes(8, "little"))
    if rows.num_rows:
        ids = joined(rows.column("sample_id")).cast(pa.binary())
        offsets = np.frombuffer(ids.buffers()[1], dtype=np.int32)[ids.offset : ids.offset + len(ids) + 1]
        hashed.update(np.ascontiguousarray(offsets - offsets[0], dtype="<u4").data)
        if offsets[-1] > offsets[0]:
            hashed.update(ids.buffers()[2][int(offsets[0]) : int(offsets[-1])])
        for codes in ("status", "origin"):
            hashed.update(rows.column(codes).to_numpy().astype(np.uint8).tobytes())
        numbers = joined(rows.column("predictions")).flatten()
        hashed.update(np.ascontiguousarray(numbers.to_numpy(), dtype="<f8").data)
    return hashed.hexdigest()
