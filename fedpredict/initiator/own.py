"""This initiator's own part: scored in process, through the same interface as every other party's."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fedpredict.features.base import OnlineStore
from fedpredict.model.scorer import PartyScorer
from fedpredict.observe.scoring import StoreMetrics
from fedpredict.scoring.loader import ModelLoader
from fedpredict.scoring.local_party import LocalParty
from fedpredict.scoring.poll import Poller
from fedpredict.scoring.readings import store_readings
from fedpredict.warehouse.base import Warehouse


@asynccontextmanager
async def open_own_part(
    warehouse: Warehouse, party: str, store: OnlineStore, *, poll_s: float, keep_versions: int, measured: StoreMetrics
) -> AsyncIterator[PartyScorer]:
    """Keep this party's models and features loaded for as long as the context is open.

    Args:
        warehouse: This party's own; stays open.
        party: This party's id.
        store: Where its features are served from.
        poll_s: Seconds between two looks for what is new.
        keep_versions: Versions of a model that stay loaded.
        measured: Gets to know the store.
    """
    loader = ModelLoader(warehouse, party, store, keep_versions=keep_versions)
    measured.look = store_readings(loader, store)
    poller = Poller(loader.refresh, poll_s)
    poller.start()
    try:
        yield LocalParty(party, lambda: loader.state, store)
    finally:
        await asyncio.to_thread(poller.stop)
