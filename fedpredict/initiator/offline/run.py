"""One task, worked on by one process: its buckets in a pipeline, under a claim that is renewed all the while."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any, TypeVar

from fedpredict.errors import StateError, TableCorruptError
from fedpredict.initiator.offline.bucket import Asking, BucketOutcome, ask_bucket
from fedpredict.initiator.offline.distribution import bins_for, have_missed, histograms_of
from fedpredict.model.buckets import in_places
from fedpredict.model.offline import Bins, BucketDone
from fedpredict.model.sample_ids import SampleIds
from fedpredict.state.task_base import Claim, TaskStore
from fedpredict.tables.populations import list_versions, read_bucket
from fedpredict.tables.results import ensure_results, write_results
from fedpredict.warehouse.base import Warehouse

logger = logging.getLogger(__name__)

RENEW_S = 3.0
"""How often a claim is renewed, which is also how soon a task notices that another process cancelled it."""
_T = TypeVar("_T")


class ClaimLostError(Exception):
    """The task is another worker's, or was cancelled: nothing more may be written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Workplace:
    """What a task is worked on with.

    Attributes:
        store: Tasks.
        warehouse: The initiator's: ids in, results out.
        threads: Where databases, files and arrays are waited for.
        buckets_under_way: Buckets at the same time.
        lease_s: How long a claim holds without being renewed.
    """

    store: TaskStore
    warehouse: Warehouse
    threads: Executor
    buckets_under_way: int
    lease_s: float

    async def thread(self, work: Callable[..., _T], *args: object) -> _T:
        """Return what `work` returns, run in a thread."""
        return await asyncio.get_running_loop().run_in_executor(self.threads, work, *args)


class Holding:
    """A claim that is renewed while the block runs; its end is seen by `lost`."""

    def __init__(self, place: Workplace, claim: Claim) -> None:
        self._place = place
        self._claim = claim
        self._until = time.monotonic() + place.lease_s
        self._look = asyncio.Event()
        self.lost = asyncio.Event()
        """Set when the claim holds no more."""

    def look(self) -> None:
        """Renew at once: something about the task may have changed."""
        self._look.set()

    def check(self) -> None:
        """Raise `ClaimLostError` unless the claim holds for long enough to write a bucket."""
        if self.lost.is_set() or time.monotonic() > self._until - self._place.lease_s / 3:
            raise ClaimLostError(self._claim.task.task_id)

    async def keep(self) -> None:
        """Renew until the claim is lost."""
        while not self.lost.is_set():
            try:
                async with asyncio.timeout(min(RENEW_S, self._place.lease_s / 4)):
                    await self._look.wait()
            except TimeoutError:
                pass
            self._look.clear()
            asked = time.monotonic()
            try:
                renew = partial(self._place.store.renew, self._claim, lease_s=self._place.lease_s)
                held = await self._place.thread(renew)
            except StateError as error:
                logger.warning("task.not_renewed", extra={"task": self._claim.task.task_id, "reason": str(error)})
                held = asked < self._until
            else:
                self._until = asked + self._place.lease_s
            if not held:
                self.lost.set()


