"""Files of XGBoost against XGBoost's own predictions."""

from __future__ import annotations

import bz2
import gzip
import json
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xgboost as xgb
from hypothesis import given, settings
from hypothesis import strategies as st

from fedpredict.convert.child import read_content
from fedpredict.convert.options import Limits, ReadOptions
from fedpredict.convert.portable import from_portable, parse_json, to_json
from fedpredict.convert.sklearn_file import Reading
from fedpredict.convert.split import split_model
from fedpredict.convert.split_trees_cut import split_with_head
from fedpredict.errors import FeatureNamesError, ModelConflictError, ModelFileError, UnsupportedModelError
from fedpredict.model.kinds import Kind
from fedpredict.model.links import Link
from fedpredict.model.part import UNKNOWN_CATEGORY
from fedpredict.model.share import SampleStatus
from fedpredict.model.trees import TreesPart
from tests.unit.convert.boosters import assert_raw_scores, mixed_data, signal
from tests.unit.convert.support import joblib_bytes, options_for, predictions_of

FEATURES = mixed_data(0)
N_FEATURES = FEATURES.shape[1]
SIGNAL = signal(FEATURES)
RELATIVE = 1e-6
"""XGBoost sums in float32."""


def train(params: dict[str, Any], target: Any, rounds: int = 6, features: Any = FEATURES, **data: Any) -> xgb.Booster:
    return xgb.train(
        {"max_depth": 4, "nthread": 1, "verbosity": 0, **params}, xgb.DMatrix(features, target, **data), rounds
    )


def read(model: xgb.Booster | bytes, n_features: int = N_FEATURES, **changes: Any) -> Reading:
    data = model if isinstance(model, bytes) else bytes(model.save_raw("ubj"))
    return read_content(data, options_for(n_features, **changes), Limits())


def trees_of(reading: Reading) -> TreesPart:
    assert isinstance(reading.partial.part, TreesPart)
    return reading.partial.part


def margins(booster: xgb.Booster, features: Any, **settings: Any) -> Any:
    return booster.predict(xgb.DMatrix(features, **settings), output_margin=True)


POSITIVE = np.median(SIGNAL) < SIGNAL
THIRDS = np.digitize(SIGNAL, np.quantile(SIGNAL, [0.3, 0.7]))
COUNTS = np.floor(np.exp(np.clip(SIGNAL, -2, 3)))
OBJECTIVES: list[tuple[str, dict[str, Any], Any, Kind, str]] = [
    ("reg:squarederror", {}, SIGNAL, Kind.LINEAR, "identity"),
    ("reg:squarederror", {"base_score": 3.0}, SIGNAL, Kind.LINEAR, "identity"),
    ("reg:squaredlogerror", {}, COUNTS, Kind.LINEAR, "identity"),
    ("reg:pseudohubererror", {}, SIGNAL, Kind.LINEAR, "identity"),
    ("reg:absoluteerror", {}, SIGNAL, Kind.LINEAR, "identity"),
    ("reg:quantileerror", {"quantile_alpha": [0.2, 0.8]}, SIGNAL, Kind.LINEAR, "identity"),
    ("reg:logistic", {}, POSITIVE, Kind.BINARY, "logit"),
    ("binary:logistic", {}, POSITIVE, Kind.BINARY, "logit"),
    ("binary:logistic", {"base_score": 0.9}, POSITIVE, Kind.BINARY, "logit"),
    ("binary:logitraw", {}, POSITIVE, Kind.DECISION, "identity"),
    ("multi:softprob", {"num_class": 3}, THIRDS, Kind.MULTINOMIAL, "softmax"),
    ("multi:softprob", {"num_class": 3, "num_parallel_tree": 2, "subsample": 0.7}, THIRDS, Kind.MULTINOMIAL, "softmax"),
    ("count:poisson", {}, COUNTS, Kind.LINEAR, "log"),
    ("reg:gamma", {}, COUNTS + 0.1, Kind.LINEAR, "log"),
    ("reg:tweedie", {"tweedie_variance_power": 1.3, "base_score": 2.0}, COUNTS, Kind.LINEAR, "log"),
    ("survival:cox", {}, COUNTS + 1.0, Kind.LINEAR, "log"),
    ("binary:logistic", {"booster": "dart", "rate_drop": 0.5, "one_drop": True}, POSITIVE, Kind.BINARY, "logit"),
    (
        "reg:squarederror",
        {"grow_policy": "lossguide", "max_leaves": 9, "max_depth": 0},
        SIGNAL,
        Kind.LINEAR,
        "identity",
    ),
    ("reg:squarederror", {"tree_method": "exact", "gamma": 5.0}, SIGNAL, Kind.LINEAR, "identity"),
]


