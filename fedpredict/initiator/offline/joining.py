"""What a warehouse's engine does of a task: shares joined and combined in one statement, and results ranked in another.

Everything here blocks for as long as the engine takes, and may be done again: statements of the same shares write the
same rows. What they wrote is counted by the engine too, so no result passes through this process.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np

from fedpredict.errors import StatementError, TableCorruptError, WarehouseWriteError
from fedpredict.initiator.offline.bucket import Asking
from fedpredict.initiator.settings import PolicyName
from fedpredict.initiator.task_settings import Combine
from fedpredict.model.distribution import N_BINS, bins_around
from fedpredict.model.kinds import KINDS, Output
from fedpredict.model.offline import Bins, BucketDone, CombinedBy, OfflineTask, Totals, add_counts
from fedpredict.model.prediction import Origin
from fedpredict.model.share import SampleStatus
from fedpredict.tables.results import RESULTS, UNCHECKED, UNRANKED
from fedpredict.warehouse.base import Warehouse

EMBEDDED = "duckdb"


def route_of(asking: Asking, warehouse: Warehouse, combine: Combine) -> tuple[CombinedBy, str]:
    """Return what combines the shares of a task, and why that is not the engine where the settings ask for it.

    Raises:
        WarehouseUnavailableError: The engine cannot be asked what it is.
    """
    if combine is Combine.NUMPY or (combine is Combine.AUTO and warehouse.engine.name == EMBEDDED):
        return CombinedBy.NUMPY, ""
    if asking.masked is not None:
        return CombinedBy.NUMPY, "masked shares are added up as words, which SQL cannot"
    if asking.head is not None:
        return CombinedBy.NUMPY, "a head finishes the shares (leaf masks, embeddings ...), they are not added up"
    if asking.settings.fallback_model is not None:
        return CombinedBy.NUMPY, "the policy fallback_model asks another model meanwhile"
    from fedpredict.tables.combining_sql import why_not_in_sql  # noqa: PLC0415 - a parser of SQL is large

    manifest = asking.manifest
    why = why_not_in_sql(manifest.link, len(manifest.parties), manifest.n_scores)
    return (CombinedBy.NUMPY if why else CombinedBy.ENGINE), why


def results_table(task: OfflineTask) -> str:
    """Return where the results of a task's buckets are written: those that are to get ranks, beside the others."""
    return RESULTS.name if task.new.ranking is None else UNRANKED.name


def combine_in_engine(asking: Asking, warehouse: Warehouse, buckets: Collection[int]) -> None:
    """Write the results of buckets whose shares are stored; raise `WarehouseError` as the warehouse says."""
    from fedpredict.tables.combining_sql import combined_query  # noqa: PLC0415 - a parser of SQL is large

    manifest, settings = asking.manifest, asking.settings
    defaults = settings.defaults if settings.policy is PolicyName.DEFAULT_PARTIAL else None
    task = asking.task
    chosen = None if len(buckets) == task.new.n_buckets else sorted(buckets)
    query, params = combined_query(
        task.task_id, manifest.parties, manifest.n_scores, manifest.link, defaults=defaults, buckets=chosen
    )
    warehouse.replace_each_from(results_table(task), {"task_id": task.task_id}, query, params)


def unreadable(task: OfflineTask, warehouse: Warehouse, buckets: Collection[int]) -> list[int]:
    """Return the buckets whose stored shares the engine cannot read; raise `WarehouseUnavailableError` as it says."""
    from fedpredict.tables.combining_sql import probe_query  # noqa: PLC0415 - a parser of SQL is large

    def can_read(bucket: int | None) -> bool:
        try:
            warehouse.run(*probe_query(task.task_id, bucket))
        except (StatementError, TableCorruptError):
            return False
        return True

    # mostly it was something else: one statement says so
    return [] if can_read(None) else [bucket for bucket in sorted(buckets) if not can_read(bucket)]


