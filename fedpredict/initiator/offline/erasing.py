"""Erasing a person from what an initiator keeps of offline tasks: results, shares, lists, standing populations.

What a task that goes on needs stays, and is told. Results keep the person's place, without id and number: offsets of
readers count places. A population gets a new version without the person; what is before it goes once nobody uses it.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from datetime import datetime

import numpy as np
import pyarrow as pa

from fedpredict.errors import TaskNotFoundError
from fedpredict.initiator.offline.distribution import counts_of, histograms_of
from fedpredict.initiator.offline.erasing_populations import PopulationErasure
from fedpredict.initiator.offline.retention import WORK_KEPT, why_needed
from fedpredict.initiator.offline.standing import CHANGE
from fedpredict.model.offline import BucketDone, CombinedBy, OfflineState, OfflineTask, Totals
from fedpredict.model.share import SampleStatus
from fedpredict.scoring.erase import ERASE, check_sample_id, rows_in
from fedpredict.scoring.erase_copies import from_copies
from fedpredict.scoring.erased import Erased, place_of
from fedpredict.state.leases import Alone, HeldLease
from fedpredict.state.task_base import TAKEN_OVER, TaskStore
from fedpredict.tables.erasure import forget_copy, work_table
from fedpredict.tables.populations import POPULATION_IDS
from fedpredict.tables.results import RESULTS, UNCHECKED, UNRANKED, results_digest, results_partition, stored_results
from fedpredict.tables.results_erasure import blank_copy, put_blanked
from fedpredict.tables.task_shares import TASK_SHARES
from fedpredict.warehouse.base import Partition, TableSchema, Warehouse

_STRANGE = (
    "of a task that the database `state` does not know: run this with the settings of the initiator that does; where"
    " none does, nobody can fetch it: remove the partition"
)


def erase_from_tasks(
    alone: Alone,
    open_store: Callable[[], TaskStore],
    warehouse: Warehouse,
    owner: str,
    sample_id: str,
    *,
    by: str,
    now: datetime,
    keep: bool = False,
) -> list[Erased]:
    """Remove a person from the results, shares and populations of an initiator, and say what was where.

    A call that is killed is finished by another. Whoever reads results meanwhile gets the rows of before or those of
    after, in the same places.

    Args:
        alone: How this process comes to be the only one that erases.
        open_store: Opens the tasks, which are needed only where something is found.
        warehouse: Where the initiator's populations and results are.
        owner: The initiator's party.
        sample_id: Whose.
        by: Who makes new versions of populations.
        now: In UTC.
        keep: Change nothing, and say what is there.

    Raises:
        InputError: That is no sample id.
        LeaseHeldError: Somebody else erases, or changes a population.
        LeaseLostError: This process stood still, and another one erases now.
        WarehouseError, StateError: As they say; what was done stays done.
    """
    check_sample_id(sample_id)
    with alone.hold(ERASE) as held, nullcontext() if keep else alone.hold(CHANGE):
        tables: tuple[TableSchema, ...] = (RESULTS, UNRANKED, TASK_SHARES, POPULATION_IDS)
        where = {schema.name: rows_in(warehouse, schema, sample_id) for schema in tables}
        where[POPULATION_IDS.name] = [each for each in where[POPULATION_IDS.name] if each[0]["owner"] == owner]
        copies = rows_in(warehouse, work_table(RESULTS), sample_id)
        if not any((copies, *where.values())) and (keep or warehouse.describe(RESULTS.name) is None):
            return []  # nothing that a call that was killed could have left, either
        store = open_store()
        try:
            results = _TaskErasure(store, warehouse, sample_id, now, held, keep=keep)
            results.finish()
            found = from_copies(warehouse, [RESULTS.name], sample_id, keep=keep)
            found += [results.from_results(*each) for each in where[RESULTS.name]]
            for schema in (UNRANKED, TASK_SHARES):
                found += [results.from_work(schema, *each) for each in where[schema.name]]
            damaged = results.damaged
            populations = PopulationErasure(
                store, warehouse, owner, sample_id, by=by, now=now, keep=keep, damaged=damaged
            )
            return found + populations.erase(where[POPULATION_IDS.name])
        finally:
            store.close()


@dataclass(frozen=True, slots=True)
class _TaskErasure:
    """Takes a person out of results and shares, a partition at a time."""

    store: TaskStore
    warehouse: Warehouse
    sample_id: str
    now: datetime
    held: HeldLease
    keep: bool
    damaged: dict[str, str] = field(default_factory=dict)
    """By task, of those whose results were found damaged: what is to be done. A retry needs their ids."""

    def finish(self) -> None:
        """Record what a call that was killed had written; what it had not is found again."""
        for name, bucket in [] if self.keep else self.store.rewriting():
            record = self.store.buckets(name, [bucket]).get(bucket)
            task = self.store.task(name)
            if record is None or task.results_removed or self._is_written(task, record):
                self._written(name, bucket)

    def from_results(self, partition: Partition, n_rows: int) -> Erased:
        """Blank a person's row of a bucket; where nobody reads the bucket any more, remove it as a whole."""
        task = self._task(partition)
        why = _STRANGE if task is None else why_needed(task) or self._why_late(task)
        if task is None or why or self.keep:
            return Erased(RESULTS.name, place_of(partition), n_rows, 0, why)
        bucket = int(partition["bucket"])
        record = self.store.buckets(task.task_id, [bucket]).get(bucket)
        if record is None or task.results_removed:
            self._empty(RESULTS, partition)
        else:
            why = self._blank(task, record)
        return Erased(RESULTS.name, place_of(partition), n_rows, 0 if why else n_rows, why)

    def from_work(self, schema: TableSchema, partition: Partition, n_rows: int) -> Erased:
        """Remove a bucket of a table of work, where its task is over."""
        task = self._task(partition)
        why = _STRANGE if task is None else why_needed(task) or self._why_late(task, always=True)
        if task is None or why or self.keep:
            return Erased(schema.name, place_of(partition), n_rows, 0, why)
        # no bucket counts as gathered, before its rows go; one that is retried meanwhile is over no more
        if not self.store.withdraw_work(task.task_id, self.now - WORK_KEPT):
            why = why_needed(self.store.task(task.task_id))
        if not why:
            self._empty(schema, partition)
        return Erased(schema.name, place_of(partition), n_rows, 0 if why else n_rows, why)

    def _blank(self, task: OfflineTask, record: BucketDone) -> str:
        """Write the results of a bucket anew, and return why that cannot be; empty where it was done."""
        name, bucket, with_rank = task.task_id, record.bucket, task.new.ranking is not None
        n_rows, stored = self._stored(task, record)
        if stored not in self.store.digests(name, bucket) or n_rows != record.totals.ids:
            why = f"its rows are not those recorded: fetch the results of task {name}, and do as it is told then"
            self.damaged[name] = why
            return why
        blanked = blank_copy(self.warehouse, name, bucket, self.sample_id, with_rank=with_rank)
        after = replace(
            record,
            totals=_recounted(task, record.totals, blanked),
            results_sha256=UNCHECKED if record.results_sha256 == UNCHECKED else results_digest(blanked),
        )
        # before the rows: a call that is killed in between finds the person again
        if not self.store.rerecord(name, record, after, stored):
            return f"task {name} was changed meanwhile: repeat"
        self._put(name, bucket)
        self._written(name, bucket)
        return ""

    def _is_written(self, task: OfflineTask, record: BucketDone) -> bool:
        """Return whether rows are those of a record, or are so now: an engine that was killed may have left none."""
        name, bucket = task.task_id, record.bucket
        n_rows, stored = self._stored(task, record)
        if n_rows == record.totals.ids and stored in self.store.digests(name, bucket):
            return stored == record.results_sha256
        if self._stored(task, record, work_table(RESULTS).name) != (record.totals.ids, record.results_sha256):
            return False
        self._put(name, bucket)
        return True

    def _put(self, name: str, bucket: int) -> None:
        self.held.check()  # whoever erases after this process was taken for dead has emptied the copy
        put_blanked(self.warehouse, name, bucket)

    def _written(self, name: str, bucket: int) -> None:
        """Record that rows were written, and leave nothing behind; what was withdrawn meanwhile goes."""
        if self.store.task(name).results_removed:
            self._empty(RESULTS, results_partition(name, bucket))
        forget_copy(self.warehouse, RESULTS, results_partition(name, bucket))
        self.store.rewritten(name, bucket)

    def _stored(self, task: OfflineTask, record: BucketDone, table: str = RESULTS.name) -> tuple[int, str]:
        """Return how many results of a bucket are there, and their digest, where there is one."""
        with_rank = task.new.ranking is not None
        rows = stored_results(self.warehouse, task.task_id, record.bucket, with_rank=with_rank, table=table)
        is_checked = record.results_sha256 != UNCHECKED
        return rows.num_rows, results_digest(rows) if is_checked else UNCHECKED

    def _task(self, partition: Partition) -> OfflineTask | None:
        try:
            return self.store.task(str(partition["task_id"]))
        except TaskNotFoundError:
            return None

    def _why_late(self, task: OfflineTask, *, always: bool = False) -> str:
        """Return why a worker that lost a task may still write what it is made of; empty where none can."""
        may_be = always or task.combined_by is CombinedBy.ENGINE or task.new.ranking is not None
        may_be |= task.state is OfflineState.CANCELLED
        if task.finished_at is None or not (may_be or self._was_taken_over(task)):
            return ""
        until = task.finished_at + WORK_KEPT
        if until <= self.now:
            return ""
        return f"a statement of task {task.task_id} may be under way: repeat after {until:%Y-%m-%d %H:%M} UTC"

    def _was_taken_over(self, task: OfflineTask) -> bool:
        return any(each.what == TAKEN_OVER for each in self.store.events(task.task_id))

    def _empty(self, schema: TableSchema, partition: Partition) -> None:
        self.warehouse.replace(schema.name, partition, schema.arrow_schema.empty_table())


def _recounted(task: OfflineTask, totals: Totals, rows: pa.Table) -> Totals:
    """Return what is known of a bucket whose results are some rows; what its parties said of it stays.

    So do the origins, which count the predictions that were made, and the ranks.
    """
    status = rows.column("status").to_numpy().astype(np.uint8)
    known = status == SampleStatus.OK
    predictions = np.full((len(status), task.new.manifest.n_outputs), np.nan)
    if known.any():
        lists = rows.column("predictions").combine_chunks()
        predictions[known] = lists.flatten().to_numpy().reshape(-1, predictions.shape[1])
    histograms = histograms_of(task.bins, predictions, status) if totals.histograms else ()
    return replace(totals, statuses=counts_of(status), histograms=histograms)
