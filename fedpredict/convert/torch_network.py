"""A network from named tensors and a description of its layers; batch normalisation is folded into weights."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from fedpredict.convert.embedding_form import combination_from_plain, embedding_layers
from fedpredict.convert.head_form import HeadReading, head_reading
from fedpredict.convert.labels import chosen_features, shown
from fedpredict.convert.layers_file import Activate, BatchNorm, Input, Layers, Linear, parse_layers
from fedpredict.convert.network_form import as_embedding, network_part
from fedpredict.convert.options import Limits, ReadOptions
from fedpredict.convert.portable import agreed
from fedpredict.convert.safetensors_file import is_safetensors, read_safetensors
from fedpredict.convert.sklearn_file import Reading
from fedpredict.convert.tensors import Tensor, TensorReader
from fedpredict.convert.top_form import Below
from fedpredict.convert.torch_file import is_old_torch, is_zip, read_state_dict
from fedpredict.convert.values import clipped
from fedpredict.errors import ModelConflictError, ModelFileError, UnsupportedModelError
from fedpredict.model.activations import Activation
from fedpredict.model.arrays import Floats
from fedpredict.model.dense import Dense
from fedpredict.model.network import Embedding
from fedpredict.model.partial import PartialModel

METADATA_KEY = "fedpredict.layers"
"""Of a safetensors file's metadata: the description as JSON text."""

_COUNTER = "num_batches_tracked"


def holds_tensors(data: bytes) -> bool:
    """Return whether the content is a file of PyTorch (or another zip), or a safetensors file."""
    return is_zip(data) or is_old_torch(data) or is_safetensors(data)


def read_tensors(data: bytes, options: ReadOptions, limits: Limits) -> Reading | HeadReading:
    """Return the partial model in a file of tensors; a head, where the description says that it is a top model.

    Args:
        data: For which `holds_tensors`.
        options: With the description, unless the file's metadata has it; and the model id, training run and party.
        limits: What reading may cost.

    Raises:
        ModelFileError: There is no description, or it does not fit the tensors: one is missing, not used, of another
            shape, or holds NaN or an infinity.
        UnsupportedModelError, FeatureNamesError, ModelConflictError: As `read_sklearn`.
    """
    in_file = None
    if is_old_torch(data):
        raise UnsupportedModelError("the file is of PyTorch before 1.6: write it again with a newer torch.save")
    if is_zip(data):
        tensors, source = read_state_dict(data, limits), "PyTorch state dict"
    else:
        tensors, metadata = read_safetensors(data)
        in_file, source = metadata.get(METADATA_KEY), "safetensors"
    if in_file is not None and options.layers is not None:
        raise ModelConflictError("the file's metadata describes its layers, and --layers does too: leave --layers out")
    text = in_file if in_file is not None else options.layers
    if text is None:
        raise ModelFileError("the file holds tensors, and nothing says what they do: describe the layers with --layers")
    layers, named = parse_layers(text), _Named(tensors, limits.array_bytes)
    named.only(layers.prefix)
    if layers.below is not None:
        return _head(layers, layers.below, named, options, source)
    return Reading(_partial(layers, named, options, source), source)


def _head(layers: Layers, below: Below, named: _Named, options: ReadOptions, source: str) -> HeadReading:
    dense = _dense(layers, named, below.n_numbers)
    named.check_all_used(layers.ignore)
    try:
        head = below.head(dense)
    except ValueError as error:
        raise ModelFileError(f"the layers do not make a top model: {error}") from error
    return head_reading(head, (layers.kind, layers.classes, layers.link), options, source)


