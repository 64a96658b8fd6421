"""Leases: who does a piece of work at this moment, so that no two processes do the same (ADR 0033).

A lease has a name, an owner and an end; its owner renews it while the work goes on. When an owner dies, the end passes,
and the next one takes over.
"""

from __future__ import annotations

import logging
import os
import re
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Protocol

from typing_extensions import override

from fedpredict.errors import FedPredictError, LeaseHeldError, LeaseLostError, NameRefusedError

logger = logging.getLogger(__name__)

LEASE_S = 60.0
"""How long after its owner's last sign of life a lease can be taken over."""
RENEW_S = LEASE_S / 3.0
_POLL_S = 1.0
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,199}")


@dataclass(frozen=True, slots=True)
class Lease:
    """A lease as it stood when it was read or changed.

    Attributes:
        name: Of the work: 1 to 200 of A-Z, a-z, 0-9 and `_.:-`.
        owner: Of one process and one piece of work: host, process id and a random part.
        since: When the owner took it, UTC.
        until: When it ends unless it is renewed, UTC.
        turn: How often it was taken over from an owner who had not given it back, and so may still be at work.
    """

    name: str
    owner: str
    since: datetime
    until: datetime
    turn: int = 0


class Leases(Protocol):
    """Leases of one party. Calls may come from any thread and any process; of two that take, one gets it."""

    def take(self, name: str, owner: str, for_s: float) -> Lease:
        """Take a lease that nobody has, or whose end has passed.

        Args:
            name: Of the work.
            owner: Who takes it.
            for_s: Seconds until its end.

        Raises:
            LeaseHeldError: Another owner has it; the message says who, since when and until when.
            NameRefusedError: No lease can be named so.
            StateError, StoreError: Where the leases are kept cannot be used.
        """

    def renew(self, lease: Lease, for_s: float) -> Lease:
        """Put off a lease's end to `for_s` seconds from now, also where it has passed and nobody took the lease.

        Raises:
            LeaseLostError: The lease is another owner's, or gone.
            StateError, StoreError: As for `take`.
        """

    def release(self, lease: Lease) -> None:
        """Give a lease back; one that is no longer the owner's is left alone."""

    def close(self) -> None:
        """Release connections; closing twice is harmless."""


class NoLeases(Leases):
    """Where no place for leases is set up: everyone gets what they ask for."""

    @override
    def take(self, name: str, owner: str, for_s: float) -> Lease:
        """Return a lease that nobody else knows of."""
        now = datetime.now(UTC)
        return Lease(check_lease_name(name), owner, now, now + timedelta(seconds=for_s))

    @override
    def renew(self, lease: Lease, for_s: float) -> Lease:
        """Return it."""
        return lease

    @override
    def release(self, lease: Lease) -> None:
        """Do nothing."""

    @override
    def close(self) -> None:
        """Do nothing."""


class HeldLease:
    """A lease that this process holds at this moment, as far as it knows."""

    def __init__(self, leases: Leases, lease: Lease, for_s: float) -> None:
        self._leases = leases
        self._lease = lease
        self._for_s = for_s
        self._lock = threading.Lock()

    @property
    def turn(self) -> int:
        """`Lease.turn`."""
        return self._lease.turn

    def check(self) -> None:
        """Renew the lease: to be called right before anything of the work becomes visible.

        Raises:
            LeaseLostError: It was taken over.
            StateError, StoreError: Nobody knows, so nothing may become visible.
        """
        with self._lock:
            self._lease = self._leases.renew(self._lease, self._for_s)

    def release(self) -> None:
        """Give it back."""
        with self._lock:
            self._leases.release(self._lease)


@contextmanager
def hold(
    leases: Leases,
    name: str,
    *,
    wait_s: float = 0.0,
    waiting: Callable[[str], None] = lambda _why: None,
    for_s: float = LEASE_S,
) -> Iterator[HeldLease]:
    """Hold a lease while the block runs, renewed by a thread.

    Args:
        leases: The party's.
        name: Of the work.
        wait_s: How long to wait for another owner.
        waiting: Told once who has it, where that is waited for.
        for_s: How long it outlives this process; renewed three times in that.

    Raises:
        LeaseHeldError: Another owner has it, and still had after `wait_s`.
        NameRefusedError, StateError, StoreError: As `Leases.take` says.
    """
    held = HeldLease(leases, _take(leases, name, wait_s, waiting, for_s), for_s)
    done = threading.Event()
    renewing = threading.Thread(
        target=_renew, args=(held, name, done, for_s / 3.0), name="fedpredict-lease", daemon=True
    )
    renewing.start()
    try:
        yield held
    finally:
        done.set()
        renewing.join()
        try:
            held.release()
        except FedPredictError as error:  # it ends by itself
            logger.warning("lease.not_released", extra={"lease": name, "reason": str(error)})


@dataclass(frozen=True, slots=True)
class Alone:
    """How a process comes to do a piece of work alone.

    Attributes:
        leases: The party's.
        wait_s: How long to wait for another process that is at it.
        waiting: Told once who that is.
    """

    leases: Leases
    wait_s: float = 0.0
    waiting: Callable[[str], None] = lambda _why: None

    def hold(self, name: str) -> AbstractContextManager[HeldLease]:
        """Hold a lease; as the function `hold` says."""
        return hold(self.leases, name, wait_s=self.wait_s, waiting=self.waiting)


def check_lease_name(name: str) -> str:
    """Return `name` if a lease may have it; raise `NameRefusedError`."""
    if _NAME.fullmatch(name) is None:
        raise NameRefusedError(f"{name[:200]!r} cannot name a lease: 1 to 200 of A-Z, a-z, 0-9 and '_.:-'")
    return name


def held_by(lease: Lease) -> LeaseHeldError:
    """Return the error that says who has a lease."""
    since, until = (each.strftime("%Y-%m-%dT%H:%M:%SZ") for each in (lease.since, lease.until))
    return LeaseHeldError(
        f"{lease.name} is under way at {lease.owner} since {since}, by a lease until {until} that it renews: wait for "
        "it with --wait SECONDS; should it have died, the lease ends by itself"
    )


def lost(lease: Lease) -> LeaseLostError:
    """Return the error for a lease that was taken over."""
    return LeaseLostError(
        f"{lease.name}: {lease.owner} did not renew its lease in time, and another process took it over; nothing more "
        "of this run becomes visible"
    )


def _owner() -> str:
    return f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"


def _take(leases: Leases, name: str, wait_s: float, waiting: Callable[[str], None], for_s: float) -> Lease:
    owner, ends, told = _owner(), time.monotonic() + wait_s, False
    while True:
        try:
            return leases.take(name, owner, for_s)
        except LeaseHeldError as error:
            left = ends - time.monotonic()
            if left <= 0.0:
                raise
            if not told:
                told = True
                waiting(str(error))
            time.sleep(min(_POLL_S, left))


def _renew(held: HeldLease, name: str, done: threading.Event, every_s: float) -> None:
    while not done.wait(every_s):
        try:
            held.check()
        except LeaseLostError as error:
            logger.warning("lease.lost", extra={"lease": name, "reason": str(error)})
            return
        except FedPredictError as error:  # tried again; should it go on, `check` says so before anything is published
            logger.warning("lease.not_renewed", extra={"lease": name, "reason": str(error)})
