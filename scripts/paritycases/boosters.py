"""XGBoost and LightGBM: pickles, text, JSON and UBJSON; trees of which each keeps to the features of one party."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import xgboost

from fedpredict.model.partial import TOLERANCE, TOLERANCE_FLOAT32
from paritycases.case import Case, Data, Trained, all_data, as_rows, pickled, with_missing

ROUNDS = 20


def cases(*, constrained: bool = True) -> Iterator[Case]:
    """Return a case per objective, form of file and data set; each tree over one party's features if constrained."""
    for data in all_data():
        if data.target.ndim > 1:
            continue
        for each in (data, with_missing(data)):
            yield from _xgboost(each, constrained=constrained)
            yield from _lightgbm(_without_spaces(each), constrained=constrained)


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
    return [("multinomial", "multi:softprob", "multiclass"), ("one_vs_rest", "", "multiclassova")]  # XGBoost has none


def _xgboost(data: Data, *, constrained: bool) -> Iterator[Case]:
    for kind, objective, _ in _objectives(data):
        for shape in ("gbtree", "dart") if objective else ():
            arguments = {"objective": objective, "booster": shape, "max_depth": 4, "nthread": 1, "seed": 3}
            own = {"interaction_constraints": [list(names) for names in data.parties.values()]}
            arguments |= own if constrained else {}
            arguments |= {"num_class": len(np.unique(data.target))} if kind == "multinomial" else {}
            arguments |= {"rate_drop": 0.2} if shape == "dart" else {}
            train = _xgboost_trainer(kind, arguments, data)
            for suffix in (".pkl",) if shape == "dart" else (".pkl", ".json", ".ubj"):
                yield Case(
                    kind=f"trees, {kind}",
                    source=f"XGBoost {shape} {objective} ({suffix[1:]})",
                    data=data,
                    train=lambda suffix=suffix, train=train: train(suffix),
                    suffix=suffix,
                    tolerance=TOLERANCE_FLOAT32,
                )


def _xgboost_trainer(kind: str, arguments: dict[str, Any], data: Data) -> Callable[[str], Trained]:
    @cache
    def booster() -> tuple[xgboost.Booster, xgboost.DMatrix]:
        matrix = xgboost.DMatrix(data.frame, label=_target(kind, data))
        return xgboost.train(arguments, matrix, num_boost_round=ROUNDS), matrix

    def train(suffix: str) -> Trained:
        model, matrix = booster()
        return Trained(
            file=_saved(model, suffix),
            raw=as_rows(model.predict(matrix, output_margin=True), data),
            predictions=as_rows(model.predict(matrix), data),
        )

    return train


def _saved(booster: xgboost.Booster, suffix: str) -> bytes:
    if suffix == ".pkl":
        return pickled(booster)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"model{suffix}"
        booster.save_model(path)
        return path.read_bytes()


def _lightgbm(data: Data, *, constrained: bool) -> Iterator[Case]:
    positions = {name: at for at, name in enumerate(data.frame.columns)}
    own = [[positions[name] for name in names] for names in data.parties.values()]
    for kind, _, objective in _objectives(data):
        arguments: dict[str, Any] = {
            "objective": objective,
            "num_threads": 1,
            "verbose": -1,
            "num_leaves": 15,
            "seed": 3,
        }
        arguments |= {"seed": 3} | ({"interaction_constraints": own} if constrained else {})
        arguments |= {"num_class": len(np.unique(data.target))} if kind in {"multinomial", "one_vs_rest"} else {}
        train = _lightgbm_trainer(kind, arguments, data)
        for suffix in (".txt", ".pkl"):
            yield Case(
                kind=f"trees, {kind}",
                source=f"LightGBM {objective} ({suffix[1:]})",
                data=data,
                train=lambda suffix=suffix, train=train: train(suffix),
                suffix=suffix,
                tolerance=TOLERANCE,
            )


def _lightgbm_trainer(kind: str, arguments: dict[str, Any], data: Data) -> Callable[[str], Trained]:
    @cache
    def booster() -> lightgbm.Booster:
        samples = lightgbm.Dataset(data.frame, label=_target(kind, data))
        return lightgbm.train(arguments, samples, num_boost_round=ROUNDS)

    def train(suffix: str) -> Trained:
        model = booster()
        return Trained(
            file=pickled(model) if suffix == ".pkl" else model.model_to_string().encode(),
            raw=as_rows(model.predict(data.frame, raw_score=True), data),
            predictions=as_rows(model.predict(data.frame), data),
        )

    return train


def _without_spaces(data: Data) -> Data:
    """Return the data under the names that LightGBM makes of them."""
    frame = data.frame.rename(columns=lambda each: str(each).replace(" ", "_"))
    parties = {party: [each.replace(" ", "_") for each in names] for party, names in data.parties.items()}
    return replace(data, frame=frame, parties=parties)


def _target(kind: str, data: Data) -> Any:
    return np.abs(data.target) if kind == "log link" else data.target
