"""An operator's decision: what is pinned, what is offered, and taking the second for the first."""

from __future__ import annotations

from dataclasses import dataclass

from fedpredict.errors import ModelNotFoundError, ModelNotReadyError
from fedpredict.model.manifest import Manifest
from fedpredict.state.base import Pin, PinStore


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """Old and new, to be shown before it is made.

    Attributes:
        pinned: What is pinned now; None where nothing is.
        offered: What would be pinned.
    """

    pinned: Pin | None
    offered: Manifest

    @property
    def parties(self) -> tuple[str, ...]:
        """The parties whose digest differs or that come or go, sorted; empty where nothing would change."""
        before = set(self.pinned.manifest.digests) if self.pinned else set()
        return tuple(sorted({party for party, _ in before ^ set(self.offered.digests)}))


def find_change(store: PinStore, model_id: str) -> Change:
    """Return what pinning a model would change.

    Raises:
        ModelNotFoundError: No initiator on this store has such a model.
        ModelNotReadyError: Its parties offer nothing that could be pinned; the message says why.
        StateError: The store cannot be used.
    """
    offer = store.offers().get(model_id)
    if offer is None:
        raise ModelNotFoundError(f"model {model_id}: nothing is offered; is it configured, and the initiator running?")
    if offer.manifest is None:
        raise ModelNotReadyError(f"model {model_id}: nothing can be pinned: {offer.problem}")
    history = store.pins().get(model_id, ())
    return Change(pinned=history[0] if history else None, offered=offer.manifest)


def accept(store: PinStore, change: Change, *, by: str) -> Pin:
    """Pin what a change offers, and return the entry; the same again adds nothing.

    Args:
        store: Pins and offers.
        change: As it was shown.
        by: Who decided.

    Raises:
        StateError: Something else is pinned by now, or the store cannot be used.
    """
    if change.pinned is not None and change.pinned.manifest == change.offered:
        return change.pinned
    replaces = change.pinned.manifest.manifest_sha256 if change.pinned else None
    return store.pin(change.offered, by=by, replaces=replaces)
