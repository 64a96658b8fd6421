"""Trees: summed ones beside LightGBM and scikit-learn, and leaf masks of split ones."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np

from fedpredict.model.arrays import Floats
from fedpredict.model.leaf_masks import surviving_leaves
from fedpredict.model.split_trees import SplitTreesPart
from fedpredict.model.trees import FOREIGN, LEAF, NO_SET, Trees, TreesPart
from kernelbench.measure import Effort, Fields, beside, least, names, one_by_one, one_row
from kernelbench.models import fitted, read_estimator

N_FEATURES = 20
"""Of the complete trees."""


def trees(effort: Effort) -> Iterator[Fields]:
    """`TreesPart` beside LightGBM's predict on the joined matrix."""
    booster, features = grown_by_lightgbm()
    part = read_estimator(booster, 30)
    found = beside(effort, part.partial_scores, lambda rows: booster.predict(rows, num_threads=1), features, 0.5)
    yield {"trees": 100, "depth": 6, "beside": "LightGBM"} | found


def trees_1(effort: Effort) -> Iterator[Fields]:
    """One row of the same."""
    booster, features = grown_by_lightgbm()
    fields = one_row(
        effort, read_estimator(booster, 30), lambda row: booster.predict(row, num_threads=1), features, to_reach_us=50.0
    )
    yield {"trees": 100, "depth": 6, "beside": "LightGBM"} | fields


@cache
def grown_by_lightgbm() -> tuple[Any, Floats]:
    """Return 100 trees of depth 6, and 100,000 rows."""
    import lightgbm  # noqa: PLC0415  not in the process whose memory is measured

    rng = np.random.default_rng(2)
    features = rng.normal(size=(100_000, 30))
    outcome = np.sin(features[:, 0]) + features[:, 1] * features[:, 2] + features @ rng.normal(size=30)
    options = {"max_depth": 6, "num_leaves": 63, "min_data_in_leaf": 5, "verbose": -1, "num_threads": 1}
    few = lightgbm.Dataset(features[:10_000], outcome[:10_000])
    return lightgbm.train(options, few, num_boost_round=100), features


def forests(effort: Effort) -> Iterator[Fields]:
    """`TreesPart` beside scikit-learn's boosting and forests, which have one thread too."""
    from sklearn.ensemble import (  # noqa: PLC0415
        GradientBoostingRegressor,
        HistGradientBoostingClassifier,
        HistGradientBoostingRegressor,
        RandomForestRegressor,
    )

    features = np.random.default_rng(12).normal(size=(100_000, N_FEATURES))
    for estimator, classes in (
        (HistGradientBoostingRegressor(max_iter=100, max_depth=6), 0),
        (HistGradientBoostingClassifier(max_iter=100, max_depth=6), 3),
        (GradientBoostingRegressor(n_estimators=100, max_depth=4), 0),
        (RandomForestRegressor(100, max_depth=8, max_features=0.3, max_samples=0.3, n_jobs=1), 0),
    ):
        trained = fitted(estimator, features, classes=classes)
        part = read_estimator(trained, N_FEATURES)
        theirs = trained.decision_function if classes else trained.predict
        found = beside(effort, part.partial_scores, theirs, features, 1.0)
        if "problem" not in found:
            found |= one_row(effort, part, theirs, features)
        yield {"estimator": type(estimator).__name__, "trees": part.trees.n_trees, "beside": "scikit-learn"} | found


def masks_1(effort: Effort) -> Iterator[Fields]:
    """Leaf masks of 500 complete trees of depth 8 at each of two parties, and what survives of both."""
    features = np.random.default_rng(4).normal(size=(1000, N_FEATURES))
    whole, halves = complete(500, 8), [split_part(500, 8, first) for first in (0, 10)]
    own = [features[:, first : first + 10].copy() for first in (0, 10)]
    masks = [half.partial_scores(rows) for half, rows in zip(halves, own, strict=True)]
    if (surviving_leaves(masks, whole.n_leaves) != whole.leaf_numbers[whole.leaves(features)]).any():
        yield {"problem": "WRONG"}
        return
    singles = iter(np.resize(np.arange(1000), 10_000_000))
    n_leaves = whole.n_leaves

    def survive(_: Floats) -> object:
        row = next(singles)
        return surviving_leaves([each[row : row + 1] for each in masks], n_leaves)

    yield {
        "trees": 500,
        "depth": 8,
        "parties_us": [
            one_by_one(effort.rounds, half.partial_scores, rows) for half, rows in zip(halves, own, strict=True)
        ],
        "survive_us": one_by_one(effort.rounds, survive, features),
        "masks_1000_ms": round(least(effort.rounds, lambda: halves[0].partial_scores(own[0])) * 1e3, 1),
        "survive_1000_ms": round(least(effort.rounds, lambda: surviving_leaves(masks, n_leaves)) * 1e3, 1),
        "to_reach_us": 300,
    }


def complete(n_trees: int, depth: int, first: int | None = None) -> Trees:
    """Return complete trees over 20 features, of which a party has ten from `first` on (None: all)."""
    rng = np.random.default_rng(3)
    n_inner, n_nodes = 2**depth - 1, 2 ** (depth + 1) - 1
    number = np.tile(np.arange(n_nodes), n_trees)
    start = np.repeat(np.arange(n_trees) * n_nodes, n_nodes)
    inner = number < n_inner
    feature = np.where(inner, rng.integers(0, N_FEATURES, len(number)), LEAF)
    threshold = np.where(inner, rng.normal(size=len(number)) * 0.7, 0.0)
    if first is not None:
        foreign = inner & ((feature < first) | (feature >= first + 10))
        feature = np.where(foreign, FOREIGN, np.where(inner, feature - first, LEAF))
        threshold = np.where(foreign, 0.0, threshold)
    left = np.where(inner, start + 2 * number + 1, LEAF)
    return _numeric(np.arange(n_trees + 1) * n_nodes, feature, threshold, left)


def summed_part(n_trees: int, depth: int) -> TreesPart:
    """Return complete trees as a part."""
    found = complete(n_trees, depth)
    output = np.zeros(n_trees, dtype=np.int32)
    return TreesPart(
        names(N_FEATURES),
        {},
        np.ones(N_FEATURES, dtype=bool),
        found,
        1,
        output,
        np.zeros((len(found.feature), 1)),
        None,
    )


def split_part(n_trees: int, depth: int, first: int) -> SplitTreesPart:
    """Return the part of a party that has ten features from `first` on, laid out for its kernel."""
    part = SplitTreesPart(names(10), {}, np.ones(10, dtype=bool), complete(n_trees, depth, first), 1)
    part.partial_scores(np.zeros((1, 10)))
    return part


def _numeric(start: Any, feature: Any, threshold: Floats, left: Any) -> Trees:
    n_nodes = len(feature)
    return Trees(
        start=start,
        feature=feature.astype(np.int32),
        threshold=threshold,
        left=left.astype(np.int32),
        right=np.where(left == LEAF, LEAF, left + 1).astype(np.int32),
        missing_left=np.zeros(n_nodes, dtype=bool),
        zero_is_missing=np.zeros(n_nodes, dtype=bool),
        left_set=np.full(n_nodes, NO_SET, dtype=np.int32),
        known_set=np.full(n_nodes, NO_SET, dtype=np.int32),
        unknown_left=np.zeros(n_nodes, dtype=bool),
        sets=(),
        strict=False,
        float32=False,
    )
