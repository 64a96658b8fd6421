"""Random trees of scikit-learn, XGBoost and LightGBM, each over one party's features or over those of all."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import lightgbm
import numpy as np
import pandas as pd
import xgboost
from sklearn import ensemble, tree

from fedpredict.model.arrays import Floats
from tests.random_cuts.data import LEVELS, UNKNOWN, Random, names_of, numbers, owners, signal, texts
from tests.random_cuts.trial import Said, Trial, UnfitError, as_rows, classes_of, fitted, positive, saved, trial_of

N_ROWS = 90
ASCII = [*LEVELS[:-1], "age"]
Parties = Mapping[str, Sequence[str]]


def _table(random: Random, *, widest: float, with_texts: bool) -> tuple[pd.DataFrame, list[str]]:
    """Return features, and which of them are texts."""
    names = names_of(random)
    missing = float(random.choice([0.0, 0.15]))
    frame = numbers(random, N_ROWS, names, widest=widest, missing=missing)
    told = [f"text {at}" for at in range(int(random.integers(3)))] if with_texts else []
    for name in told:
        frame[name] = texts(random, N_ROWS, missing=missing)
    return frame, told


def _parties(random: Random, frame: pd.DataFrame, *, mixed: bool) -> Parties:
    """Return who holds what; where trees keep to nobody's features in particular, one party holds all."""
    parties = owners(random, list(frame.columns))
    if mixed:
        return parties
    holder = list(parties)[int(random.integers(len(parties)))]
    return {party: list(frame.columns) if party == holder else [] for party in parties}


def sklearn_trees(random: Random) -> Trial:
    """Return trees at one party, or boosted ones of which each keeps to the features of one."""
    return _sklearn(random, is_split=False)


def sklearn_split_trees(random: Random) -> Trial:
    """Return trees over the features of all."""
    return _sklearn(random, is_split=True)


def _sklearn(random: Random, *, is_split: bool) -> Trial:
    frame, told = _table(random, widest=37.0, with_texts=False)
    target = signal(random, frame)
    if random.random() < 0.4:
        return _hist(random, is_split=is_split)
    assert not told
    deep = {"max_depth": int(random.integers(1, 7)), "random_state": 0}
    many = {"n_estimators": int(random.integers(1, 7)), **deep}
    is_classes = bool(random.random() < 0.5)
    kinds: Any = (
        (tree.DecisionTreeRegressor, tree.DecisionTreeClassifier, deep),
        (ensemble.RandomForestRegressor, ensemble.RandomForestClassifier, many),
        (ensemble.ExtraTreesRegressor, ensemble.ExtraTreesClassifier, many),
        (ensemble.GradientBoostingRegressor, ensemble.GradientBoostingClassifier, many),
    )
    regressor, classifier, settings = kinds[int(random.integers(len(kinds)))]
    if regressor is ensemble.GradientBoostingRegressor:
        frame = frame.fillna(0.5)
    make = classifier if is_classes else regressor
    model = fitted(make(**settings), frame, classes_of(random, target) if is_classes else target)
    parties = _parties(random, frame, mixed=is_split)
    return trial_of(random, saved(model), frame, parties, lambda rows: _sklearn_says(model, rows), with_head=is_split)


def _hist(random: Random, *, is_split: bool) -> Trial:
    frame, told = _table(random, widest=300.0, with_texts=True)
    target = signal(random, frame)
    parties = _parties(random, frame, mixed=True)
    settings: dict[str, Any] = {
        "max_iter": int(random.integers(1, 6)), "max_depth": int(random.integers(1, 6)),
        "min_samples_leaf": int(random.integers(1, 10)), "random_state": 0, "early_stopping": False,
        "categorical_features": "from_dtype" if told else None,
    }  # fmt: skip
    if not is_split:
        # scikit-learn counts them as its trees do, which see categories first
        places = {name: at for at, name in enumerate([*told, *(name for name in frame if name not in told)])}
        settings["interaction_cst"] = [{places[name] for name in names} for names in parties.values() if names]
    draw = int(random.integers(3))
    if draw == 0:
        model, target = ensemble.HistGradientBoostingClassifier(**settings), classes_of(random, target)
    elif draw == 1:
        model, target = ensemble.HistGradientBoostingRegressor(loss="poisson", **settings), np.exp(target)
    else:
        model = ensemble.HistGradientBoostingRegressor(**settings)
    typed = _as_categories(frame, told)
    fitted(model, typed, target)

    def oracle(rows: pd.DataFrame) -> Said:
        typed = _as_they_come(rows, told)
        if hasattr(model, "predict_proba"):
            return as_rows(model.decision_function(typed), len(rows)), positive(model.predict_proba(typed))
        mean = as_rows(model.predict(typed), len(rows))
        return (np.log(mean) if model.loss == "poisson" else mean), mean

    return trial_of(random, saved(model), frame, parties, oracle, with_head=is_split)


def _sklearn_says(model: Any, rows: pd.DataFrame) -> Said:
    if isinstance(model, ensemble.GradientBoostingClassifier):
        return as_rows(model.decision_function(rows), len(rows)), positive(model.predict_proba(rows))
    found = positive(model.predict_proba(rows)) if hasattr(model, "predict_proba") else model.predict(rows)
    return as_rows(found, len(rows)), as_rows(found, len(rows))


def _as_categories(frame: pd.DataFrame, told: Sequence[str], levels: Sequence[str] = LEVELS) -> pd.DataFrame:
    return frame.astype({name: pd.CategoricalDtype(list(levels)) for name in told})


