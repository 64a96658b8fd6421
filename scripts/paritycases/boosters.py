"""XGBoost and LightGBM: pickles, text, JSON and UBJSON; trees of which each keeps to the features of one party."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import xgboost

from fedpredict.model.partial import TOLERANCE, TOLERANCE_FLOAT32
from paritycases.case import Case, Data, Floats, all_data, pickled, with_missing

ROUNDS = 20


def cases() -> Iterator[Case]:
    """Return a case per objective, form of file and data set."""
    for data in all_data():
        if data.target.ndim > 1:
            continue
        for each in (data, with_missing(data)):
            yield from _xgboost(each)
            yield from _lightgbm(each)


def _own_columns(data: Data) -> list[list[str]]:
    return [list(names) for names in data.parties.values()]


def _objectives(data: Data) -> list[tuple[str, str, str]]:
    """(kind, XGBoost's objective, LightGBM's)."""
    if not data.is_classes:
        return [
            ("linear", "reg:squarederror", "regression"),
            ("log link", "count:poisson", "poisson"),
            ("log link", "reg:tweedie", "tweedie"),
        ]
    if len(np.unique(data.target)) == 2:
        return [("binary", "binary:logistic", "binary")]
    return [("multinomial", "multi:softprob", "multiclass")]


def _xgboost(data: Data) -> Iterator[Case]:
    n_classes = len(np.unique(data.target))
    for kind, objective, _ in _objectives(data):
        for shape in ("gbtree", "dart"):
            arguments: dict[str, Any] = {"objective": objective, "booster": shape, "max_depth": 4, "nthread": 1}
            arguments |= {"interaction_constraints": _own_columns(data)}
            arguments |= {"num_class": n_classes} if kind == "multinomial" else {}
            arguments |= {"rate_drop": 0.2, "seed": 3} if shape == "dart" else {}
            matrix = xgboost.DMatrix(data.frame, label=_target(kind, data))
            booster = xgboost.train(arguments, matrix, num_boost_round=ROUNDS)
            raw = booster.predict(matrix, output_margin=True)
            predictions = _columns(booster.predict(matrix), data)
            for suffix, file in _forms(booster, shape):
                yield Case(
                    kind=f"trees, {kind}",
                    source=f"XGBoost {shape} {objective} ({suffix[1:]})",
                    data=data,
                    file=file,
                    suffix=suffix,
                    raw=_columns(raw, data),
                    predictions=predictions,
                    tolerance=TOLERANCE_FLOAT32,
                )


def _forms(booster: xgboost.Booster, shape: str) -> Iterator[tuple[str, bytes]]:
    yield ".pkl", pickled(booster)
    if shape == "dart":
        return
    with tempfile.TemporaryDirectory() as folder:
        for suffix in (".json", ".ubj"):
            path = Path(folder) / f"model{suffix}"
            booster.save_model(path)
            yield suffix, path.read_bytes()


def _lightgbm(data: Data) -> Iterator[Case]:
    for kind, _, objective in _objectives(data):
        arguments: dict[str, Any] = {
            "objective": objective,
            "num_threads": 1,
            "verbose": -1,
            "num_leaves": 15,
            "seed": 3,
        }
        positions = {name: at for at, name in enumerate(data.frame.columns)}
        arguments["interaction_constraints"] = [[positions[name] for name in names] for names in _own_columns(data)]
        arguments |= {"num_class": len(np.unique(data.target))} if kind == "multinomial" else {}
        frame = data.frame.rename(columns=lambda each: str(each).replace(" ", "_"))
        booster = lightgbm.train(arguments, lightgbm.Dataset(frame, label=_target(kind, data)), num_boost_round=ROUNDS)
        renamed = Data(
            name=data.name,
            frame=frame,
            target=data.target,
            is_classes=data.is_classes,
            parties={party: [each.replace(" ", "_") for each in names] for party, names in data.parties.items()},
        )
        for suffix, file in ((".txt", booster.model_to_string().encode()), (".pkl", pickled(booster))):
            yield Case(
                kind=f"trees, {kind}",
                source=f"LightGBM {objective} ({suffix[1:]})",
                data=renamed,
                file=file,
                suffix=suffix,
                raw=_columns(booster.predict(frame, raw_score=True), data),
                predictions=_columns(booster.predict(frame), data),
                tolerance=TOLERANCE,
            )


def _target(kind: str, data: Data) -> Any:
    return np.abs(data.target) if kind == "log link" else data.target


def _columns(values: Any, data: Data) -> Floats:
    return np.asarray(values, dtype=np.float64).reshape(len(data.frame), -1)
