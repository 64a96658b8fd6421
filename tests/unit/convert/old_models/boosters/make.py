"""Writes `xgboost-<version>.json`, `lightgbm-<version>.json`: models of the library that runs this, with its numbers.

Run once in an environment of each old version (`pip install xgboost==1.5.2 scikit-learn`), never by the tests:
`python make_boosters.py`. The tests read what it wrote, with no library of that version at hand.
"""

from __future__ import annotations

import base64
import gzip
import json
import pickle
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

RNG = np.random.default_rng(0)
FEATURES = RNG.normal(size=(200, 4))
FEATURES[:, 3] = RNG.integers(0, 4, 200)
FEATURES[RNG.random(FEATURES.shape) < 0.1] = np.nan
SIGNAL = np.nan_to_num(FEATURES).sum(axis=1) - np.isnan(FEATURES[:, 0])
TARGETS = {
    "reg": SIGNAL,
    "count": np.floor(np.exp(np.clip(SIGNAL, -2, 2))),
    "two": (SIGNAL > 0).astype(int),
    "three": np.digitize(SIGNAL, [-1, 1]),
}
ROWS = FEATURES[::8]


def _entry(data: bytes, predictions: Any) -> dict[str, object]:
    return {
        "file": base64.b64encode(gzip.compress(data, 9, mtime=0)).decode(),
        "features": [[None if np.isnan(cell) else cell for cell in row] for row in ROWS.tolist()],
        "predictions": np.asarray(predictions, dtype=float).reshape(len(ROWS), -1).tolist(),
    }


def _xgboost() -> dict[str, object]:
    import xgboost as xgb

    old = xgb.__version__ < "1.6"
    result: dict[str, object] = {}
    runs: dict[str, tuple[str, dict[str, Any]]] = {
        "squared": ("reg", {"objective": "reg:squarederror", "gamma": 3}),
        "poisson": ("count", {"objective": "count:poisson", "base_score": 2.0}),
        "logistic": ("two", {"objective": "binary:logistic", "base_score": 0.3}),
        "logitraw": ("two", {"objective": "binary:logitraw"}),
        "softprob": ("three", {"objective": "multi:softprob", "num_class": 3}),
        "dart": ("reg", {"booster": "dart", "rate_drop": 0.5, "one_drop": True, "num_parallel_tree": 2}),
    }
    for name, (target, params) in runs.items():
        booster = xgb.train({"max_depth": 3, **params}, xgb.DMatrix(FEATURES, TARGETS[target]), 4)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / ("model.json" if old or name != "softprob" else "model.ubj")
            booster.save_model(str(path))
            result[name] = _entry(path.read_bytes(), booster.predict(xgb.DMatrix(ROWS)))
    model = xgb.XGBClassifier(n_estimators=30, max_depth=3, learning_rate=0.9, num_parallel_tree=2, subsample=0.7)
    noise = RNG.permutation(TARGETS["three"])
    if old:
        model.fit(FEATURES, TARGETS["three"], eval_set=[(FEATURES, noise)], early_stopping_rounds=3, verbose=False)
    else:
        model.set_params(early_stopping_rounds=3)
        model.fit(FEATURES, TARGETS["three"], eval_set=[(FEATURES, noise)], verbose=False)
    expected = model.predict_proba(ROWS)
    result["wrapper"] = _entry(pickle.dumps(model, protocol=4), expected)
    with tempfile.TemporaryDirectory() as folder:
        model.save_model(str(Path(folder) / "model.json"))
        result["wrapper_file"] = _entry((Path(folder) / "model.json").read_bytes(), expected)
    if not old:
        codes = np.c_[FEATURES[:, :3], np.nan_to_num(FEATURES[:, 3])]
        kinds = {"feature_types": ["q", "q", "q", "c"], "enable_categorical": True}
        booster = xgb.train(
            {"tree_method": "hist", "max_depth": 3, "max_cat_to_onehot": 1},
            xgb.DMatrix(codes, SIGNAL + 3 * (codes[:, 3] == 2), **kinds), 4,
        )  # fmt: skip
        result["categories"] = _entry(pickle.dumps(booster, protocol=4), booster.predict(xgb.DMatrix(ROWS, **kinds)))
    return result


def _lightgbm() -> dict[str, object]:
    import lightgbm as lgb

    result: dict[str, object] = {}
    quiet = {"verbose": -1, "num_leaves": 6, "min_data_in_leaf": 3}
    runs: dict[str, tuple[str, dict[str, Any]]] = {
        "regression": ("reg", {"objective": "regression", "zero_as_missing": True}),
        "poisson": ("count", {"objective": "poisson"}),
        "binary": ("two", {"objective": "binary", "sigmoid": 2.0}),
        "multiclass": ("three", {"objective": "multiclass", "num_class": 3}),
        "forest": ("two", {"objective": "binary", "boosting": "rf", "bagging_freq": 1, "bagging_fraction": 0.5}),
        "categories": ("reg", {"cat_smooth": 0.1, "min_data_per_group": 1, "max_cat_to_onehot": 2}),
    }
    for name, (target, params) in runs.items():
        data = lgb.Dataset(FEATURES, TARGETS[target], categorical_feature=[3] if name == "categories" else "auto")
        booster = lgb.train({**quiet, **params}, data, 4)
        result[name] = _entry(booster.model_to_string().encode(), booster.predict(ROWS))
    model = lgb.LGBMClassifier(n_estimators=4, num_leaves=6).fit(FEATURES, TARGETS["three"])
    result["wrapper"] = _entry(pickle.dumps(model, protocol=4), model.predict_proba(ROWS))
    return result


def main() -> None:
    """Train, predict, write, for whichever of the two libraries is there."""
    for name, make in (("xgboost", _xgboost), ("lightgbm", _lightgbm)):
        try:
            version = __import__(name).__version__
        except ImportError:
            continue
        Path(__file__).with_name(f"{name}-{version}.json").write_text(json.dumps(make(), indent=1) + "\n")


if __name__ == "__main__":
    main()
