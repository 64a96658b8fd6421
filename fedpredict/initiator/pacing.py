"""What becomes of calls to a party that takes no more of ours for a while: they are not sent until then (ADR 0043)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from math import ceil
from typing import TypeVar

from fedpredict.errors import PartyLimitedError

MAX_HOLD_S = 60.0
"""The longest that a party's hint is believed."""

_T = TypeVar("_T")


class Pacing:
    """When a party takes calls again. Used from one thread: the event loop's."""

    def __init__(self, party: str, clock: Callable[[], float]) -> None:
        """Begin with a party that takes calls.

        Args:
            party: Which.
            clock: The event loop's, in seconds.
        """
        self._party = party
        self._clock = clock
        self._until = 0.0

    def check(self) -> None:
        """Raise `PartyLimitedError` while the party takes no calls, without asking it."""
        left_s = self._until - self._clock()
        if left_s > 0.0:
            told = f"party {self._party}: it said to come back later, and was not asked"
            raise PartyLimitedError(told, party=self._party, retry_after_ms=ceil(1000 * left_s))

    def note(self, error: BaseException) -> None:
        """Learn from why a call failed."""
        if isinstance(error, PartyLimitedError):
            hold_s = min(MAX_HOLD_S, error.retry_after_ms / 1000)
            self._until = max(self._until, self._clock() + hold_s)

    async def noted(self, call: Awaitable[_T]) -> _T:
        """Return what a call returns, and learn from it."""
        try:
            return await call
        except PartyLimitedError as error:
            self.note(error)
            raise

    async def paced(self, call: Callable[[float], Awaitable[_T]], deadline_s: float) -> _T:
        """Make a call, and make it again when the party takes calls again, as long as the time allows.

        Args:
            call: Makes it within the seconds that it is given.
            deadline_s: For all tries together.
        """
        ends = self._clock() + deadline_s
        while True:
            try:
                self.check()
                return await self.noted(call(ends - self._clock()))
            except PartyLimitedError as error:
                pause_s = pause_of(error)
                if self._clock() + pause_s >= ends:
                    raise
                await asyncio.sleep(pause_s)


def pause_of(error: PartyLimitedError) -> float:
    """Return how many seconds to wait before a party is asked again."""
    return min(MAX_HOLD_S, max(1, error.retry_after_ms) / 1000)
