"""Standing links: one connection that carries many calls at once, whoever dialled it (ADR 0011).

The initiator's end is a `LinkCaller`, the participant's a `LinkAnswerer`. Both speak `Frame`s over a `Carrier`: a TLS
socket (`wire.socket_carrier`) or a gRPC stream (`wire.stream_carrier`). Everything here runs in one event loop.
"""

from __future__ import annotations

import asyncio
import random
import secrets
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from fedpredict.errors import OverloadedError

SCORE_STREAM = "score_stream"
"""The capability in a hello: `ScoreStream` is served."""
SEVERAL_MODELS = "several_models"
"""The capability in a hello: a sub-task may be for several models."""
OFFLINE_TASKS = "offline_tasks"
"""The capability in a hello: buckets of offline tasks are answered, and populations taken."""
OFFLINE_LINK = "offline_link"
"""The capability in a hello on a link that a participant dialled: it dials another one, for calls of offline tasks
alone, when a later hello asks for it."""
MASKED_SUMS = "masked_sums"
"""The capability in a hello: shares are masked, for models that the party's settings name."""
NONCE_METADATA = "fedpredict-nonce-bin"
"""The metadata key of a participant's nonce on a stream that it dials: the initiator's first hello signs it."""
MAX_CALLS = 1024
"""Most calls under way on one link; further ones wait at the caller, as many again, and any beyond are refused."""
MAX_LINKS = 1024
"""Most links of one peer to one process: an online and an offline one to each of 256 workers, and as many again while
they restart."""
MAX_BYTES = 64 * 1024 * 1024
"""Most bytes of calls under way on one link; a further call waits, unless it is alone."""
MAX_TASKS = 256
"""Most calls that a participant computes at once per link; then it stops reading, until half of them are done."""
MAX_QUEUED_BYTES = 1024 * 1024
"""What a carrier holds unsent before it asks its end to pause."""
CONNECT_S = 3.0
"""Longest wait for a connection: what a blocked port costs, once in a while."""
RECHECK_S = 60.0
"""How often a side that dials looks again for a better carrier."""
SEARCH_S = 5.0
"""Longest pause before a side that dials looks again for workers that it did not find: one may be starting again."""
SETTLED_S = 5.0
"""A link that lasted so long is dialled again at once when it is lost."""
QUIET_S = 5.0
"""How often an initiator looks at its links: one from which nothing has come since the last look gets a hello."""
PROBE_S = 5.0
"""A link from which nothing at all comes for so long after such a hello is closed."""
SILENT_S = 15.0
"""How often a participant looks at its links: one from which nothing has come since the last look, and on which no call
is under way, is closed. An initiator says something every 2 × `QUIET_S`."""
SLOW_BYTES_PER_S = 256 * 1024
"""What a slow line carries: so long a link may be silent because of what is being sent over it."""
HANDSHAKE_S = 10.0
"""Longest silence before a peer has said who it is."""
CLOSE_S = 2.0
"""How long a closed carrier may take to send what it holds."""


def check_links(n_links: int, peer: object) -> None:
    """Raise `OverloadedError` where a peer has as many links to this process as one may have.

    Each holds a descriptor: who opened them without end would leave none for others.
    """
    if n_links >= MAX_LINKS:
        raise OverloadedError(f"{peer} has {n_links} links to this process", retry_after_ms=1000)


class Carrier(Protocol):
    """Carries frames, whole and in order, between the two ends of a link."""

    name: str
    """"socket" or "grpc"."""
    ended: asyncio.Event
    """Set when the connection is gone."""
    heard: int = 0
    """Grows with whatever comes from the peer, however little of a frame it is."""
    broken: str = ""
    """What the peer broke the protocol by; empty where it did not."""

    def send(self, data: bytes) -> None:
        """Send a frame, or queue it; ignored once the carrier is closed."""

    def pause_reading(self) -> None:
        """Deliver no more frames until `resume_reading`: the peer will have to wait."""

    def resume_reading(self) -> None:
        """Deliver frames again."""

    def close(self, reason: str) -> None:
        """Send what is queued, then close; the end hears `closed`. A second call changes nothing."""


class LinkEnd(Protocol):
    """What a carrier delivers to."""

    def received(self, data: bytes) -> None:
        """Take a frame as it came."""

    def pause_sending(self) -> None:
        """Send nothing that can wait: the peer is slower than we are."""

    def resume_sending(self) -> None:
        """Send again."""

    def closed(self, reason: str) -> None:
        """Learn, once, that nothing comes any more and nothing is sent."""


