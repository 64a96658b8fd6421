"""Files of LightGBM against LightGBM's own predictions."""

from __future__ import annotations

import gzip
import pickle
import re
import warnings
from collections.abc import Callable
from typing import Any

import lightgbm as lgb
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedpredict.convert.child import read_content
from fedpredict.convert.options import Limits
from fedpredict.convert.sklearn_file import Reading
from fedpredict.errors import FeatureNamesError, ModelConflictError, ModelFileError, UnsupportedModelError
from fedpredict.model.kinds import Kind
from fedpredict.model.links import Link
from fedpredict.model.share import SampleStatus
from fedpredict.model.trees import TreesPart
from tests.unit.convert.boosters import assert_raw_scores, mixed_data, signal
from tests.unit.convert.support import joblib_bytes, options_for, predictions_of

FEATURES = mixed_data(0)
N_FEATURES = FEATURES.shape[1]
SIGNAL = signal(FEATURES)
POSITIVE = np.median(SIGNAL) < SIGNAL
THIRDS = np.digitize(SIGNAL, np.quantile(SIGNAL, [0.3, 0.7]))
COUNTS = np.floor(np.exp(np.clip(SIGNAL, -2, 3)))
RELATIVE = 1e-9
QUIET: dict[str, Any] = {"verbose": -1, "num_threads": 1, "min_data_in_leaf": 3, "min_data_in_bin": 1, "num_leaves": 9}


def train(params: dict[str, Any], target: Any, rounds: int = 6, features: Any = FEATURES, **data: Any) -> lgb.Booster:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return lgb.train({**QUIET, **params}, lgb.Dataset(features, np.asarray(target, np.float64), **data), rounds)


def read(model: lgb.Booster | bytes | str, n_features: int = N_FEATURES, **changes: Any) -> Reading:
    data = model if isinstance(model, bytes) else text_of(model).encode()
    return read_content(data, options_for(n_features, **changes), Limits())


def text_of(model: lgb.Booster | str) -> str:
    return model if isinstance(model, str) else str(model.model_to_string())


def trees_of(reading: Reading) -> TreesPart:
    assert isinstance(reading.partial.part, TreesPart)
    return reading.partial.part


OBJECTIVES: list[tuple[str, dict[str, Any], Any, Kind, str]] = [
    ("regression", {}, SIGNAL, Kind.LINEAR, "identity"),
    ("regression", {"boost_from_average": False}, SIGNAL, Kind.LINEAR, "identity"),
    ("regression_l1", {}, SIGNAL, Kind.LINEAR, "identity"),
    ("huber", {"alpha": 0.8}, SIGNAL, Kind.LINEAR, "identity"),
    ("fair", {"fair_c": 2.0}, SIGNAL, Kind.LINEAR, "identity"),
    ("quantile", {"alpha": 0.3}, SIGNAL, Kind.LINEAR, "identity"),
    ("mape", {}, COUNTS + 1, Kind.LINEAR, "identity"),
    ("poisson", {}, COUNTS, Kind.LINEAR, "log"),
    ("gamma", {}, COUNTS + 0.1, Kind.LINEAR, "log"),
    ("tweedie", {"tweedie_variance_power": 1.2}, COUNTS, Kind.LINEAR, "log"),
    ("binary", {}, POSITIVE, Kind.BINARY, "logit"),
    ("binary", {"sigmoid": 2.5, "is_unbalance": True}, POSITIVE, Kind.BINARY, "logit"),
    ("cross_entropy", {}, 0.7 * POSITIVE, Kind.BINARY, "logit"),
    ("multiclass", {"num_class": 3}, THIRDS, Kind.MULTINOMIAL, "softmax"),
    ("multiclassova", {"num_class": 3, "sigmoid": 0.7}, THIRDS, Kind.ONE_VS_REST, "logit"),
    ("multiclassova", {"num_class": 2}, POSITIVE, Kind.ONE_VS_REST, "logit"),
    ("binary", {"boosting": "dart", "drop_rate": 0.5}, POSITIVE, Kind.BINARY, "logit"),
    ("regression", {"use_missing": True, "zero_as_missing": True}, SIGNAL, Kind.LINEAR, "identity"),
]  # fmt: skip


