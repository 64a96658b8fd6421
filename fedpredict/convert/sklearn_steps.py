"""A pipeline of scikit-learn whose preprocessing does not all fold into weights: steps, and a core behind."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from fedpredict.convert.sklearn_linear import Fitted
from fedpredict.convert.sklearn_nodes import FittedTrees
from fedpredict.convert.sklearn_pipeline import transformed, width_of
from fedpredict.convert.sklearn_scalers import SCALERS
from fedpredict.convert.sklearn_state import Estimator
from fedpredict.convert.steps_builder import Builder, Column, fold_onehot
from fedpredict.errors import ModelFileError
from fedpredict.model.arrays import Floats
from fedpredict.model.linear import LinearPart
from fedpredict.model.part import Part
from fedpredict.model.partial import PartialModel
from fedpredict.model.step import Step
from fedpredict.model.steps import StepsPart


def needs_steps(transformers: Sequence[Estimator], *, is_of_trees: bool) -> bool:
    """Return whether something stands in front of the model that does not fold into its weights."""
    return any(
        is_of_trees or each.package != "sklearn.preprocessing" or each.name not in SCALERS
        or each.flag("clip", default=False)
        for each in transformers
    )  # fmt: skip


def n_columns(steps: Sequence[Estimator]) -> int:
    """Return the number of features that a pipeline was fitted with.

    Raises:
        ModelFileError: Its first step does not say it.
    """
    count = width_of(steps[0])
    if count is None:
        raise ModelFileError(f"{steps[0].name} does not say how many features it was fitted with: is it fitted?")
    return count


def steps_part(
    features: tuple[str, ...],
    transformers: Sequence[Estimator],
    fitted: Fitted | FittedTrees,
    intercept: Floats | None,
) -> StepsPart:
    """Return the part; of the features, those that a step or the model reads.

    Args:
        features: All that the pipeline was fitted with.
        transformers: What stands in front of the model, in order.
        fitted: The model.
        intercept: The intercept or base score that the part holds; None for none.

    Raises:
        UnsupportedModelError: A transformer that is not known, or a setting of it.
        ModelFileError: One is damaged, or does not fit what stands before it.
        ValueError: Its numbers do not make a step.
    """
    builder, names = _columns_of(features, transformers)
    steps: Sequence[Step] = builder.steps
    core: Part
    if isinstance(fitted, Fitted):
        if len(names) != len(fitted.weights):
            raise ModelFileError(f"the steps make {len(names)} columns, the model has {len(fitted.weights)} weights")
        steps, names, weights = fold_onehot(steps, names, fitted.weights)
        core = LinearPart(tuple(names), weights, intercept, np.zeros(weights.shape[1]))
    else:
        if len(names) != fitted.n_features:
            raise ModelFileError(f"the steps make {len(names)} columns, the model reads {fitted.n_features}")
        for place, texts in fitted.categories.items():
            builder.know(names[place], texts)
        core = fitted.part(tuple(names), intercept)
    return _behind(features, builder, steps, core)


def network_part(
    features: tuple[str, ...],
    transformers: Sequence[Estimator],
    read_core: Callable[[tuple[str, ...]], PartialModel],
) -> PartialModel:
    """Return the partial model of a network behind steps.

    Args:
        features: All that the pipeline was fitted with.
        transformers: What stands in front of the network, in order.
        read_core: The names of the columns that the steps make -> the network over them.

    Raises:
        UnsupportedModelError, ModelFileError, ValueError: As `steps_part`.
    """
    builder, names = _columns_of(features, transformers)
    core = read_core(tuple(names))
    return replace(core, part=_behind(features, builder, builder.steps, core.part))


def _columns_of(features: tuple[str, ...], transformers: Sequence[Estimator]) -> tuple[Builder, list[str]]:
    """Return what the transformers become, and the names of the columns that the model sees."""
    builder = Builder(features)
    columns = [Column(name) for name in features]
    for transformer in transformers:
        columns = transformed(builder, transformer, columns)
    return builder, [column.name for column in builder.apart(columns)]


def _behind(features: Sequence[str], builder: Builder, steps: Sequence[Step], core: Part) -> StepsPart:
    """Return the part with those of the features that a step or the core reads."""
    read = {name for step in steps for name in step.inputs} | set(core.features)
    return StepsPart(tuple(name for name in features if name in read), builder.categories, tuple(steps), core)
