"""Networks for tests: random ones, and the same arithmetic once more, written out without the package."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import scipy.special

from fedpredict.model.activations import Activation
from fedpredict.model.arrays import Floats
from fedpredict.model.dense import Dense
from fedpredict.model.network import Embedding, NetworkPart

FORMULAS = {
    Activation.IDENTITY: lambda x: x,
    Activation.RELU: lambda x: x * (x > 0),
    Activation.LEAKY_RELU: lambda x: np.where(x > 0, x, 0.125 * x),
    Activation.TANH: np.tanh,
    Activation.SIGMOID: scipy.special.expit,
    Activation.GELU: lambda x: x * scipy.special.ndtr(x),
    Activation.GELU_TANH: lambda x: 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))),
    Activation.SILU: lambda x: x * scipy.special.expit(x),
    Activation.SOFTPLUS: lambda x: np.where(x > 20, x, np.log1p(np.exp(np.minimum(x, 20)))),
    Activation.SOFTMAX: lambda x: scipy.special.softmax(x, axis=1),
}
"""From their definitions, by scipy; the leaky relu with the slope of `dense`."""


def dense(random: np.random.Generator, n_inputs: int, n_units: int, activation: str = "identity") -> Dense:
    """A random layer."""
    weights = random.normal(size=(n_inputs, n_units)) / np.sqrt(n_inputs)
    slope = 0.125 if activation == "leaky_relu" else 0.0
    return Dense(weights, random.normal(size=n_units), Activation(activation), slope)


def chain(random: np.random.Generator, widths: Sequence[int], activations: Sequence[str]) -> tuple[Dense, ...]:
    """Random layers; `widths` has the inputs too."""
    return tuple(map(lambda a, b, name: dense(random, a, b, name), widths, widths[1:], activations))


def numeric_part(
    widths: Sequence[int], activations: Sequence[str], intercept: Floats | None = None, seed: int = 0
) -> NetworkPart:
    """A random network over numbers f0, f1, ..."""
    features = tuple(f"f{at}" for at in range(widths[0]))
    return NetworkPart(features, {}, {}, chain(np.random.default_rng(seed), widths, activations), intercept)


def mixed_part(unknown: bool = True, intercept: Floats | None = None, seed: int = 0) -> NetworkPart:
    """A random network over a number, a text, a categorical integer and a number."""
    random = np.random.default_rng(seed)
    colour = Embedding(random.normal(size=(3, 2)), random.normal(size=2) if unknown else None)
    region = Embedding(random.normal(size=(4, 3)), None)
    return NetworkPart(
        ("age", "colour", "region", "income"),
        {"colour": ("red", "it's", "蓝")},
        {"colour": colour, "region": region},
        chain(random, (7, 5, 2), ("gelu", "identity")),
        intercept,
    )


def written_out(part: NetworkPart, inputs: Floats) -> Floats:
    """What the definitions give for what goes into the first layer."""
    for layer in part.layers:
        inputs = np.asarray(FORMULAS[layer.activation](inputs @ layer.weights + layer.bias))
    return inputs if part.intercept is None else inputs + part.intercept
