"""Results of a bucket as they are recorded, also while somebody writes them anew without a person."""

from __future__ import annotations

import pyarrow as pa

from fedpredict.errors import TableCorruptError
from fedpredict.model.offline import BucketDone, OfflineTask
from fedpredict.state.task_base import TaskErasing
from fedpredict.tables.results import read_results
from fedpredict.warehouse.base import Warehouse


def recorded_results(store: TaskErasing, warehouse: Warehouse, task: OfflineTask, record: BucketDone) -> pa.Table:
    """Return the results of a bucket, as `read_results` does: the old rows or the new ones where they are written anew.

    Args:
        store: Says which digest the rows may have by now.
        warehouse: The initiator's.
        task: Whose.
        record: The bucket's, as it was a while ago.

    Raises:
        TableCorruptError: Other rows are stored than any that were recorded.
        WarehouseError, StateError: As they say.
    """
    with_rank, others, looked = task.new.ranking is not None, set[str](), False
    while True:
        try:
            return read_results(
                warehouse,
                task.task_id,
                record.bucket,
                record.totals.ids,
                record.results_sha256,
                with_rank=with_rank,
                others=others,
            )
        except TableCorruptError:
            known = store.digests(task.task_id, record.bucket)
            if looked and known <= others:  # nobody has written them anew since the last look
                raise
            others, looked = others | known, True