def _as_they_come(frame: pd.DataFrame, told: Sequence[str], levels: Sequence[str] = LEVELS) -> pd.DataFrame:
    """Return texts as categories, an unknown one among them where a row has one."""
    known = {name: [*levels, *([UNKNOWN] if (frame[name] == UNKNOWN).any() else [])] for name in told}
    return frame.astype({name: pd.CategoricalDtype(each) for name, each in known.items()})


def xgboost_trees(random: Random) -> Trial:
    """Return a booster of XGBoost each of whose trees keeps to the features of one party."""
    return _xgboost(random, is_split=False)


def xgboost_split_trees(random: Random) -> Trial:
    """Return a booster of XGBoost over the features of all."""
    return _xgboost(random, is_split=True)


def _xgboost(random: Random, *, is_split: bool) -> Trial:
    frame, told = _table(random, widest=37.0, with_texts=True)
    frame[told] = frame[told].replace({"年龄": "age"})  # XGBoost loses other labels than those of ASCII
    target, kind, settings = _boosted_target(random, signal(random, frame))
    objectives = {"linear": "reg:squarederror", "log": "count:poisson", "binary": "binary:logistic"}
    parties = _parties(random, frame, mixed=True)
    settings |= {
        "objective": objectives.get(kind, "multi:softprob"), "nthread": 1, "seed": 1, "eta": 0.5,
        "max_depth": int(random.integers(1, 6)), "min_child_weight": 0.1, "verbosity": 0,
        "tree_method": str(random.choice(["hist", "approx"] if told else ["hist", "exact", "approx"])),
        "booster": str(random.choice(["gbtree", "dart"])), "max_cat_to_onehot": int(random.integers(1, 6)),
        "num_parallel_tree": int(random.integers(1, 3)), "subsample": 0.9,
    }  # fmt: skip
    if not is_split:
        settings["interaction_constraints"] = [list(names) for names in parties.values() if names]
    try:
        matrix = xgboost.DMatrix(_as_categories(frame, told, ASCII), target, enable_categorical=True)
        model = xgboost.train(settings, matrix, int(random.integers(1, 6)))
    except ValueError as error:
        raise UnfitError(str(error)) from error

    def oracle(rows: pd.DataFrame) -> Said:
        asked = xgboost.DMatrix(_as_they_come(rows, told, ASCII), enable_categorical=True)
        return tuple(as_rows(model.predict(asked, output_margin=each), len(rows)) for each in (True, False))  # type: ignore[return-value]

    file = [saved(model), bytes(model.save_raw("json")), bytes(model.save_raw("ubj"))][int(random.integers(3))]
    # an unknown text is refused, or, by a mistake, taken for the known one behind it
    return trial_of(random, file, frame, parties, oracle, with_head=is_split, unknown=())


def _boosted_target(random: Random, target: Floats) -> tuple[Any, str, dict[str, Any]]:
    match random.integers(4):
        case 0:
            return np.exp(target), "log", {}
        case 1:
            return (target > np.median(target)).astype(float), "binary", {}
        case 2:
            return np.digitize(target, np.quantile(target, [0.3, 0.7])), "classes", {"num_class": 3}
        case _:
            return target, "linear", {}


def lightgbm_trees(random: Random) -> Trial:
    """Return a booster of LightGBM each of whose trees keeps to the features of one party."""
    return _lightgbm(random, is_split=False)


def lightgbm_split_trees(random: Random) -> Trial:
    """Return a booster of LightGBM over the features of all."""
    return _lightgbm(random, is_split=True)


def _lightgbm(random: Random, *, is_split: bool) -> Trial:
    frame, told = _table(random, widest=300.0, with_texts=True)
    frame.columns = [f"c{at}_{'t' if name in told else 'n'}" for at, name in enumerate(frame.columns)]
    told = [name for name in frame.columns if name.endswith("t")]
    target, kind, settings = _boosted_target(random, signal(random, frame))
    objectives = {"linear": "regression", "log": "poisson", "binary": "binary"}
    parties = _parties(random, frame, mixed=True)
    settings |= {
        "objective": objectives.get(kind, "multiclass"), "num_threads": 1, "seed": 1, "verbose": -1,
        "num_leaves": int(random.integers(2, 16)), "min_data_in_leaf": int(random.integers(1, 6)), "min_data_in_bin": 1,
        "min_data_per_group": 2, "cat_smooth": 1, "max_cat_to_onehot": int(random.integers(1, 5)),
        "boosting": str(random.choice(["gbdt", "dart"])), "zero_as_missing": bool(random.random() < 0.3),
        "use_missing": bool(random.random() < 0.7), "min_sum_hessian_in_leaf": 1e-6,
    }  # fmt: skip
    if not is_split:
        places = {name: at for at, name in enumerate(frame.columns)}
        settings["interaction_constraints"] = [[places[name] for name in names] for names in parties.values() if names]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data = lightgbm.Dataset(_as_categories(frame, told), target)
        model = lightgbm.train(settings, data, int(random.integers(1, 6)))

    def oracle(rows: pd.DataFrame) -> Said:
        typed = _as_categories(rows, told)
        return tuple(as_rows(model.predict(typed, raw_score=each), len(rows)) for each in (True, False))  # type: ignore[return-value]

    file = saved(model) if random.random() < 0.5 else model.model_to_string().encode()
    knows_gaps = settings["use_missing"] and not settings["zero_as_missing"]
    complete = [str(name) for name in frame if not (knows_gaps and frame[name].isna().any())]
    return trial_of(random, file, frame, parties, oracle, with_head=is_split, complete=complete)
