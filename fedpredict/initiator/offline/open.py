"""Offline tasks in a serving process: the worker runs, and calls are answered, for as long as the context is open."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial

import grpc

from fedpredict.errors import FedPredictError
from fedpredict.initiator.admission import Access
from fedpredict.initiator.audited import RequestAudit
from fedpredict.initiator.catalogue import Catalogue
from fedpredict.initiator.fanout import RemoteParty
from fedpredict.initiator.masking import MaskedSums
from fedpredict.initiator.offline.counted import CountedBuckets, watch_tasks
from fedpredict.initiator.offline.courier import PopulationCourier
from fedpredict.initiator.offline.desk import TaskDesk
from fedpredict.initiator.offline.failure import waiting_reason
from fedpredict.initiator.offline.retention import sweep, sweep_populations
from fedpredict.initiator.offline.runner import TaskRunner
from fedpredict.initiator.offline.service import OfflineService
from fedpredict.initiator.offline.uploads import Uploads
from fedpredict.initiator.predict_stream import Holds, WhoCalls
from fedpredict.initiator.settings import InitiatorSettings
from fedpredict.model.populations import BucketScorer
from fedpredict.model.scorer import PartyScorer
from fedpredict.observe.tasks import TaskMetrics
from fedpredict.scoring.buckets import BucketPart, LocalBuckets
from fedpredict.state.task_base import TaskStore
from fedpredict.tables.populations import ensure_tables
from fedpredict.tables.results import ensure_results
from fedpredict.warehouse.base import Warehouse

logger = logging.getLogger(__name__)

SWEEP_S = 3600.0
"""How often old results are looked for."""


@dataclass(frozen=True, slots=True)
class TaskParts:
    """What offline tasks are kept in; all of it stays open.

    Attributes:
        store: Tasks and their states.
        warehouse: Ids and results.
        metrics: What is counted of them.
        statements: The same warehouse over a connection of its own, for statements that may take an hour: a server's
            connection does one thing at a time. None: the warehouse does several.
    """

    store: TaskStore
    warehouse: Warehouse
    metrics: TaskMetrics = field(default_factory=partial(TaskMetrics, waiting_reason))
    statements: Warehouse | None = None


@asynccontextmanager
async def open_offline(
    settings: InitiatorSettings,
    parts: TaskParts,
    catalogue: Catalogue,
    scorers: Mapping[str, PartyScorer],
    own: BucketPart | None,
    *,
    access: Access,
    who_calls: WhoCalls,
    holds: Holds | None = None,
    audit: RequestAudit | None = None,
    worker: str,
    delivers: bool,
) -> AsyncIterator[Mapping[str, grpc.RpcMethodHandler[bytes, bytes]]]:
    """Work on tasks, unless the settings say not to, and give the methods that users call.

    Args:
        settings: What `initiator.toml` says.
        parts: What tasks are kept in.
        catalogue: Models.
        scorers: By party; those of other organisations across links.
        own: This initiator's part, where it has one.
        access: Who may ask for what.
        who_calls: Call -> the caller's identity.
        holds: Has a stream closed when its caller is believed no more; default: nothing does.
        audit: Writes calls down; default: nothing does.
        worker: Names this process among all that work on the store.
        delivers: Whether this process brings standing populations to the parties.
    """
    runner = TaskRunner(
        parts.store,
        parts.warehouse,
        catalogue,
        {party: CountedBuckets(each, parts.metrics) for party, each in _buckets(scorers, own).items()},
        own_party=settings.party,
        settings=settings.tasks,
        worker=worker,
        masked=MaskedSums(scorers),
        statements=parts.statements,
        bucket_done=parts.metrics.bucket_done,
    )
    desk = _desk(settings, parts, catalogue, runner, access)
    working = [prepared := asyncio.create_task(_prepare(parts))]
    if settings.tasks.run:
        working += (asyncio.create_task(runner.run()), asyncio.create_task(_sweep(parts, settings, prepared)))
    if settings.metrics.listen is not None:
        working.append(asyncio.create_task(watch_tasks(parts.store, parts.metrics)))
    if delivers:
        remote = {party: each for party, each in scorers.items() if isinstance(each, RemoteParty)}
        courier = PopulationCourier(parts.warehouse, settings.party, remote, look_s=settings.poll_s)
        working.append(asyncio.create_task(_after(prepared, courier.run)))
    service = OfflineService(desk, who_calls, parts.metrics, audit, holds=holds)
    try:
        yield service.methods()
    finally:
        service.close()
        desk.close()
        for each in working:
            each.cancel()
        await asyncio.gather(*working, return_exceptions=True)


def _buckets(scorers: Mapping[str, PartyScorer], own: BucketPart | None) -> dict[str, BucketScorer]:
    found: dict[str, BucketScorer] = {party: each for party, each in scorers.items() if isinstance(each, RemoteParty)}
    if own is not None:
        found[own.party] = LocalBuckets(own)
    return found


def _desk(
    settings: InitiatorSettings, parts: TaskParts, catalogue: Catalogue, runner: TaskRunner, access: Access
) -> TaskDesk:
    uploads = Uploads(
        warehouse=parts.warehouse,
        owner=settings.party,
        max_rows=settings.tasks.max_rows,
        least_buckets=settings.tasks.least_buckets,
        grace_s=settings.tasks.upload_grace_s,
        rows_per_s=settings.tasks.upload_rows_per_s,
    )
    return TaskDesk(
        store=parts.store,
        warehouse=parts.warehouse,
        catalogue=catalogue,
        access=access,
        uploads=uploads,
        settings=settings.tasks,
        own_party=settings.party,
        look=runner.look,
    )


async def _prepare(parts: TaskParts) -> None:
    """Make the tables, so that nobody looks into a warehouse that is not there yet."""
    for ensure in (ensure_tables, ensure_results):
        try:
            await asyncio.to_thread(ensure, parts.warehouse)
        except FedPredictError as error:  # whoever needs them says so again
            logger.warning("tasks.not_prepared", extra={"reason": str(error)})


async def _after(prepared: asyncio.Task[None], run: Callable[[], Awaitable[None]]) -> None:
    await asyncio.wait({prepared})
    await run()


async def _sweep(parts: TaskParts, settings: InitiatorSettings, prepared: asyncio.Task[None]) -> None:
    await asyncio.wait({prepared})

    def once() -> None:
        sweep(parts.store, parts.warehouse, settings.party, settings.tasks.keep_days, datetime.now(UTC))
        sweep_populations(parts.store, parts.warehouse, settings.party, settings.models)

    while True:
        try:
            await asyncio.to_thread(once)
        except FedPredictError as error:
            logger.warning("tasks.not_swept", extra={"reason": str(error)})
        await asyncio.sleep(SWEEP_S)
