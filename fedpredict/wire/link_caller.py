"""The initiator's end of a link: calls go out as frames, and each answer finds its call by its id."""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable
from itertools import islice
from typing import Any, Generic, Protocol, TypeVar

from google.protobuf.message import DecodeError
from typing_extensions import override

from fedpredict.errors import PartyBusyError, PartyError, PartyRefusedError, PartyTimeoutError, PartyUnavailableError
from fedpredict.wire.channel import MAX_MESSAGE_BYTES
from fedpredict.wire.link import MAX_BYTES, MAX_CALLS, MAX_TASKS, SLOW_BYTES_PER_S, Carrier, Deadlines, LinkEnd
from fedpredict.wire.v1 import link_pb2

T = TypeVar("T")
ANSWERS = {
    "hello": "hello_reply",
    "describe": "described",
    "score": "scored",
    "score_bucket": "scored_bucket",
    "population": "population_told",
    "population_bucket": "population_bucket_put",
    "mask_key": "mask_key_told",
    "mask_keys": "mask_keys_taken",
    "masked_score": "scored",
    "masked_bucket": "scored_bucket",
}
"""What asks -> what answers; `failure` answers everything."""
_GIVEN_UP = 65_536
"""Calls given up whose late answers are still known as such."""


class LinkCall(asyncio.Future[T], Generic[T]):
    """One call, and the future of its answer; cancelling it tells the party."""

    def __init__(
        self,
        frame: link_pb2.Frame,
        ends: float,
        answered: Callable[[LinkCall[T], link_pb2.Frame], None],
        lost: Callable[[LinkCall[T], str], None],
    ) -> None:
        """Prepare; `LinkCaller.start` sends it.

        Args:
            frame: What is asked; its id and remaining time are filled in when it is sent.
            ends: The deadline, in the loop's time.
            answered: Gets the answer, of the right kind or a failure: sets the result or an exception.
            lost: Gets a reason, where the link ended before an answer came: may start the call on another link.
        """
        super().__init__()
        self.frame = frame
        self.ends = ends
        self.answered = answered
        self.lost = lost
        self.keeper: Keeper | None = None
        """What has the call at the moment, and is told when it is given up."""
        self.tries = 0
        """How often it was sent."""
        self.expects = ""
        self.call_id = 0
        self.size = 0
        self.heard = 0
        """What the carrier had heard when it was sent."""

    @override
    def cancel(self, msg: Any | None = None) -> bool:
        """Give the call up."""
        cancelled = super().cancel(msg)
        if cancelled and self.keeper is not None:
            self.keeper.give_up(self)
        return cancelled

    def fail(self, error: BaseException) -> None:
        """End the call with an error, unless it has ended."""
        if not self.done():
            self.set_exception(error)


class Keeper(Protocol):
    """Has calls that wait: a link, or whoever waits for one."""

    def give_up(self, call: LinkCall[Any]) -> None:
        """Forget a call whose future was cancelled."""