@pytest.mark.parametrize(("objective", "params", "target", "kind", "link"), OBJECTIVES)
def test_predictions_are_xgboosts(objective: str, params: dict[str, Any], target: Any, kind: Kind, link: str) -> None:
    booster = train({"objective": objective, **params}, target)
    fresh = mixed_data(1)

    partial = read(booster).partial

    assert (partial.kind, partial.link) == (kind, Link(link))
    assert partial.fit_intercept
    assert_raw_scores(partial, fresh, margins(booster, fresh), RELATIVE)
    expected = booster.predict(xgb.DMatrix(fresh))
    np.testing.assert_allclose(predictions_of(partial, fresh), expected.reshape(len(fresh), -1), rtol=3e-6, atol=1e-6)


def test_a_hinge_model_gives_its_margin() -> None:
    booster = train({"objective": "binary:hinge"}, POSITIVE)

    partial = read(booster).partial

    assert partial.kind is Kind.DECISION
    labels = booster.predict(xgb.DMatrix(FEATURES))
    assert ((predictions_of(partial, FEATURES)[:, 0] > 0) == (labels > 0)).all()


def test_an_accelerated_failure_time_is_the_exponential() -> None:
    data = xgb.DMatrix(FEATURES)
    data.set_float_info("label_lower_bound", COUNTS + 1)
    data.set_float_info("label_upper_bound", COUNTS + 2)
    booster = xgb.train({"objective": "survival:aft", "nthread": 1}, data, 4)

    partial = read(booster).partial

    np.testing.assert_allclose(predictions_of(partial, FEATURES)[:, 0], booster.predict(data), rtol=3e-6, atol=1e-6)


@pytest.mark.parametrize("objective", ["rank:pairwise", "rank:ndcg", "rank:map"])
def test_rankers_give_their_scores(objective: str) -> None:
    booster = train({"objective": objective}, POSITIVE, qid=np.arange(len(FEATURES)) // 20)

    partial = read(booster).partial

    assert (partial.kind, partial.link) == (Kind.LINEAR, Link("identity"))
    assert_raw_scores(partial, FEATURES, booster.predict(xgb.DMatrix(FEATURES)), RELATIVE)


@pytest.mark.parametrize("objective", ["reg:squarederror", "multi:softprob"])
@pytest.mark.parametrize("strategy", ["one_output_per_tree", "multi_output_tree"])
def test_several_outputs_stand_in_one_tree_or_in_several(objective: str, strategy: str) -> None:
    is_classes = objective.startswith("multi")
    target = THIRDS if is_classes else np.column_stack([SIGNAL, SIGNAL**2, -SIGNAL])
    more = {"num_class": 3} if is_classes else {}
    booster = train({"objective": objective, "multi_strategy": strategy, "tree_method": "hist", **more}, target)

    reading = read(booster)

    assert trees_of(reading).values.shape[1] == (3 if strategy == "multi_output_tree" else 1)
    assert_raw_scores(reading.partial, mixed_data(2), margins(booster, mixed_data(2)), RELATIVE)


def test_thresholds_are_compared_in_float32() -> None:
    """Between a threshold of float32 and the float64 next to it, XGBoost sees the threshold itself."""
    booster = train({"objective": "reg:squarederror", "max_depth": 5}, SIGNAL)
    part = trees_of(read(booster))
    edges = []
    for column in range(N_FEATURES):
        thresholds = np.unique(part.trees.threshold[part.trees.feature == column])
        for threshold in thresholds[:10]:
            single = np.float32(threshold)
            around = [threshold, np.nextafter(threshold, -np.inf), np.nextafter(threshold, np.inf)]
            around += [float(np.nextafter(single, np.float32(side))) for side in (-np.inf, np.inf)]
            around += [(threshold + around[3]) / 2, (threshold + around[4]) / 2]
            for value in around:
                row = FEATURES[0].copy()
                row[column] = value
                edges.append(row)
    features = np.array(edges)
    assert len(features) > 100

    assert_raw_scores(read(booster).partial, features, margins(booster, features), RELATIVE)


def test_infinite_and_beyond_float32_have_no_number() -> None:
    part = trees_of(read(train({}, SIGNAL)))
    features = np.nan_to_num(FEATURES[:3])
    features[0, 0], features[1, 1] = np.inf, 1e39

    statuses = part.statuses(features)

    assert statuses is not None
    assert [int(status) for status in statuses] == [4, 4, 1]


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    params=st.fixed_dictionaries(
        {
            "max_depth": st.integers(1, 7),
            "eta": st.sampled_from([0.05, 0.5, 1.0]),
            "reg_lambda": st.sampled_from([0.0, 1.0]),
            "tree_method": st.sampled_from(["hist", "exact", "approx"]),
            "booster": st.sampled_from(["gbtree", "dart"]),
            "num_parallel_tree": st.integers(1, 2),
        }
    ),
    missing=st.sampled_from([0.0, 0.3]),
)
def test_any_model_scores_as_xgboost(seed: int, params: dict[str, Any], missing: float) -> None:
    features = mixed_data(seed, 150, missing)
    booster = train({**params, "rate_drop": 0.3}, signal(features), 4, features)
    fresh = mixed_data(seed + 1, 200, 0.2)

    assert_raw_scores(read(booster).partial, fresh, margins(booster, fresh), RELATIVE)


