"""Pipelines of scikit-learn with preprocessing, the data that they were fitted on, and rows to score."""

from __future__ import annotations

import contextlib
import functools
import pickle
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from sklearn.compose import ColumnTransformer, make_column_selector
from sklearn.ensemble import RandomForestRegressor
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.neural_network import MLPRegressor
from sklearn.pipeline import FeatureUnion, Pipeline, make_pipeline
from sklearn.preprocessing import (
    FunctionTransformer,
    KBinsDiscretizer,
    MaxAbsScaler,
    MinMaxScaler,
    OneHotEncoder,
    OrdinalEncoder,
    PolynomialFeatures,
    PowerTransformer,
    QuantileTransformer,
    RobustScaler,
    StandardScaler,
)

from fedpredict.convert.child import read_content
from fedpredict.convert.options import Limits, ReadOptions
from fedpredict.model.arrays import Floats
from fedpredict.model.part import UNKNOWN_CATEGORY, Part
from fedpredict.model.partial import PartialModel

NUMBERS, TEXTS = ["age", "income", "debt", "rooms"], ["city", "job"]
CITIES = ["Wien", "Graz", "Gráz", "", "O'Hara; --"]


@functools.cache
def data(n_rows: int = 240, seed: int = 0) -> pd.DataFrame:
    """Numbers and texts with gaps; `rooms` is whole numbers that serve as categories."""
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {
            "age": rng.normal(45.0, 12.0, n_rows).round(1),
            "income": rng.lognormal(8.0, 1.0, n_rows),
            "debt": rng.normal(0.0, 3.0, n_rows),
            "rooms": rng.integers(1, 5, n_rows).astype(float),
            "city": rng.choice(CITIES, n_rows, p=[0.4, 0.3, 0.15, 0.1, 0.05]),
            "job": rng.choice(["baker", "smith", "vet"], n_rows, p=[0.6, 0.38, 0.02]),
        }
    )
    for name in ("age", "debt", "city"):
        frame.loc[rng.random(n_rows) < 0.1, name] = None
    return frame


def target(frame: pd.DataFrame) -> np.ndarray:
    score = frame["age"].fillna(40.0) / 10.0 + np.log(frame["income"]) - (frame["city"] == "Wien") * 2.0
    return np.asarray(np.digitize(score, np.quantile(score, [0.3, 0.7])))


def _encoded(encoder: Any, **others: Any) -> ColumnTransformer:
    numbers = make_pipeline(SimpleImputer(strategy="median", add_indicator=True), StandardScaler())
    return ColumnTransformer([("n", numbers, ["age", "income", "debt"]), ("c", encoder, TEXTS)], **others)


def _selected() -> ColumnTransformer:
    is_text = make_column_selector(dtype_exclude=np.number)
    return ColumnTransformer([("t", OneHotEncoder(drop="first"), is_text)], remainder=SimpleImputer(strategy="mean"))


def _constant_texts() -> Any:
    return make_pipeline(
        SimpleImputer(strategy="constant", fill_value="none"), OneHotEncoder(drop="if_binary", sparse_output=False)
    )


def _bins(encode: str) -> ColumnTransformer:
    kept = KBinsDiscretizer(5, encode=encode, strategy="quantile", quantile_method="averaged_inverted_cdf")
    uniform = KBinsDiscretizer(3, encode=encode, strategy="uniform")
    return ColumnTransformer([("q", kept, ["income"]), ("u", uniform, ["rooms"])], remainder="drop")


def _numbers_only(*steps: Any) -> Any:
    return make_pipeline(ColumnTransformer([("x", "passthrough", ["income", "rooms"])]), *steps)


