"""`fedpredict erase`: one person's rows, out of a party's tables and stores."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from fedpredict.cli import wiring
from fedpredict.cli.config_file import Loaded
from fedpredict.cli.erase_tasks import erase_of_tasks, task_tables
from fedpredict.cli.exits import ExitCode
from fedpredict.cli.leases import opened_leases
from fedpredict.cli.options import PartyConfig, Wait
from fedpredict.cli.output import JsonFlag, Output
from fedpredict.errors import FedPredictError, InputError
from fedpredict.initiator.settings import InitiatorSettings
from fedpredict.participant.settings import ParticipantSettings
from fedpredict.scoring.erase import check_sample_id, erase, erase_events, in_store
from fedpredict.scoring.erased import Erased
from fedpredict.scoring.realtime_settings import EVENTS, WAREHOUSE
from fedpredict.state.leases import Alone

if TYPE_CHECKING:
    from fedpredict.cli.wiring import LoadedParty
    from fedpredict.features.base import OnlineStore
    from fedpredict.warehouse.base import Warehouse

_COLUMNS = ("table", "place", "found", "removed", "note")


def erase_person(
    sample_id: Annotated[str, typer.Argument(help="The sample id, or - for the first line of standard input.")],
    *,
    raw: Annotated[
        bool, typer.Option("--raw", help="Remove rows of the raw tables that registered views read, too.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Change nothing; say what is there.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    wait: Wait = 0.0,
    config: PartyConfig = None,
    as_json: JsonFlag = False,
) -> None:
    """Remove a person's rows from all that this party keeps, and say what was where."""
    output = Output(as_json=as_json)
    who = check_sample_id(_first_line() if sample_id == "-" else sample_id)
    if not (yes or dry_run):
        _confirm(raw=raw)
    loaded = wiring.load_party(config)
    found: list[Erased] = []
    try:
        with closing(_warehouse(loaded)) as warehouse, opened_leases(config) as leases:
            alone = Alone(leases, wait, output.note)
            _from_warehouse(found, loaded, alone, warehouse, who, raw=raw, keep=dry_run)
        for look in (_events, _distinct):
            found += look(loaded, who, keep=dry_run)
        found += _outside(loaded)
    except FedPredictError:
        if found:  # the next call does not find it any more
            _print(output, found)
            output.note("That is what was done by then; the rest was not looked into: repeat.")
        raise
    _print(output, found)
    if not dry_run and any(each.note or each.found > each.removed for each in found):
        output.note("Not all of it could be removed: see the notes.")
        raise typer.Exit(ExitCode.FINDINGS)


def _from_warehouse(
    found: list[Erased],
    loaded: LoadedParty,
    alone: Alone,
    warehouse: Warehouse,
    who: str,
    *,
    raw: bool,
    keep: bool,
) -> None:
    """Erase from a party's tables and online store; what is done is in `found` also where the rest cannot be."""
    tables = task_tables(loaded)
    if keep:
        found += erase(alone, warehouse, who, keep=True, tables=tables)
    else:
        with _store_follows(loaded, warehouse, who) as store:
            found += erase(alone, warehouse, who, raw=raw, tables=tables)
        found += store
    found += erase_of_tasks(loaded, alone, warehouse, who, keep=keep)


def _print(output: Output, found: Sequence[Erased]) -> None:
    rows = [{name: getattr(each, name) for name in _COLUMNS} for each in found]
    output.rows(_COLUMNS, rows, empty="Nothing was found of that id.")


def _first_line() -> str:
    try:
        return sys.stdin.readline().rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise InputError("standard input is no sample id: it is no UTF-8") from error


def _confirm(*, raw: bool) -> None:
    if not sys.stdin.isatty():
        raise InputError("this removes rows for good: say --yes, or look first with --dry-run")
    what = "features, stored shares, results of tasks, populations, raw events and stores"
    what += ", and raw tables" if raw else ""
    typer.confirm(f"Remove this person from all {what}, for good?", abort=True)


def _warehouse(loaded: LoadedParty) -> Warehouse:
    """Open the party's warehouse; of an initiator that has none, the folder of its tasks."""
    if isinstance(loaded.settings, InitiatorSettings):
        return wiring.open_task_warehouse(Loaded(loaded.path, loaded.settings))
    return wiring.open_loaded_warehouse(loaded)


@contextmanager
def _store_follows(loaded: LoadedParty, warehouse: Warehouse, sample_id: str) -> Iterator[list[Erased]]:
    """Look into the party's online store before the block, bring it up to date after it, and look again.

    Yields what the list will hold in the end. A store in the daemons' own memory is theirs to bring up to date.
    """
    told: list[Erased] = []
    store = _shared_store(loaded)
    if store is None:
        yield told
        return
    from fedpredict.scoring.loader import ModelLoader  # noqa: PLC0415  a dry run needs none

    kept = loaded.settings.keep_versions  # the daemons share the store, and serve that many
    loader = ModelLoader(warehouse, loaded.settings.party, store, keep_versions=kept)
    loader.refresh()
    before = in_store(store, sample_id)
    yield told
    state = loader.refresh()
    after = in_store(store, sample_id)
    problem = state.warehouse_problem or "; ".join(state.problems.values())
    for view, version in sorted(before | after):
        is_left = (view, version) in after
        note = f"not brought up to date; repeat ({problem})" if is_left else ""
        told.append(Erased("online store", f"view={view}, version={version}", 1, 0 if is_left else 1, note))


def _events(loaded: LoadedParty, sample_id: str, *, keep: bool) -> list[Erased]:
    store = wiring.open_existing_events(loaded)
    if store is None:
        return []
    with closing(store):
        return erase_events(store, sample_id, keep=keep)


def _distinct(loaded: LoadedParty, sample_id: str, *, keep: bool) -> list[Erased]:
    """Remove the digests that callers' distinct ids were counted with; they go by themselves after their day."""
    if not isinstance(loaded.settings, ParticipantSettings):
        return []
    with closing(wiring.open_distinct_ids(Loaded(loaded.path, loaded.settings))) as counts:
        found = counts.erase(sample_id.encode(), keep=keep)
    return [Erased("distinct ids", f"day={each.day}, caller={each.caller}", 1, 0 if keep else 1) for each in found]


def _outside(loaded: LoadedParty) -> list[Erased]:
    """Name the sources of mode realtime that fedpredict only reads: nobody looked for the person there."""
    note = "not looked into: remove them there, or mode realtime goes on answering for them"
    sources = sorted((view, each.source) for view, each in loaded.settings.realtime.items())
    return [Erased(source, f"view={view}", 0, 0, note) for view, source in sources if source not in (EVENTS, WAREHOUSE)]


def _shared_store(loaded: LoadedParty) -> OnlineStore | None:
    settings = loaded.settings.store
    if loaded.settings.warehouse is None:  # nothing is published from the folder of tasks
        return None
    if settings.kind == "memory" or (settings.kind == "mapped" and not (loaded.base / settings.path).is_dir()):
        return None
    return wiring.open_loaded_store(loaded)
