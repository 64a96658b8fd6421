"""What `[schedule]` says, and what a scheduler does with it: due instants, what was missed, who is at work already."""

from __future__ import annotations

import logging
import threading
import tomllib
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError
from typing_extensions import override

from fedpredict.errors import (
    LeaseHeldError,
    LeaseLostError,
    NameRefusedError,
    StatementError,
    ViewRefusedError,
    WarehouseUnavailableError,
)
from fedpredict.features.refresh import RefreshReport, refresh_view
from fedpredict.features.registration import register_view
from fedpredict.model.kinds import Kind
from fedpredict.model.linear import LinearPart
from fedpredict.model.partial import PartialModel
from fedpredict.observe.scoring import ScheduleMetrics
from fedpredict.scoring import leased
from fedpredict.scoring import scheduler as scheduling
from fedpredict.scoring.due import day_of, is_to_be_done, versions_in_use
from fedpredict.scoring.leased import (
    load_alone,
    prune_alone,
    refresh_alone,
    refresh_due,
    refresh_name,
    score_alone,
    score_due,
)
from fedpredict.scoring.schedule import Job, ScheduleSettings
from fedpredict.scoring.scheduler import Ended, Runner, Scheduler
from fedpredict.scoring.settings import TaskSettings
from fedpredict.state.lease_files import FolderLeases
from fedpredict.state.leases import Alone
from fedpredict.tables.models import current_versions, publish_model
from fedpredict.tables.schedule_runs import DONE, FAILED, HELD, list_runs
from fedpredict.tables.script_store import RegisteredView
from fedpredict.tables.shares import list_tasks, write_task
from fedpredict.tables.views import latest_snapshot, list_snapshots
from fedpredict.warehouse.base import Warehouse
from fedpredict.warehouse.local import LocalWarehouse
from tests.raw_transactions import AS_OF, Event, Merchant, example, store

VIEW, DEFINITION, SCRIPT = example("transactions")
HOUR = timedelta(hours=1)
NOON = AS_OF.replace(hour=12, minute=0, second=0, microsecond=0) + timedelta(days=1)


def schedule(text: str) -> ScheduleSettings:
    return ScheduleSettings.model_validate(tomllib.loads(text))


HOURLY, DAILY = schedule('timezone = "UTC"\ntransactions = "0 * * * *"\n[tasks]\nscore = "30 2 * * *"').jobs


@pytest.fixture
def warehouse(tmp_path: Path) -> Iterator[LocalWarehouse]:
    """Raw transactions of ten accounts, an hour before `AS_OF`, and their view."""
    warehouse = LocalWarehouse(tmp_path / "warehouse")
    events = [Event(f"e{at}", AS_OF - HOUR, f"a{at}", "m0", "1.00", "web") for at in range(10)]
    store(warehouse, events, [Merchant("m0", "food", "2020-02-29")])
    yield warehouse
    warehouse.close()


@pytest.fixture
def registered(warehouse: LocalWarehouse) -> RegisteredView:
    return register_view(warehouse, VIEW, DEFINITION, SCRIPT)[0]


@pytest.fixture
def alone(tmp_path: Path) -> Alone:
    return Alone(FolderLeases(tmp_path / "leases"))


def convert(
    warehouse: LocalWarehouse, registered: RegisteredView, model_id: str = "credit", *, weight: float = 1.0
) -> None:
    part = LinearPart(("n_30d",), np.array([[weight]]), None, np.array([0.0]))
    partial = PartialModel(model_id, "run-1", "bank", Kind.LINEAR, (), False, part)
    publish_model(warehouse, partial, registered.view.feature_view(registered.version), "a" * 64, lambda _: {})


