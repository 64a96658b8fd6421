"""Few samples and many are computed in different ways, and must come out alike."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import ndtr
from scipy.stats import norm

from fedpredict.model.activations import Activation, normal_distribution
from fedpredict.model.arrays import Floats, count_up_to
from fedpredict.model.dense import Dense, run_layers
from fedpredict.model.linear import LinearPart
from fedpredict.model.normal import LOWEST, normal_quantile
from fedpredict.model.part import Part
from fedpredict.model.scorecard import FeaturePoints, Interval, ScorecardPart
from fedpredict.model.share import SampleStatus
from fedpredict.model.step import Step, StepKind
from fedpredict.model.steps import StepsPart

MANY = 40_000
"""More than any block of rows, and no multiple of one."""


def _steps(*steps: Step, features: tuple[str, ...] = ("x",)) -> StepsPart:
    outputs = tuple(name for step in steps for name in step.outputs)
    weights = np.linspace(1.0, 2.0, len(outputs))[:, None]
    return StepsPart(features, {}, steps, LinearPart(outputs, weights, None, np.zeros(1)))


def _column(*numbers: float) -> Floats:
    return np.array(numbers)[:, None]


POINTS = {"from": _column(-1.0, 0.0, 0.0, 0.5, 2.0), "to": _column(0.0, 0.2, 0.4, 0.9, 1.0), "margin": _column(1e-7)}
KEYS = {"key": _column(-1.0, 0.0, 2.0), "values": _column(5.0, 6.0, 7.0)}
PARTS: dict[str, Part] = {
    "quantile": _steps(Step(StepKind.QUANTILE, ("x",), ("q",), POINTS)),
    "quantile of one point": _steps(Step(StepKind.QUANTILE, ("x",), ("q",), {n: v[:1] for n, v in POINTS.items()})),
    "normal": _steps(Step(StepKind.NORMAL, ("x",), ("n",))),
    "bins": _steps(Step(StepKind.BINS, ("x",), ("b",), {"edge": _column(-1.0, 0.0, 2.0)})),
    "bins without an edge": _steps(Step(StepKind.BINS, ("x",), ("b",), {"edge": np.empty((0, 1))})),
    "map": _steps(Step(StepKind.MAP, ("x",), ("m",), KEYS, {"unknown": "invalid", "missing": "missing"})),
    "map with all policies": _steps(
        Step(StepKind.MAP, ("x",), ("m",), KEYS | {"unknown": _column(-3.0)}, {"unknown": "value", "missing": "nan"}),
    ),
    "product": _steps(
        Step(StepKind.PRODUCT, ("x", "y"), ("one", "xyy", "just x"), options={"terms": [[], [1, 0, 0], [0]]}),
        features=("y", "z", "x"),
    ),
    "scorecard": ScorecardPart(
        (
            FeaturePoints("a", (Interval(1.0, high=0.0), Interval(2.0, 0.0, 2.0), Interval(4.0, 2.0)), missing=-9.0),
            FeaturePoints("b", (Interval(8.0, -1.0, 0.0), Interval(16.0, 0.5, 2.0, high_closed=True))),
        ),
        np.array([100.0]),
    ),
}


def _values(shape: tuple[int, int]) -> Floats:
    """Numbers of which many stand on edges and keys, and some are missing or infinite."""
    rng = np.random.default_rng(3)
    values = rng.choice([-1.0, 0.0, 0.5, 2.0, 1e-8, math.nan, 1e300, -7.0], size=shape)
    numbers = rng.random(shape) < 0.5
    values[numbers] = rng.normal(size=int(numbers.sum()))
    values[rng.random(shape) < 0.001] = math.inf
    return values


@pytest.mark.parametrize("name", PARTS)
def test_a_sample_alone_gets_what_it_gets_among_many(name: str) -> None:
    part = PARTS[name]
    features = _values((MANY, len(part.features)))

    scores, statuses = part.partial_scores(features), part.statuses(features)

    assert statuses is not None
    for row in range(200):
        alone = features[row : row + 1]
        status = part.statuses(alone)
        assert statuses[row] == (SampleStatus.OK if status is None else status[0])
        if status is None:
            np.testing.assert_allclose(part.partial_scores(alone)[0], scores[row], rtol=1e-14, atol=1e-15)


def test_layers_give_many_rows_what_a_plain_product_gives() -> None:
    rng = np.random.default_rng(4)
    layers = [
        Dense(rng.normal(size=(3, 200)), rng.normal(size=200), Activation.TANH),
        Dense(rng.normal(size=(200, 2)), rng.normal(size=2)),
    ]
    inputs = rng.normal(size=(1_001, 3))

    found = run_layers(layers, inputs)

    expected = np.tanh(inputs @ layers[0].weights + layers[0].bias) @ layers[1].weights + layers[1].bias
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("count", [7, 3_000])
def test_the_normal_distribution_and_its_quantiles_are_scipys(count: int) -> None:
    x = np.linspace(-38.0, 9.0, count)[:, None]
    p = np.linspace(LOWEST, 1.0 - LOWEST, count)[:, None]
    odd = np.array([[math.nan], [-math.inf], [math.inf], [0.0]])

    np.testing.assert_allclose(normal_distribution(x), ndtr(x), rtol=1e-12, atol=1e-300)
    np.testing.assert_allclose(normal_quantile(p), norm.ppf(p), rtol=1e-12, atol=1e-13)
    mixed = np.vstack([odd, x])
    np.testing.assert_array_equal(normal_distribution(mixed)[:4], [[math.nan], [0.0], [1.0], [0.5]])
    np.testing.assert_array_equal(np.isnan(normal_quantile(mixed)), np.isnan(mixed))


@settings(max_examples=30, deadline=None)
@given(
    edges=st.lists(st.sampled_from([-math.inf, -1.5, 0.0, 1e-300, 2.0, 1e300, math.inf]), max_size=70).map(sorted),
    count=st.sampled_from([0, 1, 2_047, 2_048, 16_385]),
)
def test_counting_edges_is_searching_among_them(edges: list[float], count: int) -> None:
    values = np.resize(_values((5_000, 1))[:, 0], count)
    values[np.isnan(values)] = 1.0
    bounds = np.array(edges, dtype=np.float64)

    np.testing.assert_array_equal(count_up_to(bounds, values), np.searchsorted(bounds, values, side="right"))
