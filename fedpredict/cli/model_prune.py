"""`fedpredict model prune`: parameters of versions that nothing serves any more."""

from __future__ import annotations

import logging
from functools import partial
from typing import Annotated

import typer

from fedpredict.cli import wiring
from fedpredict.cli.config_file import Loaded
from fedpredict.cli.leases import opened_loaded_leases
from fedpredict.cli.names import find_model
from fedpredict.cli.options import PartyConfig, Wait
from fedpredict.cli.output import JsonFlag, Output
from fedpredict.errors import InputError, LeaseHeldError, LeaseLostError, StateError, StoreError, WarehouseError
from fedpredict.initiator.settings import InitiatorSettings
from fedpredict.model.offline import OfflineState
from fedpredict.scoring.leased_models import prune_versions_alone
from fedpredict.state.leases import Alone
from fedpredict.tables.model_pruning import old_versions
from fedpredict.tables.models import ModelVersion, list_versions
from fedpredict.warehouse.base import Warehouse

logger = logging.getLogger(__name__)

Keep = Annotated[int, typer.Option("--keep", help="Versions of a model, by their parameters, that stay.", min=1)]
OneModel = Annotated[str | None, typer.Option("--model", help="Only this model's.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would go, and remove nothing.")]
MANY = 1_000_000
PRUNING_ERRORS = (WarehouseError, StateError, StoreError, LeaseLostError)
"""What keeps `prune_as_set` from its work, and does not undo what was scored before."""


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
    output = Output(as_json=as_json)
    with wiring.opened_warehouse(config) as party, opened_loaded_leases(loaded) as leases:
        known = {each.model_id: each for each in list_versions(party.warehouse)}
        if model_id is not None:
            find_model(known, model_id)
        names = sorted(known) if model_id is None else [model_id]
        alone, old = Alone(leases, wait, output.note), list[ModelVersion]()
        for name in names:
            if dry_run:
                old += old_versions(party.warehouse, name, keep, _needed(loaded))
            else:
                old += prune_versions_alone(alone, party.warehouse, name, keep, partial(_needed, loaded))
    columns = ("model_id", "version", "params_sha256", "created_at")
    rows = [{name: getattr(each, name) for name in columns} for each in old]
    output.rows(columns, rows, empty="Nothing is older.")
    if dry_run and rows:
        output.note(f"{len(rows)} versions would go; without --dry-run they do.")


def prune_as_set(loaded: wiring.LoadedParty, warehouse: Warehouse, alone: Alone) -> None:
    """Remove what `[tasks] keep_parameters` says; models whose versions another process changes are left for later.

    Raises:
        WarehouseError, StateError, StoreError, LeaseLostError: As `prune_versions_alone` says: `PRUNING_ERRORS`.
    """
    if loaded.settings.tasks.keep_parameters is None:
        return
    keep = max(loaded.settings.tasks.keep_parameters, loaded.settings.keep_versions)  # daemons serve so many
    for name in sorted({each.model_id for each in list_versions(warehouse)}):
        try:
            prune_versions_alone(alone, warehouse, name, keep, partial(_needed, loaded))
        except LeaseHeldError as error:
            logger.info("model.kept", extra={"model": name, "reason": str(error)})


def _needed(loaded: wiring.LoadedParty) -> set[str]:
    """Return the digests of an initiator's own parts that its pins, and tasks that have not ended, name."""
    settings = loaded.settings
    if not isinstance(settings, InitiatorSettings):
        return set()
    party, of_initiator = settings.party, Loaded(loaded.path, settings)
    pins = wiring.open_pins(of_initiator)
    try:
        manifests = [history[0].manifest for history in pins.pins().values() if history]
    finally:
        pins.close()
    tasks = wiring.open_tasks(of_initiator)
    try:
        open_states = [state for state in OfflineState if not state.has_ended or state is OfflineState.FAILED]
        models = {model for model, _ in tasks.overview().states}
        manifests += [each.new.manifest for each in tasks.tasks(models, limit=MANY, states=open_states)]
    finally:
        tasks.close()
    return {each.digest_of(party) for each in manifests if party in each.parties}
