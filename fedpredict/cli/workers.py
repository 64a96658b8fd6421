"""Several processes that serve the same ports: started, watched, started again when one dies, and stopped together.

Every worker binds the ports itself (SO_REUSEPORT), and the kernel deals connections out among them. That a port is
free is looked at once, here, before any worker starts: a stranger's server on it is an error and not a silent half of
the traffic. This process holds the ports while workers come and go.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from types import FrameType

from fedpredict.cli.reload import ignore_hangups
from fedpredict.errors import ConfigError
from fedpredict.observe.heap import share_heap
from fedpredict.wire.link import Instance

logger = logging.getLogger(__name__)

RESTART_S, MAX_RESTART_S = 0.5, 30.0
"""First and longest pause before a worker that died is started again."""
HEALTHY_S = 60.0
"""A worker that lived so long starts again after the first pause."""
STOP_MARGIN_S = 5.0
"""How long beyond its drain a worker may take to end before it is killed."""

Serve = Callable[[Instance, Callable[[str], None]], None]
"""Serves as one worker until SIGTERM; tells its address when it is ready. Must be importable: it is called in a new
process."""

_spawn = multiprocessing.get_context("spawn")


def run_workers(
    serve: Serve, count: int, listen: Sequence[str], ready: Callable[[str], None], *, drain_s: float
) -> None:
    """Serve with `count` processes until SIGTERM or SIGINT, then stop them and return.

    Args:
        serve: What each process does.
        count: How many.
        listen: Every host:port that the workers will bind; port 0 has been replaced.
        ready: Told the address once, when all workers are ready.
        drain_s: How long a worker may take to finish its calls.

    Raises:
        ConfigError: A port is taken, or a worker ends before it was ready; its own message is in the log.
    """
    with ExitStack() as stack:
        for address in listen:
            stack.enter_context(_held(address))
        _Workers(serve, count, drain_s).run(ready)


def free_port(listen: str) -> str:
    """Return `listen` with a free port in the place of port 0.

    >>> free_port("127.0.0.1:7443")
    '127.0.0.1:7443'
    """
    host, _, port = listen.rpartition(":")
    if port != "0":
        return listen
    with socket.create_server((host.strip("[]"), 0), family=_family(host)) as probe:
        return f"{host}:{probe.getsockname()[1]}"


@dataclass(slots=True)
class _Slot:
    """A worker's place: the process in it, and when the next may start after it."""

    worker: int
    process: SpawnProcess | None = None
    told: Connection | None = None
    is_ready: bool = False
    started: float = 0.0
    failures: int = 0
    starts_at: float = 0.0


