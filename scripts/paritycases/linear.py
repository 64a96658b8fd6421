"""scikit-learn's linear models, alone and behind scalers."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from sklearn import linear_model, svm
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler

from paritycases.case import Case, Data, all_data, pickled


def cases() -> Iterator[Case]:
    """Return a case per estimator and data set that it fits."""
    for data in all_data():
        yield from _classifiers(data) if data.is_classes else _regressors(data)


def _classifiers(data: Data) -> Iterator[Case]:
    two = len(np.unique(data.target)) == 2
    kind = "binary" if two else "multinomial"
    model = make_pipeline(StandardScaler(), linear_model.LogisticRegression(max_iter=300))
    model.fit(data.frame, data.target)
    yield _case(f"linear, {kind}", "Pipeline(StandardScaler, LogisticRegression)", data, model, proba=True)
    sgd = make_pipeline(MinMaxScaler(), linear_model.SGDClassifier(loss="log_loss", random_state=0))
    sgd.fit(data.frame, data.target)
    kind = "binary" if two else "one_vs_rest"
    yield _case(f"linear, {kind}", "Pipeline(MinMaxScaler, SGDClassifier)", data, sgd, proba=True)
    for make in (svm.LinearSVC, linear_model.Perceptron, linear_model.RidgeClassifier):
        decision = make_pipeline(StandardScaler(), make(random_state=0)).fit(data.frame, data.target)
        yield _case("linear, decision", f"Pipeline(StandardScaler, {make.__name__})", data, decision)


def _regressors(data: Data) -> Iterator[Case]:
    yield _case(
        "linear, linear", "LinearRegression", data, linear_model.LinearRegression().fit(data.frame, data.target)
    )
    if data.target.ndim > 1:
        return
    target = np.abs(data.target) + 0.5
    for make, link in (
        (linear_model.PoissonRegressor, "log"),
        (linear_model.GammaRegressor, "log"),
        (linear_model.TweedieRegressor, "log"),
    ):
        arguments = {"power": 1.5, "link": "log"} if make is linear_model.TweedieRegressor else {}
        model = make_pipeline(StandardScaler(), make(max_iter=500, **arguments)).fit(data.frame, target)
        mean = model.predict(data.frame)[:, None]
        yield Case(
            kind=f"linear, {link} link",
            source=f"scikit-learn Pipeline(StandardScaler, {make.__name__})",
            data=data,
            file=pickled(model),
            raw=np.log(mean),
            predictions=mean,
        )


def _case(kind: str, source: str, data: Data, model: object, *, proba: bool = False) -> Case:
    raw = model.decision_function(data.frame) if hasattr(model, "decision_function") else model.predict(data.frame)
    raw = np.asarray(raw, dtype=np.float64).reshape(len(data.frame), -1)
    predictions = model.predict_proba(data.frame) if proba else None
    if predictions is not None and predictions.shape[1] == 2:
        predictions = predictions[:, 1:]
    return Case(
        kind=kind, source=f"scikit-learn {source}", data=data, file=pickled(model), raw=raw, predictions=predictions
    )
