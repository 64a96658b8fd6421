"""Pipelines with preprocessing against scikit-learn's own scores, and its own refusals."""

from __future__ import annotations

import functools
import json
import warnings
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import (
    FunctionTransformer,
    MinMaxScaler,
    Normalizer,
    OneHotEncoder,
    OrdinalEncoder,
    PolynomialFeatures,
    PowerTransformer,
    StandardScaler,
)

from fedpredict.convert.portable import from_portable, parse_json, to_json
from fedpredict.convert.split import split_model
from fedpredict.errors import ModelConflictError, UnsupportedModelError
from fedpredict.model.linear import LinearPart
from fedpredict.model.part import Part
from fedpredict.model.share import SampleStatus
from fedpredict.model.step import StepKind
from fedpredict.model.steps import StepsPart
from tests.step_models import (
    NUMBERS,
    TEXTS,
    TRANSFORMS,
    accepted,
    coded,
    data,
    fitted,
    odd_rows,
    raw_scores,
    read,
    target,
)

CORES = ["linear", "classes", "trees"]


@functools.cache
def usable_rows(name: str) -> pd.DataFrame:
    """Rows that a pipeline with this transform scores, whatever its core."""
    frame = data(40, seed=3)
    return pd.DataFrame(frame[accepted(fitted(name), frame)])


def assert_same(part: Part, expected: np.ndarray, features: np.ndarray, tolerance: float = 1e-9) -> None:
    status = part.statuses(features)
    assert status is None or (status == SampleStatus.OK).all()
    assert (np.abs(part.partial_scores(features) - expected) <= tolerance * part.magnitudes(features)).all()


@pytest.mark.parametrize("core", CORES)
@pytest.mark.parametrize("name", TRANSFORMS)
def test_a_pipeline_gives_scikit_learns_scores(name: str, core: str) -> None:
    model = fitted(name, core)
    frame = usable_rows(name)
    assert len(frame) > 15
    part = read(model).part
    assert_same(part, raw_scores(model, frame), coded(part, frame))


@pytest.mark.parametrize("name", TRANSFORMS)
def test_a_sample_is_refused_where_scikit_learn_refuses_it(name: str) -> None:
    model, frame = fitted(name), odd_rows()
    part = read(model).part
    features = coded(part, frame)
    status = part.statuses(features)
    assert status is not None
    infinite = np.isinf(features).any(axis=1)
    assert (status[infinite] == SampleStatus.FEATURE_INVALID).all()
    # bins and quantiles of scikit-learn take some infinite values, which no feature here may be
    assert (status == SampleStatus.OK)[~infinite].tolist() == np.array(accepted(model, frame))[~infinite].tolist()
    usable = status == SampleStatus.OK
    assert_same(part, raw_scores(model, frame[usable]), features[usable])
    missing = np.isnan(features).any(axis=1) & ~usable
    assert (status[missing] == SampleStatus.FEATURE_MISSING).all()
    assert (status[~missing & ~usable] == SampleStatus.FEATURE_INVALID).all()


@pytest.mark.parametrize("name", TRANSFORMS)
def test_the_portable_form_reads_back_bit_by_bit(name: str) -> None:
    partial = read(fitted(name, "classes"))
    again = from_portable(parse_json(to_json(partial)))
    assert json.loads(to_json(again)) == json.loads(to_json(partial))
    features = coded(partial.part, data(40, seed=5))
    np.testing.assert_array_equal(again.part.partial_scores(features), partial.part.partial_scores(features))


@pytest.mark.parametrize("name", sorted(TRANSFORMS.keys() - {"polynomial", "interactions", "union"}))
def test_parties_together_give_the_uncut_scores(name: str) -> None:
    model = fitted(name, "classes")
    joint = read(model)
    owners = {f"p{place}": [feature] for place, feature in enumerate(joint.part.features)}
    parts = split_model(joint, owners, "p0")
    frame = usable_rows(name)
    total = np.sum([each.part.partial_scores(coded(each.part, frame)) for each in parts.values()], axis=0)
    bound = 1e-9 * joint.part.magnitudes(coded(joint.part, frame))
    assert (np.abs(total - raw_scores(model, frame)) <= bound).all()
    for part in parts.values():
        assert part.part.categories == {
            feature: texts for feature, texts in joint.part.categories.items() if feature in part.part.features
        }


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_any_pipeline_cut_at_random_gives_scikit_learns_scores(drawn: st.DataObject) -> None:
    """Random rows, columns in random order and number, encoders and imputers by chance; one to four parties."""
    seed = drawn.draw(st.integers(0, 2**32 - 1))
    frame = data(60, seed)
    texts = drawn.draw(st.lists(st.sampled_from(TEXTS), unique=True))
    numbers = drawn.draw(st.lists(st.sampled_from(NUMBERS), unique=True, min_size=1))
    unknown = {"handle_unknown": "use_encoded_value", "unknown_value": -1}
    encoder = drawn.draw(
        st.sampled_from(
            [
                OneHotEncoder(drop="if_binary"),
                OneHotEncoder(max_categories=3, handle_unknown="ignore", sparse_output=False),
                make_pipeline(SimpleImputer(strategy="most_frequent"), OrdinalEncoder(**unknown)),
            ]
        )
    )
    scaler = drawn.draw(st.sampled_from([PowerTransformer(), MinMaxScaler(clip=True), "passthrough"]))
    filled = SimpleImputer(strategy=drawn.draw(st.sampled_from(["mean", "median"])), add_indicator=True)
    columns = ColumnTransformer([("t", encoder, texts), ("n", make_pipeline(filled, scaler), numbers)])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = make_pipeline(columns, Ridge(1.0)).fit(frame, frame["income"] / 1e4)
    joint = read(model)
    owner = [drawn.draw(st.sampled_from(["a", "b", "c", "d"])) for _ in joint.part.features]
    owners = {
        party: [name for name, of in zip(joint.part.features, owner, strict=True) if of == party]
        for party in set(owner)
    }
    parts = split_model(joint, owners, sorted(owners)[0])
    total = np.sum([each.part.partial_scores(coded(each.part, frame)) for each in parts.values()], axis=0)
    bound = 1e-9 * joint.part.magnitudes(coded(joint.part, frame))
    assert (np.abs(total - raw_scores(model, frame)) <= bound).all()


