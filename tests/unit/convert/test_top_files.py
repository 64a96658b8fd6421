"""Top models of PyTorch, safetensors and scikit-learn under the parties' bottoms (see `torch_models/make_split.py`)."""

from __future__ import annotations

import base64
import functools
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures, StandardScaler

from fedpredict.convert.child import read_content, read_either
from fedpredict.convert.head_form import HeadReading
from fedpredict.convert.options import Limits, ReadOptions
from fedpredict.errors import ConversionError, ModelConflictError, ModelFileError, UnsupportedModelError
from fedpredict.model.arrays import Floats
from fedpredict.model.combination import combination_of
from fedpredict.model.combine import combine
from fedpredict.model.head import HeadModel
from fedpredict.model.kinds import Kind
from fedpredict.model.share import SampleStatus, build_share

PATH = next((Path(__file__).parent / "torch_models").glob("split-*.json"))
PARTIES = ("bank", "lab")


@functools.cache
def stored() -> dict[str, Any]:
    return dict(json.loads(PATH.read_text()))


def file_of(entry: str, name: str, kind: str) -> bytes:
    return base64.b64decode(stored()[entry]["files"][name][kind])


def options(party: str, layers: object = None, **changes: Any) -> ReadOptions:
    given = {"model_id": "m", "training_run": "run-1", "party": party, **changes}
    return ReadOptions(layers=None if layers is None else json.dumps(layers), **given)


def head_of(data: bytes, layers: object, **changes: Any) -> HeadModel:
    reading = read_either(data, options("bank", layers, **changes), Limits())
    assert isinstance(reading, HeadReading)
    return reading.head


@pytest.mark.parametrize("kind", ["pt", "safetensors"])
@pytest.mark.parametrize("entry", ["top_concat", "top_sum"])
def test_bottoms_and_top_give_pytorchs_probabilities(entry: str, kind: str) -> None:
    layers = stored()[entry]["layers"]
    head = head_of(file_of(entry, "top", kind), layers["top"])
    shares = {}
    for party in PARTIES:
        partial = read_content(file_of(entry, party, kind), options(party, layers[party]), Limits()).partial
        assert combination_of(partial.part) == head.head.combination
        assert (partial.kind, partial.classes, partial.link) == (head.kind, head.classes, head.link)
        rows = np.array(stored()["inputs"][party])
        shares[party] = build_share(partial.part.partial_scores(rows), np.full(len(rows), SampleStatus.OK, np.uint8))

    found = combine(head.link, shares, head.head).predictions

    float64, float32 = (np.array(stored()[entry][name]) for name in ("float64", "float32"))
    np.testing.assert_allclose(found, float64, rtol=1e-12)
    np.testing.assert_allclose(found, float32, rtol=1e-5, atol=1e-6)
    assert head.metadata == {"source": "PyTorch state dict" if kind == "pt" else "safetensors"}


TENSORS = {"0.weight": np.array([[1.0, -2.0, 0.5]]), "0.bias": np.array([0.25])}
TOP: dict[str, Any] = {
    "format": "fedpredict-layers-1",
    "kind": "binary",
    "classes": ["no", "yes"],
    "combining": "top_concat",
    "structure": "s",
    "parties": ["bank", "lab"],
    "widths": [2, 1],
    "layers": [{"linear": "0"}],
}


def without(key: str) -> dict[str, Any]:
    return {name: value for name, value in TOP.items() if name != key}


@pytest.mark.parametrize(
    ("layers", "told"),
    [
        (without("widths"), "widths is not a list"),
        (without("parties"), "parties is not a list"),
        (without("combining"), "needs combining: one of top_sum, top_concat"),
        (without("structure"), "needs structure"),
        (without("kind"), "needs a kind"),
        ({**TOP, "structure": "s\ud800"}, "half a character"),
        ({**TOP, "combining": "leaf_masks"}, "needs combining"),
        ({**TOP, "widths": [2, 2]}, "layer 1 takes 3 inputs, but the embeddings give 4"),
        ({**TOP, "widths": [3]}, "2 parties with embeddings of widths"),
        ({**TOP, "widths": [3, 0]}, "widths is not a whole number"),
        ({**TOP, "parties": ["bank", "bank"]}, "or with one twice"),
        ({**TOP, "parties": [], "widths": []}, "without parties"),
        ({**TOP, "combining": "top_sum"}, "cannot be added up"),
        ({**TOP, "inputs": ["age"]}, "of a top model, which has no inputs"),
        ({**TOP, "intercept": "joint"}, "of a top model, which has no intercept"),
        ({**TOP, "n_scores": 3}, "of a top model, which has no n_scores"),
        ({**TOP, "kind": "multinomial", "classes": ["a", "b"]}, "needs 2 scores a sample, not 1"),
        ({**TOP, "layers": [{"linear": "0"}, {"activation": "sigmoid"}]}, "leave it out"),
        ({**TOP, "layers": [{"linear": "1"}]}, "no tensor '1.weight'"),
        ({**TOP, "layers": [{"batch_norm": "0"}, {"linear": "0"}]}, "0.running_mean"),
    ],
)
def test_a_top_model_that_does_not_fit_is_refused(layers: dict[str, Any], told: str) -> None:
    with pytest.raises(ModelFileError, match=told):
        head_of(save(TENSORS), layers)


