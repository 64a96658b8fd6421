"""The portable form of a linear part."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from fedpredict.convert.exposure import with_offsets
from fedpredict.convert.labels import chosen_features
from fedpredict.convert.options import ReadOptions
from fedpredict.convert.plain import matrix, optional_text, vector
from fedpredict.convert.values import clipped
from fedpredict.errors import ModelConflictError, ModelFileError
from fedpredict.model.arrays import Floats
from fedpredict.model.linear import LinearPart

LINEAR_KEYS = ("features", "weights", "intercept", "constant", "offset", "exposure")


def linear_to_plain(part: LinearPart) -> dict[str, object]:
    """Return `LINEAR_KEYS`, as docs/portable-model.md says; an offset is a feature like any other by now."""
    plain: dict[str, object] = {
        "features": list(part.features),
        "weights": part.weights.tolist(),
        "intercept": None if part.intercept is None else part.intercept.tolist(),
        "constant": part.constant.tolist(),
    }
    return plain if part.exposure is None else plain | {"exposure": part.exposure}


def linear_from_plain(content: Mapping[str, object], options: ReadOptions) -> LinearPart:
    """Return the part; other keys are not looked at.

    Raises:
        ModelFileError, FeatureNamesError, ModelConflictError: As `FamilyForm.from_plain` says.
    """
    offset, exposure = _named(content, "offset", options.offset), _named(content, "exposure", options.exposure)
    names, weights = _weights(content, options, has_others=bool(offset or exposure))
    names, weights = with_offsets(names, weights, offset, exposure)
    intercept = vector(content.get("intercept"), "intercept", weights.shape[1])
    constant = vector(content.get("constant"), "constant", weights.shape[1])
    return LinearPart(names, weights, intercept, np.zeros(weights.shape[1]) if constant is None else constant, exposure)


def _named(content: Mapping[str, object], key: str, option: str | None) -> str | None:
    """Return the feature that the file, the operator, or both say."""
    in_file = optional_text(content, key)
    if in_file is not None and option is not None and in_file != option:
        raise ModelConflictError(f"the file says {key} '{clipped(in_file)}', the operator '{clipped(option)}'")
    return option if in_file is None else in_file


def _weights(
    content: Mapping[str, object], options: ReadOptions, *, has_others: bool
) -> tuple[tuple[str, ...], Floats]:
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
    if not weights and has_others:
        return (), np.zeros((0, _width(content)))
    if not weights and (names != [] or not _listed(content, "constant")):
        raise ModelFileError(
            "the portable model has no features: the part of a party without any says so with features, a list of none,"
            " and has constant, a list with one number per score"
        )
    chosen = chosen_features(names, options.features, len(weights))
    return chosen, matrix(weights, "weights") if weights else np.zeros((0, _width(content)))


def _width(content: Mapping[str, object]) -> int:
    """Return the number of scores of a part without weights: that of its intercept or constant, else 1."""
    return _listed(content, "intercept") or _listed(content, "constant") or 1


def _listed(content: Mapping[str, object], key: str) -> int:
    """Return the length of what should be a list; 0 where it is none."""
    value = content.get(key)
    return len(value) if isinstance(value, list) else 0