def frame(seed: int, n_rows: int = 300) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    colours = ["rouge", "Grey", "r0", "blue", "", "x y"]
    found = pd.DataFrame(
        {
            "amount": rng.normal(size=n_rows),
            "Colour of it": rng.choice(np.array([*colours, None], dtype=object), n_rows),
        }
    )
    found["region"] = pd.Categorical(rng.integers(5, 60, n_rows), categories=list(range(5, 60)))
    found["Colour of it"] = pd.Categorical(found["Colour of it"], categories=sorted(colours))
    return found


def target_of(data: pd.DataFrame) -> Any:
    lucky = data["Colour of it"].isin(["rouge", "r0"]).to_numpy() + (data["region"].astype(int) % 3 == 0).to_numpy()
    return data["amount"].to_numpy() + 2.0 * lucky


@pytest.mark.parametrize("one_hot", [1, 100], ids=["sets", "one_hot"])
def test_texts_and_whole_numbers_are_categories(one_hot: int) -> None:
    data, fresh = frame(0), frame(1)
    booster = train(
        {"max_cat_to_onehot": one_hot, "tree_method": "hist"}, target_of(data), features=data, enable_categorical=True
    )

    reading = read(booster, features=None)

    part = trees_of(reading)
    assert part.features == ("amount", "Colour of it", "region")
    assert (part.trees.left_set >= 0).sum() > 3
    texts = part.categories["Colour of it"]
    assert list(part.categories) == ["Colour of it"]
    coded = np.column_stack(
        [
            fresh["amount"],
            [texts.index(text) if isinstance(text, str) else np.nan for text in fresh["Colour of it"]],
            fresh["region"].astype(float),
        ]
    )
    expected = booster.predict(xgb.DMatrix(fresh, enable_categorical=True), output_margin=True)
    assert_raw_scores(reading.partial, coded, expected, RELATIVE)


