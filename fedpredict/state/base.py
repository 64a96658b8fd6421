"""The contract of the pin store: which manifests an initiator answers with, and which ones the parties offer.

The initiator and the command line work on one store at the same time, from several processes. A manifest that is
*offered* is what the parties describe now; a manifest that is *pinned* is what predictions are combined under. Only
`pin` moves the second, and nothing is ever deleted: the history says who pinned what, and when.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from fedpredict.model.manifest import Manifest


@dataclass(frozen=True, slots=True, kw_only=True)
class Pin:
    """One entry of a model's history.

    Attributes:
        manifest: What was pinned.
        pinned_by: Who did it: a person's name, or "first use".
        pinned_at: When, in UTC.
    """

    manifest: Manifest
    pinned_by: str
    pinned_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """What the parties of a model describe now.

    Attributes:
        model_id: The model.
        manifest: What their parts make together; None where they make nothing.
        problem: Why they make nothing, in the operator's words; empty where there is a manifest.
        offered_at: When this was first seen, in UTC.
    """

    model_id: str
    manifest: Manifest | None
    problem: str
    offered_at: datetime


class PinStore(Protocol):
    """Pins and offers, by model id. Calls may come from any thread; each blocks for as long as the database takes."""

    def pin(self, manifest: Manifest, *, by: str, replaces: str | None) -> Pin:
        """Make `manifest` the pinned one of its model, and return the entry.

        Args:
            manifest: Its `model_id` says for which model.
            by: Who does it; 1 to 200 printable characters.
            replaces: The `manifest_sha256` that the caller knows as pinned, or None for "nothing was".

        Raises:
            StateError: Something else is pinned by now, or the database cannot be used; nothing was changed.
            InputError: `by` breaks its rule.
        """

    def pins(self) -> Mapping[str, tuple[Pin, ...]]:
        """Return each model's history, newest first: entry 0 is the pinned one. A model never pinned is absent.

        Raises:
            StateError: The database cannot be used.
        """

    def offer(self, model_id: str, manifest: Manifest | None, problem: str = "") -> Offer:
        """Record what the parties offer; the same again keeps the time of the first.

        Args:
            model_id: The model.
            manifest: What their parts make together, or None.
            problem: Why they make nothing; exactly where there is no manifest.

        Raises:
            StateError: The database cannot be used.
        """

    def offers(self) -> Mapping[str, Offer]:
        """Return the newest offer of each model that had one.

        Raises:
            StateError: The database cannot be used.
        """

    def close(self) -> None:
        """Release connections; closing twice is harmless."""
