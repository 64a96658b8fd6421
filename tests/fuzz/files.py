"""Targets: model files of every sort, read in this very process, where a crash is seen."""

from __future__ import annotations

import json
import pickle
import pickletools
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from fedpredict.convert.child import read_either
from fedpredict.convert.options import Limits, ReadOptions
from tests.fuzz.engine import Target

LIMITS = Limits(array_bytes=2**22, unpacked_bytes=2**22, operations=50_000)
NAMED = ReadOptions(model_id="m", training_run="r", party="bank", features=("f0", "f1"))
LAYERS = ReadOptions(
    model_id="m", training_run="r", party="bank", features=("f0", "f1"),
    layers=json.dumps({"kind": "linear", "layers": [{"weight": "w", "bias": "b"}]}),
)  # fmt: skip
X = np.arange(24.0).reshape(12, 2) % 5
Y = np.array([0, 1, 0, 1, 1, 0] * 2)


def pickles() -> Target:
    """Pickles of all protocols, joblib's files, PyTorch's archives, portable JSON, and the attacks."""
    from sklearn.ensemble import GradientBoostingClassifier, HistGradientBoostingClassifier
    from sklearn.linear_model import LogisticRegression, PoissonRegressor
    from sklearn.neural_network import MLPClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import KBinsDiscretizer, OneHotEncoder, StandardScaler
    from sklearn.tree import DecisionTreeClassifier

    from tests.unit.convert.attack_pickles import ALL
    from tests.unit.convert.support import joblib_bytes

    models: list[Any] = [
        LogisticRegression().fit(X, Y),
        PoissonRegressor().fit(X, Y),
        make_pipeline(StandardScaler(), LogisticRegression()).fit(X, Y),
        make_pipeline(OneHotEncoder(), LogisticRegression()).fit(X, Y),
        make_pipeline(KBinsDiscretizer(2, quantile_method="averaged_inverted_cdf"), LogisticRegression()).fit(X, Y),
        DecisionTreeClassifier(max_depth=2).fit(X, Y),
        GradientBoostingClassifier(n_estimators=2, max_depth=2).fit(X, Y),
        HistGradientBoostingClassifier(max_iter=2, max_depth=2, min_samples_leaf=1).fit(X, Y),
        MLPClassifier((2,), max_iter=1, solver="lbfgs").fit(X, Y),
    ]
    seeds = [pickle.dumps(models[0], protocol=protocol) for protocol in range(6)]
    seeds += [pickle.dumps(model, protocol=4) for model in models[1:]]
    seeds += [joblib_bytes(models[0]), joblib_bytes(models[5], ("zlib", 1)), joblib_bytes(models[0], ("xz", 1))]
    seeds += [attack.payload("/nowhere/canary") for attack in ALL.values()]
    seeds += [each.encode() for each in _portable()]
    folder = Path(__file__).parents[1] / "unit" / "convert" / "torch_models"
    seeds += [path.read_bytes() for path in sorted(folder.glob("*.pt"))[:4]]
    words = [opcode.code.encode("latin-1") for opcode in pickletools.opcodes]
    words += [b"cnumpy\ndtype\n", b"cnumpy\nndarray\n", b"cnumpy.core.multiarray\n_reconstruct\n", b"PK\x03\x04"]
    return Target([each for each in seeds if len(each) < 40_000], _read, words)


def boosters() -> Target:
    """Files of XGBoost and LightGBM, in all their forms, and safetensors."""
    import lightgbm
    import safetensors.numpy
    import xgboost

    trees = lightgbm.LGBMClassifier(n_estimators=2, num_leaves=3, min_child_samples=1, verbosity=-1).fit(X, Y)
    seeds = [trees.booster_.model_to_string().encode(), pickle.dumps(trees)]
    for parameters in ({"objective": "binary:logistic"}, {"booster": "dart"}, {"multi_strategy": "multi_output_tree"}):
        model = xgboost.XGBClassifier(n_estimators=2, max_depth=2, **parameters).fit(X, Y)
        seeds += [_saved(model, suffix) for suffix in ("json", "ubj")] + [pickle.dumps(model)]
    tensors = {"w": np.array([[1.0, 2.0]]), "b": np.array([0.5])}
    seeds += [safetensors.numpy.save(tensors), safetensors.numpy.save(tensors, {"fedpredict": LAYERS.layers or ""})]
    words = [
        b"[$U#U",
        b"{L",
        b"tree_sizes=",
        b"num_leaves=",
        b"left_child=",
        b"inf",
        b"threshold=",
        b'"data_offsets":[',
    ]
    return Target(seeds, _read, words)


def _portable() -> list[str]:
    base = {"format": "fedpredict-partial-1", "model_id": "m", "training_run": "r", "party": "bank"}
    linear = {"kind": "linear", "weights": {"a": 1.0}, "fit_intercept": False}
    return [
        json.dumps(base | linear),
        json.dumps(base | linear | {"kind": "binary", "classes": ["no", "yes"], "intercept": 1.0}),
        json.dumps(base | {"kind": "linear", "fit_intercept": False, "features": ["a"], "trees": [{"nodes": []}]}),
    ]


def _saved(model: Any, suffix: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"model.{suffix}"
        model.save_model(path)
        return path.read_bytes()


def _read(data: bytes) -> None:
    # what the file does not say decides which way its reader goes: the last byte chooses
    options = LAYERS if data[-1:] > b"\xe0" else NAMED
    read_either(data, options, LIMITS)
