"""Inverse link functions, stable at any magnitude.

All take raw scores of shape (n_samples, n_scores) and return predictions of the same shape.
"""

from __future__ import annotations

import numpy as np

from fedpredict.model.arrays import Floats

_NO_OVERFLOW = -700.0
"""Above this exp(-raw) is finite, and numpy need not be told to be quiet, which takes longer than one exponential."""


def identity(raw: Floats) -> Floats:
    """Return the raw scores unchanged.

    >>> identity(np.array([[2.5]]))
    array([[2.5]])
    """
    return raw


def sigmoid(raw: Floats) -> Floats:
    """Return 1 / (1 + exp(-raw)); below -709.78 the exponential is infinite and the answer zero, as in scipy's expit.

    >>> sigmoid(np.array([[-1e4], [0.0], [1e4]])).ravel()
    array([0. , 0.5, 1. ])
    """
    if raw.size == 1 and raw.item() > _NO_OVERFLOW:
        return np.asarray(1.0 / (1.0 + np.exp(-raw)), dtype=np.float64)
    with np.errstate(over="ignore"):
        return np.asarray(1.0 / (1.0 + np.exp(-raw)), dtype=np.float64)


def softmax(raw: Floats) -> Floats:
    """Return exp(raw) / sum(exp(raw)) per sample; each sample's largest score is subtracted first.

    >>> softmax(np.array([[1e4, 1e4]]))
    array([[0.5, 0.5]])
    """
    with np.errstate(over="ignore"):  # a difference beyond float64 is -inf, and its exponential zero
        exponentials = np.exp(raw - raw.max(axis=1, keepdims=True))
    return np.asarray(exponentials / exponentials.sum(axis=1, keepdims=True), dtype=np.float64)


def normalised_sigmoid(raw: Floats) -> Floats:
    """Return sigmoids divided by their sum per sample, as scikit-learn's one-vs-rest classifiers do.

    Where every sigmoid of a sample underflows to zero there is nothing to divide, and scikit-learn's answer is the
    uniform distribution.

    >>> normalised_sigmoid(np.array([[0.0, 0.0], [-1e4, -1e4]]))
    array([[0.5, 0.5],
           [0.5, 0.5]])
    """
    each = sigmoid(raw)
    total = each.sum(axis=1, keepdims=True)
    uniform = np.full_like(each, 1.0 / each.shape[1])
    return np.asarray(np.divide(each, total, out=uniform, where=total > 0.0), dtype=np.float64)
