"""Random linear models: scikit-learn's, also behind scalers, and portable ones whose oracle is their definition."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pandas as pd
from scipy import special
from sklearn import linear_model, preprocessing, svm
from sklearn.pipeline import make_pipeline

from fedpredict.model.arrays import Floats
from tests.random_cuts.data import Random, names_of, numbers, owners, signal
from tests.random_cuts.trial import Said, Trial, UnfitError, as_rows, classes_of, fitted, positive, saved, trial_of

SCALERS = (
    preprocessing.StandardScaler,
    preprocessing.MinMaxScaler,
    preprocessing.MaxAbsScaler,
    preprocessing.RobustScaler,
)


def sklearn_linear(random: Random) -> Trial:
    """Return a regression, a generalised one, or a classifier of two or three classes."""
    names = names_of(random)
    widest = float(random.choice([0.0, 3.0, 100.0]))
    frame = numbers(random, 60, names, widest=widest)
    target = signal(random, frame)
    scalers = (
        [make() for make in SCALERS if random.random() < 0.25] if widest <= 3.0 else [preprocessing.MaxAbsScaler()]
    )
    draw = [_regression, _generalised, _classifier][int(random.integers(3))]
    model, target, oracle = draw(random, target)
    pipeline = fitted(make_pipeline(*scalers, model), frame, target)
    if not np.isfinite(pipeline[-1].coef_).all():
        raise UnfitError("it diverged")
    return trial_of(
        random,
        saved(pipeline),
        frame,
        owners(random, names),
        lambda rows: oracle(pipeline, rows),
    )


def _regression(random: Random, target: Floats) -> tuple[Any, Any, Any]:
    makes = (linear_model.LinearRegression, linear_model.Ridge, linear_model.Lasso)
    model = makes[int(random.integers(3))](fit_intercept=bool(random.random() < 0.8))
    many = isinstance(model, linear_model.LinearRegression) and random.random() < 0.4
    targets = np.column_stack([target, -(target**2)]) if many else target

    def oracle(pipeline: Any, rows: pd.DataFrame) -> Said:
        found = as_rows(pipeline.predict(rows), len(rows))
        return found, found

    return model, targets, oracle


def _generalised(random: Random, target: Floats) -> tuple[Any, Any, Any]:
    makes = (
        lambda: linear_model.PoissonRegressor(max_iter=50),
        lambda: linear_model.GammaRegressor(max_iter=50, alpha=0.1),
        lambda: linear_model.TweedieRegressor(power=1.5, link="log", max_iter=50),
    )
    model = makes[int(random.integers(len(makes)))]()

    def oracle(pipeline: Any, rows: pd.DataFrame) -> Said:
        scaled = pipeline[:-1].transform(rows) if len(pipeline) > 1 else rows
        raw = as_rows(pipeline[-1]._linear_predictor(scaled), len(rows))
        return raw, as_rows(pipeline.predict(rows), len(rows))

    return model, np.exp(np.clip(target, -3.0, 3.0)), oracle


def _classifier(random: Random, target: Floats) -> tuple[Any, Any, Any]:
    makes: Any = (
        lambda: linear_model.LogisticRegression(max_iter=40),
        lambda: linear_model.SGDClassifier(loss="log_loss", max_iter=20, random_state=0),
        lambda: svm.LinearSVC(max_iter=50, random_state=0),
        lambda: linear_model.Perceptron(max_iter=20, random_state=0),
        linear_model.RidgeClassifier,
    )
    model = makes[int(random.integers(len(makes)))]()

    def oracle(pipeline: Any, rows: pd.DataFrame) -> Said:
        raw = as_rows(pipeline.decision_function(rows), len(rows))
        return raw, positive(pipeline.predict_proba(rows)) if hasattr(pipeline, "predict_proba") else raw

    return model, classes_of(random, target), oracle


def portable(random: Random) -> Trial:
    """Return an ordinal model or one with a rarer link, with an offset or an exposure at times, of random weights."""
    names = names_of(random, 5)
    frame = numbers(random, 60, names, widest=float(random.choice([0.0, 2.0])))
    frame[names[-1]] = np.abs(frame[names[-1]]) + 0.1
    weights = random.normal(size=len(names)) / (1.0 + np.abs(frame).max().to_numpy())
    has_exposure = bool(random.random() < 0.4)
    content: dict[str, Any] = {
        "format": "fedpredict-partial-1", "model_id": f"m-{random.integers(2**48):x}", "training_run": "run-1",
        "party": "joint-model", "constant": 0.25, "kind": "linear", "fit_intercept": False,
    }  # fmt: skip
    if has_exposure:
        weights[-1] = 1.0
        content["exposure"] = names[-1]
    content |= {"features": names[:-1] if has_exposure else names}
    content |= {"weights": [float(each) for each in (weights[:-1] if has_exposure else weights)]}
    if not content["features"]:
        raise UnfitError("nothing but an exposure")
    link = LINKS[int(random.integers(len(LINKS)))]
    content |= link

    def oracle(rows: pd.DataFrame) -> Said:
        values = rows[names].to_numpy(dtype=np.float64, copy=True)
        if not np.isfinite(values).all() or (has_exposure and (values[:, -1] <= 0.0).any()):
            raise ValueError("not of this model's domain")
        if has_exposure:
            values[:, -1] = np.log(values[:, -1])
        raw = values @ weights + 0.25
        return raw[:, None], _inverse(str(link.get("link", "identity")), raw)

    return trial_of(
        random,
        json.dumps(content).encode(),
        frame,
        owners(random, names),
        oracle,
        model_id=None,
        training_run=None,
        party=None,
    )


THRESHOLDS = (-1.0, 1 / 3, 1.1)
LINKS: tuple[dict[str, Any], ...] = (
    *(
        {
            "kind": "ordinal",
            "link": f"{name}:" + ",".join(map(repr, THRESHOLDS)),
            "classes": ["A", "B", "C", "D"],
        }
        for name in ("cumulative_logit", "cumulative_probit")
    ),
    {"link": "log"},
    {"kind": "binary", "link": "probit", "classes": ["0", "1"]},
    {"kind": "binary", "link": "cloglog", "classes": ["0", "1"]},
    {},
)


def _inverse(link: str, raw: Floats) -> Floats:
    name, _, thresholds = link.partition(":")
    if thresholds:
        below = np.array([float(each) for each in thresholds.split(",")]) - raw[:, None]
        shape = special.expit if name.endswith("logit") else special.ndtr
        return np.diff(shape(below), axis=1, prepend=0.0, append=1.0)
    shapes: dict[str, Any] = {
        "identity": lambda x: x,
        "log": np.exp,
        "probit": special.ndtr,
        "cloglog": lambda x: -np.expm1(-np.exp(x)),
    }
    return np.asarray(shapes[name](raw))[:, None]
