"""`fedpredict shares`, and `task score`: a party's shares of a day, scored ahead by its warehouse's engine and kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from fedpredict.cli import wiring
from fedpredict.cli.leases import opened_leases
from fedpredict.cli.model_prune import PRUNING_ERRORS, prune_as_set
from fedpredict.cli.names import find_model
from fedpredict.cli.options import PartyConfig, Wait
from fedpredict.cli.output import JsonFlag, Output
from fedpredict.cli.task_plot import check_plot, save_plot
from fedpredict.errors import FedPredictError, InputError, ModelNotFoundError
from fedpredict.scoring.leased import prune_shares_alone, score_alone
from fedpredict.scoring.task_report import report_of
from fedpredict.scoring.tasks import damaged_buckets, previous_state
from fedpredict.state.leases import Alone
from fedpredict.tables.models import current_versions
from fedpredict.tables.shares import ShareTask, TaskState, finished_buckets, list_tasks, parse_day
from fedpredict.warehouse.base import Warehouse

app = typer.Typer(
    help="A party's stored shares: score all ids of a day ahead, see what is stored.", no_args_is_help=True
)

Day = Annotated[str | None, typer.Option("--date", help="The day (UTC), like 2026-11-26; default: today.")]
Models = Annotated[list[str] | None, typer.Option("--model", help="A model's id; repeatable. Default: all models.")]
Plot = Annotated[
    Path | None, typer.Option("--plot", help="Save a picture of the scores' distribution (.png, .svg or .pdf).")
]

_SHOWN = ("model", "date", "rows", "scored", "absent", "invalid", "out_of_range", "duplicate", "without_id")


@app.command("score")
def score(
    *,
    day: Day = None,
    models: Models = None,
    buckets: Annotated[
        int | None, typer.Option("--buckets", help="Into how many buckets ids are cut: a power of two.")
    ] = None,
    again: Annotated[
        bool, typer.Option("--again", help="Begin anew with the newest snapshot, whatever is stored.")
    ] = False,
    plot: Plot = None,
    wait: Wait = 0.0,
    config: PartyConfig = None,
    as_json: JsonFlag = False,
) -> None:
    """Store the current version's shares of every id; what is stored already stays, and a killed run is finished."""
    output = Output(as_json=as_json)
    check_plot(plot)
    asked = _day(day)
    with wiring.opened_warehouse(config) as party, opened_leases(config) as leases:
        alone = Alone(leases, wait, output.note)
        current = current_versions(party.warehouse)
        versions = [find_model(current, each) for each in models] if models else list(current.values())
        if not versions:
            raise ModelNotFoundError("there is no model yet; see `fedpredict model convert`")
        reports: list[dict[str, Any]] = []
        failed: dict[str, FedPredictError] = {}
        for version in versions:
            try:
                with output.progress(f"scoring {version.model_id}") as advance:
                    state = score_alone(
                        alone,
                        party.warehouse,
                        version,
                        asked,
                        rows_per_bucket=party.tasks.bucket_rows,
                        n_buckets=buckets,
                        again=again,
                        advance=advance,
                    )
                before = previous_state(party.warehouse, state.task)
            except FedPredictError as error:  # the other models' day is due all the same
                failed[version.model_id] = error
                continue
            reports.append(report_of(state, before, limit=party.tasks.stability_limit))
        if reports:
            _print(output, reports, plot)
        _prune(wiring.load_party(config), party.warehouse, Alone(leases), output)
    _raise_first(failed, len(versions))


@app.command("list")
def list_all(*, day: Day = None, models: Models = None, config: PartyConfig = None, as_json: JsonFlag = False) -> None:
    """List the days that are stored, or begun, oldest first."""
    with wiring.opened_warehouse(config) as party:
        tasks = _matching(list_tasks(party.warehouse, day=None if day is None else parse_day(day)), models)
    rows = [
        {
            "date": each.day.isoformat(),
            "model": each.model_id,
            "params_sha256": each.params_sha256 if as_json else each.params_sha256[:12],
            "snapshot": each.snapshot,
            "buckets": each.n_buckets,
            "ids": each.n_ids,
            "finished_at": each.finished_at,
        }
        for each in tasks
    ]
    columns = ("date", "model", "params_sha256", "snapshot", "buckets", "ids", "finished_at")
    Output(as_json=as_json).rows(columns, rows, empty="Nothing is stored; see `fedpredict task score`.")


