"""The portable partial model: a plain dict, pickled or as JSON. The format is described in docs/portable-model.md."""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Mapping, Sequence

import numpy as np

from fedpredict.convert.labels import chosen_features, label_text
from fedpredict.convert.options import ReadOptions
from fedpredict.convert.values import clipped
from fedpredict.errors import ModelConflictError, ModelFileError
from fedpredict.model.arrays import Floats
from fedpredict.model.kinds import Kind, own_link
from fedpredict.model.linear import LinearPart
from fedpredict.model.links import Link, parse_link
from fedpredict.model.partial import PartialModel, VerificationRows

FORMAT = "fedpredict-partial-1"

_KEYS = (
    "format", "model_id", "training_run", "party", "kind", "link", "classes", "features", "weights", "intercept",
    "constant", "fit_intercept", "verification", "metadata",
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
        "features": list(part.features),
        "weights": part.weights.tolist(),
        "intercept": None if part.intercept is None else part.intercept.tolist(),
        "constant": part.constant.tolist(),
        "fit_intercept": partial.fit_intercept,
        "metadata": dict(partial.metadata),
    }
    if partial.link != own_link(partial.kind):
        result["link"] = str(partial.link)  # only then, so that files are what they were before there were links
    if rows is not None:
        result["verification"] = {
            "features": rows.features.tolist(),
            "partial_scores": rows.partial_scores.tolist(),
        }
    return result


def to_json(partial: PartialModel) -> str:
    """Return the JSON form; every float reads back bit-equal, because Python writes the shortest text that does."""
    return json.dumps(to_portable(partial), allow_nan=False, indent=1)


def parse_json(text: str) -> dict[str, object]:
    """Return the object that a JSON text holds.

    Raises:
        ModelFileError: It is no JSON, no object, repeats a key, or holds NaN or an infinity.
    """
    try:
        content = json.loads(text, object_pairs_hook=_unique, parse_constant=_refused_constant)
    except (ValueError, RecursionError) as error:
        raise ModelFileError(f"the file is not JSON: {type(error).__name__}") from error
    if not isinstance(content, dict):
        raise ModelFileError("the JSON text is not an object")
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
    _check_keys(content, _KEYS, "the portable model")
    if content.get("format") != FORMAT:
        raise ModelFileError(f"the portable model needs format: {FORMAT!r}")
    names, weights = _weights(content, options)
    intercept = _vector(content.get("intercept"), "intercept", weights.shape[1])
    constant = _vector(content.get("constant"), "constant", weights.shape[1])
    kind = _kind(content)
    try:
        return PartialModel(
            model_id=agreed(_optional_text(content, "model_id"), options.model_id, "model_id"),
            training_run=agreed(_optional_text(content, "training_run"), options.training_run, "training_run"),
            party=agreed(_optional_text(content, "party"), options.party, "party"),
            kind=kind,
            link=_link(content, kind),
            classes=_classes(content.get("classes")),
            fit_intercept=_fit_intercept(content, options),
            part=LinearPart(names, weights, intercept, np.zeros(weights.shape[1]) if constant is None else constant),
            verification=_verification(content.get("verification")),
            metadata=_metadata(content.get("metadata")),
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


def _check_keys(content: Mapping[str, object], known: Sequence[str], what: str) -> None:
    for key in content:
        if key not in known:
            near = difflib.get_close_matches(key[:100], known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
            raise ModelFileError(f"{what} has the unknown key {key[:100]!a}; {hint}")


def _optional_text(content: Mapping[str, object], key: str) -> str | None:
    value = content.get(key)
    if value is not None and not isinstance(value, str):
        raise ModelFileError(f"{key} is a {type(value).__name__}, not a text")
    return value


def _kind(content: Mapping[str, object]) -> Kind:
    value = content.get("kind")
    known = [kind.value for kind in Kind]
    if not isinstance(value, str) or value not in known:
        near = difflib.get_close_matches(value[:100], known, n=1) if isinstance(value, str) else []
        hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
        raise ModelFileError(f"the portable model has no kind that can be served; {hint}")
    return Kind(value)


def _link(content: Mapping[str, object], kind: Kind) -> Link:
    text = _optional_text(content, "link")
    return own_link(kind) if text is None else parse_link(text)


def _classes(value: object) -> tuple[str, ...]:
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(label, str | int | float) for label in value):
        raise ModelFileError("classes is not a list of texts or numbers")
    return tuple(label_text(label) for label in value)


def _fit_intercept(content: Mapping[str, object], options: ReadOptions) -> bool:
    """Whether the joint model has an intercept: said by the file, implied by an intercept in it, or by the operator."""
    holds, value = content.get("intercept") is not None, content.get("fit_intercept")
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


def _weights(content: Mapping[str, object], options: ReadOptions) -> tuple[tuple[str, ...], Floats]:
    """The feature names, and the weights of shape (n_features, n_scores)."""
    weights, names = content.get("weights"), content.get("features")
    if isinstance(weights, dict):
        if names is not None:
            raise ModelFileError("weights is a dict by feature name: leave features out")
        names, weights = list(weights), list(weights.values())
    if not isinstance(weights, list):
        raise ModelFileError("the portable model needs weights: a list with one entry per feature, or a dict by name")
    if names is not None and (not isinstance(names, list) or not all(isinstance(name, str) for name in names)):
        raise ModelFileError("features is not a list of texts")
    if not weights:
        raise ModelFileError("the portable model has no features: a party without features has no part of a model")
    chosen = chosen_features(names, options.features, len(weights))
    return chosen, _matrix(weights, "weights")


def _matrix(rows: object, what: str) -> Floats:
    """Shape (n_rows, n_columns); a row of one number may be a number."""
    if not isinstance(rows, list):
        raise ModelFileError(f"{what} is not a list")
    listed = [row if isinstance(row, list) else [row] for row in rows]
    if len({len(row) for row in listed}) > 1:
        raise ModelFileError(f"the rows of {what} have different lengths")
    width = len(listed[0]) if listed else 0
    flat = [_number(value, what) for row in listed for value in row]
    return np.array(flat, dtype=np.float64).reshape(len(listed), width)


def _vector(value: object, what: str, width: int) -> Floats | None:
    """Shape (n_scores,), or None where the file has none."""
    if value is None:
        return None
    listed = value if isinstance(value, list) else [value]
    if len(listed) != width:
        raise ModelFileError(f"{what} has {len(listed)} numbers, the weights have {width} columns")
    return np.array([_number(item, what) for item in listed], dtype=np.float64)


def _number(value: object, what: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ModelFileError(f"{what} holds a {type(value).__name__} where a number should be")
    try:
        number = float(value)
    except OverflowError as error:
        raise ModelFileError(f"{what} holds a number beyond the range of a float64") from error
    if not math.isfinite(number):
        raise ModelFileError(f"{what} holds NaN or an infinity; every number of a model is finite")
    return number


def _verification(value: object) -> VerificationRows | None:
    if value is None:
        return None
    if not isinstance(value, dict):
        raise ModelFileError("verification is not a dict of features and partial_scores")
    _check_keys(value, _VERIFICATION_KEYS, "verification")
    return VerificationRows(
        _matrix(value.get("features"), "verification.features"),
        _matrix(value.get("partial_scores"), "verification.partial_scores"),
    )


def _metadata(value: object) -> dict[str, str]:
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(item, str) for item in value.values()):
        raise ModelFileError("metadata is not a dict of texts")
    return dict(value)
