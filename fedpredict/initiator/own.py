"""This initiator's own part, scored in process through the same interface as every other party's, and its heads."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fedpredict.features.base import OnlineStore
from fedpredict.model.head import Heads
from fedpredict.model.inputs import Inputs
from fedpredict.model.scorer import PartyScorer
from fedpredict.observe.scoring import StoreMetrics
from fedpredict.scoring.freshness import FreshnessSettings
from fedpredict.scoring.heads import HeadLoader
from fedpredict.scoring.loader import ModelLoader
from fedpredict.scoring.local_party import LocalParty
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
    """

    part: PartyScorer
    heads: Heads
    check_types: Callable[[str, str, Inputs], None]


@asynccontextmanager
async def open_own(
    warehouse: Warehouse,
    party: str,
    store: OnlineStore,
    *,
    poll_s: float,
    keep_versions: int,
    freshness: FreshnessSettings,
    realtime: RealtimeViews | None,
    measured: StoreMetrics,
    has_heads: bool,
) -> AsyncIterator[Own]:
    """Keep this party's models, heads and features loaded for as long as the context is open.

    Args:
        warehouse: This party's own; stays open.
        party: This party's id.
        store: Where its features are served from.
        poll_s: Seconds between two looks for what is new.
        keep_versions: Versions of a model, and heads of one, that stay loaded.
        freshness: By view, how old features may be.
        realtime: The views that are computed when they are asked for; the caller closes it.
        measured: Gets to know the store.
        has_heads: Whether heads are looked for.
    """
    loader = ModelLoader(warehouse, party, store, keep_versions=keep_versions)
    measured.look = store_readings(loader, store)
    heads = HeadLoader(warehouse, party, keep=keep_versions)

    def refresh() -> None:
        if has_heads:
            heads.refresh()
        state = loader.refresh()
        if realtime is not None:
            realtime.refresh(state.views)

    poller = Poller(refresh, poll_s)
    poller.start()
    try:
        part = LocalParty(party, lambda: loader.state, store, freshness=freshness, realtime=realtime or no_views)
        yield Own(part, lambda: heads.shelf, part.check_types)
    finally:
        await asyncio.to_thread(poller.stop)