@pytest.mark.parametrize("changes", [{"features": ("a",)}, {"holds_intercept": True}, {"offset": "age"}])
def test_a_top_model_has_neither_features_nor_an_intercept(changes: dict[str, Any]) -> None:
    with pytest.raises(ModelConflictError, match="leave those options out"):
        head_of(save(TENSORS), TOP, **changes)


def test_a_top_model_is_no_partys_part() -> None:
    with pytest.raises(ModelConflictError, match="for the initiator alone"):
        read_content(save(TENSORS), options("lab", TOP), Limits())


BELOW = {name: TOP[name] for name in ("format", "combining", "structure", "parties", "widths")}
RANDOM = np.random.default_rng(5)
EMBEDDINGS: Floats = RANDOM.normal(2.0, 3.0, (150, 3))
LABELS = np.array(["a", "b", "c"])[np.argmax(EMBEDDINGS + RANDOM.normal(size=EMBEDDINGS.shape), axis=1)]


def shares_of(embeddings: Floats) -> dict[str, Any]:
    """The embeddings of bank and lab, the latter's behind its one number as wide as the other's."""
    ok = np.full(len(embeddings), SampleStatus.OK, np.uint8)
    lab = np.column_stack([embeddings[:, 2], np.zeros(len(embeddings))])
    return {"bank": build_share(np.ascontiguousarray(embeddings[:, :2]), ok), "lab": build_share(lab, ok)}


QUICK: dict[str, Any] = {"hidden_layer_sizes": (5, 4), "max_iter": 30, "random_state": 0, "tol": 10.0}


@pytest.mark.parametrize(
    ("model", "target", "kind"),
    [
        (MLPClassifier(activation="tanh", **QUICK), LABELS, Kind.MULTINOMIAL),
        (MLPClassifier(**QUICK), LABELS == "a", Kind.BINARY),
        (make_pipeline(StandardScaler(), MLPClassifier(**QUICK)), LABELS, Kind.MULTINOMIAL),
        (MLPRegressor(activation="logistic", **QUICK), EMBEDDINGS @ [1.0, -1.0, 0.5], Kind.LINEAR),
    ],
)
def test_a_perceptron_of_scikit_learn_is_a_top_model(model: Any, target: Any, kind: Kind) -> None:
    model.fit(EMBEDDINGS, target)

    head = head_of(pickle.dumps(model), BELOW)

    assert head.kind is kind
    found = combine(head.link, shares_of(EMBEDDINGS), head.head).predictions
    expected = model.predict(EMBEDDINGS)[:, None] if kind is Kind.LINEAR else model.predict_proba(EMBEDDINGS)
    np.testing.assert_allclose(found, expected[:, 1:] if kind is Kind.BINARY else expected, rtol=1e-9, atol=1e-12)
    assert "scikit-learn" in head.metadata["source"]


@pytest.fixture(scope="module")
def perceptron() -> MLPClassifier:
    return MLPClassifier(**QUICK).fit(EMBEDDINGS, LABELS)


@pytest.mark.parametrize(
    ("layers", "told"),
    [
        ({**BELOW, "kind": "binary"}, "says kind, which a file of scikit-learn says itself"),
        ({**BELOW, "layers": [{"linear": "0"}]}, "says layers, which a file of scikit-learn says itself"),
        ({**BELOW, "width": [2]}, "did you mean 'widths'"),
        ({**BELOW, "format": "?"}, "needs format"),
        ({**BELOW, "widths": [2, 2]}, "layer 1 takes 3 inputs, but the embeddings give 4"),
    ],
)
def test_what_is_below_a_perceptron_must_fit(perceptron: MLPClassifier, layers: dict[str, Any], told: str) -> None:
    with pytest.raises(ModelFileError, match=told):
        head_of(pickle.dumps(perceptron), layers)


@pytest.mark.parametrize(
    ("make", "error", "told"),
    [
        (lambda: LogisticRegression().fit(EMBEDDINGS, LABELS), UnsupportedModelError, "MLPClassifier and MLPRegressor"),
        (MLPClassifier, UnsupportedModelError, "not fitted"),
        (
            lambda: make_pipeline(PolynomialFeatures(), MLPClassifier(**QUICK)).fit(EMBEDDINGS, LABELS),
            UnsupportedModelError,
            "PolynomialFeatures",
        ),
        (lambda: {"format": "fedpredict-head-1"}, ModelConflictError, "this is neither"),
    ],
)
def test_another_model_of_scikit_learn_is_no_top_model(make: Any, error: type[ConversionError], told: str) -> None:
    with pytest.raises(error, match=told):
        head_of(pickle.dumps(make()), BELOW)
