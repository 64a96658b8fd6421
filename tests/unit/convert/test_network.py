"""Networks as portable dicts, from scikit-learn, and cut into parties' parts."""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_diabetes, load_iris
from sklearn.neural_network import BernoulliRBM, MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, Normalizer, StandardScaler

from fedpredict.convert.child import read_content
from fedpredict.convert.network_form import network_from_plain, network_to_plain
from fedpredict.convert.options import Limits, ReadOptions
from fedpredict.convert.portable import from_portable, parse_json, to_json
from fedpredict.convert.simulate import simulate
from fedpredict.convert.split import split_model
from fedpredict.errors import FedPredictError, ModelConflictError, ModelFileError, UnsupportedModelError
from fedpredict.model.activations import Activation
from fedpredict.model.arrays import Floats
from fedpredict.model.dense import Dense
from fedpredict.model.kinds import Kind
from fedpredict.model.network import Embedding, NetworkPart
from fedpredict.model.partial import PartialModel, VerificationRows, largest_difference
from tests.network_parts import mixed_part, numeric_part
from tests.unit.convert.support import expected_of, options_for, predictions_of, read_estimator

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
IRIS, SPECIES = load_iris(return_X_y=True)
DIABETES, PROGRESS = load_diabetes(return_X_y=True)


def network(value: object) -> NetworkPart:
    assert isinstance(value, NetworkPart)
    return value


def partial_of(part: NetworkPart, **changes: Any) -> PartialModel:
    given: dict[str, Any] = {"kind": Kind.LINEAR, "classes": (), "fit_intercept": part.intercept is not None}
    return PartialModel("m", "run", "joint", part=part, **{**given, **changes})


@pytest.mark.parametrize("activation", ["identity", "logistic", "tanh", "relu"])
@pytest.mark.parametrize("hidden", [(), (5,), (6, 4)])
def test_a_classifier_of_scikit_learn_predicts_its_probabilities(activation: str, hidden: tuple[int, ...]) -> None:
    for labels, kind in ((SPECIES, Kind.MULTINOMIAL), (SPECIES > 1, Kind.BINARY)):
        model = MLPClassifier(hidden, activation=activation, max_iter=20, random_state=0).fit(IRIS, labels)

        partial = read_estimator(model).partial

        assert partial.kind is kind
        assert partial.classes == tuple(map(str, model.classes_.tolist()))
        assert partial.holds_intercept
        assert np.abs(predictions_of(partial, IRIS) - expected_of(model, IRIS)).max() <= 1e-12


@pytest.mark.parametrize("loss", ["squared_error", "poisson"])
def test_a_regressor_of_scikit_learn_predicts_its_numbers(loss: str) -> None:
    model = make_pipeline(
        StandardScaler(),
        MinMaxScaler(),
        MLPRegressor(hidden_layer_sizes=(8, 3), loss=loss, max_iter=30, random_state=0),
    ).fit(DIABETES, PROGRESS)

    partial = read_estimator(model).partial

    assert str(partial.link) == ("log" if loss == "poisson" else "identity")
    expected = expected_of(model, DIABETES)
    assert np.abs(predictions_of(partial, DIABETES) - expected).max() <= 1e-9 * np.abs(expected).max()


def test_several_targets_are_several_outputs() -> None:
    model = MLPRegressor(max_iter=5, random_state=0)
    model.fit(DIABETES, np.c_[PROGRESS, PROGRESS / 2])

    assert predictions_of(read_estimator(model).partial, DIABETES) == pytest.approx(model.predict(DIABETES))


def test_the_last_bias_is_the_intercept_unless_another_party_holds_it() -> None:
    model = MLPRegressor(hidden_layer_sizes=(3,), max_iter=5, random_state=0).fit(DIABETES, PROGRESS)

    ours, theirs = (network(read_estimator(model, holds_intercept=holds).partial.part) for holds in (True, False))

    assert ours.intercept is not None
    assert theirs.intercept is None
    assert np.array_equal(ours.intercept, theirs.layers[-1].bias)
    assert np.array_equal(ours.partial_scores(DIABETES), theirs.partial_scores(DIABETES))
    with pytest.raises(ModelConflictError, match="has a last bias"):
        read_estimator(model, fit_intercept=False)


