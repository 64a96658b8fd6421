"""`fedpredict features`: snapshots of feature views."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from fedpredict.cli import wiring
from fedpredict.cli.leases import opened_leases
from fedpredict.cli.options import PartyConfig, Wait
from fedpredict.cli.output import JsonFlag, Output
from fedpredict.cli.view import ViewName, find_view
from fedpredict.errors import FedPredictError, InputError
from fedpredict.features.refresh import MAX_SHRINK, RefreshReport
from fedpredict.scoring.due import versions_in_use
from fedpredict.scoring.leased import load_alone, prune_alone, refresh_each
from fedpredict.state.leases import Alone
from fedpredict.tables.script_store import RegisteredView, list_scripts
from fedpredict.tables.views import list_snapshots
from fedpredict.warehouse.base import ColumnType, Warehouse

app = typer.Typer(help="Load or compute a party's features, and see what is there.", no_args_is_help=True)

TYPES = {"number": ColumnType.DOUBLE, "text": ColumnType.STRING}


@app.command("load")
def load(
    file: Annotated[Path, typer.Argument(help="CSV (a header, UTF-8) or Parquet.")],
    *,
    view: Annotated[str, typer.Option("--view", help="The feature view; its first file makes its version 1.")],
    key: Annotated[str, typer.Option("--key", help="The column of the sample ids.")],
    event_time: Annotated[
        str | None, typer.Option("--event-time", help="The column that says when a row's values held.")
    ] = None,
    types: Annotated[
        list[str] | None,
        typer.Option("--type", help="COLUMN=number or COLUMN=text, where the file does not tell; repeatable."),
    ] = None,
    new_version: Annotated[
        bool, typer.Option("--new-version", help="The columns are others than before: make a new version of the view.")
    ] = False,
    wait: Wait = 0.0,
    config: PartyConfig = None,
    as_json: JsonFlag = False,
) -> None:
    """Load a file as a new snapshot of a feature view; models see it at the next poll, whole."""
    output = Output(as_json=as_json)
    parsed = dict(_parse_type(text) for text in types or ())
    with (
        wiring.opened_warehouse(config) as party,
        opened_leases(config) as leases,
        output.progress(f"loading {file.name}"),
    ):
        report = load_alone(
            Alone(leases, wait, output.note),
            party.warehouse,
            file,
            view=view,
            key=key,
            event_time=event_time,
            types=parsed,
            new_version=new_version,
        )
    columns = [{"name": each.name, "column": each.column, "type": each.type} for each in report.columns]
    if as_json:
        output.fields(
            {
                "view": report.view,
                "version": report.version,
                "snapshot": report.snapshot,
                "rows": report.n_rows,
                "sample_ids": report.n_ids,
                "new_version": report.new_version,
                "columns": columns,
            }
        )
        return
    output.rows(("name", "column", "type"), columns, empty="")
    output.say(
        f"{report.n_rows} rows of {report.n_ids} sample ids are snapshot {report.snapshot} of view {report.view}, "
        f"version {report.version}{' (new)' if report.new_version else ''}."
    )


@app.command("list")
def list_all(config: PartyConfig = None, as_json: JsonFlag = False) -> None:
    """List the snapshots of all feature views, oldest first."""
    with wiring.opened_warehouse(config) as party:
        snapshots = list_snapshots(party.warehouse)
    rows = [
        {
            "view": each.view.name,
            "version": each.view.version,
            "snapshot": each.snapshot,
            "rows": each.n_rows,
            "features": [feature.name for feature in each.view.features],
        }
        for each in snapshots
    ]
    shown = (
        rows
        if as_json
        else [{**row, "features": len(each.view.features)} for row, each in zip(rows, snapshots, strict=True)]
    )
    columns = ("view", "version", "snapshot", "rows", "features")
    Output(as_json=as_json).rows(columns, shown, empty="No features yet; see `fedpredict features load`.")


@app.command("refresh")
def refresh(
    view: ViewName,
    *,
    as_of: Annotated[
        str | None, typer.Option("--as-of", help="The instant, such as 2026-01-31T00:00:00Z; default: this moment.")
    ] = None,
    version: Annotated[
        int | None,
        typer.Option("--version", help="Which version; default: the newest, and those that models here use."),
    ] = None,
    max_shrink: Annotated[
        float, typer.Option("--max-shrink", min=0.0, max=1.0, help="The share of rows that may go missing.")
    ] = MAX_SHRINK,
    force: Annotated[bool, typer.Option("--force", help="Publish however many rows go missing.")] = False,
    wait: Wait = 0.0,
    config: PartyConfig = None,
    as_json: JsonFlag = False,
) -> None:
    """Compute a view in the warehouse's engine: a snapshot of each version that is newest, or that a model uses."""
    instant = datetime.now(UTC) if as_of is None else _parse_instant(as_of)
    output = Output(as_json=as_json)
    with (
        wiring.opened_warehouse(config) as party,
        opened_leases(config) as leases,
        output.progress(f"refreshing {view}"),
    ):
        reports, failures = refresh_each(
            Alone(leases, wait, output.note),
            party.warehouse,
            _versions(party.warehouse, view, version, party.n_served),
            instant,
            max_shrink=max_shrink,
            force=force,
            keep_days=party.features.keep_days,
        )
        needed = [version] if version is not None else versions_in_use(party.warehouse, view)
    if reports:
        _tell(output, reports)
    _raise_first(output, failures, needed)


