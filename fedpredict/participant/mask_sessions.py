"""The mask sessions of one process, from their first step on: whose they are, and when they end (ADR 0045)."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from fedpredict.errors import MaskingRefusedError
from fedpredict.model.scorer import ModelRef
from fedpredict.security.identity import Identity
from fedpredict.security.masking import MaskSession, MaskTerms

logger = logging.getLogger(__name__)

LIFETIME_S = 3600
"""How long a session is kept at most; the initiator opens another one before."""
MAX_SESSIONS = 16_384
"""Most sessions of one caller in a process, one for each of its processes, groups of links and models; beyond them its
oldest one ends."""


@dataclass(slots=True, eq=False, weakref_slot=True)
class HeldSession:
    """A session, from its first step on.

    Attributes:
        caller: Who opened it, and alone may use it.
        version: The version of the model, as this party is asked for it.
        terms: What is agreed on.
        link: What it was opened on; it ends with it.
        private_key: Until the second step.
        session: From the second step on.
        lifetime_s: How long it stands, from its first step on.
        expires: By the monotonic clock.
    """

    caller: str
    version: ModelRef
    terms: MaskTerms
    link: object
    private_key: X25519PrivateKey | None = field(default=None, repr=False)
    session: MaskSession | None = None
    lifetime_s: int = LIFETIME_S
    expires: float = 0.0

    def close(self, reason: str) -> None:
        """End it: another party of it is believed no more."""
        if self.session is not None:
            extra = {"model": self.version.model_id, "parties": self.terms.parties, "reason": reason}
            logger.warning("masking.ended", extra=extra)
        self.private_key = self.session = None


class HeldSessions:
    """The sessions of one process."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        """Begin without any; `now` is the monotonic clock, in seconds."""
        self._now = now
        self._held: dict[bytes, HeldSession] = {}

    def begin(self, held: HeldSession) -> None:
        """Keep a session; those that are over end, and the oldest of a caller who has too many.

        Raises:
            MaskingRefusedError: It was begun before.
        """
        now = self._now()
        self._held = {session_id: each for session_id, each in self._held.items() if each.expires > now}
        own = [session_id for session_id, each in self._held.items() if each.caller == held.caller]
        for session_id in own[: max(0, len(own) + 1 - MAX_SESSIONS)]:
            del self._held[session_id]
        if held.terms.session_id in self._held:
            told = f"party {held.caller} began a mask session twice"
            raise MaskingRefusedError(told, problem="a session that was begun before")
        held.expires = now + held.lifetime_s
        self._held[held.terms.session_id] = held

    def waiting(self, session_id: bytes, caller: Identity) -> tuple[HeldSession, X25519PrivateKey]:
        """Return a session that waits for keys, and its private key, which is used once.

        Raises:
            MaskingRefusedError: It is not this caller's, or waits for none.
        """
        held = self._held.get(session_id)
        if held is None or held.private_key is None or held.caller != caller.name:
            raise MaskingRefusedError(f"{caller} sent keys of no session that waits for any", problem="no such session")
        private_key, held.private_key = held.private_key, None
        return held, private_key

    def agreed(self, session_id: bytes, caller: Identity) -> tuple[ModelRef, MaskSession]:
        """Return what a session is of, and its keys.

        Raises:
            MaskingRefusedError: It is not this caller's, or is over.
        """
        held = self._held.get(session_id)
        if held is None or held.session is None or held.caller != caller.name or held.expires <= self._now():
            raise MaskingRefusedError(
                f"{caller} asked in a mask session that is not its own", problem="no such session"
            )
        return held.version, held.session

    def end(self, link: object) -> None:
        """End the sessions that were opened on a link, which is gone."""
        self._held = {session_id: each for session_id, each in self._held.items() if each.link is not link}