def test_what_no_network_can_serve_is_refused_by_name() -> None:
    several = MLPClassifier(max_iter=2).fit(IRIS, np.c_[SPECIES > 0, SPECIES > 1])
    scaled = make_pipeline(Normalizer(), MLPRegressor(max_iter=2)).fit(IRIS, SPECIES)
    machine = BernoulliRBM(n_iter=1).fit(IRIS > 2)
    unfitted = MLPClassifier()
    unfitted.n_features_in_ = 4
    for model, message in (
        (several, "train one model for each"),
        (scaled, "Normalizer"),
        (machine, "BernoulliRBM is not served"),
        (unfitted, "not fitted"),
    ):
        with pytest.raises(UnsupportedModelError, match=message):
            read_estimator(model)


def _damaged(change: Any) -> MLPRegressor:
    model = MLPRegressor(hidden_layer_sizes=(3,), max_iter=2, random_state=0).fit(IRIS, SPECIES)
    change(model)
    return model


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda model: model.coefs_.pop(), "1 layers of coefficients and 2"),
        (lambda model: setattr(model, "coefs_", [model.coefs_[0], model.coefs_[1][:2]]), "layer 2 takes 2 inputs"),
        (lambda model: model.coefs_[0].__setitem__((0, 0), np.nan), "NaN or infinite"),
        (lambda model: model.intercepts_[1].__setitem__(0, np.inf), "NaN or infinite"),
        (lambda model: setattr(model, "activation", "swish"), "'swish'"),
        (lambda model: setattr(model, "out_activation_", "sine"), "'sine'"),
        (lambda model: setattr(model, "coefs_", "none"), "not a list"),
    ],
)
def test_a_damaged_perceptron_is_refused(change: Any, message: str) -> None:
    with pytest.raises(FedPredictError, match=message):
        read_estimator(_damaged(change))


@pytest.mark.parametrize(
    "part", [mixed_part(), mixed_part(False, np.array([0.1, -0.0])), numeric_part((2, 3, 1), ("leaky_relu", "tanh"))]
)
def test_the_portable_form_comes_back_bit_by_bit(part: NetworkPart) -> None:
    rows = np.array([[0.1, 1.0, 2.0, 0.3], [1 / 3, 0.0, 3.0, 5e-324]])[:, : len(part.features)]
    partial = partial_of(part, verification=VerificationRows(rows, part.partial_scores(rows)))

    for back in (from_portable(parse_json(to_json(partial))), _through_a_pickle(partial)):
        found = network(back.part)
        assert found.features == part.features
        assert found.categories == part.categories
        assert network_to_plain(found) == network_to_plain(part)
        assert found.partial_scores(rows).tobytes() == part.partial_scores(rows).tobytes()
        assert back.verification is not None
        assert back.verification.features.tobytes() == rows.tobytes()
        assert largest_difference(back) == (0.0, 0.0)


def _through_a_pickle(partial: PartialModel) -> PartialModel:
    return read_content(pickle.dumps(json.loads(to_json(partial))), ReadOptions(), Limits()).partial


GOOD: dict[str, Any] = {
    "features": ["a", "b"],
    "layers": [{"weights": [[1.0], [2.0]], "bias": 0.5, "activation": "relu"}, {"weights": [[3.0]]}],
}


def test_a_hand_written_network_needs_no_more_than_weights() -> None:
    part = network_from_plain(GOOD, ReadOptions())

    assert part.partial_scores(np.array([[1.0, 1.0], [-1.0, 0.0]])).tolist() == [[10.5], [0.0]]
    assert network_from_plain({"layers": GOOD["layers"]}, options_for(2)).features == ("f0", "f1")


