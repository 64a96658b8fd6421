"""`fedpredict policy`: who may ask a daemon for what, before it is told to read that again."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from fedpredict.cli import wiring
from fedpredict.cli.config_file import read_toml
from fedpredict.cli.output import JsonFlag, Output
from fedpredict.cli.unknown_models import unknown_at
from fedpredict.errors import FedPredictError
from fedpredict.initiator.settings import ClientsFile, InitiatorSettings
from fedpredict.participant.settings import CallerSettings, CallersFile
from fedpredict.security.rules import RuleSettings

app = typer.Typer(help="See who may ask for what.", no_args_is_help=True)

COLUMNS = (
    "who",
    "models",
    "modes",
    "max_rows",
    "max_offline_rows",
    "distinct_ids_per_day",
    "accept_populations",
    "calls_per_s",
    "burst",
    "when",
    "purpose",
)


@app.callback()
def _policy() -> None:
    """See who may ask a daemon for what."""


@app.command()
def check(
    file: Annotated[
        Path | None,
        typer.Argument(help="A settings file, or one of [callers] or [clients] alone; default: the folder's own."),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Check a policy as a daemon does at SIGHUP, and show its rules; exit code 3, and the key, at a mistake.

    Nothing is changed: `systemctl reload`, or `kill -HUP` of the daemon's process, puts it in force. Models that this
    party does not know are told, and are no mistake: they may come later.
    """
    rules = rules_of(file)
    rows = [{"who": str(name), **_row(settings)} for name, settings in sorted(rules.items())]
    output = Output(as_json=as_json)
    output.rows(COLUMNS, rows, empty="Nobody may ask.")
    try:
        party = _party_with(file)
        unknown = [] if party is None else unknown_at(party)
    except FedPredictError as error:
        output.note(f"models are not checked: {error}")
        return
    for each in unknown:
        output.note(f"warning: {each}")


def rules_of(file: Path | None) -> Mapping[str, RuleSettings]:
    """Return the rules in a settings file, or in one that holds nothing else.

    Raises:
        ConfigError: There is no such file, or something in it is wrong.
    """
    tables = set() if file is None else set(read_toml(file))
    if file is not None and tables == {"callers"}:
        return wiring.load_rules(file, CallersFile).callers
    if file is not None and tables == {"clients"}:
        return wiring.load_rules(file, ClientsFile).clients
    settings = wiring.load_party(file).settings
    return settings.clients if isinstance(settings, InitiatorSettings) else settings.callers


def _party_with(file: Path | None) -> wiring.LoadedParty | None:
    """Return whose rules a file has: it, or the settings beside it that name it as their `policy`; None for none."""
    if file is None or set(read_toml(file)) not in ({"callers"}, {"clients"}):
        return wiring.load_party(file)
    for name in wiring.DEFAULT_FILES:
        path = file.parent / name
        named = read_toml(path).get("policy") if path.exists() else None
        if isinstance(named, str) and (file.parent / named).resolve() == file.resolve():
            return wiring.load_party(path)
    return None


def _row(settings: RuleSettings) -> dict[str, object]:
    pace, caller = settings.pace, settings if isinstance(settings, CallerSettings) else None
    when = (",".join(settings.weekdays or ()), settings.hours or "", settings.time_zone or "")
    return {
        "models": list(settings.models),
        "modes": [mode.value for mode in settings.modes],
        "max_rows": settings.max_rows,
        "max_offline_rows": settings.max_offline_rows or settings.max_rows,
        "distinct_ids_per_day": None if caller is None else caller.distinct_ids_per_day,
        "accept_populations": None if caller is None else caller.accept_populations,
        "calls_per_s": settings.calls_per_s,
        "burst": None if pace is None else pace.burst,
        "when": " ".join(filter(None, when)) or "always",
        "purpose": settings.purpose,
    }
