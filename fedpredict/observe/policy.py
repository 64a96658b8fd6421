"""What is counted of reloads of a daemon's policy."""

from __future__ import annotations

import time
from collections.abc import Iterable

from typing_extensions import override

from fedpredict.observe import metrics
from fedpredict.observe.counting import Reading, Source, one, tallies


class PolicyMetrics(Source):
    """The policy of one process: when it was put in force, and how often a reload was taken or refused."""

    def __init__(self) -> None:
        self._reloads = tallies(metrics.POLICY_RELOADS)
        self._since = time.time()

    def taken(self) -> None:
        """Count a reload whose policy is in force now."""
        self._since = time.time()
        self._reloads.child("ok").value += 1

    def refused(self) -> None:
        """Count a reload that changed nothing, because something in the files is wrong."""
        self._reloads.child("refused").value += 1

    @override
    def read(self) -> Iterable[Reading]:
        yield self._reloads.reading()
        yield one(metrics.POLICY_LOADED, self._since)