def _partial(layers: Layers, named: _Named, options: ReadOptions, source: str) -> PartialModel:
    inputs = layers.inputs or ()
    embeddings = {each.feature: _embedding(named, each) for each in inputs if each.embedding is not None}
    dense = _dense(layers, named)
    names = None if layers.inputs is None else [each.feature for each in inputs]
    features = chosen_features(names, options.features, dense[0].n_inputs if names is None else len(names))
    intercept = None if layers.intercept is None else named.numbers(layers.intercept, (dense[-1].n_units,)).tolist()
    named.check_all_used(layers.ignore)
    categories = {each.feature: tuple(each.rows) for each in inputs if each.rows is not None}
    combination = combination_from_plain(layers.embedding)
    wide = dense if combination is None else embedding_layers(dense, layers.embedding)
    part = network_part(features, categories, embeddings, wide, intercept)
    part = part if combination is None else as_embedding(part, combination)
    if options.holds_intercept is not None and options.holds_intercept != (intercept is not None):
        raise ModelConflictError("the description of the layers and the operator differ on who holds the intercept")
    try:
        return PartialModel(
            model_id=agreed(None, options.model_id, "model_id"),
            training_run=agreed(None, options.training_run, "training_run"),
            party=agreed(None, options.party, "party"),
            kind=layers.kind,
            link=layers.link,
            classes=layers.classes,
            fit_intercept=_fit_intercept(layers, options),
            part=part,
            metadata={"source": source},
        )
    except ValueError as error:
        raise ModelFileError(f"the layers do not make a model: {error}") from error


def _fit_intercept(layers: Layers, options: ReadOptions) -> bool:
    """Whether the joint model has one: said, or implied by one in the file; a network alone needs none."""
    said = layers.fit_intercept if layers.fit_intercept is not None else options.fit_intercept
    if None not in (layers.fit_intercept, options.fit_intercept) and layers.fit_intercept != options.fit_intercept:
        raise ModelConflictError(
            "the description of the layers and the operator differ on whether there is an intercept"
        )
    return layers.intercept is not None if said is None else said


class _Named:
    """Tensors by name, and which of them were used."""

    def __init__(self, tensors: Mapping[str, Tensor], limit_bytes: int) -> None:
        self._tensors = dict(tensors)
        self._reader = TensorReader(limit_bytes)
        self._used: set[str] = set()

    def only(self, prefix: str) -> None:
        """Keep those whose names start with a prefix, and leave that out of the names."""
        found = {name.removeprefix(prefix): each for name, each in self._tensors.items() if name.startswith(prefix)}
        if not found:
            raise ModelFileError(f"no tensor's name starts with '{clipped(prefix)}'; there are {self._shown()}")
        self._tensors = found

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def numbers(self, name: str, shape: tuple[int | None, ...]) -> Floats:
        """Return a tensor's numbers; of its shape, sizes that are None may be any."""
        if name not in self._tensors:
            raise ModelFileError(f"the file has no tensor '{clipped(name)}'; it has {self._shown()}")
        tensor = self._tensors[name]
        self._used.add(name)
        fits = [size in (None, found) for size, found in zip(shape, tensor.shape, strict=False)]
        if len(shape) != len(tensor.shape) or not all(fits):
            expected = ", ".join("any" if size is None else str(size) for size in shape)
            raise ModelFileError(f"tensor '{clipped(name)}' has shape {list(tensor.shape)} instead of [{expected}]")
        return self._reader.numbers(tensor, f"tensor '{clipped(name)}'")

    def optional(self, name: str, shape: tuple[int, ...]) -> Floats | None:
        """Return a tensor's numbers if there is such a tensor."""
        return self.numbers(name, shape) if name in self._tensors else None

    def pass_over(self, name: str) -> None:
        """Note that a tensor is known, and its numbers do not matter."""
        self._used.add(name)

    def check_all_used(self, ignore: tuple[str, ...]) -> None:
        """Check that every tensor was used, or is to be ignored."""
        exact, starts = set(ignore), tuple(each[:-1] for each in ignore if each.endswith("*"))
        left = [name for name in self._tensors if name not in self._used | exact and not name.startswith(starts)]
        if left:
            raise ModelFileError(
                f"the description of the layers does not use the tensors {shown(left)}: name them in a layer, or list"
                " them under ignore if predictions do without them"
            )

    def _shown(self) -> str:
        return shown(list(self._tensors))


def _dense(layers: Layers, named: _Named, n_inputs: int | None = None) -> tuple[Dense, ...]:
    """Return the layers with every normalisation folded into the weights before or behind it.

    Args:
        layers: Their description.
        named: Their tensors.
        n_inputs: How many numbers go in, where that is known: only then may an activation come first.
    """
    chain = _Chain(n_inputs)
    for step in layers.steps:
        match step:
            case Linear(weight, bias, needs_bias):
                weights = named.numbers(weight, (None, chain.width)).T
                shape = (weights.shape[1],)
                found = named.numbers(bias, shape) if needs_bias else named.optional(bias, shape)
                chain.linear(weights, np.zeros(shape) if found is None else found)
            case BatchNorm():
                chain.scale(*_normalisation(named, step, chain.width))
            case Activate(name, slope):
                chain.activate(name, slope)
    return chain.finished()


