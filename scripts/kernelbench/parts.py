"""Families that numpy computes: linear parts, networks, scorecards, preprocessing."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from fedpredict.model.activations import Activation
from fedpredict.model.arrays import Floats
from fedpredict.model.dense import Dense
from fedpredict.model.linear import LinearPart
from fedpredict.model.network import NetworkPart
from fedpredict.model.ordinal import cumulative_logit
from fedpredict.model.part import Part
from kernelbench.measure import Effort, Fields, Scorer, beside, columns, names, one_row
from kernelbench.models import fitted, read_estimator, read_portable

ROWS = 100_000
N_POINTS = 20
"""Features of the scorecard."""


def linear(effort: Effort) -> Iterator[Fields]:
    """`LinearPart` beside numpy's product."""
    rng = np.random.default_rng(1)
    features, weights = rng.normal(size=(1_000_000, 100)), rng.normal(size=(100, 1))
    part = linear_part(weights)
    yield beside(effort, part.partial_scores, lambda rows: rows @ weights, features, 0.8) | one_row(
        effort, part, lambda rows: rows @ weights, features
    )


def linear_part(weights: Floats) -> LinearPart:
    """Return a part with weights alone."""
    return LinearPart(names(len(weights)), weights, None, np.zeros(weights.shape[1]))


def network(effort: Effort) -> Iterator[Fields]:
    """`NetworkPart`, 100 -> 256 -> 64 -> 1: beside scikit-learn's predict, and beside plain numpy."""
    from sklearn.neural_network import MLPRegressor  # noqa: PLC0415  not in the process whose memory is measured

    features = np.random.default_rng(6).normal(size=(ROWS, 100))
    trained = fitted(MLPRegressor(hidden_layer_sizes=(256, 64), activation="relu", max_iter=3), features)
    yield {"activation": "relu", "beside": "scikit-learn"} | _measured(
        effort, read_estimator(trained, 100), trained.predict, features
    )
    for activation, plain in _plain_activations().items():
        part = network_part(activation)
        yield {"activation": activation.value, "beside": "numpy"} | _measured(
            effort, part, _plain_network(part, plain), features
        )


def network_part(activation: Activation) -> NetworkPart:
    """Return a network 100 -> 256 -> 64 -> 1 of random weights."""
    rng = np.random.default_rng(7)
    widths = (100, 256, 64, 1)
    weights = [rng.normal(size=(above, below)) / np.sqrt(above) for above, below in itertools.pairwise(widths)]
    activations = (activation, activation, Activation.IDENTITY)
    layers = tuple(
        Dense(each, rng.normal(size=each.shape[1]), name) for each, name in zip(weights, activations, strict=True)
    )
    return NetworkPart(names(100), {}, {}, layers, None)


def _plain_activations() -> dict[Activation, Callable[[Floats], Floats]]:
    from scipy import special  # noqa: PLC0415

    return {
        Activation.TANH: np.tanh,
        Activation.SIGMOID: special.expit,
        Activation.GELU: lambda sums: sums * special.ndtr(sums),
    }


def _plain_network(part: NetworkPart, activation: Callable[[Floats], Floats]) -> Scorer:
    def run(rows: Floats) -> Floats:
        for layer in part.layers[:-1]:
            rows = activation(rows @ layer.weights + layer.bias)
        return np.asarray(rows @ part.layers[-1].weights + part.layers[-1].bias)

    return run


def scorecard(effort: Effort) -> Iterator[Fields]:
    """`ScorecardPart` beside numpy's searchsorted, of which each bin's points are taken and added up."""
    rng = np.random.default_rng(8)
    features = rng.normal(size=(ROWS, N_POINTS))
    features[rng.random(features.shape) < 0.02] = np.nan
    part, plain = scorecard_part()
    yield {"features": N_POINTS, "beside": "numpy"} | _measured(effort, part, plain, features)


