"""scikit-learn's multi-layer perceptrons: layers, and what their last activation makes of the scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from fedpredict.convert.head_form import Meaning
from fedpredict.convert.labels import chosen_features, label_text
from fedpredict.convert.options import ReadOptions
from fedpredict.convert.portable import agreed
from fedpredict.convert.sklearn_scalers import fold_scaler
from fedpredict.convert.sklearn_state import Estimator, read_estimator
from fedpredict.convert.values import clipped, described
from fedpredict.errors import ModelConflictError, ModelFileError, UnsupportedModelError
from fedpredict.model.activations import Activation
from fedpredict.model.arrays import Floats
from fedpredict.model.dense import Dense, check_chain
from fedpredict.model.kinds import Kind, own_link
from fedpredict.model.links import Link
from fedpredict.model.network import NetworkPart
from fedpredict.model.partial import PartialModel

PACKAGE = "sklearn.neural_network"

_HIDDEN: Mapping[str, Activation] = {
    "identity": Activation.IDENTITY,
    "logistic": Activation.SIGMOID,
    "tanh": Activation.TANH,
    "relu": Activation.RELU,
}
_CLASSIFIERS: Mapping[tuple[str, str], Kind] = {
    ("binary", "logistic"): Kind.BINARY,
    ("multiclass", "softmax"): Kind.MULTINOMIAL,
}
"""(What the labels are, the last activation) -> the kind."""
_REGRESSIONS = {"identity": own_link(Kind.LINEAR), "exp": Link("log")}


def read_network(steps: Sequence[Estimator], options: ReadOptions, source: str) -> PartialModel:
    """Return the partial model of a perceptron behind scalers.

    The bias of the last layer is the joint model's intercept, unless the operator says that another party holds that:
    then it stays this network's own.

    Args:
        steps: The estimators in order, the perceptron last.
        options: Must name the model id, the training run and the party.
        source: What wrote the file, for people.

    Raises:
        UnsupportedModelError: Another class of the package, labels of which a sample may have several, or a scaler
            that does not fold.
        ModelFileError, FeatureNamesError, ModelConflictError: As `read_sklearn`.
    """
    (kind, classes, link), layers, intercept = _perceptron(steps)
    in_file = next((names for names in (step.feature_names() for step in steps) if names is not None), None)
    features = chosen_features(in_file, options.features, layers[0].n_inputs)
    holds = options.holds_intercept is not False
    if holds and options.fit_intercept is False:
        raise ModelConflictError("the network has a last bias, which is the intercept; the operator says there is none")
    if not holds:
        last = layers[-1]
        layers[-1] = Dense(last.weights, intercept + last.bias, last.activation)
    try:
        return PartialModel(
            model_id=agreed(None, options.model_id, "model_id"),
            training_run=agreed(None, options.training_run, "training_run"),
            party=agreed(None, options.party, "party"),
            kind=kind,
            link=link,
            classes=classes,
            fit_intercept=options.fit_intercept is not False,
            part=NetworkPart(features, {}, {}, tuple(layers), intercept if holds else None),
            metadata={"source": source},
        )
    except ValueError as error:
        raise ModelFileError(f"the layers in the file do not make a model: {error}") from error


def read_top(steps: Sequence[Estimator]) -> tuple[tuple[Dense, ...], Meaning]:
    """Return the layers of a perceptron behind scalers, the last with its bias, and what its scores mean.

    Raises:
        UnsupportedModelError, ModelFileError: As `read_network`.
    """
    meaning, layers, intercept = _perceptron(steps)
    last = layers[-1]
    return (*layers[:-1], Dense(last.weights, intercept, last.activation)), meaning


def _perceptron(steps: Sequence[Estimator]) -> tuple[Meaning, list[Dense], Floats]:
    """Return what the scores mean, the layers for unscaled inputs, the last without its bias, and that bias."""
    model = steps[-1]
    kind, classes, link = _meaning(model)
    layers, intercept = _layers(model)
    if kind is not Kind.LINEAR and layers[-1].n_units != (1 if kind is Kind.BINARY else len(classes)):
        raise ModelFileError(f"{model.name} has {len(classes)} classes and {layers[-1].n_units} outputs")
    layers[0] = _folded(steps[:-1], layers[0])
    return (kind, classes, link), layers, intercept


def _meaning(model: Estimator) -> Meaning:
    """Return kind, classes and link, as the last activation says."""
    last = model.text("out_activation_") if "out_activation_" in model.state else None
    if model.name not in {"MLPClassifier", "MLPRegressor"}:
        raise UnsupportedModelError(
            f"{clipped(model.package)}...{clipped(model.name)} is not served; of its package MLPClassifier and "
            "MLPRegressor are"
        )
    if last is None:
        raise UnsupportedModelError(f"{model.name} is not fitted: it has no layers")
    if model.name == "MLPRegressor":
        if last not in _REGRESSIONS:
            raise UnsupportedModelError(f"{model.name} ends with '{clipped(last)}', which is unknown")
        return Kind.LINEAR, (), _REGRESSIONS[last]
    encoder = read_estimator(model.state.get("_label_binarizer"), model.arrays, f"{model.name}._label_binarizer")
    labels_are = encoder.text("y_type_")
    kind = _CLASSIFIERS.get((labels_are, last))
    if kind is None:
        raise UnsupportedModelError(
            f"{model.name} was fitted to labels of the type '{clipped(labels_are)}' and ends with '{clipped(last)}': "
            "served are two classes and one of several classes; where a sample may have several labels, train one "
            "model for each"
        )
    classes = tuple(map(label_text, model.arrays.labels(model.state.get("classes_"), f"{model.name}.classes_")))
    return kind, classes, own_link(kind)


def _layers(model: Estimator) -> tuple[list[Dense], Floats]:
    """Return the layers, the last without its bias, and that bias."""
    hidden = _HIDDEN.get(model.text("activation"))
    if hidden is None:
        raise UnsupportedModelError(f"{model.name}(activation='{clipped(model.text('activation'))}') is unknown")
    weights, biases = _arrays(model, "coefs_"), _arrays(model, "intercepts_")
    if not weights or len(weights) != len(biases):
        raise ModelFileError(f"{model.name} has {len(weights)} layers of coefficients and {len(biases)} of intercepts")
    biases, intercept = [*biases[:-1], np.zeros_like(biases[-1])], biases[-1]
    activations = [hidden] * (len(weights) - 1) + [Activation.IDENTITY]
    try:
        layers = list(map(Dense, weights, biases, activations))
        check_chain(layers, len(weights[0]))
    except ValueError as error:
        raise ModelFileError(f"{model.name}: {error}") from error
    model.check_n_features(layers[0].n_inputs)
    return layers, intercept


def _arrays(model: Estimator, key: str) -> list[Floats]:
    value = model.state.get(key)
    if not isinstance(value, list):
        raise ModelFileError(f"{model.name}.{key} is {described(value)}, not a list")
    return [model.arrays.numbers(each, f"{model.name}.{key}[{at}]") for at, each in enumerate(value)]


def _folded(scalers: Sequence[Estimator], first: Dense) -> Dense:
    """Return the first layer for features that no scaler has seen yet."""
    weights, constants = first.weights, np.zeros_like(first.weights)
    with np.errstate(all="ignore"):  # what overflows here is refused below, as a weight that is not finite
        for scaler in reversed(scalers):
            weights, constants = fold_scaler(scaler, weights, constants)
        bias = first.bias + constants.sum(axis=0)
    try:
        return Dense(weights, bias, first.activation)
    except ValueError as error:
        raise ModelFileError(f"the scalers do not fold into the first layer: {error}") from error
