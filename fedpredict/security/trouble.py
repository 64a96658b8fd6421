"""Why connections to one address fail, told in the log of a running daemon: gRPC says little, and tries for ever."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping

from fedpredict.security.check import Finding, Level, explain_handshake
from fedpredict.security.live import LiveTls

logger = logging.getLogger(__name__)

FIRST_S = 3.0
"""So long it must fail before anybody looks: a peer that starts again is no trouble."""
EVERY_S = 30.0
"""Pause between two looks."""
SAME_S = 900.0
"""Pause before the same is told again."""
_TIMEOUT_S = 5.0


class Trouble:
    """Repeats a handshake that fails, now and then, and tells whose fault it is. Belongs to one event loop."""

    def __init__(self, event: str, fields: Mapping[str, str], address: str, name: str, live: LiveTls | None) -> None:
        """Prepare.

        Args:
            event: Of the line in the log.
            fields: What else stands in it.
            address: host:port that is dialled.
            name: The DNS name that the server must have.
            live: This end's TLS; None for plain text, where the error is all there is to tell.
        """
        self._event = event
        self._fields = dict(fields)
        self._address = address
        self._name = name
        self._live = live
        self._looks_at = 0.0
        self._told = ""
        self._tells_again_at = 0.0
        self._looking: asyncio.Task[None] | None = None

    def failed(self, error: BaseException) -> None:
        """Learn that a connection failed; returns at once."""
        now = asyncio.get_running_loop().time()
        if not self._looks_at:
            self._looks_at = now + FIRST_S
        elif now >= self._looks_at and self._looking is None:
            self._looks_at = now + EVERY_S
            self._looking = asyncio.create_task(self._look(error))

    def over(self) -> None:
        """Learn that there is a connection."""
        self._looks_at, self._told = 0.0, ""

    async def _look(self, error: BaseException) -> None:
        found = Finding(Level.OK, "")
        try:
            if self._live is not None:
                found = await asyncio.to_thread(
                    explain_handshake, self._address, self._live.files, self._name, _TIMEOUT_S
                )
            # where the handshake is as it should be, what came after it says more
            self._tell(found if found.level is Level.PROBLEM else Finding(Level.PROBLEM, str(error)))
        except Exception:  # the edge of a background task
            logger.exception("trouble.look_failed")
        finally:
            self._looking = None

    def _tell(self, found: Finding) -> None:
        now = asyncio.get_running_loop().time()
        if not self._looks_at or (found.what == self._told and now < self._tells_again_at):
            return
        self._told, self._tells_again_at = found.what, now + SAME_S
        extra = {**self._fields, "address": self._address, "reason": found.what}
        logger.warning(self._event, extra={**extra, "fix": found.fix} if found.fix else extra)
