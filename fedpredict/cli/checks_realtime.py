"""What `doctor` looks at for mode realtime: whether raw rows can be read where the settings say that they are."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

from fedpredict.cli import wiring
from fedpredict.cli.checks_local import Checked
from fedpredict.errors import FedPredictError
from fedpredict.features.raw import CheckedSource
from fedpredict.scoring.realtime_settings import EVENTS, RealtimeViewSettings
from fedpredict.security.check import Finding, Level
from fedpredict.tables.script_store import RegisteredView, list_scripts
from fedpredict.warehouse.base import Warehouse


def check_realtime(loaded: wiring.LoadedParty) -> Iterator[Checked]:
    """Yield what there is to say about the raw rows of each view under `[realtime]`."""
    settings = loaded.settings
    if not settings.realtime or settings.warehouse is None:
        return
    try:
        with closing(wiring.open_loaded_warehouse(loaded)) as warehouse:
            newest = {each.view.name: each for each in list_scripts(warehouse)}
            for view, own in sorted(settings.realtime.items()):
                if view in newest:
                    yield "realtime", _check_source(loaded, warehouse, newest[view], own)
                else:
                    what = f"view {view} has no script, so mode realtime does not compute it"
                    yield "realtime", Finding(Level.WARNING, what, "fedpredict view register FILE, or take it out")
    except FedPredictError as error:
        yield "realtime", Finding(Level.PROBLEM, str(error), "correct [warehouse]; views are registered there")


def _check_source(
    loaded: wiring.LoadedParty, warehouse: Warehouse, registered: RegisteredView, own: RealtimeViewSettings
) -> Finding:
    name = registered.view.name
    try:
        if own.source == EVENTS:
            store = wiring.open_existing_events(loaded)
            if store is not None:
                store.close()
            told = "events are kept in" if store is not None else "no event has come yet for"
            return Finding(Level.OK, f"view {name}: {told} {loaded.settings.events.url}")
        with wiring.opened_source(loaded, warehouse, registered, own) as source:
            if not isinstance(source, CheckedSource):
                return Finding(Level.OK, f"view {name}: its own table in the warehouse")
            told, warning = source.check()
    except FedPredictError as error:
        return Finding(Level.PROBLEM, f"view {name}: {error}", f"correct it, or [realtime.{name}]")
    if warning:
        return Finding(Level.WARNING, f"view {name}: {told}; {warning}", "see docs/realtime.md")
    return Finding(Level.OK, f"view {name}: {told}")
