"""A model of LightGBM as a partial model: its text, pickled Boosters and scikit-learn wrappers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fedpredict.convert.arrays import ArrayReader, Label
from fedpredict.convert.booster import Ensemble, booster_reading
from fedpredict.convert.labels import chosen_features, label_text
from fedpredict.convert.lightgbm_categories import read_categories
from fedpredict.convert.lightgbm_objective import objective_of
from fedpredict.convert.lightgbm_text import ModelText, parse_lightgbm
from fedpredict.convert.lightgbm_trees import read_trees
from fedpredict.convert.nodes import Node
from fedpredict.convert.options import ReadOptions
from fedpredict.convert.sklearn_file import Reading
from fedpredict.convert.values import described, mapping
from fedpredict.errors import ModelFileError, UnsupportedModelError
from fedpredict.model.kinds import KINDS, Kind

_BOOSTER = "lightgbm.basic.Booster"
_SEVERAL_SCORES = (Kind.MULTINOMIAL, Kind.ONE_VS_REST)
_WRAPPERS = frozenset({"LGBMClassifier", "LGBMRegressor", "LGBMRanker"})


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
    if value.path != _BOOSTER:
        name, classes, booster = _unwrapped(value, arrays)
    state = mapping(booster.state, "the state of the Booster") if booster.built else {}
    text = state.get("_handle", state.get("handle"))
    if not isinstance(text, str):
        raise UnsupportedModelError("the LightGBM Booster is not fitted: it has no model")
    best = state.get("best_iteration")
    if isinstance(best, Node):
        best = int(arrays.numbers(best, "best_iteration"))
    rounds = best if isinstance(best, int) and best > 0 else 0
    return _read(parse_lightgbm(text), _Wrapper(name, classes, rounds), options)


def _unwrapped(value: Node, arrays: ArrayReader) -> tuple[str, tuple[Label, ...] | None, Node]:
    package, _, name = value.path.rpartition(".")
    if package != "lightgbm.sklearn" or name not in _WRAPPERS:
        raise UnsupportedModelError(
            f"the file holds {described(value)}; of LightGBM, Booster and {', '.join(sorted(_WRAPPERS))} are read"
        )
    state = mapping(value.state, f"the state of {name}") if value.built else {}
    booster = state.get("_Booster")
    if not isinstance(booster, Node) or booster.path != _BOOSTER:
        raise UnsupportedModelError(f"{name} is not fitted: it has no Booster")
    classes = state.get("_classes")
    labels = None if classes is None else tuple(arrays.labels(classes, f"{name}.classes_"))
    return name, labels, booster


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
        classes=_classes(wrapper, n_scores) if KINDS[objective.kind].is_classifier else (),
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


def _classes(wrapper: _Wrapper, n_scores: int) -> tuple[str, ...]:
    """The wrapper's labels; LightGBM itself counts them from 0."""
    count = max(n_scores, 2)
    if wrapper.classes is None:
        return tuple(str(number) for number in range(count))
    if len(wrapper.classes) != count:
        raise ModelFileError(f"{wrapper.name} has {len(wrapper.classes)} labels, its Booster {count} classes")
    return tuple(label_text(label) for label in wrapper.classes)
