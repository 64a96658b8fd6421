"""What waits beside the lines of the audit log: calls that get none, and answers that wait for theirs."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter, deque
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Protocol, TypeAlias

from fedpredict.model.sample_ids import SampleIds
from fedpredict.security.audit_file import text_of
from fedpredict.security.audit_line import TEXT, AuditedCall
from fedpredict.security.audit_peers import PeerCheckpoints

_COUNTED_CALLERS = 100

Then: TypeAlias = Callable[[BaseException | None], None]
"""Told None once the disk has a line, or what keeps it from that."""


class WaitingAnswers:
    """Answers that wait until the disk has their lines; asked by event loops, told by the thread that writes."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[int, asyncio.AbstractEventLoop, Then]] = deque()
        self.last = 0
        """The number of the newest."""

    def add(self, then: Then) -> None:
        """Have `then` called in the running event loop."""
        self._waiting.append((self.last + 1, asyncio.get_running_loop(), then))
        self.last += 1

    def end(self, error: BaseException | None, upto: int) -> None:
        """Tell those up to a number; `error` is None where their lines are safe."""
        while self._waiting and self._waiting[0][0] <= upto:
            _, loop, then = self._waiting.popleft()
            if not loop.is_closed():
                loop.call_soon_threadsafe(then, error)


class Audit(Protocol):
    """What takes lines; `AuditLog` does."""

    @property
    def peers(self) -> PeerCheckpoints:
        """What other parties are handed, and hand over."""

    @property
    def holds_answers(self) -> bool:
        """Whether an answer waits until the disk has its line."""

    def check(self) -> None:
        """Raise `AuditUnavailableError` where calls must not be answered, because they could not be written down."""

    def add(self, call: AuditedCall) -> None:
        """Have a call written down."""

    def add_answer(self, text: bytes, request_id: str, sample_ids: SampleIds) -> None:
        """Have a call written down that was answered: its fields, its id, and whom it is about."""

    def count_refused(self, caller: str) -> None:
        """Count a call that was refused and gets no line of its own."""

    def when_safe(self, then: Then) -> None:
        """Call `then` in this event loop, once the disk has every line so far, or with what keeps it from that."""


async def until_safe(audit: Audit) -> None:
    """Return once the disk has every line so far; raise `AuditUnavailableError` where it cannot have them."""
    safe: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def then(error: BaseException | None) -> None:
        if safe.done():  # nobody waits any more
            return
        if error is None:
            safe.set_result(None)
        else:
            safe.set_exception(error)

    audit.when_safe(then)
    await safe


class Unlisted:
    """Counts calls that get no line of their own, by caller."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._since: dict[str, str] = {}
        self._calls: dict[str, Counter[str]] = {}

    def add(self, kind: str, caller: str, now: datetime) -> None:
        """Count a call; "refused" or "lost"."""
        with self._lock:
            self._since.setdefault(kind, text_of(now))
            calls = self._calls.setdefault(kind, Counter())
            name = caller[:TEXT]
            calls[name if name in calls or len(calls) < _COUNTED_CALLERS else ""] += 1

    def take(self) -> dict[str, dict[str, object]]:
        """Return what was counted since the last time, as fields of a line, by kind."""
        if not self._calls:
            return {}
        with self._lock:
            taken: dict[str, dict[str, object]] = {
                kind: {"since": self._since[kind], "calls": dict(calls)} for kind, calls in self._calls.items()
            }
            self._since, self._calls = {}, {}
        return taken

    def put_back(self, taken: Mapping[str, Mapping[str, object]]) -> None:
        """Count again what could not be written."""
        with self._lock:
            for kind, body in taken.items():
                self._since[kind] = str(body["since"])
                calls: object = body["calls"]
                self._calls.setdefault(kind, Counter()).update(calls if isinstance(calls, dict) else {})
