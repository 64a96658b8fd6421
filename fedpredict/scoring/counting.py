"""What is counted of stored shares by the engine that holds them: statuses, the distribution of scores, a checksum."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import pyarrow as pa

from fedpredict.model.buckets import bucket_of_rank
from fedpredict.model.distribution import N_BINS, bins_around
from fedpredict.model.share import SampleStatus
from fedpredict.scoring.tally import ENOUGH, Bins
from fedpredict.tables.counts_sql import Checked, counts
from fedpredict.tables.shares import MAX_BINNED, SHARES
from fedpredict.tables.shares_sql import count_rows, count_rows_of_each, sampled_moments, stored_moments
from fedpredict.tables.version import ModelVersion
from fedpredict.tables.views import Snapshot
from fedpredict.warehouse.base import Partition, SeriesWriter, Warehouse


class Counts(NamedTuple):
    """What is known of the rows of a bucket.

    Attributes:
        statuses: How many ids have each status.
        histograms: For each output with bins, the scores by bin.
        checksum: Over ids, statuses and scores, or as `Checked` says, whatever the order of rows.
        n_ids: The ids that are stored.
    """

    statuses: Mapping[SampleStatus, int]
    histograms: tuple[tuple[int, ...], ...]
    checksum: int
    n_ids: int


def counted(
    warehouse: Warehouse,
    partition: Partition,
    bins: Bins,
    n_ids: int,
    *,
    table: str = SHARES.name,
    engine: str | None = None,
) -> Counts:
    """Return what is stored in a bucket.

    Args:
        warehouse: Which.
        partition: Where in it.
        bins: For each output whose scores are counted by bin.
        n_ids: The number of ids that there should be; of none nothing is asked.
        table: The table of the partition.
        engine: One of `engine_names`: whose checksum; None: that of `engine_name`.
    """
    task, bucket = dict(partition), int(partition["bucket"])
    del task["bucket"]
    found = counted_each(warehouse, task, [bucket] if n_ids else [], bins, table=table, engine=engine)
    return found.get(bucket, _summed((), bins, Checked.WITH_IDS))


def counted_each(
    warehouse: Warehouse,
    task: Partition,
    buckets: Sequence[int],
    bins: Bins,
    *,
    table: str = SHARES.name,
    engine: str | None = None,
) -> dict[int, Counts]:
    """Return what is stored in each of some buckets of a task's partition, by one statement; else as `counted`."""
    if not buckets:
        return {}
    checked = _checked_by(warehouse, engine or engine_name(warehouse, bins))
    query = counts(task, buckets, warehouse.engine.name, bins=bins, checked=checked, table=table)
    rows: dict[int, list[Mapping[str, int]]] = {bucket: [] for bucket in buckets}
    for row in warehouse.run(*query).to_pylist():
        rows[int(row["bucket"])].append(row)
    return {bucket: _summed(each, bins, checked) for bucket, each in rows.items()}


def counted_passing(bucket: int, gathered: Sequence[pa.Table], bins: Bins, checked: Checked) -> Counts:
    """Return what `passing_counts` gathered of a bucket while it was written."""
    rows = [row for table in gathered for row in table.to_pylist()]
    # rows of another bucket would be those of the one before, where an engine leaves what no row took the place of
    return _summed([row for row in rows if int(row["bucket"]) == bucket], bins, checked)


def bins_of_stored(warehouse: Warehouse, partition: Partition, n_scores: int, n_ids: int) -> Bins:
    """Return bins around what a bucket holds; none where it has no scores."""
    return _bins(warehouse.run(*stored_moments(partition, n_scores)), n_scores) if n_ids else ()


def bins_of_sample(warehouse: Warehouse, version: ModelVersion, snapshot: Snapshot) -> Bins:
    """Return bins around the scores of some ids, which the engine computes for it; none where they have no scores."""
    return _bins(warehouse.run(*sampled_moments(version, snapshot, ENOUGH)), version.n_scores)


