"""scikit-learn's trees, forests and boosted trees; with missing values where they take them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from sklearn import ensemble, tree

from paritycases.case import Case, Data, Trained, all_data, as_rows, at_one, pickled, positive, with_missing

FOREST: dict[str, Any] = {"n_estimators": 20, "random_state": 0, "max_depth": 6}
BOOSTED: dict[str, Any] = {"random_state": 0}


def cases() -> Iterator[Case]:
    """Return a case per estimator and data set that it fits."""
    for data in map(at_one, all_data()):
        if data.target.ndim > 1:
            yield _case("linear", ensemble.RandomForestRegressor(**FOREST), data)
            continue
        for each in (data, with_missing(data)):
            yield from _classifiers(each) if data.is_classes else _regressors(each)


def _classifiers(data: Data) -> Iterator[Case]:
    kind = "binary" if len(np.unique(data.target)) == 2 else "multinomial"
    yield _case("probability", ensemble.RandomForestClassifier(**FOREST), data)
    yield _case("probability", ensemble.ExtraTreesClassifier(**FOREST), data)
    yield _case("probability", tree.DecisionTreeClassifier(random_state=0), data)
    yield _case(kind, ensemble.HistGradientBoostingClassifier(max_iter=20, **BOOSTED), data)
    if not _misses(data):
        yield _case(kind, ensemble.GradientBoostingClassifier(n_estimators=20, **BOOSTED), data)


def _regressors(data: Data) -> Iterator[Case]:
    yield _case("linear", ensemble.RandomForestRegressor(**FOREST), data)
    yield _case("linear", ensemble.ExtraTreesRegressor(**FOREST), data)
    yield _case("linear", tree.DecisionTreeRegressor(random_state=0), data)
    yield _case("linear", ensemble.HistGradientBoostingRegressor(max_iter=20, **BOOSTED), data)
    yield _case("log link", ensemble.HistGradientBoostingRegressor(loss="poisson", max_iter=20, **BOOSTED), data)
    if not _misses(data):
        yield _case("linear", ensemble.GradientBoostingRegressor(n_estimators=20, **BOOSTED), data)


def _misses(data: Data) -> bool:
    return bool(data.frame.isna().to_numpy().any())


def _case(kind: str, model: Any, data: Data) -> Case:
    def train() -> Trained:
        model.fit(data.frame, np.abs(data.target) if kind == "log link" else data.target)
        if kind == "log link":
            mean = as_rows(model.predict(data.frame), data)
            return Trained(file=pickled(model), raw=np.log(mean), predictions=mean)
        if kind == "probability":
            return Trained(file=pickled(model), raw=positive(model.predict_proba(data.frame)))
        if kind == "linear":
            return Trained(file=pickled(model), raw=as_rows(model.predict(data.frame), data))
        raw, probabilities = model.decision_function(data.frame), model.predict_proba(data.frame)
        return Trained(file=pickled(model), raw=as_rows(raw, data), predictions=positive(probabilities))

    return Case(kind=f"trees, {kind}", source=f"scikit-learn {type(model).__name__}", data=data, train=train)