def test_codes_without_labels_are_numbers() -> None:
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 70, 500).astype(float)
    features = np.column_stack([rng.normal(size=500), codes])
    features[rng.random(features.shape) < 0.1] = np.nan
    target = np.nan_to_num(features[:, 0]) + 3 * np.isin(codes % 5, [0, 3])
    kinds: dict[str, Any] = {"feature_types": ["q", "c"], "enable_categorical": True}
    booster = train({"tree_method": "hist", "max_cat_to_onehot": 1}, target, features=features, **kinds)
    odd = [-1.0, -0.5, -1e-30, -1e-50, -0.0, 0.5, 3.9, 4 - 1e-9, 69.0, 70.0, 95.0, 96.0, 1e3, 1e7, 3e9, 1e30, np.nan]
    fresh = np.column_stack([np.zeros(len(odd)), odd])

    reading = read(booster, 2)

    assert not reading.partial.part.categories
    assert_raw_scores(reading.partial, features, margins(booster, features, **kinds), RELATIVE)
    assert_raw_scores(reading.partial, fresh, margins(booster, fresh, **kinds), RELATIVE)


@pytest.mark.parametrize("code", [2**24 - 1, 2**24])
def test_codes_end_where_xgboost_takes_numbers_for_invalid(code: int) -> None:
    codes = np.arange(60.0)[:, None] % 3
    kinds: dict[str, Any] = {"feature_types": ["c"], "enable_categorical": True}
    booster = train({"tree_method": "hist", "max_cat_to_onehot": 1}, codes[:, 0] == 1, 1, codes, **kinds)
    document = json.loads(booster.save_raw("json"))
    split = learner(document)["gradient_booster"]["model"]["trees"][0]
    split["categories"], split["categories_sizes"], split["categories_segments"] = [0, code], [2], [0]
    booster = xgb.Booster(model_file=bytearray(json.dumps(document).encode()))
    odd = np.array([0, -0.5, 1, code - 1, code - 1.5, code - 0.75, code - 0.5, code, code + 0.4, code + 1, code + 2])

    assert split["categories_nodes"] == [0]
    assert_raw_scores(read(booster, 1).partial, odd[:, None], margins(booster, odd[:, None], **kinds), RELATIVE)


LABELLED = frame(0)[lambda data: data["region"] != 30].assign(
    region=lambda data: data["region"].cat.remove_unused_categories()
)


def labelled_booster() -> xgb.Booster:
    """A model of texts and of numbers as labels; 30 is none of the numbers."""
    params = {"max_cat_to_onehot": 1, "tree_method": "hist"}
    return train(params, target_of(LABELLED), features=LABELLED, enable_categorical=True)


@pytest.mark.parametrize(
    ("column", "label", "coded"),
    [("Colour of it", "zebra", UNKNOWN_CATEGORY), ("region", 99, 99.0), ("region", 30.5, 30.5)],
)
def test_a_label_that_xgboost_refuses_has_a_status_and_no_number(column: str, label: Any, coded: float) -> None:
    booster, known = labelled_booster(), LABELLED.head(2)
    with pytest.raises(xgb.core.XGBoostError, match=r"not in the training set|floating point"):
        booster.predict(xgb.DMatrix(known.assign(**{column: pd.Categorical([label] * 2)}), enable_categorical=True))
    part = trees_of(read(booster, features=None))
    row = np.array([[0.0, 1.0, 7.0]])
    assert part.statuses(row) is None

    row[0, part.features.index(column)] = coded

    assert part.statuses(row) == [SampleStatus.FEATURE_INVALID]


@pytest.mark.parametrize(("column", "label", "coded"), [("Colour of it", "gold", UNKNOWN_CATEGORY), ("region", 30, 30)])
def test_a_label_that_xgboost_takes_for_the_next_one_has_a_status_as_well(
    column: str, label: Any, coded: float
) -> None:
    """It refuses labels beyond the last alone: it looks for the place of one, and not whether it is there."""
    booster, rows = labelled_booster(), LABELLED.head(20)
    wrong, following = (
        booster.predict(xgb.DMatrix(rows.assign(**{column: pd.Categorical([each] * 20)}), enable_categorical=True))
        for each in (label, {"gold": "r0", 30: 31}[label])
    )
    assert wrong.tolist() == following.tolist()
    part = trees_of(read(booster, features=None))
    row = np.array([[0.0, np.nan, np.nan]])
    assert part.statuses(row) is None, "a missing one is scored"

    row[0, part.features.index(column)] = coded

    assert part.statuses(row) == [SampleStatus.FEATURE_INVALID]


