"""Dense layers over a matrix of inputs: all the arithmetic of networks, of bottom networks and of top models."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fedpredict.model.activations import FUNCTIONS, Activation
from fedpredict.model.arrays import Floats

_BLOCK_NUMBERS = 32_768
"""The widest layer's sums of so many go through all layers before the next: they stay in the cache meanwhile."""
_LEAST_ROWS = 32
"""Of fewer rows a product of matrices is slow."""


@dataclass(frozen=True, slots=True, eq=False)
class Dense:
    """One layer: activation(inputs @ weights + bias).

    Attributes:
        weights: Shape (n_inputs, n_units).
        bias: Shape (n_units,).
        activation: What is applied to the sums.
        slope: Of the leaky relu; 0.0 for all others.
    """

    weights: Floats
    bias: Floats
    activation: Activation = Activation.IDENTITY
    slope: float = 0.0

    def __post_init__(self) -> None:
        if self.weights.ndim != 2 or self.bias.shape != self.weights.shape[1:] or not self.n_units:
            raise ValueError(f"a layer with weights of shape {self.weights.shape} and a bias of {self.bias.shape}")
        if not (np.isfinite(self.weights).all() and np.isfinite(self.bias).all() and math.isfinite(self.slope)):
            raise ValueError("a weight, bias or slope of a layer is NaN or infinite")
        if self.slope and self.activation is not Activation.LEAKY_RELU:
            raise ValueError(f"a slope for the activation {self.activation}, which has none")

    @property
    def n_inputs(self) -> int:
        """The width of what goes in."""
        return int(self.weights.shape[0])

    @property
    def n_units(self) -> int:
        """The width of what comes out."""
        return int(self.weights.shape[1])

    @property
    def n_bytes(self) -> int:
        """The memory of its arrays."""
        return self.weights.nbytes + self.bias.nbytes


def check_chain(layers: Sequence[Dense], n_inputs: int) -> None:
    """Check that each layer takes what the one before gives.

    Args:
        layers: In order; at least one.
        n_inputs: The width of what goes into the first.

    Raises:
        ValueError: Naming the layer, from 1, and both widths.
    """
    if not layers:
        raise ValueError("a network without a layer")
    width = n_inputs
    for number, layer in enumerate(layers, start=1):
        if layer.n_inputs != width:
            before = "the features give" if number == 1 else f"layer {number - 1} gives"
            raise ValueError(f"layer {number} takes {layer.n_inputs} inputs, but {before} {width}")
        width = layer.n_units


def run_layers(layers: Sequence[Dense], inputs: Floats) -> Floats:
    """Return what the last layer gives, shape (n_samples, n_units); inputs themselves where there is no layer.

    Overflows become infinities or NaN, without a warning.

    Args:
        layers: Which chain.
        inputs: Shape (n_samples, n_inputs).

    >>> run_layers([Dense(np.array([[1.0], [1.0]]), np.array([-4.0]), Activation.RELU)], np.array([[1.0, 2.0]]))
    array([[0.]])
    """
    if not layers:
        return inputs
    block = max(_LEAST_ROWS, _BLOCK_NUMBERS // max(layer.n_units for layer in layers))
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        if len(inputs) <= block:
            return _run(layers, inputs)
        outputs = np.empty((len(inputs), layers[-1].n_units))
        for start in range(0, len(inputs), block):
            outputs[start : start + block] = _run(layers, inputs[start : start + block])
    return outputs


def _run(layers: Sequence[Dense], inputs: Floats) -> Floats:
    for layer in layers:
        sums: Floats = inputs.dot(layer.weights)  # as `inputs @ weights`, in less time for one row
        sums += layer.bias
        inputs = FUNCTIONS[layer.activation](sums, layer.slope)
    return inputs


def absolute_terms(layers: Sequence[Dense], inputs: Floats) -> Floats:
    """Return the sum of the absolute terms of the **last** layer's sums, shape (n_samples, n_units).

    The layers before it are taken as they are: what rounding does within them is not in this sum.

    Args:
        layers: Which chain, at least one layer.
        inputs: Shape (n_samples, n_inputs).
    """
    hidden = run_layers(layers[:-1], inputs)
    with np.errstate(over="ignore", invalid="ignore"):
        return np.asarray(np.abs(hidden) @ np.abs(layers[-1].weights) + np.abs(layers[-1].bias), dtype=np.float64)
