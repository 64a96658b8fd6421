"""What `doctor` looks at of work in the background: leases, schedules, offline tasks and standing populations."""

from __future__ import annotations

from collections.abc import Iterator

from fedpredict.cli import wiring
from fedpredict.cli.checks_local import Checked
from fedpredict.cli.config_file import Loaded
from fedpredict.cli.leases import opened_loaded_leases
from fedpredict.cli.names import nearest
from fedpredict.errors import FedPredictError, LeaseHeldError
from fedpredict.initiator.settings import InitiatorSettings
from fedpredict.model.task_history import TaskOverview
from fedpredict.security.check import Finding, Level
from fedpredict.state.leases import NoLeases, hold
from fedpredict.tables.deliveries import list_deliveries
from fedpredict.tables.populations import list_versions
from fedpredict.tables.registered import registered_versions
from fedpredict.tables.schedule_runs import FAILED, list_runs
from fedpredict.warehouse.base import Warehouse

SHOWN = 5
"""Most tasks that are named."""
_NO_PLACE = 'set [leases] url = "postgresql+psycopg://user@host/database", or, for one machine, "sqlite:///leases.db"'


def check_leases(loaded: wiring.LoadedParty) -> Iterator[Checked]:
    """Yield whether this party's processes can keep each other from doing the same work, by taking a lease."""
    settings = loaded.settings
    if settings.warehouse is None:
        return
    try:
        with opened_loaded_leases(loaded) as leases:
            if isinstance(leases, NoLeases):
                level = Level.PROBLEM if settings.schedule.jobs else Level.WARNING
                what = "there is no place for leases: commands run without, and a schedule is refused"
                yield "leases", Finding(level, what, _NO_PLACE)
                return
            with hold(leases, "doctor"):
                pass
    except LeaseHeldError as error:  # another doctor: they can be kept
        yield "leases", Finding(Level.OK, str(error))
    except FedPredictError as error:
        fix = "start what keeps them, or correct [leases], [store] or the rights of the warehouse's folder"
        yield "leases", Finding(Level.PROBLEM, str(error), fix)
    else:
        where = "Redis" if settings.store.kind == "redis" else "a database"
        if settings.store.kind != "redis" and wiring.warehouse_settings(loaded).path is not None:
            where = "the warehouse's folder"
        yield "leases", Finding(Level.OK, f"one was taken and given back, in {where}")


def check_schedule(loaded: wiring.LoadedParty) -> Iterator[Checked]:
    """Yield what is scheduled and cannot be, and how the last run of everything ended."""
    jobs = loaded.settings.schedule.jobs
    if not jobs or loaded.settings.warehouse is None:
        return
    try:
        warehouse = wiring.open_loaded_warehouse(loaded)
        try:
            runs, registered = list_runs(warehouse), registered_versions(warehouse)
        finally:
            warehouse.close()
    except FedPredictError as error:
        yield "schedule", Finding(Level.PROBLEM, str(error), "see what is said about the warehouse")
        return
    for view in loaded.settings.schedule.views:
        if view not in registered:
            what = f"no view {view} is registered, so the daemon does not start"
            hint = nearest(view, registered, "none is registered yet")
            fix = f"{hint}; fedpredict view register FILE, or take it out"
            yield "schedule", Finding(Level.PROBLEM, what, fix)
    for job in jobs:
        name, last = f"{job.name}, {job.cron.text} ({job.cron.zone})", runs.get(job.name)
        if last is None:
            yield "schedule", Finding(Level.OK, f"{name}: never done yet")
        elif last.outcome == FAILED:
            what = f"{name}: failed at {last.finished_at:%Y-%m-%d %H:%M} UTC: {last.problem}"
            yield "schedule", Finding(Level.WARNING, what, "it is tried again by itself; `fedpredict schedule list`")
        else:
            yield "schedule", Finding(Level.OK, f"{name}: {last.outcome}, for {last.due:%Y-%m-%d %H:%M} UTC")


def check_tasks(loaded: Loaded[InitiatorSettings]) -> Iterator[Checked]:
    """Yield whether an initiator's offline tasks can be kept and worked on, and which of them wait."""
    try:
        store = wiring.open_tasks(loaded)
        try:
            overview = store.overview()
        finally:
            store.close()
    except FedPredictError as error:
        yield "tasks", Finding(Level.PROBLEM, str(error), "correct `state`, or the rights of its file")
    else:
        yield from _tasks(overview, runs=loaded.settings.tasks.run)
    try:
        warehouse = wiring.open_task_warehouse(loaded)
        try:
            populations = {each.population for each in list_versions(warehouse, owner=loaded.settings.party)}
            problems = [each for each in list_deliveries(warehouse, loaded.settings.party) if each.problem]
            tables = _table_problems(warehouse, loaded.settings)
        finally:
            warehouse.close()
    except FedPredictError as error:
        fix = "start it, or correct [warehouse]: ids and results of tasks are there"
        yield "tasks", Finding(Level.PROBLEM, str(error), fix)
        return
    yield "tasks", Finding(Level.OK, f"ids and results: the warehouse is readable, with {len(populations)} populations")
    for name, problem in tables.items():
        fix = f"correct [tasks.tables.{name}], or take it out"
        yield "tasks", Finding(Level.WARNING, f"[tasks.tables.{name}]: {problem}", fix)
    for each in problems:
        what = f"{each.population} version {each.version} at {each.party}: {each.problem}"
        yield "populations", Finding(Level.WARNING, what, f"fedpredict population show {each.population}")


def _table_problems(warehouse: Warehouse, settings: InitiatorSettings) -> dict[str, str]:
    """Return what is missing of the tables that tasks may be about, by their names in the settings."""
    if not settings.tasks.tables:
        return {}
    from fedpredict.tables.id_tables import table_problem  # noqa: PLC0415  its parser is large

    told = {name: table_problem(warehouse, each.table, each.column) for name, each in settings.tasks.tables.items()}
    return {name: problem for name, problem in told.items() if problem}


def _tasks(overview: TaskOverview, *, runs: bool) -> Iterator[Checked]:
    counts: dict[str, int] = {}
    for (_, state), n_tasks in overview.states.items():
        counts[str(state)] = counts.get(str(state), 0) + n_tasks
    told = ", ".join(f"{n_tasks} {state}" for state, n_tasks in sorted(counts.items())) or "none yet"
    other = "" if runs else "; another process works on them ([tasks] run = false)"
    yield "tasks", Finding(Level.OK, f"the database answers: {told}{other}")
    for task in sorted(overview.waiting, key=lambda each: each.since)[:SHOWN]:
        why = task.problem or "is being tried again"
        what = f"task {task.task_id} of {task.model_id} waits since {task.since:%Y-%m-%d %H:%M} UTC: {why}"
        yield "tasks", Finding(Level.WARNING, what, f"fedpredict task show {task.task_id}")
