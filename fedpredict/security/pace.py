"""How often somebody may call: so many calls at once, and then one per interval. Pure: the clock is an argument.

This is the generic cell rate algorithm: a token bucket whose whole state is one number, the instant at which the bucket
is full again. One number is what several processes can share.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

_SECOND_NS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Pace:
    """A rate with a burst: within any span of t ns at most `burst + t / interval_ns` calls are taken.

    Attributes:
        interval_ns: Nanoseconds between two calls, in the long run.
        burst: Calls that are taken at once by who did not call for a while; at least 1.
    """

    interval_ns: int
    burst: int

    @classmethod
    def of(cls, calls_per_s: float, burst: int | None = None) -> Pace:
        """Return the pace of a rate; without a burst of its own, that of one second.

        >>> Pace.of(50), Pace.of(0.1)
        (Pace(interval_ns=20000000, burst=50), Pace(interval_ns=10000000000, burst=1))
        """
        return cls(ceil(_SECOND_NS / calls_per_s), max(1, int(calls_per_s)) if burst is None else burst)

    def take(self, full_at: int, now: int) -> tuple[int, int]:
        """Return the state after a call at `now`, and how long it would have to wait: 0 where it is taken.

        Args:
            full_at: The state: when the bucket is full again, in ns; anything in the past, such as 0, is full.
            now: The instant on the same clock.

        >>> Pace(interval_ns=10, burst=2).take(0, 1000), Pace(interval_ns=10, burst=2).take(1020, 1003)
        ((1010, 0), (1020, 7))
        """
        # not further ahead than empty: the state may be of another rule
        full_at = min(full_at, now + self.burst * self.interval_ns)
        wait = full_at - (self.burst - 1) * self.interval_ns - now
        if wait > 0:
            return full_at, wait
        return max(full_at, now) + self.interval_ns, 0
