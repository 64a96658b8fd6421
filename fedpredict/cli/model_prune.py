"""`fedpredict model prune`: parameters of versions that nothing serves any more."""

from __future__ import annotations

from typing import Annotated

import typer

from fedpredict.cli import wiring
from fedpredict.cli.config_file import Loaded
from fedpredict.cli.leases import opened_loaded_leases
from fedpredict.cli.names import find_model
from fedpredict.cli.options import PartyConfig, Wait
from fedpredict.cli.output import JsonFlag, Output
from fedpredict.errors import InputError
from fedpredict.initiator.settings import InitiatorSettings
from fedpredict.model.offline import OfflineState
from fedpredict.scoring.leased_models import prune_versions_alone
from fedpredict.state.leases import Alone
from fedpredict.tables.model_pruning import old_versions
from fedpredict.tables.models import ModelVersion, list_versions

Keep = Annotated[int, typer.Option("--keep", help="Versions of a model, by their parameters, that stay.", min=1)]
OneModel = Annotated[str | None, typer.Option("--model", help="Only this model's.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would go, and remove nothing.")]
MANY = 1_000_000


def prune(
    *,
    keep: Keep,
    model_id: OneModel = None,
    dry_run: DryRun = False,
    wait: Wait = 0.0,
    config: PartyConfig = None,
    as_json: JsonFlag = False,
) -> None:
    """Remove older versions' parameters: never what is served, pinned here, being scored, or needed by a task here."""
    loaded = wiring.load_party(config)
    served = loaded.settings.keep_versions
    if keep < served:
        raise InputError(f"--keep {keep}: daemons serve {served} versions of a model (keep_versions); keep as many")

    def needed() -> set[str]:
        settings = loaded.settings
        return _needed(Loaded(loaded.path, settings)) if isinstance(settings, InitiatorSettings) else set()

    output = Output(as_json=as_json)
    with wiring.opened_warehouse(config) as party, opened_loaded_leases(loaded) as leases:
        known = {each.model_id: each for each in list_versions(party.warehouse)}
        if model_id is not None:
            find_model(known, model_id)
        names = sorted(known) if model_id is None else [model_id]
        alone, old = Alone(leases, wait, output.note), list[ModelVersion]()
        for name in names:
            if dry_run:
                old += old_versions(party.warehouse, name, keep, needed())
            else:
                old += prune_versions_alone(alone, party.warehouse, name, keep, needed)
    columns = ("model_id", "version", "params_sha256", "created_at")
    rows = [{name: getattr(each, name) for name in columns} for each in old]
    output.rows(columns, rows, empty="Nothing is older.")
    if dry_run and rows:
        output.note(f"{len(rows)} versions would go; without --dry-run they do.")


def _needed(loaded: Loaded[InitiatorSettings]) -> set[str]:
    """Return the digests of an initiator's own parts that its pins, and tasks that have not ended, name."""
    party = loaded.settings.party
    pins = wiring.open_pins(loaded)
    try:
        manifests = [history[0].manifest for history in pins.pins().values() if history]
    finally:
        pins.close()
    tasks = wiring.open_tasks(loaded)
    try:
        open_states = [state for state in OfflineState if not state.has_ended or state is OfflineState.FAILED]
        models = {model for model, _ in tasks.overview().states}
        manifests += [each.new.manifest for each in tasks.tasks(models, limit=MANY, states=open_states)]
    finally:
        tasks.close()
    return {each.digest_of(party) for each in manifests if party in each.parties}
