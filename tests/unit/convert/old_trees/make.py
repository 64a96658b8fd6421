"""Writes `scikit-learn-<version>.json`: trees of the scikit-learn that runs this, with its own predictions.

Run once in an environment of each old version (`pip install scikit-learn==1.5.2 pandas`), never by the tests:
`python make.py`. The tests read what it wrote, with no scikit-learn of that version at hand.
"""

from __future__ import annotations

import base64
import gzip
import json
import math
import pickle
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import sklearn
from sklearn.ensemble import (
    ExtraTreesClassifier,
    ExtraTreesRegressor,
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor, ExtraTreeClassifier, ExtraTreeRegressor

VERSION = tuple(map(int, sklearn.__version__.split(".")[:2]))
RANDOM = np.random.default_rng(5)
PLAIN = RANDOM.normal(size=(120, 4)) * [1.0, 3.0, 1e20, 1e-30]
PLAIN[::7] = PLAIN[0]
PLAIN[:, 1] = PLAIN[:, 1].round()
MISSING = np.where(RANDOM.random(PLAIN.shape) < 0.15, np.nan, PLAIN)
TWO = (PLAIN[:, 0] + PLAIN[:, 1] > 0).astype(int)
THREE = np.digitize(PLAIN[:, 0] + PLAIN[:, 1], [-2, 2])
AMOUNT = np.abs(PLAIN[:, 0]) + np.abs(PLAIN[:, 1]) + 0.1
CODES = MISSING.copy()
CODES[:, 1] = RANDOM.integers(0, 9, len(CODES))
CODES[:, 3] = RANDOM.integers(0, 60, len(CODES)) * 3
BY_CODES = np.isin(CODES[:, 1], [1, 4, 7]) * 2.0 + (CODES[:, 3] % 2 == 0) + RANDOM.normal(size=len(CODES)) * 0.1


def _trees() -> dict[str, tuple[Any, Any]]:
    """Name -> (model, target), trained on features without missing values, and with them where that is allowed."""
    small: dict[str, Any] = {"max_depth": 3, "random_state": 0}
    few = {**small, "n_estimators": 3}
    hist: dict[str, Any] = {"max_iter": 3, "max_depth": 3, "min_samples_leaf": 5, "random_state": 0}
    return {
        "tree_two": (DecisionTreeClassifier(**small), TWO),
        "tree_three": (DecisionTreeClassifier(class_weight="balanced", **small), THREE),
        "tree_random": (DecisionTreeRegressor(splitter="random", **small), AMOUNT),
        "tree_leaves": (DecisionTreeRegressor(max_leaf_nodes=6, random_state=0), AMOUNT),
        "tree_absolute": (DecisionTreeRegressor(criterion="absolute_error", **small), AMOUNT),
        "tree_two_targets": (DecisionTreeRegressor(**small), np.c_[AMOUNT, AMOUNT**2]),
        "extra_tree_two": (ExtraTreeClassifier(**small), TWO),
        "extra_tree": (ExtraTreeRegressor(**small), AMOUNT),
        "forest_two": (RandomForestClassifier(**few), TWO),
        "forest_three": (RandomForestClassifier(**few), THREE),
        "forest": (RandomForestRegressor(**few), AMOUNT),
        "extra_three": (ExtraTreesClassifier(**few), THREE),
        "extra": (ExtraTreesRegressor(**few), AMOUNT),
        "boosting_two": (GradientBoostingClassifier(**few), TWO),
        "boosting_three": (GradientBoostingClassifier(**few), THREE),
        "boosting_two_exponential": (GradientBoostingClassifier(loss="exponential", **few), TWO),
        "boosting_zero": (GradientBoostingRegressor(init="zero", **few), AMOUNT),
        "boosting_quantile": (GradientBoostingRegressor(loss="quantile", alpha=0.3, **few), AMOUNT),
        "boosting_huber": (GradientBoostingRegressor(loss="huber", **few), AMOUNT),
        "hist_two": (HistGradientBoostingClassifier(**hist), TWO),
        "hist_three": (HistGradientBoostingClassifier(**hist), THREE),
        "hist": (HistGradientBoostingRegressor(**hist), AMOUNT),
        "hist_poisson": (HistGradientBoostingRegressor(loss="poisson", **hist), AMOUNT),
    }


def _categories() -> dict[str, tuple[Any, Any, Any]]:
    """Name -> (model, features of training, features to predict for)."""
    hist: dict[str, Any] = {"max_iter": 3, "min_samples_leaf": 3, "random_state": 0}
    odd = CODES.copy()
    odd[:20, 1], odd[20:30, 3], odd[30:40, 1], odd[40:43, 1] = np.arange(20) - 3, np.arange(10), np.nan, -0.5
    found = {"hist_codes": (HistGradientBoostingRegressor(categorical_features=[3, 1], **hist), CODES, odd)}
    if VERSION < (1, 4):
        return found
    table = pd.DataFrame(CODES, columns=list("abcd"))
    texts = np.array(["u", "v", "a'b", "é", "10", "2", "", "w", "x"], dtype=object)
    table["b"] = texts[CODES[:, 1].astype(int)]
    table.loc[::9, "b"] = np.nan
    table["b"] = table["b"].astype("category")
    asked = table.astype({"b": object})
    asked.loc[3:9, "b"], asked.loc[10:13, "b"], asked.loc[5:9, "d"] = "new", np.nan, 4.0
    asked["b"] = asked["b"].astype("category")
    model = HistGradientBoostingRegressor(categorical_features=["d", "b"], **hist)
    return {**found, "hist_texts": (model, table, asked)}


def _large_codes(rows: Any) -> list[Any]:
    """Rows whose codes do not fit into a byte."""
    large = rows[:30].copy()
    large[:, 1] = np.resize([255, 256, 257, 260.5, 511, 513, 65540, 2**31 - 1, 2**31, 2**31 + 1, 2**40 + 1, 1e30], 30)
    return [large]


def _asked(model: Any, features: Any) -> dict[str, object]:
    """Rows and what the model predicts for them, null if it refuses them; NaN is null too."""
    try:
        found = model.predict_proba(features) if hasattr(model, "predict_proba") else model.predict(features)
        predictions = found.reshape(len(found), -1).tolist()
    except ValueError:
        predictions = None
    rows = np.asarray(features, dtype=object).tolist()
    return {
        "features": [[None if isinstance(x, float) and math.isnan(x) else x for x in row] for row in rows],
        "predictions": predictions,
    }


def _entry(model: Any, *asked: Any) -> dict[str, object]:
    packed = gzip.compress(pickle.dumps(model, protocol=4), mtime=0)
    return {"pickle": base64.b64encode(packed).decode(), "asked": [_asked(model, features) for features in asked]}


def main() -> None:
    """Train, predict, write."""
    warnings.simplefilter("ignore")
    result = {}
    for name, (model, target) in _trees().items():
        result[name] = _entry(model.fit(PLAIN, target), PLAIN[:8], MISSING[:8])
        try:
            model.fit(MISSING, target)
        except ValueError:
            continue
        result[f"{name}_trained_with_missing"] = _entry(model, MISSING[:25])
    for name, (model, features, asked) in _categories().items():
        result[name] = _entry(
            model.fit(features, BY_CODES), asked[:45], *(_large_codes(asked) if name == "hist_codes" else ())
        )
    path = Path(__file__).with_name(f"scikit-learn-{sklearn.__version__}.json")
    path.write_text(json.dumps(result).replace('"pickle"', '\n"pickle"') + "\n")


if __name__ == "__main__":
    main()
