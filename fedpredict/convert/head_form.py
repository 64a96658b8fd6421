"""The portable head: a plain dict, as JSON or pickled. The format is described in docs/portable-model.md."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedpredict.convert.options import ReadOptions
from fedpredict.convert.plain import check_keys, matrix, optional_text, vector
from fedpredict.convert.portable import agreed, classes_of, kind_of, link_of, metadata_of
from fedpredict.convert.top_form import top_from_plain, top_to_plain
from fedpredict.errors import FedPredictError, ModelConflictError, ModelFileError
from fedpredict.model.combination import Combining
from fedpredict.model.head import Head, HeadModel
from fedpredict.model.kinds import MAX_CLASSES, Kind, own_link
from fedpredict.model.links import Link
from fedpredict.model.top_head import TopHead
from fedpredict.model.tree_head import TreeHead
from fedpredict.model.trees import MAX_CODE

Meaning = tuple[Kind, tuple[str, ...], Link]
"""Kind, classes and link."""

HEAD_FORMAT = "fedpredict-head-1"

_KEYS = (
    "format", "model_id", "training_run", "party", "kind", "link", "classes", "metadata", "combining", "head",
)  # fmt: skip
_TREE_KEYS = ("structure_sha256", "n_leaves", "n_outputs", "output", "values", "intercept")


@dataclass(frozen=True, slots=True, eq=False)
class HeadReading:
    """What a file of a head gave.

    Attributes:
        head: The head.
        source: What it is, for people.
    """

    head: HeadModel
    source: str


def head_to_portable(head: HeadModel) -> dict[str, object]:
    """Return a head as plain Python; the inverse of `head_from_portable`."""
    result: dict[str, object] = {
        "format": HEAD_FORMAT,
        "model_id": head.model_id,
        "training_run": head.training_run,
        "party": head.party,
        "kind": head.kind.value,
        "classes": list(head.classes),
        "metadata": dict(head.metadata),
        "combining": head.head.combination.combining.value,
        "head": _to_plain(head.head),
    }
    if head.link != own_link(head.kind):
        result["link"] = str(head.link)
    return result


def _to_plain(head: Head) -> dict[str, object]:
    if isinstance(head, TopHead):
        return top_to_plain(head)
    if isinstance(head, TreeHead):
        return _trees_to_plain(head)
    raise TypeError(f"a {type(head).__name__} has no portable form")


def _trees_to_plain(trees: TreeHead) -> dict[str, object]:
    wide = bool((trees.output == -1).all())
    return {
        "structure_sha256": trees.structure_sha256,
        "n_leaves": trees.n_leaves.tolist(),
        "n_outputs": trees.n_outputs,
        "output": None if wide else trees.output.tolist(),
        "values": trees.values.tolist() if wide else trees.values[:, 0].tolist(),
        "intercept": trees.intercept.tolist(),
    }


def head_to_json(head: HeadModel) -> str:
    """Return the JSON form; every float reads back bit-equal."""
    return json.dumps(head_to_portable(head), allow_nan=False, indent=1)


def is_head(content: Mapping[str, object]) -> bool:
    """Return whether a portable dict says that it is a head."""
    return content.get("format") == HEAD_FORMAT


def head_from_portable(content: Mapping[str, object], options: ReadOptions | None = None) -> HeadModel:
    """Return the head that a portable dict describes, as `docs/portable-model.md` says.

    Args:
        content: Plain Python.
        options: What the operator adds, or says as well.

    Raises:
        ModelFileError: A key is unknown or missing, a value is of the wrong type or not finite, shapes do not fit.
        ModelConflictError: The file and the operator say different things.
        NameRefusedError: A model id or party id breaks the naming rules.
    """
    options = options or ReadOptions()
    check_keys(content, _KEYS, "the portable head")
    if not is_head(content):
        raise ModelFileError(f"the portable head needs format: {HEAD_FORMAT!r}")
    _check_options(options)
    combining, plain, kind = _combining(content), content.get("head"), kind_of(content)
    if not isinstance(plain, dict):
        raise ModelFileError("the portable head needs head: a dict")
    try:
        return HeadModel(
            model_id=agreed(optional_text(content, "model_id"), options.model_id, "model_id"),
            training_run=agreed(optional_text(content, "training_run"), options.training_run, "training_run"),
            party=agreed(optional_text(content, "party"), options.party, "party"),
            kind=kind,
            classes=classes_of(content.get("classes")),
            link=link_of(content, kind),
            head=_tree_head(plain) if combining is Combining.LEAF_MASKS else top_from_plain(plain, combining),
            metadata=metadata_of(content.get("metadata")),
        )
    except ValueError as error:
        raise ModelFileError(f"the portable head does not fit together: {error}") from error


def head_reading(head: Head, meaning: Meaning, options: ReadOptions, source: str) -> HeadReading:
    """Return the head of a file that holds no names, which are the operator's.

    Args:
        head: The parameters.
        meaning: Kind, link and classes.
        options: Must name the model id, the training run and the party.
        source: What wrote the file, for people.

    Raises:
        ModelFileError: A name is not given, or the head does not fit the kind and its classes.
        ModelConflictError: The operator says what no head has.
        NameRefusedError: A model id or party id breaks the naming rules.
    """
    _check_options(options)
    model_id, training_run = (
        agreed(None, options.model_id, "model_id"),
        agreed(None, options.training_run, "training_run"),
    )
    try:
        model = HeadModel(
            model_id, training_run, agreed(None, options.party, "party"), *meaning, head, {"source": source}
        )
    except ValueError as error:
        raise ModelFileError(f"the layers do not make a top model: {error}") from error
    return HeadReading(model, source)


def _check_options(options: ReadOptions) -> None:
    if options.holds_intercept or options.features or options.offset or options.exposure:
        raise ModelConflictError("a head has neither features nor an intercept to choose: leave those options out")


def _combining(content: Mapping[str, object]) -> Combining:
    value, known = optional_text(content, "combining"), [each.value for each in Combining]
    if value not in known:
        raise ModelFileError(f"the portable head needs combining: one of {', '.join(known)}")
    return Combining(value)


def _tree_head(plain: Mapping[str, object]) -> TreeHead:
    check_keys(plain, _TREE_KEYS, "head")
    n_outputs = plain.get("n_outputs")
    if isinstance(n_outputs, bool) or not isinstance(n_outputs, int) or not 1 <= n_outputs <= MAX_CLASSES:
        raise ModelFileError(f"head.n_outputs is not a number from 1 to {MAX_CLASSES}")
    n_leaves = _counts(plain.get("n_leaves"), "head.n_leaves")
    output = plain.get("output")
    of_tree = np.full(len(n_leaves), -1) if output is None else _counts(output, "head.output")
    intercept = vector(plain.get("intercept"), "head.intercept", n_outputs)
    structure = optional_text(plain, "structure_sha256")
    if intercept is None or structure is None:
        raise ModelFileError("head.intercept or head.structure_sha256 is missing")
    try:
        return TreeHead(
            n_leaves=n_leaves,
            n_outputs=n_outputs,
            output=of_tree.astype(np.int32),
            values=matrix(plain.get("values"), "head.values"),
            intercept=intercept,
            structure_sha256=structure,
        )
    except FedPredictError as error:
        raise ModelFileError(f"head.structure_sha256: {error}") from error


def _counts(value: object, what: str) -> NDArray[np.int64]:
    if not isinstance(value, list) or not all(type(each) is int and 0 <= each <= MAX_CODE for each in value):
        raise ModelFileError(f"{what} is not a list of whole numbers, one for each tree")
    return np.array(value, dtype=np.int64)
