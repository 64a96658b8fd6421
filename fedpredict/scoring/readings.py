"""What a party's store holds, for its metrics."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Protocol, runtime_checkable

from fedpredict.features.base import OnlineStore
from fedpredict.observe.scoring import StoreReading
from fedpredict.scoring.loader import ModelLoader


@runtime_checkable
class MeasuredStore(Protocol):
    """A store that knows how large it is."""

    def n_bytes(self, view: str, view_version: int) -> int:
        """Return how many bytes a view version takes, in memory or mapped; 0 where it is not served."""


def store_readings(loader: ModelLoader, store: OnlineStore) -> Callable[[], Iterable[StoreReading]]:
    """Return what `StoreMetrics` asks: the view versions that the loaded models read, as the store serves them."""

    def look() -> Iterable[StoreReading]:
        views = {(model.view, model.view_version) for model in loader.state.loaded.values()}
        for view, view_version in sorted(views):
            snapshot = store.snapshot_of(view, view_version)
            if snapshot is not None:
                yield StoreReading(
                    view=view,
                    view_version=view_version,
                    instant=_seconds(snapshot.snapshot),
                    rows=snapshot.n_rows,
                    n_bytes=store.n_bytes(view, view_version) if isinstance(store, MeasuredStore) else None,
                    loaded_at=loader.loaded_at.get((view, view_version)),
                )

    return look


def _seconds(name: str) -> float:
    return datetime.strptime(name, "%Y%m%dT%H%M%S.%fZ").replace(tzinfo=UTC).timestamp()
