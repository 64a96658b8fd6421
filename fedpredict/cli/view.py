"""`fedpredict view`: feature views that scripts compute."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import typer

from fedpredict.cli import wiring
from fedpredict.cli.config_file import load_settings
from fedpredict.cli.leases import opened_leases
from fedpredict.cli.names import nearest
from fedpredict.cli.options import PartyConfig, Wait
from fedpredict.cli.output import JsonFlag, Output
from fedpredict.cli.view_engines import EngineConfigs, WithoutDryRun, opened_trials
from fedpredict.errors import ConfigError, ViewRefusedError
from fedpredict.features.dry_run import is_table_missing
from fedpredict.features.registration import register_view
from fedpredict.features.view_fixture import Fixture, generated, read_fixture, run_fixture
from fedpredict.features.view_test import differences
from fedpredict.scoring.leased import versions_name
from fedpredict.state.leases import Alone
from fedpredict.tables.models import current_versions
from fedpredict.tables.script import lint_script
from fedpredict.tables.script_store import RegisteredView, list_scripts, tried_engines
from fedpredict.tables.script_view import ScriptView
from fedpredict.warehouse.base import Warehouse

app = typer.Typer(help="Feature views that a script computes in the warehouse.", no_args_is_help=True)

DefinitionFile = Annotated[
    Path, typer.Argument(help="The view's TOML file; the script is the .sql file of that name beside it.")
]
ViewName = Annotated[str, typer.Argument(help="The view's name.", metavar="VIEW")]
Version = Annotated[int | None, typer.Option("--version", help="Which version; default: the newest.")]


@dataclass(frozen=True, slots=True)
class ViewFiles:
    """A view's two files."""

    view: ScriptView
    definition: str
    script: str


def read_view_files(path: Path) -> ViewFiles:
    """Return what a view's TOML file and the SQL file beside it say.

    Raises:
        ConfigError: A file is missing, or the definition has a mistake, told with its key and the nearest right one.
    """
    if not path.exists():
        raise ConfigError(f"{path}: no such file; it holds the view's definition")
    loaded = load_settings(path, ScriptView, prefix="FEDPREDICT_VIEW_", environment={})
    script = path.with_suffix(".sql")
    try:
        return ViewFiles(loaded.settings, path.read_text(encoding="utf-8"), script.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(f"{script}: no such file; it holds the view's SELECT") from error
    except (OSError, UnicodeError) as error:
        raise ConfigError(f"{script}: cannot be read: {error}") from error


def find_view(warehouse: Warehouse, name: str, version: int | None) -> RegisteredView:
    """Return a version of a registered view, or the newest.

    Raises:
        ViewRefusedError: There is none; with the nearest.
    """
    scripts = list_scripts(warehouse)
    mine = {each.version: each for each in scripts if each.view.name == name}
    if not mine:
        hint = nearest(name, {each.view.name for each in scripts}, "none yet; see `fedpredict view register`")
        raise ViewRefusedError(f"no view {name} is registered; {hint}")
    if version is not None and version not in mine:
        raise ViewRefusedError(f"view {name} has no registered version {version}: {', '.join(map(str, mine))}")
    return mine[max(mine) if version is None else version]


def note_without_effect(output: Output, view: ScriptView) -> None:
    """Say what of a definition does nothing."""
    if view.max_age.realtime is not None:
        output.note("note: [max_age] realtime has no effect: features in that mode are as of the question; take it out")


@app.command("lint")
def lint(file: DefinitionFile, as_json: JsonFlag = False) -> None:
    """Check a view's files for every engine of its targets, without a warehouse."""
    files = read_view_files(file)
    types = lint_script(files.view, files.script)
    note_without_effect(Output(as_json=as_json), files.view)
    rows = [{"output": name, "type": str(kind)} for name, kind in types.items()]
    Output(as_json=as_json).rows(("output", "type"), rows, empty="")


@app.command("register")
def register(
    file: DefinitionFile,
    *,
    engine_configs: EngineConfigs = None,
    without: WithoutDryRun = None,
    wait: Wait = 0.0,
    config: PartyConfig = None,
    as_json: JsonFlag = False,
) -> None:
    """Check a view, try it on every engine of its targets, and store it as a new version where it changed."""
    files, output = read_view_files(file), Output(as_json=as_json)
    lint_script(files.view, files.script)
    with (
        wiring.opened_warehouse(config) as party,
        opened_leases(config) as leases,
        Alone(leases, wait, output.note).hold(versions_name(files.view.name)),
        opened_trials(files.view, party.warehouse, engine_configs or (), without or ()) as trials,
    ):
        tries = replace(trials, has_outside=files.view.name in party.outside)
        made, is_new = register_view(party.warehouse, files.view, files.definition, files.script, trials=tries)
        tried = tried_engines(party.warehouse, made.view.name, made.version)
        is_alone = tries.has_outside and is_table_missing(party.warehouse, files.view, files.script)
    note_without_effect(output, made.view)
    if is_alone:
        output.note(
            f"note: view {made.view.name} answers in mode realtime alone: the warehouse lacks the table of its events"
        )
    untried = [name for name in made.view.targets if name not in tried]
    told = "registered" if is_new else "unchanged"
    engines = f" Tried on {', '.join(tried) or 'no engine'}" + (f", not on {', '.join(untried)}." if untried else ".")
    output.result(
        {
            "view": made.view.name,
            "version": made.version,
            "sha256": made.sha256,
            "new": is_new,
            "tried": list(tried),
            "not_tried": untried,
        },
        f"View {made.view.name}, version {made.version}: {told}.{engines}",
    )


@app.command("test")
def compare_engines(
    file: DefinitionFile,
    *,
    fixture: Annotated[
        Path | None, typer.Option("--fixture", help="TOML of raw rows; default: NAME.test.toml beside FILE, or random.")
    ] = None,
    engine_configs: EngineConfigs = None,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="How many times, where the rows are random.")] = 3,
    config: PartyConfig = None,
    as_json: JsonFlag = False,
) -> None:
    """Run a view's script over a few rows in every engine of its targets that is given, and show what differs."""
    files = read_view_files(file)
    lint_script(files.view, files.script)
    beside = file.with_suffix(".test.toml")
    given = fixture or (beside if beside.exists() else None)
    fixtures = [read_fixture(given, files.view)] if given else [generated(files.view, seed) for seed in range(seeds)]
    answers: dict[str, list[list[dict[str, object]]]] = {}
    for path in [config, *(engine_configs or ())]:
        with wiring.opened_warehouse(path) as party:
            name = party.warehouse.engine.name
            if name in files.view.targets:
                answers[name] = [run_fixture(party.warehouse, files.view, files.script, each) for each in fixtures]
    _show_answers(Output(as_json=as_json), files.view, fixtures, answers)


