"""The limit of distinct sample ids per caller and day, kept before answers leave (ADR 0042).

A question is looked at before it is computed: one that would pass the limit is refused as a whole, and costs nothing
else. What it adds to the caller's day is counted when the answer is there, and only then may the answer leave.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import Context
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

from typing_extensions import override

from fedpredict.errors import DistinctIdsUnavailableError
from fedpredict.model.sample_ids import SampleIds
from fedpredict.model.scorer import PartyReply, ScoreQuery
from fedpredict.model.several import rows_of_models
from fedpredict.observe.scoring import DistinctReading
from fedpredict.scoring.local_party import INLINE_SAMPLES
from fedpredict.state.distinct_digests import CallerDay, NewIds
from fedpredict.state.distinct_ids import DistinctIds

logger = logging.getLogger(__name__)

_T = TypeVar("_T")
_Ids = TypeVar("_Ids", bound=Collection[bytes])

THREADS = 8
"""So many look-ups and transactions at the same time; the next ones wait."""
MOST_SEEN = 200_000
"""Sample ids that a process remembers of a caller's day, twice; what is forgotten is looked up again."""


class DistinctLimit:
    """The limit, in one process; all calls come from its event loop, but those of `refresh` and `close`."""

    def __init__(self, counts: DistinctIds | None, limits: Callable[[], Mapping[str, int]]) -> None:
        """Prepare.

        Args:
            counts: Where ids are counted; None: nowhere, and callers with a limit get no answer.
            limits: How many ids callers may ask about on a day, at this moment; who is not in it has no limit.
        """
        self._counts = counts
        self._limits = limits
        self._threads = ThreadPoolExecutor(THREADS, "fedpredict-distinct")
        self._seen: dict[str, _Seen] = {}
        self._waiting: dict[CallerDay, list[tuple[NewIds, asyncio.Future[None]]]] = {}
        self._writing: set[asyncio.Task[None]] = set()
        self._used: dict[str, int] = {}
        self._problems: dict[str, str] = {}

    async def check(self, caller: str, sample_ids: Sequence[bytes]) -> Asked:
        """Return what has to be counted before the answer about some ids may leave.

        Args:
            caller: Who asks, a party that may.
            sample_ids: The ids.

        Raises:
            DistinctIdsUsedUpError: The caller would have asked about more ids than it may.
            DistinctIdsUnavailableError: Nothing can be counted.
        """
        limit = self._limits().get(caller)
        if limit is None or not len(sample_ids):
            return FREE
        counts, seen = self._opened(), self._seen_of(caller)
        unseen = await self._in_turn(seen.unseen, sample_ids)
        if not unseen:
            return FREE
        new = await self._thread(counts.look, seen.who, SampleIds.of(unseen), limit)
        if new is None:
            await self._in_turn(seen.add, unseen)
            return FREE
        return _New(self, seen.who, new, seen, unseen)

    async def check_list(self, caller: str, sample_ids: SampleIds, ids_sha256: str) -> Asked:
        """Do the same for a list of many ids, which this process does not remember one by one.

        Args:
            caller: Who asks, a party that may.
            sample_ids: The ids.
            ids_sha256: Their digest in hex (`digest_of`).

        Raises:
            DistinctIdsUsedUpError, DistinctIdsUnavailableError: As `check` says.
        """
        limit = self._limits().get(caller)
        if limit is None or not len(sample_ids):
            return FREE
        counts = self._opened()
        who = CallerDay(caller, counts.today())
        new = await self._thread(counts.look, who, sample_ids, limit, ids_sha256)
        return FREE if new is None else _New(self, who, new)

    def refresh(self) -> None:
        """Look what was counted, also by other processes, and forget and remove old days; blocks, and never fails."""
        counts = self._counts
        if counts is None:
            return
        counts.prune()
        today, used = counts.today(), {}
        for caller in [each for each, seen in tuple(self._seen.items()) if seen.who.day != today]:
            self._seen.pop(caller, None)
        for caller in self._limits():
            problem = ""
            try:
                used[caller] = counts.used(CallerDay(caller, today))
            except DistinctIdsUnavailableError as error:
                problem = str(error)
            self._tell(caller, problem)
        self._used = used

    def readings(self) -> list[DistinctReading]:
        """Return how much of each limit was used when `refresh` last looked."""
        limits = self._limits()
        return [DistinctReading(each, used, limits[each]) for each, used in self._used.items() if each in limits]

    def close(self) -> None:
        """Let go of the threads; what they do is finished first."""
        self._threads.shutdown()

    def _tell(self, caller: str, problem: str) -> None:
        """Log what is the matter with a caller's count when it comes, changes or goes."""
        before = self._problems.get(caller, "")
        self._problems[caller] = problem
        if problem and problem != before:
            logger.error("distinct_ids.unavailable", extra={"caller": caller, "reason": problem})
        elif before and not problem:
            logger.info("distinct_ids.recovered", extra={"caller": caller})

    def _opened(self) -> DistinctIds:
        if self._counts is None:
            raise DistinctIdsUnavailableError("a caller has distinct_ids_per_day, and this process counts nowhere")
        return self._counts

    def _seen_of(self, caller: str) -> _Seen:
        seen, today = self._seen.get(caller), self._opened().today()
        if seen is None or seen.who.day != today:
            seen = self._seen[caller] = _Seen(CallerDay(caller, today))
        return seen

    async def count(self, who: CallerDay, new: NewIds) -> None:
        """Count what a question adds, or raise; those that come while a transaction is under way share the next one."""
        loop = asyncio.get_running_loop()
        counted: asyncio.Future[None] = loop.create_future()
        waiting = self._waiting.get(who)
        if waiting is not None:
            waiting.append((new, counted))
        else:
            self._waiting[who] = [(new, counted)]
            task = loop.create_task(self._write(who), context=Context())
            self._writing.add(task)
            task.add_done_callback(self._writing.discard)
        await counted

    async def _write(self, who: CallerDay) -> None:
        while some := self._waiting[who]:
            self._waiting[who] = []
            outcomes: Sequence[Exception | None]
            try:
                outcomes = await self._thread(self._opened().count, who, [new for new, _ in some])
            except Exception as error:  # noqa: BLE001  those who wait are told, whatever it is
                outcomes = [error] * len(some)
            for (_, counted), outcome in zip(some, outcomes, strict=True):
                if counted.done():  # its caller has left; what was counted stays so
                    continue
                if outcome is None:
                    counted.set_result(None)
                else:
                    counted.set_exception(outcome)
        del self._waiting[who]

    async def remember(self, seen: _Seen, sample_ids: Collection[bytes]) -> None:
        """Take note of ids that are counted."""
        await self._in_turn(seen.add, sample_ids)

    async def look(self, who: CallerDay, sample_ids: Sequence[bytes], limit: int) -> NewIds | None:
        """Return what ids would add to a day that a question came on."""
        return await self._thread(self._opened().look, who, SampleIds.of(sample_ids), limit)

    async def _in_turn(self, call: Callable[[_Ids], _T], sample_ids: _Ids) -> _T:
        """Do what takes little within the event loop: of as many ids as are scored there."""
        return call(sample_ids) if len(sample_ids) <= INLINE_SAMPLES else await self._thread(call, sample_ids)

    async def _thread(self, call: Callable[..., _T], *arguments: object) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, partial(call, *arguments))


