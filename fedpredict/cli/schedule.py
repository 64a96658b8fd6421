"""`fedpredict schedule`: what a daemon does by itself."""

from __future__ import annotations

from datetime import UTC, datetime

import typer

from fedpredict.cli import wiring
from fedpredict.cli.options import PartyConfig
from fedpredict.cli.output import JsonFlag, Output
from fedpredict.tables.schedule_runs import list_runs

app = typer.Typer(help="See what a daemon does by itself.", no_args_is_help=True)


@app.callback()
def _schedule() -> None:
    """See what the daemon of some settings does by itself."""


@app.command("list")
def list_all(config: PartyConfig = None, as_json: JsonFlag = False) -> None:
    """List what is scheduled: when it is due next (UTC), what was done last, and what went wrong."""
    jobs, now = wiring.load_party(config).settings.schedule.jobs, datetime.now(UTC)
    with wiring.opened_warehouse(config) as party:
        runs = list_runs(party.warehouse)
    rows = []
    for job in jobs:
        last = runs.get(job.name)
        rows.append(
            {
                "job": job.name,
                "cron": job.cron.text,
                "timezone": job.cron.zone,
                "next_due": job.cron.after(now),
                "last_due": None if last is None else last.due,
                "outcome": None if last is None else last.outcome,
                "finished_at": None if last is None else last.finished_at,
                "done_due": None if last is None else last.done_due,
                "host": None if last is None else last.host,
                "problem": None if last is None else last.problem,
            }
        )
    columns = ("job", "cron", "timezone", "next_due", "last_due", "outcome", "finished_at", "done_due", "problem")
    Output(as_json=as_json).rows(columns, rows, empty="Nothing is scheduled; see [schedule] in docs/schedules.md.")
