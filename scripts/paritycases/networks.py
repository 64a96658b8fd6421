"""scikit-learn perceptrons behind a scaler, at one party: a network that mixes all features cannot be cut."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from paritycases.case import Case, Data, Trained, all_data, as_rows, at_one, pickled, positive


def cases() -> Iterator[Case]:
    """Return a case per activation and data set."""
    for data in map(at_one, all_data()):
        for activation in ("relu", "tanh", "logistic"):
            make = MLPClassifier if data.is_classes else MLPRegressor
            model = make(hidden_layer_sizes=(16, 8), activation=activation, max_iter=60, random_state=0)
            yield _case(data, activation, model)


def _case(data: Data, activation: str, model: Any) -> Case:
    kind = "linear"
    if data.is_classes:
        kind = "binary" if len(np.unique(data.target)) == 2 else "multinomial"

    def train() -> Trained:
        pipeline = make_pipeline(StandardScaler(), model).fit(data.frame, data.target)
        if not data.is_classes:
            return Trained(file=pickled(pipeline), raw=as_rows(pipeline.predict(data.frame), data))
        return Trained(
            file=pickled(pipeline),
            raw=_logits(pipeline, data),
            predictions=positive(pipeline.predict_proba(data.frame)),
        )

    source = f"scikit-learn Pipeline(StandardScaler, {type(model).__name__}({activation}))"
    return Case(kind=f"network, {kind}", source=source, data=data, train=train)


def _logits(pipeline: Any, data: Data) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return what stands before the last activation: the library's own layers, with that one taken away."""
    scaler, model = pipeline[0], pipeline[1]
    last, model.out_activation_ = model.out_activation_, "identity"
    try:
        return as_rows(model._forward_pass_fast(scaler.transform(data.frame)), data)  # noqa: SLF001
    finally:
        model.out_activation_ = last