LAYER = GOOD["layers"][0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layers": []}, "needs layers"),
        ({"layers": [LAYER, {"weights": [[1.0], [1.0]]}]}, "layer 1 gives 1 numbers, but layer 2 takes 2"),
        ({"layers": [{**LAYER, "activation": "swish"}]}, "layer 1 has the unknown activation 'swish'"),
        ({"layers": [{**LAYER, "weights": [[1.0], [float("nan")]]}]}, "NaN"),
        ({"layers": [{**LAYER, "weights": [[1.0, 2.0], [1.0]]}]}, "different lengths"),
        ({"layers": [{**LAYER, "bias": [1.0, 2.0]}]}, "2 numbers"),
        ({"layers": [{**LAYER, "activation": "leaky_relu"}]}, "needs its slope"),
        ({"layers": [{**LAYER, "slope": 0.1}]}, "no other activation"),
        ({"layers": [{**LAYER, "bais": 1.0}]}, "did you mean 'bias'"),
        ({"layers": "none"}, "needs layers"),
        ({"features": ["a", "b", "c"]}, "layer 1 takes 2 inputs, but the features give 3"),
        ({"intercept": [1.0, 2.0]}, "intercept has 2 numbers"),
        ({"embeddings": {"a": {"vectors": [[1.0, 2.0]]}}}, "the features give 3"),
        ({"embeddings": {"c": {"vectors": [[1.0]]}}}, "an embedding of a feature that there is not"),
        ({"embeddings": {"a": {"vectors": [[1.0]], "categories": ["x", "y"]}}}, "1 vectors for its categories"),
        ({"embeddings": {"a": {"vectors": []}}}, "an embedding of shape"),
        ({"embeddings": {"a": {"vectors": [[1.0]], "unknown": [1.0, 2.0]}}}, "unknown has 2 numbers"),
    ],
)
def test_a_portable_network_that_does_not_fit_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(FedPredictError, match=message):
        network_from_plain({**GOOD, **changes}, ReadOptions())


def block_wise(parties: Mapping[str, int], random: np.random.Generator, n_constants: int = 1) -> NetworkPart:
    """A joint network in which every hidden unit reads features of one party only; parties -> numbers of features."""
    n_features, n_units = sum(parties.values()), 3 * len(parties) + n_constants
    first, second = np.zeros((n_features, n_units)), np.zeros((n_units, n_units))
    start = 0
    for at, count in enumerate(parties.values()):
        units = slice(3 * at, 3 * at + 3)
        first[start : start + count, units] = random.normal(size=(count, 3))
        second[units, units] = random.normal(size=(3, 3))
        second[n_units - n_constants :, units] = random.normal(size=(n_constants, 3))
        start += count
    layers = (
        Dense(first, random.normal(size=n_units), Activation.TANH),
        Dense(second, random.normal(size=n_units), Activation.RELU),
        Dense(random.normal(size=(n_units, 2)), random.normal(size=2)),
    )
    return NetworkPart(tuple(f"f{at}" for at in range(n_features)), {}, {}, layers, random.normal(size=2))


def assert_adds_up(joint: NetworkPart, parties: Mapping[str, list[str]], holder: str | None, rows: Floats) -> None:
    partial = partial_of(joint)

    parts = split_model(partial, parties, holder, rows=rows)

    assert [name for name, part in parts.items() if part.holds_intercept] == ([] if holder is None else [holder])
    report = simulate(parts, partial, rows, joint.features)
    assert report.n_scored == len(rows)
    assert report.largest_relative <= 1e-12


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 3), min_size=1, max_size=5), st.integers(0, 2), st.integers(0, 2**32 - 1), st.data())
def test_a_block_wise_network_is_cut_exactly(
    counts: list[int], n_constants: int, seed: int, data: st.DataObject
) -> None:
    random = np.random.default_rng(seed)
    sizes = {f"party-{at}": count for at, count in enumerate(counts)}
    joint = block_wise(sizes, random, n_constants)
    starts = np.cumsum([0, *counts])
    parties = {
        party: data.draw(st.permutations(joint.features[starts[at] : starts[at + 1]])) for at, party in enumerate(sizes)
    }
    holder = data.draw(st.sampled_from(sorted(parties)))

    assert_adds_up(joint, parties, holder, random.normal(size=(20, sum(counts))))