@pytest.mark.parametrize(("objective", "params", "target", "kind", "link"), OBJECTIVES)
def test_predictions_are_lightgbms(objective: str, params: dict[str, Any], target: Any, kind: Kind, link: str) -> None:
    booster = train({"objective": objective, **params}, target)
    fresh = mixed_data(1)

    partial = read(booster).partial

    assert (partial.kind, partial.link) == (kind, Link(link))
    assert not partial.fit_intercept
    assert partial.part.intercept is None
    scale = params.get("sigmoid", 1.0)
    usable = ~np.isnan(fresh[:, ~trees_of(read(booster)).may_miss]).any(axis=1)
    fresh = fresh[usable]
    assert_raw_scores(partial, fresh, scale * booster.predict(fresh, raw_score=True), RELATIVE)
    expected = np.asarray(booster.predict(fresh))
    np.testing.assert_allclose(predictions_of(partial, fresh), expected.reshape(len(fresh), -1), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("objective", ["binary", "regression", "multiclass", "multiclassova"])
def test_a_forest_is_the_mean_of_its_trees(objective: str) -> None:
    target = {"binary": POSITIVE, "regression": SIGNAL}.get(objective, THIRDS)
    params = {"boosting": "rf", "bagging_freq": 1, "bagging_fraction": 0.6, "feature_fraction": 0.7}
    booster = train({"objective": objective, "num_class": 3 if target is THIRDS else 1, **params}, target)

    partial = read(booster).partial

    expected = np.asarray(booster.predict(FEATURES)).reshape(len(FEATURES), -1)
    np.testing.assert_allclose(predictions_of(partial, FEATURES), expected, rtol=1e-9)


def test_a_split_by_what_is_missing_sends_every_number_one_way() -> None:
    gaps = np.where(np.arange(400) % 3 == 0, np.nan, np.arange(400.0) % 5)
    booster = train({}, 3.0 * np.isnan(gaps), features=gaps[:, None])
    assert "threshold=inf" in text_of(booster)
    largest = np.finfo(np.float64).max
    fresh = np.array([[0.0], [largest], [-largest], [np.nan]])

    assert_raw_scores(read(booster, 1).partial, fresh, booster.predict(fresh), RELATIVE)


def test_a_number_that_lightgbm_takes_for_zero_goes_where_zero_goes() -> None:
    values = np.arange(400.0) % 3 - 1.0
    booster = train({}, values, features=values[:, None])
    zero = float(np.float32(1e-35))
    assert f"{-zero!r} {zero!r}" in text_of(booster)
    fresh = np.array([[sign * each] for sign in (1, -1) for each in (0.0, zero / 2, zero, np.nextafter(zero, 1.0))])

    assert_raw_scores(read(booster, 1).partial, fresh, booster.predict(fresh), RELATIVE)


@pytest.mark.parametrize("objective", ["lambdarank", "rank_xendcg"])
def test_rankers_give_their_scores(objective: str) -> None:
    booster = train({"objective": objective}, POSITIVE, group=[20] * (len(FEATURES) // 20))

    partial = read(booster).partial

    assert (partial.kind, partial.link) == (Kind.LINEAR, Link("identity"))
    assert_raw_scores(partial, FEATURES, booster.predict(FEATURES), RELATIVE)


def test_only_a_feature_that_was_missing_in_training_may_miss() -> None:
    features = np.nan_to_num(FEATURES)
    features[:, 6:] = FEATURES[:, 6:]
    booster = train({}, SIGNAL, features=features)
    unused = booster.feature_importance() == 0

    part = trees_of(read(booster))

    assert (part.may_miss == (unused | np.isnan(features).any(axis=0))).all()
    assert not part.may_miss.all()
    gaps = np.tile(np.nan_to_num(FEATURES[0]), (N_FEATURES, 1))
    np.fill_diagonal(gaps, np.nan)
    statuses = part.statuses(gaps)
    assert statuses is not None
    assert ((statuses == SampleStatus.FEATURE_MISSING) == ~part.may_miss).all()
    # what LightGBM does with them all the same: NaN counts as 0
    np.testing.assert_allclose(part.partial_scores(gaps)[:, 0], booster.predict(gaps), rtol=1e-12)


def test_zero_counts_as_missing_up_to_the_threshold_of_the_library() -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(400, 2)) * (rng.random((400, 2)) < 0.6)
    booster = train({"zero_as_missing": True}, features.sum(axis=1) + 3 * (features[:, 0] == 0), features=features)
    edge = float(np.float32(1e-35))
    near = [0.0, -0.0, edge, -edge, np.nextafter(edge, 1), np.nextafter(-edge, -1), 1e-35, 1e-300, 5e-324, np.nan]
    fresh = np.array([[one, other] for one in near for other in near])

    reading = read(booster, 2)

    assert trees_of(reading).trees.zero_is_missing.any()
    assert_raw_scores(reading.partial, fresh, booster.predict(fresh), RELATIVE)


def test_thresholds_are_compared_in_float64() -> None:
    booster = train({"num_leaves": 20}, SIGNAL)
    part = trees_of(read(booster))
    rows = []
    for column, threshold in {
        (int(c), float(t)) for c, t in zip(part.trees.feature, part.trees.threshold, strict=True)
    }:
        if column < 0:
            continue
        single = float(np.float32(threshold))
        for value in (threshold, np.nextafter(threshold, -np.inf), np.nextafter(threshold, np.inf), single):
            row = np.nan_to_num(FEATURES[0])
            row[column] = value
            rows.append(row)
    features = np.array(rows)
    assert len(features) > 100

    assert_raw_scores(read(booster).partial, features, booster.predict(features), RELATIVE)


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    params=st.fixed_dictionaries(
        {
            "num_leaves": st.integers(2, 40),
            "learning_rate": st.sampled_from([0.05, 0.5, 1.0]),
            "boosting": st.sampled_from(["gbdt", "dart"]),
            "zero_as_missing": st.booleans(),
            "use_missing": st.booleans(),
            "extra_trees": st.booleans(),
            "max_bin": st.sampled_from([7, 255]),
        }
    ),
    missing=st.sampled_from([0.0, 0.3]),
)
def test_any_model_scores_as_lightgbm(seed: int, params: dict[str, Any], missing: float) -> None:
    features = mixed_data(seed, 200, missing)
    booster = train(params, signal(features), 4, features)
    fresh = mixed_data(seed + 1, 300, missing)

    reading = read(booster)

    fresh = fresh[~np.isnan(fresh[:, ~trees_of(reading).may_miss]).any(axis=1)]
    assert_raw_scores(reading.partial, fresh, booster.predict(fresh), RELATIVE)


def frame(seed: int, n_rows: int = 400) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    colours = ["rouge", "größe", "青", "blue", "", "x y"]
    names = np.array([*colours, None], dtype=object)[rng.integers(0, 7, n_rows)]
    found = pd.DataFrame(
        {"my amount": rng.normal(size=n_rows), "colour": pd.Categorical(names, categories=sorted(colours))}
    )
    numbers = rng.integers(5, 60, n_rows).astype(float)
    numbers[rng.random(n_rows) < 0.1] = np.nan
    found["region"] = pd.Categorical(numbers, categories=[float(number) for number in range(5, 60)])
    return found


def frame_target(data: pd.DataFrame) -> Any:
    lucky = data["colour"].isin(["rouge", "青"]).to_numpy(dtype=float)
    return data["my amount"].to_numpy() + 2 * lucky + np.asarray(data["region"].astype(float).fillna(7) % 3 == 0)


OF_CATEGORIES = {"min_data_per_group": 2, "cat_smooth": 0.5, "cat_l2": 0.1, "num_leaves": 12}


@pytest.mark.parametrize("one_hot", [2, 100], ids=["sets", "one_hot"])
def test_texts_and_whole_numbers_are_categories(one_hot: int) -> None:
    data, fresh = frame(0), frame(1)
    booster = train({**OF_CATEGORIES, "max_cat_to_onehot": one_hot}, frame_target(data), features=data)
    other = fresh.assign(colour=pd.Categorical(fresh["colour"].astype(object).replace("rouge", "unknown")))

    reading = read(booster, features=("my amount", "colour", "region"))

    part = trees_of(reading)
    assert (part.trees.left_set >= 0).sum() > 3
    assert list(part.categories) == ["colour"]
    codes = {text: float(code) for code, text in enumerate(part.categories["colour"])}
    between = fresh.assign(region=pd.Categorical(fresh["region"].astype(float) - 0.5))  # no label is among them
    for rows in (fresh, other, between):
        texts = [codes.get(text, -1.0) if isinstance(text, str) else np.nan for text in rows["colour"]]
        coded = np.column_stack([rows["my amount"], texts, rows["region"].astype(float)])
        assert_raw_scores(reading.partial, coded, booster.predict(rows), RELATIVE)


def test_codes_without_labels_are_numbers() -> None:
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 70, 600).astype(float)
    features = np.column_stack([rng.normal(size=600), np.where(rng.random(600) < 0.1, np.nan, codes)])
    target = features[:, 0] + 3 * np.isin(codes % 5, [0, 3])
    booster = train(OF_CATEGORIES, target, features=features, categorical_feature=[1])
    odd = [-1.0, -0.999, -1e-30, 0.5, 3.9, 4 - 1e-15, 69.0, 70.0, 96.0, 1e3, 2.0**31 - 1, 2.0**31, 2.0**32 + 3, np.nan]

    reading = read(booster, 2)

    assert not reading.partial.part.categories
    assert_raw_scores(reading.partial, features, booster.predict(features), RELATIVE)
    fresh = np.column_stack([np.zeros(len(odd)), odd])
    assert_raw_scores(reading.partial, fresh, booster.predict(fresh), RELATIVE)