class Worker(Runner):
    """Does the work in this thread, or what a test wants."""

    def __init__(self, warehouse: LocalWarehouse, alone: Alone) -> None:
        self._warehouse, self._alone = warehouse, alone
        self.asked: list[tuple[str, datetime]] = []
        self.answers: list[Ended] = []

    @override
    def run(self, job: Job, due: datetime) -> Ended:
        self.asked.append((job.name, due))
        if self.answers:
            return self.answers.pop(0)
        if job.view is None:
            score_due(self._alone, self._warehouse, day_of(due), TaskSettings())
        else:
            refresh_due(self._alone, self._warehouse, job.view, due)
        return Ended(DONE)

    @override
    def stop(self) -> None:
        pass


class Clock:
    def __init__(self, now: datetime) -> None:
        self.now = now

    def __call__(self) -> datetime:
        return self.now


def events_of(caplog: pytest.LogCaptureFixture, name: str) -> list[dict[str, Any]]:
    return [vars(record) for record in caplog.records if record.message == name]


def test_other_keys_are_views_and_a_view_of_such_a_name_has_a_place_of_its_own() -> None:
    found = schedule('timezone = "Europe/Berlin"\nbehaviour = "0 * * * *"\n[views]\ntimezone = "5 * * * *"').jobs

    assert {job.name: (job.view, job.cron.text, job.cron.zone) for job in found} == {
        "refresh.timezone": ("timezone", "5 * * * *", "Europe/Berlin"),
        "refresh.behaviour": ("behaviour", "0 * * * *", "Europe/Berlin"),
    }
    assert schedule("").jobs == ()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('behaviour = "0 * * * *"', "timezone: behaviour needs one"),
        ('timezon = "UTC"\nbehaviour = "0 * * * *"', "timezon is no view with a cron .* did you mean timezone"),
        ('timezone = "UTC"\n[task]\nscore = "0 * * * *"', "task is no view with .* did you mean tasks"),
        ('timezone = "Berlin"\nbehaviour = "0 * * * *"', 'there is no time zone "Berlin"'),
        ('timezone = "UTC"\nbehaviour = "hourly"', 'behaviour: "hourly" is no cron expression'),
        ('timezone = "UTC"\nbehaviour = "0 25 * * *"', 'behaviour: hour: "25" is not within 0 to 23'),
        ('timezone = "UTC"\n[tasks]\nscore = "0 0 31 2 *"', "tasks.score: .* is never due"),
        ('timezone = "UTC"\n[tasks]\nscores = "0 0 1 2 *"', "scores"),
        ('timezone = "UTC"\nBehaviour = "0 * * * *"', "view name"),
        ('timezone = "UTC"\nbehaviour = 5', "string"),
    ],
)
def test_a_schedule_that_cannot_be_is_refused_with_its_key(text: str, told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        schedule(text)


def test_a_look_does_the_newest_due_instant_once_whoever_looks(
    warehouse: LocalWarehouse, registered: RegisteredView, alone: Alone, caplog: pytest.LogCaptureFixture
) -> None:
    clock, metrics = Clock(NOON + timedelta(minutes=7)), ScheduleMetrics()
    one, other = Worker(warehouse, alone), Worker(warehouse, alone)
    caplog.set_level(logging.INFO)

    for worker in (one, other, one):
        Scheduler([HOURLY], warehouse, worker, now=clock, metrics=metrics).look(HOURLY)

    assert (one.asked, other.asked) == ([("refresh.transactions", NOON)], [])
    found = list_snapshots(warehouse)
    assert [(each.snapshot, each.n_rows) for each in found] == [(f"{NOON:%Y%m%dT%H%M%S}.000000Z", 10)]
    assert [(each["job"], each["due"]) for each in events_of(caplog, "schedule.done")] == [
        ("refresh.transactions", NOON.isoformat())
    ]
    (reading,) = metrics.read()
    assert list(reading.values) == [(("refresh.transactions", "done"), 1.0)]


def test_what_was_missed_is_caught_up_once_and_the_rest_is_told(
    warehouse: LocalWarehouse, registered: RegisteredView, alone: Alone, caplog: pytest.LogCaptureFixture
) -> None:
    clock, worker = Clock(NOON), Worker(warehouse, alone)
    scheduler = Scheduler([HOURLY], warehouse, worker, now=clock)
    scheduler.look(HOURLY)

    clock.now = NOON + 5 * HOUR + timedelta(minutes=59)
    scheduler.look(HOURLY)

    assert [due for _, due in worker.asked] == [NOON, NOON + 5 * HOUR]
    (told,) = events_of(caplog, "schedule.skipped")
    assert told["instants"] == 4
    assert (told["first"], told["last"]) == ((NOON + HOUR).isoformat(), (NOON + 4 * HOUR).isoformat())


def test_what_became_due_during_a_run_is_done_after_it_once(
    warehouse: LocalWarehouse, registered: RegisteredView, alone: Alone, caplog: pytest.LogCaptureFixture
) -> None:
    clock = Clock(NOON)

    class Slow(Worker):
        @override
        def run(self, job: Job, due: datetime) -> Ended:
            ended = super().run(job, due)
            if due == NOON:
                clock.now = NOON + 3 * HOUR
            return ended

    worker = Slow(warehouse, alone)
    Scheduler([HOURLY], warehouse, worker, now=clock).look(HOURLY)

    assert [due for _, due in worker.asked] == [NOON, NOON + 3 * HOUR]
    assert [each["instants"] for each in events_of(caplog, "schedule.skipped")] == [2]


def test_a_run_that_is_under_way_when_it_is_due_again_is_told(
    warehouse: LocalWarehouse, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    begun, told, end = threading.Event(), threading.Event(), threading.Event()

    class Always(scheduling._Due):
        @override
        def get_next_fire_time(self, previous_fire_time: datetime | None, now: datetime) -> datetime:
            return (previous_fire_time or now) + timedelta(milliseconds=200)

    class Busy(Scheduler):
        @override
        def look(self, job: Job) -> None:
            begun.set()
            end.wait(60.0)

    class Handler(logging.Handler):
        @override
        def emit(self, record: logging.LogRecord) -> None:
            if record.getMessage() == "schedule.overlapped":
                told.set()

    monkeypatch.setattr(scheduling, "_Due", Always)
    handler = Handler()
    logging.getLogger(scheduling.__name__).addHandler(handler)
    scheduler = Busy([HOURLY], warehouse, Worker(warehouse, Alone(FolderLeases(Path("unused")))))
    scheduler.start()
    try:
        assert begun.wait(60.0)
        assert told.wait(60.0)
    finally:
        end.set()
        scheduler.stop()
        logging.getLogger(scheduling.__name__).removeHandler(handler)
    assert events_of(caplog, "schedule.overlapped")[0]["job"] == "refresh.transactions"


def test_a_failure_is_told_recorded_and_tried_again_until_the_next_is_due(
    warehouse: LocalWarehouse, registered: RegisteredView, alone: Alone, caplog: pytest.LogCaptureFixture
) -> None:
    clock, worker = Clock(NOON), Worker(warehouse, alone)
    scheduler = Scheduler([HOURLY], warehouse, worker, now=clock)
    worker.answers = [Ended(FAILED, "the disk is full")] * 4
    caplog.set_level(logging.INFO)

    for _ in range(4):
        scheduler.look(HOURLY)
    failed = list_runs(warehouse)["refresh.transactions"]
    clock.now = NOON + HOUR
    scheduler.look(HOURLY)
    done = list_runs(warehouse)["refresh.transactions"]

    assert [each["reason"] for each in events_of(caplog, "schedule.failed")] == ["the disk is full"] * 4
    assert len(events_of(caplog, "schedule.again")) == len(scheduling.RETRIES_S)
    assert (failed.outcome, failed.problem, failed.due, failed.done_due) == (FAILED, "the disk is full", NOON, None)
    assert (done.outcome, done.problem, done.due, done.done_due) == (DONE, "", NOON + HOUR, NOON + HOUR)


def test_work_that_another_is_at_is_held_and_looked_at_again(
    warehouse: LocalWarehouse, registered: RegisteredView, alone: Alone, caplog: pytest.LogCaptureFixture
) -> None:
    worker = Worker(warehouse, alone)
    worker.answers = [Ended(HELD, "by another")]
    scheduler = Scheduler([HOURLY], warehouse, worker, now=Clock(NOON))
    caplog.set_level(logging.INFO)

    scheduler.look(HOURLY)
    recorded = list_runs(warehouse)
    with alone.hold(refresh_name("transactions", 1)), pytest.raises(LeaseHeldError, match="refresh:transactions:1"):
        refresh_due(alone, warehouse, "transactions", NOON)
    scheduler.look(HOURLY)

    assert [each["reason"] for each in events_of(caplog, "schedule.held")] == ["by another"]
    assert len(events_of(caplog, "schedule.again")) == 1
    assert recorded == {}  # it is the other one's to say how it ended
    assert list_runs(warehouse)["refresh.transactions"].outcome == DONE


def test_a_warehouse_that_is_away_and_a_view_that_is_gone_are_failures(
    warehouse: LocalWarehouse, alone: Alone, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    scheduler = Scheduler([HOURLY], warehouse, Worker(warehouse, alone), now=Clock(NOON))
    scheduler.look(HOURLY)

    def away(*_: object) -> None:
        raise WarehouseUnavailableError("the disk is not there")

    monkeypatch.setattr(scheduling, "is_to_be_done", away)
    monkeypatch.setattr(scheduling, "write_run", away)
    scheduler.look(HOURLY)

    reasons = [each["reason"] for each in events_of(caplog, "schedule.failed")]
    assert "no view transactions is registered" in reasons[0]
    assert reasons[1] == "the disk is not there"
    assert [each["reason"] for each in events_of(caplog, "schedule.not_recorded")] == ["the disk is not there"]


def test_the_newest_version_and_those_of_models_are_refreshed(warehouse: LocalWarehouse, alone: Alone) -> None:
    first = register_view(warehouse, VIEW, DEFINITION, SCRIPT)[0]
    convert(warehouse, first)
    for least in (">= 0", ">= 1"):
        register_view(warehouse, VIEW, DEFINITION, SCRIPT.replace("> 0", least))

    refresh_due(alone, warehouse, "transactions", NOON)

    assert [each.view.version for each in list_snapshots(warehouse)] == [1, 3]
    assert not is_to_be_done(warehouse, HOURLY, NOON)
    with pytest.raises(ViewRefusedError, match="no view other is registered \\(registered are transactions\\)"):
        refresh_due(alone, warehouse, "other", NOON)


def test_versions_that_pinned_models_need_are_refreshed_and_keep_no_schedule_from_being_done(
    warehouse: LocalWarehouse, alone: Alone, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refreshed(warehouse: Warehouse, registered: RegisteredView, *args: Any, **more: Any) -> RefreshReport:
        if registered.version == 3:
            raise StatementError("a column is gone")
        return refresh_view(warehouse, registered, *args, **more)

    for number, least in enumerate(("> 0", ">= 0", ">= 1", "> -1")):
        script = SCRIPT.replace("> 0", least)
        convert(warehouse, register_view(warehouse, VIEW, DEFINITION, script)[0], weight=float(number))
    assert versions_in_use(warehouse, "transactions") == [4]
    assert versions_in_use(warehouse, "transactions", 3) == [2, 3, 4]

    refresh_due(alone, warehouse, "transactions", NOON, n_served=3)
    made = sorted(each.view.version for each in list_snapshots(warehouse))
    monkeypatch.setattr(leased, "refresh_view", refreshed)
    refresh_due(alone, warehouse, "transactions", NOON + HOUR, n_served=3)

    assert made == [2, 3, 4]
    newest = {each.view.version: each.snapshot for each in list_snapshots(warehouse)}
    assert newest[2] == newest[4] > newest[3]
    assert not is_to_be_done(warehouse, HOURLY, NOON + HOUR)
    assert [each["version"] for each in events_of(caplog, "schedule.version_failed")] == [3]


def test_a_snapshot_as_of_later_makes_a_due_instant_needless(
    warehouse: LocalWarehouse, registered: RegisteredView, alone: Alone
) -> None:
    refresh_alone(alone, warehouse, registered, NOON + timedelta(minutes=30))

    assert not is_to_be_done(warehouse, HOURLY, NOON)
    assert is_to_be_done(warehouse, HOURLY, NOON + HOUR)


def test_a_day_is_scored_once_for_every_model_and_the_failure_of_one_stops_no_other(
    warehouse: LocalWarehouse, registered: RegisteredView, alone: Alone, caplog: pytest.LogCaptureFixture
) -> None:
    for model_id in ("b", "credit"):
        convert(warehouse, registered, model_id)
    refresh_view(warehouse, registered, NOON)
    day = day_of(NOON)

    with alone.hold(f"score:b:{list_models(warehouse)['b'][:12]}:{day}"), pytest.raises(LeaseHeldError):
        score_due(alone, warehouse, day, TaskSettings())
    between = [(each.model_id, each.finished_at is not None) for each in list_tasks(warehouse, day=day)]
    still = is_to_be_done(warehouse, DAILY, NOON)
    score_due(alone, warehouse, day, TaskSettings(keep_days=1))

    assert between == [("credit", True)]
    assert still
    assert [each["model"] for each in events_of(caplog, "schedule.model_failed")] == ["b"]
    # `keep_days` counts from today, which the example's days are long before: of them the newest stays
    assert [each.model_id for each in list_tasks(warehouse, day=day)] == ["b", "credit"]
    score_due(alone, warehouse, day + timedelta(days=1), TaskSettings(keep_days=1))
    assert {each.day for each in list_tasks(warehouse)} == {day + timedelta(days=1)}


def list_models(warehouse: LocalWarehouse) -> dict[str, str]:
    return {name: each.params_sha256 for name, each in current_versions(warehouse).items()}


def test_who_lost_its_lease_publishes_nothing_and_the_next_one_does(
    warehouse: LocalWarehouse, registered: RegisteredView, tmp_path: Path
) -> None:
    class Late(FolderLeases):
        """Whose lease has ended by the time that rows are written, and was taken over."""

        @override
        def renew(self, lease: Any, for_s: float) -> Any:
            others.take(lease.name, "other:1:x", 600.0)
            return super().renew(lease, for_s)

        @override
        def take(self, name: str, owner: str, for_s: float) -> Any:
            return super().take(name, owner, -1.0)

    others = FolderLeases(tmp_path / "leases")

    with pytest.raises(LeaseLostError, match=r"refresh:transactions:1: .* another process took it over"):
        refresh_alone(Alone(Late(tmp_path / "leases")), warehouse, registered, NOON)
    nothing = latest_snapshot(warehouse, "transactions")
    with pytest.raises(LeaseHeldError, match="other:1:x"):
        refresh_alone(Alone(others), warehouse, registered, NOON)

    assert nothing is None


def test_a_file_is_loaded_by_one_process_at_a_time_and_never_beside_a_refresh(
    warehouse: LocalWarehouse, alone: Alone, tmp_path: Path
) -> None:
    file = tmp_path / "people.csv"
    file.write_text("id,age\nu1,31\n")
    held = alone.leases.take(refresh_name("people", 1), "other:1:x", 600.0)

    with pytest.raises(LeaseHeldError, match="other:1:x"):
        load_alone(alone, warehouse, file, view="people", key="id")
    assert latest_snapshot(warehouse, "people") is None
    alone.leases.release(held)
    assert load_alone(alone, warehouse, file, view="people", key="id").version == 1

    # a new version is another piece of work
    alone.leases.take(refresh_name("people", 1), "other:1:x", 600.0)
    file.write_text("id,income\nu1,31\n")
    assert load_alone(alone, warehouse, file, view="people", key="id", new_version=True).version == 2
    with pytest.raises(NameRefusedError):
        load_alone(alone, warehouse, file, view="../people", key="id")


def test_a_file_is_not_loaded_by_who_lost_the_lease(warehouse: LocalWarehouse, tmp_path: Path) -> None:
    file = tmp_path / "people.csv"
    file.write_text("id,age\nu1,31\n")

    class Lost(FolderLeases):
        @override
        def renew(self, lease: Any, for_s: float) -> Any:
            raise LeaseLostError(f"{lease.name}: gone")

    with pytest.raises(LeaseLostError):
        load_alone(Alone(Lost(tmp_path / "leases")), warehouse, file, view="people", key="id")

    assert latest_snapshot(warehouse, "people") is None


def test_who_takes_over_writes_where_the_other_does_not(
    warehouse: LocalWarehouse, registered: RegisteredView, alone: Alone
) -> None:
    name = refresh_name("transactions", 1)
    alone.leases.take(name, "dead:1:x", -1.0)

    first = refresh_alone(alone, warehouse, registered, NOON).snapshot
    second = refresh_alone(alone, warehouse, registered, NOON).snapshot

    assert [each.snapshot[-7:] for each in (first, second)] == ["000001Z", "000002Z"]
    assert latest_snapshot(warehouse, "transactions") == second


def test_old_snapshots_go_but_the_newest_and_what_is_being_scored(
    warehouse: LocalWarehouse, registered: RegisteredView, alone: Alone
) -> None:
    convert(warehouse, registered)
    for hours in range(3):
        refresh_alone(alone, warehouse, registered, NOON + hours * HOUR)
    version = current_versions(warehouse)["credit"]
    task = score_alone(alone, warehouse, version, day_of(NOON)).task
    write_task(warehouse, replace(task, snapshot=f"{NOON:%Y%m%dT%H%M%S}.000000Z", finished_at=None))

    with alone.hold(refresh_name("transactions", 1)), pytest.raises(LeaseHeldError):
        prune_alone(alone, warehouse, 1)
    removed = [each.snapshot for each in prune_alone(alone, warehouse, 1)]
    left = [each.snapshot for each in list_snapshots(warehouse)]
    # the end of a refresh removes what is old by then
    write_task(warehouse, task)
    refresh_due(alone, warehouse, "transactions", NOON + 5 * HOUR, 1)

    names = [f"{NOON + hours * HOUR:%Y%m%dT%H%M%S}.000000Z" for hours in (0, 1, 2, 5)]
    assert (removed, left) == ([names[1]], [names[0], names[2]])
    assert [each.snapshot for each in list_snapshots(warehouse)] == [names[3]]
    snapshots = warehouse.read("fp_features_transactions", ["snapshot"], {}).column(0).to_pylist()
    assert set(snapshots) == {names[3]}


def test_a_day_that_another_is_scoring_is_told(
    warehouse: LocalWarehouse, registered: RegisteredView, alone: Alone
) -> None:
    convert(warehouse, registered)
    refresh_view(warehouse, registered, NOON)
    version, day = current_versions(warehouse)["credit"], day_of(NOON)

    with alone.hold(f"score:credit:{version.params_sha256[:12]}:{day}"), pytest.raises(LeaseHeldError, match="since"):
        score_alone(alone, warehouse, version, day)
    assert score_alone(alone, warehouse, version, day).task.n_ids == 10


def test_it_starts_with_a_look_and_stops(warehouse: LocalWarehouse, registered: RegisteredView, alone: Alone) -> None:
    done = threading.Event()

    class Told(Worker):
        @override
        def run(self, job: Job, due: datetime) -> Ended:
            done.set()
            return Ended(DONE)

    scheduler = Scheduler([HOURLY], warehouse, Told(warehouse, alone))
    scheduler.start()
    try:
        assert done.wait(60.0)
    finally:
        scheduler.stop()
    assert datetime.now(UTC) > NOON
