"""`fedpredict model convert`: a model file becomes parameter rows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from fedpredict import __version__
from fedpredict.cli import wiring
from fedpredict.cli.leases import opened_leases
from fedpredict.cli.options import PartyConfig, Wait
from fedpredict.cli.output import JsonFlag, Output
from fedpredict.cli.verification import read_verification
from fedpredict.cli.view_choice import choose_view
from fedpredict.convert.certify import certificate_of, replay
from fedpredict.convert.match import match_view
from fedpredict.convert.options import ReadOptions
from fedpredict.convert.read import HeadResult, ReadResult, read_file
from fedpredict.errors import InputError
from fedpredict.model.part import Family, Part
from fedpredict.model.partial import PartialModel
from fedpredict.scoring.leased_models import model_name, publish_alone
from fedpredict.state.leases import Alone
from fedpredict.tables.heads import publish_head
from fedpredict.tables.models import ModelVersion
from fedpredict.tables.views import FeatureView
from fedpredict.warehouse.base import Warehouse

_TEXT_BYTES = 2**24
"""Of a file of names or of a description."""
_SHOWN = 3
"""Scores of a constant share that are shown."""
NOT_ISOLATED = "note: this kernel does not let the reading process be cut off the network; all else confines it"
"""Told by every command that has read a model file so."""

ViewOption = Annotated[
    str | None, typer.Option("--view", help="The feature view; default: the one that has the model's features.")
]
ViewVersionOption = Annotated[
    int | None, typer.Option("--view-version", help="Its version; default: the newest that has a snapshot.")
]
FeaturesOption = Annotated[
    str | None,
    typer.Option("--features", help="Names for a file without any: a,b,c, or @FILE with one name a line."),
]
ModelIdOption = Annotated[
    str | None, typer.Option("--model-id", help="The training task's id, where the file does not say it.")
]
RunOption = Annotated[
    str | None, typer.Option("--training-run", help="The run that made all parts, where the file does not say it.")
]
LayersOption = Annotated[
    Path | None,
    typer.Option(
        "--layers",
        help="What the tensors of a PyTorch or safetensors file do, or what is below a top model: a JSON file.",
    ),
]
OffsetOption = Annotated[
    str | None,
    typer.Option("--offset", help="A feature beside the file's that is added to every score as it is."),
]
ExposureOption = Annotated[
    str | None,
    typer.Option("--exposure", help="A feature beside the file's that multiplies the predictions: link log."),
]
VerifyOption = Annotated[
    Path | None,
    typer.Option(
        "--verify",
        help="Rows (CSV, Parquet): the part's features and the training side's score (score_0, score_1, ...), or the "
        "prediction of a whole model. They are replayed here and in the warehouse's engine; where one differs, nothing "
        "is converted.",
    ),
]


def convert(
    file: Annotated[
        Path, typer.Argument(help="A pickle, joblib, JSON, PyTorch or safetensors file; nothing in it is executed.")
    ],
    *,
    view: ViewOption = None,
    view_version: ViewVersionOption = None,
    model_id: ModelIdOption = None,
    training_run: RunOption = None,
    features: FeaturesOption = None,
    layers: LayersOption = None,
    offset: OffsetOption = None,
    exposure: ExposureOption = None,
    party: Annotated[str | None, typer.Option("--party", help="Whose part it is; must be the settings' party.")] = None,
    holds_intercept: Annotated[
        bool | None,
        typer.Option("--intercept/--no-intercept", help="Whether this part holds the joint model's intercept."),
    ] = None,
    verify: VerifyOption = None,
    wait: Wait = 0.0,
    config: PartyConfig = None,
    as_json: JsonFlag = False,
) -> None:
    """Convert a partial model, or an initiator's head; daemons serve it at their next poll, older ones stay loaded."""
    output = Output(as_json=as_json)
    names = parse_features(features)
    with wiring.opened_warehouse(config) as ours, opened_leases(config) as leases:
        if party not in (None, ours.party):
            raise InputError(f"--party says {party}, but the settings are of {ours.party}")
        options = ReadOptions(
            model_id=model_id,
            training_run=training_run,
            party=ours.party,
            features=names,
            holds_intercept=holds_intercept,
            layers=read_layers(layers),
            offset=offset,
            exposure=exposure,
        )
        with output.progress(f"reading {file.name}"):
            result = read_file(file, options)
        alone = Alone(leases, wait, output.note)
        if isinstance(result, HeadResult):
            with alone.hold(model_name(result.head.model_id)):
                _convert_head(output, ours.warehouse, file, result, verify)
            return
        if verify is not None:
            rows = read_verification(verify, result.partial)
            result = replace(result, partial=replace(result.partial, verification=rows))
        chosen = choose_view(ours.warehouse, view, result.partial, view_version)
        match_view(result.partial, [feature.name for feature in chosen.view.features])
        with output.progress(f"writing {result.partial.model_id}"):
            version, written = _publish(alone, ours.warehouse, result, chosen.view)
        engine = ours.warehouse.engine.name
    _report(output, file, result, version, written=written)
    if chosen.note:
        output.note(chosen.note)
    _note_odd(output, result.partial, version, engine)


