"""Why connections to one address fail, told in the log of a running process: gRPC says little, and tries for ever."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping

from fedpredict.security.check import Finding, Level, explain_handshake
from fedpredict.security.tls import TlsFiles

logger = logging.getLogger(__name__)

FIRST_S = 3.0
"""So long it must fail before a daemon looks: a peer that starts again is no trouble."""
EVERY_S = 30.0
"""Pause between two looks."""
SAME_S = 900.0
"""Pause before the same is told again."""
_TIMEOUT_S = 5.0


class Trouble:
    """Repeats a handshake that fails, now and then, and tells whose fault it is.

    It looks in a thread of its own, which nobody waits for.
    """

    def __init__(
        self,
        event: str,
        fields: Mapping[str, str],
        address: str,
        name: str,
        files: TlsFiles | None,
        *,
        first_s: float | None = None,
    ) -> None:
        """Prepare.

        Args:
            event: Of the line in the log.
            fields: What else stands in it.
            address: host:port that is dialled.
            name: The DNS name that the server must have.
            files: This end's; None for plain text, where the error is all there is to tell.
            first_s: How long it must fail before anybody looks; default: `FIRST_S`.
        """
        self._event = event
        self._fields = {**fields, "address": address}
        self._address = address
        self._name = name
        self._files = files
        self._first_s = FIRST_S if first_s is None else first_s
        self._looks_at: float | None = None
        self._told = ""
        self._tells_again_at = 0.0
        self._looking = threading.Lock()

    def failed(self, error: BaseException) -> None:
        """Learn that a connection failed; returns at once."""
        now = time.monotonic()
        if self._looks_at is None:
            self._looks_at = now + self._first_s
        if now < self._looks_at or not self._looking.acquire(blocking=False):
            return
        self._looks_at = now + EVERY_S
        threading.Thread(target=self._look, args=(error,), name="fedpredict-trouble", daemon=True).start()

    def over(self) -> None:
        """Learn that there is a connection."""
        self._looks_at, self._told = None, ""

    def _look(self, error: BaseException) -> None:
        try:
            found = Finding(Level.OK, "")
            if self._files is not None:
                found = explain_handshake(self._address, self._files, self._name, _TIMEOUT_S)
            # where the handshake is as it should be, what came after it says more
            self._tell(found if found.level is Level.PROBLEM else Finding(Level.PROBLEM, str(error)))
        except Exception:  # the edge of a thread
            logger.exception("trouble.look_failed")
        finally:
            self._looking.release()

    def _tell(self, found: Finding) -> None:
        now = time.monotonic()
        if self._looks_at is None or (found.what == self._told and now < self._tells_again_at):
            return
        self._told, self._tells_again_at = found.what, now + SAME_S
        extra = {**self._fields, "reason": found.what}
        logger.warning(self._event, extra={**extra, "fix": found.fix} if found.fix else extra)
