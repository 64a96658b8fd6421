"""Joint networks for tests, and what plain numpy makes of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.linalg
from sklearn.neural_network import MLPClassifier

from fedpredict.model.arrays import Floats
from fedpredict.model.kinds import Kind
from fedpredict.model.network import NetworkPart
from fedpredict.model.partial import PartialModel
from tests.network_parts import FORMULAS, dense


@dataclass(frozen=True)
class Joint:
    """A network over all features, who has which, and rows with the raw scores of the definitions."""

    model: PartialModel
    owners: Mapping[str, list[str]]
    rows: Floats
    raw: Floats


def block_network(
    owners: Mapping[str, tuple[int, int]],
    *,
    hidden: Sequence[str] = ("relu",),
    top: Sequence[str] = ("tanh", "identity"),
    n_outputs: int = 2,
    seed: int = 0,
    shuffled: bool = True,
) -> Joint:
    """A random network: block-diagonal layers, then layers that mix.

    Args:
        owners: Party -> its number of features, and of units in each of the first layers.
        hidden: The activations of these layers.
        top: Those of the layers above.
        n_outputs: The number of raw scores.
        seed: Of everything random.
        shuffled: Whether units of different parties stand mixed up.
    """
    random = np.random.default_rng(seed)
    layers: list[Any] = []
    before = [n_features for n_features, _ in owners.values()]
    order = np.arange(sum(before))
    for name in hidden:
        blocks = [dense(random, width, units, name) for width, (_, units) in zip(before, owners.values(), strict=True)]
        weights = scipy.linalg.block_diag(*(each.weights for each in blocks))[order]
        order = random.permutation(weights.shape[1]) if shuffled else np.arange(weights.shape[1])
        bias = np.concatenate([each.bias for each in blocks])
        layers.append(type(blocks[0])(weights[:, order], bias[order], blocks[0].activation, blocks[0].slope))
        before = [units for _, units in owners.values()]
    width = sum(before)
    for at, name in enumerate(top, start=1):
        layers.append(dense(random, width, 5 if at < len(top) else n_outputs, name))
        width = 5
    n_features = sum(count for count, _ in owners.values())
    part = NetworkPart(tuple(f"f{at}" for at in range(n_features)), {}, {}, tuple(layers), None)
    rows = random.normal(scale=2.0, size=(40, n_features))
    names = iter(part.features)
    named = {party: [next(names) for _ in range(count)] for party, (count, _) in owners.items()}
    raw = rows
    for layer in layers:  # plain numpy, by the definitions of the activations
        raw = np.asarray(FORMULAS[layer.activation](raw @ layer.weights + layer.bias))
    return Joint(PartialModel("m", "run-1", "joint", Kind.LINEAR, (), False, part), named, rows, raw)


def masked_classifier(owners: Mapping[str, tuple[int, int]], *, n_classes: int, seed: int = 0) -> tuple[Any, Floats]:
    """scikit-learn's classifier after its training, without weights between features and units of two parties.

    Returns:
        The classifier, and rows; its `predict_proba` follows the weights as they are now.
    """
    random = np.random.default_rng(seed)
    n_features, n_units = (sum(pair[at] for pair in owners.values()) for at in (0, 1))
    rows = random.normal(size=(120, n_features))
    target = np.digitize(rows @ random.normal(size=n_features), np.linspace(-1, 1, n_classes + 1)[1:-1])
    model = MLPClassifier((n_units, 4), activation="tanh", max_iter=40, random_state=seed, tol=1e-2)
    model.fit(rows, target)
    blocks = [np.ones(pair) for pair in owners.values()]
    model.coefs_[0] = model.coefs_[0] * scipy.linalg.block_diag(*blocks)
    return model, rows
