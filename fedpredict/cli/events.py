"""`fedpredict events`: raw events that this party keeps for mode realtime."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer

from fedpredict.cli import wiring
from fedpredict.cli.leases import opened_loaded_leases
from fedpredict.cli.options import PartyConfig, Wait
from fedpredict.cli.output import JsonFlag, Output
from fedpredict.cli.view import find_view
from fedpredict.errors import ConfigError, EventsRefusedError
from fedpredict.features.event_feed import feed_of
from fedpredict.features.event_intake import file_rows, take_events
from fedpredict.state.event_base import PRUNE_LEASE, EventStore
from fedpredict.state.leases import Alone
from fedpredict.tables.script_store import list_scripts

app = typer.Typer(help="Raw events that views are computed from in mode realtime.", no_args_is_help=True)

DAY_US = 86_400_000_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@contextmanager
def _opened(config: Path | None) -> Iterator[EventStore]:
    store = wiring.open_loaded_events(wiring.load_party(config))
    try:
        yield store
    finally:
        store.close()


@app.command("load")
def load(
    file: Annotated[Path, typer.Argument(help="JSON lines, CSV (a header, UTF-8), Parquet or Arrow.")],
    *,
    view: Annotated[str, typer.Option("--view", help="A registered view: its event table's columns are wanted.")],
    config: PartyConfig = None,
    as_json: JsonFlag = False,
) -> None:
    """Store a file's events, or none where one cannot be taken; those whose id is stored already are left out."""
    output = Output(as_json=as_json)
    with wiring.opened_warehouse(config) as party:
        feed = feed_of(find_view(party.warehouse, view, None), list_scripts(party.warehouse))
    with _opened(config) as store, output.progress(f"loading {file.name}"):
        try:
            intake = take_events(store, feed, file_rows(file, feed))
        except EventsRefusedError as error:
            raise EventsRefusedError(
                f"{file}: {error}", n_events=error.n_events, n_refused=error.n_refused, refused=error.refused
            ) from error
    output.result(
        {
            "feed": feed.name,
            "accepted": intake.accepted,
            "duplicate": intake.duplicate,
            "ignored": list(intake.ignored),
        },
        f"{intake.accepted} events stored in {feed.name}; {intake.duplicate} were there already.",
    )
    if intake.ignored:
        output.note(f"No view declares {', '.join(intake.ignored)}: not stored.")


@app.command("show")
def show(config: PartyConfig = None, as_json: JsonFlag = False) -> None:
    """Count what is stored, by database, table and key."""
    with _opened(config) as store:
        counts = store.counts()
    rows = [
        {
            "feed": each.feed,
            "events": each.events,
            "sample_ids": each.sample_ids,
            "oldest": _EPOCH + timedelta(microseconds=each.oldest),
            "newest": _EPOCH + timedelta(microseconds=each.newest),
        }
        for each in counts
    ]
    columns = ("feed", "events", "sample_ids", "oldest", "newest")
    Output(as_json=as_json).rows(columns, rows, empty="No events yet; see `fedpredict events load`.")


@app.command("prune")
def prune(
    *,
    keep_days: Annotated[
        int | None, typer.Option("--keep-days", min=1, help="Days that stay; default: [events] keep_days.")
    ] = None,
    wait: Wait = 0.0,
    config: PartyConfig = None,
    as_json: JsonFlag = False,
) -> None:
    """Remove events that happened longer ago; a view's windows must not reach further back than what stays."""
    loaded, output = wiring.load_party(config), Output(as_json=as_json)
    days = keep_days or loaded.settings.events.keep_days
    if days is None:
        raise ConfigError("say how many days stay: --keep-days, or keep_days under [events]")
    with (
        _opened(config) as store,
        opened_loaded_leases(loaded) as leases,
        Alone(leases, wait, output.note).hold(PRUNE_LEASE),
    ):
        n_removed = store.remove(before=time.time_ns() // 1000 - days * DAY_US)
    output.result({"removed": n_removed, "keep_days": days}, f"{n_removed} events older than {days} days removed.")
