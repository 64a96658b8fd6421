"""Models of scikit-learn as joint parts, to be split across parties; what scikit-learn predicts is the oracle."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.ensemble import GradientBoostingClassifier, GradientBoostingRegressor, RandomForestClassifier

from fedpredict.model.arrays import Floats
from fedpredict.model.kinds import Kind, own_link
from fedpredict.model.partial import PartialModel
from fedpredict.model.trees import LEAF, NO_SET, Trees, TreesPart


@dataclass(frozen=True)
class Trained:
    """A joint model and its oracle.

    Attributes:
        joint: The part over all features.
        rows: Shape (n_rows, n_features): rows to predict.
        expected: Shape (n_rows, n_outputs): scikit-learn's predictions, of a binary model the second class's.
    """

    joint: PartialModel
    rows: Floats
    expected: Floats


def trees_of(estimators: Sequence[Any]) -> Trees:
    """Return the nodes of fitted scikit-learn trees."""
    found = [each.tree_ for each in estimators]
    start = np.concatenate([[0], np.cumsum([each.node_count for each in found])]).astype(np.int64)
    feature = np.concatenate([each.feature for each in found]).astype(np.int32)
    is_leaf = feature < 0
    first = np.repeat(start[:-1], np.diff(start))
    n_nodes = len(feature)

    def child(name: str) -> Any:
        children = np.concatenate([getattr(each, name) for each in found])
        return np.where(is_leaf, LEAF, children + first).astype(np.int32)

    missing = np.concatenate([each.missing_go_to_left for each in found]).astype(np.bool_)
    return Trees(
        start=start,
        feature=np.where(is_leaf, LEAF, feature).astype(np.int32),
        threshold=np.where(is_leaf, 0.0, np.nan_to_num(np.concatenate([each.threshold for each in found]))),
        left=child("children_left"),
        right=child("children_right"),
        missing_left=missing & ~is_leaf,
        zero_is_missing=np.zeros(n_nodes, dtype=np.bool_),
        left_set=np.full(n_nodes, NO_SET, dtype=np.int32),
        known_set=np.full(n_nodes, NO_SET, dtype=np.int32),
        unknown_left=np.zeros(n_nodes, dtype=np.bool_),
        sets=(),
        strict=False,
        float32=True,
    )


def joint_of(
    trees: Trees, kind: Kind, classes: Sequence[str], values: Floats, base: Floats, **made: Any
) -> PartialModel:
    """Return the joint model of trees whose nodes have `values`: one for each class, or one for the only score."""
    n_features, output = made.pop("n_features"), np.full(trees.n_trees, -1 if values.shape[1] > 1 else 0)
    part = TreesPart(
        features=tuple(f"f{at}" for at in range(n_features)),
        categories={},
        may_miss=np.full(n_features, made.pop("may_miss", False)),
        trees=trees,
        n_scores=len(base),
        output=output.astype(np.int32),
        values=values * (trees.feature == LEAF)[:, None],
        intercept=base,
    )
    return PartialModel(
        model_id=made.pop("model_id", "m"),
        training_run="run-1",
        party="joint-model",
        kind=kind,
        classes=tuple(classes),
        fit_intercept=True,
        part=part,
        link=made.pop("link", own_link(kind)),
    )


def boosted_classifier(seed: int = 0, n_features: int = 6, **made: Any) -> Trained:
    """Return a binary gradient boosting."""
    rows, target = _data(seed, n_features)
    settings = {"n_estimators": 12, "max_depth": 4, "random_state": seed, **made}
    model = GradientBoostingClassifier(**settings).fit(rows, target > 0)
    trees = trees_of(model.estimators_[:, 0])
    leaf_values = _node_values(model.estimators_[:, 0]) * model.learning_rate
    base = model._raw_predict_init(rows[:1])[0]
    joint = joint_of(trees, Kind.BINARY, ("0", "1"), leaf_values, np.array(base), n_features=n_features)
    return Trained(joint, rows, model.predict_proba(rows)[:, 1:])


def boosted_regressor(seed: int = 0, n_features: int = 6) -> Trained:
    """Return a gradient boosting of a number."""
    rows, target = _data(seed, n_features)
    model = GradientBoostingRegressor(n_estimators=10, max_depth=3, random_state=seed).fit(rows, target)
    trees = trees_of(model.estimators_[:, 0])
    values = _node_values(model.estimators_[:, 0]) * model.learning_rate
    base = np.array(model._raw_predict_init(rows[:1])[0])
    joint = joint_of(trees, Kind.LINEAR, (), values, base, n_features=n_features)
    return Trained(joint, rows, model.predict(rows)[:, None])


def forest(seed: int = 0, n_features: int = 6) -> Trained:
    """Return a forest of three classes, some of whose features are missing; each leaf has a value for each class."""
    rows, target = _data(seed, n_features)
    rows[np.random.default_rng(seed).random(rows.shape) < 0.1] = np.nan
    classes = np.digitize(target, [-1.0, 1.0])
    model = RandomForestClassifier(n_estimators=7, max_leaf_nodes=80, random_state=seed).fit(rows, classes)
    trees = trees_of(model.estimators_)
    values = np.concatenate([each.tree_.value[:, 0, :] for each in model.estimators_])
    values = values / values.sum(axis=1, keepdims=True) / len(model.estimators_)
    names = [str(each) for each in model.classes_]
    joint = joint_of(trees, Kind.PROBABILITY, names, values, np.zeros(3), n_features=n_features, may_miss=True)
    return Trained(joint, rows, model.predict_proba(rows))


def _data(seed: int, n_features: int) -> tuple[Floats, Floats]:
    random = np.random.default_rng(seed)
    rows = np.round(random.normal(size=(250, n_features)), 2)
    target = rows[:, 0] * rows[:, 1] + np.sin(3 * rows[:, 2]) + rows[:, -1] + random.normal(scale=0.3, size=250)
    return rows, target


def _node_values(estimators: Sequence[Any]) -> Floats:
    return np.concatenate([each.tree_.value[:, 0, :] for each in estimators])


def perfect_trees(n_trees: int, depth: int, n_rows: int, n_features: int = 6) -> Trained:
    """Return full trees of random splits, each predicted node by node; nobody trained them."""
    random = np.random.default_rng(7)
    n_inner, n_nodes = 2**depth - 1, 2 ** (depth + 1) - 1
    node = np.arange(n_nodes)
    inner = node < n_inner
    feature = np.where(inner, random.integers(0, n_features, (n_trees, n_nodes)), LEAF)
    threshold = np.where(inner, np.round(random.normal(size=(n_trees, n_nodes)), 3), 0.0)
    values = np.where(inner, 0.0, random.normal(size=(n_trees, n_nodes)))
    start = np.arange(n_trees + 1) * n_nodes
    first = start[:-1, None]
    no, none = np.zeros(n_trees * n_nodes, dtype=np.bool_), np.full(n_trees * n_nodes, NO_SET, dtype=np.int32)
    trees = Trees(
        start=start,
        feature=feature.ravel().astype(np.int32),
        threshold=threshold.ravel(),
        left=np.where(inner, first + 2 * node + 1, LEAF).ravel().astype(np.int32),
        right=np.where(inner, first + 2 * node + 2, LEAF).ravel().astype(np.int32),
        missing_left=no,
        zero_is_missing=no,
        left_set=none,
        known_set=none,
        unknown_left=no,
        sets=(),
        strict=False,
        float32=False,
    )
    rows = random.normal(size=(n_rows, n_features))
    at = np.zeros((n_rows, n_trees), dtype=np.int64)
    every = np.arange(n_trees)
    for _ in range(depth):
        goes_left = np.take_along_axis(rows, feature[every, at], axis=1) <= threshold[every, at]
        at = 2 * at + np.where(goes_left, 1, 2)
    expected = values[every, at].sum(axis=1, keepdims=True) + 0.5
    joint = joint_of(trees, Kind.LINEAR, (), values.reshape(-1, 1), np.array([0.5]), n_features=n_features)
    return Trained(joint, rows, expected)
