"""Cuts a jointly trained network, where its shares can be added up: behind a nonlinear unit nothing can be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from fedpredict.convert.labels import shown
from fedpredict.errors import ModelConflictError
from fedpredict.model.activations import Activation
from fedpredict.model.arrays import Bools, Floats
from fedpredict.model.dense import Dense
from fedpredict.model.network import NetworkPart

Positions: TypeAlias = NDArray[np.intp]


def cut_network(
    joint: NetworkPart,
    columns: Mapping[str, list[int]],
    intercept_party: str | None,
    feature_constants: Floats | None,
) -> dict[str, NetworkPart]:
    """Return each party's own units with their way to the scores; as `families.Cut` says.

    A unit of a hidden layer belongs to the party whose features it depends on; one that depends on nobody's is a
    constant, which every party may compute. The last layer must be a sum: every party gets the rows of its own units,
    and the party with the intercept, or else the first, those of the constants, and the bias.

    Raises:
        ModelConflictError: A hidden unit depends on features of two parties, or the last layer is no sum.
    """
    del feature_constants  # folded preprocessing stands in the first layer's bias, and so in each unit's own
    if joint.combination is not None:
        raise ModelConflictError("the network is one party's, for a head: cut the joint model instead")
    parties = list(columns)
    if len(parties) > 1 and joint.layers[-1].activation is not Activation.IDENTITY:
        raise ModelConflictError(
            f"the network ends with {joint.layers[-1].activation}, behind which shares cannot be added up: cut it with"
            " the identity there and let the kind's link do the rest, or train a network for each party"
        )
    holder = intercept_party if intercept_party is not None else parties[0]
    inputs = {party: inputs_of(joint, chosen) for party, chosen in columns.items()}
    owners = unit_owners(joint, list(inputs.values()))
    for number, depends in enumerate(owners, start=1):
        _check_owners(depends, number, parties)
    return {
        party: _part(joint, chosen, inputs[party], at, owners, is_holder=party == holder)
        for at, (party, chosen) in enumerate(columns.items())
    }


def inputs_of(joint: NetworkPart, chosen: list[int]) -> list[int]:
    """Return the inputs of the first layer that some features give, in the order of these."""
    starts = np.cumsum([0, *joint.widths])
    return [each for feature in chosen for each in range(starts[feature], starts[feature + 1])]


def unit_owners(joint: NetworkPart, inputs: Sequence[list[int]]) -> list[Bools]:
    """Return for each hidden layer which parties each unit depends on, shape (n_parties, n_units).

    Args:
        joint: The network over all features.
        inputs: For each party, what its features give to the first layer.
    """
    depends = np.zeros((len(inputs), joint.layers[0].n_inputs), dtype=bool)
    for at, own in enumerate(inputs):
        depends[at, own] = True
    owners = []
    for layer in joint.layers[:-1]:
        depends = depends @ (layer.weights != 0.0)
        if layer.activation is Activation.SOFTMAX:
            depends = np.repeat(depends.any(axis=1, keepdims=True), layer.n_units, axis=1)
        owners.append(depends)
    return owners


def _check_owners(depends: Bools, number: int, parties: list[str]) -> None:
    mixed = np.flatnonzero(depends.sum(axis=0) > 1)
    if not len(mixed):
        return
    unit = int(mixed[0])
    told = shown([party for at, party in enumerate(parties) if depends[at, unit]])
    raise ModelConflictError(
        f"unit {unit} of layer {number} (and {len(mixed) - 1} more) mixes features of the parties {told}, and behind it"
        " shares cannot be added up: train a network for each party whose outputs are added (a partial model each), or"
        " one without connections between the parties' units; or name the initiator that shall hold the layers above"
        " (--head)"
    )


def _part(
    joint: NetworkPart, chosen: list[int], inputs: list[int], at: int, owners: Sequence[Bools], *, is_holder: bool
) -> NetworkPart:
    """Return one party's network.

    Args:
        joint: The network over all features.
        chosen: The party's features.
        inputs: And what they give to the first layer.
        at: The party's place in `owners`.
        owners: As `_owners` gives them.
        is_holder: Whether it gets what depends on nobody's features, and the intercept if there is one.
    """
    layers: list[Dense] = []
    rows = np.array(inputs, dtype=np.intp)
    for layer, depends in zip(joint.layers, owners, strict=False):
        # its own units, and the constants, which every party may compute
        units = np.flatnonzero(depends[at] | ~depends.any(axis=0))
        layers = [*layers, layer_of(layer, rows, units)] if len(units) else []
        rows = units
    last = joint.layers[-1]
    counts = owners[-1][at][rows] | is_holder if owners else np.ones(len(rows), dtype=bool)
    bias = last.bias if is_holder else np.zeros_like(last.bias)
    layers.append(replace(last, weights=last.weights[rows] * counts[:, None], bias=bias))
    features = tuple(joint.features[each] for each in chosen)
    return NetworkPart(
        features,
        {name: joint.categories[name] for name in features if name in joint.categories},
        {name: joint.embeddings[name] for name in features if name in joint.embeddings},
        reaching(layers, len(inputs)),
        joint.intercept if is_holder else None,
    )


def layer_of(layer: Dense, inputs: Positions, units: Positions) -> Dense:
    """Return some units of a layer, at least one, with their weights of some inputs."""
    return replace(layer, weights=layer.weights[np.ix_(inputs, units)], bias=layer.bias[units])


def reaching(layers: Sequence[Dense], n_inputs: int) -> tuple[Dense, ...]:
    """Return layers that take `n_inputs`: where they do not, they follow on none, and so depend on no input."""
    first = layers[0]
    if first.n_inputs != n_inputs:
        first = replace(first, weights=np.zeros((n_inputs, first.n_units)))
    return (first, *layers[1:])