@pytest.mark.parametrize(
    ("column", "told"),
    [
        (pd.Categorical(["only"] * 400), "labels for 3 columns, but 2"),
        (
            pd.Categorical(np.array(["lo", "hi"])[np.arange(400) % 2], categories=["lo", "hi"], ordered=True),
            "3 columns",
        ),
        (pd.Categorical(np.array([-1, 0, 1])[np.arange(400) % 3]), "'more' are not all texts"),
        (pd.Categorical(np.array([0.5, 1.5])[np.arange(400) % 2]), "'more' are not all texts"),
    ],
    ids=["constant", "ordered", "negative", "fraction"],
)
def test_labels_that_cannot_be_matched_are_refused(column: Any, told: str) -> None:
    data = frame(0).assign(more=column)

    with pytest.raises(UnsupportedModelError, match=told):
        read(train(OF_CATEGORIES, frame_target(data), features=data), features=None)


LABELS = np.array(["alt", "jung", "mittel"], dtype=object)
WRAPPERS: list[tuple[Any, Any]] = [
    (lgb.LGBMClassifier(n_estimators=5, **QUIET), np.where(POSITIVE, "yes", "no")),
    (lgb.LGBMClassifier(n_estimators=5, **QUIET), LABELS[THIRDS]),
    (lgb.LGBMClassifier(n_estimators=5, objective="multiclassova", **QUIET), LABELS[THIRDS]),
    (lgb.LGBMRegressor(n_estimators=5, **QUIET), SIGNAL),
    (lgb.LGBMRegressor(n_estimators=5, objective="poisson", **QUIET), COUNTS),
]


