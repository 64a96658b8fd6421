"""What the objective of a LightGBM model makes of a sum of leaves."""

from __future__ import annotations

import math
from dataclasses import dataclass

from fedpredict.convert.lightgbm_text import Block
from fedpredict.convert.values import clipped
from fedpredict.errors import ModelFileError, UnsupportedModelError
from fedpredict.model.kinds import Kind
from fedpredict.model.links import Link


@dataclass(frozen=True, slots=True)
class Objective:
    """What an objective stands for.

    Attributes:
        kind: What a raw score means.
        link: What relates raw scores and predictions.
        scale: What leaves are multiplied by, so that the link has no parameter of its own.
    """

    kind: Kind
    link: Link
    scale: float = 1.0


_MEAN = Objective(Kind.LINEAR, Link("identity"))
_EXPONENTIAL = Objective(Kind.LINEAR, Link("log"))

OBJECTIVES: dict[str, Objective] = {
    "regression": _MEAN,
    "regression_l1": _MEAN,
    "huber": _MEAN,
    "fair": _MEAN,
    "quantile": _MEAN,
    "mape": _MEAN,
    "lambdarank": _MEAN,
    "rank_xendcg": _MEAN,
    "poisson": _EXPONENTIAL,
    "gamma": _EXPONENTIAL,
    "tweedie": _EXPONENTIAL,
    "binary": Objective(Kind.BINARY, Link("logit")),
    "cross_entropy": Objective(Kind.BINARY, Link("logit")),
    "multiclass": Objective(Kind.MULTINOMIAL, Link("softmax")),
    "multiclassova": Objective(Kind.ONE_VS_REST, Link("logit")),
}
"""By name."""

_WITH_SIGMOID = frozenset({"binary", "multiclassova"})
_WHY_NOT = {
    "cross_entropy_lambda": "its predictions are log(1 + exp(x)); train it with objective=cross_entropy",
    "custom": "its predictions are not in the file; train it with one of LightGBM's objectives",
}


def objective_of(head: Block) -> Objective:
    """Return what the objective of a model stands for.

    Raises:
        UnsupportedModelError: It is not known or has no link that gives its predictions; says what to do.
        ModelFileError: Its parameters are damaged.
    """
    name, *parameters = head.text("objective", "custom").split() or ["custom"]
    found = OBJECTIVES.get(name)
    if found is None:
        told = _WHY_NOT.get(name, f"supported are {', '.join(sorted(OBJECTIVES))}")
        raise UnsupportedModelError(f"the objective '{clipped(name)}' of the LightGBM model is not served: {told}")
    if "sqrt" in parameters:
        raise UnsupportedModelError(
            "the LightGBM model was trained with reg_sqrt=true, whose predictions are sign(x) x^2: train it without"
        )
    if name not in _WITH_SIGMOID:
        return found
    return Objective(found.kind, found.link, _sigmoid(parameters))


def _sigmoid(parameters: list[str]) -> float:
    said = next((each.partition(":")[2] for each in parameters if each.startswith("sigmoid:")), "1")
    try:
        scale = float(said)
    except ValueError as error:
        raise ModelFileError("sigmoid of the LightGBM model's objective is not a number") from error
    if not (math.isfinite(scale) and scale > 0.0):
        raise ModelFileError("sigmoid of the LightGBM model's objective is not above zero")
    return scale
