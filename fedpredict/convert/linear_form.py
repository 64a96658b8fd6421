"""The portable form of a linear part."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from fedpredict.convert.labels import chosen_features
from fedpredict.convert.options import ReadOptions
from fedpredict.convert.plain import matrix, vector
from fedpredict.errors import ModelFileError
from fedpredict.model.arrays import Floats
from fedpredict.model.linear import LinearPart

LINEAR_KEYS = ("features", "weights", "intercept", "constant")


def linear_to_plain(part: LinearPart) -> dict[str, object]:
    """Return `LINEAR_KEYS`, as docs/portable-model.md says."""
    return {
        "features": list(part.features),
        "weights": part.weights.tolist(),
        "intercept": None if part.intercept is None else part.intercept.tolist(),
        "constant": part.constant.tolist(),
    }


def linear_from_plain(content: Mapping[str, object], options: ReadOptions) -> LinearPart:
    """Return the part; other keys are not looked at.

    Raises:
        ModelFileError, FeatureNamesError, ModelConflictError: As `FamilyForm.from_plain` says.
    """
    names, weights = _weights(content, options)
    intercept = vector(content.get("intercept"), "intercept", weights.shape[1])
    constant = vector(content.get("constant"), "constant", weights.shape[1])
    return LinearPart(names, weights, intercept, np.zeros(weights.shape[1]) if constant is None else constant)


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
    return chosen, matrix(weights, "weights")