class LinkCaller(Keeper, LinkEnd):
    """Calls over one carrier.

    Flow control: at most `MAX_CALLS` calls and `MAX_BYTES` bytes are under way, and none is sent while the carrier asks
    to pause. Further calls wait in order, up to their deadlines; beyond `MAX_CALLS` waiting ones a call fails as
    `PartyBusyError`. A peer that breaks the protocol loses the link, and its calls are told `lost`.
    """

    def __init__(
        self, party: str, carrier: Carrier, *, changed: Callable[[LinkCaller], None], max_calls: int = MAX_CALLS
    ) -> None:
        """Take a carrier that is open.

        Args:
            party: Who answers, for errors.
            carrier: Carries the frames; this object closes it.
            changed: Called when the link begins to drain, and when it is closed.
            max_calls: Most calls under way.
        """
        self.party = party
        self.carrier = carrier
        self.draining = False
        """Set when no new call may begin on this link."""
        self.closed_because = ""
        """Why the link is gone; empty while it is there."""
        self.load = 0
        """Calls under way and waiting."""
        self.suspected: Callable[[LinkCaller], None] | None = None
        """Called when a call's time is over and nothing at all has come since it was sent: the peer may be gone."""
        self._changed = changed
        self._max_calls = max_calls
        self._loop = asyncio.get_running_loop()
        self._deadlines = Deadlines(self._expire)
        self._calls: dict[int, LinkCall[Any]] = {}
        self._waiting: deque[LinkCall[Any]] = deque()
        self._given_up: OrderedDict[int, None] = OrderedDict()
        self._bytes = 0
        self._blocked = False
        self._last_id = 0

    @property
    def usable(self) -> bool:
        """Whether new calls may begin."""
        return not self.draining and not self.closed_because

    def heard_by(self) -> float:
        """Return when a peer that is alive should have read what was sent (loop time).

        With many calls under way it may not be reading, until one of those that it has read, the oldest, is over.
        """
        ends = self._loop.time() + self._bytes / SLOW_BYTES_PER_S
        if len(self._calls) >= MAX_TASKS // 2:
            ends = max(ends, min(call.ends for call in islice(self._calls.values(), MAX_TASKS)))
        return ends

    def start(self, call: LinkCall[Any]) -> None:
        """Send a call, or let it wait for its turn."""
        if self._waiting or not self._may_send():
            if len(self._waiting) >= self._max_calls:
                call.fail(PartyBusyError(f"party {self.party}: {self.load} calls under way", party=self.party))
                return
            self._waiting.append(call)
            call.keeper = self
            self.load += 1
            self._deadlines.cover(call.ends)
            return
        self.load += 1
        self._send(call)

    @override
    def give_up(self, call: LinkCall[Any]) -> None:
        """Tell the party that nobody waits for a call any more."""
        call.keeper = None
        self.load -= 1
        # a call that waits here may have had its id on a link that was lost
        if self._calls.get(call.call_id) is not call:
            self._waiting.remove(call)
            return
        del self._calls[call.call_id]
        self._bytes -= call.size
        self._given_up[call.call_id] = None
        if len(self._given_up) > _GIVEN_UP:
            self._given_up.popitem(last=False)
        self.carrier.send(link_pb2.Frame(id=call.call_id, cancel=link_pb2.Cancel()).SerializeToString())
        self._go_on()

    def retire(self) -> None:
        """Take no new call; close when those under way are answered."""
        if not self.draining:
            self.draining = True
            waiting, self._waiting = self._waiting, deque()
            for call in waiting:
                self._release(call)
            self._changed(self)
            for call in waiting:
                call.lost(call, "the party takes no further calls on this link")
        self._go_on()

    def close(self, reason: str) -> None:
        """Close at once: calls under way are told `lost`."""
        self.carrier.close(reason)
        self.closed(reason)

    @override
    def received(self, data: bytes) -> None:
        try:
            frame = link_pb2.Frame.FromString(data)
        except DecodeError:
            self.close(f"party {self.party} sent a frame of {len(data)} bytes that does not parse")
            return
        call = self._calls.pop(frame.id, None)
        if call is None:
            self._take_unasked(frame)
            return
        self._bytes -= call.size
        self._release(call)
        body = frame.WhichOneof("body")
        if body not in (call.expects, "failure"):
            self.close(f"party {self.party} answered {call.expects} with {body}")
            call.lost(call, self.closed_because)
            return
        try:
            call.answered(call, frame)
        except Exception:
            # a defect, which the loop logs: no deadline covers the call any more, and its caller must not wait for ever
            call.fail(PartyRefusedError(f"party {self.party}: an answer that cannot be read", party=self.party))
            raise
        self._go_on()

    @override
    def pause_sending(self) -> None:
        self._blocked = True

    @override
    def resume_sending(self) -> None:
        self._blocked = False
        self._go_on()

    @override
    def closed(self, reason: str) -> None:
        if self.closed_because:
            return
        self.closed_because = reason
        self._deadlines.stop()
        calls = [*self._calls.values(), *self._waiting]
        self._calls.clear()
        self._waiting.clear()
        for call in calls:
            self._release(call)
        self._changed(self)
        for call in calls:
            call.lost(call, reason)

    def _may_send(self) -> bool:
        return not self._blocked and len(self._calls) < self._max_calls and self._bytes < MAX_BYTES

    def _send(self, call: LinkCall[Any]) -> None:
        """Send a call that is counted in `load` already."""
        remaining_s = call.ends - self._loop.time()
        if self.closed_because or remaining_s <= 0.0:
            self._release(call)
            if self.closed_because:
                call.lost(call, self.closed_because)
            else:
                call.fail(self._too_late())
            return
        call.call_id = call.frame.id = self._next_id()
        call.frame.remaining_ms = max(1, min(int(remaining_s * 1000), 0xFFFFFFFF))
        data = call.frame.SerializeToString()
        if len(data) > MAX_MESSAGE_BYTES:
            self._release(call)
            call.fail(_too_large(self.party, len(data)))
            return
        call.tries += 1
        call.expects = ANSWERS[call.frame.WhichOneof("body") or ""]
        call.size = len(data)
        call.heard = self.carrier.heard
        call.keeper = self
        self._bytes += call.size
        self._calls[call.call_id] = call
        self.carrier.send(data)
        self._deadlines.cover(call.ends)

    def _next_id(self) -> int:
        self._last_id = self._last_id % 0xFFFFFFFF + 1
        while self._last_id in self._calls or self._last_id in self._given_up:
            self._last_id = self._last_id % 0xFFFFFFFF + 1
        return self._last_id

    def _release(self, call: LinkCall[Any]) -> None:
        call.keeper = None
        self.load -= 1

    def _take_unasked(self, frame: link_pb2.Frame) -> None:
        if frame.id == 0 and frame.WhichOneof("body") == "drain":
            self.retire()
        elif frame.id in self._given_up:
            del self._given_up[frame.id]
        elif not self.closed_because:
            self.close(f"party {self.party} answered call {frame.id}, which was not made")

    def _go_on(self) -> None:
        while self._waiting and self._may_send():
            self._send(self._waiting.popleft())
        if self.draining and not self._calls and not self.closed_because:
            self.close("drained")

    def _expire(self, now: float) -> float | None:
        """End the calls whose deadline passed; return the earliest one left."""
        late = [each for each in self._calls.values() if each.ends <= now]
        for call in late:
            self.give_up(call)
            call.fail(self._too_late())
        if self.suspected is not None and any(call.heard == self.carrier.heard for call in late):
            self.suspected(self)
        for call in [each for each in self._waiting if each.ends <= now]:
            self.give_up(call)
            call.fail(self._too_late())
        return min((call.ends for call in (*self._calls.values(), *self._waiting)), default=None)

    def _too_late(self) -> PartyTimeoutError:
        return PartyTimeoutError(f"party {self.party} did not answer in time", party=self.party)


def _too_large(party: str, size: int) -> PartyError:
    return PartyRefusedError(
        f"party {party}: a call of {size} bytes; a message holds at most {MAX_MESSAGE_BYTES}", party=party
    )


def fail_lost(call: LinkCall[Any], reason: str, party: str) -> None:
    """End a call whose link is gone, and that is not made again."""
    call.fail(PartyUnavailableError(f"party {party}: the link was lost: {reason}", party=party))