def _publish(alone: Alone, warehouse: Warehouse, result: ReadResult, target: FeatureView) -> tuple[ModelVersion, bool]:
    def certify(version: ModelVersion) -> dict[str, object]:
        return _certificate(warehouse, result, target, version)

    return publish_alone(alone, warehouse, result.partial, target, result.source_sha256, certify=certify)


def _convert_head(output: Output, warehouse: Warehouse, file: Path, result: HeadResult, verify: Path | None) -> None:
    if verify is not None:
        raise InputError("--verify: a head has no partial scores; verify the parties' parts")
    version, written = publish_head(warehouse, result.head, result.source_sha256)
    if not result.network_isolated:
        output.note(NOT_ISOLATED)
    what = "is now" if written else "was converted before, unchanged; it stays"
    output.result(
        {
            "model_id": version.model_id,
            "head_sha256": version.head_sha256,
            "written": written,
            "source": result.source,
            "kind": version.kind,
            "link": str(version.link),
            "combining": version.combination.combining,
            "structure_sha256": version.combination.structure_sha256,
            "n_outputs": version.combination.n_outputs,
            "training_run": version.training_run,
        },
        f"{file.name} ({result.source}) {what} a head of {version.model_id} at {version.party}: digest "
        f"{version.head_sha256[:12]}, {version.combination}. An initiator whose settings say head = true under "
        f"[models.{version.model_id}] finishes with it once the parties' parts have that structure.",
    )


def _note_odd(output: Output, partial: PartialModel, version: ModelVersion, engine: str) -> None:
    if engine not in version.engines:
        output.note(
            f"note: {engine} cannot compute this part; it is scored in process only ({', '.join(version.engines)})"
        )
    if not partial.part.features:
        told = share_without_features(partial.part)
        output.note(f"note: the part has no features: {told} for every sample id of view {version.view}")


def share_without_features(part: Part) -> str:
    """Return what a part without features gives: zero, or a constant, of which the first numbers are told."""
    if part.family is Family.SPLIT_TREES:
        return "its part allows every leaf"
    scores = part.partial_scores(np.zeros((1, 0)))[0].tolist()
    if not any(scores):
        return "its share is zero"
    more = f" and {len(scores) - _SHOWN} more" if len(scores) > _SHOWN else ""
    return f"its share is the constant {', '.join(f'{each:g}' for each in scores[:_SHOWN])}{more}"


def _report(output: Output, file: Path, result: ReadResult, version: ModelVersion, *, written: bool) -> None:
    if not result.network_isolated:
        output.note(NOT_ISOLATED)
    what = "is now" if written else "was converted before, unchanged; it stays"
    output.result(
        {
            "model_id": version.model_id,
            "version": version.version,
            "written": written,
            "source": result.source,
            "kind": version.kind,
            "link": str(version.link),
            "view": version.view,
            "view_version": version.view_version,
            "features": version.features,
            "holds_intercept": version.holds_intercept,
            "training_run": version.training_run,
            "params_sha256": version.params_sha256,
            "engines": version.engines,
            "certificate": dict(version.certificate),
        },
        f"{file.name} ({result.source}, {len(version.features)} features) {what} version {version.version} of "
        f"{version.model_id} at {version.party}: digest {version.params_sha256[:12]}, view {version.view} "
        f"{version.view_version}.",
    )


def parse_features(text: str | None) -> tuple[str, ...] | None:
    """Return the names of `--features`: separated by commas, or one a line in `@FILE`."""
    if text is None:
        return None
    if not text.startswith("@"):
        return tuple(text.split(","))
    return tuple(line for line in _text(Path(text[1:]), "--features").splitlines() if line)


def read_layers(file: Path | None) -> str | None:
    """Return the text of `--layers`."""
    return None if file is None else _text(file, "--layers")


def _text(file: Path, option: str) -> str:
    """Return the text of an option's file; a large one is no list of names and no description, but a model perhaps."""
    try:
        if (size := file.stat().st_size) > _TEXT_BYTES:
            raise InputError(f"{option}: {file} has {size} bytes; the limit is {_TEXT_BYTES}: is it another file?")
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeError) as error:
        raise InputError(f"{option}: {file} cannot be read: {error}") from error


def _certificate(
    warehouse: Warehouse, result: ReadResult, view: FeatureView, version: ModelVersion
) -> dict[str, object]:
    replays = replay(warehouse, result.partial, view, version)
    return {
        "converter": f"fedpredict {__version__}",
        "source": result.source,
        "network_isolated": result.network_isolated,
        **certificate_of(replays, result.partial),
    }