def _raise_first(
    output: Output, failures: Sequence[tuple[RegisteredView, FedPredictError]], needed: Sequence[int]
) -> None:
    """Tell of versions that failed, and raise the first error of one that is newest or that a current model uses."""
    raised = next((error for which, error in failures if which.version in needed), None)
    for which, error in failures:
        if which.version not in needed:
            output.note(f"version {which.version}, which only older versions of models use, was not refreshed: {error}")
        elif error is not raised:
            output.note(f"version {which.version} was not refreshed: {error}")
    if raised is not None:
        raise raised


def _versions(warehouse: Warehouse, view: str, version: int | None, n_served: int) -> list[RegisteredView]:
    newest = find_view(warehouse, view, version)
    if version is not None:
        return [newest]
    used = versions_in_use(warehouse, view, n_served)
    return [each for each in list_scripts(warehouse, view) if each.version in used]


def _tell(output: Output, reports: Sequence[RefreshReport]) -> None:
    """Print what was made: the newest version's keys, and the others in `others`."""
    told = [_fields(each) for each in reversed(reports)]
    output.result({**told[0], "others": told[1:]}, " ".join(_sentences(each) for each in reports))


def _fields(report: RefreshReport) -> dict[str, object]:
    snapshot = report.snapshot
    return {
        "view": snapshot.view.name,
        "version": snapshot.view.version,
        "snapshot": snapshot.snapshot,
        "rows": snapshot.n_rows,
        "invalid": report.invalid,
        "unread": report.unread,
        "invalid_keys": report.odd_keys,
        "newest": report.newest,
    }


def _sentences(report: RefreshReport) -> str:
    snapshot = report.snapshot
    told = [
        f"{snapshot.n_rows} rows are snapshot {snapshot.snapshot} of view {snapshot.view.name}, version"
        f" {snapshot.view.version}."
    ]
    told += [f"{count} rows have no valid {name}." for name, count in report.invalid.items()]
    told += [f"{count} values of {name} are not of its type, and NULL." for name, count in report.unread.items()]
    told += [f"{report.odd_keys} keys are no sample ids, and left out."] if report.odd_keys else []
    told += [] if report.newest else ["It is older than the newest snapshot, which stays the one that is served."]
    return " ".join(told)


@app.command("prune")
def prune_old(
    *,
    keep_days: Annotated[
        int | None, typer.Option("--keep-days", min=1, help="Days of snapshots to keep; default: the setting.")
    ] = None,
    wait: Wait = 0.0,
    config: PartyConfig = None,
    as_json: JsonFlag = False,
) -> None:
    """Remove older snapshots: never a view version's newest, nor one that is being scored."""
    output = Output(as_json=as_json)
    with wiring.opened_warehouse(config) as party, opened_leases(config) as leases:
        days = keep_days or party.features.keep_days
        if days is None:
            raise InputError("how many days to keep? Say --keep-days, or set features.keep_days")
        removed = prune_alone(Alone(leases, wait, output.note), party.warehouse, days)
    rows = [{"view": each.view.name, "version": each.view.version, "snapshot": each.snapshot} for each in removed]
    output.rows(("view", "version", "snapshot"), rows, empty="Nothing is older.")


def _parse_instant(text: str) -> datetime:
    try:
        instant = datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r}: write 2026-01-31T00:00:00Z", param_hint="--as-of") from None
    if instant.tzinfo is None:
        raise typer.BadParameter(f"{text!r} has no time zone: add Z or an offset", param_hint="--as-of")
    return instant


def _parse_type(text: str) -> tuple[str, ColumnType]:
    name, equals, kind = text.rpartition("=")
    if not equals or kind not in TYPES:
        raise typer.BadParameter(f"{text!r}: write COLUMN=number or COLUMN=text", param_hint="--type")
    return name, TYPES[kind]
