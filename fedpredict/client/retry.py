"""When a call is made again, after how long, and how often in all: no clock and no socket.

Everything that a client asks for may be asked twice: a prediction changes nothing. What limits it is the server: calls
that are made again come out of a budget, so that clients do not finish off a server that is sick (ADR 0014).
"""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic

from fedpredict.client.failures import LostConnectionError
from fedpredict.errors import RetryLaterError

MAX_ATTEMPTS = 4
"""Calls that one question may take, hedges not counted."""
FIRST_BACKOFF_S, MAX_BACKOFF_S = 0.05, 1.0
EXTRA_SHARE = 0.1
"""Extra calls per call."""
LEAST_PER_S = 10.0
"""Extra calls a second that are allowed however few calls there are; so many may come at once."""
MAX_SAVED = 100.0
"""Extra calls that can be saved up, so that a restart of the server loses no call of a busy client."""

Random = Callable[[], float]
"""Gives a number from 0 to 1."""


class RetryBudget:
    """How many extra calls a client may make: a tenth of its calls, and a few a second."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._saved = LEAST_PER_S
        self._seen = clock()

    def count_call(self) -> None:
        """Count a call that is not extra."""
        self._saved = min(MAX_SAVED, self._saved + EXTRA_SHARE)

    def take(self) -> bool:
        """Return whether an extra call may be made now, and count it."""
        now = self._clock()
        if self._saved < LEAST_PER_S:
            self._saved = min(LEAST_PER_S, self._saved + LEAST_PER_S * (now - self._seen))
        self._seen = now
        if self._saved < 1.0:
            return False
        self._saved -= 1.0
        return True


def is_worth_retrying(error: BaseException) -> bool:
    """Return whether the same call may be answered later: nobody of ours took it, or not now."""
    return isinstance(error, LostConnectionError | RetryLaterError)


def backoff_s(error: BaseException, attempt: int, random: Random) -> float:
    """Return how long to wait before a call is made again: the server's hint, and any time up to a doubling limit.

    Args:
        error: What the call before failed with.
        attempt: How many calls were made.
        random: Spreads the clients of a server that failed them all at once.

    >>> backoff_s(RetryLaterError("full", retry_after_ms=200), 1, lambda: 1.0)
    0.25
    """
    hint_s = error.retry_after_ms / 1000 if isinstance(error, RetryLaterError) else 0.0
    return hint_s + random() * min(MAX_BACKOFF_S, FIRST_BACKOFF_S * 2.0 ** (attempt - 1))
