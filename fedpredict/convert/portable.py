"""The portable partial model: a plain dict, pickled or as JSON. The format is described in docs/portable-model.md."""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Mapping

import numpy as np

from fedpredict.convert.families import FAMILIES
from fedpredict.convert.labels import label_text
from fedpredict.convert.linear_form import LINEAR_KEYS, linear_from_plain, linear_to_plain
from fedpredict.convert.options import ReadOptions
from fedpredict.convert.plain import check_keys, matrix, number, optional_text
from fedpredict.convert.values import clipped
from fedpredict.errors import ModelConflictError, ModelFileError
from fedpredict.model.arrays import Floats
from fedpredict.model.kinds import Kind, is_own_link, own_link
from fedpredict.model.linear import LinearPart
from fedpredict.model.links import Link, parse_link
from fedpredict.model.part import UNKNOWN_CATEGORY, Family, Part
from fedpredict.model.partial import PartialModel, VerificationRows

FORMAT = "fedpredict-partial-1"

_KEYS = (
    "format", "model_id", "training_run", "party", "kind", "link", "classes", "fit_intercept", "verification",
    "metadata", "float32",
)  # fmt: skip
_VERIFICATION_KEYS = ("features", "partial_scores")


def to_portable(partial: PartialModel) -> dict[str, object]:
    """Return a partial model as plain Python: dict, list, str, float, bool, None; the inverse of `from_portable`."""
    part, rows = partial.part, partial.verification
    result: dict[str, object] = {
        "format": FORMAT,
        "model_id": partial.model_id,
        "training_run": partial.training_run,
        "party": partial.party,
        "kind": partial.kind.value,
        "classes": list(partial.classes),
        "fit_intercept": partial.fit_intercept,
        "metadata": dict(partial.metadata),
    }
    if isinstance(part, LinearPart):
        result.update(linear_to_plain(part))
    else:
        result |= {"family": part.family.value, "part": FAMILIES[part.family].to_plain(part)}
    if partial.float32:
        result["float32"] = True
    if not is_own_link(partial.kind, partial.link):
        result["link"] = str(partial.link)  # only then, so that files are what they were before there were links
    if rows is not None:
        result["verification"] = {
            "features": _cells(part, rows),
            "partial_scores": rows.partial_scores.tolist(),
        }
    return result


def to_json(partial: PartialModel) -> str:
    """Return the JSON form; every float reads back bit-equal, because Python writes the shortest text that does."""
    return json.dumps(to_portable(partial), allow_nan=False, indent=1)


def parse_json(text: str, what: str = "the file") -> dict[str, object]:
    """Return the object that a JSON text, which messages call `what`, holds.

    Raises:
        ModelFileError: It is no JSON, no object, repeats a key, or holds NaN or an infinity.
    """
    try:
        content = json.loads(text, object_pairs_hook=_unique, parse_constant=_refused_constant)
    except (ValueError, RecursionError) as error:
        raise ModelFileError(f"{what} is not JSON: {type(error).__name__}") from error
    if not isinstance(content, dict):
        raise ModelFileError(f"{what} is JSON, but not an object")
    return content


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ModelFileError("the JSON text has a key twice in one object")
    return result


def _refused_constant(name: str) -> object:
    raise ModelFileError(f"the JSON text holds {name}; every number of a model is finite")


def from_portable(content: Mapping[str, object], options: ReadOptions | None = None) -> PartialModel:
    """Return the partial model that a portable dict describes, as `docs/portable-model.md` says.

    Args:
        content: Plain Python; numbers may be int or float, a vector of one number may be a number.
        options: What the operator adds, or says as well.

    Raises:
        ModelFileError: A key is unknown or missing, a value is of the wrong type or not finite, shapes do not fit.
        FeatureNamesError: Names are missing or repeat.
        ModelConflictError: The file and the operator say different things.
        NameRefusedError: A model id or party id breaks the naming rules.
    """
    options = options or ReadOptions()
    if (said := content.get("format")) != FORMAT:
        told = f", and says '{clipped(said)}'" if isinstance(said, str) else ""
        raise ModelFileError(f"the portable model needs format: {FORMAT!r}{told}")
    family = _family(content)
    check_keys(content, (*_KEYS, *LINEAR_KEYS) if family is None else (*_KEYS, "family", "part"), "the portable model")
    kind = kind_of(content)
    try:
        part = linear_from_plain(content, options) if family is None else _part(content, family, options)
        return PartialModel(
            model_id=agreed(optional_text(content, "model_id"), options.model_id, "model_id"),
            training_run=agreed(optional_text(content, "training_run"), options.training_run, "training_run"),
            party=agreed(optional_text(content, "party"), options.party, "party"),
            kind=kind,
            link=link_of(content, kind),
            classes=classes_of(content.get("classes")),
            fit_intercept=_fit_intercept(content, options, holds=part.intercept is not None),
            part=part,
            verification=_verification(content.get("verification"), part),
            metadata=metadata_of(content.get("metadata")),
            float32=_float32(content.get("float32")),
        )
    except ValueError as error:
        raise ModelFileError(f"the portable model does not fit together: {error}") from error


def agreed(in_file: str | None, named: str | None, what: str) -> str:
    """Return what the file, the operator, or both say.

    Raises:
        ModelConflictError: They differ.
        ModelFileError: Neither says it.
    """
    if in_file is not None and named is not None and in_file != named:
        told = f"the file says {what} '{clipped(in_file)}', the operator '{clipped(named)}'"
        raise ModelConflictError(f"{told}: they must be the same")
    value = in_file if in_file is not None else named
    if value is None:
        raise ModelFileError(f"the file does not say its {what}: give --{what.replace('_', '-')}")
    return value


