"""`fedpredict model`: the models in a party's warehouse."""

from __future__ import annotations

from collections import Counter
from typing import Annotated, cast

import typer

from fedpredict.cli import wiring
from fedpredict.cli.convert import convert
from fedpredict.cli.leases import opened_leases
from fedpredict.cli.model_prune import prune
from fedpredict.cli.names import find_model
from fedpredict.cli.options import ModelArgument, PartyConfig, Wait
from fedpredict.cli.output import JsonFlag, Output
from fedpredict.cli.split import split
from fedpredict.scoring.leased_models import delete_alone, roll_back_alone
from fedpredict.state.leases import Alone
from fedpredict.tables.head_version import HeadVersion
from fedpredict.tables.heads import list_heads
from fedpredict.tables.models import ModelVersion, list_versions
from fedpredict.warehouse.base import Warehouse

_HEAD = ("head", "combining", "structure", "n_outputs", "training_run", "created_at")
_PARITY = ("engine", "version", "rows", "max_abs", "max_rel", "elapsed_s")

app = typer.Typer(help="Convert partial models into parameter tables, and manage their versions.", no_args_is_help=True)
app.command("convert")(convert)
app.command("split")(split)
app.command("prune")(prune)


@app.command("list")
def list_all(config: PartyConfig = None, as_json: JsonFlag = False) -> None:
    """List the models of a party with their current versions."""
    with wiring.opened_warehouse(config) as party:
        versions = list_versions(party.warehouse)
    counts = Counter(each.model_id for each in versions)
    current = {each.model_id: each for each in versions}
    rows = [{**_summary(each), "versions": counts[each.model_id]} for each in current.values()]
    names = ("version", "versions", "kind", "link", "features", "view", "training_run", "created_at", "digest")
    Output(as_json=as_json).rows(("model_id", *names), rows, empty="No models yet; see `fedpredict model convert`.")


@app.command("show")
def show(model_id: ModelArgument, config: PartyConfig = None, as_json: JsonFlag = False) -> None:
    """Show the current version of a model, and its history; never a weight."""
    with wiring.opened_warehouse(config) as party:
        versions, heads = _versions(party.warehouse, model_id)
    output = Output(as_json=as_json)
    history = [_summary(each) for each in reversed(versions)]
    shown_heads = [_head(each) for each in heads]
    details = _details(versions[-1]) if versions else {"model_id": model_id}
    if as_json:
        output.fields({**details, "history": history, **({"heads": shown_heads} if heads else {})})
        return
    if versions:
        if not versions[-1].features:
            output.note(f"note: it has no features: its share is the same for every id of view {versions[-1].view}")
        certificate = dict(versions[-1].certificate)
        parity = certificate.pop("parity", [])
        output.fields({**details, "certificate": certificate})
        output.rows(_PARITY, cast("list[dict[str, object]]", parity), empty="No verification rows were replayed.")
        output.rows(("version", "digest", "view", "training_run", "created_at"), history, empty="")
    if heads:
        output.rows(_HEAD, shown_heads, empty="")


@app.command("delete")
def delete(
    model_id: ModelArgument,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    wait: Wait = 0.0,
    config: PartyConfig = None,
    as_json: JsonFlag = False,
) -> None:
    """Delete a model with all its versions and parameters. This cannot be undone."""
    output = Output(as_json=as_json)
    with wiring.opened_warehouse(config) as party, opened_leases(config) as leases:
        versions, heads = _versions(party.warehouse, model_id)
        told = f"{len(versions)} versions" + (f" and {len(heads)} heads" if heads else "")
        if not yes:
            typer.confirm(f"Delete model {model_id} of {party.party} with {told}?", abort=True, err=True)
        deleted = delete_alone(Alone(leases, wait, output.note), party.warehouse, model_id)
    output.result({"model_id": model_id, "versions": deleted}, f"Deleted {told} of {model_id}.")


@app.command("rollback")
def roll_back(
    model_id: ModelArgument,
    to: Annotated[
        int | None, typer.Option("--to", help="The version; default: the one before, of other parameters.", min=1)
    ] = None,
    wait: Wait = 0.0,
    config: PartyConfig = None,
    as_json: JsonFlag = False,
) -> None:
    """Make an older version of a model current again."""
    output = Output(as_json=as_json)
    with wiring.opened_warehouse(config) as party, opened_leases(config) as leases:
        _versions(party.warehouse, model_id)
        version = roll_back_alone(Alone(leases, wait, output.note), party.warehouse, model_id, to)
    output.result(
        _summary(version),
        f"Version {version.version} of {model_id} is current: digest {version.params_sha256[:12]}. An initiator that "
        "pinned another digest goes on with that one until `fedpredict catalogue pin`.",
    )


def _versions(warehouse: Warehouse, model_id: str) -> tuple[list[ModelVersion], list[HeadVersion]]:
    """Return the versions of a model's part and its heads; at least one of either."""
    by_model: dict[str, tuple[list[ModelVersion], list[HeadVersion]]] = {}
    for version in list_versions(warehouse):
        by_model.setdefault(version.model_id, ([], []))[0].append(version)
    for head in list_heads(warehouse):
        by_model.setdefault(head.model_id, ([], []))[1].append(head)
    return find_model(by_model, model_id)


def _head(head: HeadVersion) -> dict[str, object]:
    return {
        "head": head.head_sha256,
        "kind": head.kind,
        "link": str(head.link),
        "classes": head.classes,
        "combining": head.combination.combining,
        "structure": head.combination.structure_sha256,
        "n_outputs": head.combination.n_outputs,
        "n_scores": head.n_scores,
        "training_run": head.training_run,
        "created_at": head.created_at,
    }


def _summary(version: ModelVersion) -> dict[str, object]:
    return {
        "model_id": version.model_id,
        "version": version.version,
        "kind": version.kind,
        "link": str(version.link),
        "features": len(version.features),
        "view": f"{version.view} {version.view_version}",
        "training_run": version.training_run,
        "created_at": version.created_at,
        "params_sha256": version.params_sha256,
        "digest": version.params_sha256[:12],
    }


def _details(version: ModelVersion) -> dict[str, object]:
    return {
        "model_id": version.model_id,
        "version": version.version,
        "party": version.party,
        "family": version.family,
        "kind": version.kind,
        "link": str(version.link),
        "classes": version.classes,
        "n_scores": version.n_scores,
        "n_outputs": version.n_outputs,
        "fit_intercept": version.fit_intercept,
        "holds_intercept": version.holds_intercept,
        "view": version.view,
        "view_version": version.view_version,
        "features": version.features,
        "training_run": version.training_run,
        "params_sha256": version.params_sha256,
        "source_sha256": version.source_sha256,
        "created_at": version.created_at,
        "engines": version.engines,
        "certificate": dict(version.certificate),
        "metadata": dict(version.metadata),
    }