def test_a_product_of_two_parties_features_is_refused_with_their_names() -> None:
    joint = read(fitted("interactions"))
    with pytest.raises(ModelConflictError, match=r"'income', 'rooms'.*'a', 'b'"):
        split_model(joint, {"a": ["income"], "b": ["rooms"]}, "a")
    assert isinstance(split_model(joint, {"a": ["rooms", "income"]}, "a")["a"].part, StepsPart)


def test_products_within_a_party_go_with_it() -> None:
    frame = data()[NUMBERS].fillna(0.0)
    pair = PolynomialFeatures(2, include_bias=True)
    model = make_pipeline(ColumnTransformer([("p", pair, ["age", "debt"]), ("q", pair, ["rooms"])]), Ridge())
    model.fit(frame, target(data()))
    parts = split_model(read(model), {"a": ["debt", "age"], "b": ["rooms"]}, "b")
    total = np.sum([each.part.partial_scores(coded(each.part, frame)) for each in parts.values()], axis=0)
    terms = np.sum([each.part.magnitudes(coded(each.part, frame)) for each in parts.values()], axis=0)
    assert (np.abs(total - raw_scores(model, frame)) <= 1e-9 * terms).all()


def test_scalers_alone_stay_weights() -> None:
    frame = data()[NUMBERS].fillna(1.0)
    model = make_pipeline(StandardScaler(), LogisticRegression()).fit(frame, target(data()))
    assert isinstance(read(model).part, LinearPart)


def test_the_weights_of_an_encoder_stand_with_its_categories() -> None:
    part = read(fitted("onehot, ignore", "classes")).part
    assert isinstance(part, StepsPart)
    assert StepKind.ONEHOT not in {step.kind for step in part.steps}


@pytest.mark.parametrize(
    "encoder",
    [
        OrdinalEncoder(),
        OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-2, encoded_missing_value=-1),
        make_pipeline(SimpleImputer(strategy="most_frequent"), OrdinalEncoder()),
        make_pipeline(SimpleImputer(strategy="constant", fill_value="-"), OneHotEncoder(handle_unknown="ignore")),
    ],
)
def test_none_is_a_category_like_another_and_nothing_that_an_imputer_of_nan_fills(encoder: Any) -> None:
    cities = pd.Series(["Wien", None, "Graz", "Wien"] * 20, dtype=object)
    frame = pd.DataFrame({"city": cities})
    model = make_pipeline(ColumnTransformer([("c", encoder, ["city"])]), Ridge()).fit(frame, [1.0, -4.0, 2.0, 1.0] * 20)

    part = read(model).part

    assert_same(part, raw_scores(model, frame), coded(part, frame))


def test_features_that_are_dropped_are_not_needed() -> None:
    assert read(fitted("bins, ordinal")).part.features == ("income", "rooms")


@pytest.mark.parametrize(
    ("transformer", "told"),
    [
        (FunctionTransformer(np.abs), "FunctionTransformer runs a function"),
        (Normalizer(), "Normalizer, which is not served"),
        (SimpleImputer(missing_values=-1), "missing_values"),
        (make_pipeline(PowerTransformer(), ColumnTransformer([("a", Normalizer(), [0])])), "Normalizer"),
    ],
)
def test_what_is_not_served_is_named(transformer: Any, told: str) -> None:
    frame = data()[NUMBERS].fillna(1.0)
    model = make_pipeline(transformer, Ridge()).fit(frame, target(data()))
    with pytest.raises(UnsupportedModelError, match=told):
        read(model)


def test_two_encoders_that_know_other_categories_of_one_text_are_refused() -> None:
    frame = data()[["job", "rooms"]]
    twice = ColumnTransformer(
        [
            ("a", OneHotEncoder(handle_unknown="ignore"), ["job"]),
            ("b", OneHotEncoder(categories=[["vet"]], handle_unknown="ignore"), ["job"]),
        ]
    )
    with pytest.raises(UnsupportedModelError, match="'job'"):
        read(make_pipeline(twice, Ridge()).fit(frame, target(data())))
