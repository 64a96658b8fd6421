"""Writing the buckets of a day's shares: one at a time, or behind a server in series that are counted together."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import cached_property
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from sqlglot import exp

from fedpredict.features.memory import MemoryStore
from fedpredict.model.combination import combination_of
from fedpredict.model.part import Part
from fedpredict.model.sample_ids import SampleIds
from fedpredict.model.share import SampleStatus
from fedpredict.scoring.counting import (
    Counts,
    bins_of_sample,
    bins_of_stored,
    checked_now,
    counted,
    counted_each,
    counted_passing,
    engine_name,
    rows_of_each,
)
from fedpredict.scoring.row_shares import share_of_rows
from fedpredict.scoring.tally import CHECK, Bins, Tally
from fedpredict.scoring.texts import TextCodes
from fedpredict.tables import shares
from fedpredict.tables.counts_sql import passing_counts, with_checks
from fedpredict.tables.names import column_names
from fedpredict.tables.shares import SHARES, BucketRecord, ShareTask
from fedpredict.tables.shares_sql import bucket_rows, bucket_shares, raw_names, share_values
from fedpredict.tables.version import ModelVersion
from fedpredict.tables.views import Snapshot
from fedpredict.warehouse.base import (
    ARROW_TYPES,
    ColumnType,
    Filling,
    Partition,
    SeriesWriter,
    Warehouse,
    WatchedWriter,
)

TOGETHER_S = 30.0
"""Behind a server, buckets begun within it are counted and recorded together: what a kill undoes (ADR 0040)."""
MOST_TOGETHER = 64


class SeriesWarehouse(SeriesWriter, Warehouse, Protocol):
    """A warehouse behind a server."""


class BucketWriter:
    """Writes buckets of one version's shares of one snapshot; what is asked once of all of them, it keeps."""

    def __init__(
        self,
        warehouse: Warehouse,
        version: ModelVersion,
        part: Part,
        snapshot: Snapshot,
        still_ours: Callable[[], None],
    ) -> None:
        """Write nothing yet.

        Args:
            warehouse: The party's.
            version: Whose shares.
            part: Its parameters.
            snapshot: Whose ids and features.
            still_ours: As `score_day` says.
        """
        self._warehouse = warehouse
        self._version = version
        self._part = part
        self._snapshot = snapshot
        self._still_ours = still_ours
        self._chooses = combination_of(part) is None
        self._rows: Mapping[int, int] | None = None
        self._statement: tuple[tuple[int, int], exp.Select] | None = None

    def write(
        self, task: ShareTask, waiting: Sequence[int], begun: Callable[[int], None]
    ) -> tuple[ShareTask, list[BucketRecord]]:
        """Write the first of the buckets that wait, one or several, and return the task and their records.

        The task's own row is written where its bins are chosen; the records are not.

        Args:
            task: Of the version and the snapshot.
            waiting: At least one.
            begun: Told before each how many were written here.

        Raises:
            WarehouseError: As the warehouse says.
        """
        is_computed = self._warehouse.engine.name in self._version.engines
        if is_computed and isinstance(self._warehouse, SeriesWriter):
            if not self._chooses or task.bins:
                return self._in_series(self._warehouse, task, waiting, begun)
            if self._snapshot.has_places:
                # of a day without a score there are none, which the next bucket would not change
                return self._in_series(self._warehouse, self._with_bins(task, self._sampled), waiting, begun)
        begun(0)
        self._still_ours()
        start = time.perf_counter()
        bucket = waiting[0]
        partition: Partition = {**task.partition, "bucket": bucket}
        if is_computed:
            bins, found = self._written(task, partition)
        else:
            of_bucket = (bucket, task.n_buckets)
            rows = shares_in_process(self._warehouse, self._version, self._part, self._snapshot, of_bucket)
            self._warehouse.replace(SHARES.name, partition, rows)
            bins, found = self._looked_at(task, partition, rows.num_rows)
        task = self._with_bins(task, bins)
        return task, self._records(task, {bucket: found}, time.perf_counter() - start)

    @cached_property
    def _sampled(self) -> Bins:
        return bins_of_sample(self._warehouse, self._version, self._snapshot)

    def _in_series(
        self, warehouse: SeriesWarehouse, task: ShareTask, waiting: Sequence[int], begun: Callable[[int], None]
    ) -> tuple[ShareTask, list[BucketRecord]]:
        """Have a server write buckets one after the other, as many as end soon, and count them all by one statement."""
        start = time.perf_counter()
        written: list[int] = []
        checked = checked_now(warehouse, task.bins)

        def fillings() -> Iterator[Filling]:
            for bucket in waiting[:MOST_TOGETHER]:
                if written and time.perf_counter() - start > TOGETHER_S:
                    return
                begun(len(written))
                self._still_ours()
                written.append(bucket)
                partition: Partition = {**task.partition, "bucket": bucket}
                params = share_values(self._version, self._snapshot, bucket, task.n_buckets)
                if not warehouse.gathers:
                    yield Filling(partition, self._statement_of(task.n_buckets), params)
                    continue
                summaries, bound = passing_counts(bucket, warehouse.engine.name, bins=task.bins, checked=checked)
                query = self._statement_of(task.n_buckets, len(task.bins))
                yield Filling(partition, query, params | bound, summaries, raw_names(len(task.bins)))

        gathered = dict(zip(written, warehouse.replace_series_from(SHARES.name, fillings()), strict=True))
        found = {bucket: counted_passing(bucket, each, task.bins, checked) for bucket, each in gathered.items() if each}
        stored = [bucket for bucket, each in gathered.items() if not each]
        found |= counted_each(warehouse, task.partition, stored, task.bins)
        for bucket, counts in found.items():
            if counts.n_ids == 0:
                self._still_ours()  # what another process has written there since must stay
                warehouse.replace(SHARES.name, {**task.partition, "bucket": bucket}, SHARES.arrow_schema.empty_table())
        return task, self._records(task, found, (time.perf_counter() - start) / len(written))

    def _with_bins(self, task: ShareTask, bins: Bins) -> ShareTask:
        """Return a task with bins, which its row has too."""
        if bins == task.bins:
            return task
        task = replace(task, bins=bins)
        self._still_ours()  # choosing took a while: another process may have finished the day
        shares.write_task(self._warehouse, task)
        return task

    def _records(self, task: ShareTask, found: Mapping[int, Counts], seconds: float) -> list[BucketRecord]:
        return [
            BucketRecord(
                bucket=bucket,
                generation=task.generation,
                n_rows=self._rows_of(task, bucket, counts.n_ids),
                n_ids=counts.n_ids,
                statuses=counts.statuses,
                histograms=counts.histograms,
                checksum=counts.checksum,
                engine=engine_name(self._warehouse, task.bins),
                seconds=seconds,
                finished_at=datetime.now(UTC),
            )
            for bucket, counts in found.items()
        ]

    def _rows_of(self, task: ShareTask, bucket: int, n_ids: int) -> int:
        """Return how many rows of the snapshot are in a bucket; where ids are there twice, all are counted at once."""
        if self._snapshot.n_ids == self._snapshot.n_rows:
            return n_ids
        if self._rows is None:
            self._rows = rows_of_each(self._warehouse, self._snapshot, task.n_buckets)
        return self._rows.get(bucket, 0)

    def _written(self, task: ShareTask, partition: Partition) -> tuple[Bins, Counts]:
        """Have the engine write shares; return the bins, and what is counted of the rows: in one pass if it can."""
        statement = self._statement_of(task.n_buckets)
        params = share_values(self._version, self._snapshot, int(partition["bucket"]), task.n_buckets)
        if not isinstance(self._warehouse, WatchedWriter):
            n_ids = self._warehouse.replace_from(SHARES.name, partition, statement, params)
            return self._looked_at(task, partition, n_ids)
        tally = Tally(task.bins, task.n_scores, chooses=self._chooses)
        n_ids = self._warehouse.replace_from_watched(SHARES.name, partition, statement, params, watch=tally)
        counts = tally.counts()
        return tally.bins, Counts(*counts, n_ids)

    def _statement_of(self, n_buckets: int, n_raw: int = 0) -> exp.Select:
        """Return the query for the shares of a bucket, the same for all of so many: what is made of it serves for all.

        Where rows are watched it has their numbers for the checksum, too.
        """
        if self._statement is None or self._statement[0] != (n_buckets, n_raw):
            query, _ = bucket_shares(self._version, self._snapshot, 0, n_buckets, n_raw=n_raw)
            if isinstance(self._warehouse, WatchedWriter):
                query = with_checks(query, self._warehouse.engine.name, CHECK.name)
            self._statement = ((n_buckets, n_raw), query)
        return self._statement[1]

    def _looked_at(self, task: ShareTask, partition: Partition, n_ids: int) -> tuple[Bins, Counts]:
        """Return the bins, and what `counted` counts of shares that are stored."""
        bins = task.bins
        if self._chooses and not bins:
            bins = bins_of_stored(self._warehouse, partition, task.n_scores, n_ids)
        return bins, counted(self._warehouse, partition, bins, n_ids)


