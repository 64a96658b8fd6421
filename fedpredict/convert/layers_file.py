"""The description of a network's layers, which names the tensors of a file: docs/portable-model.md has the format."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from fedpredict.convert.embedding_form import EMBEDDING_KEYS
from fedpredict.convert.labels import label_text
from fedpredict.convert.network_form import activation_of, slope_of
from fedpredict.convert.plain import check_keys, number, optional_text
from fedpredict.convert.portable import parse_json
from fedpredict.convert.top_form import BELOW_KEYS, Below, below_from_plain
from fedpredict.convert.values import clipped
from fedpredict.errors import ModelFileError
from fedpredict.model.activations import Activation
from fedpredict.model.combination import TOPS, Combining
from fedpredict.model.kinds import Kind, own_link
from fedpredict.model.links import Link, parse_link

FORMAT = "fedpredict-layers-1"
_KEYS = (
    "format", "kind", "link", "classes", "prefix", "inputs", "layers", "intercept", "fit_intercept", "ignore",
    *EMBEDDING_KEYS, "parties", "widths",
)  # fmt: skip
_OF_PARTS = ("inputs", "intercept", "fit_intercept", "n_outputs", "n_scores")
_INPUT_KEYS = ("feature", "embedding", "categories", "unknown")
_TORCH_EPS = 1e-5


@dataclass(frozen=True, slots=True)
class Linear:
    """A dense layer, by the name of its module or those of its tensors."""

    weight: str
    bias: str
    needs_bias: bool


@dataclass(frozen=True, slots=True)
class BatchNorm:
    """A batch normalisation, by the name of its module; as it is after training."""

    module: str
    eps: float


@dataclass(frozen=True, slots=True)
class Activate:
    """An activation."""

    name: Activation
    slope: float


@dataclass(frozen=True, slots=True)
class Input:
    """A feature that goes in.

    Attributes:
        feature: Its name.
        embedding: The module or tensor of its vectors; None for a number.
        rows: For a text feature: text -> its row of the vectors; None where the feature is the number of a row.
        unknown: The row for anything else; None where that is invalid.
    """

    feature: str
    embedding: str | None = None
    rows: Mapping[str, int] | None = None
    unknown: int | None = None


@dataclass(frozen=True, slots=True)
class Layers:
    """A description.

    Attributes:
        kind: What raw scores mean.
        link: What relates raw scores and predictions.
        classes: In the order of the scores.
        prefix: What the names of the tensors start with; others are not looked at.
        inputs: In the order of the first layer's inputs; None where all are numbers that the operator names.
        steps: In order.
        intercept: The tensor that the joint model adds to the sum of all parties' networks; None where it is not here.
        fit_intercept: Whether there is one, at whichever party; None where nothing is said.
        ignore: Names of tensors that are not needed; one that ends with `*` stands for all that start so.
        embedding: `EMBEDDING_KEYS` with their values, where the scores are an embedding for a head.
        below: Whose embeddings go in, where the layers are a top model; None for a party's part.
    """

    kind: Kind
    link: Link
    classes: tuple[str, ...]
    prefix: str
    inputs: tuple[Input, ...] | None
    steps: tuple[Linear | BatchNorm | Activate, ...]
    intercept: str | None
    fit_intercept: bool | None
    ignore: tuple[str, ...]
    embedding: Mapping[str, object]
    below: Below | None


def parse_layers(text: str) -> Layers:
    """Return the description that a JSON text holds.

    Raises:
        ModelFileError: It is none; with the key that is wrong, and what it may be.
    """
    content = parse_json(text, "the description of the layers")
    check_keys(content, _KEYS, "the description of the layers")
    if content.get("format") != FORMAT:
        raise ModelFileError(f"the description of the layers needs format: {FORMAT!r}")
    kind, link = _meaning(content)
    steps = content.get("layers")
    if not isinstance(steps, list) or not steps:
        raise ModelFileError("the description of the layers needs layers: a list")
    found = tuple(_step(each, at) for at, each in enumerate(steps, start=1))
    below = _below(content) if "parties" in content or "widths" in content else None
    embedding = {key: content[key] for key in EMBEDDING_KEYS if key in content}
    if below is not None or not embedding:
        _check_end(kind, found[-1])
    fit_intercept = content.get("fit_intercept")
    if fit_intercept is not None and not isinstance(fit_intercept, bool):
        raise ModelFileError("fit_intercept is not true or false")
    return Layers(
        kind=kind,
        link=link,
        classes=_classes(content.get("classes", [])),
        prefix=optional_text(content, "prefix") or "",
        inputs=_inputs(content.get("inputs")),
        steps=found,
        intercept=optional_text(content, "intercept"),
        fit_intercept=fit_intercept,
        ignore=_texts(content.get("ignore", []), "ignore"),
        embedding=embedding,
        below=below,
    )


def parse_below(text: str) -> Below:
    """Return what is below a top model whose file says itself what its layers are.

    Raises:
        ModelFileError: The text does not say it, or says more.
    """
    content = parse_json(text, "the description of the top model")
    more = [key for key in content if key in _KEYS and key not in {"format", "combining", *BELOW_KEYS}]
    if more:
        raise ModelFileError(f"the description says {more[0]}, which a file of scikit-learn says itself: leave it out")
    check_keys(content, ("format", "combining", *BELOW_KEYS), "the description of the top model")
    if content.get("format") != FORMAT:
        raise ModelFileError(f"the description of the top model needs format: {FORMAT!r}")
    return _below(content)


def _below(content: Mapping[str, object]) -> Below:
    of_parts = [key for key in _OF_PARTS if key in content]
    if of_parts:
        raise ModelFileError(f"the description has parties, so it is of a top model, which has no {of_parts[0]}")
    combining, known = content.get("combining"), [each.value for each in TOPS]
    if combining not in known:
        raise ModelFileError(f"the description of the top model needs combining: one of {', '.join(known)}")
    return below_from_plain(content, Combining(str(combining)), "")


def _meaning(content: Mapping[str, object]) -> tuple[Kind, Link]:
    kind, link = optional_text(content, "kind"), optional_text(content, "link")
    known = [each.value for each in Kind]
    if kind not in known:
        raise ModelFileError(f"the description of the layers needs a kind; known are {', '.join(known)}")
    try:
        return Kind(kind), own_link(Kind(kind)) if link is None else parse_link(link)
    except ValueError as error:
        raise ModelFileError(f"the description of the layers: {error}") from error


def _classes(value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(label, str | int | float) for label in value):
        raise ModelFileError("classes is not a list of texts or numbers")
    return tuple(label_text(label) for label in value)


def _texts(value: object, what: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise ModelFileError(f"{what} is not a list of texts")
    return tuple(value)


def _step(value: object, at: int) -> Linear | BatchNorm | Activate:
    what = f"layer {at} of the description"
    if not isinstance(value, dict):
        raise ModelFileError(f"{what} is not a dict")
    kinds = [each for each in ("linear", "batch_norm", "activation") if each in value]
    if len(kinds) != 1:
        raise ModelFileError(
            f"{what} is none of linear, batch_norm and activation, or several: leave out what does nothing"
        )
    if kinds == ["linear"]:
        check_keys(value, ("linear",), what)
        return _linear(value["linear"], what)
    if kinds == ["batch_norm"]:
        check_keys(value, ("batch_norm", "eps"), what)
        return BatchNorm(_name(value["batch_norm"], what), number(value.get("eps", _TORCH_EPS), f"{what}: eps"))
    check_keys(value, ("activation", "slope"), what)
    activation = activation_of(value["activation"], what)
    return Activate(activation, slope_of(value.get("slope"), activation, what))


def _linear(value: object, what: str) -> Linear:
    if isinstance(value, dict):
        check_keys(value, ("weight", "bias"), what)
        bias = value.get("bias")
        return Linear(_name(value.get("weight"), what), "" if bias is None else _name(bias, what), bias is not None)
    module = _name(value, what)
    return Linear(f"{module}.weight", f"{module}.bias", needs_bias=False)


def _name(value: object, what: str) -> str:
    if not isinstance(value, str) or not value:
        raise ModelFileError(f"{what} does not name its tensors")
    return value


def _check_end(kind: Kind, last: Linear | BatchNorm | Activate) -> None:
    """Refuse a last activation that the kind's link is: it would be applied twice."""
    twice = {
        Kind.BINARY: Activation.SIGMOID,
        Kind.ONE_VS_REST: Activation.SIGMOID,
        Kind.MULTINOMIAL: Activation.SOFTMAX,
    }
    if isinstance(last, Activate) and last.name is twice.get(kind):
        raise ModelFileError(
            f"the layers end with {last.name}, which the predictions of a {kind} model are made by anyway: leave it out"
        )


