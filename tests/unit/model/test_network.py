"""Networks in process: the published definitions' numbers, and a status where there is none."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pytest
import scipy.special

from fedpredict.model.activations import Activation, activate, normal_distribution
from fedpredict.model.arrays import Floats
from fedpredict.model.dense import Dense, absolute_terms, run_layers
from fedpredict.model.network import Embedding, NetworkPart
from fedpredict.model.share import SampleStatus
from tests.network_parts import FORMULAS, chain, mixed_part, numeric_part, written_out

SUMS = np.concatenate([np.linspace(-45, 45, 1801), [1e-300, -1e-300, 1e-9, -1e-9, 0.0, 700.0, -700.0, 1e100, -1e100]])


@pytest.mark.parametrize("name", [each for each in Activation if each is not Activation.SOFTMAX])
def test_an_activation_is_its_definition(name: Activation) -> None:
    sums = SUMS.reshape(-1, 1)

    with np.errstate(all="ignore"):
        expected = np.asarray(FORMULAS[name](sums))

    found = activate(name, sums, 0.125)
    # the tanh form of gelu cancels in its definition, ours does not
    allowed = 1e-16 * np.abs(sums) if name is Activation.GELU_TANH else 0.0
    assert (np.abs(found - expected) <= 1e-14 * np.abs(expected) + allowed + 1e-300).all()


@pytest.mark.parametrize("name", list(Activation))
def test_an_activation_neither_warns_nor_hides_a_number_that_is_none(name: Activation) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = activate(name, np.array([[np.inf, 1.0], [-np.inf, 1.0], [np.nan, 1.0], [1e308, -1e308]]), 0.125)

    assert np.isnan(found[2, 0])
    assert np.isfinite(found[3]).all()


def test_softmax_is_stable_and_sums_to_one() -> None:
    found = activate(Activation.SOFTMAX, np.array([[1e4, 1e4, -1e4], [0.0, np.log(3.0), -np.inf]]))

    assert found == pytest.approx(np.array([[0.5, 0.5, 0.0], [0.25, 0.75, 0.0]]))


def test_the_normal_distribution_function_has_scipys_digits_in_both_tails() -> None:
    x = np.linspace(-37, 9, 20_001)
    expected = scipy.special.ndtr(x)

    assert (np.abs(normal_distribution(x) - expected) <= 2e-14 * expected).all()


@pytest.mark.parametrize("name", [each.value for each in Activation])
def test_a_network_is_its_layers_written_out(name: str) -> None:
    part = numeric_part((6, 5, 4, 3), (name, name, "identity"), np.array([0.5, -1.0, 2.0]))
    features = np.random.default_rng(1).normal(size=(50, 6))

    found = part.partial_scores(features)

    assert (np.abs(found - written_out(part, features)) <= 1e-14 * part.magnitudes(features)).all()
    assert part.n_scores == 3
    assert part.statuses(features) is None


def test_magnitudes_are_the_absolute_terms_of_the_last_layer_and_the_intercept() -> None:
    first = Dense(np.array([[2.0, -1.0]]), np.array([-1.0, 0.0]), Activation.RELU)
    last = Dense(np.array([[3.0], [-4.0]]), np.array([-5.0]))
    part = NetworkPart(("a",), {}, {}, (first, last), np.array([-7.0]))

    assert part.magnitudes(np.array([[2.0], [-2.0]])).tolist() == [[3 * 3.0 + 5.0 + 7.0], [2 * 4.0 + 5.0 + 7.0]]
    assert part.partial_scores(np.array([[2.0], [-2.0]])).tolist() == [[9.0 - 5.0 - 7.0], [-8.0 - 5.0 - 7.0]]


def test_a_chain_of_layers_serves_any_matrix_of_inputs() -> None:
    layers = chain(np.random.default_rng(0), (3, 2), ("tanh",))
    inputs = np.ones((4, 3))

    assert run_layers((), inputs) is inputs
    assert run_layers(layers, inputs).shape == absolute_terms(layers, inputs).shape == (4, 2)


def test_a_category_goes_in_as_its_vector() -> None:
    part = mixed_part()
    colour, region = part.embeddings["colour"], part.embeddings["region"]
    assert colour.unknown is not None
    rows = np.array([[0.5, 1.0, 3.0, 2.0], [0.5, -1.0, 0.0, 2.0], [0.5, 2.0, -0.0, 2.0]])
    inputs = np.array(
        [
            [0.5, *colour.vectors[1], *region.vectors[3], 2.0],
            [0.5, *colour.unknown, *region.vectors[0], 2.0],
            [0.5, *colour.vectors[2], *region.vectors[0], 2.0],
        ]
    )

    assert part.partial_scores(rows) == pytest.approx(written_out(part, inputs), abs=1e-14)
    assert part.statuses(rows) is None


def test_what_cannot_be_scored_has_a_status() -> None:
    nan, inf = np.nan, np.inf
    cases: dict[str, tuple[list[float], SampleStatus]] = {
        "good": ([1.0, 0.0, 0.0, 1.0], SampleStatus.OK),
        "a missing number": ([nan, 0.0, 0.0, 1.0], SampleStatus.FEATURE_MISSING),
        "a missing text": ([1.0, nan, 0.0, 1.0], SampleStatus.FEATURE_MISSING),
        "a missing category": ([1.0, 0.0, nan, 1.0], SampleStatus.FEATURE_MISSING),
        "an infinite number": ([1.0, 0.0, 0.0, -inf], SampleStatus.FEATURE_INVALID),
        "an infinite category": ([1.0, 0.0, inf, 1.0], SampleStatus.FEATURE_INVALID),
        "an unknown text": ([1.0, -1.0, 0.0, 1.0], SampleStatus.FEATURE_INVALID),
        "a category too large": ([1.0, 0.0, 4.0, 1.0], SampleStatus.FEATURE_INVALID),
        "a negative category": ([1.0, 0.0, -1.0, 1.0], SampleStatus.FEATURE_INVALID),
        "half a category": ([1.0, 0.0, 0.5, 1.0], SampleStatus.FEATURE_INVALID),
        "unknown and missing": ([nan, -1.0, 0.0, 1.0], SampleStatus.FEATURE_INVALID),
    }

    statuses = mixed_part(unknown=False).statuses(np.array([row for row, _ in cases.values()]))

    assert statuses is not None
    assert dict(zip(cases, map(SampleStatus, statuses), strict=True)) == {
        name: each for name, (_, each) in cases.items()
    }


def test_an_unknown_category_with_a_vector_is_scored_but_an_infinite_one_is_not() -> None:
    embedding = Embedding(np.ones((2, 1)), np.array([5.0]))
    part = NetworkPart(("c",), {}, {"c": embedding}, (Dense(np.ones((1, 1)), np.zeros(1)),), None)
    rows = np.array([[7.0], [1.0], [0.25], [np.inf], [np.nan]])

    statuses = part.statuses(rows)

    assert statuses is not None
    assert [SampleStatus(each).name for each in statuses] == ["OK"] * 3 + ["FEATURE_INVALID", "FEATURE_MISSING"]
    assert part.partial_scores(rows)[:3].ravel().tolist() == [5.0, 1.0, 5.0]


def test_no_rows_have_no_scores() -> None:
    assert mixed_part().partial_scores(np.zeros((0, 4))).shape == (0, 2)


def _layer(n_inputs: int, n_units: int, value: float = 1.0) -> Dense:
    return Dense(np.full((n_inputs, n_units), value), np.zeros(n_units))


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ((), "without a layer"),
        ((_layer(3, 1),), "layer 1 takes 3 inputs, but the features give 2"),
        ((_layer(2, 4), _layer(3, 1)), "layer 2 takes 3 inputs, but layer 1 gives 4"),
    ],
)
def test_layers_that_do_not_chain_are_refused_by_number(layers: tuple[Dense, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NetworkPart(("a", "b"), {}, {}, layers, None)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_parameters_that_are_no_numbers_are_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="NaN or infinite"):
        _layer(1, 1, bad)
    with pytest.raises(ValueError, match="NaN or infinite"):
        Dense(np.ones((1, 1)), np.array([bad]))
    with pytest.raises(ValueError, match="NaN or infinite"):
        Dense(np.ones((1, 1)), np.zeros(1), Activation.LEAKY_RELU, bad)
    with pytest.raises(ValueError, match="NaN or an infinity"):
        Embedding(np.array([[bad]]))
    with pytest.raises(ValueError, match="NaN or infinite"):
        numeric_part((1, 1), ("identity",), np.array([bad]))


def test_what_does_not_fit_together_is_refused() -> None:
    part = mixed_part()
    refused = {
        "repeated feature names": {"features": ("age", "age", "region", "income")},
        "3 vectors for its categories": {"categories": {"colour": ("red", "blue")}},
        "an embedding of a feature": {"features": ("age", "hue", "region", "income")},
        "or a text feature without one": {"categories": {**part.categories, "age": ("1",)}},
        "an intercept of shape": {"intercept": np.zeros(3)},
    }
    for message, changes in refused.items():
        with pytest.raises(ValueError, match=message):
            replace(part, **changes)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="which has none"):
        Dense(np.ones((1, 1)), np.zeros(1), Activation.RELU, 0.5)
    with pytest.raises(ValueError, match="features of shape"):
        part.partial_scores(np.zeros((1, 3)))


def test_overflows_in_hidden_layers_neither_warn_nor_hide() -> None:
    part = NetworkPart(("a",), {}, {}, (_layer(1, 2, 1e300), _layer(2, 1, 1e300)), None)
    features: Floats = np.array([[1e300], [1.0]])

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = part.partial_scores(features)
        part.magnitudes(features)

    assert not np.isfinite(found).any()


def test_memory_is_that_of_the_arrays() -> None:
    part = numeric_part((4, 3, 1), ("relu", "identity"), np.zeros(1))

    assert part.n_bytes == 8 * (4 * 3 + 3 + 3 + 1 + 1)
