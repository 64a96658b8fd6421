"""Log lines leave the event loop at once: a bounded queue, and a thread that formats and writes them.

A standard error that nobody reads, or a slow disk, then holds up that thread and nobody's prediction. Lines that find
the queue full are dropped, counted, and told of once a minute.
"""

from __future__ import annotations

import logging
import queue
import time
from logging.handlers import QueueHandler, QueueListener
from typing import TypeAlias

from typing_extensions import override

from fedpredict.errors import ConfigError
from fedpredict.observe.logs import LEVELS, JsonFormatter, TextFormatter, with_context

MAX_WAITING = 10_000
"""Lines that wait to be written; each has some kilobytes at most."""
SAY_DROPPED_S = 60.0
CLOSE_S = 2.0
"""How long the end of the process waits for lines under way."""

Lines: TypeAlias = "queue.SimpleQueue[logging.LogRecord | None]"


def dropped_lines() -> int:
    """Return how many lines this process has dropped."""
    return sum(each.n_dropped for each in logging.getLogger().handlers if isinstance(each, QueuedHandler))


def install_logging(level: str, *, json: bool) -> None:
    """Write the log to standard error, from a thread; called once, by a daemon. A second call replaces the first.

    Args:
        level: "debug", "info", "warning" or "error", for fedpredict's own lines; libraries are heard from "warning".
        json: JSON lines, for machines; otherwise text.

    Raises:
        ConfigError: No such level.
    """
    if level not in LEVELS:
        raise ConfigError(f"log.level is {level!r}; allowed: {', '.join(LEVELS)}")
    target = logging.StreamHandler()
    target.setFormatter(JsonFormatter() if json else TextFormatter())
    root = logging.getLogger()
    for installed in [each for each in root.handlers if isinstance(each, QueuedHandler)]:
        root.removeHandler(installed)
        installed.close()
    root.addHandler(QueuedHandler(target))
    root.setLevel(logging.WARNING)
    logging.getLogger("fedpredict").setLevel(LEVELS[level])
    # The servicers log every failure themselves, with the request it belongs to.
    logging.getLogger("grpc").setLevel(logging.CRITICAL)


class QueuedHandler(QueueHandler):
    """Hands every record to a thread that gives it to `target`."""

    def __init__(self, target: logging.Handler) -> None:
        """Begin; `close`, which the end of the process calls, writes what waits and ends the thread."""
        self.n_dropped = 0
        self._lines: Lines = queue.SimpleQueue()
        super().__init__(self._lines)
        self.setFormatter(target.formatter)
        self._writer = _Writer(self._lines, target, self)
        self._writer.start()

    @override
    def prepare(self, record: logging.LogRecord) -> logging.LogRecord:
        return with_context(record)  # formatted by the thread, which has another context

    @override
    def enqueue(self, record: logging.LogRecord) -> None:
        if self._lines.qsize() < MAX_WAITING:
            self._lines.put(record)
        else:
            self.n_dropped += 1

    @override
    def close(self) -> None:
        self._writer.finish()
        super().close()


class _Writer(QueueListener):
    def __init__(self, lines: Lines, target: logging.Handler, source: QueuedHandler) -> None:
        super().__init__(lines, target)
        self._target = target
        self._source = source
        self._said = 0
        self._said_at = -SAY_DROPPED_S

    @override
    def handle(self, record: logging.LogRecord) -> None:
        self._target.handle(record)
        missing = self._source.n_dropped - self._said
        if missing and time.monotonic() - self._said_at >= SAY_DROPPED_S:
            self._said, self._said_at = self._said + missing, time.monotonic()
            told = logging.LogRecord(__name__, logging.WARNING, __file__, 0, "log.dropped", (), None)
            told.n_lines = missing
            self._target.handle(told)

    def finish(self) -> None:
        """Write what waits, for `CLOSE_S` at most: a standard error that hangs must not keep the process."""
        thread, self._thread = self._thread, None
        if thread is not None:
            self.enqueue_sentinel()
            thread.join(CLOSE_S)