def rows_of(warehouse: Warehouse, snapshot: Snapshot, bucket: int, n_buckets: int, n_ids: int) -> int:
    """Return how many rows of a snapshot are in a bucket that has so many ids."""
    if snapshot.n_ids == snapshot.n_rows:
        return n_ids
    return int(warehouse.run(*count_rows(snapshot, bucket, n_buckets)).column("n")[0].as_py())


def rows_of_each(warehouse: Warehouse, snapshot: Snapshot, n_buckets: int) -> dict[int, int]:
    """Return how many rows of a snapshot are in each bucket that has some, by one statement."""
    bits = n_buckets.bit_length() - 1
    digits = max(1, -(-bits // 4))
    found: Counter[int] = Counter()
    for row in warehouse.run(*count_rows_of_each(snapshot, digits)).to_pylist():
        if row["fp_start"] is not None:
            found[bucket_of_rank(int(row["fp_start"], 16) >> (4 * digits - bits), n_buckets)] += int(row["n"])
    return dict(found)


def checked_now(warehouse: Warehouse, bins: Bins) -> Checked:
    """Return what checksums are of that are made now, of shares with these bins."""
    if not isinstance(warehouse, SeriesWriter):
        return Checked.WITH_IDS
    has_bins = 0 < len(bins) < MAX_BINNED  # of as many outputs, there may be one more without bins
    return Checked.BY_VALUE if warehouse.engine.name == "hive" and has_bins else Checked.WITHOUT_IDS


def engine_name(warehouse: Warehouse, bins: Bins) -> str:
    """Return what computes checksums now, and of what: records have it."""
    return _own_name(warehouse) + checked_now(warehouse, bins)


def engine_names(warehouse: Warehouse) -> list[str]:
    """Return whose checksums can be compared with what is stored: this engine's own, in each way that it had."""
    ways = [Checked.WITH_IDS, Checked.WITHOUT_IDS] if isinstance(warehouse, SeriesWriter) else [Checked.WITH_IDS]
    if warehouse.engine.name == "hive":
        ways.append(Checked.BY_VALUE)
    return [_own_name(warehouse) + way for way in ways]


def bins_of_checksum(engine: str, bins: Bins) -> Bins:
    """Return those of a task's bins that a checksum of one of `engine_names` needs: all, or none."""
    return bins if engine.endswith(Checked.BY_VALUE) else ()


def _own_name(warehouse: Warehouse) -> str:
    return f"{warehouse.engine.name} {warehouse.engine.version}"


def _checked_by(warehouse: Warehouse, engine: str) -> Checked:
    """Return what the checksums of one of `engine_names` are of."""
    return Checked(engine.removeprefix(_own_name(warehouse)))


def _bins(moments: pa.Table, n_scores: int) -> Bins:
    found = moments.to_pylist()[0]
    pairs = [(found[f"mean_{at}"], found[f"deviation_{at}"]) for at in range(min(n_scores, MAX_BINNED))]
    if any(value is None for pair in pairs for value in pair):
        return ()
    return tuple(bins_around(float(mean), float(deviation)) for mean, deviation in pairs)


def _summed(rows: Sequence[Mapping[str, int]], bins: Bins, checked: Checked) -> Counts:
    statuses: Counter[SampleStatus] = Counter()
    histograms = [[0] * (N_BINS + 2) for _ in bins]
    checksum = 0
    for row in rows:
        output, status, n = int(row["fp_output"]), SampleStatus(int(row["status"])), int(row["n"])
        if output == 0:
            statuses[status] += n
            if status is SampleStatus.OK or checked is not Checked.BY_VALUE:
                checksum += int(row["fp_check"])
        if bins and status is SampleStatus.OK:
            histograms[output][int(row["fp_bin"])] += n
    if checked is Checked.BY_VALUE:
        checksum = (checksum + 2**63) % 2**64 - 2**63
    return Counts(dict(sorted(statuses.items())), tuple(map(tuple, histograms)), checksum, sum(statuses.values()))