def _inputs(value: object) -> tuple[Input, ...] | None:
    if value is None:
        return None
    if not isinstance(value, list) or not value:
        raise ModelFileError("inputs is not a list of features")
    return tuple(_input(each, at) for at, each in enumerate(value, start=1))


def _input(value: object, at: int) -> Input:
    what = f"input {at} of the description"
    if isinstance(value, str):
        return Input(value)
    if not isinstance(value, dict):
        raise ModelFileError(f"{what} is neither a name nor a dict")
    check_keys(value, _INPUT_KEYS, what)
    unknown = value.get("unknown")
    if unknown is not None and (not isinstance(unknown, int) or isinstance(unknown, bool) or unknown < 0):
        raise ModelFileError(f"{what}: unknown is not the number of a row")
    return Input(
        _name(value.get("feature"), what),
        _name(value.get("embedding"), what),
        _rows(value.get("categories"), what),
        unknown,
    )


def _rows(value: object, what: str) -> dict[str, int] | None:
    """Return the row of each text: a list has them in the order of the rows."""
    if value is None:
        return None
    if isinstance(value, list):
        texts = _texts(value, f"{what}: categories")
        value = {text: row for row, text in enumerate(texts)}
        if len(value) != len(texts):
            raise ModelFileError(f"{what} has a category twice")
    if not isinstance(value, dict) or not value:
        raise ModelFileError(f"{what}: categories is neither a list of texts nor a dict from text to row")
    for text, row in value.items():
        if not isinstance(row, int) or isinstance(row, bool) or row < 0:
            raise ModelFileError(f"{what}: category '{clipped(text)}' has no row")
    return dict(value)