class TaskRun:
    """What is left of a task."""

    def __init__(self, place: Workplace, claim: Claim, asking: Asking, holding: Holding) -> None:
        """Prepare.

        Args:
            place: What it is worked on with.
            claim: The worker's.
            asking: What all buckets have in common.
            holding: Renews the claim.
        """
        self._place = place
        self._claim = claim
        self._task = claim.task
        self._asking = asking
        self._holding = holding
        self._bins: Bins = claim.task.bins
        self._binning = asyncio.Lock()
        self._recorded = time.monotonic()

    async def work(self) -> None:
        """Do every bucket that has no record.

        Raises:
            PartyFailedError: A party gave no share; the buckets that were combined by then are recorded.
            ClaimLostError: The task is another's, or was cancelled.
            WarehouseError, StateError: As they say.
        """
        digests = await self._place.thread(self._digests)
        await self._place.thread(ensure_results, self._place.warehouse)
        done = await self._place.thread(self._place.store.buckets, self._task.task_id)
        # in the order of places: who answers from a warehouse has the rows of neighbours at hand
        left = iter([bucket for bucket in in_places(self._task.new.n_buckets) if bucket not in done])
        workers = [asyncio.ensure_future(self._go_on(left, digests)) for _ in range(self._place.buckets_under_way)]
        lost = asyncio.ensure_future(self._holding.lost.wait())
        try:
            pending = {*workers, lost}
            while not all(each.done() for each in workers):
                finished, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                if lost in finished:
                    raise ClaimLostError(self._task.task_id)
                for worker in finished:
                    worker.result()
        finally:
            for each in (*workers, lost):
                each.cancel()
            await asyncio.gather(*workers, lost, return_exceptions=True)

    def _digests(self) -> tuple[str, ...]:
        population = self._task.new.population
        for each in list_versions(self._place.warehouse, owner=population.owner, population=population.name):
            if each.version == population.version and each.n_buckets == self._task.new.n_buckets:
                return each.digests
        raise TableCorruptError(f"population {population} of task {self._task.task_id} is not in the warehouse")

    async def _go_on(self, left: Iterator[int], digests: tuple[str, ...]) -> None:
        population = self._task.new.population
        for bucket in left:
            began = time.perf_counter()
            ids = await self._place.thread(
                read_bucket, self._place.warehouse, population.owner, population.name, bucket, digests[bucket]
            )
            outcome = await ask_bucket(self._asking, bucket, digests[bucket], ids)
            await _whole(self._store(bucket, ids, outcome, began))

    async def _store(self, bucket: int, ids: SampleIds, outcome: BucketOutcome, began: float) -> None:
        """Write the results of a bucket, then its record; not interrupted, so that nobody writes behind a successor."""
        await self._choose_bins(outcome)
        self._holding.check()
        writing = partial(write_results, predictions=outcome.predictions, status=outcome.status, origin=outcome.origin)
        sha256 = await self._place.thread(writing, self._place.warehouse, self._task.task_id, bucket, ids)
        histograms = await self._place.thread(histograms_of, self._bins, outcome.predictions, outcome.status)
        done = BucketDone(
            bucket=bucket,
            totals=replace(outcome.totals, histograms=histograms),
            results_sha256=sha256,
            seconds=time.perf_counter() - began,
            finished_at=datetime.now(UTC),
        )
        now = time.monotonic()
        ran_s, self._recorded = now - self._recorded, now
        if not await self._place.thread(lambda: self._place.store.record(self._claim, done, ran_s=ran_s)):
            raise ClaimLostError(self._task.task_id)
        extra = {"task": self._task.task_id, "bucket": bucket, "rows": done.totals.ids, "scored": done.totals.scored}
        logger.info("task.bucket", extra=extra)

    async def _choose_bins(self, outcome: BucketOutcome) -> None:
        """Have the bins of the task before, so that the two can be compared, or choose some as soon as there can be."""
        async with self._binning:
            if self._bins:
                return
            before = await self._place.thread(self._place.store.before, self._task)
            manifest = self._task.new.manifest
            same_width = before is not None and before.new.manifest.n_outputs == manifest.n_outputs
            if before is not None and same_width and before.bins and not have_missed(before.totals.histograms):
                self._bins = before.bins
            else:
                self._bins = bins_for(manifest.kind, outcome.predictions)
            if self._bins and not await self._place.thread(self._place.store.begin, self._claim, self._bins):
                raise ClaimLostError(self._task.task_id)


async def _whole(work: Coroutine[Any, Any, None]) -> None:
    """Run `work` to its end, also where the caller is cancelled meanwhile."""
    task = asyncio.ensure_future(work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task})
        raise
