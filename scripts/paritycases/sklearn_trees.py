"""scikit-learn's trees, forests and boosted trees; with missing values where they take them."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from sklearn import ensemble, tree

from paritycases.case import Case, Data, all_data, pickled, with_missing

SMALL = {"n_estimators": 20, "random_state": 0, "max_depth": 6}


def cases() -> Iterator[Case]:
    """Return a case per estimator and data set that it fits."""
    for data in all_data():
        if data.target.ndim > 1:
            forest = ensemble.RandomForestRegressor(**SMALL).fit(data.frame, data.target)
            yield _case("linear", forest, data, forest.predict(data.frame))
            continue
        for each in (data, with_missing(data)):
            yield from _classifiers(each) if data.is_classes else _regressors(each)


def _classifiers(data: Data) -> Iterator[Case]:
    kind = "binary" if len(np.unique(data.target)) == 2 else "multinomial"
    for make in (ensemble.RandomForestClassifier, ensemble.ExtraTreesClassifier, tree.DecisionTreeClassifier):
        arguments = {**SMALL, "n_estimators": 20} if make is not tree.DecisionTreeClassifier else {"random_state": 0}
        model = make(**arguments)
        try:
            model.fit(data.frame, data.target)
        except ValueError:  # no missing values in this estimator
            continue
        probabilities = model.predict_proba(data.frame)
        yield _case("probability", model, data, probabilities[:, 1:] if kind == "binary" else probabilities)
    histogram = ensemble.HistGradientBoostingClassifier(max_iter=20, random_state=0).fit(data.frame, data.target)
    yield _boosted(kind, histogram, data)
    if not data.frame.isna().to_numpy().any():
        yield _boosted(
            kind,
            ensemble.GradientBoostingClassifier(n_estimators=20, random_state=0).fit(data.frame, data.target),
            data,
        )


def _regressors(data: Data) -> Iterator[Case]:
    models = [
        ensemble.RandomForestRegressor(**SMALL),
        ensemble.ExtraTreesRegressor(**SMALL),
        tree.DecisionTreeRegressor(random_state=0),
        ensemble.HistGradientBoostingRegressor(max_iter=20, random_state=0),
    ]
    if not data.frame.isna().to_numpy().any():
        models.append(ensemble.GradientBoostingRegressor(n_estimators=20, random_state=0))
    for model in models:
        model.fit(data.frame, data.target)
        yield _case("linear", model, data, model.predict(data.frame))
    poisson = ensemble.HistGradientBoostingRegressor(loss="poisson", max_iter=20, random_state=0)
    poisson.fit(data.frame, np.abs(data.target))
    mean = poisson.predict(data.frame)[:, None]
    yield replace(_case("log link", poisson, data, np.log(mean)), predictions=mean)


def _boosted(kind: str, model: object, data: Data) -> Case:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        raw, probabilities = model.decision_function(data.frame), model.predict_proba(data.frame)
    return replace(
        _case(kind, model, data, raw), predictions=probabilities[:, 1:] if kind == "binary" else probabilities
    )


def _case(kind: str, model: object, data: Data, raw: object) -> Case:
    return Case(
        kind=f"trees, {kind}",
        source=f"scikit-learn {type(model).__name__}",
        data=data,
        file=pickled(model),
        raw=np.asarray(raw, dtype=np.float64).reshape(len(data.frame), -1),
    )
