"""A view's two files -> a registered version: linted, compared with what models use, and tried on the engine."""

from __future__ import annotations

from datetime import UTC, datetime

from fedpredict.errors import ViewRefusedError
from fedpredict.features.dry_run import Trials, try_everywhere, try_further
from fedpredict.tables.models import ModelVersion, current_versions
from fedpredict.tables.script import lint_script
from fedpredict.tables.script_store import (
    RegisteredView,
    list_scripts,
    script_digest,
    tried_engines,
    versions_of,
    write_script,
)
from fedpredict.tables.script_view import ScriptView
from fedpredict.warehouse.base import ColumnType, Warehouse


def register_view(
    warehouse: Warehouse,
    view: ScriptView,
    definition: str,
    script: str,
    *,
    now: datetime | None = None,
    trials: Trials | None = None,
) -> tuple[RegisteredView, bool]:
    """Register a view, or a new version of it; the same texts as the newest version's make none.

    The newest version is tried on the engines that are given now and that it was not tried on yet; that is recorded.

    Models keep the version that they were converted for. A feature that a current model uses cannot go, no raw column
    of its version's tables can change its type (versions share raw events, which are checked as they come), and no
    feature of any version can change its type, because one table holds all versions.

    Args:
        warehouse: Where the raw tables are, and where the definition goes.
        view: What `definition` says.
        definition: The text of the TOML file.
        script: The text of the SQL file.
        now: The instant of registration; default: this moment.
        trials: The engines beside the warehouse's own that it is tried on; None: none, whatever the targets are.

    Returns:
        The version, and whether it is new.

    Raises:
        ViewRefusedError: The script breaks a rule, or an engine refuses it, with line and column; a target cannot be
            tried; or the change would break a model.
        WarehouseError: As the warehouse says.
    """
    now = now or datetime.now(UTC)
    lint_script(view, script)
    registered = list_scripts(warehouse, view.name)
    if registered and registered[-1].sha256 == script_digest(definition, script):
        _try_again(warehouse, registered[-1], now, trials or Trials())
        return registered[-1], False
    known = versions_of(warehouse, view.name)
    _check_change(warehouse, view, max(known, default=0) + 1)
    if trials is None:
        trials = Trials(without=frozenset(view.targets))
    tried = try_everywhere(warehouse, view, script, now, trials)
    made = RegisteredView(view, max(known, default=0) + 1, definition, script, now)
    write_script(warehouse, made, tried)
    stored = {each.version: each.sha256 for each in list_scripts(warehouse, view.name)}
    if stored.get(made.version) != made.sha256:
        raise ViewRefusedError(f"view {view.name} was registered by another process at the same time: repeat")
    return made, True


def _try_again(warehouse: Warehouse, registered: RegisteredView, now: datetime, trials: Trials) -> None:
    known = tried_engines(warehouse, registered.view.name, registered.version)
    tried = try_further(warehouse, registered.view, registered.script, now, trials, tried=known)
    if set(tried) - set(known):
        write_script(warehouse, registered, tried)


def _told(kind: ColumnType) -> str:
    return "text" if kind is ColumnType.STRING else "number"


def _check_change(warehouse: Warehouse, view: ScriptView, version: int) -> None:
    mine = {each.column: each for each in view.feature_view(version).features}
    known = versions_of(warehouse, view.name)
    for older, features in known.items():
        for each in features.values():
            if each.column in mine and mine[each.column].type is not each.type:
                now, before = _told(mine[each.column].type), _told(each.type)
                raise ViewRefusedError(
                    f"feature {each.name} is {now}, and {before} in version {older} of view {view.name}:"
                    " name the new one differently"
                )
    bound = [each for each in current_versions(warehouse).values() if each.view == view.name]
    for model in bound:
        lost = [name for name in model.features if name not in view.features]
        if lost:
            raise ViewRefusedError(
                f"model {model.model_id} uses {', '.join(lost)} of view {view.name}: keep it until the model is deleted"
                " or converted for another view"
            )
    scripts = {each.version: each.view for each in list_scripts(warehouse, view.name)}
    for model in bound:
        if model.view_version in scripts:
            _check_raw_types(model, scripts[model.view_version], view)


def _check_raw_types(model: ModelVersion, older: ScriptView, view: ScriptView) -> None:
    mine = {(each.database, each.table): (alias, each.types) for alias, each in view.sources.items()}
    for source in older.sources.values():
        alias, types = mine.get((source.database, source.table), ("", {}))
        for name, kind in source.types.items():
            if types.get(name, kind) != kind:
                raise ViewRefusedError(
                    f"column {name} of {source.table} is {types[name]} under [sources.{alias}], and {kind} in version"
                    f" {model.view_version}, which model {model.model_id} uses: keep the type until the model is"
                    " deleted or converted for another view, or read another table"
                )
