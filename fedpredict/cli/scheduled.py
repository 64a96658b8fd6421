"""What a daemon's schedule runs, in a child process: answers wait neither for it nor for the memory that it takes."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path

from typing_extensions import override

from fedpredict.cli import wiring
from fedpredict.cli.leases import opened_leases
from fedpredict.cli.workers import end_with_parent
from fedpredict.errors import (
    ConfigError,
    FedPredictError,
    LeaseHeldError,
    StateError,
    ViewRefusedError,
    WarehouseUnavailableError,
)
from fedpredict.observe.heap import share_heap
from fedpredict.observe.logs import add_log_context
from fedpredict.observe.queued import install_logging
from fedpredict.observe.scoring import ScheduleMetrics
from fedpredict.scoring.due import check_registered, day_of
from fedpredict.scoring.schedule import Job, ScheduleSettings
from fedpredict.scoring.scheduler import Ended, Runner, Scheduler
from fedpredict.state.leases import NoLeases
from fedpredict.tables.schedule_runs import DONE, FAILED, HELD
from fedpredict.warehouse.base import Warehouse

logger = logging.getLogger(__name__)

NICE = 10
"""What is added to the niceness of a child: answers go first where processors are short."""
STOP_S = 2.0
"""How long a child may take to end before it is killed."""

_spawn = multiprocessing.get_context("spawn")


class ChildRunner(Runner):
    """Runs each job in a process of its own, which ends with this one."""

    def __init__(self, path: Path) -> None:
        """Take the settings file that children read."""
        self._path = path
        self._children: set[SpawnProcess] = set()
        self._lock = threading.Lock()
        self._stopped = False

    @override
    def run(self, job: Job, due: datetime) -> Ended:
        """Start a child and wait for what it says."""
        receive, tell = _spawn.Pipe(duplex=False)
        child = _spawn.Process(target=_work, args=(self._path, job.name, job.view, due, tell), name=job.name)
        with self._lock:
            if self._stopped:
                return Ended(FAILED, "the daemon stops")
            child.start()
            self._children.add(child)
        tell.close()
        try:
            ended = receive.recv()
        except EOFError:
            child.join()
            ended = Ended(FAILED, f"its process ended with code {child.exitcode}")
        finally:
            child.join()
            receive.close()
            with self._lock:
                self._children.discard(child)
        return ended if isinstance(ended, Ended) else Ended(FAILED, "unexpected")

    @override
    def stop(self) -> None:
        """End the children: first asked to, then made to."""
        with self._lock:
            self._stopped = True
            children = list(self._children)
        for child in children:
            child.terminate()
        for child in children:
            child.join(STOP_S)
            if child.is_alive():
                child.kill()


@contextmanager
def schedule_running(
    path: Path, settings: ScheduleSettings, warehouse: Warehouse, metrics: ScheduleMetrics
) -> Iterator[None]:
    """Keep a daemon's schedule while the block runs; nothing where nothing is scheduled.

    Args:
        path: The settings file.
        settings: Its `[schedule]`.
        warehouse: The party's; stays open.
        metrics: Counts the runs.

    Raises:
        ConfigError: A view is not registered, or there is no place for leases.
    """
    if not settings.jobs:
        yield
        return
    _check(path, settings, warehouse)
    scheduler = Scheduler(settings.jobs, warehouse, ChildRunner(path), metrics=metrics)
    scheduler.start()
    try:
        yield
    finally:
        scheduler.stop()


def _check(path: Path, settings: ScheduleSettings, warehouse: Warehouse) -> None:
    """Refuse what cannot be; what is away is no reason to, for a daemon starts without it, and each run looks again."""
    try:
        with opened_leases(path) as leases:
            if isinstance(leases, NoLeases):
                raise ConfigError(
                    "schedule: needs a place for leases, so that no two processes do the same: [leases] url = "
                    '"postgresql+psycopg://user@host/database" (or, for one machine, "sqlite:///leases.db"), or [store]'
                    ' kind = "redis"'
                )
        for view in settings.views:
            check_registered(warehouse, view)
    except ViewRefusedError as error:
        raise ConfigError(f"schedule: {error}") from error
    except (WarehouseUnavailableError, StateError) as error:
        logger.warning("schedule.not_checked", extra={"reason": str(error)})


def _work(path: Path, name: str, view: str | None, due: datetime, tell: Connection) -> None:
    """Do a job in a new process, and tell how it ended."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the daemon says when to stop
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # leases are given back on the way out
    threading.Thread(target=end_with_parent, name="fedpredict-parent", daemon=True).start()
    os.nice(NICE)
    share_heap()
    tell.send(_ended(path, name, view, due))


def _ended(path: Path, name: str, view: str | None, due: datetime) -> Ended:
    try:
        loaded = wiring.load_party(path)
        install_logging(loaded.settings.log.level, json=not sys.stderr.isatty())
        add_log_context(job=name)
        _do(path, view, due)
    except LeaseHeldError as error:
        return Ended(HELD, str(error))
    except FedPredictError as error:
        return Ended(FAILED, str(error))
    except Exception as error:  # the edge of the process: the daemon is told, and the log has the rest
        logger.exception("schedule.unexpected")
        return Ended(FAILED, f"unexpected {type(error).__name__}; the log says more")
    return Ended(DONE)


def _do(path: Path, view: str | None, due: datetime) -> None:
    # a parser of SQL and an engine come with it, which the daemon itself does without
    from fedpredict.cli.model_prune import PRUNING_ERRORS, prune_as_set  # noqa: PLC0415
    from fedpredict.scoring.leased import refresh_due, score_due  # noqa: PLC0415
    from fedpredict.state.leases import Alone  # noqa: PLC0415

    with wiring.opened_warehouse(path) as party, opened_leases(path) as leases:
        if view is None:
            score_due(Alone(leases), party.warehouse, day_of(due), party.tasks)
            try:
                prune_as_set(wiring.load_party(path), party.warehouse, Alone(leases))
            except PRUNING_ERRORS as error:  # the day is scored all the same
                logger.warning("model.prune_failed", extra={"reason": str(error)})
        else:
            keep_days, served = party.features.keep_days, party.n_served
            refresh_due(Alone(leases), party.warehouse, view, due, keep_days, n_served=served)