class Asked:
    """What a question adds to its caller's day: here nothing."""

    async def count(self, answered: Sequence[bytes] | None = None) -> None:
        """Count it; return when that is safe, so that the answer may leave.

        Args:
            answered: The ids that there is an answer about, where it is not all of them.

        Raises:
            DistinctIdsUsedUpError: Meanwhile other questions used the limit up.
            DistinctIdsUnavailableError: It could not be counted.
        """


FREE = Asked()
"""Every id was counted before, or the caller has no limit."""


@dataclass(slots=True, eq=False)
class _New(Asked):
    """A question with ids that may be new.

    Attributes:
        limiter: Counts it.
        who: The caller, and the day that the question came.
        new: What is to be counted.
        seen: What this process knows of the day, and is told; None: nothing is.
        unseen: The ids.
    """

    limiter: DistinctLimit
    who: CallerDay
    new: NewIds
    seen: _Seen | None = None
    unseen: Collection[bytes] = ()

    @override
    async def count(self, answered: Sequence[bytes] | None = None) -> None:
        new: NewIds | None = self.new
        unseen = self.unseen
        if answered is not None:
            unseen = set(answered).intersection(unseen)
            new = await self.limiter.look(self.who, tuple(unseen), self.new.limit)
        if new is not None:
            await self.limiter.count(self.who, new)
        if self.seen is not None:
            await self.limiter.remember(self.seen, unseen)


@dataclass(slots=True, eq=False)
class _Seen:
    """Ids that need no counting any more: two generations, of which the older is forgotten when the younger is full.

    Several threads may use it: at worst an id is forgotten, and looked up again.

    Attributes:
        who: Whose they are, and of which day.
    """

    who: CallerDay
    _young: set[bytes] = field(default_factory=set)
    _old: set[bytes] = field(default_factory=set)

    def unseen(self, sample_ids: Sequence[bytes]) -> set[bytes]:
        """Return those ids that are not known to be counted."""
        if self._young.issuperset(sample_ids):
            return set()
        unseen = set(sample_ids) - self._young
        again = unseen & self._old
        if again:
            self.add(again)
        return unseen - again

    def add(self, sample_ids: Collection[bytes]) -> None:
        """Take note of ids that are counted, or never will be."""
        self._young.update(sample_ids)
        if len(self._young) >= MOST_SEEN:
            self._old, self._young = self._young, set()


def ids_of_models(query: ScoreQuery, chosen: Sequence[bool]) -> Sequence[bytes]:
    """Return the sample ids of some models of a query for several, by their places."""
    if all(chosen):
        return query.sample_ids
    ids = SampleIds.of(query.sample_ids)
    rows = [each for each, is_chosen in zip(rows_of_models(query), chosen, strict=True) if is_chosen]
    return SampleIds.concat([ids.cut(each.start, each.stop) for each in rows]) if rows else ()


def answered_ids(query: ScoreQuery, reply: PartyReply) -> Sequence[bytes] | None:
    """Return the ids of models that have a share; None: of all."""
    if not reply.failures:
        return None
    return ids_of_models(query, [place not in reply.failures for place in range(len(query.models))])
