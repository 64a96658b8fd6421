"""`fedpredict population`: sample ids that an initiator names once, and participants accept, for offline tasks."""

from __future__ import annotations

import getpass
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from fedpredict.cli import wiring
from fedpredict.cli.config_file import Loaded
from fedpredict.cli.leases import opened_loaded_leases
from fedpredict.cli.names import find_model
from fedpredict.cli.options import PartyConfig, Wait
from fedpredict.cli.output import JsonFlag, Output
from fedpredict.client.populations import FileOf, chunks_of
from fedpredict.errors import ConfigError, InputError
from fedpredict.initiator.offline import standing
from fedpredict.initiator.settings import InitiatorSettings
from fedpredict.model.sample_ids import SampleIds
from fedpredict.participant import acceptance
from fedpredict.participant.settings import ParticipantSettings
from fedpredict.state.leases import Alone
from fedpredict.tables.deliveries import Delivery, accepted_versions, list_deliveries
from fedpredict.tables.populations import PopulationVersion, list_versions
from fedpredict.warehouse.base import Warehouse

app = typer.Typer(
    help="Standing populations: an initiator proposes sample ids and their changes, participants accept them.",
    no_args_is_help=True,
)

Name = Annotated[str, typer.Argument(help="The population.", metavar="NAME")]
File = Annotated[Path | None, typer.Option("--file", help="All sample ids: CSV, Parquet, or .txt with one a line.")]
Column = Annotated[str | None, typer.Option("--column", help="Their column; default: the only one, or sample_id.")]
Table = Annotated[str | None, typer.Option("--table", help="All sample ids: a table of this party's warehouse.")]
By = Annotated[str | None, typer.Option("--by", help="Who does it; default: this user.")]
From = Annotated[str | None, typer.Option("--from", help="At a participant: the initiator that named it.")]
Version = Annotated[int | None, typer.Option("--version", help="Its version.", min=1)]

_OF_PARTY = ("party", "version", "state", "accepted", "lacking", "problem", "changed_at")
_OF_VERSION = ("from", "name", "version", "ids", "buckets", "state", "by", "changed_at")


@app.command("propose")
def propose(
    name: Name,
    *,
    file: File = None,
    table: Table = None,
    column: Column = None,
    model_id: Annotated[str | None, typer.Option("--model", help="It is for the parties of this model.")] = None,
    parties: Annotated[str | None, typer.Option("--parties", help="It is for these: a,b.")] = None,
    by: By = None,
    wait: Wait = 0.0,
    config: PartyConfig = None,
    as_json: JsonFlag = False,
) -> None:
    """Name sample ids, at the initiator; the running daemon brings them to the parties."""
    output = Output(as_json=as_json)
    with _initiator(config) as (loaded, warehouse), _alone(loaded, wait, output):
        settings = loaded.settings
        chosen = _parties(settings, model_id, parties)
        batches = _given(warehouse, file, table, column)
        with output.progress(f"sorting the ids of {name}"):
            made = standing.propose(
                warehouse,
                settings.party,
                name,
                batches,
                parties=chosen,
                by=by or getpass.getuser(),
                least_buckets=settings.tasks.least_buckets,
            )
    _print_made(output, made)


@app.command("update")
def update(
    name: Name,
    *,
    add: Annotated[Path | None, typer.Option("--add", help="Sample ids that come; a file as for --file.")] = None,
    remove: Annotated[Path | None, typer.Option("--remove", help="Sample ids that go; a file as for --file.")] = None,
    file: File = None,
    table: Table = None,
    column: Column = None,
    by: By = None,
    wait: Wait = 0.0,
    config: PartyConfig = None,
    as_json: JsonFlag = False,
) -> None:
    """Make the next version of a population, at the initiator: what comes and goes, or all of it anew."""
    output = Output(as_json=as_json)
    changes = add is not None or remove is not None
    if changes and (file is not None or table is not None):
        raise typer.BadParameter("--add and --remove change what is there; --file and --table replace it: choose")
    if not changes and file is None and table is None:
        raise typer.BadParameter("say what changes: --add, --remove; or name all sample ids anew: --file, or --table")
    with (
        _initiator(config) as (loaded, warehouse),
        _alone(loaded, wait, output),
        output.progress(f"sorting the ids of {name}"),
    ):
        owner, who = loaded.settings.party, by or getpass.getuser()
        if changes:
            coming, going = _ids_of(add, column), _ids_of(remove, column)
            made = standing.update(warehouse, owner, name, coming, removed=going, by=who)
        else:
            made = standing.update(warehouse, owner, name, _given(warehouse, file, table, column), by=who)
    _print_made(output, made)