def _family(content: Mapping[str, object]) -> Family | None:
    """Return the family of what stands under `part`; None for a linear part, which has no such key."""
    value = optional_text(content, "family")
    if value is None:
        return None
    known = [family.value for family in FAMILIES if family is not Family.LINEAR]
    if value not in known:
        raise ModelFileError(
            f"the portable model has the unknown family '{clipped(value)}'; known are {', '.join(known)}"
        )
    return Family(value)


def _part(content: Mapping[str, object], family: Family, options: ReadOptions) -> Part:
    plain = content.get("part")
    if not isinstance(plain, dict):
        raise ModelFileError(f"a portable model of family {family} needs part: a dict")
    return FAMILIES[family].from_plain(plain, options)


def kind_of(content: Mapping[str, object]) -> Kind:
    """Return the kind; raise `ModelFileError` where there is none."""
    value = content.get("kind")
    known = [kind.value for kind in Kind]
    if not isinstance(value, str) or value not in known:
        near = difflib.get_close_matches(value[:100], known, n=1) if isinstance(value, str) else []
        hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
        raise ModelFileError(f"the portable model has no kind that can be served; {hint}")
    return Kind(value)


def link_of(content: Mapping[str, object], kind: Kind) -> Link:
    """Return the link, the kind's own where none is said; raise `ValueError` for one that does not exist."""
    text = optional_text(content, "link")
    return own_link(kind) if text is None else parse_link(text)


def classes_of(value: object) -> tuple[str, ...]:
    """Return class labels as text; raise `ModelFileError` where they are no list."""
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(label, str | int | float) for label in value):
        raise ModelFileError("classes is not a list of texts or numbers")
    return tuple(label_text(label) for label in value)


def _fit_intercept(content: Mapping[str, object], options: ReadOptions, *, holds: bool) -> bool:
    """Whether the joint model has an intercept: said by the file, implied by an intercept in it, or by the operator."""
    value = content.get("fit_intercept")
    if value is not None and not isinstance(value, bool):
        raise ModelFileError("fit_intercept is not true or false")
    said = value if value is not None else holds or options.fit_intercept
    if said is None:
        raise ModelFileError("the file holds no intercept: fit_intercept must say whether another party holds one")
    if options.fit_intercept is not None and options.fit_intercept != said:
        raise ModelConflictError(f"the file says fit_intercept {said}, the operator {options.fit_intercept}")
    if options.holds_intercept is not None and options.holds_intercept != holds:
        found = "holds an intercept" if holds else "holds no intercept"
        raise ModelConflictError(f"the file {found}, the operator says otherwise")
    return said


def _cells(part: Part, rows: VerificationRows) -> list[list[object]]:
    """Return verification features as plain values: texts for codes, None for NaN."""
    columns: list[list[object]] = []
    for name, column in zip(part.features, rows.features.T.tolist(), strict=True):
        texts = part.categories.get(name)
        columns.append([None if math.isnan(cell) else cell if texts is None else _text(texts, cell) for cell in column])
    return [list(row) for row in zip(*columns, strict=True)] if columns else [[] for _ in rows.features]


def _text(texts: tuple[str, ...], code: float) -> str:
    """Return a category's text; for the code of an unknown one, a text that is none."""
    return texts[int(code)] if code != UNKNOWN_CATEGORY else "?" + "".join(texts)


def _verification(value: object, part: Part) -> VerificationRows | None:
    if value is None:
        return None
    if not isinstance(value, dict):
        raise ModelFileError("verification is not a dict of features and partial_scores")
    check_keys(value, _VERIFICATION_KEYS, "verification")
    rows, scores = value.get("features"), matrix(value.get("partial_scores"), "verification.partial_scores")
    if isinstance(part, LinearPart):
        return VerificationRows(matrix(rows, "verification.features"), scores)
    return VerificationRows(_coded(rows, part), scores)


def _coded(rows: object, part: Part) -> Floats:
    """Return verification features as a matrix: texts become codes, None becomes NaN; shape (n_rows, n_features)."""
    what, width = "verification.features", len(part.features)
    if not isinstance(rows, list) or any(not isinstance(row, list) or len(row) != width for row in rows):
        raise ModelFileError(f"{what} is not a list of rows with {width} values each")
    codes = [{text: float(code) for code, text in enumerate(part.categories.get(name, ()))} for name in part.features]
    is_text = [name in part.categories for name in part.features]
    result = np.full((len(rows), width), np.nan)
    for at, row in enumerate(rows):
        for column, cell in enumerate(row):
            if cell is None:
                continue
            if is_text[column] != isinstance(cell, str):
                raise ModelFileError(f"{what} has a {type(cell).__name__} for feature {part.features[column]!a}")
            result[at, column] = (
                codes[column].get(cell, UNKNOWN_CATEGORY) if isinstance(cell, str) else number(cell, what)
            )
    return result


def _float32(value: object) -> bool:
    if value is not None and not isinstance(value, bool):
        raise ModelFileError("float32 is not true or false")
    return bool(value)


def metadata_of(value: object) -> dict[str, str]:
    """Return texts by name; raise `ModelFileError` for anything else."""
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(item, str) for item in value.values()):
        raise ModelFileError("metadata is not a dict of texts")
    return dict(value)