def scorecard_part() -> tuple[Part, Scorer]:
    """Return a card of ten bins a feature, and plain numpy that scores it."""
    rng = np.random.default_rng(9)
    edges = np.sort(rng.normal(size=(N_POINTS, 9)), axis=1)
    points = rng.integers(-40, 40, size=(N_POINTS, 11)).astype(np.float64)  # the last: of a missing value
    card = [
        {"name": name, "closed": "left", "missing": own[-1], "bins": _bins(cuts.tolist(), own.tolist())}
        for name, cuts, own in zip(names(N_POINTS), edges, points, strict=True)
    ]

    def plain(rows: Floats) -> Floats:
        total = np.zeros(len(rows))
        for column, cuts, own in zip(rows.T, edges, points, strict=True):
            total += own[np.where(np.isnan(column), 10, np.searchsorted(cuts, column, side="right"))]
        return total

    return read_portable({"base_points": None, "features": card}, "scorecard"), plain


def _bins(cuts: list[float], points: list[float]) -> list[Fields]:
    bounds: list[float | None] = [None, *cuts, None]
    bins = []
    for low, high, own in zip(bounds, bounds[1:], points, strict=False):
        bin_: Fields = {"points": own}
        bins.append(bin_ | ({} if low is None else {"from": low}) | ({} if high is None else {"to": high}))
    return bins


def steps(effort: Effort) -> Iterator[Fields]:
    """`StepsPart` beside scikit-learn's pipeline: transform and decision function."""
    features = step_features()
    for name in ("encoders", "transforms"):
        trained = fitted(step_pipeline(name), features)
        part = read_estimator(trained, features.shape[1])
        yield {"pipeline": name, "beside": "scikit-learn"} | _measured(effort, part, trained.predict, features)


def step_features() -> Floats:
    """Return ten numbers of which some miss, five categories, and five positive numbers without gaps."""
    rng = np.random.default_rng(10)
    numbers = rng.normal(size=(ROWS, 10))
    numbers[rng.random(numbers.shape) < 0.05] = np.nan
    return columns([numbers, rng.integers(0, 12, size=(ROWS, 5)), rng.lognormal(size=(ROWS, 5))])


def step_pipeline(name: str) -> Any:
    """Return a pipeline that ends in a linear model: `encoders`, or `transforms` that no weight can take up."""
    from sklearn.compose import ColumnTransformer  # noqa: PLC0415
    from sklearn.impute import SimpleImputer  # noqa: PLC0415
    from sklearn.linear_model import Ridge  # noqa: PLC0415
    from sklearn.pipeline import make_pipeline  # noqa: PLC0415
    from sklearn.preprocessing import (  # noqa: PLC0415
        KBinsDiscretizer,
        OneHotEncoder,
        PolynomialFeatures,
        PowerTransformer,
        QuantileTransformer,
        StandardScaler,
    )

    filled = make_pipeline(SimpleImputer(), StandardScaler())
    one_hot = OneHotEncoder(handle_unknown="ignore")
    bins = KBinsDiscretizer(8, encode="onehot", quantile_method="averaged_inverted_cdf")
    if name == "transforms":
        filled = make_pipeline(SimpleImputer(), PolynomialFeatures(2))
        bins = make_pipeline(PowerTransformer(), QuantileTransformer(n_quantiles=100, output_distribution="normal"))
    places = np.split(np.arange(20), [10, 15])
    stages = zip(("numbers", "categories", "positive"), (filled, one_hot, bins), places, strict=True)
    return make_pipeline(ColumnTransformer([(*pair, place) for *pair, place in stages]), Ridge())


def ordinal(effort: Effort) -> Iterator[Fields]:
    """A proportional-odds model, scores and link, beside differences of scipy's expit."""
    from scipy.special import expit  # noqa: PLC0415

    rng = np.random.default_rng(11)
    features, weights = rng.normal(size=(ROWS, 20)), rng.normal(size=(20, 1)) * 0.3
    thresholds = (-2.0, -0.5, 0.7, 2.5)
    part = linear_part(weights)

    def ours(rows: Floats) -> Floats:
        return cumulative_logit(part.partial_scores(rows), *thresholds)

    def theirs(rows: Floats) -> Floats:
        below = expit(np.array(thresholds) - rows @ weights)
        return np.diff(below, axis=1, prepend=0.0, append=1.0)

    found = beside(effort, ours, theirs, features, 1.0)
    yield {"classes": 5, "beside": "scipy"} | found | one_row(effort, part, theirs, features)


def _measured(effort: Effort, part: Part, theirs: Scorer, features: Floats) -> Fields:
    found = beside(effort, part.partial_scores, theirs, features, 1.0)
    return found if "problem" in found else found | one_row(effort, part, theirs, features)