def _show_answers(
    output: Output, view: ScriptView, fixtures: list[Fixture], answers: dict[str, list[list[dict[str, object]]]]
) -> None:
    if not answers:
        raise ConfigError(f"no warehouse given is one of the targets: {', '.join(view.targets)}")
    first = next(iter(answers))
    told = [
        line
        for at, each in enumerate(fixtures)
        for name, rows in [
            *answers.items(),
            ("expected", [_expected(view, each)] * len(fixtures) if each.expected else []),
        ]
        if name != first and rows
        for line in differences(view, answers[first][at], rows[at], name)
    ]
    missing = [engine for engine in view.targets if engine not in answers]
    rows = [
        {
            "engine": name,
            "fixtures": len(found),
            "rows": sum(map(len, found)),
            "compared_with": first if name != first else "",
        }
        for name, found in answers.items()
    ]
    if output.as_json:
        output.fields({"view": view.name, "engines": rows, "not_asked": missing, "differences": told})
    else:
        output.rows(("engine", "fixtures", "rows", "compared_with"), rows, empty="")
        if missing:
            output.say(f"Not asked: {', '.join(missing)}; give a settings file of such a warehouse by --engine-config.")
    if told:
        raise ViewRefusedError(f"{len(told)} differences from {first}: {'; '.join(told[:20])}")


def _expected(view: ScriptView, fixture: Fixture) -> list[dict[str, object]]:
    columns = {view.key: "sample_id", **{each.name: each.column for each in view.feature_view(1).features}}
    return [{columns.get(name, name): value for name, value in row.items()} for row in fixture.expected]


@app.command("list")
def list_all(config: PartyConfig = None, as_json: JsonFlag = False) -> None:
    """List the registered views, every version, and the models bound to each."""
    with wiring.opened_warehouse(config) as party:
        scripts, models = list_scripts(party.warehouse), current_versions(party.warehouse).values()
    rows = [
        {
            "view": each.view.name,
            "version": each.version,
            "features": len(each.view.features),
            "targets": list(each.view.targets),
            "models": sorted(
                model.model_id for model in models if (model.view, model.view_version) == (each.view.name, each.version)
            ),
            "owner": each.view.owner,
            "created_at": each.created_at,
        }
        for each in scripts
    ]
    columns = ("view", "version", "features", "targets", "models", "owner", "created_at")
    Output(as_json=as_json).rows(columns, rows, empty="No views yet; see `fedpredict view register`.")


@app.command("show")
def show(view: ViewName, version: Version = None, config: PartyConfig = None, as_json: JsonFlag = False) -> None:
    """Show a registered view: its definition and its script."""
    with wiring.opened_warehouse(config) as party:
        found = find_view(party.warehouse, view, version)
        tried = tried_engines(party.warehouse, view, found.version)
    output = Output(as_json=as_json)
    head = {
        "view": view,
        "version": found.version,
        "sha256": found.sha256,
        "created_at": found.created_at,
        "tried": list(tried),
    }
    if as_json:
        output.fields({**head, "definition": found.definition, "script": found.script})
        return
    output.fields(head)
    output.say(f"\n{found.definition}\n{found.script}")


@app.command("diff")
def diff(file: DefinitionFile, version: Version = None, config: PartyConfig = None, as_json: JsonFlag = False) -> None:
    """Show what a view's files would change in the registered version."""
    files = read_view_files(file)
    with wiring.opened_warehouse(config) as party:
        found = find_view(party.warehouse, files.view.name, version)
    changes = feature_changes(found.view, files.view)
    lines = [
        line
        for kind, old, new in (("toml", found.definition, files.definition), ("sql", found.script, files.script))
        for line in difflib.unified_diff(
            old.splitlines(), new.splitlines(), f"version {found.version} ({kind})", f"{file.stem}.{kind}", lineterm=""
        )
    ]
    output = Output(as_json=as_json)
    if as_json:
        output.fields({"view": files.view.name, "version": found.version, "features": changes, "lines": lines})
        return
    for line in (*changes, *lines):
        output.say(line)
    if not lines:
        output.say(f"No difference from version {found.version}.")


def feature_changes(old: ScriptView, new: ScriptView) -> list[str]:
    """Return what happens to features between two definitions, a line for each."""
    told = [f"feature {name} is new" for name in new.features if name not in old.features]
    told += [f"feature {name} goes" for name in old.features if name not in new.features]
    both = [(name, old.features[name], new.features[name]) for name in new.features if name in old.features]
    return told + [
        f"feature {name}: {key} is {getattr(after, key)}, was {getattr(before, key)}"
        for name, before, after in both
        for key in ("type", "min", "max", "texts")
        if getattr(before, key) != getattr(after, key)
    ]
