"""A model of XGBoost as a partial model: its own files, pickled Boosters and scikit-learn wrappers."""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np

from fedpredict.convert.arrays import ArrayReader, Label, octets
from fedpredict.convert.booster import Ensemble, Wrappers, booster_reading, class_texts, unwrapped
from fedpredict.convert.labels import chosen_features
from fedpredict.convert.nodes import Node
from fedpredict.convert.options import Limits, ReadOptions
from fedpredict.convert.sklearn_file import Reading
from fedpredict.convert.values import clipped, described, mapping
from fedpredict.convert.xgboost_categories import read_categories
from fedpredict.convert.xgboost_document import Section, checked_version, parse_xgboost
from fedpredict.convert.xgboost_objective import base_margins, objective_of, score_width
from fedpredict.convert.xgboost_trees import booster_of, read_boosted
from fedpredict.errors import ModelFileError, UnsupportedModelError
from fedpredict.model.kinds import KINDS

_CLASSIFIERS = frozenset({"XGBClassifier", "XGBRFClassifier"})
_WRAPPERS = Wrappers(
    "XGBoost",
    "xgboost.sklearn",
    _CLASSIFIERS | {"XGBRegressor", "XGBRFRegressor", "XGBRanker"},
    booster="xgboost.core.Booster",
)


@dataclass(frozen=True, slots=True)
class _Wrapper:
    """What a scikit-learn wrapper says beside its Booster.

    Attributes:
        name: The class, or "Booster" where there is no wrapper.
        classes: The labels; None where it keeps none.
        stops_at_best: Whether predictions stop after the best round, as a wrapper's do and a Booster's do not.
    """

    name: str
    classes: tuple[Label, ...] | None = None
    stops_at_best: bool = True


_NO_WRAPPER = _Wrapper("Booster", stops_at_best=False)


def read_xgboost(content: bytes, options: ReadOptions, limits: Limits) -> Reading:
    """Return the partial model of what `save_model` wrote, as JSON or UBJSON.

    A file that a scikit-learn wrapper wrote predicts as the wrapper does, any other as a Booster.

    Raises:
        UnsupportedModelError: It is nothing that can be served exactly.
        ModelFileError: It is damaged, or its name is not given.
        FeatureNamesError: There are no feature names, or not as many as features.
        ModelConflictError: File and operator say different things.
    """
    root = parse_xgboost(content, limits)
    return _read(root, _wrapper_of_file(root.section("learner")), options)


def read_xgboost_pickle(value: Node, arrays: ArrayReader, options: ReadOptions, limits: Limits) -> Reading:
    """Return the partial model of a pickled Booster or scikit-learn wrapper.

    Args:
        value: The inert object at the root of the file, of a class of XGBoost.
        arrays: Rebuilds arrays.
        options: As in `read_xgboost`.
        limits: What reading may cost.

    Raises:
        ConversionError: As `read_xgboost`.
    """
    wrapper, booster = _NO_WRAPPER, value
    if value.path != _WRAPPERS.booster:
        wrapper, booster = _unwrapped(value, arrays)
    state = mapping(booster.state, "the state of the Booster") if booster.built else {}
    if state.get("handle") is None:
        raise UnsupportedModelError("the XGBoost Booster is not fitted: it has no model")
    root = parse_xgboost(octets(state["handle"]), limits)
    return _read(root, wrapper, options)