def _normalisation(named: _Named, step: BatchNorm, width: int | None) -> tuple[Floats, Floats]:
    """Return what a normalisation multiplies by, and what it adds then."""
    mean = named.numbers(f"{step.module}.running_mean", (width,))
    shape = mean.shape
    variance = named.numbers(f"{step.module}.running_var", shape)
    if not (variance + step.eps > 0.0).all():
        raise ModelFileError(f"the variances of '{clipped(step.module)}' and eps are not above zero")
    scale, shift = np.ones(shape), np.zeros(shape)
    if f"{step.module}.weight" in named or f"{step.module}.bias" in named:
        scale, shift = (named.numbers(f"{step.module}.{each}", shape) for each in ("weight", "bias"))
    named.pass_over(f"{step.module}.{_COUNTER}")
    scale = scale / np.sqrt(variance + step.eps)
    return scale, shift - mean * scale


class _Chain:
    """Dense layers so far, and what is to be multiplied by and added before the next one."""

    def __init__(self, n_inputs: int | None) -> None:
        self._n_inputs = n_inputs
        self._layers: list[Dense] = []
        self._is_open = False
        self._pending: tuple[Floats, Floats] | None = None

    @property
    def width(self) -> int | None:
        """The numbers that come out so far; None before the first layer."""
        if self._pending is not None:
            return len(self._pending[0])
        return self._layers[-1].n_units if self._layers else None

    def linear(self, weights: Floats, bias: Floats) -> None:
        """Add a layer, of weights (n_inputs, n_units)."""
        if self._pending is not None:
            scale, shift = self._pending
            weights, bias = scale[:, None] * weights, bias + shift @ weights
        self._append(np.ascontiguousarray(weights), bias)

    def scale(self, scale: Floats, shift: Floats) -> None:
        """Multiply by and add: to the layer before, unless there is an activation between."""
        if self._is_open:
            last = self._layers.pop()
            self._append(last.weights * scale, last.bias * scale + shift)
        elif self._pending is not None:
            before, added = self._pending
            self._pending = before * scale, added * scale + shift
        else:
            self._pending = scale, shift

    def activate(self, name: Activation, slope: float) -> None:
        """Apply an activation to what comes out."""
        if name is Activation.IDENTITY:
            return
        self._close_pending()
        if not self._is_open:
            width = self._n_inputs if self.width is None else self.width
            if width is None:
                raise ModelFileError("the layers begin with an activation: begin with a linear one")
            self._append(np.eye(width), np.zeros(width))
        last = self._layers.pop()
        self._append(last.weights, last.bias, name, slope)
        self._is_open = False

    def finished(self) -> tuple[Dense, ...]:
        """Return all layers."""
        self._close_pending()
        return tuple(self._layers)

    def _close_pending(self) -> None:
        """Make a layer of its own of what waits for one."""
        if self._pending is not None:
            scale, shift = self._pending
            self._append(np.diag(scale), shift)

    def _append(
        self, weights: Floats, bias: Floats, name: Activation = Activation.IDENTITY, slope: float = 0.0
    ) -> None:
        try:
            self._layers.append(Dense(weights, bias, name, slope))
        except ValueError as error:
            raise ModelFileError(f"layer {len(self._layers) + 1}: {error}") from error
        self._is_open, self._pending = True, None


def _embedding(named: _Named, given: Input) -> Embedding:
    """Return the vectors of a feature, those of its categories in their order."""
    module = str(given.embedding)
    table = named.numbers(module if module in named else f"{module}.weight", (None, None))
    rows = list(range(len(table))) if given.rows is None else list(given.rows.values())
    wanted = rows if given.unknown is None else [*rows, given.unknown]
    if max(wanted) >= len(table):
        raise ModelFileError(f"feature {given.feature[:100]!a} has a category of row {max(wanted)}, of {len(table)}")
    try:
        return Embedding(table[rows], None if given.unknown is None else table[given.unknown])
    except ValueError as error:
        raise ModelFileError(f"feature {given.feature[:100]!a}: {error}") from error
