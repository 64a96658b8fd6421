"""Results of a bucket as they are recorded, also while somebody writes them anew without a person."""

from __future__ import annotations

import time
from typing import Protocol

import numpy as np
import pyarrow as pa

from fedpredict.errors import StatementError, TableCorruptError
from fedpredict.model.offline import BucketDone, OfflineTask
from fedpredict.state.task_base import TaskErasing, TaskProgress
from fedpredict.tables.results import RESULTS, read_results
from fedpredict.warehouse.base import Warehouse

WAIT_S, PAUSE_S = 30.0, 0.2
"""How long rows that are written anew are waited for: in Hive a partition that is overwritten is empty for a moment,
and a statement that reads it then may be refused, because its files are gone."""


class _Records(TaskErasing, TaskProgress, Protocol):
    """What the task store knows of buckets."""


def recorded_results(store: _Records, warehouse: Warehouse, task: OfflineTask, record: BucketDone) -> pa.Table:
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
    with_rank, others, ends = task.new.ranking is not None, set[str](), time.monotonic() + WAIT_S
    is_settled = False
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
        except (StatementError, TableCorruptError):
            known = store.digests(task.task_id, record.bucket)
            is_written = (task.task_id, record.bucket) in store.rewriting()
            # nobody wrote before these rows were read, nor since: whoever has just ended wrote while they were read
            if time.monotonic() > ends or (is_settled and not is_written and known <= others):
                raise
            if is_written and known <= others:
                time.sleep(PAUSE_S)
            others, is_settled = others | known, not is_written


def ranked_results(store: TaskProgress, warehouse: Warehouse, task_id: str, first: int, last: int) -> pa.Table | None:
    """Return the results with ranks from `first` to `last` in their order, or None where ranks are missing there.

    Raises:
        WarehouseError, StateError: As they say.
    """
    # parsers of SQL are large, and most tasks have no ranks
    from fedpredict.tables.ranking_sql import top_query  # noqa: PLC0415

    query, params = top_query(task_id, first, last)
    ends, is_settled = time.monotonic() + WAIT_S, False
    while True:
        refusal: StatementError | None = None
        try:
            found = warehouse.run(query, params)
        except StatementError as error:
            refusal, found = error, RESULTS.arrow_schema.empty_table()
        rows = found.sort_by("rank") if found.num_rows else RESULTS.arrow_schema.empty_table()
        if np.array_equal(rows.column("rank").to_numpy(), np.arange(first, last + 1)):
            return rows
        is_written = task_id in {each for each, _ in store.rewriting()}
        if time.monotonic() > ends or (is_settled and not is_written):
            if refusal is not None:
                raise refusal
            return None
        if is_written:
            time.sleep(PAUSE_S)
        is_settled = not is_written
