"""scikit-learn's scalers, folded into the weights behind them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from fedpredict.convert.sklearn_state import Estimator
from fedpredict.errors import ModelFileError, UnsupportedModelError
from fedpredict.model.arrays import Floats

Fold = Callable[[Estimator, Floats, Floats], tuple[Floats, Floats]]
"""(scaler, weights, constants behind it) -> the same before it; both of shape (n_features, n_scores)."""


def fold_scaler(scaler: Estimator, weights: Floats, constants: Floats) -> tuple[Floats, Floats]:
    """Return weights and constants for features that the scaler has not seen yet.

    Args:
        scaler: A fitted one of `SCALERS` that does not clip.
        weights: Shape (n_features, n_scores), for scaled features.
        constants: Shape (n_features, n_scores): what each feature adds to every sample.

    Returns:
        Weights and constants of the same shapes, for unscaled features; the scores stay the same.

    Raises:
        ModelFileError: Its arrays do not fit the features.
    """
    scaler.check_n_features(weights.shape[0])
    return SCALERS[scaler.name](scaler, weights, constants)


def _standard(scaler: Estimator, weights: Floats, constants: Floats) -> tuple[Floats, Floats]:
    return _shift_and_divide(scaler, weights, constants, ("with_mean", "mean_"), ("with_std", "scale_"))


def _robust(scaler: Estimator, weights: Floats, constants: Floats) -> tuple[Floats, Floats]:
    return _shift_and_divide(scaler, weights, constants, ("with_centering", "center_"), ("with_scaling", "scale_"))


def _shift_and_divide(
    scaler: Estimator, weights: Floats, constants: Floats, shift: tuple[str, str], scale: tuple[str, str]
) -> tuple[Floats, Floats]:
    """(x - shift) / scale, each where its flag is set: w -> w / scale, c -> c - shift * w / scale."""
    if scaler.flag(scale[0]):
        weights = weights / _column(scaler, scale[1], len(weights))
    if scaler.flag(shift[0]):
        constants = constants - _column(scaler, shift[1], len(weights)) * weights
    return weights, constants


def _min_max(scaler: Estimator, weights: Floats, constants: Floats) -> tuple[Floats, Floats]:
    """X * scale + min: w -> w * scale, c -> c + min * w."""
    constants = constants + _column(scaler, "min_", len(weights)) * weights
    return weights * _column(scaler, "scale_", len(weights)), constants


def _max_abs(scaler: Estimator, weights: Floats, constants: Floats) -> tuple[Floats, Floats]:
    """X / scale: w -> w / scale."""
    return weights / _column(scaler, "scale_", len(weights)), constants


def _column(scaler: Estimator, key: str, count: int) -> Floats:
    """An array with one number per feature, as a column (n_features, 1)."""
    if key not in scaler.state:
        raise UnsupportedModelError(f"{scaler.name} is not fitted: it has no {key}")
    array = scaler.arrays.numbers(scaler.state[key], f"{scaler.name}.{key}")
    if not np.isfinite(array).all():
        raise ModelFileError(f"{scaler.name}.{key} holds NaN or an infinity: fit it without")
    if array.shape != (count,):
        raise ModelFileError(f"{scaler.name}.{key} has shape {array.shape} for {count} features")
    return array.reshape(count, 1)


SCALERS: dict[str, Fold] = {
    "StandardScaler": _standard,
    "MinMaxScaler": _min_max,
    "MaxAbsScaler": _max_abs,
    "RobustScaler": _robust,
}
