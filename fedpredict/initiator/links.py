"""The standing links to one party: which link takes a call, and what becomes of a call whose link is lost."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import Any

from typing_extensions import override

from fedpredict.errors import PartyError, PartyTimeoutError, PartyUnavailableError
from fedpredict.initiator.greeting import Acquaintance
from fedpredict.wire.link import MAX_CALLS, PROBE_S, QUIET_S, Deadlines, Instance, Silences
from fedpredict.wire.link_caller import Keeper, LinkCall, LinkCaller, fail_lost

logger = logging.getLogger(__name__)

BRIDGE_S = 10.0
"""How long calls wait for a party that was linked and is gone: so long a restart may take without failing one."""
MAX_TRIES = 2
"""Scoring is idempotent: a call whose link is lost is sent once more."""


class LinkPool(Keeper):
    """The links to one party; one per process of the party, each used least where most is under way."""

    def __init__(self, who: Acquaintance, calls: str = "online") -> None:
        """Prepare, without a link.

        Args:
            who: The party that answers.
            calls: What is asked over these links, for the log: "online" or "offline".
        """
        self.calls = calls
        self.changed = asyncio.Event()
        """Set when a link is lost or drains; for whoever dials."""
        self._who = who
        self._party = who.party
        self._loop = asyncio.get_running_loop()
        self._links: dict[LinkCaller, Instance] = {}
        self._usable: list[LinkCaller] = []
        self.takes_several = False
        """Whether all that take calls take those for several models; while there is none, as it was."""
        self.takes_buckets = False
        """Whether all that take calls take those of offline tasks; while there is none, as it was."""
        self.masking: tuple[LinkCaller, ...] = ()
        """Those that take calls for masked shares, in the order of the party's workers."""
        self._turn = 0
        self._waiting: list[LinkCall[Any]] = []
        self._deadlines = Deadlines(self._expire)
        self._bridged_until = 0.0
        self._joined_until = 0.0
        self._because = "it has not been linked yet"
        self._n_lost = 0
        self.reconnects = 0
        """How many links took the place of one that was lost."""
        self._probes: dict[LinkCaller, asyncio.Task[None]] = {}
        self._silences = Silences(QUIET_S, lambda: self._links, self._probe)

    @property
    def takes_calls(self) -> bool:
        """Whether a call begun now would be sent, or would wait for a link that is expected back."""
        return bool(self._usable) or self._loop.time() < self._bridged_until

    @property
    def unsettled(self) -> bool:
        """Whether the party, or one worker of it, was lost a moment ago, so that it may not be ready yet."""
        return self._loop.time() < max(self._bridged_until, self._joined_until)

    @property
    def carriers(self) -> dict[str, int]:
        """How many usable links there are, by carrier."""
        names = [link.carrier.name for link in self._usable]
        return {name: names.count(name) for name in sorted(set(names))}

    def workers(self, carrier: str) -> set[int]:
        """Return the party's workers to which there is a usable link over a carrier."""
        return {self._links[link].worker for link in self._usable if link.carrier.name == carrier}

    def inviting(self) -> dict[int, LinkCaller]:
        """Return a usable link to each worker that dials another one for offline tasks when it is asked to."""
        return {self._links[link].worker: link for link in self._usable if self._links[link].dials_offline}

    def linked_workers(self) -> set[int]:
        """Return the party's workers to which there is a usable link."""
        return {self._links[link].worker for link in self._usable}

    def leave(self) -> None:
        """Use no link any more, and expect none: each closes when its calls are over, and is not counted as lost."""
        for link in tuple(self._usable):
            link.retire()
        self._n_lost, self._bridged_until, self._because = 0, 0.0, "it was left, as it was idle"

    def add(self, link: LinkCaller, instance: Instance) -> None:
        """Take a link that was greeted; an older one to the same process is replaced.

        A link to another process that calls itself the same worker may be what a dead one left behind: it is asked
        whether it is alive.
        """
        if not link.usable:
            return
        for older, known in tuple(self._links.items()):
            if older.usable and known.name == instance.name:
                older.retire()
                # its calls need not wait for their deadlines if it was lost without a word
                self._probe(older)
            elif older.usable and known.worker == instance.worker:
                self._probe(older)
        self._links[link] = instance
        link.suspected = self._probe
        self._silences.watch()
        self._use([*self._usable, link])
        if self._n_lost:
            self._n_lost -= 1
            self.reconnects += 1
            self._joined_until = self._loop.time() + BRIDGE_S
        if self._bridged_until:
            self._bridged_until = self._loop.time() + BRIDGE_S
        extra = {"party": self._party, "carrier": link.carrier.name, "peer_worker": instance.worker}
        extra["calls"] = self.calls
        logger.info("party.linked", extra={**extra, "n": len(self._usable)})  # `worker` is this process's own
        waiting, self._waiting = self._waiting, []
        for call in waiting:
            call.keeper = None
            self.start(call)

    def link_changed(self, link: LinkCaller) -> None:
        """Learn that a link drains or is closed."""
        if link in self._usable:
            self._use([each for each in self._usable if each is not link])
            self._n_lost += 1
            self._because = link.closed_because or "it takes no further calls"
            extra = {"party": self._party, "carrier": link.carrier.name, "reason": self._because}
            logger.info("party.unlinked", extra={**extra, "calls": self.calls})
            if not self._usable:
                self._bridged_until = self._loop.time() + BRIDGE_S
            self.changed.set()
        if link.closed_because:
            self._links.pop(link, None)

    def retire_other_carriers(self, carrier: str) -> None:
        """Use links over `carrier` alone from here on."""
        for link in tuple(self._usable):
            if link.carrier.name != carrier:
                link.retire()

    def start(self, call: LinkCall[Any]) -> None:
        """Send a call over the link with the least under way, or let it wait for one that is expected."""
        if call.done():
            return
        usable = self._usable
        if usable:
            link = usable[0] if len(usable) == 1 else self._least_loaded(usable)
            link.start(call)
        elif self._loop.time() >= self._bridged_until:
            call.fail(PartyUnavailableError(f"party {self._party}: no link: {self._because}", party=self._party))
        elif len(self._waiting) >= MAX_CALLS:
            call.fail(self._who.busy(len(self._waiting)))
        else:
            self._waiting.append(call)
            call.keeper = self
            self._deadlines.cover(min(call.ends, self._bridged_until))

    def start_later(self, call: LinkCall[Any], pause_s: float) -> None:
        """Send a call again after a pause."""
        self._loop.call_later(pause_s, self.start, call)

    def lost(self, call: LinkCall[Any], reason: str) -> None:
        """Send a call again whose link was lost, unless that happened to it before."""
        if call.tries < MAX_TRIES:
            self.start(call)
        else:
            fail_lost(call, reason, self._party)

    @override
    def give_up(self, call: LinkCall[Any]) -> None:
        """Forget a call that waits for a link."""
        call.keeper = None
        with suppress(ValueError):
            self._waiting.remove(call)

    async def close(self) -> None:
        """Close every link; calls under way end as `PartyUnavailableError`."""
        self._bridged_until = 0.0
        self._usable, self.masking, self._because = [], (), "this process stops"
        self._silences.stop()
        for probe in self._probes.values():
            probe.cancel()
        links, waiting = tuple(self._links), self._waiting
        self._waiting = []
        self._deadlines.stop()
        for link in links:
            link.close(self._because)
        for call in waiting:
            fail_lost(call, self._because, self._party)
        await asyncio.gather(*(link.carrier.ended.wait() for link in links))

    def _use(self, links: list[LinkCaller]) -> None:
        self._usable = links
        self.masking = tuple(
            sorted((link for link in links if self._links[link].masks), key=lambda link: self._links[link].worker)
        )
        if links:
            self.takes_several = all(self._links[link].takes_several for link in links)
            self.takes_buckets = all(self._links[link].takes_buckets for link in links)

    def _least_loaded(self, usable: list[LinkCaller]) -> LinkCaller:
        self._turn = (self._turn + 1) % len(usable)
        least = usable[self._turn]
        for link in usable:
            if link.load < least.load:
                least = link
        return least

    def _probe(self, link: LinkCaller) -> None:
        """Say hello on a link that may lead nowhere, and close it where nothing at all comes for `PROBE_S`."""
        if link in self._probes or link.closed_because:
            return

        async def probe() -> None:
            heard, ends = link.carrier.heard, link.heard_by() + PROBE_S
            with suppress(PartyError):  # also where the link is full: then its calls ask the same
                await self._who.call_out(link, PROBE_S)
            # also after an answer: callers with little time must not make one hello after the other
            await asyncio.sleep(PROBE_S if link.carrier.heard != heard else ends - self._loop.time())
            if link.carrier.heard == heard:
                link.close("the party was asked whether it is there, and nothing came")

        task = self._probes[link] = asyncio.create_task(probe())
        task.add_done_callback(lambda _: self._probes.pop(link, None))

    def _expire(self, now: float) -> float | None:
        over = now >= self._bridged_until
        ended = [call for call in self._waiting if over or call.ends <= now]
        self._waiting = [call for call in self._waiting if not over and call.ends > now]
        for call in ended:
            call.keeper = None
            if call.ends <= now:
                told = f"party {self._party} was not linked in time: {self._because}"
                call.fail(PartyTimeoutError(told, party=self._party))
            else:
                fail_lost(call, self._because, self._party)
        return min((min(call.ends, self._bridged_until) for call in self._waiting), default=None)