def shares_in_process(
    warehouse: Warehouse, version: ModelVersion, part: Part, snapshot: Snapshot, bucket: tuple[int, int]
) -> pa.Table:
    """Return the shares of a bucket (number, how many), computed by numpy: what no engine computes passes through here.

    The rows are as `bucket_shares` says.
    """
    column_of = column_names(version.features)
    columns = tuple(column_of[name] for name in version.features)
    rows = warehouse.run(*bucket_rows(["sample_id", "event_time", *columns], snapshot, *bucket))
    names = pc.unique(rows.column("sample_id"))
    if not len(names):
        return SHARES.arrow_schema.empty_table()
    sample_ids = SampleIds.of([each.encode() for each in names.to_pylist()])
    store = MemoryStore()
    store.publish(snapshot, rows)
    found = store.lookup(snapshot.view.name, snapshot.view.version, columns, sample_ids)
    if part.categories:
        found = replace(found, values=TextCodes(part, columns).translated(found))
    share, _ = share_of_rows(part, found, sample_ids)
    offsets = pa.array(np.arange(len(names) + 1) * part.n_scores, pa.int32())
    values = pa.array(np.ascontiguousarray(share.values).reshape(-1))
    instants = pa.array(found.event_time, pa.int64(), mask=~found.found).cast(ARROW_TYPES[ColumnType.TIMESTAMP])
    return pa.table(
        {
            "sample_id": names,
            "status": pa.array(share.status.astype(np.int32)),
            "scores": pa.ListArray.from_arrays(offsets, values, mask=pa.array(share.status != SampleStatus.OK)),
            "event_time": instants,
        }
    )