@pytest.mark.parametrize("head", [None, "bank"])
def test_the_party_of_the_feature_says_that_its_category_is_unknown(head: str | None) -> None:
    """Whether its trees are summed, or split with others; also where no node asks for the feature."""
    data = LABELLED.assign(one=pd.Categorical(["x"] * len(LABELLED)))
    settings = {} if head else {"interaction_constraints": [["amount", "one"], ["Colour of it", "region"]]}
    booster = train({"tree_method": "hist", **settings}, target_of(data), features=data, enable_categorical=True)
    joint = read(booster, features=None).partial
    assert not (trees_of(read(booster, features=None)).trees.feature == 3).any()
    parties = {"bank": ["one", "amount"], "shop": ["region", "Colour of it"]}
    parts = split_with_head(joint, parties, head).parts if head else split_model(joint, parties, "bank")

    found = {
        party: partial.part.statuses(np.array([[coded, 7.0], [0.0, 7.0]]))
        for coded, (party, partial) in zip((UNKNOWN_CATEGORY, 99.0), parts.items(), strict=True)
    }

    for status in found.values():
        assert status is not None
        assert status[0] == SampleStatus.FEATURE_INVALID
    assert found["bank"][1] == SampleStatus.OK  # type: ignore[index]
    back = from_portable(parse_json(to_json(parts["shop"]))).part
    status = back.statuses(np.array([[99.0, 1.0], [7.0, 1.0]]))
    assert status is not None
    assert status.tolist() == [SampleStatus.FEATURE_INVALID, SampleStatus.OK]


def test_labels_that_are_numbers_beside_codes_are_refused() -> None:
    data = frame(0)[["region"]].assign(code=np.arange(300) % 7)
    data["code"] = data["code"].astype(float)
    target = np.isin(data["code"], [1, 4]) + 2.0 * (data["region"].astype(int) % 3 == 0)
    booster = train({"max_cat_to_onehot": 1, "tree_method": "hist"}, target, features=data, feature_types=["c", "c"],
                    enable_categorical=True)  # fmt: skip

    with pytest.raises(UnsupportedModelError, match="give it all categorical features as pandas' categories"):
        read(booster, features=None)


@pytest.mark.parametrize(
    ("labels", "told"),
    [
        ([-1, 0, 1], "'region' are numbers, but not whole ones from 0"),
        (["größe", "b", "c"], "'region' are not plain ASCII"),
    ],
    ids=["negative", "letters"],
)
def test_labels_that_a_file_cannot_carry_are_refused(labels: list[Any], told: str) -> None:
    data = frame(0)
    data["region"] = pd.Categorical(np.array(labels)[np.arange(len(data)) % 3])
    booster = train({"tree_method": "hist"}, data["amount"], features=data, enable_categorical=True)

    with pytest.raises(UnsupportedModelError, match=told):
        read(booster, features=None)


WRAPPERS: list[tuple[Any, Any]] = [
    (xgb.XGBClassifier(n_jobs=1, n_estimators=5), POSITIVE.astype(int)),
    (xgb.XGBClassifier(n_jobs=1, n_estimators=5), THIRDS),
    (xgb.XGBRegressor(n_jobs=1, n_estimators=5), SIGNAL),
    (xgb.XGBRegressor(n_jobs=1, n_estimators=5, objective="count:poisson"), COUNTS),
    (xgb.XGBRFClassifier(n_jobs=1, n_estimators=5), POSITIVE.astype(int)),
    (xgb.XGBRFRegressor(n_jobs=1, n_estimators=5), SIGNAL),
]


def wrapper_prediction(model: Any, features: Any) -> Any:
    if hasattr(model, "predict_proba"):
        found = model.predict_proba(features)
        return found[:, 1:] if found.shape[1] == 2 else found
    return model.predict(features).reshape(len(features), -1)


