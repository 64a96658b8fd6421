"""Sample ids as they come -> a version of a population in a warehouse: valid ones, each once, in buckets (ADR 0031)."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from fedpredict.errors import EmptyRequestError, WarehouseError
from fedpredict.model.ids import valid_sample_ids
from fedpredict.model.populations import buckets_for, check_population, digest_of
from fedpredict.model.sample_ids import SampleIds
from fedpredict.model.standing import PopulationState
from fedpredict.scoring.id_sort import IdSorter
from fedpredict.tables.populations import (
    PopulationVersion,
    ensure_tables,
    known_buckets,
    remove_versions,
    write_bucket,
    write_version,
)
from fedpredict.warehouse.base import Warehouse

logger = logging.getLogger(__name__)

_AT_ONCE = 2
"""Buckets that are written at once."""
STILL_S = 3600.0
"""How often the row of a version that is being written says so again: one that does not for a day is left over."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IngestReport:
    """What became of sample ids.

    Attributes:
        rows: How many came.
        duplicates: Those that were there already, beyond the first.
        invalid: What is no sample id; left out.
        first_invalid: The row, from 1, of the first of these; 0: none.
        version: What was made.
    """

    rows: int
    duplicates: int
    invalid: int
    first_invalid: int
    version: PopulationVersion


def ingest(
    warehouse: Warehouse,
    owner: str,
    population: str,
    version: int,
    batches: Iterable[SampleIds],
    *,
    state: PopulationState = PopulationState.PROPOSED,
    changed_by: str = "",
    least_buckets: int = 1,
    folder: Path | None = None,
) -> IngestReport:
    """Write a version of a population; buckets that are there already stay as they are.

    Its row comes first, as one that is being received, so that after a crash it is known what to remove; and once more
    when its buckets are all there.
    Ids pass through files where they are many, so that memory holds some millions at most.

    Args:
        warehouse: Where to.
        owner: The initiator that names it.
        population: Its name.
        version: From 1.
        batches: The ids, some at a time.
        state: What the version is then.
        changed_by: Who made it.
        least_buckets: A power of two: how many buckets an earlier version has, so that the new one has as many.
        folder: Where those files are made; default: the system's folder for such.

    Raises:
        NameRefusedError: The name breaks the rules.
        EmptyRequestError: There is no sample id among what came.
        InputError: They are too many for a population.
        WarehouseError: As the warehouse says. Nothing of the version is left then, nor after another error.
    """
    check_population(population)
    with IdSorter(folder) as sorter:
        counts = _take(sorter, batches)
        n_ids, n_bytes = sorter.sort()
        if not n_ids:
            raise EmptyRequestError(f"population {population}: {counts.rows} rows, and no sample id among them")
        n_buckets = max(least_buckets, buckets_for(n_ids, n_bytes))
        now = datetime.now(UTC)
        begun = PopulationVersion(
            owner=owner,
            population=population,
            version=version,
            n_ids=n_ids,
            digests=_digests(sorter, n_buckets),
            state=PopulationState.RECEIVING,
            changed_by=changed_by,
            changed_at=now,
            created_at=now,
        )
        ensure_tables(warehouse)
        made = _write(warehouse, begun, sorter, state)
    extra = {"population": population, "version": version, "ids": n_ids, "buckets": n_buckets, "rows": counts.rows}
    logger.info("population.made", extra=extra)
    return counts.report(made)


@dataclass(slots=True)
class _Counts:
    rows: int = 0
    invalid: int = 0
    first_invalid: int = 0

    def report(self, version: PopulationVersion) -> IngestReport:
        return IngestReport(
            rows=self.rows,
            duplicates=self.rows - self.invalid - version.n_ids,
            invalid=self.invalid,
            first_invalid=self.first_invalid,
            version=version,
        )


def _take(sorter: IdSorter, batches: Iterable[SampleIds]) -> _Counts:
    counts = _Counts()
    for batch in batches:
        valid = valid_sample_ids(batch)
        invalid = len(batch) - int(np.count_nonzero(valid))
        if invalid and not counts.first_invalid:
            counts.first_invalid = counts.rows + int(np.argmin(valid)) + 1
        sorter.add(batch.select(valid))
        counts.rows += len(batch)
        counts.invalid += invalid
    return counts


def _digests(sorter: IdSorter, n_buckets: int) -> tuple[str, ...]:
    digests = [digest_of(SampleIds.of(()))] * n_buckets
    for bucket, sample_ids in sorter.buckets(n_buckets):
        digests[bucket] = digest_of(sample_ids)
    return tuple(digests)


def _write(
    warehouse: Warehouse, begun: PopulationVersion, sorter: IdSorter, state: PopulationState
) -> PopulationVersion:
    try:
        write_version(warehouse, begun)
        _write_buckets(warehouse, begun, sorter)
        made = replace(begun, state=state, changed_at=datetime.now(UTC))
        write_version(warehouse, made)
    except BaseException:
        with suppress(WarehouseError):
            remove_versions(warehouse, [begun])
        raise
    return made


def _write_buckets(warehouse: Warehouse, version: PopulationVersion, sorter: IdSorter) -> None:
    """Write the buckets that are not there: while one waits for the disk, the next is made ready."""
    known = known_buckets(warehouse, version.owner, version.population)
    said_at = time.monotonic()
    under_way: list[Future[str]] = []

    def write(bucket: int, sample_ids: SampleIds) -> None:
        nonlocal said_at
        if (bucket, version.digests[bucket]) not in known:
            if len(under_way) == _AT_ONCE:
                under_way.pop(0).result()
            under_way.append(
                threads.submit(write_bucket, warehouse, version.owner, version.population, bucket, sample_ids)
            )
        if time.monotonic() - said_at > STILL_S:
            write_version(warehouse, replace(version, changed_at=datetime.now(UTC)))
            said_at = time.monotonic()

    empty = set(range(version.n_buckets))
    with ThreadPoolExecutor(_AT_ONCE, "fedpredict-buckets") as threads:  # after an error too, it waits for both
        for bucket, sample_ids in sorter.buckets(version.n_buckets):
            write(bucket, sample_ids)
            empty.discard(bucket)
        for bucket in sorted(empty):
            write(bucket, SampleIds.of(()))
        for each in under_way:
            each.result()