def wrapper_prediction(model: Any, features: Any) -> Any:
    if hasattr(model, "predict_proba"):
        found = model.predict_proba(features)
        return found[:, 1:] if found.shape[1] == 2 else found
    return model.predict(features).reshape(len(features), -1)


@pytest.mark.parametrize(("model", "target"), WRAPPERS)
@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_a_pickled_wrapper_predicts_as_itself(model: Any, target: Any, protocol: int) -> None:
    fitted = model.fit(FEATURES, target)

    partial = read(pickle.dumps(fitted, protocol=protocol)).partial

    assert partial.classes == (tuple(sorted(set(target))) if hasattr(model, "predict_proba") else ())
    np.testing.assert_allclose(predictions_of(partial, FEATURES), wrapper_prediction(fitted, FEATURES), rtol=1e-9)
    assert type(fitted).__name__ in partial.metadata["source"]


def test_a_pickled_ranker_gives_its_scores() -> None:
    model = lgb.LGBMRanker(n_estimators=4, **QUIET).fit(FEATURES, POSITIVE, group=[20] * (len(FEATURES) // 20))

    partial = read(joblib_bytes(model, ("gzip", 3))).partial

    assert_raw_scores(partial, FEATURES, model.predict(FEATURES), RELATIVE)


def test_a_booster_stops_at_its_best_round_as_its_predictions_do(tmp_path: Any) -> None:
    rng = np.random.default_rng(0)
    params = {**QUIET, "objective": "multiclass", "num_class": 3, "learning_rate": 0.3}
    valid = lgb.Dataset(FEATURES, np.where(rng.random(len(THIRDS)) < 0.5, THIRDS, rng.permutation(THIRDS)))
    stop = lgb.early_stopping(4, verbose=False)
    booster = lgb.train(
        params, lgb.Dataset(FEATURES, THIRDS), 40, valid_sets=[valid], callbacks=[stop], keep_training_booster=True
    )
    assert 0 < booster.best_iteration < booster.current_iteration()
    best, everything = booster.predict(FEATURES), booster.predict(FEATURES, num_iteration=-1)
    booster.save_model(tmp_path / "best.txt")

    for data, expected in (
        (pickle.dumps(booster), best),
        ((tmp_path / "best.txt").read_bytes(), best),
        (booster.model_to_string(num_iteration=-1).encode(), everything),
    ):
        np.testing.assert_allclose(predictions_of(read(data).partial, FEATURES), expected, rtol=1e-9)
    assert "rounds (the best iteration)" in read(pickle.dumps(booster)).partial.metadata["source"]


def test_files_are_recognised_by_their_content() -> None:
    booster = train({}, SIGNAL)
    text = text_of(booster)

    for data in (gzip.compress(text.encode()), text.replace("\n", "\r\n").encode()):
        assert_raw_scores(read(data).partial, FEATURES, booster.predict(FEATURES), RELATIVE)


def test_trees_of_one_leaf_are_constants() -> None:
    booster = train({"objective": "binary", "min_data_in_leaf": 1000}, POSITIVE)
    assert "num_leaves=1\n" in text_of(booster)

    partial = read(booster).partial

    np.testing.assert_allclose(predictions_of(partial, FEATURES)[:, 0], booster.predict(FEATURES), rtol=1e-12)


def test_names_stand_in_the_file_or_are_given() -> None:
    data = pd.DataFrame(FEATURES, columns=[f"my größe {number}" for number in range(N_FEATURES)])
    named = train({}, SIGNAL, features=data)

    assert read(named, features=None).partial.part.features[0] == "my_größe_0"
    assert read(named, features=tuple(data.columns)).partial.part.features == tuple(data.columns)
    assert read(train({}, SIGNAL)).partial.part.features[0] == "f0"
    with pytest.raises(FeatureNamesError, match="--features"):
        read(train({}, SIGNAL), features=None)
    with pytest.raises(ModelConflictError, match="leave --features out"):
        read(named)


def test_there_is_no_intercept() -> None:
    booster = train({}, SIGNAL)

    assert read(booster, fit_intercept=True).partial.fit_intercept
    with pytest.raises(ModelConflictError, match="fit_intercept=False"):
        read(booster, holds_intercept=True)


def gradient(prediction: Any, data: Any) -> tuple[Any, Any]:
    return prediction - data.get_label(), np.ones_like(prediction)


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: pickle.dumps(lgb.LGBMRegressor()), "not fitted"),
        (lambda: text_of(train({"objective": gradient}, SIGNAL)).encode(), "predictions are not in the file"),
        (lambda: text_of(train({"objective": "cross_entropy_lambda"}, POSITIVE)).encode(), "objective=cross_entropy"),
        (lambda: text_of(train({"reg_sqrt": True}, SIGNAL)).encode(), "reg_sqrt"),
        (lambda: text_of(train({"linear_tree": True}, SIGNAL)).encode(), "linear_tree=false"),
        (lambda: SMALL.replace("version=v4", "version=v9").encode(), "format 'v9'"),
        (lambda: re.sub("objective=.*", "objective=secret", SMALL).encode(), "'secret' of the LightGBM model"),
    ],
    ids=["wrapper", "own", "lambda", "sqrt", "linear", "version", "unknown"],
)  # fmt: skip
def test_what_cannot_be_served_is_refused(make: Callable[[], bytes], told: str) -> None:
    with pytest.raises(UnsupportedModelError, match=told):
        read(make())


