"""The links that calls of offline tasks have for themselves: opened when first needed, left when idle (ADR 0036).

A bucket is a frame of megabytes. On a link that online questions take as well, these would wait behind it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Protocol, TypeVar

from google.protobuf.message import Message
from typing_extensions import override

from fedpredict.errors import FedPredictError, PartyTimeoutError, PartyUnavailableError
from fedpredict.initiator.greeting import Acquaintance
from fedpredict.initiator.links import LinkPool
from fedpredict.initiator.unary import UnaryParty
from fedpredict.wire.link import PROBE_S, RECHECK_S, SEARCH_S, Backoff
from fedpredict.wire.link_caller import ANSWERS, LinkCall, LinkCaller
from fedpredict.wire.v1 import link_pb2

logger = logging.getLogger(__name__)

IDLE_S = 60.0
"""After so long without a call the links are left."""
SHARED_CALLS = 1
"""Calls under way at once where they have to share the links of online questions: one frame is what these wait for."""
AGAIN_S = 0.1
"""The pause before a party that has just come back, and is not ready yet, is asked again."""

_Reply = TypeVar("_Reply", bound=Message)


class Opener(Protocol):
    """Fills a pool with links while `run` runs."""

    tried: asyncio.Event
    """Set when it is known whether there will be links soon."""

    async def run(self) -> None:
        """Keep the pool filled, until cancelled."""

    async def close(self) -> None:
        """Return when the connections are gone; the pool closes their links."""


class Inviter(Opener):
    """Has a party that dials us dial one more link per worker, by a hello on the links that are there."""

    def __init__(self, who: Acquaintance, pool: LinkPool, online: LinkPool) -> None:
        """Prepare; nobody is asked before `run`.

        Args:
            who: The party.
            pool: Where the links come to, by `Attachments`.
            online: Those over which it is asked.
        """
        self.tried = asyncio.Event()
        self._who = who
        self._pool = pool
        self._online = online

    @override
    async def run(self) -> None:
        """Ask every worker that lacks a link, again and again, until cancelled."""
        backoff = Backoff(longest_s=SEARCH_S)
        while True:
            self._pool.changed.clear()
            links = self._online.inviting()
            lacking = links.keys() - self._pool.linked_workers()
            for worker in lacking:
                await self._invite(links[worker])
            if links and not lacking:
                self.tried.set()
                backoff.reset()
                wait_s = RECHECK_S
            else:
                wait_s = SEARCH_S
            if not links:  # an older release, or nobody: no link will come soon
                self.tried.set()
            with suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._pool.changed.wait()
            self.tried.set()
            await asyncio.sleep(backoff.next_s())

    async def _invite(self, link: LinkCaller) -> None:
        try:
            await self._who.call_out(link, PROBE_S, wants_offline_link=True)
        except FedPredictError as error:
            logger.debug("party.not_invited", extra={"party": self._who.party, "reason": str(error)})
        except Exception:  # the edge of a background task: it must go on, and say what happened
            logger.exception("link.failed")

    @override
    async def close(self) -> None:
        """Return at once: the connections are those of `Attachments`."""


class OfflineLine:
    """Calls of offline tasks to one party, which need not offer them.

    They take links of their own. A party that listens is dialled once more, per worker; one that dials us is asked to.
    An older release that dials us knows nothing of that: its calls share the links of online questions, one at a time.
    A party that offers no links is asked over a connection of its own as well.
    """

    def __init__(
        self,
        who: Acquaintance,
        pool: LinkPool,
        *,
        unary: UnaryParty | None,
        opener: Opener,
        online: LinkPool | None = None,
    ) -> None:
        """Put together; nothing is opened before the first call.

        Args:
            who: The party that answers.
            pool: Its links for these calls; this object closes them.
            unary: The other way to it, closed by this object; None for a party that dials us.
            opener: Fills the pool.
            online: The links that are shared where the pool stays empty and there is no other way.
        """
        self.pool = pool
        self._who = who
        self._unary = unary
        self._opener = opener
        self._online = online
        self._loop = asyncio.get_running_loop()
        self._opening: asyncio.Task[None] | None = None
        self._idle: asyncio.TimerHandle | None = None
        self._leaving: set[asyncio.Task[None]] = set()
        self._n_calls = 0
        self._sharing = asyncio.Semaphore(SHARED_CALLS)

    @property
    def is_open(self) -> bool:
        """Whether links are kept open now."""
        return self._opening is not None

    @property
    def carriers(self) -> dict[str, int]:
        """How many connections take calls now, by what carries them; empty while there are none."""
        if self.pool.carriers or self._unary is None or not self.is_open or not self._unary.is_met:
            return self.pool.carriers
        return {"unary": 1}

    async def ask(self, frame: link_pb2.Frame, reply_type: type[_Reply], deadline_s: float) -> _Reply:
        """Make a call, and return the message that answers it.

        Raises:
            PartyError: The party is away, slow, refuses, or offers no offline tasks.
            FedPredictError: As it says.
        """
        body, ends = frame.WhichOneof("body") or "", self._loop.time() + deadline_s
        try:
            with self._needed():
                async with asyncio.timeout_at(ends):
                    await self._opener.tried.wait()
                if self._unary is not None and not self.pool.takes_calls:
                    left_s = ends - self._loop.time()
                    return await self._unary.ask(body, getattr(frame, body), reply_type, left_s)
                if self._online is None or self.pool.takes_calls:
                    answer = await self._call(self.pool, frame, ends)
                else:
                    answer = await self._share(self._online, frame, ends)
        except TimeoutError as error:
            told = f"party {self._who.party} was not linked in time"
            raise PartyTimeoutError(told, party=self._who.party) from error
        reply: _Reply = getattr(answer, ANSWERS[body])
        return reply

    async def close(self) -> None:
        """Close every connection; calls under way end."""
        if self._idle is not None:
            self._idle.cancel()
        if self._opening is not None:
            self._opening.cancel()
            await asyncio.wait({self._opening})
        await self.pool.close()
        await self._opener.close()
        if self._unary is not None:
            await self._unary.close()
        await asyncio.gather(*self._leaving)

    @contextmanager
    def _needed(self) -> Iterator[None]:
        """Have links inside the block, and for `IDLE_S` after the last one."""
        self._n_calls += 1
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None
        if self._opening is None:
            self._opening = asyncio.create_task(self._opener.run())
        try:
            yield
        finally:
            self._n_calls -= 1
            if not self._n_calls:
                self._idle = self._loop.call_later(IDLE_S, self._leave)

    def _leave(self) -> None:
        self._idle = None
        if self._opening is not None:
            self._opening.cancel()
            self._opening = None
        self._opener.tried.clear()
        self.pool.leave()
        if self._unary is not None:
            task = asyncio.create_task(self._unary.redial())  # which connects when it is asked again
            self._leaving.add(task)
            task.add_done_callback(self._leaving.discard)

    async def _share(self, online: LinkPool, frame: link_pb2.Frame, ends: float) -> link_pb2.Frame:
        async with asyncio.timeout_at(ends):
            await self._sharing.acquire()
        try:
            return await self._call(online, frame, ends)
        finally:
            self._sharing.release()

    async def _call(self, pool: LinkPool, frame: link_pb2.Frame, ends: float) -> link_pb2.Frame:
        if pool.carriers and not pool.takes_buckets:
            raise self._who.no_offline_tasks()

        def answered(call: LinkCall[link_pb2.Frame], answer: link_pb2.Frame) -> None:
            if not answer.HasField("failure"):
                call.set_result(answer)
                return
            error: FedPredictError = self._who.no_share(answer.failure)
            comes_back = isinstance(error, PartyUnavailableError) and pool.unsettled
            if comes_back and call.ends - self._loop.time() > AGAIN_S:
                pool.start_later(call, AGAIN_S)
            else:
                call.fail(error)

        call: LinkCall[link_pb2.Frame] = LinkCall(frame, ends, answered, pool.lost)
        pool.start(call)
        return await call
