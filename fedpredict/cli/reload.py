"""SIGHUP: a daemon's policy is read again, checked as a whole, and put in force, or left as it was (ADR 0043)."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from typing import Any, Generic, TypeVar

from pydantic import BaseModel

from fedpredict.errors import ConfigError, FedPredictError
from fedpredict.observe.policy import PolicyMetrics
from fedpredict.scoring.realtime_settings import EventSettings
from fedpredict.security.policy import Changes

logger = logging.getLogger(__name__)

S = TypeVar("S", bound=BaseModel)
_POLICY = frozenset({"callers", "clients", "policy"})
"""Settings that hold policy."""
UNKNOWN_S = 30.0
"""Longest that a reload waits to hear which models there are; the policy is in force before."""
_OF_EVENTS = frozenset({"senders", "limits"})
"""What does of `events`."""


class PolicyReload(Generic[S]):
    """The policy of one process, while it serves."""

    def __init__(
        self,
        running: S,
        read: Callable[[], S],
        replace: Callable[[S], Changes],
        metrics: PolicyMetrics,
        unknown: Callable[[S], Sequence[str]] | None = None,
    ) -> None:
        """Prepare.

        Args:
            running: The settings that the process was started with.
            read: Reads the settings files; raises `ConfigError`.
            replace: Puts the policy of some settings in force, and returns what is different.
            metrics: Counts reloads.
            unknown: Says, in a thread, which models of a policy this party does not know; it may read a warehouse.
        """
        self._running = running
        self._read = read
        self._replace = replace
        self._metrics = metrics
        self._unknown = unknown
        self._asked = asyncio.Event()

    def ask(self) -> None:
        """Have the policy read again soon; several wishes at once are one."""
        self._asked.set()

    async def run(self) -> None:
        """Read the policy whenever that was asked for, until cancelled."""
        await self.once(at_start=True)
        while True:
            await self._asked.wait()
            self._asked.clear()
            await self.once()

    async def once(self, *, at_start: bool = False) -> None:
        """Read the policy and put it in force, or leave everything as it was, and say so.

        Args:
            at_start: Whether nobody asked: the files may have changed while the process started, and a signal then
                reached nobody. Only a change is worth a word.
        """
        try:
            settings = await asyncio.to_thread(self._read)
            changed = self._replace(settings)
        except ConfigError as error:
            self._metrics.refused()
            further = list(getattr(error, "__notes__", ()))
            extra = {"reason": str(error), "further": further, "meaning": "the policy is as it was"}
            logger.error("policy.refused", extra=extra)  # noqa: TRY400  the reason says it all
            return
        except Exception:  # the edge of a background task: it must go on, and say what happened
            self._metrics.refused()
            logger.exception("policy.failed", extra={"meaning": "the policy is as it was"})
            return
        if at_start and not changed:
            return
        self._metrics.taken()
        told = {"added": list(changed.added), "removed": list(changed.removed), "changed": list(changed.changed)}
        logger.info("policy.reloaded", extra={**told, "needs_restart": self._needs_restart(settings)})
        await self._tell_unknown(settings)

    async def _tell_unknown(self, settings: S) -> None:
        """Warn of models that the party does not know: a slip of the pen, or they come later."""
        if self._unknown is None:
            return
        try:
            async with asyncio.timeout(UNKNOWN_S):
                unknown = await asyncio.to_thread(self._unknown, settings)
        except (FedPredictError, TimeoutError) as error:
            logger.info("policy.models_not_checked", extra={"reason": str(error) or "the warehouse takes too long"})
            return
        except Exception:  # as above
            logger.exception("policy.models_not_checked")
            return
        if unknown:
            logger.warning("policy.unknown_models", extra={"unknown": list(unknown)})

    def _needs_restart(self, settings: S) -> list[str]:
        """Return the keys beside the policy that differ from what the process was started with."""
        names = type(settings).model_fields.keys() - _POLICY
        return sorted(name for name in names if _fixed(getattr(settings, name)) != _fixed(getattr(self._running, name)))


def _fixed(value: object) -> object:
    """Return what of a setting holds until the process is started anew."""
    if isinstance(value, EventSettings):
        return {key: each for key, each in value if key not in _OF_EVENTS}
    return value


async def heeding(serving: Coroutine[Any, Any, None], reload: Callable[[], PolicyReload[Any]]) -> None:
    """Serve, and read the policy again at every SIGHUP meanwhile.

    Args:
        serving: Serves until it is told to stop.
        reload: Makes what is told of the signal, within the event loop.
    """
    loop, heard = asyncio.get_running_loop(), reload()
    loop.add_signal_handler(signal.SIGHUP, heard.ask)
    task = asyncio.create_task(heard.run())
    try:
        await serving
    finally:
        loop.remove_signal_handler(signal.SIGHUP)
        ignore_hangups()  # one that comes while the process stops must not cut that short
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def ignore_hangups() -> None:
    """Have SIGHUP do nothing until somebody heeds it: its default ends the process."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
