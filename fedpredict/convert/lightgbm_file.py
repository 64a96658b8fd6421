"""A model of LightGBM as a partial model: its text, pickled Boosters and scikit-learn wrappers."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from fedpredict.convert.arrays import ArrayReader, Label
from fedpredict.convert.booster import Ensemble, Wrappers, booster_reading, class_texts, unwrapped
from fedpredict.convert.labels import chosen_features
from fedpredict.convert.lightgbm_categories import read_categories
from fedpredict.convert.lightgbm_objective import objective_of
from fedpredict.convert.lightgbm_text import ModelText, parse_lightgbm
from fedpredict.convert.lightgbm_trees import read_trees
from fedpredict.convert.nodes import Node
from fedpredict.convert.options import ReadOptions
from fedpredict.convert.sklearn_file import Reading
from fedpredict.convert.values import mapping
from fedpredict.errors import ModelFileError, UnsupportedModelError
from fedpredict.model.kinds import KINDS, Kind

_SEVERAL_SCORES = (Kind.MULTINOMIAL, Kind.ONE_VS_REST)
_WRAPPERS = Wrappers(
    "LightGBM",
    "lightgbm.sklearn",
    frozenset({"LGBMClassifier", "LGBMRegressor", "LGBMRanker"}),
    booster="lightgbm.basic.Booster",
)


@dataclass(frozen=True, slots=True)
class _Wrapper:
    """What stands beside the text.

    Attributes:
        name: The class of the object; "model" where the file is the text itself.
        classes: The labels of a classifier; None where there are none.
        best_iteration: How many rounds predictions use; 0 for all.
    """

    name: str = "model"
    classes: tuple[Label, ...] | None = None
    best_iteration: int = 0


def read_lightgbm(content: bytes, options: ReadOptions) -> Reading:
    """Return the partial model of what `save_model` or `model_to_string` wrote.

    Raises:
        UnsupportedModelError: It is nothing that can be served exactly.
        ModelFileError: It is damaged, or its name is not given.
        FeatureNamesError: There are no feature names, or not as many as features.
        ModelConflictError: File and operator say different things.
    """
    return _read(parse_lightgbm(content), _Wrapper(), options)


def read_lightgbm_pickle(value: Node, arrays: ArrayReader, options: ReadOptions) -> Reading:
    """Return the partial model of a pickled Booster or scikit-learn wrapper.

    Args:
        value: The inert object at the root of the file, of a class of LightGBM.
        arrays: Rebuilds arrays.
        options: As in `read_lightgbm`.

    Raises:
        ConversionError: As `read_lightgbm`.
    """
    name, classes, booster = "Booster", None, value
    if value.path != _WRAPPERS.booster:
        name, beside, booster = unwrapped(value, _WRAPPERS)
        if beside.get("_classes") is not None:
            classes = tuple(arrays.labels(beside["_classes"], f"{name}.classes_"))
    state = mapping(booster.state, "the state of the Booster") if booster.built else {}
    text = state.get("_handle", state.get("handle"))
    if not isinstance(text, str):
        raise UnsupportedModelError("the LightGBM Booster is not fitted: it has no model")
    return _read(parse_lightgbm(text), _Wrapper(name, classes, _rounds(state.get("best_iteration"), arrays)), options)


def _rounds(best: object, arrays: ArrayReader) -> int:
    """How many rounds predictions use; 0, as for any number that is none of a round, for all."""
    if isinstance(best, Node):
        found = arrays.scalar(best, "best_iteration of the LightGBM Booster")
        if not math.isfinite(found):
            raise ModelFileError("best_iteration of the LightGBM Booster is not finite")
        best = int(found)
    return best if isinstance(best, int) and best > 0 else 0


def _read(text: ModelText, wrapper: _Wrapper, options: ReadOptions) -> Reading:
    head = text.head
    objective = objective_of(head)
    n_scores = head.count("num_tree_per_iteration")
    if not 1 <= n_scores <= max(len(text.trees), 1) or (n_scores > 1) != (objective.kind in _SEVERAL_SCORES):
        raise ModelFileError(f"the LightGBM model has {n_scores} trees per round, which does not fit its objective")
    features = _features(head.text("feature_names").split(), options.features, head.count("max_feature_idx") + 1)
    categories = read_categories(text, features)
    n_rounds = len(text.trees) // n_scores
    used = min(wrapper.best_iteration or n_rounds, n_rounds)
    grown = read_trees(text.trees[: used * n_scores], len(features), categories)
    # a forest's prediction is the mean of its trees
    scale = objective.scale / (used if "average_output" in head.lines else 1)
    told = f"LightGBM {wrapper.name} ({head.text('version')})"
    ensemble = Ensemble(
        source=told if used == n_rounds else f"{told}, {used} of its {n_rounds} rounds (the best iteration)",
        kind=objective.kind,
        link=objective.link,
        classes=class_texts(wrapper.name, wrapper.classes, n_scores) if KINDS[objective.kind].is_classifier else (),
        features=features,
        categories={features[column]: labels for column, labels in categories.texts.items()},
        may_miss=grown.may_miss,
        trees=grown.trees,
        output=np.arange(used * n_scores, dtype=np.int32) % np.int32(n_scores),
        values=scale * grown.values,
        base=np.zeros(n_scores),
        has_base=False,
    )
    return booster_reading(ensemble, options)


def _features(in_file: list[str], named: tuple[str, ...] | None, count: int) -> tuple[str, ...]:
    """The feature names: the file's, which LightGBM made up for a plain array, and in which spaces are underscores."""
    if in_file == [f"Column_{number}" for number in range(len(in_file))]:
        return chosen_features(None, named, count)
    if named is not None and [name.replace(" ", "_") for name in named] == in_file:
        return chosen_features(None, named, count)
    return chosen_features(in_file, named, count)
