"""Shares of an offline task in the initiator's warehouse, for its engine to join: `fp_task_shares`.

One partition per task and bucket, with the rows of every party: an engine of a cluster wants few and large writes. A
bucket counts when the task store says that it was gathered.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa

from fedpredict.model.arrays import Bools, Floats
from fedpredict.model.sample_ids import SampleIds
from fedpredict.model.share import SampleStatus, Share
from fedpredict.warehouse.base import ARROW_TYPES, Column, ColumnType, TableSchema, Warehouse
from fedpredict.wire.arrow_ids import ids_to_array

TASK_SHARES = TableSchema(
    "fp_task_shares",
    (
        Column("party", ColumnType.STRING),
        Column("position", ColumnType.INT),
        Column("sample_id", ColumnType.STRING),
        Column("status", ColumnType.INT),
        Column("scores", ColumnType.DOUBLES),
    ),
    (Column("task_id", ColumnType.STRING), Column("bucket", ColumnType.INT)),
)
"""One row per party and sample id; `position` counts from 0 in the bucket; `scores` is NULL unless the status is OK."""


def write_task_shares(
    warehouse: Warehouse, task_id: str, bucket: int, sample_ids: SampleIds, shares: Mapping[str, Share]
) -> None:
    """Write all shares of a bucket, in place of what was there; raise `WarehouseError` as the warehouse says.

    Args:
        warehouse: The initiator's.
        task_id: The task.
        bucket: Which.
        sample_ids: In the population's order.
        shares: By party, each in that order.
    """
    ids = ids_to_array(sample_ids).cast(pa.string())
    positions = pa.array(np.arange(len(sample_ids), dtype=np.int32))
    schema = TASK_SHARES.arrow_schema
    tables = [schema.empty_table()]
    for party in sorted(shares):
        share = shares[party]
        columns = [
            pa.repeat(pa.scalar(party), len(sample_ids)),
            positions,
            ids,
            pa.array(share.status.astype(np.int32)),
            number_lists(share.values, share.status == SampleStatus.OK),
        ]
        tables.append(pa.table(columns, schema=schema))
    warehouse.replace(TASK_SHARES.name, {"task_id": task_id, "bucket": bucket}, pa.concat_tables(tables))


def number_lists(values: Floats, present: Bools) -> pa.Array:
    """Return the rows of a matrix as lists, NULL where they are not present.

    Args:
        values: Shape (n_rows, width).
        present: Shape (n_rows,).
    """
    offsets = np.concatenate([[0], np.cumsum(np.where(present, values.shape[1], 0))]).astype(np.int32)
    missing = None if present.all() else pa.array(~present)
    lists = pa.ListArray.from_arrays(pa.array(offsets), pa.array(values[present].ravel()), mask=missing)
    return lists.cast(ARROW_TYPES[ColumnType.DOUBLES])
