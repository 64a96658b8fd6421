"""Which answered requests get a line in the log: one each would be too dear at thousands a second (ADR 0015)."""

from __future__ import annotations

from fedpredict.observe.metrics import Outcome, outcome_of
from fedpredict.observe.settings import LogSettings


class RequestLog:
    """Asked before a line is made, so that nothing is formatted that is not written."""

    __slots__ = ("_every", "_left")

    def __init__(self, settings: LogSettings) -> None:
        """Begin; the first request gets a line, if any does."""
        self._every = {"all": 1, "errors": 0, "sampled": _every(settings.sample_ratio)}[settings.requests]
        self._left = 1

    def wants(self, outcome: Outcome) -> bool:
        """Return whether a request that ended so gets a line.

        Failures and partial answers do; answers in full, and refusals for overload, by the ratio: an overload must not
        be made worse by telling of it line by line.
        """
        if outcome not in ("ok", "overloaded"):
            return True
        if not self._every:
            return False
        self._left -= 1
        if self._left:
            return False
        self._left = self._every
        return True

    def wants_error(self, error: BaseException) -> bool:
        """Return whether a request that ended in an error gets a line."""
        return self.wants(outcome_of(error))


def _every(ratio: float) -> int:
    return round(1.0 / ratio) if ratio else 0
