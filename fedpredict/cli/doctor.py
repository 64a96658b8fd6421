"""`fedpredict doctor`: look at everything that a process of some settings needs, and say what to do."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import typer

from fedpredict.cli import wiring
from fedpredict.cli.checks_audit import check_audit, check_tokens
from fedpredict.cli.checks_distinct import check_distinct
from fedpredict.cli.checks_local import Checked, check_clock, check_listen, check_store, check_tls, check_warehouse
from fedpredict.cli.checks_masked import check_masked
from fedpredict.cli.checks_realtime import check_realtime
from fedpredict.cli.checks_roles import check_callers, check_catalogue, check_clients, check_initiators, check_peers
from fedpredict.cli.checks_tasks import check_leases, check_schedule, check_tasks
from fedpredict.cli.config_file import Loaded
from fedpredict.cli.exits import ExitCode
from fedpredict.cli.options import PartyConfig
from fedpredict.cli.output import JsonFlag, Output
from fedpredict.errors import ConfigError
from fedpredict.initiator.settings import InitiatorSettings
from fedpredict.participant.settings import ParticipantSettings
from fedpredict.security.check import Finding, Level


def doctor(config: PartyConfig = None, as_json: JsonFlag = False) -> None:
    """Check settings, certificates, warehouse, models, audit log, tasks, peers and port; exits with 9 at a problem."""
    output = Output(as_json=as_json)
    with output.progress("looking"):
        found = list(examine(config))
    rows = [{"topic": topic, "level": each.level, "what": each.what, "fix": each.fix} for topic, each in found]
    if as_json:
        output.rows((), rows, empty="")
    for topic, each in found:
        output.say(f"{each.level.upper() if each.level is not Level.OK else 'ok':<8} {topic}: {each.what}")
        if each.fix:
            output.say(f"{'':<8} → {each.fix}")
    counts = {level: sum(each.level is level for _, each in found) for level in Level}
    output.say(f"{counts[Level.PROBLEM]} problems, {counts[Level.WARNING]} warnings, {counts[Level.OK]} fine")
    if counts[Level.PROBLEM]:
        raise typer.Exit(ExitCode.FINDINGS)


def examine(config: Path | None) -> Iterator[Checked]:
    """Yield what was found, in the order in which things depend on each other."""
    try:
        loaded = wiring.load_party(config)
    except ConfigError as error:
        for problem in (str(error), *getattr(error, "__notes__", ())):
            yield "settings", Finding(Level.PROBLEM, problem, "correct the settings; all else waits for them")
        return
    now = datetime.now(UTC)
    role = "a participant" if isinstance(loaded.settings, ParticipantSettings) else "an initiator"
    yield "settings", Finding(Level.OK, f"{loaded.path}: {role}, party {loaded.settings.party}")
    yield from check_tls(loaded, now)
    models: list[str] = []
    yield from check_warehouse(loaded, models)
    yield from check_store(loaded)
    yield from check_realtime(loaded)
    yield from check_leases(loaded)
    yield from check_schedule(loaded)
    yield from check_audit(loaded)
    settings = loaded.settings
    if isinstance(settings, InitiatorSettings):
        yield from check_clients(settings)
        yield from check_tokens(Loaded(loaded.path, settings), now)
        yield from check_catalogue(Loaded(loaded.path, settings))
        yield from check_tasks(Loaded(loaded.path, settings))
        yield from check_peers(Loaded(loaded.path, settings))
    else:
        yield from check_distinct(Loaded(loaded.path, settings))
        yield from check_callers(settings, frozenset(models))
        yield from check_masked(settings, frozenset(models))
        yield from check_initiators(Loaded(loaded.path, settings))
    yield from check_listen(loaded)
    yield from check_clock(now)