@pytest.mark.parametrize(("model", "target"), WRAPPERS)
def test_a_pickled_wrapper_predicts_as_itself(model: Any, target: Any) -> None:
    fitted = model.fit(FEATURES, target)

    partial = read(pickle.dumps(fitted)).partial

    assert partial.classes == (tuple(map(str, range(len(set(target))))) if hasattr(model, "predict_proba") else ())
    np.testing.assert_allclose(
        predictions_of(partial, FEATURES), wrapper_prediction(fitted, FEATURES), rtol=3e-6, atol=1e-6
    )
    assert type(fitted).__name__ in partial.metadata["source"]


@pytest.mark.parametrize("protocol", range(6))
def test_every_protocol_gives_the_same_model(protocol: int) -> None:
    booster = train({"objective": "binary:logistic"}, POSITIVE, 2)

    partial = read(pickle.dumps(booster, protocol=protocol)).partial

    assert_raw_scores(partial, FEATURES, margins(booster, FEATURES), RELATIVE)


def test_a_pickled_ranker_gives_its_scores() -> None:
    model = xgb.XGBRanker(n_jobs=1, n_estimators=4).fit(FEATURES, POSITIVE, qid=np.arange(len(FEATURES)) // 20)

    partial = read(joblib_bytes(model, ("gzip", 3))).partial

    assert_raw_scores(partial, FEATURES, model.predict(FEATURES), RELATIVE)


def stopped_early() -> Any:
    """A classifier whose best round is not its last."""
    model = xgb.XGBClassifier(n_jobs=1, n_estimators=40, max_depth=3, early_stopping_rounds=4, learning_rate=0.9)
    rng = np.random.default_rng(0)
    model.fit(FEATURES, THIRDS, eval_set=[(mixed_data(9), rng.permutation(THIRDS))], verbose=False)
    assert model.best_iteration + 1 < model.get_booster().num_boosted_rounds()
    return model


def saved(model: Any, path: Any) -> bytes:
    model.save_model(path)
    return bytes(path.read_bytes())


def test_a_wrapper_stops_at_its_best_round_and_a_booster_does_not(tmp_path: Any) -> None:
    model = stopped_early()
    booster = model.get_booster()
    everything = booster.predict(xgb.DMatrix(FEATURES))
    best = model.predict_proba(FEATURES)
    assert np.abs(everything - best).max() > 1e-3

    for data, expected in (
        (pickle.dumps(model), best),
        (saved(model, tmp_path / "wrapper.json"), best),
        (saved(model, tmp_path / "wrapper.ubj"), best),
        (pickle.dumps(booster), everything),
        (saved(booster, tmp_path / "booster.json"), everything),
    ):
        np.testing.assert_allclose(predictions_of(read(data).partial, FEATURES), expected, rtol=3e-6, atol=1e-6)
    assert "trees (up to the best iteration" in read(pickle.dumps(model)).partial.metadata["source"]


@pytest.mark.parametrize("compress", [bytes, gzip.compress, bz2.compress])
@pytest.mark.parametrize("form", ["json", "ubj"])
def test_files_are_recognised_by_their_content(compress: Callable[[bytes], bytes], form: str) -> None:
    booster = train({"objective": "binary:logistic"}, POSITIVE)

    partial = read(compress(bytes(booster.save_raw(form)))).partial

    assert_raw_scores(partial, FEATURES, margins(booster, FEATURES), RELATIVE)


def test_json_and_ubjson_give_the_same_model() -> None:
    booster = train({"objective": "multi:softprob", "num_class": 3}, THIRDS)
    indented = json.dumps(json.loads(booster.save_raw("json")), indent=2).encode()

    one, two, three = (
        trees_of(read(bytes(data))) for data in (booster.save_raw("json"), booster.save_raw("ubj"), indented)
    )

    for other in (two, three):
        assert (one.values == other.values).all()
        assert (one.trees.threshold == other.trees.threshold).all()
        assert (one.trees.left == other.trees.left).all()


def test_names_stand_in_the_file_or_are_given() -> None:
    data = pd.DataFrame(FEATURES, columns=[f"größe {number}" for number in range(N_FEATURES)])
    named = train({}, SIGNAL, features=data)

    assert read(named, features=None).partial.part.features == tuple(data.columns)
    assert read(train({}, SIGNAL)).partial.part.features == tuple(f"f{number}" for number in range(N_FEATURES))
    with pytest.raises(FeatureNamesError, match="--features"):
        read(train({}, SIGNAL), features=None)
    with pytest.raises(FeatureNamesError, match="3 feature names for 8"):
        read(train({}, SIGNAL), 3)
    with pytest.raises(ModelConflictError, match="leave --features out"):
        read(named)


def test_the_base_score_is_the_intercept() -> None:
    half = train({"objective": "binary:logistic", "base_score": 0.5}, POSITIVE)
    more = train({"objective": "binary:logistic", "base_score": 0.7}, POSITIVE)

    intercept = read(more).partial.part.intercept
    assert intercept is not None
    np.testing.assert_allclose(intercept, [np.log(0.7 / 0.3)], rtol=1e-6)
    assert read(half, holds_intercept=False).partial.part.intercept is None
    assert read(half, holds_intercept=False).partial.fit_intercept
    with pytest.raises(ModelConflictError, match="not zero"):
        read(more, holds_intercept=False)
    with pytest.raises(ModelConflictError, match="has none"):
        read(half, fit_intercept=False)


def custom(margin: Any, target: Any) -> tuple[Any, Any]:
    return margin - target, np.ones_like(target)


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: pickle.dumps(xgb.XGBRegressor()), "not fitted"),
        (lambda: pickle.dumps(xgb.XGBRegressor(n_jobs=1, objective=custom, n_estimators=2).fit(FEATURES, SIGNAL)), "of its own"),  # noqa: E501
        (lambda: pickle.dumps(xgb.XGBRegressor(missing=0.0, n_estimators=2).fit(FEATURES, SIGNAL)), "missing=0.0"),
        (lambda: pickle.dumps(xgb.XGBClassifier(n_jobs=1, n_estimators=2).fit(FEATURES, np.c_[POSITIVE, ~POSITIVE])), "2 labels"),  # noqa: E501
        (lambda: bytes(train({"booster": "gblinear"}, np.nan_to_num(SIGNAL)).save_raw("ubj")), "gblinear"),
        (lambda: b"binf" + bytes(100), "old binary format.*save_model"),
        (lambda: b"bs64\tAAAA", "old binary format.*save_model"),
        (lambda: pickle.dumps(xgb.XGBClassifier(n_jobs=1, objective="reg:squarederror", n_estimators=2).fit(FEATURES, POSITIVE)), "XGBRegressor"),  # noqa: E501
    ],
    ids=["wrapper", "objective", "missing", "labels", "linear", "binary", "base64", "regression"],
)  # fmt: skip
def test_what_cannot_be_served_is_refused(make: Callable[[], bytes], told: str) -> None:
    with pytest.raises((UnsupportedModelError, ModelFileError), match=told):
        read(make())