TRANSFORMS: Mapping[str, Callable[[], Any]] = {
    "onehot, ignore": lambda: _encoded(
        make_pipeline(SimpleImputer(strategy="most_frequent"), OneHotEncoder(handle_unknown="ignore"))
    ),
    "onehot, missing as a category": lambda: _encoded(OneHotEncoder(), remainder="passthrough"),
    "onehot, infrequent": lambda: _encoded(
        OneHotEncoder(min_frequency=20, handle_unknown="infrequent_if_exist", drop="first")
    ),
    "onehot, constant imputer": lambda: _encoded(_constant_texts()),
    "onehot of selected columns": _selected,
    "onehot of numbers": lambda: ColumnTransformer(
        [("r", OneHotEncoder(handle_unknown="ignore", drop="if_binary"), ["rooms"])], remainder="drop"
    ),
    "ordinal": lambda: _encoded(
        OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-3, encoded_missing_value=-2)
    ),
    "ordinal of numbers": lambda: ColumnTransformer([("r", OrdinalEncoder(), ["rooms"])]),
    "bins, ordinal": lambda: _bins("ordinal"),
    "bins, onehot": lambda: _bins("onehot"),
    "bins, onehot-dense": lambda: _bins("onehot-dense"),
    "power": lambda: ColumnTransformer(
        [
            ("y", make_pipeline(SimpleImputer(), PowerTransformer()), ["age", "debt"]),
            ("b", PowerTransformer("box-cox", standardize=False), ["income", "rooms"]),
        ]
    ),
    "clipping": lambda: _numbers_only(MinMaxScaler((-2, 1), clip=True), RobustScaler(), MaxAbsScaler(clip=True)),
    "polynomial": lambda: _numbers_only(StandardScaler(), PolynomialFeatures(3), FunctionTransformer()),
    "interactions": lambda: _numbers_only(PolynomialFeatures(2, interaction_only=True, include_bias=False)),
    "quantile": lambda: _numbers_only(QuantileTransformer(n_quantiles=40)),
    "quantile, normal": lambda: _numbers_only(QuantileTransformer(n_quantiles=30, output_distribution="normal")),
    "union": lambda: _numbers_only(FeatureUnion([("a", "passthrough"), ("b", PowerTransformer()), ("c", "drop")])),
}


@functools.cache
def fitted(name: str, core: str = "linear") -> Pipeline:
    """A pipeline of one of the transforms and a core: linear (two classes, three classes), trees or a network."""
    cores: Mapping[str, Callable[[], Any]] = {
        "linear": lambda: Ridge(0.1),
        "classes": lambda: LogisticRegression(max_iter=40),
        "trees": lambda: RandomForestRegressor(4, max_depth=5, random_state=0),
        "network": lambda: MLPRegressor(hidden_layer_sizes=(5,), activation="tanh", max_iter=20, random_state=0),
    }
    frame = data()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # convergence, and edges that fall together, are not what is tested
        return Pipeline([("t", TRANSFORMS[name]()), ("m", cores[core]())]).fit(frame, target(frame))


def read(model: Any, **options: Any) -> PartialModel:
    """The part in the pickle of a fitted pipeline."""
    given = {"model_id": "credit", "training_run": "run-1", "party": "lab", **options}
    return read_content(pickle.dumps(model), ReadOptions(**given), Limits()).partial


def raw_scores(model: Any, frame: pd.DataFrame) -> Floats:
    """What scikit-learn says before the link, shape (n_rows, n_scores)."""
    score = model.decision_function if hasattr(model, "decision_function") else model.predict
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that unknown categories become zeros is what is tested
        return np.asarray(score(frame), dtype=np.float64).reshape(len(frame), -1)


def accepted(model: Any, frame: pd.DataFrame) -> list[bool]:
    """For each row, whether scikit-learn scores it."""
    with contextlib.suppress(ValueError):
        raw_scores(model, frame)
        return [True] * len(frame)
    found = []
    for place in range(len(frame)):
        try:
            raw_scores(model, frame.iloc[[place]])
            found.append(True)
        except ValueError:
            found.append(False)
    return found


def coded(part: Part, frame: pd.DataFrame) -> Floats:
    """The part's columns of a frame: texts as its codes, NaN for what is missing."""
    columns = []
    for name in part.features:
        if name in part.categories:
            code = {text: float(place) for place, text in enumerate(part.categories[name])}
            columns.append([np.nan if pd.isna(cell) else code.get(cell, UNKNOWN_CATEGORY) for cell in frame[name]])
        else:
            columns.append(frame[name].astype(float).tolist())
    return np.array(columns, dtype=np.float64).reshape(len(columns), len(frame)).T


def odd_rows() -> pd.DataFrame:
    """Rows of which each has one thing that training did not know, or lacks one."""
    first = data().iloc[[1]].assign(age=31.5, income=900.0, debt=-1.5, rooms=2.0, city="Wien", job="smith")
    changes: Sequence[Mapping[str, Any]] = [
        {},
        *({name: None} for name in (*NUMBERS, *TEXTS)),
        *({name: sign * np.inf} for name in NUMBERS for sign in (1, -1)),
        {"city": "Linz"},
        {"job": "Smith"},
        {"rooms": 7.0},
        {"rooms": -0.0},
        {"income": -5.0},
        {"income": 1e12},
        {"income": 1e300},
        {"debt": -1e300},
        {"age": 1e-300},
    ]
    return pd.concat([first.assign(**change) for change in changes], ignore_index=True).astype(data().dtypes)
