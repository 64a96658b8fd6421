"""This initiator's own part, scored in process through the same interface as every other party's, and its heads."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fedpredict.features.base import OnlineStore
from fedpredict.initiator.settings import InitiatorSettings
from fedpredict.model.head import Heads
from fedpredict.model.inputs import Inputs
from fedpredict.model.scorer import PartyScorer
from fedpredict.observe.scoring import StoreMetrics
from fedpredict.scoring.buckets import BucketPart
from fedpredict.scoring.heads import HeadLoader
from fedpredict.scoring.loader import ModelLoader
from fedpredict.scoring.local_party import LocalParty
from fedpredict.scoring.open_buckets import open_buckets
from fedpredict.scoring.poll import Poller
from fedpredict.scoring.readings import store_readings
from fedpredict.scoring.realtime import no_views
from fedpredict.warehouse.base import Warehouse

if TYPE_CHECKING:
    from fedpredict.scoring.realtime_views import RealtimeViews


@dataclass(frozen=True, slots=True)
class Own:
    """What this process holds itself.

    Attributes:
        part: Scores its parts.
        heads: Returns the heads that it can finish with.
        check_types: Refuses inputs of the wrong type, as `LocalParty.check_types`.
        buckets: Answers offline tasks for its parts.
    """

    part: PartyScorer
    heads: Heads
    check_types: Callable[[str, str, Inputs], None]
    buckets: BucketPart


@asynccontextmanager
async def open_own(
    settings: InitiatorSettings,
    warehouse: Warehouse,
    store: OnlineStore,
    *,
    realtime: RealtimeViews | None,
    measured: StoreMetrics,
) -> AsyncIterator[Own]:
    """Keep this party's models, heads and features loaded for as long as the context is open.

    Args:
        settings: The initiator's.
        warehouse: This party's own; stays open.
        store: Where its features are served from.
        realtime: The views that are computed when they are asked for; the caller closes it.
        measured: Gets to know the store.
    """
    party, poll_s, keep = settings.party, settings.poll_s, settings.keep_versions
    computed, fills = realtime.names if realtime is not None else (), settings.store.kind != "none"
    loader = ModelLoader(warehouse, party, store, keep_versions=keep, fills_store=fills, computed=computed)
    measured.look = store_readings(loader, store)
    heads, has_heads = HeadLoader(warehouse, party, keep=keep), bool(settings.models_with_head)

    def refresh() -> None:
        if has_heads:
            heads.refresh()
        state = loader.refresh()
        if realtime is not None:
            realtime.refresh(state.views)

    poller = Poller(refresh, poll_s)
    poller.start()
    try:
        part = LocalParty(
            party, lambda: loader.state, store, freshness=settings.freshness, realtime=realtime or no_views
        )
        at_once = settings.tasks.parallel * settings.tasks.buckets_under_way
        buckets = open_buckets(settings.tasks, warehouse, part, lambda: loader.state, poll_s=poll_s, at_once=at_once)
        yield Own(part, lambda: heads.shelf, part.check_types, buckets)
    finally:
        await asyncio.to_thread(poller.stop)
