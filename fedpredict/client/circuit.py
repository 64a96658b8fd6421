"""The circuit of a connection: after failures in a row calls fail at once, until one call has tried it. No I/O."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from time import monotonic

FAILURES_TO_OPEN = 5
FIRST_OPEN_S, MAX_OPEN_S = 1.0, 30.0


class CircuitState(StrEnum):
    """What becomes of a call."""

    CLOSED = "closed"
    """It is made."""
    OPEN = "open"
    """It fails at once."""
    HALF_OPEN = "half_open"
    """One call tries the server; others fail at once."""


@dataclass(frozen=True, slots=True)
class Circuit:
    """The state of a client's connection to its server.

    Attributes:
        state: What becomes of a call.
        failures: Calls in a row that found no server, or no answer in time.
        since: When this state began, in UTC.
    """

    state: CircuitState
    failures: int
    since: datetime


class Breaker:
    """Counts failures, and decides whether a call is made."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._state = CircuitState.CLOSED
        self._failures = 0
        self._openings = 0
        self._since = clock()

    @property
    def circuit(self) -> Circuit:
        """The state as users see it."""
        began = datetime.now(UTC) - timedelta(seconds=self._clock() - self._since)
        return Circuit(self._state, self._failures, began)

    @property
    def failures(self) -> int:
        """Calls in a row that failed."""
        return self._failures

    def wait_s(self) -> float:
        """Return 0 where a call may be made now; `succeeded`, `failed` or `left` then tells what became of it.

        Returns:
            Otherwise, above 0, the seconds until it is worth asking again.
        """
        if self._state is CircuitState.CLOSED:
            return 0.0
        if self._state is CircuitState.HALF_OPEN:
            return FIRST_OPEN_S
        left_s = self._since + self._open_s() - self._clock()
        if left_s <= 0.0:
            self._enter(CircuitState.HALF_OPEN)
        return max(0.0, left_s)

    def succeeded(self) -> None:
        """Take note that the server answered, be it with an error."""
        self._failures = self._openings = 0
        if self._state is not CircuitState.CLOSED:
            self._enter(CircuitState.CLOSED)

    def failed(self) -> None:
        """Take note that a call found no server, or no answer in time."""
        self._failures += 1
        tried = self._state is CircuitState.HALF_OPEN
        if tried or (self._state is CircuitState.CLOSED and self._failures >= FAILURES_TO_OPEN):
            self._openings += 1
            self._enter(CircuitState.OPEN)

    def left(self) -> None:
        """Take note that a caller gave its call up: nothing is known of the server, and the next call may try it."""
        if self._state is CircuitState.HALF_OPEN:
            self._enter(CircuitState.OPEN)
            self._since -= self._open_s()

    def _enter(self, state: CircuitState) -> None:
        self._state = state
        self._since = self._clock()

    def _open_s(self) -> float:
        return min(MAX_OPEN_S, FIRST_OPEN_S * 2.0 ** (self._openings - 1))