def _read(root: Section, wrapper: _Wrapper, options: ReadOptions) -> Reading:
    version = checked_version(root)
    learner = root.section("learner")
    objective = objective_of(learner)
    n_scores = score_width(learner, objective)
    n_features = learner.section("learner_model_param").count("num_feature")
    names = learner.texts("feature_names")
    features = chosen_features(names or None, options.features, n_features)
    booster = booster_of(learner)
    categories = read_categories(booster.model, features)
    rounds = _rounds(learner, wrapper)
    boosted = read_boosted(booster, learner, version, n_features, n_scores, rounds, categories)
    classes = class_texts(wrapper.name, wrapper.classes, n_scores) if KINDS[objective.kind].is_classifier else ()
    if not classes and wrapper.name in _CLASSIFIERS:
        raise UnsupportedModelError(f"{wrapper.name} was trained with the objective of a regression: use XGBRegressor")
    ensemble = Ensemble(
        source=_source(version, wrapper, rounds, len(boosted.output), len(booster.trees)),
        kind=objective.kind,
        link=objective.link,
        classes=classes,
        features=features,
        categories={features[column]: texts for column, texts in categories.texts.items()},
        may_miss=np.ones(n_features, dtype=np.bool_),
        trees=boosted.trees,
        output=boosted.output,
        values=boosted.values,
        base=base_margins(learner, objective, n_scores),
        has_base=True,
        closed=categories.closed(features),
    )
    return booster_reading(ensemble, options)


def _source(version: tuple[int, int, int], wrapper: _Wrapper, rounds: int | None, used: int, n_trees: int) -> str:
    told = f"XGBoost {'.'.join(map(str, version))} {wrapper.name}"
    return told if used == n_trees else f"{told}, {used} of its {n_trees} trees (up to the best iteration, {rounds})"


def _rounds(learner: Section, wrapper: _Wrapper) -> int | None:
    attributes = learner.section("attributes") if learner.has("attributes") else Section({}, "learner.attributes")
    if not wrapper.stops_at_best or not attributes.has("best_iteration"):
        return None
    return attributes.count("best_iteration") + 1


def _wrapper_of_file(learner: Section) -> _Wrapper:
    """What a wrapper's `save_model` left in the attributes: up to 2.0 its parameters, later only what it is."""
    attributes = learner.section("attributes") if learner.has("attributes") else Section({}, "learner.attributes")
    if not attributes.has("scikit_learn"):
        return _NO_WRAPPER
    try:
        state = json.loads(attributes.text("scikit_learn"))
    except (ValueError, RecursionError) as error:
        raise ModelFileError("what XGBoost's scikit-learn wrapper left in the file is damaged") from error
    if not isinstance(state, dict):
        raise ModelFileError("what XGBoost's scikit-learn wrapper left in the file is damaged")
    names = {"classifier": "XGBClassifier", "regressor": "XGBRegressor", "ranker": "XGBRanker"}
    kind = state.get("_estimator_type")
    name = names.get(kind, "scikit-learn wrapper") if isinstance(kind, str) else "scikit-learn wrapper"
    _check_parameters(state, name)
    classes = state.get("classes_")
    labels = tuple(classes) if isinstance(classes, list) else None
    if labels is not None and not all(isinstance(label, str | int | float) for label in labels):
        raise ModelFileError("what XGBoost's scikit-learn wrapper left in the file is damaged")
    return _Wrapper(name, labels)


def _unwrapped(value: Node, arrays: ArrayReader) -> tuple[_Wrapper, Node]:
    name, state, booster = unwrapped(value, _WRAPPERS)
    _check_parameters(state, name)
    classes = state.get("classes_") if name in _CLASSIFIERS else None
    labels = None if classes is None else tuple(arrays.labels(classes, f"{name}.classes_"))
    return _Wrapper(name, labels), booster


def _check_parameters(state: dict[str, object], name: str) -> None:
    """Refuse what a wrapper does to features or scores and its Booster does not know of."""
    missing, objective = state.get("missing"), state.get("objective")
    if missing is not None and not (isinstance(missing, float) and np.isnan(missing)):
        raise UnsupportedModelError(
            f"{name} was trained with missing={clipped(str(missing)) if isinstance(missing, int | float) else '...'}: "
            "train it with NaN for missing values (missing=nan), which is NULL in a feature table"
        )
    if objective is not None and not isinstance(objective, str):
        raise UnsupportedModelError(
            f"{name} was trained with an objective of its own ({described(objective)}): train it with one of "
            "XGBoost's, or write get_booster().save_model('model.json') to serve its raw scores"
        )
