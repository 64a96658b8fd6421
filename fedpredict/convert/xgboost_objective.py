"""What the objective of an XGBoost model makes of a sum of leaves, and how its base score enters the sum."""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np

from fedpredict.convert.values import clipped
from fedpredict.convert.xgboost_document import Section
from fedpredict.errors import ModelFileError, UnsupportedModelError
from fedpredict.model.arrays import Floats
from fedpredict.model.kinds import MAX_CLASSES, Kind
from fedpredict.model.links import Link

_IDENTITY, _LOGIT, _LOG = Link("identity"), Link("logit"), Link("log")


@dataclass(frozen=True, slots=True)
class Objective:
    """What an objective's name stands for.

    Attributes:
        kind: What a raw score means.
        link: What relates raw scores and predictions.
        base_link: The base score in the file is this link's prediction: what stands in the sum is the raw score.
    """

    kind: Kind
    link: Link
    base_link: Link


_MEAN = Objective(Kind.LINEAR, _IDENTITY, _IDENTITY)
_EXPONENTIAL = Objective(Kind.LINEAR, _LOG, _LOG)
_LOGISTIC = Objective(Kind.BINARY, _LOGIT, _LOGIT)
_DECISION = Objective(Kind.DECISION, _IDENTITY, _IDENTITY)
_CLASSES = Objective(Kind.MULTINOMIAL, Link("softmax"), _IDENTITY)

OBJECTIVES: dict[str, Objective] = {
    "reg:squarederror": _MEAN,
    "reg:linear": _MEAN,
    "reg:squaredlogerror": _MEAN,
    "reg:pseudohubererror": _MEAN,
    "reg:absoluteerror": _MEAN,
    "reg:quantileerror": _MEAN,
    "rank:pairwise": _MEAN,
    "rank:ndcg": _MEAN,
    "rank:map": _MEAN,
    "count:poisson": _EXPONENTIAL,
    "reg:gamma": _EXPONENTIAL,
    "reg:tweedie": _EXPONENTIAL,
    "survival:cox": _EXPONENTIAL,
    "survival:aft": _EXPONENTIAL,
    "reg:logistic": _LOGISTIC,
    "binary:logistic": _LOGISTIC,
    "binary:logitraw": _DECISION,
    "binary:hinge": _DECISION,
    "multi:softmax": _CLASSES,
    "multi:softprob": _CLASSES,
}
"""By name. `binary:hinge` predicts a label; what is served is the margin that decides it."""


def objective_of(learner: Section) -> Objective:
    """Return what the objective of a model stands for.

    Raises:
        UnsupportedModelError: It is not known, as one of the trainer's own.
    """
    name = learner.section("objective").text("name")
    found = OBJECTIVES.get(name)
    if found is None:
        raise UnsupportedModelError(
            f"the objective '{clipped(name)}' of the XGBoost model is not served; supported are "
            f"{', '.join(sorted(OBJECTIVES))}: train it with one of these"
        )
    return found


def score_width(learner: Section, objective: Objective) -> int:
    """Return the number of scores per sample: classes, or targets.

    Raises:
        UnsupportedModelError: Several labels per sample, each with a probability of its own.
        ModelFileError: The counts do not fit the objective.
    """
    parameters = learner.section("learner_model_param")
    n_classes, n_targets = parameters.count("num_class"), max(parameters.count("num_target", 1), 1)
    if max(n_classes, n_targets) > MAX_CLASSES:
        raise ModelFileError(f"the XGBoost model has more than {MAX_CLASSES} classes or targets")
    if objective.kind is Kind.MULTINOMIAL:
        if n_classes < 2 or n_targets > 1:
            raise ModelFileError(f"a multi-class XGBoost model of {n_classes} classes and {n_targets} targets")
        return n_classes
    if n_classes > 1:
        raise ModelFileError(f"an XGBoost model of {n_classes} classes whose objective has none")
    if n_targets > 1 and objective.kind is not Kind.LINEAR:
        raise UnsupportedModelError(
            f"the XGBoost model has {n_targets} labels, each with an answer of its own: train one model for each label"
        )
    return n_targets


def base_margins(learner: Section, objective: Objective, n_scores: int) -> Floats:
    """Return what the model adds to every raw score, shape (n_scores,).

    XGBoost writes one number as text, from 3.1 on a list of numbers, in float32: the prediction of a model without
    trees where that is a probability or an exponential, else the raw score.

    Raises:
        ModelFileError: It is no such number, or no prediction of the objective.
    """
    text = learner.section("learner_model_param").text("base_score")
    try:
        found = json.loads(text)
        numbers = np.array(found if isinstance(found, list) else [found], dtype=np.float32).astype(np.float64)
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise ModelFileError("the base score of the XGBoost model is not a number") from error
    if numbers.shape not in {(1,), (n_scores,)}:
        raise ModelFileError(f"the XGBoost model has {numbers.size} base scores for {n_scores} scores")
    with np.errstate(all="ignore"):
        if objective.base_link == _LOGIT:
            numbers = np.log(numbers) - np.log1p(-numbers)
        elif objective.base_link == _LOG:
            numbers = np.log(numbers)
    if not np.isfinite(numbers).all():
        raise ModelFileError(
            f"the base score {clipped(text)} of the XGBoost model is no prediction that its objective can make"
        )
    return np.repeat(numbers, n_scores) if len(numbers) == 1 else numbers
