"""Settings -> an online store: the one place that picks the implementation."""

from __future__ import annotations

from pathlib import Path

from fedpredict.features.base import OnlineStore
from fedpredict.features.mapped import MappedStore
from fedpredict.features.memory import MemoryStore
from fedpredict.features.settings import StoreSettings


def open_store(settings: StoreSettings, base: Path, party: str) -> OnlineStore:
    """Return the store that the settings describe; nothing is made or read yet.

    Args:
        settings: The `[store]` table.
        base: The folder of the settings file.
        party: Whose features.
    """
    if settings.kind == "memory":
        return MemoryStore()
    return MappedStore(base / settings.path / party)
