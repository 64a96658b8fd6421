"""Hands checkpoints to whoever keeps them elsewhere, in a thread of its own: a far disk or name server may hang."""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections.abc import Callable
from datetime import datetime

from fedpredict.security.audit_chain import Checkpoint
from fedpredict.security.audit_settings import AuditSettings

logger = logging.getLogger(__name__)

_STOP_S = 2.0
"""So long the end of the process waits for the last checkpoint to be handed out."""
_SYSLOG_AUTH_NOTICE = 10 * 8 + 5


class Anchoring:
    """Hands out the newest checkpoint; one that a newer one overtakes needs no telling."""

    def __init__(self, settings: AuditSettings, now: Callable[[], datetime]) -> None:
        """Prepare, with `[audit]` and the clock."""
        self._settings = settings
        self._now = now
        self._newest: Checkpoint | None = None
        self._changed = threading.Condition()
        self._is_stopping = False
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin, where somebody wants checkpoints."""
        if self._settings.anchor is None and self._settings.syslog is None:
            return
        self._thread = threading.Thread(target=self._run, name="fedpredict-audit-anchor", daemon=True)
        self._thread.start()

    def give(self, made: Checkpoint) -> None:
        """Have a checkpoint handed out; returns at once."""
        with self._changed:
            self._newest = made
            self._changed.notify()

    def stop(self) -> None:
        """Wait for the last one, but not for long."""
        if self._thread is None:
            return
        with self._changed:
            self._is_stopping = True
            self._changed.notify()
        self._thread.join(_STOP_S)
        if self._thread.is_alive():
            logger.warning("audit.not_anchored", extra={"reason": "the last checkpoint hangs"})

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._newest is not None or self._is_stopping)
                made, self._newest = self._newest, None
            if made is None:
                return
            for hand_out in (self._append, self._send):
                try:
                    hand_out(made)
                except Exception as error:
                    is_defect = not isinstance(error, OSError)
                    logger.warning("audit.not_anchored", extra={"reason": str(error)}, exc_info=is_defect)

    def _append(self, made: Checkpoint) -> None:
        if self._settings.anchor is None:
            return
        with self._settings.anchor.open("a") as anchor:
            anchor.write(made.text + "\n")
            anchor.flush()
            os.fsync(anchor.fileno())

    def _send(self, made: Checkpoint) -> None:
        if self._settings.syslog is None:
            return
        host, _, port = self._settings.syslog.rpartition(":")
        stamp = self._now().strftime("%b %d %H:%M:%S")
        message = f"<{_SYSLOG_AUTH_NOTICE}>{stamp} {socket.gethostname()} {made.text}"
        kind = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.socket(kind, socket.SOCK_DGRAM) as sender:
            sender.sendto(message.encode(), (host.strip("[]"), int(port)))
