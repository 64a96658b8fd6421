"""So many of a kind in a second, and no more: what strangers can cause without end must not fill a log."""

from __future__ import annotations

from collections import Counter
from time import monotonic

from fedpredict.errors import CertificateRefusedError, TokenRefusedError, UnauthenticatedError

STRANGERS_PER_S = 10
"""So many refusals of callers who did not prove who they are get a line in a daemon's own log; more are counted."""


class FewPerSecond:
    """Counts what happens, by kind, and says which of it is within the limit of its second."""

    def __init__(self, most: int) -> None:
        """Begin.

        Args:
            most: Of each kind, in one second of the clock.
        """
        self._most = most
        self._second = 0
        self._taken: Counter[str] = Counter()
        self._left_out = 0

    def take(self, kind: str = "") -> bool:
        """Count one more; return whether it is within the limit."""
        second = int(monotonic())
        if second != self._second:
            self._second = second
            self._taken.clear()
        self._taken[kind] += 1
        if self._taken[kind] <= self._most:
            return True
        self._left_out += 1
        return False

    def left_out(self) -> int:
        """Return how many were beyond the limit since the last time that this was asked."""
        left_out, self._left_out = self._left_out, 0
        return left_out


class FewStrangers:
    """Says which refusals of callers who did not prove who they are get a line; all others do."""

    def __init__(self) -> None:
        self._few = FewPerSecond(STRANGERS_PER_S)

    def fields(self, error: BaseException) -> dict[str, int] | None:
        """Return what a line about an error says of those before it that got none; None where this gets none."""
        if not isinstance(error, UnauthenticatedError | TokenRefusedError | CertificateRefusedError):
            return {}
        if not self._few.take():
            return None
        left_out = self._few.left_out()
        return {"left_out": left_out} if left_out else {}
