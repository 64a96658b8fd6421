"""`fedpredict model split` and `fedpredict simulate`: for those who trained centrally, for tests and demonstrations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from fedpredict.cli.convert import (
    NOT_ISOLATED,
    ExposureOption,
    FeaturesOption,
    LayersOption,
    ModelIdOption,
    OffsetOption,
    RunOption,
    parse_features,
    read_layers,
    share_without_features,
)
from fedpredict.cli.files import read_rows
from fedpredict.cli.output import JsonFlag, Output
from fedpredict.cli.verification import has_expected, read_verification
from fedpredict.convert.network_top_cut import split_under_top
from fedpredict.convert.options import ReadOptions
from fedpredict.convert.read import HeadResult, ReadResult, check_verification, read_file, read_model_file
from fedpredict.convert.simulate import simulate as play
from fedpredict.convert.split import split_model
from fedpredict.convert.split_trees_cut import split_with_head
from fedpredict.convert.write import write_head, write_partial
from fedpredict.errors import InputError, VerificationError
from fedpredict.model.arrays import Floats
from fedpredict.model.head import HeadModel
from fedpredict.model.network import NetworkPart
from fedpredict.model.partial import PartialModel
from fedpredict.model.steps import StepsPart

JOINT = "joint-model"
"""The party that an uncut model is filed under, and the name of its file; no party's parts are named so."""
HEAD = "head.json"
"""The file of the initiator's head."""
LIMIT = 1e-12


HeadOption = Annotated[
    str | None,
    typer.Option(
        "--head",
        help="The initiator, for trees and networks that mix features of several parties: it gets the values of the "
        "leaves, or the layers above.",
    ),
]
RowsOption = Annotated[
    Path | None,
    typer.Option(
        "--rows",
        help="Rows (CSV, Parquet) to put into the parts for verification; where they have score or prediction columns, "
        "the uncut model must give these.",
    ),
]


