"""The worker of offline tasks in a serving process: claims what is queued, works on it, and says what became of it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from fedpredict.errors import ConfigError, FedPredictError, StateError
from fedpredict.initiator.catalogue import Catalogue
from fedpredict.initiator.masking import MaskedSum, MaskedSums
from fedpredict.initiator.offline.bucket import Asking
from fedpredict.initiator.offline.failure import PartyFailedError, UnfinishedError, VersionGoneError, verdict_on, wait_s
from fedpredict.initiator.offline.run import ClaimLostError, Holding, TaskRun, Workplace
from fedpredict.initiator.settings import ModelSettings
from fedpredict.initiator.task_settings import InitiatorTaskSettings
from fedpredict.model.manifest import Manifest
from fedpredict.model.offline import OfflineState
from fedpredict.model.populations import BucketScorer
from fedpredict.observe.logs import add_log_context
from fedpredict.state.task_base import NOTHING, Claim, TaskStore, Why
from fedpredict.warehouse.base import Warehouse

logger = logging.getLogger(__name__)

LOOK_S = 2.0
"""How often a worker with room looks for a task that another process took, or that waited for long enough."""


class TaskRunner:
    """Works on tasks, some at once, for as long as `run` runs."""

    def __init__(
        self,
        store: TaskStore,
        warehouse: Warehouse,
        catalogue: Catalogue,
        scorers: Mapping[str, BucketScorer],
        *,
        own_party: str,
        settings: InitiatorTaskSettings,
        worker: str,
        masked: MaskedSums | None = None,
        statements: Warehouse | None = None,
        bucket_done: Callable[[str, float], None] = lambda *_: None,
        look_s: float = LOOK_S,
    ) -> None:
        """Prepare.

        Args:
            store: Tasks.
            warehouse: The initiator's: ids in, results out.
            catalogue: Models, their settings and heads.
            scorers: By party.
            own_party: This initiator's.
            settings: `[tasks]`.
            worker: Names this process among all that work on the store.
            masked: The sessions of masked sums; needed where a model's shares are masked.
            statements: As in `Workplace`.
            bucket_done: Told of each bucket that is stored and recorded: its model, and seconds.
            look_s: How often it looks for work.
        """
        # threads of its own: a warehouse that hangs must not hold up predictions
        threads = ThreadPoolExecutor(settings.parallel * (settings.buckets_under_way + 2) + 1, "fedpredict-offline")
        self._place = Workplace(
            store=store,
            warehouse=warehouse,
            threads=threads,
            buckets_under_way=settings.buckets_under_way,
            lease_s=settings.lease_s,
            combine=settings.combine,
            statements=statements,
            bucket_done=bucket_done,
        )
        self._catalogue = catalogue
        self._scorers = scorers
        self._masked = masked
        self._own_party = own_party
        self._settings = settings
        self._worker = worker
        self._look_s = look_s
        self._look = asyncio.Event()
        self._holdings: dict[str, Holding] = {}

    def look(self) -> None:
        """Look for work at once, and whether what is worked on still is to be."""
        self._look.set()
        for holding in self._holdings.values():
            holding.look()

    async def run(self) -> None:
        """Work until cancelled; then what is under way is given back, for others or for later."""
        room = asyncio.Semaphore(self._settings.parallel)
        runs: set[asyncio.Task[None]] = set()
        try:
            while True:
                await room.acquire()
                claim = await self._claim()
                run = asyncio.create_task(self._work(claim))
                runs.add(run)
                run.add_done_callback(partial(_ended, runs, room.release))
        finally:
            for run in runs:
                run.cancel()
            await asyncio.gather(*runs, return_exceptions=True)
            self._place.threads.shutdown(wait=False, cancel_futures=True)

    async def _claim(self) -> Claim:
        claiming = partial(self._place.store.claim, self._worker, lease_s=self._place.lease_s)
        while True:
            self._look.clear()
            try:
                claim = await self._place.thread(claiming)
            except StateError as error:
                logger.warning("task.not_claimed", extra={"reason": str(error)})
                claim = None
            if claim is not None:
                return claim
            try:
                async with asyncio.timeout(self._look_s):
                    await self._look.wait()
            except TimeoutError:
                pass

    async def _work(self, claim: Claim) -> None:
        task = claim.task
        add_log_context(task=task.task_id, model=task.new.manifest.model_id)
        logger.info("task.started", extra={"buckets_left": task.new.n_buckets - task.buckets_done})
        holding = self._holdings[task.task_id] = Holding(self._place, claim)
        keeping = asyncio.create_task(holding.keep())
        try:
            state, why = await self._outcome(claim, holding)
        except asyncio.CancelledError:  # the process stops
            state, why = OfflineState.QUEUED, Why(detail=f"worker {self._worker} stopped")
            await asyncio.shield(self._settle(claim, state, why))
            raise
        except (ClaimLostError, StateError) as error:  # whoever may, goes on
            logger.info("task.left", extra={"reason": str(error)})
            return
        finally:
            keeping.cancel()
            await asyncio.wait({keeping})
            if self._holdings.get(task.task_id) is holding:  # else it was claimed anew in this process meanwhile
                del self._holdings[task.task_id]
        await self._settle(claim, state, why)

    async def _outcome(self, claim: Claim, holding: Holding) -> tuple[OfflineState, Why]:
        try:
            await TaskRun(self._place, claim, self._asking(claim), holding).work()
        except (FedPredictError, PartyFailedError, UnfinishedError, VersionGoneError) as error:
            if isinstance(error, StateError):
                raise
            verdict = verdict_on(error)
            return verdict.state, verdict.why
        except ClaimLostError:
            raise
        except Exception as error:  # a defect: the task must say so, and the worker goes on with others
            logger.exception("task.defect")
            return OfflineState.FAILED, verdict_on(error).why
        return OfflineState.DONE, NOTHING

    def _asking(self, claim: Claim) -> Asking:
        manifest = claim.task.new.manifest
        settings = self._catalogue.settings(manifest.model_id)
        fallback = partial(self._catalogue.answerable, settings.fallback_model or "")
        return Asking(
            task=claim.task,
            settings=settings,
            head=self._catalogue.head_of(manifest),
            fallback=fallback,
            scorers=self._scorers,
            own_party=self._own_party,
            deadline_s=self._settings.bucket_deadline_s,
            threads=self._place.threads,
            masked=self._sum_of(manifest, settings) if settings.masked else None,
        )

    def _sum_of(self, manifest: Manifest, settings: ModelSettings) -> MaskedSum:
        if self._masked is None:
            raise ConfigError(f"model {manifest.model_id}: its shares are masked, and nothing here can ask for them")
        return self._masked.of(manifest, settings.scale_bits)

    async def _settle(self, claim: Claim, state: OfflineState, why: Why) -> None:
        pause_s = wait_s(claim.attempts) if state is OfflineState.WAITING else 0.0
        level = logging.INFO if state in (OfflineState.DONE, OfflineState.QUEUED) else logging.WARNING
        extra = {"task": claim.task.task_id, "state": str(state), "reason": why.detail or why.problem}
        logger.log(level, "task.settled", extra=extra)
        try:
            await self._place.thread(lambda: self._place.store.settle(claim, state, why, wait_s=pause_s))
        except StateError as error:  # the claim ends by itself
            logger.warning("task.not_settled", extra={"task": claim.task.task_id, "reason": str(error)})


def _ended(runs: set[asyncio.Task[None]], release: Callable[[], None], run: asyncio.Task[None]) -> None:
    runs.discard(run)
    release()
    if not run.cancelled() and run.exception() is not None:
        logger.error("task.run_failed", exc_info=run.exception())