SMALL: str = text_of(train({"num_leaves": 4}, SIGNAL, 2))
SETS: str = text_of(train({**OF_CATEGORIES, "num_leaves": 4}, frame_target(frame(0)), 2, features=frame(0)))


def line(key: str, change: Callable[[list[str]], Any]) -> Callable[[str], str]:
    """A change of the words of the last line of a key."""

    def changed(text: str) -> str:
        before, _, rest = text.rpartition(f"\n{key}=")
        words, newline, after = rest.partition("\n")
        listed = words.split(" ")
        change(listed)
        return f"{before}\n{key}={' '.join(listed)}{newline}{after}"

    return changed


def at(position: int, value: str) -> Callable[[list[str]], None]:
    def change(words: list[str]) -> None:
        words[position] = value

    return change


@pytest.mark.parametrize(
    ("text", "change", "told"),
    [
        (SMALL, line("left_child", at(0, "7")), "tree 1 has a child that does not exist|circle"),
        (SMALL, line("left_child", at(0, "-9")), "tree 1 has a child that does not exist"),
        (SMALL, line("left_child", at(0, "0")), "circle|two parents"),
        (SMALL, line("right_child", at(0, "-1")), "two parents|no path reaches"),
        (SMALL, line("split_feature", at(0, "99")), "tree 1 has an unknown feature"),
        (SMALL, line("split_feature", at(0, "x")), "holds more than numbers"),
        (SMALL, line("threshold", at(0, "nan")), "threshold that is NaN"),
        (SMALL, line("threshold", at(0, "-inf")), "threshold that is NaN or infinite"),
        (SMALL, line("leaf_value", at(0, "-inf")), "leaf that is NaN or infinite"),
        (SMALL, line("leaf_value", list.pop), "leaf_value of Tree=1 of the LightGBM model has 3 numbers, not 4"),
        (SMALL, line("decision_type", list.pop), "decision_type of Tree=1"),
        (SMALL, line("decision_type", at(0, "14")), "decision_type of Tree=1.*unknown"),
        (SMALL, line("decision_type", at(0, "1")), "cat_boundaries"),
        (SMALL, line("num_leaves", at(0, "9999999999")), "has 9999999999 leaves"),
        (SMALL, line("num_leaves", at(0, "0")), "has 0 leaves"),
        (SMALL, line("Tree", at(0, "2")), "not numbered"),
        (SMALL, line("tree_sizes", list.pop), "as many trees as it says"),
        (SMALL, line("num_tree_per_iteration", at(0, "2")), "2 trees per round"),
        (SMALL, line("max_feature_idx", at(0, "3")), "8 feature names for 4|names"),
        (SMALL, line("feature_infos", list.pop), "ranges of 7 features, not 8"),
        (SMALL, line("objective", at(0, "binary sigmoid:0")), "not above zero"),
        (SMALL, line("objective", at(0, "binary sigmoid:x")), "not a number"),
        (SMALL, lambda text: text[: text.index("end of trees")], "cut off"),
        (SMALL, lambda text: re.sub("(?s)tree_sizes=.*end of trees", "\n\nend of trees", text), "has no trees"),
        (SMALL, lambda text: text.replace("Tree=1\n", "Tree=1\nnum_leaves=3\n"), "'num_leaves' twice"),
        (SMALL, lambda text: re.sub("pandas_categorical.*", "pandas_categorical:[", text), "no JSON"),
        (SMALL, lambda text: re.sub("pandas_categorical.*", "pandas_categorical:[1]", text), "list of lists"),
        (SETS, line("cat_boundaries", at(-1, "99999999999999")), "cat_threshold"),
        (SETS, line("cat_boundaries", at(0, "1")), "do not fit together"),
        (SETS, line("cat_threshold", at(0, "-1")), "do not fit together"),
        (SETS, line("num_cat", at(0, "0")), "cat_boundaries"),
        (SETS, lambda text: re.sub("pandas_categorical.*", 'pandas_categorical:[["a","a"],["b"]]', text), "twice"),
    ],
)  # fmt: skip
def test_a_damaged_model_is_refused(text: str, change: Callable[[str], str], told: str) -> None:
    damaged = change(text)
    assert damaged != text
    with pytest.raises((ModelFileError, FeatureNamesError, UnsupportedModelError), match=told):
        read(damaged, 3 if text is SETS else 8, **({"features": None} if text is SETS else {}))


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_cut_or_changed_text_is_refused_or_a_model(data: st.DataObject) -> None:
    whole = data.draw(st.sampled_from([SMALL, SETS])).encode()
    position = data.draw(st.integers(0, whole.index(b"feature_importances") - 1))
    new = data.draw(st.sampled_from([b"", b"9", b"-", b"\n", b" ", b"\xff"]))
    damaged = data.draw(st.sampled_from([whole[:position], whole[:position] + new + whole[position + 1 :]]))
    n_features = N_FEATURES if b"Column_0" in whole else 3

    try:
        part = trees_of(read(damaged, n_features, **({} if n_features > 3 else {"features": None})))
    except (ModelFileError, UnsupportedModelError, FeatureNamesError, ModelConflictError):
        return
    assert np.isfinite(part.partial_scores(np.zeros((1, n_features)))).all()