def test_another_class_of_xgboost_is_refused() -> None:
    data = pickle.dumps(xgb.XGBRegressor(n_jobs=1, n_estimators=1).fit(FEATURES, SIGNAL), protocol=0)

    with pytest.raises(UnsupportedModelError, match="XGBNewRegressor"):
        read(data.replace(b"XGBRegressor", b"XGBNewRegressor"))


def changed(change: Callable[[dict[str, Any]], None]) -> bytes:
    """A small model as JSON, changed by a function of its document."""
    document = json.loads(train({"objective": "binary:logistic"}, POSITIVE, 2).save_raw("json"))
    change(document)
    return json.dumps(document).encode()


def learner(document: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = document["learner"]
    return found


def tree(document: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = learner(document)["gradient_booster"]["model"]["trees"][1]
    return found


def put(key: str, position: int, value: Any) -> Callable[[dict[str, Any]], None]:
    """A change of one number of the second tree."""

    def change(document: dict[str, Any]) -> None:
        tree(document)[key][position] = value

    return change


def cut(key: str) -> Callable[[dict[str, Any]], None]:
    """A change that takes the last number of an array of the second tree."""

    def change(document: dict[str, Any]) -> None:
        tree(document)[key].pop()

    return change


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (put("left_children", 0, 10_000), "tree 1 has a child that does not exist"),
        (put("left_children", 0, -7), "tree 1 has a child that does not exist"),
        (put("left_children", 1, 0), "circle"),
        (put("left_children", 0, 2), "two parents"),
        (put("split_indices", 0, 99), "tree 1 has an unknown feature"),
        (put("split_indices", 0, -1), "tree 1 has an unknown feature"),
        (put("split_indices", 0, 1.5), "whole numbers"),
        (put("split_conditions", 0, float("nan")), "threshold that is NaN"),
        (put("split_conditions", 0, 1e39), "threshold that is NaN or infinite"),
        (put("split_conditions", -1, float("inf")), "leaf that is NaN"),
        (put("split_conditions", 0, "x"), "array of numbers"),
        (put("default_left", 0, [1]), "different lengths"),
        (put("split_type", 0, 1), "splits by categories, but has none"),
        (lambda d: tree(d)["tree_param"].update(num_nodes="99"), r"trees\[1\] .* says that it has 99 nodes, and has"),
        (cut("right_children"), "differ in length"),
        (cut("split_conditions"), "differ in length"),
        (cut("split_type"), "differ in length"),
        (lambda d: tree(d).pop("default_left"), "no array"),
        (lambda d: d.pop("version"), "which version"),
        (lambda d: d.update(version=[4, 0, 0]), "XGBoost 4.0.0; versions from"),
        (lambda d: d.update(version=[0, 90, 0]), "XGBoost 0.90.0; versions from"),
        (lambda d: learner(d).pop("objective"), "no model.learner.objective"),
        (lambda d: learner(d)["objective"].update(name="my:loss"), "'my:loss' of the XGBoost model is not served"),
        (lambda d: learner(d)["learner_model_param"].update(base_score="1.5"), "base score 1.5"),
        (lambda d: learner(d)["learner_model_param"].update(base_score="[0.5,0.5]"), "2 base scores for 1"),
        (lambda d: learner(d)["learner_model_param"].update(base_score="NaN"), "base score NaN"),
        (lambda d: learner(d)["learner_model_param"].update(base_score="much"), "not a number"),
        (lambda d: learner(d)["learner_model_param"].update(num_class="3"), "3 classes whose objective has none"),
        (lambda d: learner(d)["learner_model_param"].update(num_class="1999999999"), "more than 10000 classes"),
        (
            lambda d: learner(d)["learner_model_param"].update(num_feature="9999999999"),
            "8 feature names for 9999999999",
        ),
        (lambda d: learner(d)["gradient_booster"].update(name="gbforest"), "'gbforest' is not served"),
        (lambda d: learner(d)["gradient_booster"]["model"].update(trees=[]), "0 trees, but says the class of 2"),
        (lambda d: learner(d)["gradient_booster"]["model"].update(trees=[], tree_info=[]), "no trees"),
        (lambda d: learner(d)["gradient_booster"]["model"].update(tree_info=[0, 1]), "class that is not among 1"),
        (lambda d: learner(d).update(attributes={"scikit_learn": "{"}), "damaged"),
    ],
)
def test_a_damaged_model_is_refused(change: Callable[[dict[str, Any]], Any], told: str) -> None:
    with pytest.raises((ModelFileError, UnsupportedModelError, FeatureNamesError), match=told):
        read(changed(change))


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_cut_or_changed_file_is_refused_or_a_model(data: st.DataObject) -> None:
    whole = SMALL[data.draw(st.sampled_from(sorted(SMALL)))]
    position = data.draw(st.integers(0, len(whole) - 1))
    damaged = data.draw(st.sampled_from([whole[:position], whole[:position] + b"\xff" + whole[position + 1 :]]))

    try:
        part = trees_of(read(damaged))
    except (ModelFileError, UnsupportedModelError, FeatureNamesError):
        return
    assert np.isfinite(part.partial_scores(np.zeros((1, N_FEATURES)))).all()


SMALL = {form: bytes(train({"max_depth": 2}, SIGNAL, 1).save_raw(form)) for form in ("json", "ubj")}


def test_nothing_is_read_without_its_names() -> None:
    with pytest.raises(ModelFileError, match="--model-id"):
        read_content(SMALL["ubj"], ReadOptions(features=tuple("abcdefgh")), Limits())