@app.command("show")
def show(
    *,
    day: Day = None,
    models: Models = None,
    check: Annotated[
        bool, typer.Option("--check", help="Compare what is stored with the checksums that were recorded.")
    ] = False,
    plot: Plot = None,
    config: PartyConfig = None,
    as_json: JsonFlag = False,
) -> None:
    """Show the counts and the distribution of a day's shares, from what was recorded."""
    output = Output(as_json=as_json)
    check_plot(plot)
    asked = _day(day)
    with wiring.opened_warehouse(config) as party:
        tasks = _matching(list_tasks(party.warehouse, day=asked), models)
        if not tasks:
            of = f"{', '.join(models)} for {asked}" if models else str(asked)
            raise InputError(f"nothing is stored of {of}; see `fedpredict shares list`")
        reports = []
        for task in tasks:
            state = TaskState(task, finished_buckets(party.warehouse, task))
            report = report_of(state, previous_state(party.warehouse, task), limit=party.tasks.stability_limit)
            if check:
                report["damaged_buckets"] = damaged_buckets(party.warehouse, state)
            reports.append(report)
    _print(output, reports, plot)
    damaged = [report["model"] for report in reports if report.get("damaged_buckets")]
    if damaged:
        raise InputError(f"what is stored of {', '.join(damaged)} is not what was recorded: score again with --again")


@app.command("prune")
def prune_old(
    *,
    keep_days: Annotated[
        int | None, typer.Option("--keep-days", min=1, help="Days to keep, today included; default: the setting.")
    ] = None,
    config: PartyConfig = None,
    as_json: JsonFlag = False,
) -> None:
    """Remove the shares of older days, but the newest finished ones of each model version that is there."""
    with wiring.opened_warehouse(config) as party, opened_leases(config) as leases:
        days = keep_days or party.tasks.keep_days
        if days is None:
            raise InputError("how many days to keep? Say --keep-days, or set tasks.keep_days")
        removed = prune_shares_alone(Alone(leases), party.warehouse, days)
    rows = [{"date": each.day.isoformat(), "model": each.model_id, "ids": each.n_ids} for each in removed]
    Output(as_json=as_json).rows(("date", "model", "ids"), rows, empty="Nothing is older.")


def _prune(loaded: wiring.LoadedParty, warehouse: Warehouse, alone: Alone, output: Output) -> None:
    """Remove what is older than `[tasks]` says; what cannot be removed is told, as the day is scored all the same."""
    try:
        prune_as_set(loaded, warehouse, alone)
        if loaded.settings.tasks.keep_days is not None:
            prune_shares_alone(alone, warehouse, loaded.settings.tasks.keep_days)
    except PRUNING_ERRORS as error:
        output.note(f"warning: the day is scored, but what is older was not all removed: {error}")


def _raise_first(failed: Mapping[str, FedPredictError], n_models: int) -> None:
    """Raise the first error, with notes of which models have none of the day's scores, and why the others have not."""
    if not failed:
        return
    (_, first), *others = failed.items()
    if n_models > 1:
        first.add_note(f"not scored: {', '.join(failed)} ({len(failed)} of {n_models} models)")
        for model_id, error in others:
            first.add_note(f"{model_id}: {error}")
    raise first


def _day(text: str | None) -> date:
    return datetime.now(UTC).date() if text is None else parse_day(text)


def _matching(tasks: Sequence[ShareTask], models: Sequence[str] | None) -> list[ShareTask]:
    return [each for each in tasks if not models or each.model_id in models]


def _print(output: Output, reports: Sequence[Mapping[str, Any]], plot: Path | None) -> None:
    shown = reports if output.as_json else [_short(report) for report in reports]
    output.rows((*_SHOWN, "buckets", "stability"), shown, empty="")
    for report in reports:
        for warning in report["warnings"]:
            output.note(f"warning: {report['model']}: {warning}")
    if plot is not None:
        save_plot(plot, reports)
        output.note(f"The distribution of the scores is in {plot}.")


def _short(report: Mapping[str, Any]) -> dict[str, Any]:
    indexes = [f"{index:.3f}" for index in report["stability"] or () if index is not None]
    buckets = f"{report['buckets_done']} of {report['buckets']}"
    return {**report, "buckets": buckets, "stability": ", ".join(indexes) or None}