@app.command("list")
def list_all(*, config: PartyConfig = None, as_json: JsonFlag = False) -> None:
    """List populations and their versions: what an initiator named, or what a participant was named."""
    with _party(config) as (loaded, warehouse):
        if isinstance(loaded.settings, InitiatorSettings):
            versions = standing.standing_versions(warehouse, loaded.settings.party)
            deliveries = list_deliveries(warehouse, loaded.settings.party)
            rows = [{**_row(each), "parties": _summary(each, deliveries)} for each in versions]
            columns = (*_OF_VERSION[1:], "parties")
            empty = "No populations; see `fedpredict population propose`."
        else:
            rows = [_row(each) for each in list_versions(warehouse)]
            columns, empty = _OF_VERSION, "No populations: no initiator has named one."
    Output(as_json=as_json).rows(columns, rows, empty=empty)


@app.command("show")
def show(name: Name, *, owner: From = None, config: PartyConfig = None, as_json: JsonFlag = False) -> None:
    """Show a population: its versions, and, at an initiator, how far each participant is."""
    output = Output(as_json=as_json)
    with _party(config) as (loaded, warehouse):
        if isinstance(loaded.settings, InitiatorSettings):
            owner = loaded.settings.party
            standing.newest_of(warehouse, owner, name, also_revoked=True)
        versions = list_versions(warehouse, owner=owner, population=name)
        is_initiator = isinstance(loaded.settings, InitiatorSettings)
        deliveries = list_deliveries(warehouse, loaded.settings.party, name) if is_initiator else []
        accepted = accepted_versions(warehouse, loaded.settings.party, name) if is_initiator else {}
    if not versions:
        raise InputError(f"there is no population {name}; see `fedpredict population list`")
    rows = [{**_delivery(each), "accepted": accepted.get(each.party) or None} for each in deliveries]
    if as_json:
        output.fields({"name": name, "versions": [_row(each) for each in versions], "parties": rows})
        return
    output.rows(_OF_VERSION, [_row(each) for each in versions], empty="")
    if is_initiator:
        output.rows(_OF_PARTY, rows, empty="")


@app.command("accept")
def accept(
    name: Name,
    *,
    owner: From = None,
    version: Version = None,
    by: By = None,
    config: PartyConfig = None,
    as_json: JsonFlag = False,
) -> None:
    """Answer for a version that an initiator named, at the participant; default: the newest one that is complete."""
    with _participant(config) as (settings, warehouse):
        changed = acceptance.accept(
            warehouse,
            _owner(owner),
            name,
            version,
            by or getpass.getuser(),
            keep_versions=settings.populations.keep_versions,
        )
    told = f"Version {changed.version} of population {name} of {owner} ({changed.n_ids} ids) is accepted."
    Output(as_json=as_json).result(_row(changed), told)


@app.command("revoke")
def revoke(
    name: Name,
    *,
    owner: From = None,
    version: Version = None,
    by: By = None,
    wait: Wait = 0.0,
    config: PartyConfig = None,
    as_json: JsonFlag = False,
) -> None:
    """Answer for a population no longer (at a participant, whose copy of the ids goes), or use it no longer."""
    output, who = Output(as_json=as_json), by or getpass.getuser()
    with _party(config) as (loaded, warehouse):
        if isinstance(loaded.settings, ParticipantSettings):
            changed = acceptance.revoke(warehouse, _owner(owner), name, version, who)
        elif version is not None or owner is not None:
            raise InputError("at the initiator a population is revoked as a whole: leave out --version and --from")
        else:
            with _alone(loaded, wait, output):
                changed = standing.revoke(warehouse, loaded.settings.party, name, who)
    which = ", ".join(str(each.version) for each in changed)
    told = f"Population {name} is revoked: version {which}." if changed else f"Population {name} was revoked before."
    output.result({"name": name, "revoked": [each.version for each in changed]}, told)


def _given(warehouse: Warehouse, file: Path | None, table: str | None, column: str | None) -> Iterator[SampleIds]:
    if (file is None) == (table is None):
        raise typer.BadParameter("name the sample ids: --file, or --table of this party's warehouse")
    if file is not None:
        return _ids_of(file, column)
    from fedpredict.tables.id_tables import ids_of_table  # noqa: PLC0415  its parser is large

    return ids_of_table(warehouse, str(table), column or "sample_id")


