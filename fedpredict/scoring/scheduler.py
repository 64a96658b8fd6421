"""The scheduler of a daemon: looks at what is due, has it done elsewhere, and says how it ended (ADR 0033).

A look asks the warehouse whether the newest due instant is done, and has it done if not. So a look at the start catches
up what was missed, and a look for what another daemon has done does nothing. The only module that knows APScheduler.
"""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

from apscheduler.events import EVENT_JOB_MAX_INSTANCES
from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.base import BaseTrigger
from typing_extensions import override

from fedpredict.errors import FedPredictError
from fedpredict.observe.scoring import ScheduleMetrics
from fedpredict.scoring.cron import Cron
from fedpredict.scoring.due import is_to_be_done
from fedpredict.scoring.schedule import SCORE, Job
from fedpredict.tables.schedule_runs import DONE, FAILED, HELD, Run, list_runs, write_run
from fedpredict.warehouse.base import Warehouse

logger = logging.getLogger(__name__)
logging.getLogger("apscheduler").setLevel(logging.CRITICAL)  # what it has to say is said here

RETRIES_S = (60.0, 300.0, 900.0)
"""After so long what failed is tried again, as long as nothing newer is due; then at the next due instant."""
HELD_S = 60.0
"""After so long it is looked whether another process has done what it was at."""


@dataclass(frozen=True, slots=True)
class Ended:
    """How a run ended: `done`, `failed` or `held`, and why."""

    outcome: str
    problem: str = ""


class Runner(Protocol):
    """Does the work, out of the way of the event loop that answers."""

    def run(self, job: Job, due: datetime) -> Ended:
        """Do a job as of a due instant; blocks until it ended."""

    def stop(self) -> None:
        """End what is under way, whose leases end by themselves."""


def _utc_now() -> datetime:
    return datetime.now(UTC)


