"""The contract of the event store: raw events of this party, each once, found by sample id."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

PRUNE_LEASE = "prune:events"
"""The lease on the removal of older events."""


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """A raw event.

    Attributes:
        sample_id: Whose it is.
        event_id: What it is known by in its feed.
        at: When it happened, in microseconds since 1970 UTC.
        content: Its columns, as its feed writes them.
    """

    sample_id: str
    event_id: str
    at: int
    content: str


@dataclass(frozen=True, slots=True)
class FeedCount:
    """What is stored of a feed.

    Attributes:
        feed: Its name.
        events: How many.
        sample_ids: How many different ones.
        oldest: The time of the oldest event, in microseconds since 1970 UTC.
        newest: Of the newest.
    """

    feed: str
    events: int
    sample_ids: int
    oldest: int
    newest: int


class EventStore(Protocol):
    """Raw events by feed and sample id. Calls may come from any thread and any process; each blocks until it is done.

    Every method raises `StateError` where the database cannot be used; then nothing was changed.
    """

    def add(self, feed: str, events: Iterable[StoredEvent]) -> int:
        """Store the events of a feed in one transaction, and return how many were new.

        An event whose id the feed has already is left out: what is stored never changes.
        """

    def contents(self, feed: str, sample_ids: Sequence[str], before: int) -> list[str]:
        """Return the columns of the events of some ids before an instant: for each id that has some, in one text.

        Ids come in any order, and so do their events, with a comma between two. So no event is a row of its own on its
        way here, of which a question about many ids has thousands.
        """

    def counts(self, sample_id: str | None = None) -> list[FeedCount]:
        """Return what is stored, by feed: of everybody, or of one sample id."""

    def remove(self, *, before: int | None = None, sample_id: str | None = None, at_most: int | None = None) -> int:
        """Remove the events of every feed that are before an instant, or of a sample id, or both; return how many.

        Without a sample id this is many short transactions, so that whoever stores events meanwhile comes in between;
        what was removed before an error stays so. Then `at_most` says after how many events to return.
        """

    def close(self) -> None:
        """Close every connection; closing twice is harmless."""
