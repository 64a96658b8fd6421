"""Files written by old versions of scikit-learn, with those versions' own predictions (see `old_models/make.py`)."""

from __future__ import annotations

import base64
import copy
import functools
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression

from fedpredict.convert.child import read_content
from fedpredict.convert.options import Limits
from fedpredict.errors import ModelFileError, UnsupportedModelError
from fedpredict.model.kinds import Kind, own_link
from fedpredict.model.links import Link
from tests.linear_parts import linear
from tests.unit.convert.support import options_for, predictions_of

FOLDER = Path(__file__).parent / "old_models"
ENTRIES = [
    pytest.param(path, name, id=f"{path.stem}-{name}")
    for path in sorted(FOLDER.glob("*.json"))
    for name in json.loads(path.read_text())
]
KINDS = {
    "two_multinomial": Kind.BINARY,
    "three_auto": Kind.MULTINOMIAL,
    "three_ovr": Kind.ONE_VS_REST,
    "three_liblinear": Kind.ONE_VS_REST,
    "three_sgd": Kind.ONE_VS_REST,
    "linear_two_targets": Kind.LINEAR,
    "two_cv_multinomial": Kind.BINARY,
    "three_cv": Kind.MULTINOMIAL,
    "poisson": Kind.LINEAR,
    "svr": Kind.LINEAR,
    **dict.fromkeys(
        [
            "decision_two_svc",
            "decision_three_svc",
            "decision_two_ridge",
            "decision_three_ridge",
            "decision_two_perceptron",
            "decision_three_hinge",
        ],
        Kind.DECISION,
    ),
}
LOG = {"poisson", "gamma", "tweedie", "tweedie_normal_log"}


def test_there_are_files_of_three_versions() -> None:
    assert len(list(FOLDER.glob("*.json"))) == 3


@pytest.mark.parametrize(("path", "name"), ENTRIES)
def test_an_old_file_predicts_as_its_own_version_did(path: Path, name: str) -> None:
    entry = json.loads(path.read_text())[name]
    features, expected = np.array(entry["features"]), np.array(entry["predictions"])
    expected = expected[:, 1:] if name.startswith("two") else expected

    partial = read_content(base64.b64decode(entry["pickle"]), options_for(features.shape[1]), Limits()).partial

    assert partial.kind is KINDS.get(name, partial.kind)
    assert partial.link == (Link("log") if name in LOG else own_link(partial.kind))
    np.testing.assert_allclose(predictions_of(partial, features), expected, rtol=1e-9, atol=1e-12)


@functools.cache
def fitted(n_classes: int) -> LogisticRegression:
    features, labels = load_iris(return_X_y=True)
    return LogisticRegression(max_iter=1000).fit(features[labels < n_classes], labels[labels < n_classes])


def aged(n_classes: int, version: str, **state: str) -> bytes:
    """A file as an older version would have written it: its version and settings in the state."""
    model = copy.copy(fitted(n_classes))
    model.__dict__.update(state)
    data = pickle.dumps(model, protocol=0)
    return data.replace(b"V1.9.1\n", f"V{version}\n".encode())


@pytest.mark.parametrize(
    ("version", "setting", "solver", "n_classes", "kind", "factor"),
    [
        ("0.22.2", "auto", "lbfgs", 3, Kind.MULTINOMIAL, 1),
        ("0.24.1", "ovr", "lbfgs", 3, Kind.ONE_VS_REST, 1),
        ("1.2.2", "multinomial", "lbfgs", 2, Kind.BINARY, 2),
        ("1.2.2", "warn", "lbfgs", 3, Kind.ONE_VS_REST, 1),
        ("1.5.0", "deprecated", "liblinear", 3, Kind.ONE_VS_REST, 1),
        ("1.5.0", "deprecated", "newton-cholesky", 3, Kind.ONE_VS_REST, 1),
        ("1.6.0", "deprecated", "newton-cholesky", 3, Kind.MULTINOMIAL, 1),
        ("1.7.0", "deprecated", "lbfgs", 2, Kind.BINARY, 1),
        ("1.7.0", "ovr", "lbfgs", 2, Kind.BINARY, 1),
        ("1.8.0", "auto", "lbfgs", 3, Kind.MULTINOMIAL, 1),
    ],
)
def test_multi_class_and_solver_decide_as_in_the_version(  # noqa: PLR0917  one row of the table above
    version: str, setting: str, solver: str, n_classes: int, kind: Kind, factor: int
) -> None:
    model = fitted(n_classes)

    partial = read_content(
        aged(n_classes, version, multi_class=setting, solver=solver), options_for(4), Limits()
    ).partial

    assert partial.kind is kind
    assert (linear(partial.part).weights == factor * model.coef_.T).all()
    assert partial.part.intercept is not None
    assert (partial.part.intercept == factor * model.intercept_).all()


@pytest.mark.parametrize(
    ("version", "setting", "n_classes", "told"),
    [
        ("1.9.1", "multinomial", 2, "original file"),
        ("1.8.0", "ovr", 3, "original file"),
        ("1.5.0", "crammer_singer", 3, "crammer_singer"),
    ],
)
def test_what_no_version_would_predict_alike_is_refused(version: str, setting: str, n_classes: int, told: str) -> None:

    with pytest.raises(UnsupportedModelError, match=told):
        read_content(aged(n_classes, version, multi_class=setting), options_for(4), Limits())


def test_an_old_file_without_its_setting_is_damaged() -> None:

    with pytest.raises(ModelFileError, match="lacks multi_class"):
        read_content(aged(3, "1.5.0"), options_for(4), Limits())
