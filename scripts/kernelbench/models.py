"""Models that are trained by scikit-learn, or made up, and read as an operator would have them read."""

from __future__ import annotations

import json
import tempfile
import warnings
from pathlib import Path
from typing import Any

import joblib
import numpy as np

from fedpredict.convert.options import ReadOptions
from fedpredict.convert.read import read_model_file
from fedpredict.model.arrays import Floats
from fedpredict.model.part import Part
from kernelbench.measure import Fields, names

TRAINED = 10_000
"""Rows that models are trained with."""


def read_estimator(estimator: Any, n_features: int) -> Part:
    """Return a fitted estimator as the part of a party that has all features."""
    options = ReadOptions(model_id="m", training_run="r", party="a", features=names(n_features))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.joblib"
        joblib.dump(estimator, path)
        return read_model_file(path, options).partial.part


def read_portable(part: Fields, family: str) -> Part:
    """Return a part in the portable form, as `docs/portable-model.md` tells it."""
    content = {
        "format": "fedpredict-partial-1", "model_id": "m", "training_run": "r", "party": "a",
        "kind": "linear", "classes": [], "fit_intercept": False, "family": family, "part": part,
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.json"
        path.write_text(json.dumps(content))
        return read_model_file(path).partial.part


def fitted(estimator: Any, features: Floats, *, classes: int = 0) -> Any:
    """Return an estimator, fitted to some rows and a target that depends on them."""
    rng = np.random.default_rng(5)
    rows = features[:TRAINED]
    known = np.nan_to_num(rows)
    target = np.sin(known[:, 0]) + known[:, 1] * known[:, 2] + known @ rng.normal(size=known.shape[1])
    if classes:
        target = np.searchsorted(np.quantile(target, np.arange(1, classes) / classes), target)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of training that is ended early: what is trained is of no interest
        return estimator.fit(rows, target)
