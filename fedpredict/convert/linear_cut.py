"""Cuts a linear part by columns."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from fedpredict.model.arrays import Floats
from fedpredict.model.linear import LinearPart


def cut_linear(
    joint: LinearPart,
    columns: Mapping[str, list[int]],
    intercept_party: str | None,
    feature_constants: Floats | None,
) -> dict[str, LinearPart]:
    """Return each party's rows of the weights, with its share of the constant; as `families.Cut` says."""
    shares = _constants(joint, columns, intercept_party, feature_constants)
    return {
        party: LinearPart(
            tuple(joint.features[column] for column in chosen),
            joint.weights[chosen],
            joint.intercept if party == intercept_party else None,
            shares[party],
            joint.exposure if joint.exposure in [joint.features[column] for column in chosen] else None,
        )
        for party, chosen in columns.items()
    }


def _constants(
    joint: LinearPart,
    columns: Mapping[str, list[int]],
    intercept_party: str | None,
    feature_constants: Floats | None,
) -> dict[str, Floats]:
    """Each party's share of the constant, shape (n_scores,)."""
    if feature_constants is not None:
        return {party: feature_constants[chosen].sum(axis=0) for party, chosen in columns.items()}
    holder = intercept_party if intercept_party is not None else next(iter(columns))
    none = np.zeros_like(joint.constant)
    return {party: joint.constant if party == holder else none for party in columns}