class Scheduler:
    """Runs jobs while it is started: one refresh at a time, and beside it one scoring of a day."""

    def __init__(
        self,
        jobs: Sequence[Job],
        warehouse: Warehouse,
        runner: Runner,
        *,
        metrics: ScheduleMetrics | None = None,
        now: Callable[[], datetime] = _utc_now,
    ) -> None:
        """Start nothing yet.

        Args:
            jobs: What is scheduled.
            warehouse: The party's.
            runner: Does the jobs.
            metrics: Counts how they ended.
            now: This moment, UTC.
        """
        self._jobs = jobs
        self._warehouse = warehouse
        self._runner = runner
        self._metrics = metrics or ScheduleMetrics()
        self._now = now
        self._failures: dict[str, tuple[datetime, int]] = {}
        self._stopping = threading.Event()
        executors = {name: ThreadPoolExecutor(1) for name in ("refresh", SCORE)}
        defaults = {"coalesce": True, "max_instances": 1, "misfire_grace_time": None}
        self._scheduler: Any = BackgroundScheduler(executors=executors, job_defaults=defaults, timezone=UTC)
        self._scheduler.add_listener(_tell_overlap, EVENT_JOB_MAX_INSTANCES)

    def start(self) -> None:
        """Look at every job at once, and then whenever it is due."""
        for job in self._jobs:
            self._scheduler.add_job(
                self.look, _Due(job.cron), [job], id=job.name, executor=_lane(job), next_run_time=_utc_now()
            )
            extra = {"job": job.name, "cron": job.cron.text, "timezone": job.cron.zone}
            logger.info("schedule.planned", extra={**extra, "next_due": job.cron.after(self._now()).isoformat()})
        self._scheduler.start()

    def stop(self) -> None:
        """End what is under way and look no more."""
        self._stopping.set()
        self._scheduler.shutdown(wait=False)
        self._runner.stop()

    def look(self, job: Job) -> None:
        """Have the newest due instant of a job done unless it is; and what became due meanwhile, once."""
        due = job.cron.last(self._now())
        while not self._stopping.is_set():
            try:
                ended = self._do(job, due)
            except Exception:  # the edge of a thread: it must go on, and say what happened
                logger.exception("schedule.failed", extra={"job": job.name})
                ended = Ended(FAILED, "unexpected")
            newer = job.cron.last(self._now())
            if newer == due:
                self._plan_again(job, due, ended)
                return
            due = newer

    def _do(self, job: Job, due: datetime) -> Ended:
        """Do what is missing as of a due instant, and tell how that ended."""
        started = self._now()
        try:
            if not is_to_be_done(self._warehouse, job, due):
                return Ended(DONE)
            done_due = self._tell_skipped(job, due)
            ended = self._runner.run(job, due)
        except FedPredictError as error:
            done_due, ended = None, Ended(FAILED, str(error))
        if self._stopping.is_set():
            return ended
        self._metrics.ended(job.name, ended.outcome)
        extra = {"job": job.name, "due": due.isoformat(), "seconds": (self._now() - started).total_seconds()}
        if ended.outcome == DONE:
            logger.info("schedule.done", extra=extra)
        else:
            event = "schedule.held" if ended.outcome == HELD else "schedule.failed"
            logger.warning(event, extra={**extra, "reason": ended.problem})
        if ended.outcome != HELD:  # who is at it records how that ended
            self._record(job, due, ended, started, due if ended.outcome == DONE else done_due)
        return ended

    def _tell_skipped(self, job: Job, due: datetime) -> datetime | None:
        """Log the due instants since the last one that was done, and return that one."""
        last = list_runs(self._warehouse).get(job.name)
        if last is None or last.done_due is None:
            return None
        skipped = job.cron.between(last.done_due, due)
        if skipped:
            extra = {"job": job.name, "instants": len(skipped), "due": due.isoformat()}
            first, newest = skipped[0].isoformat(), skipped[-1].isoformat()
            logger.warning("schedule.skipped", extra={**extra, "first": first, "last": newest})
        return last.done_due

    def _record(self, job: Job, due: datetime, ended: Ended, started: datetime, done_due: datetime | None) -> None:
        run = Run(
            job=job.name,
            due=due,
            outcome=ended.outcome,
            problem=ended.problem,
            started_at=started,
            finished_at=self._now(),
            done_due=done_due,
            host=socket.gethostname(),
        )
        try:
            write_run(self._warehouse, run)
        except FedPredictError as error:
            logger.warning("schedule.not_recorded", extra={"job": job.name, "reason": str(error)})

    def _plan_again(self, job: Job, due: datetime, ended: Ended) -> None:
        if ended.outcome == DONE or self._stopping.is_set():
            self._failures.pop(job.name, None)
            return
        failed_due, times = self._failures.get(job.name, (due, 0))
        times = times if failed_due == due else 0
        if ended.outcome == HELD:
            pause_s = HELD_S
        elif times < len(RETRIES_S):
            pause_s = RETRIES_S[times]
            self._failures[job.name] = (due, times + 1)
        else:
            return
        again_at = _utc_now() + timedelta(seconds=pause_s)
        self._scheduler.add_job(
            self.look,
            "date",
            [job],
            run_date=again_at,
            id=f"{job.name}.again",
            executor=_lane(job),
            replace_existing=True,
        )
        logger.info("schedule.again", extra={"job": job.name, "at": again_at.isoformat()})


class _Due(BaseTrigger):  # type: ignore[misc]  # the package has no types
    """The due instants of a cron expression, for APScheduler."""

    def __init__(self, cron: Cron) -> None:
        self._cron = cron

    @override
    def get_next_fire_time(self, previous_fire_time: datetime | None, now: datetime) -> datetime:
        """Return the first one after the one before, or after now."""
        return self._cron.after((previous_fire_time or now).astimezone(UTC))


def _lane(job: Job) -> str:
    return SCORE if job.view is None else "refresh"


def _tell_overlap(event: Any) -> None:
    logger.warning("schedule.overlapped", extra={"job": event.job_id, "meaning": "the run before has not ended"})