@dataclass(slots=True)
class _Workers:
    serve: Serve
    count: int
    drain_s: float
    slots: list[_Slot] = field(default_factory=list)
    stopping: bool = False

    def run(self, ready: Callable[[str], None]) -> None:
        self.slots = [_Slot(index) for index in range(self.count)]
        wake, woken = _spawn.Pipe(duplex=False)

        def stop() -> None:
            self.stopping = True
            woken.send(None)

        with _signals(stop, self._pass_on):
            try:
                self._watch(ready, wake)
            finally:
                self._stop()

    def _pass_on(self) -> None:
        """Hand SIGHUP on to every worker; each reads its policy again."""
        for slot in self.slots:
            if slot.process is not None and slot.process.pid is not None and slot.process.is_alive():
                os.kill(slot.process.pid, signal.SIGHUP)

    def _watch(self, ready: Callable[[str], None], wake: Connection) -> None:
        announced = False
        while not self.stopping:
            self._start_due()
            told = [slot.told for slot in self.slots if slot.told is not None]
            dead = [slot.process.sentinel for slot in self.slots if slot.process is not None]
            wait([wake, *told, *dead], timeout=self._pause_s())
            addresses = [address for slot in self.slots if (address := self._look(slot, announced=announced))]
            if not announced and addresses and all(slot.is_ready for slot in self.slots):
                announced = True
                ready(addresses[0])

    def _start_due(self) -> None:
        for slot in self.slots:
            if slot.process is None and time.monotonic() >= slot.starts_at:
                self._start(slot)

    def _start(self, slot: _Slot) -> None:
        slot.told, tell = _spawn.Pipe(duplex=False)
        slot.process = _spawn.Process(
            target=_work, args=(self.serve, slot.worker, self.count, tell), name=f"fedpredict-worker-{slot.worker}"
        )
        with _hangups_held():
            slot.process.start()
        tell.close()
        slot.started = time.monotonic()

    def _pause_s(self) -> float | None:
        due = [slot.starts_at for slot in self.slots if slot.process is None]
        return max(0.0, min(due) - time.monotonic()) if due else None

    def _look(self, slot: _Slot, *, announced: bool) -> str:
        """Take what a worker said or that it died; return its address when it has just said it."""
        address = ""
        if slot.told is not None and slot.told.poll():
            try:
                address, slot.is_ready = slot.told.recv(), True
            except EOFError:
                slot.told = None
        if slot.process is not None and not slot.process.is_alive() and not self.stopping:
            self._bury(slot, announced=announced)
        return address

    def _bury(self, slot: _Slot, *, announced: bool) -> None:
        process = slot.process
        if process is None:
            return
        process.join()
        if not announced and not slot.is_ready:
            raise ConfigError(f"worker {slot.worker} ended with code {process.exitcode} before it was ready")
        slot.failures = 1 if time.monotonic() - slot.started > HEALTHY_S else slot.failures + 1
        pause_s = min(MAX_RESTART_S, RESTART_S * 2.0 ** (slot.failures - 1))
        slot.process, slot.told, slot.starts_at = None, None, time.monotonic() + pause_s
        extra = {"worker": slot.worker, "exit_code": process.exitcode, "restart_in_s": pause_s}
        logger.error("worker.died", extra=extra)

    def _stop(self) -> None:
        living = [slot.process for slot in self.slots if slot.process is not None]
        for process in living:
            process.terminate()
        ends = time.monotonic() + self.drain_s + STOP_MARGIN_S
        for process in living:
            process.join(max(0.1, ends - time.monotonic()))
            if process.is_alive():
                logger.error("worker.killed", extra={"name_of": process.name})
                process.kill()
                process.join()


def _work(serve: Serve, worker: int, workers: int, tell: Connection) -> None:
    """Serve in a new process; end when the supervisor is gone, whatever became of it."""
    share_heap()
    ignore_hangups()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the supervisor says when to stop
    threading.Thread(target=end_with_parent, name="fedpredict-parent", daemon=True).start()
    serve(Instance(worker=worker, workers=workers), tell.send)


def end_with_parent() -> None:
    """Ask this process to end when the one that started it is gone, whatever became of it; blocks until then."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)


@contextmanager
def _held(listen: str) -> Iterator[None]:
    """Hold a port without listening, so that workers can bind it and nobody else notices it as free."""
    host, _, port = listen.rpartition(":")
    try:
        with socket.create_server((host.strip("[]"), int(port)), family=_family(host)):
            pass  # nobody has it, not even with SO_REUSEPORT
    except OSError as error:
        raise _cannot_be_bound(listen) from error
    with socket.socket(_family(host), socket.SOCK_STREAM) as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        # or closed connections of a server before us, which shared the port with nobody, would keep it for a minute
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            held.bind((host.strip("[]"), int(port)))
        except OSError as error:
            raise _cannot_be_bound(listen) from error
        yield


def _cannot_be_bound(listen: str) -> ConfigError:
    return ConfigError(f"listen: {listen} cannot be bound; the port is taken, or the address is not of this machine")


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


@contextmanager
def _hangups_held() -> Iterator[None]:
    """Hold SIGHUP back, also from a process that is started: it would end one that is not ready for it yet.

    A worker that was held back reads its policy when it has started, so that it misses nothing.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _signals(stop: Callable[[], None], hang_up: Callable[[], None]) -> Iterator[None]:
    def handle(number: int, _frame: FrameType | None) -> None:
        (hang_up if number == signal.SIGHUP else stop)()

    before = {each: signal.signal(each, handle) for each in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
