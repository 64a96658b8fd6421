"""scikit-learn's preprocessing in front of linear models and trees: numbers with gaps, and texts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from sklearn import linear_model, preprocessing
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline

from paritycases.case import Case, Data, Trained, all_data, as_rows, pickled, positive, with_missing

LEVELS = ("low", "mid", "high")


def cases() -> Iterator[Case]:
    """Return a case per kind of step and data set."""
    for whole in all_data():
        if whole.target.ndim > 1:
            continue
        numbers = [str(name) for name in whole.frame.columns]
        for steps in (
            [preprocessing.PowerTransformer()],
            [preprocessing.QuantileTransformer(n_quantiles=50)],
            [preprocessing.KBinsDiscretizer(5, encode="onehot-dense", quantile_method="averaged_inverted_cdf")],
            [preprocessing.MinMaxScaler(clip=True)],
        ):
            yield _case(whole, steps, linear=True)
        data = with_missing(whole)
        imputed = [SimpleImputer(add_indicator=True), preprocessing.StandardScaler()]
        yield _case(data, imputed, linear=True)
        yield _case(data, [SimpleImputer(strategy="median")], linear=False)
        texts = _with_texts(data)
        encoded = ColumnTransformer(
            [
                ("numbers", SimpleImputer(), numbers),
                ("texts", preprocessing.OneHotEncoder(handle_unknown="ignore"), ["first level", "second level"]),
            ]
        )
        yield _case(texts, [encoded], linear=True)


def _with_texts(data: Data) -> Data:
    """Return the data with a text feature more at every party, made of a number of its own."""
    frame, parties = data.frame.copy(), {party: list(names) for party, names in data.parties.items()}
    for name, party in zip(("first level", "second level"), parties, strict=True):
        ranks = frame[parties[party][0]].rank(pct=True).fillna(0.5).to_numpy()
        frame[name] = np.array(LEVELS, dtype=object)[np.minimum((ranks * 3).astype(int), 2)]
        parties[party].append(name)
    return replace(data, name=f"{data.name}, texts", frame=frame, parties=parties)


def _case(data: Data, steps: list[Any], *, linear: bool) -> Case:
    two = data.is_classes and len(np.unique(data.target)) == 2
    kind = "linear" if not data.is_classes else "binary" if two else "multinomial"
    if linear:
        model = linear_model.LogisticRegression(max_iter=200) if data.is_classes else linear_model.Ridge()
    else:
        forest = RandomForestClassifier if data.is_classes else RandomForestRegressor
        model, kind = forest(20, max_depth=6, random_state=0), "probability" if data.is_classes else "linear"
        data = replace(data, parties={"alpha": list(data.frame.columns)})

    def train() -> Trained:
        pipeline = make_pipeline(*steps, model).fit(data.frame, data.target)
        if not data.is_classes:
            return Trained(file=pickled(pipeline), raw=as_rows(pipeline.predict(data.frame), data))
        predictions = positive(pipeline.predict_proba(data.frame))
        if not linear:
            return Trained(file=pickled(pipeline), raw=predictions)
        raw = as_rows(pipeline.decision_function(data.frame), data)
        return Trained(file=pickled(pipeline), raw=raw, predictions=predictions)

    names = ", ".join(type(each).__name__ for each in (*steps, model))
    return Case(kind=f"steps, {kind}", source=f"scikit-learn Pipeline({names})", data=data, train=train)
