"""scikit-learn's linear models, alone and behind scalers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from sklearn import linear_model, svm
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler

from paritycases.case import Case, Data, Trained, all_data, as_rows, pickled, positive


def cases() -> Iterator[Case]:
    """Return a case per estimator and data set that it fits."""
    for data in all_data():
        yield from _classifiers(data) if data.is_classes else _regressors(data)


def _classifiers(data: Data) -> Iterator[Case]:
    two = len(np.unique(data.target)) == 2
    logistic = make_pipeline(StandardScaler(), linear_model.LogisticRegression(max_iter=300))
    yield _case("binary" if two else "multinomial", logistic, data)
    sgd = make_pipeline(MinMaxScaler(), linear_model.SGDClassifier(loss="log_loss", random_state=0))
    yield _case("binary" if two else "one_vs_rest", sgd, data)
    for make in (svm.LinearSVC, linear_model.Perceptron, linear_model.RidgeClassifier):
        yield _case("decision", make_pipeline(StandardScaler(), make(random_state=0)), data)


def _regressors(data: Data) -> Iterator[Case]:
    yield _case("linear", make_pipeline(linear_model.LinearRegression()), data)
    if data.target.ndim > 1:
        return
    for model in (
        linear_model.PoissonRegressor(max_iter=500),
        linear_model.GammaRegressor(max_iter=500),
        linear_model.TweedieRegressor(max_iter=500, power=1.5, link="log"),
    ):
        yield _case("log link", make_pipeline(StandardScaler(), model), data)


def _case(kind: str, pipeline: Any, data: Data) -> Case:
    def train() -> Trained:
        model = pipeline.fit(data.frame, np.abs(data.target) + 0.5 if kind == "log link" else data.target)
        if kind == "log link":
            mean = as_rows(model.predict(data.frame), data)
            return Trained(file=pickled(model), raw=np.log(mean), predictions=mean)
        raw = model.decision_function(data.frame) if data.is_classes else model.predict(data.frame)
        has_probabilities = data.is_classes and kind != "decision"
        predictions = positive(model.predict_proba(data.frame)) if has_probabilities else None
        return Trained(file=pickled(model), raw=as_rows(raw, data), predictions=predictions)

    names = [type(step).__name__ for _, step in pipeline.steps]
    source = names[0] if len(names) == 1 else f"Pipeline({', '.join(names)})"
    return Case(kind=f"linear, {kind}", source=f"scikit-learn {source}", data=data, train=train)