def _ids_of(file: Path | None, column: str | None) -> Iterator[SampleIds]:
    return iter(()) if file is None else chunks_of(FileOf(file, column))()


def _parties(settings: InitiatorSettings, model_id: str | None, parties: str | None) -> list[str]:
    if (model_id is None) == (parties is None):
        raise typer.BadParameter("say for whom it is: --model, or --parties a,b")
    if model_id is not None:
        found = [each for each in find_model(settings.models, model_id).parties if each != settings.party]
        if not found:
            raise InputError(f"model {model_id} has no other party: a task over a list of ids does the same")
        return found
    named = [each.strip() for each in str(parties).split(",") if each.strip()]
    strangers = [each for each in named if each not in settings.parties]
    if strangers:
        known = ", ".join(settings.parties) or "nobody"
        raise InputError(f"--parties: {', '.join(strangers)} is not under [parties]; there is {known}")
    return list(dict.fromkeys(named))


def _owner(owner: str | None) -> str:
    if owner is None:
        raise typer.BadParameter("say which initiator named it: --from PARTY")
    return owner


def _print_made(output: Output, made: standing.Proposal) -> None:
    version, taken = made.version, made.taken
    told = f"Version {version.version} of population {version.population} has {version.n_ids} ids."
    if not made.is_new:
        told = f"Nothing changed: {told}"
    elif made.parties:
        told = f"{told} The running initiator brings {made.changed_buckets} buckets to {', '.join(made.parties)}."
    values: dict[str, Any] = {
        **_row(version),
        "new": made.is_new,
        "rows": taken.rows,
        "duplicates": taken.duplicates,
        "invalid": taken.invalid,
        "first_invalid": taken.first_invalid or None,
        "changed_buckets": made.changed_buckets,
        "parties": list(made.parties),
    }
    output.result(values, told)
    if taken.invalid:
        output.note(
            f"{taken.invalid} rows are no sample ids and were left out; the first is row {taken.first_invalid}."
        )


def _summary(version: PopulationVersion, deliveries: list[Delivery]) -> str:
    mine = [each for each in deliveries if each.population == version.population and each.version == version.version]
    return ", ".join(f"{each.party}: {each.problem or each.state or 'unknown'}" for each in mine)


def _row(version: PopulationVersion) -> dict[str, Any]:
    return {
        "from": version.owner,
        "name": version.population,
        "version": version.version,
        "ids": version.n_ids,
        "buckets": version.n_buckets,
        "state": version.state,
        "by": version.changed_by,
        "changed_at": version.changed_at,
    }


def _delivery(each: Delivery) -> dict[str, Any]:
    return {
        "party": each.party,
        "version": each.version,
        "state": each.state or "",
        "lacking": each.missing,
        "problem": each.problem,
        "changed_at": each.changed_at,
    }


@contextmanager
def _party(config: Path | None) -> Iterator[tuple[wiring.LoadedParty, Warehouse]]:
    loaded = wiring.load_party(config)
    warehouse = (
        wiring.open_task_warehouse(loaded)
        if isinstance(loaded.settings, InitiatorSettings)
        else wiring.open_loaded_warehouse(loaded)
    )
    try:
        yield loaded, warehouse
    finally:
        warehouse.close()


@contextmanager
def _initiator(config: Path | None) -> Iterator[tuple[Loaded[InitiatorSettings], Warehouse]]:
    with _party(config) as (loaded, warehouse):
        if not isinstance(loaded.settings, InitiatorSettings):
            raise ConfigError(f"{loaded.path} is a participant's: populations are named by initiators")
        yield loaded, warehouse


@contextmanager
def _alone(loaded: wiring.LoadedParty, wait: float, output: Output) -> Iterator[None]:
    """Be the only one who makes versions of this initiator's populations; `erase` makes some, too."""
    with opened_loaded_leases(loaded) as leases, Alone(leases, wait, output.note).hold(standing.CHANGE):
        yield


@contextmanager
def _participant(config: Path | None) -> Iterator[tuple[ParticipantSettings, Warehouse]]:
    with _party(config) as (loaded, warehouse):
        if not isinstance(loaded.settings, ParticipantSettings):
            raise ConfigError(f"{loaded.path} is an initiator's: populations are accepted by participants")
        yield loaded.settings, warehouse