@dataclass(frozen=True, slots=True)
class Instance:
    """A process, as its hellos tell it.

    Attributes:
        name: Random per start, in hex.
        worker: It is worker `worker`, from 0, ...
        workers: ... of so many.
        takes_several: Whether it takes sub-tasks for several models.
        takes_buckets: Whether it takes buckets of offline tasks, and populations.
        dials_offline: Whether it dials another link, for calls of offline tasks, when it is asked to.
        for_offline: Whether it dialled this link for calls of offline tasks alone.
        masks: Whether it masks shares.
    """

    name: str = field(default_factory=lambda: secrets.token_hex(8))
    worker: int = 0
    workers: int = 1
    takes_several: bool = False
    takes_buckets: bool = False
    dials_offline: bool = False
    for_offline: bool = False
    masks: bool = False

    @property
    def shares_ports(self) -> bool:
        """Whether other processes listen at the same ports."""
        return self.workers > 1


def search_tries(n_workers: int, n_linked: int) -> int:
    """Return how often to dial in one go: each try reaches one of a peer's workers, as chance has it.

    >>> search_tries(2, 0), search_tries(2, 1)
    (8, 2)
    """
    return n_workers if n_linked else 2 * n_workers + 4


class Backoff:
    """Pauses between two tries: twice as long each time, up to a limit, and never in step with others."""

    def __init__(self, first_s: float = 0.05, longest_s: float = 2.0) -> None:
        self._first_s = first_s
        self._longest_s = longest_s
        self._pause_s = first_s

    def next_s(self) -> float:
        """Return how long to wait now."""
        pause_s, self._pause_s = self._pause_s, min(self._longest_s, 2 * self._pause_s)
        return pause_s * random.uniform(0.5, 1.0)  # noqa: S311  peers must not march in step

    def reset(self) -> None:
        """Begin anew."""
        self._pause_s = self._first_s


class Deadlines:
    """One timer for any number of deadlines: it fires at the earliest, and whoever keeps them says which is next."""

    def __init__(self, expire: Callable[[float], float | None]) -> None:
        """Prepare.

        Args:
            expire: Called with the loop's time: ends what is due, and returns the earliest deadline left, or None.
        """
        self._expire = expire
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._at = float("inf")

    def cover(self, ends: float) -> None:
        """See to a deadline (loop time). Cheap where an earlier one is covered already, as under steady load."""
        if ends < self._at:
            if self._timer is not None:
                self._timer.cancel()
            self._at = ends
            self._timer = self._loop.call_at(ends, self._fire)

    def stop(self) -> None:
        """Fire no more."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._at = None, float("inf")

    def _fire(self) -> None:
        self._timer, self._at = None, float("inf")
        # a timer may fire a clock tick early: what it fires for is due
        following = self._expire(self._loop.time() + 0.001)
        if following is not None:
            self.cover(following)


class Carried(Protocol):
    """An end of a link, as far as it can be listened to."""

    carrier: Carrier


LinkT = TypeVar("LinkT", bound=Carried)


class Silences(Generic[LinkT]):
    """Looks at links every so often, and tells of those from which nothing has come since the last look.

    A peer whose machine vanished, or a network that swallows what is sent, says nothing; and something on the way may
    even acknowledge in the peer's place, so that the kernel sees nothing amiss.
    """

    def __init__(self, every_s: float, links: Callable[[], Collection[LinkT]], silent: Callable[[LinkT], None]) -> None:
        """Prepare.

        Args:
            every_s: Seconds between two looks.
            links: Returns the links that are there.
            silent: Called with each link that was silent; may close it.
        """
        self._every_s = every_s
        self._links = links
        self._silent = silent
        self._heard: dict[LinkT, int] = {}
        self._timer: asyncio.TimerHandle | None = None

    def watch(self) -> None:
        """See to it that looking goes on: there is a link. It ends by itself when there is none."""
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._every_s, self._look)

    def stop(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None

    def _look(self) -> None:
        self._timer = None
        before, self._heard = self._heard, {link: link.carrier.heard for link in self._links()}
        if self._heard:
            self.watch()
        for link, heard in tuple(self._heard.items()):
            if before.get(link) == heard:
                self._silent(link)
