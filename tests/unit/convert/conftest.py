"""Files that several modules of this folder read."""

from __future__ import annotations

import pickle

import numpy as np
import pytest


@pytest.fixture(scope="session")
def small_pickle() -> bytes:
    """A valid file: a fitted logistic regression of two features."""
    from sklearn.linear_model import LogisticRegression

    features = np.arange(12.0).reshape(6, 2) % 5
    return pickle.dumps(LogisticRegression().fit(features, [0, 1, 0, 1, 1, 0]), protocol=4)
