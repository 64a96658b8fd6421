"""One task, worked on by one process: its buckets in a pipeline, under a claim that is renewed all the while."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Coroutine, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any, TypeVar

from fedpredict.errors import StateError, StatementError, TableCorruptError, WarehouseWriteError
from fedpredict.initiator.offline.bucket import Asking, BucketOutcome, ask_bucket, gather_bucket
from fedpredict.initiator.offline.distribution import MAX_BINNED, bins_for, have_missed, histograms_of
from fedpredict.initiator.offline.failure import UnfinishedError
from fedpredict.initiator.offline.joining import (
    bins_in,
    combine_in_engine,
    incomplete,
    rank,
    records_of,
    results_table,
    route_of,
    unrank,
    unreadable,
)
from fedpredict.initiator.offline.standing import check_there
from fedpredict.initiator.task_settings import Combine
from fedpredict.model.buckets import in_places
from fedpredict.model.offline import Bins, BucketDone, CombinedBy, Totals
from fedpredict.model.sample_ids import SampleIds
from fedpredict.model.share import Share
from fedpredict.state.task_base import Claim, TaskStore, Why
from fedpredict.tables.populations import list_versions, read_bucket
from fedpredict.tables.results import UNRANKED, ensure_results, write_results
from fedpredict.tables.task_shares import TASK_SHARES, write_task_shares
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
        combine: What combines shares.
        statements: The same warehouse over a connection of its own, for statements that may take an hour; None: where
            such a statement holds up nothing else.
        bucket_done: Told of each bucket that is stored and recorded: its model, and seconds.
    """

    store: TaskStore
    warehouse: Warehouse
    threads: Executor
    buckets_under_way: int
    lease_s: float
    combine: Combine = Combine.NUMPY
    statements: Warehouse | None = None
    bucket_done: Callable[[str, float], None] = lambda *_: None

    @property
    def engine(self) -> Warehouse:
        """Where shares are combined and results ranked."""
        return self.warehouse if self.statements is None else self.statements

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
        self._by_engine = False

    async def work(self) -> None:
        """Do every bucket that has no record.

        Raises:
            PartyFailedError: A party gave no share; the buckets that were combined by then are recorded.
            ClaimLostError: The task is another's, or was cancelled.
            UnfinishedError: A bucket has no record although everything was done.
            VersionGoneError: The version of a population that it is about was removed.
            WarehouseError, StateError: As they say.
        """
        digests = await self._place.thread(self._digests)
        await self._place.thread(ensure_results, self._place.warehouse)
        done = await self._place.thread(self._place.store.recorded, self._task.task_id)
        gathered = await self._plan()
        # in the order of places: who answers from a warehouse has the rows of neighbours at hand
        known = {*done, *gathered}
        await self._ask([each for each in in_places(self._task.new.n_buckets) if each not in known], digests)
        if self._by_engine:
            await self._combine(digests)
        await self._check_whole()
        if self._task.new.ranking is not None:
            await self._while_held(self._rank())

    async def _plan(self) -> Mapping[int, Totals]:
        """Decide what combines the shares, and return the buckets whose shares are stored for that."""
        place = self._place
        by, why = await place.thread(route_of, self._asking, place.warehouse, place.combine)
        if why:
            logger.warning("task.not_by_engine", extra={"task": self._task.task_id, "reason": why})
        self._by_engine = by is CombinedBy.ENGINE
        has_work = self._by_engine or self._task.new.ranking is not None
        if not await place.thread(lambda: place.store.plan(self._claim, by, why, has_work=has_work)):
            raise ClaimLostError(self._task.task_id)
        if not self._by_engine:
            return {}
        await place.thread(place.warehouse.ensure, TASK_SHARES)
        return await place.thread(place.store.gathered, self._task.task_id)

    async def _ask(self, buckets: Iterable[int], digests: tuple[str, ...]) -> None:
        left = iter(buckets)
        await self._while_held(*(self._go_on(left, digests) for _ in range(self._place.buckets_under_way)))

    async def _check_whole(self) -> None:
        """Raise `UnfinishedError` unless every bucket has a record: what nobody combined is no result."""
        task_id, n_buckets = self._task.task_id, self._task.new.n_buckets
        done = await self._place.thread(self._place.store.recorded, task_id)
        missing = [bucket for bucket in range(n_buckets) if bucket not in done]
        if missing:
            raise UnfinishedError(f"{len(missing)} buckets of task {task_id}, {missing[0]} the first, have no results")

    async def _while_held(self, *work: Coroutine[Any, Any, None]) -> None:
        """Run some things to their ends, unless the claim is lost or one of them fails: then end the others."""
        workers = [asyncio.ensure_future(each) for each in work]
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
        check_there(self._place.warehouse, population)
        raise TableCorruptError(f"population {population} of task {self._task.task_id} is not in the warehouse")

    def _ids(self, bucket: int, digest: str) -> SampleIds:
        population = self._task.new.population
        try:
            return read_bucket(self._place.warehouse, population.owner, population.name, bucket, digest)
        except TableCorruptError:
            check_there(self._place.warehouse, population)
            raise

    async def _go_on(self, left: Iterator[int], digests: tuple[str, ...]) -> None:
        for bucket in left:
            began = time.perf_counter()
            ids = await self._place.thread(self._ids, bucket, digests[bucket])
            if self._by_engine:
                shares, totals = await gather_bucket(self._asking, bucket, digests[bucket], ids)
                await _whole(self._keep(bucket, ids, shares, totals))
            else:
                outcome = await ask_bucket(self._asking, bucket, digests[bucket], ids)
                await _whole(self._store(bucket, ids, outcome, began))

    async def _keep(self, bucket: int, ids: SampleIds, shares: Mapping[str, Share], totals: Totals) -> None:
        """Write the shares of a bucket, then that they are there; not interrupted, as `_store`."""
        place, task_id = self._place, self._task.task_id
        self._holding.check()
        await place.thread(write_task_shares, place.warehouse, task_id, bucket, ids, shares)
        ran_s = self._since_recorded()
        if not await place.thread(lambda: place.store.gather(self._claim, bucket, totals, ran_s=ran_s)):
            raise ClaimLostError(task_id)
        logger.info("task.gathered", extra={"task": task_id, "bucket": bucket, "rows": totals.ids})

    async def _combine(self, digests: tuple[str, ...]) -> None:
        """Have the engine combine what was gathered; buckets whose shares cannot be read are asked for again, once."""
        place, task = self._place, self._task
        try:
            await self._while_held(self._combine_gathered())
        except (StatementError, TableCorruptError) as error:
            gathered = await place.thread(place.store.gathered, task.task_id)
            self._holding.check()
            bad = await place.thread(unreadable, task, place.engine, gathered)
            if not bad:
                raise
            extra = {"task": task.task_id, "buckets": bad, "reason": str(error)}
            logger.warning("task.shares_damaged", extra=extra)
            await self._forget(bad)
            await self._ask(bad, digests)
            await self._while_held(self._combine_gathered())

    async def _forget(self, buckets: Collection[int]) -> None:
        """Have buckets asked for again; what is stored of them stays until they are."""
        if not await self._place.thread(self._place.store.ungather, self._claim, buckets):
            raise ClaimLostError(self._task.task_id)

    async def _combine_gathered(self) -> None:
        """Have the engine combine what was gathered, and record its buckets."""
        place, task = self._place, self._task
        done = await place.thread(place.store.recorded, task.task_id)
        gathered = await place.thread(place.store.gathered, task.task_id)
        gathered = {bucket: totals for bucket, totals in gathered.items() if bucket not in done}
        if not gathered:
            return
        began = time.perf_counter()
        self._holding.check()
        await place.thread(combine_in_engine, self._asking, place.engine, gathered)
        n_binned = min(task.new.manifest.n_outputs, MAX_BINNED)
        await self._choose_bins(lambda: bins_in(task, place.engine, n_binned))
        seconds = time.perf_counter() - began
        try:
            records = await place.thread(records_of, task, place.engine, gathered, self._bins, seconds)
        except WarehouseWriteError:  # shares are gone: a retry asks for them again
            await self._forget(gathered)
            raise
        for record in records:
            await self._record(record)
        logger.info("task.combined", extra={"task": task.task_id, "buckets": len(records), "seconds": seconds})

    async def _rank(self) -> None:
        """Have the engine write all results with their ranks."""
        place, task = self._place, self._task
        done = await place.thread(place.store.buckets, task.task_id)
        self._holding.check()
        gone: list[BucketDone] = []
        for record in await place.thread(incomplete, task, place.engine, done, UNRANKED.name):
            self._holding.check()
            if await place.thread(unrank, task, place.engine, record.bucket) != record.totals.ids:
                gone.append(record)
        if gone:
            await self._lose(gone)
        self._holding.check()
        await place.thread(rank, task, place.engine, done)
        logger.info("task.ranked", extra={"task": task.task_id})

    async def _lose(self, gone: Sequence[BucketDone]) -> None:
        """Have the task fail, and a retry make some buckets again."""
        self._holding.check()
        problem = f"the results of {len(gone)} buckets, {gone[0].bucket} the first, are gone at the initiator: retry"
        await self._place.thread(self._place.store.lose, self._task.task_id, gone, Why(problem=problem))
        raise ClaimLostError(self._task.task_id)

    async def _store(self, bucket: int, ids: SampleIds, outcome: BucketOutcome, began: float) -> None:
        """Write the results of a bucket, then its record; not interrupted, so that nobody writes behind a successor."""
        await self._choose_bins(lambda: bins_for(self._task.new.manifest.kind, outcome.predictions))
        self._holding.check()
        writing = partial(
            write_results,
            predictions=outcome.predictions,
            status=outcome.status,
            origin=outcome.origin,
            table=results_table(self._task),
        )
        sha256 = await self._place.thread(writing, self._place.warehouse, self._task.task_id, bucket, ids)
        histograms = await self._place.thread(histograms_of, self._bins, outcome.predictions, outcome.status)
        done = BucketDone(
            bucket=bucket,
            totals=replace(outcome.totals, histograms=histograms),
            results_sha256=sha256,
            seconds=time.perf_counter() - began,
            finished_at=datetime.now(UTC),
        )
        await self._record(done)

    async def _record(self, done: BucketDone) -> None:
        ran_s = self._since_recorded()
        if not await self._place.thread(lambda: self._place.store.record(self._claim, done, ran_s=ran_s)):
            raise ClaimLostError(self._task.task_id)
        self._place.bucket_done(self._task.new.manifest.model_id, done.seconds)
        extra = {"task": self._task.task_id, "bucket": done.bucket, "rows": done.totals.ids}
        logger.info("task.bucket", extra=extra | {"scored": done.totals.scored})

    def _since_recorded(self) -> float:
        now = time.monotonic()
        ran_s, self._recorded = now - self._recorded, now
        return ran_s

    async def _choose_bins(self, fresh: Callable[[], Bins]) -> None:
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
                self._bins = await self._place.thread(fresh)
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