def records_of(
    task: OfflineTask, warehouse: Warehouse, gathered: Mapping[int, Totals], bins: Bins, seconds: float
) -> list[BucketDone]:
    """Return the records of buckets whose results the engine has written.

    Args:
        task: Whose.
        warehouse: Counts them.
        gathered: By bucket, what the parties said.
        bins: Of the histograms.
        seconds: What writing all of them took.

    Raises:
        WarehouseWriteError: There are not as many results of a bucket as ids.
    """
    from fedpredict.tables.ranking_sql import counts_query  # noqa: PLC0415 - a parser of SQL is large

    query, params = counts_query(task.task_id, results_table(task))
    totals = {bucket: Totals(parties=said.parties) for bucket, said in gathered.items()}
    last = dict.fromkeys(gathered, -1)
    for row in warehouse.run(query, params).to_pylist():
        bucket, n = int(row["bucket"]), int(row["n"])
        if bucket in totals:
            last[bucket] = max(last[bucket], int(row["last"]))
            status, origin = SampleStatus(row["status"]), Origin(row["origin"])
            origins: dict[Origin, int] = {} if origin is Origin.UNSPECIFIED else {origin: n}
            have = totals[bucket]
            totals[bucket] = replace(
                have,
                ids=have.ids + n,
                statuses=add_counts(have.statuses, {status: n}),
                origins=add_counts(have.origins, origins),
            )
    for bucket, said in gathered.items():
        if (totals[bucket].ids, last[bucket]) != (said.ids, said.ids - 1):
            raise WarehouseWriteError(
                f"bucket {bucket} of task {task.task_id} has {totals[bucket].ids} results of {said.ids} ids: its shares"
                " are not there any more; retry, and they are asked for again"
            )
    histograms = _histograms(task, warehouse, bins, gathered)
    now = datetime.now(UTC)
    return [
        BucketDone(
            bucket=bucket,
            totals=replace(totals[bucket], histograms=histograms[bucket]),
            results_sha256=UNCHECKED,
            seconds=seconds / len(gathered),
            finished_at=now,
        )
        for bucket in sorted(gathered)
    ]


def bins_in(task: OfflineTask, warehouse: Warehouse, n_binned: int) -> Bins:
    """Return bins for the outputs of a task whose results are written; see `distribution.bins_for`."""
    if KINDS[task.new.manifest.kind].output is Output.PROBABILITY:
        return ((0.0, 1.0 / N_BINS),) * n_binned
    from fedpredict.tables.ranking_sql import moments_query  # noqa: PLC0415 - a parser of SQL is large

    query, params = moments_query(task.task_id, results_table(task), n_binned)
    row = warehouse.run(query, params).to_pylist()[0]
    if any(value is None or not np.isfinite(value) for value in row.values()):
        return ()
    return tuple(bins_around(row[f"mean_{output}"], row[f"deviation_{output}"]) for output in range(n_binned))


def incomplete(task: OfflineTask, warehouse: Warehouse, done: Mapping[int, BucketDone], table: str) -> list[BucketDone]:
    """Return the records of buckets of which a table has not as many results as are recorded."""
    from fedpredict.tables.ranking_sql import counts_query  # noqa: PLC0415 - a parser of SQL is large

    query, params = counts_query(task.task_id, table)
    counts = dict.fromkeys(done, 0)
    for row in warehouse.run(query, params).to_pylist():
        if row["bucket"] in counts:
            counts[row["bucket"]] += int(row["n"])
    return [record for bucket, record in done.items() if counts[bucket] != record.totals.ids]


def unrank(task: OfflineTask, warehouse: Warehouse, bucket: int) -> int:
    """Have the results of a bucket wait for ranks again, and return how many there are."""
    from fedpredict.tables.ranking_sql import unranked_query  # noqa: PLC0415 - a parser of SQL is large

    query, params = unranked_query(task.task_id, bucket)
    return warehouse.replace_from(UNRANKED.name, {"task_id": task.task_id, "bucket": bucket}, query, params)


def rank(task: OfflineTask, warehouse: Warehouse, done: Mapping[int, BucketDone]) -> None:
    """Write the results of a task with their ranks; all of them wait for that.

    Args:
        task: One with a ranking.
        warehouse: The initiator's.
        done: The records of all of its buckets.

    Raises:
        WarehouseWriteError: There are other results than those recorded.
        WarehouseError: As the warehouse says.
    """
    from fedpredict.tables.ranking_sql import ranked_query  # noqa: PLC0415 - a parser of SQL is large

    if task.new.ranking is None:
        return
    query, params = ranked_query(task.task_id, task.new.ranking)
    warehouse.replace_each_from(RESULTS.name, {"task_id": task.task_id}, query, params)
    wrong = incomplete(task, warehouse, done, RESULTS.name)
    if wrong:  # two servers' statements at once, of a worker that was killed and of this one
        raise WarehouseWriteError(
            f"bucket {wrong[0].bucket} of task {task.task_id} has not {wrong[0].totals.ids} results with ranks; retry"
        )


def _histograms(
    task: OfflineTask, warehouse: Warehouse, bins: Bins, buckets: Collection[int]
) -> dict[int, tuple[tuple[int, ...], ...]]:
    from fedpredict.tables.ranking_sql import histogram_query  # noqa: PLC0415 - a parser of SQL is large

    counts = {bucket: np.zeros((len(bins), N_BINS + 2), dtype=np.int64) for bucket in buckets}
    for output, each in enumerate(bins):
        query, params = histogram_query(task.task_id, results_table(task), output, each)
        for row in warehouse.run(query, params).to_pylist():
            if row["bucket"] in counts:
                counts[row["bucket"]][output, row["fp_bin"]] = row["n"]
    return {bucket: tuple(tuple(row) for row in each.tolist()) for bucket, each in counts.items()}
