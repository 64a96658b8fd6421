"""The portable form of a network part."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise

import numpy as np

from fedpredict.convert.embedding_form import (
    EMBEDDING_KEYS,
    combination_from_plain,
    combination_to_plain,
    embedding_layers,
)
from fedpredict.convert.labels import chosen_features
from fedpredict.convert.options import ReadOptions
from fedpredict.convert.plain import check_keys, matrix, number, vector
from fedpredict.convert.values import clipped
from fedpredict.errors import ModelFileError
from fedpredict.model.activations import Activation
from fedpredict.model.combination import Combination
from fedpredict.model.dense import Dense
from fedpredict.model.network import Embedding, NetworkPart

_KEYS = ("features", "embeddings", "layers", "intercept", *EMBEDDING_KEYS)
_EMBEDDING_KEYS = ("categories", "vectors", "unknown")
_LAYER_KEYS = ("weights", "bias", "activation", "slope")


def network_to_plain(part: NetworkPart) -> dict[str, object]:
    """Return the keys that docs/portable-model.md says."""
    return {
        "features": list(part.features),
        "embeddings": {
            name: {
                **({"categories": list(part.categories[name])} if name in part.categories else {}),
                "vectors": each.vectors.tolist(),
                "unknown": None if each.unknown is None else each.unknown.tolist(),
            }
            for name, each in part.embeddings.items()
        },
        "layers": [layer_to_plain(layer) for layer in part.layers],
        "intercept": None if part.intercept is None else part.intercept.tolist(),
        **combination_to_plain(part.combination),
    }


def layer_to_plain(layer: Dense) -> dict[str, object]:
    """Return one layer's weights, bias and activation."""
    slope = {"slope": layer.slope} if layer.activation is Activation.LEAKY_RELU else {}
    return {
        "weights": layer.weights.tolist(),
        "bias": layer.bias.tolist(),
        "activation": layer.activation.value,
        **slope,
    }


def network_from_plain(content: Mapping[str, object], options: ReadOptions) -> NetworkPart:
    """Return the part.

    Raises:
        ModelFileError, FeatureNamesError, ModelConflictError: As `FamilyForm.from_plain` says.
    """
    check_keys(content, _KEYS, "the network")
    layers, combination = layers_from_plain(content.get("layers")), combination_from_plain(content)
    if combination is not None:
        layers = embedding_layers(layers, content)
    embeddings, categories = _embeddings(content.get("embeddings"))
    names = content.get("features")
    if names is not None and (not isinstance(names, list) or not all(isinstance(name, str) for name in names)):
        raise ModelFileError("features is not a list of texts")
    n_features = layers[0].n_inputs - sum(each.width - 1 for each in embeddings.values())
    features = chosen_features(names, options.features, len(names) if names is not None else n_features)
    part = network_part(features, categories, embeddings, layers, content.get("intercept"))
    return part if combination is None else as_embedding(part, combination)


def network_part(
    features: tuple[str, ...],
    categories: Mapping[str, tuple[str, ...]],
    embeddings: Mapping[str, Embedding],
    layers: tuple[Dense, ...],
    intercept: object,
) -> NetworkPart:
    """Return the part; the intercept is a list of numbers, a number, or None.

    Raises:
        ModelFileError: They do not fit together.
    """
    added = vector(intercept, "intercept", layers[-1].n_units)
    try:
        return NetworkPart(features, categories, embeddings, layers, added)
    except ValueError as error:
        raise ModelFileError(f"the network does not fit together: {error}") from error


def as_embedding(part: NetworkPart, combination: Combination) -> NetworkPart:
    """Return the part with scores that go into a head; raise `ModelFileError` where it has an intercept."""
    if part.intercept is not None:
        raise ModelFileError("a network whose scores are an embedding has no intercept: it belongs into the top model")
    return replace(part, combination=combination)


def layers_from_plain(value: object) -> tuple[Dense, ...]:
    """Return dense layers, each of which takes what the one before gives.

    Raises:
        ModelFileError: There is none, or one has unknown keys, an unknown activation, or weights that do not fit.
    """
    if not isinstance(value, list) or not value:
        raise ModelFileError("a network needs layers: a list of dicts with weights, bias and activation")
    layers = tuple(_layer(each, number) for number, each in enumerate(value, start=1))
    for at, (before, after) in enumerate(pairwise(layers), start=1):
        if before.n_units != after.n_inputs:
            raise ModelFileError(
                f"layer {at} gives {before.n_units} numbers, but layer {at + 1} takes {after.n_inputs}"
            )
    return layers


def _layer(value: object, at: int) -> Dense:
    what = f"layer {at}"
    if not isinstance(value, dict):
        raise ModelFileError(f"{what} is not a dict")
    check_keys(value, _LAYER_KEYS, what)
    weights, biases = matrix(value.get("weights"), f"{what}.weights"), value.get("bias")
    if not len(weights) and isinstance(biases, list):  # a layer of a part without features: constants
        weights = np.zeros((0, len(biases)))
    bias = vector(biases, f"{what}.bias", weights.shape[1])
    activation = activation_of(value.get("activation", "identity"), what)
    slope = slope_of(value.get("slope"), activation, what)
    try:
        return Dense(weights, np.zeros(weights.shape[1]) if bias is None else bias, activation, slope)
    except ValueError as error:
        raise ModelFileError(f"{what}: {error}") from error


def activation_of(name: object, what: str) -> Activation:
    """Return an activation by its name; raise `ModelFileError` with those there are."""
    known = [each.value for each in Activation]
    if not isinstance(name, str) or name not in known:
        told = f"'{clipped(name)}'" if isinstance(name, str) else f"a {type(name).__name__}"
        raise ModelFileError(f"{what} has the unknown activation {told}; known are {', '.join(known)}")
    return Activation(name)


def slope_of(value: object, activation: Activation, what: str) -> float:
    """Return the slope of a leaky relu, 0.0 for others; raise `ModelFileError` where there is one too many or none."""
    if (value is not None) != (activation is Activation.LEAKY_RELU):
        raise ModelFileError(f"{what}: a leaky_relu needs its slope, and no other activation has one")
    return 0.0 if value is None else number(value, f"{what}.slope")


def _embeddings(value: object) -> tuple[dict[str, Embedding], dict[str, tuple[str, ...]]]:
    """Return the embeddings by feature, and the texts of those that have some."""
    if value is None:
        return {}, {}
    if not isinstance(value, dict):
        raise ModelFileError("embeddings is not a dict by feature")
    embeddings, categories = {}, {}
    for name, content in value.items():
        what = f"the embedding of {name[:100]!a}"
        if not isinstance(content, dict):
            raise ModelFileError(f"{what} is not a dict")
        check_keys(content, _EMBEDDING_KEYS, what)
        vectors = matrix(content.get("vectors"), f"{what}: vectors")
        unknown = vector(content.get("unknown"), f"{what}: unknown", vectors.shape[1])
        try:
            embeddings[name] = Embedding(vectors, unknown)
        except ValueError as error:
            raise ModelFileError(f"{what}: {error}") from error
        if (texts := content.get("categories")) is not None:
            categories[name] = texts_of(texts, what)
    return embeddings, categories


def texts_of(value: object, what: str) -> tuple[str, ...]:
    """Return a list of texts; raise `ModelFileError` for anything else."""
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise ModelFileError(f"{what}: categories is not a list of texts")
    return tuple(value)
