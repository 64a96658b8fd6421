"""What load is sent to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeAlias

Done: TypeAlias = Callable[[int, str], None]
"""Told (number of the request, what became of it: `record.OK`, or what went wrong in a word or two)."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer as it came.

    Attributes:
        kind: What became of the request.
        text: What the server says, where it is no answer with numbers.
        code: The protocol's own name or number of it; empty where there was no answer.
    """

    kind: str
    text: str = ""
    code: str = ""


class LoadTarget(Protocol):
    """A server, and what is asked of it; for one event loop."""

    async def ask(self, number: int) -> Answer:
        """Return the answer to one request, to see whether there is anything to measure.

        Args:
            number: The request's, as in `start`.

        Raises:
            ServerUnavailableError: There is no such server.
        """

    def start(self, number: int, done: Done) -> None:
        """Send a request; `done` is called later, once, from the event loop.

        Args:
            number: The request's, from 0; what is asked follows from it.
            done: Who wants to know.
        """

    def abandon(self, number: int) -> None:
        """Give up waiting for a request under way; `done` is not called for it any more."""

    async def close(self) -> None:
        """End every connection; requests under way are abandoned. Closing twice is harmless."""