def split(
    file: Annotated[
        Path, typer.Argument(help="The jointly trained model: pickle, joblib, JSON, PyTorch or safetensors.")
    ],
    *,
    parties: Annotated[
        list[str], typer.Option("--party", help="PARTY=feature,feature,... or PARTY=@FILE; repeat for every party.")
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder for one file per party; made where it is missing.")],
    intercept: Annotated[str | None, typer.Option("--intercept", help="The party that gets the intercept.")] = None,
    head: HeadOption = None,
    rows: RowsOption = None,
    model_id: ModelIdOption = None,
    training_run: RunOption = None,
    features: FeaturesOption = None,
    layers: LayersOption = None,
    offset: OffsetOption = None,
    exposure: ExposureOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Cut a jointly trained model into one pickled partial model per party, by columns.

    With --head, trees and networks may mix the parties' features: each party gets its own splits, or the units below
    the first that mix, and the initiator the rest.
    """
    output = Output(as_json=as_json)
    owners = dict(_parse_owner(text) for text in parties)
    if len(owners) != len(parties):
        raise typer.BadParameter("a party is named twice", param_hint="--party")
    if head is not None and intercept is not None:
        raise typer.BadParameter("with --head the initiator gets the base score too", param_hint="--intercept")
    with output.progress(f"reading {file.name}"):
        options = ReadOptions(
            model_id=model_id,
            training_run=training_run,
            party=JOINT,
            features=parse_features(features),
            layers=read_layers(layers),
            offset=offset,
            exposure=exposure,
        )
        result = read_model_file(file, options)
    _note_network(output, result)
    parts, the_head = _cut(
        result, owners, intercept, head, None if rows is None else _checked_rows(rows, result.partial)
    )
    _write(out, result.partial, parts, the_head)
    _report(output, out, parts, the_head)


def _checked_rows(path: Path, joint: PartialModel) -> Floats:
    """Return the features of verification rows; scores or predictions in the file are held against the uncut model."""
    if not has_expected(path, joint):
        return read_rows(path, joint.part.features, joint.part.categories)[0]
    rows = read_verification(path, joint)
    check_verification(replace(joint, verification=rows))
    return rows.features


def _report(output: Output, out: Path, parts: Mapping[str, PartialModel], head: HeadModel | None) -> None:
    told = [
        {
            "party": party,
            "file": out / f"{party}.pkl",
            "kind": part.kind,
            "link": str(part.link),
            "features": part.part.features if output.as_json else len(part.part.features),
            "holds_intercept": part.holds_intercept,
        }
        for party, part in parts.items()
    ]
    output.rows(("party", "file", "kind", "link", "features", "holds_intercept"), told, empty="")
    _tell_odd(output, out, parts, head)
    output.say(f"The uncut model is kept in {out / JOINT}.json for `fedpredict simulate`; it is for no party.")


def _write(out: Path, joint: PartialModel, parts: Mapping[str, PartialModel], head: HeadModel | None) -> None:
    """Write all files beside what is there, and only then move them to their places: parts of two cuts never mix."""
    _make_folder(out)
    try:
        with TemporaryDirectory(dir=out, prefix=".split.") as name:
            staged = Path(name)
            write_partial(staged / f"{JOINT}.json", joint)
            for party, part in parts.items():
                write_partial(staged / f"{party}.pkl", part)
            if head is not None:
                write_head(staged / HEAD, head)
            files = sorted(staged.iterdir())
            taken = [each.name for each in files if (out / each.name).is_dir()]
            if taken:
                raise InputError(f"{out / taken[0]}: a file cannot be written where a folder is")
            for file in files:
                file.replace(out / file.name)
    except OSError as error:
        raise InputError(f"{out}: cannot be written: {error.strerror}") from error


def _tell_odd(output: Output, out: Path, parts: Mapping[str, PartialModel], head: HeadModel | None) -> None:
    for party, part in parts.items():
        if not part.part.features:
            told = share_without_features(part.part)
            output.note(f"note: nothing in the model asks for features of {party}: {told} for all samples")
    if head is not None:
        output.say(f"{out / HEAD} is for the initiator {head.party} alone: `fedpredict model convert {HEAD}` there.")


def _note_network(output: Output, result: ReadResult) -> None:
    if not result.network_isolated:
        output.note(NOT_ISOLATED)


def _head_in(folder: Path) -> HeadModel | None:
    if not (folder / HEAD).exists():
        return None
    result = read_file(folder / HEAD)
    return result.head if isinstance(result, HeadResult) else None


def _cut(
    result: ReadResult,
    owners: Mapping[str, Sequence[str]],
    intercept: str | None,
    head: str | None,
    rows: Floats | None,
) -> tuple[Mapping[str, PartialModel], HeadModel | None]:
    if head is None:
        constants = result.feature_constants
        return split_model(result.partial, owners, intercept, rows=rows, feature_constants=constants), None
    part = result.partial.part
    core = part.core if isinstance(part, StepsPart) else part
    cut_off = split_under_top if isinstance(core, NetworkPart) else split_with_head
    cut = cut_off(result.partial, owners, head, rows=rows)
    return cut.parts, cut.head


def simulate(
    model: Annotated[Path, typer.Option("--model", help="The folder that `fedpredict model split` wrote.")],
    data: Annotated[Path, typer.Option("--data", help="Rows with all features (CSV or Parquet).")],
    as_json: JsonFlag = False,
) -> None:
    """Play all parties of a cut model in this process, and compare with the uncut model."""
    output = Output(as_json=as_json)
    files = sorted(model.glob("*.pkl"))
    if not files or not (model / f"{JOINT}.json").exists():
        raise InputError(f"{model}: not a folder of `fedpredict model split` (PARTY.pkl for each, {JOINT}.json)")
    with output.progress("reading the parts", total=len(files)) as advance:
        parts: dict[str, PartialModel] = {}
        for file in files:
            part = read_model_file(file).partial
            parts[part.party] = part
            advance(len(parts), len(files))
    read = read_model_file(model / f"{JOINT}.json")
    _note_network(output, read)
    joint = read.partial
    rows, names = read_rows(data, categories=joint.part.categories)
    report = play(parts, joint, rows, names, _head_in(model))
    output.fields(
        {
            "model_id": joint.model_id,
            "kind": joint.kind,
            "link": str(joint.link),
            "parties": tuple(sorted(parts)),
            "rows": report.n_samples,
            "scored": report.n_scored,
            "largest_difference": report.largest_absolute,
            "largest_relative_difference": report.largest_relative,
        }
    )
    if report.largest_relative > LIMIT:
        raise VerificationError(
            f"the parts give other scores than the uncut model: off by {report.largest_relative:.3g} of the sum of the "
            f"absolute terms (allowed: {LIMIT:g})"
        )


def _parse_owner(text: str) -> tuple[str, tuple[str, ...]]:
    party, equals, names = text.partition("=")
    if not equals or not party:
        raise typer.BadParameter(f"{text!r}: write PARTY=feature,feature,... or PARTY=@FILE", param_hint="--party")
    return party, (parse_features(names) or ()) if names else ()


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{path}: cannot be made: {error.strerror}") from error
