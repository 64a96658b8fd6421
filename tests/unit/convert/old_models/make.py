"""Writes `scikit-learn-<version>.json`: models of the scikit-learn that runs this, with its own predictions.

Run once in an environment of each old version (`pip install scikit-learn==1.5.2`), never by the tests:
`python make.py`. The tests read what it wrote, with no scikit-learn of that version at hand.
"""

from __future__ import annotations

import base64
import json
import pickle
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import sklearn
from sklearn.datasets import load_diabetes, load_iris
from sklearn.linear_model import (
    ElasticNet,
    GammaRegressor,
    Lasso,
    LinearRegression,
    LogisticRegression,
    LogisticRegressionCV,
    Perceptron,
    PoissonRegressor,
    Ridge,
    RidgeClassifier,
    RidgeClassifierCV,
    RidgeCV,
    SGDClassifier,
    TweedieRegressor,
)
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MaxAbsScaler, MinMaxScaler, RobustScaler, StandardScaler
from sklearn.svm import LinearSVC, LinearSVR


def _classifiers() -> dict[str, tuple[Any, int]]:
    """Name -> (model, number of classes)."""
    log = "log_loss" if tuple(map(int, sklearn.__version__.split(".")[:2])) >= (1, 3) else "log"
    return {
        "two_multinomial": (LogisticRegression(multi_class="multinomial"), 2),
        "two_auto": (LogisticRegression(), 2),
        "two_ovr": (LogisticRegression(multi_class="ovr"), 2),
        "three_auto": (LogisticRegression(), 3),
        "three_ovr": (LogisticRegression(multi_class="ovr"), 3),
        "three_multinomial": (LogisticRegression(multi_class="multinomial"), 3),
        "three_liblinear": (LogisticRegression(solver="liblinear"), 3),
        "three_newton_cholesky": (LogisticRegression(solver="newton-cholesky"), 3),
        "three_no_intercept": (LogisticRegression(fit_intercept=False), 3),
        "three_sgd": (SGDClassifier(loss=log, random_state=0), 3),
        "two_sgd_scaled": (make_pipeline(StandardScaler(), SGDClassifier(loss=log, random_state=0)), 2),
        "three_scaled": (make_pipeline(RobustScaler(), MinMaxScaler(), LogisticRegression()), 3),
        "two_cv_multinomial": (LogisticRegressionCV(Cs=3, cv=3, multi_class="multinomial"), 2),
        "three_cv": (LogisticRegressionCV(Cs=3, cv=3), 3),
    }


def _deciders() -> dict[str, tuple[Any, int]]:
    """Name -> (model, number of classes), whose decision values are kept."""
    return {
        "decision_two_svc": (LinearSVC(random_state=0), 2),
        "decision_three_svc": (LinearSVC(random_state=0), 3),
        "decision_two_ridge": (RidgeClassifier(), 2),
        "decision_three_ridge": (RidgeClassifierCV(), 3),
        "decision_two_perceptron": (Perceptron(), 2),
        "decision_three_hinge": (make_pipeline(StandardScaler(), SGDClassifier(random_state=0)), 3),
    }


def _regressions() -> dict[str, Any]:
    return {
        "linear": LinearRegression(),
        "linear_two_targets": LinearRegression(),
        "ridge": Ridge(fit_intercept=False),
        "lasso": make_pipeline(MaxAbsScaler(), Lasso(alpha=0.1)),
        "elastic_net": ElasticNet(alpha=0.1),
        "ridge_cv": RidgeCV(),
        "svr": LinearSVR(random_state=0),
        "poisson": PoissonRegressor(),
        "gamma": make_pipeline(StandardScaler(), GammaRegressor()),
        "tweedie": TweedieRegressor(power=1.5),
        "tweedie_normal": TweedieRegressor(power=0),
        "tweedie_normal_log": TweedieRegressor(power=0, link="log", fit_intercept=False),
    }


def _entry(model: Any, features: Any, predictions: Any) -> dict[str, object]:
    return {
        "pickle": base64.b64encode(pickle.dumps(model, protocol=4)).decode(),
        "features": features.tolist(),
        "predictions": predictions.tolist(),
    }


def main() -> None:
    """Train, predict, write; what the file has already stays as it is."""
    path = Path(__file__).with_name(f"scikit-learn-{sklearn.__version__}.json")
    known = json.loads(path.read_text()) if path.exists() else {}
    warnings.simplefilter("ignore")
    result = {}
    features, labels = load_iris(return_X_y=True)
    for name, (model, n_classes) in _classifiers().items():
        chosen = labels < n_classes if n_classes == 3 else labels > 0
        model.fit(features[chosen], labels[chosen])
        result[name] = _entry(model, features[::15], model.predict_proba(features[::15]))
    for name, (model, n_classes) in _deciders().items():
        chosen = labels < n_classes if n_classes == 3 else labels > 0
        model.fit(features[chosen], labels[chosen])
        decisions = model.decision_function(features[::15])
        result[name] = _entry(model, features[::15], decisions.reshape(len(decisions), -1))
    features, target = load_diabetes(return_X_y=True)
    for name, model in _regressions().items():
        model.fit(features, np.c_[target, target**2] if name.endswith("targets") else target)
        predictions = model.predict(features[::50])
        result[name] = _entry(model, features[::50], predictions.reshape(len(predictions), -1))
    path.write_text(
        json.dumps({**known, **{name: entry for name, entry in result.items() if name not in known}}, indent=1) + "\n"
    )


if __name__ == "__main__":
    main()
