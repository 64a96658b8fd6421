"""A thread that calls something again and again: how a process notices what is new in its warehouse."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future

logger = logging.getLogger(__name__)

STOP_S = 2.0
"""How long `stop` waits for a call under way; a warehouse that hangs must not keep a process from ending."""


class Poller:
    """Calls `refresh` at once, and then `poll_s` after each call has ended, in a daemon thread of its own.

    A thread, and not the event loop's pool, because the pool is waited for at the end of the process.
    """

    def __init__(self, refresh: Callable[[], object], poll_s: float) -> None:
        """Start nothing yet; call `start`.

        Args:
            refresh: Expected to handle its own errors; one that it does not is logged, and the calls go on.
            poll_s: Seconds.
        """
        self.first: Future[None] = Future()
        """Done when the first call has ended."""
        self._refresh = refresh
        self._poll_s = poll_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="fedpredict-poll", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """Make no further call, and wait a moment for one under way."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(STOP_S)

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self._refresh()
            except Exception:  # the edge of a thread: it must go on, and say what happened
                logger.exception("poll.failed")
            if not self.first.done():
                self.first.set_result(None)
            self._stop.wait(self._poll_s)
