"""`fedpredict catalogue`: which version of each model an initiator answers with, and what the parties offer."""

from __future__ import annotations

import getpass
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from fedpredict.cli import wiring
from fedpredict.cli.names import find_model
from fedpredict.cli.options import InitiatorConfig, ModelArgument
from fedpredict.cli.output import JsonFlag, Output
from fedpredict.errors import InputError, ModelNotReadyError
from fedpredict.initiator.settings import ModelSettings
from fedpredict.model.manifest import Manifest
from fedpredict.state.base import Offer, Pin, PinStore

app = typer.Typer(help="See and pin the versions that an initiator answers with.", no_args_is_help=True)

CONFIG = Path("initiator.toml")


@app.command("list")
def list_all(config: InitiatorConfig = CONFIG, as_json: JsonFlag = False) -> None:
    """List the models with the pinned version, and whether the parties offer another."""
    with _opened(config) as (models, store):
        pins, offers = store.pins(), store.offers()
    rows = [_row(model_id, pins.get(model_id, ()), offers.get(model_id)) for model_id in models]
    if not as_json:
        rows = [{**row, "pinned": str(row["pinned"])[:12], "offered": str(row["offered"])[:12]} for row in rows]
    columns = ("model_id", "state", "pinned", "pinned_by", "pinned_at", "offered", "problem")
    Output(as_json=as_json).rows(columns, rows, empty="No models; add [models.<id>] to the initiator's settings.")


@app.command("show")
def show(model_id: ModelArgument, config: InitiatorConfig = CONFIG, as_json: JsonFlag = False) -> None:
    """Show the pinned version of a model, what the parties offer, and the history of its pins."""
    with _opened(config) as (models, store):
        find_model(models, model_id)
        history, offer = store.pins().get(model_id, ()), store.offers().get(model_id)
    pinned = history[0].manifest if history else None
    offered = offer.manifest if offer else None
    output = Output(as_json=as_json)
    entries = [
        {"manifest": each.manifest.manifest_sha256, "pinned_by": each.pinned_by, "pinned_at": each.pinned_at}
        for each in history
    ]
    if as_json:
        output.fields(
            {
                **_row(model_id, history, offer),
                "pinned_manifest": _manifest(pinned),
                "offered_manifest": _manifest(offered),
                "history": entries,
            }
        )
        return
    output.fields(_row(model_id, history, offer))
    output.rows(("what", "pinned", "offered", "same"), _comparison(pinned, offered), empty="")
    output.rows(("manifest", "pinned_by", "pinned_at"), entries, empty="Never pinned.")


@app.command("pin")
def pin(
    model_id: ModelArgument,
    *,
    to: Annotated[
        str | None,
        typer.Option("--to", help="A manifest of the history, by the start of its name; default: the one offered."),
    ] = None,
    by: Annotated[str | None, typer.Option("--by", help="Who pins; default: this user.")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    config: InitiatorConfig = CONFIG,
    as_json: JsonFlag = False,
) -> None:
    """Accept the version that the parties offer, after a look at old and new; or go back with --to."""
    output = Output(as_json=as_json)
    with _opened(config) as (models, store):
        find_model(models, model_id)
        history, offer = store.pins().get(model_id, ()), store.offers().get(model_id)
        old = history[0].manifest if history else None
        new = _offered(model_id, offer) if to is None else _from_history(model_id, history, to)
        if new == old:
            output.result({"model_id": model_id, "changed": False}, f"{model_id}: that version is pinned already.")
            return
        if not as_json:
            output.rows(("what", "old", "new", "same"), _comparison(old, new, "old", "new"), empty="")
        if not yes:
            typer.confirm(f"Answer with manifest {new.manifest_sha256[:12]} from now on?", abort=True, err=True)
        done = store.pin(new, by=by or getpass.getuser(), replaces=old.manifest_sha256 if old else None)
    output.result(
        {"model_id": model_id, "changed": True, "pinned": done.manifest.manifest_sha256, "pinned_by": done.pinned_by},
        f"{model_id}: pinned {done.manifest.manifest_sha256[:12]}; a running initiator sees it at its next poll.",
    )


@contextmanager
def _opened(config: Path) -> Iterator[tuple[dict[str, ModelSettings], PinStore]]:
    loaded = wiring.load_initiator(config)
    store = wiring.open_pins(loaded)
    try:
        yield dict(loaded.settings.models), store
    finally:
        store.close()


def _offered(model_id: str, offer: Offer | None) -> Manifest:
    if offer is None:
        raise ModelNotReadyError(
            f"{model_id}: nothing is offered yet; start the initiator, so that it meets the parties"
        )
    if offer.manifest is None:
        raise ModelNotReadyError(f"{model_id}: the parties' parts make no model: {offer.problem}")
    return offer.manifest


def _from_history(model_id: str, history: tuple[Pin, ...], start: str) -> Manifest:
    found = {each.manifest.manifest_sha256: each.manifest for each in history}
    matching = [manifest for name, manifest in found.items() if name.startswith(start)]
    if len(matching) != 1:
        names = ", ".join(name[:12] for name in found) or "empty"
        raise InputError(f"{model_id}: {len(matching)} manifests of its history start with {start!r}; it has: {names}")
    return matching[0]


def _row(model_id: str, history: tuple[Pin, ...], offer: Offer | None) -> dict[str, object]:
    current = history[0] if history else None
    pinned = current.manifest.manifest_sha256 if current else ""
    offered = offer.manifest.manifest_sha256 if offer and offer.manifest else ""
    return {
        "model_id": model_id,
        "state": _state(pinned, offered, offer),
        "pinned": pinned,
        "pinned_by": current.pinned_by if current else "",
        "pinned_at": current.pinned_at if current else None,
        "offered": offered,
        "offered_at": offer.offered_at if offer else None,
        "problem": offer.problem if offer else "",
    }


def _state(pinned: str, offered: str, offer: Offer | None) -> str:
    if offer is None:
        return "pinned" if pinned else "parties not met yet"
    if not offered:
        return "pinned; the parties offer nothing" if pinned else "the parties offer nothing"
    if not pinned:
        return "offered, not pinned"
    return "pinned" if pinned == offered else "another version is offered"


def _comparison(
    old: Manifest | None, new: Manifest | None, before: str = "pinned", after: str = "offered"
) -> list[dict[str, object]]:
    left, right = _manifest(old) or {}, _manifest(new) or {}
    return [
        {"what": name, before: left.get(name), after: right.get(name), "same": left.get(name) == right.get(name)}
        for name in dict.fromkeys([*left, *right])
    ]


def _manifest(manifest: Manifest | None) -> dict[str, object] | None:
    if manifest is None:
        return None
    return {
        "manifest": manifest.manifest_sha256,
        "training_run": manifest.training_run,
        "kind": manifest.kind,
        "link": str(manifest.link),
        "classes": manifest.classes,
        "n_scores": manifest.n_scores,
        "n_outputs": manifest.n_outputs,
        "intercept_party": manifest.intercept_party,
        **_head(manifest),
        **{f"digest of {party}": digest for party, digest in manifest.digests},
    }


def _head(manifest: Manifest) -> dict[str, object]:
    if manifest.combination is None or manifest.head is None:
        return {}
    return {
        "combining": manifest.combination.combining,
        "structure": manifest.combination.structure_sha256,
        "n_outputs": manifest.n_outputs,
        f"head at {manifest.head.party}": manifest.head.head_sha256,
    }