@settings(max_examples=15, deadline=None)
@given(st.permutations(["f0", "f1", "f2", "f3"]), st.integers(1, 3), st.integers(0, 2**32 - 1))
def test_a_network_without_hidden_layers_is_cut_anywhere(names: list[str], at: int, seed: int) -> None:
    joint = numeric_part((4, 3), ("identity",), np.ones(3), seed)

    assert_adds_up(joint, {"a": names[:at], "b": names[at:]}, "b", np.random.default_rng(seed).normal(size=(10, 4)))


def test_embeddings_go_with_their_features() -> None:
    random = np.random.default_rng(5)
    embedding = Embedding(random.normal(size=(3, 2)), random.normal(size=2))
    layers = (Dense(random.normal(size=(4, 2)), np.array([0.5, -0.5])),)
    joint = NetworkPart(("a", "c", "d"), {"c": ("x", "y", "z")}, {"c": embedding}, layers, None)
    rows = np.array([[0.5, 2.0, 1.0], [1.5, -1.0, 2.0]])

    assert_adds_up(joint, {"one": ["d", "a"], "two": ["c"]}, None, rows)

    parts = split_model(partial_of(joint), {"one": ["d", "a"], "two": ["c"]}, None)
    assert parts["two"].part.categories == {"c": ("x", "y", "z")}
    assert parts["one"].part.categories == {}


def test_a_party_whose_features_do_not_matter_has_a_share_of_zero() -> None:
    joint = block_wise({"a": 2, "b": 1}, np.random.default_rng(3))
    first = joint.layers[0]
    silent = replace(joint, layers=(replace(first, weights=first.weights * [[1.0], [1.0], [0.0]]), *joint.layers[1:]))
    rows = np.random.default_rng(4).normal(size=(5, 3))

    parts = split_model(partial_of(silent), {"a": ["f0", "f1"], "b": ["f2"]}, "a")

    assert parts["b"].part.partial_scores(rows[:, 2:]).tolist() == [[0.0, 0.0]] * 5
    assert_adds_up(silent, {"a": ["f0", "f1"], "b": ["f2"]}, "a", rows)


def test_a_hidden_unit_of_two_parties_is_named() -> None:
    joint = numeric_part((3, 4, 1), ("relu", "identity"))

    with pytest.raises(ModelConflictError, match=r"unit 0 of layer 1 .* mixes features of the parties 'a', 'b'"):
        split_model(partial_of(joint), {"a": ["f0", "f1"], "b": ["f2"]}, None)
    assert_adds_up(joint, {"a": ["f2", "f0", "f1"]}, None, np.ones((2, 3)))


def test_a_softmax_within_mixes_all_units_of_its_layer() -> None:
    joint = block_wise({"a": 1, "b": 1}, np.random.default_rng(0), 0)
    layers = (replace(joint.layers[0], activation=Activation.SOFTMAX), *joint.layers[1:])

    with pytest.raises(ModelConflictError, match="unit 0 of layer 1"):
        split_model(partial_of(replace(joint, layers=layers)), {"a": ["f0"], "b": ["f1"]}, "a")


def test_behind_a_last_activation_nothing_can_be_added_up() -> None:
    joint = numeric_part((2, 1), ("sigmoid",))

    with pytest.raises(ModelConflictError, match="ends with sigmoid"):
        split_model(partial_of(joint), {"a": ["f0"], "b": ["f1"]}, None)


def test_a_file_that_is_too_large_is_refused_with_its_limit() -> None:
    with pytest.raises(ModelFileError, match="more than 100 bytes"):
        read_content(pickle.dumps(MLPRegressor(max_iter=2).fit(IRIS, SPECIES)), options_for(4), Limits(array_bytes=100))
