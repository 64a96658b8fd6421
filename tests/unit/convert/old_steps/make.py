"""Writes a file of pipelines with preprocessing, by the scikit-learn that runs it, with that version's own scores.

python -m venv /tmp/old && /tmp/old/bin/pip install scikit-learn==1.2.2 'numpy<2' 'pandas<2.3'
/tmp/old/bin/python tests/unit/convert/old_steps/make.py
"""

from __future__ import annotations

import base64
import json
import pickle
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import sklearn
from sklearn.compose import ColumnTransformer, make_column_selector
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import FeatureUnion, make_pipeline
from sklearn.preprocessing import (
    KBinsDiscretizer,
    MinMaxScaler,
    OneHotEncoder,
    OrdinalEncoder,
    PolynomialFeatures,
    PowerTransformer,
    QuantileTransformer,
    StandardScaler,
)

N_ROWS = 60


def frame() -> pd.DataFrame:
    rng = np.random.default_rng(5)
    made = pd.DataFrame(
        {
            "a": rng.normal(2.0, 3.0, N_ROWS),
            "b": rng.lognormal(1.0, 1.0, N_ROWS),
            "n": rng.integers(1, 4, N_ROWS).astype(float),
            "c": rng.choice(["red", "green", "blue", "gr\u00fcn"], N_ROWS, p=[0.5, 0.3, 0.15, 0.05]),
            "d": rng.choice(["yes", "no"], N_ROWS),
        }
    )
    made.loc[::9, "a"] = np.nan
    made["c"] = made["c"].where(np.arange(N_ROWS) % 11 > 0, np.nan)
    return made


def pipelines() -> dict[str, Any]:
    texts, numbers = ["c", "d"], ["a", "b"]
    is_text = make_column_selector(dtype_include=object)
    filled = make_pipeline(SimpleImputer(add_indicator=True), StandardScaler())
    most = SimpleImputer(strategy="most_frequent")
    rare = OneHotEncoder(min_frequency=8, handle_unknown="infrequent_if_exist", drop="first")
    ordinal = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1, encoded_missing_value=-2)
    bins = [(each, KBinsDiscretizer(3, encode=each, strategy="uniform"), ["b"]) for each in ("ordinal", "onehot")]
    union = FeatureUnion([("p", PowerTransformer()), ("q", QuantileTransformer(n_quantiles=12)), ("i", "passthrough")])
    return {
        "imputed": make_pipeline(
            ColumnTransformer([("x", filled, numbers), ("t", make_pipeline(most, OneHotEncoder()), is_text)]),
            LogisticRegression(),
        ),
        "rare": make_pipeline(
            ColumnTransformer([("x", SimpleImputer(), numbers), ("t", rare, texts)], remainder="passthrough"), Ridge()
        ),
        "gaps": make_pipeline(ColumnTransformer([("t", OneHotEncoder(handle_unknown="ignore"), texts)]), Ridge()),
        "ordinal": make_pipeline(ColumnTransformer([("t", ordinal, texts)], remainder="drop"), Ridge()),
        "bins": make_pipeline(ColumnTransformer(bins), Ridge()),
        "clipped": make_pipeline(
            ColumnTransformer([("b", MinMaxScaler((0, 2), clip=True), ["b", "n"])]), PolynomialFeatures(2), Ridge()
        ),
        "union": make_pipeline(ColumnTransformer([("x", "passthrough", ["b", "n"])]), union, Ridge()),
        "box-cox": make_pipeline(ColumnTransformer([("x", PowerTransformer("box-cox"), ["b"])]), Ridge()),
    }


def main() -> None:
    rows = frame()
    target = (rows["b"] + rows["n"] + (rows["c"] == "red") > 5.0).astype(int)
    cells = {str(name): [None if pd.isna(cell) else cell for cell in rows[name]] for name in rows.columns}
    content: dict[str, dict[str, Any]] = {"rows": cells, "models": {}}
    for name, model in pipelines().items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model.fit(rows, target)
        score = model.decision_function if hasattr(model, "decision_function") else model.predict
        content["models"][name] = {
            "pickle": base64.b64encode(pickle.dumps(model, protocol=4)).decode(),
            "scores": score(rows).tolist(),
        }
    path = Path(__file__).with_name(f"scikit-learn-{sklearn.__version__}.json")
    path.write_text(json.dumps(content, indent=0) + "\n")


if __name__ == "__main__":
    main()
