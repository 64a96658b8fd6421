"""This initiator's own part: scored in process, through the same interface as every other party's."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fedpredict.features.memory import MemoryStore
from fedpredict.model.scorer import PartyScorer
from fedpredict.observe.scoring import StoreMetrics
from fedpredict.scoring.loader import ModelLoader
from fedpredict.scoring.local_party import LocalParty
from fedpredict.scoring.poll import Poller
from fedpredict.scoring.readings import store_readings
from fedpredict.warehouse.base import Warehouse


@asynccontextmanager
async def open_own_part(
    warehouse: Warehouse, party: str, *, poll_s: float, keep_versions: int, stores: StoreMetrics
) -> AsyncIterator[PartyScorer]:
    """Keep this party's models and features loaded for as long as the context is open.

    Args:
        warehouse: This party's own; stays open.
        party: This party's id.
        poll_s: Seconds between two looks for what is new.
        keep_versions: Versions of a model that stay loaded.
        stores: Gets to know the store.
    """
    store = MemoryStore()
    loader = ModelLoader(warehouse, party, store, keep_versions=keep_versions)
    stores.look = store_readings(loader, store)
    poller = Poller(loader.refresh, poll_s)
    poller.start()
    try:
        yield LocalParty(party, lambda: loader.state, store)
    finally:
        await asyncio.to_thread(poller.stop)
