"""A scikit-learn estimator or pipeline of a file as a partial model."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from fedpredict.convert.arrays import ArrayReader
from fedpredict.convert.exposure import with_offsets
from fedpredict.convert.head_form import HeadReading, head_reading
from fedpredict.convert.intercepts import held_intercept, joint_intercept
from fedpredict.convert.labels import chosen_features
from fedpredict.convert.options import ReadOptions
from fedpredict.convert.portable import agreed
from fedpredict.convert.sklearn_linear import Fitted, read_linear
from fedpredict.convert.sklearn_network import PACKAGE as NETWORKS
from fedpredict.convert.sklearn_network import read_network, read_top
from fedpredict.convert.sklearn_nodes import FittedTrees
from fedpredict.convert.sklearn_pipeline import names_of
from fedpredict.convert.sklearn_scalers import fold_scaler
from fedpredict.convert.sklearn_state import Estimator, read_estimator
from fedpredict.convert.sklearn_steps import n_columns, needs_steps, network_part, steps_part
from fedpredict.convert.sklearn_trees import is_of_trees, read_trees
from fedpredict.convert.top_form import Below
from fedpredict.convert.values import clipped
from fedpredict.errors import ModelConflictError, ModelFileError, UnsupportedModelError
from fedpredict.model.arrays import Floats
from fedpredict.model.linear import LinearPart
from fedpredict.model.part import Part
from fedpredict.model.partial import PartialModel


@dataclass(frozen=True, slots=True, eq=False)
class Reading:
    """What one file gave.

    Attributes:
        partial: The partial model.
        source: What wrote it, for people.
        feature_constants: Shape (n_features, n_scores): how much of the constant each feature brings; None if unknown.
    """

    partial: PartialModel
    source: str
    feature_constants: Floats | None = None


def read_sklearn(value: object, arrays: ArrayReader, options: ReadOptions) -> Reading:
    """Return the partial model of an estimator, or of a pipeline of scalers and an estimator.

    Args:
        value: The inert value at the root of the file.
        arrays: Rebuilds arrays.
        options: Must name the model id, the training run and the party, because no estimator does.

    Raises:
        UnsupportedModelError: It is nothing that can be served exactly.
        ModelFileError: It is damaged, or its name is not given.
        FeatureNamesError: There are no feature names, or not as many as coefficients.
        ModelConflictError: File and operator say different things.
    """
    steps = _steps(read_estimator(value, arrays, "the file"))
    model, scalers = steps[-1], steps[:-1]
    if needs_steps(scalers, is_of_trees=is_of_trees(model)):
        return _behind_steps(steps, options)
    if is_of_trees(model):
        return _of_trees(model, steps, options)
    if model.package == NETWORKS:
        return Reading(read_network(steps, options, _source(steps)), _source(steps))
    fitted = read_linear(model)
    weights, constants = fitted.weights, np.zeros_like(fitted.weights)
    with np.errstate(all="ignore"):  # what overflows here is refused below, as a weight that is not finite
        for scaler in reversed(scalers):
            weights, constants = fold_scaler(scaler, weights, constants)
    features = chosen_features(_names_in_file(steps), options.features, weights.shape[0])
    features, weights = with_offsets(features, weights, options.offset, _exposure(fitted, features, options))
    constants = np.pad(constants, ((0, len(weights) - len(constants)), (0, 0)))
    try:
        intercept = held_intercept(fitted.intercept, options, fitted=fitted.fit_intercept)
        part = LinearPart(features, weights, intercept, constants.sum(axis=0), options.exposure)
        return Reading(_partial(fitted, part, steps, options), _source(steps), constants)
    except ValueError as error:
        raise ModelFileError(f"the coefficients in the file do not make a model: {error}") from error


def read_sklearn_top(value: object, arrays: ArrayReader, below: Below, options: ReadOptions) -> HeadReading:
    """Return the head whose top model is a perceptron, fitted to embeddings; scalers in front of it fold.

    Args:
        value: The inert value at the root of the file.
        arrays: Rebuilds arrays.
        below: Whose embeddings.
        options: Must name the model id, the training run and the party.

    Raises:
        UnsupportedModelError: It is no perceptron behind scalers.
        ModelFileError: It is damaged, or does not fit the embeddings.
        ModelConflictError: The operator says what no head has.
    """
    steps = _steps(read_estimator(value, arrays, "the file"))
    if steps[-1].package != NETWORKS or needs_steps(steps[:-1], is_of_trees=False):
        raise UnsupportedModelError(
            f"{_source(steps)} is no top model; of scikit-learn MLPClassifier and MLPRegressor are read as one, alone "
            "or behind scalers without clip"
        )
    layers, meaning = read_top(steps)
    try:
        head = below.head(layers)
    except ValueError as error:
        raise ModelFileError(f"the layers in the file do not make a top model: {error}") from error
    return head_reading(head, meaning, options, _source(steps))


def _of_trees(model: Estimator, steps: list[Estimator], options: ReadOptions) -> Reading:
    try:
        fitted = read_trees(model)
        features = chosen_features(_names_in_file(steps), options.features, fitted.n_features)
        part = fitted.part(features, held_intercept(fitted.intercept, options, fitted=fitted.fit_intercept))
        return Reading(_partial(fitted, part, steps, options), _source(steps))
    except ValueError as error:
        raise ModelFileError(f"the trees in the file do not make a model: {error}") from error


def _behind_steps(steps: list[Estimator], options: ReadOptions) -> Reading:
    """A pipeline of which not all folds into weights."""
    model = steps[-1]
    if options.offset or options.exposure is not None:
        raise ModelConflictError(
            "--offset and --exposure go with a linear model whose preprocessing folds into its weights"
        )
    features = chosen_features(_names_in_file(steps), options.features, n_columns(steps))
    try:
        if model.package == NETWORKS:
            alone = replace(model, state={**model.state, "feature_names_in_": None})
            partial = network_part(
                features,
                steps[:-1],
                lambda names: read_network([alone], replace(options, features=names), _source(steps)),
            )
            return Reading(partial, _source(steps))
        fitted = read_trees(model) if is_of_trees(model) else read_linear(model)
        intercept = held_intercept(fitted.intercept, options, fitted=fitted.fit_intercept)
        part = steps_part(features, steps[:-1], fitted, intercept)
        return Reading(_partial(fitted, part, steps, options), _source(steps))
    except ValueError as error:
        raise ModelFileError(f"the steps in the file do not make a model: {error}") from error


def _names_in_file(steps: list[Estimator]) -> tuple[str, ...] | None:
    """The feature names that the first step which has some was fitted with."""
    return next((names for names in map(names_of, steps) if names is not None), None)


def _partial(fitted: Fitted | FittedTrees, part: Part, steps: list[Estimator], options: ReadOptions) -> PartialModel:
    """The part with what the operator adds."""
    return PartialModel(
        model_id=agreed(None, options.model_id, "model_id"),
        training_run=agreed(None, options.training_run, "training_run"),
        party=agreed(None, options.party, "party"),
        kind=fitted.kind,
        classes=fitted.classes,
        fit_intercept=joint_intercept(options, fitted=fitted.fit_intercept),
        part=part,
        link=fitted.link,
        metadata={"source": _source(steps)},
    )


def _exposure(fitted: Fitted, features: tuple[str, ...], options: ReadOptions) -> str | None:
    """The exposure that predictions are multiplied by, which is no feature of the trained model."""
    if options.exposure is None:
        return None
    if fitted.link.name != "log":
        raise ModelConflictError(
            f"--exposure multiplies the predictions of a model with the link log; this one has {fitted.link}"
        )
    if options.exposure in features:
        raise ModelConflictError(f"--exposure {clipped(options.exposure)} has a weight in the file already")
    return options.exposure


def _steps(root: Estimator) -> list[Estimator]:
    """The estimators in order, the model last; a single one is a pipeline of itself."""
    if (root.package, root.name) != ("sklearn.pipeline", "Pipeline"):
        return [root]
    listed = root.state.get("steps")
    if not isinstance(listed, list) or not listed:
        raise ModelFileError("the pipeline has no list of steps")
    steps = []
    for number, entry in enumerate(listed, start=1):
        match entry:
            case (str(), None | "passthrough") if number < len(listed):
                continue
            case (str(name), step):
                steps.append(read_estimator(step, root.arrays, f"step '{clipped(name)}' of the pipeline"))
            case _:
                raise ModelFileError(f"step {number} of the pipeline is damaged")
    return steps


def _source(steps: list[Estimator]) -> str:
    names = ", ".join(step.name for step in steps)
    return f"scikit-learn {steps[-1].version_text} {names if len(steps) == 1 else f'Pipeline({names})'}"
