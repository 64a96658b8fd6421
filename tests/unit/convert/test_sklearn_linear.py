"""Converted models against scikit-learn's own predictions."""

from __future__ import annotations

import copy
import functools
import pickle
import warnings
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits, load_wine
from sklearn.linear_model import (
    ElasticNet,
    Lasso,
    LinearRegression,
    LogisticRegression,
    QuantileRegressor,
    Ridge,
    SGDClassifier,
    SGDRegressor,
)
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import MaxAbsScaler, MinMaxScaler, Normalizer, RobustScaler, StandardScaler

from fedpredict.convert.child import read_content
from fedpredict.convert.options import Limits, ReadOptions
from fedpredict.errors import (
    FeatureNamesError,
    ModelConflictError,
    ModelFileError,
    NameRefusedError,
    UnsupportedModelError,
)
from fedpredict.model.kinds import Kind
from tests.linear_parts import linear
from tests.unit.convert.support import (
    assert_same_scores,
    expected_of,
    joblib_bytes,
    options_for,
    predictions_of,
    read_estimator,
)

RNG = np.random.default_rng(0)
CANCER, WINE, DIABETES, DIGITS = (
    load(return_X_y=True) for load in (load_breast_cancer, load_wine, load_diabetes, load_digits)
)
DIGITS = (DIGITS[0][:400], DIGITS[1][:400])


def fit(model: Any, features: Any, target: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # convergence is not what is tested
        return model.fit(features, target)


@functools.cache
def _fitted() -> LogisticRegression:
    return fit(LogisticRegression(max_iter=5), *CANCER)


def logistic_regression() -> LogisticRegression:
    """A fitted model of 30 features, for the caller to change."""
    return copy.deepcopy(_fitted())


@pytest.mark.parametrize(
    ("model", "data", "kind"),
    [
        pytest.param(LogisticRegression(max_iter=50), CANCER, Kind.BINARY, id="cancer"),
        pytest.param(LogisticRegression(max_iter=50), WINE, Kind.MULTINOMIAL, id="wine"),
        pytest.param(LogisticRegression(max_iter=20), DIGITS, Kind.MULTINOMIAL, id="digits"),
        pytest.param(LogisticRegression(fit_intercept=False, max_iter=20), WINE, Kind.MULTINOMIAL, id="no_intercept"),
        pytest.param(LinearRegression(), DIABETES, Kind.LINEAR, id="diabetes"),
        pytest.param(LinearRegression(fit_intercept=False), DIABETES, Kind.LINEAR, id="linear_no_intercept"),
        pytest.param(Ridge(), DIABETES, Kind.LINEAR, id="ridge"),
        pytest.param(Lasso(alpha=0.1), DIABETES, Kind.LINEAR, id="lasso"),
        pytest.param(ElasticNet(alpha=0.1), DIABETES, Kind.LINEAR, id="elastic_net"),
        pytest.param(SGDRegressor(random_state=0), DIABETES, Kind.LINEAR, id="sgd_regressor"),
        pytest.param(SGDClassifier(loss="log_loss", random_state=0), CANCER, Kind.BINARY, id="sgd_two"),
        pytest.param(
            make_pipeline(StandardScaler(), SGDClassifier(loss="log_loss", random_state=0, average=True)),
            DIGITS,
            Kind.ONE_VS_REST,
            id="sgd_digits",
        ),
        pytest.param(make_pipeline(StandardScaler(), LogisticRegression()), CANCER, Kind.BINARY, id="scaled_cancer"),
        pytest.param(make_pipeline(RobustScaler(), LogisticRegression()), WINE, Kind.MULTINOMIAL, id="robust_wine"),
        pytest.param(make_pipeline(MaxAbsScaler(), Ridge()), DIABETES, Kind.LINEAR, id="max_abs_diabetes"),
        pytest.param(
            make_pipeline(MinMaxScaler((-1, 3)), "passthrough", StandardScaler(), None, LogisticRegression()),
            DIGITS,
            Kind.MULTINOMIAL,
            id="many_steps",
        ),
    ],
)
def test_predictions_are_scikit_learns(model: Any, data: Any, kind: Kind) -> None:
    features, target = data
    model = fit(model, features, target)

    partial = read_estimator(model).partial

    assert partial.kind is kind
    assert_same_scores(model, partial, features)
    np.testing.assert_allclose(predictions_of(partial, features), expected_of(model, features), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize(
    "model",
    [
        make_pipeline(StandardScaler(), LogisticRegression()),
        SGDClassifier(loss="log_loss", random_state=np.random.RandomState(3)),
    ],
    ids=["pipeline", "sgd"],
)
def test_every_protocol_gives_the_same_model(model: Any, protocol: int) -> None:
    model = fit(model, *CANCER)

    partial = read_estimator(model, protocol).partial

    assert_same_scores(model, partial, CANCER[0])


@pytest.mark.parametrize("compress", [0, 3, ("zlib", 9), ("gzip", 3), ("bz2", 3), ("xz", 3), ("lzma", 3)])
def test_joblib_files_give_the_same_model(compress: Any) -> None:
    import pandas as pd

    names = [f"größe {index}" for index in range(30)]
    frame = pd.DataFrame(CANCER[0], columns=names)
    labels = np.where(CANCER[1] == 1, "benign", "malignant").astype(object)
    model = fit(make_pipeline(RobustScaler(), LogisticRegression()), frame, labels)

    partial = read_content(joblib_bytes(model, compress), options_for(30, features=None), Limits()).partial

    assert partial.part.features == tuple(names)
    assert partial.classes == ("benign", "malignant")
    np.testing.assert_allclose(predictions_of(partial, CANCER[0]), expected_of(model, frame), rtol=1e-9)


def test_two_targets_give_two_scores() -> None:
    features, target = DIABETES
    for model in (LinearRegression(), LinearRegression(fit_intercept=False), Ridge(), Lasso(), ElasticNet()):
        fitted = fit(model, features, np.c_[target, -target])

        partial = read_estimator(fitted).partial

        assert partial.part.n_scores == 2
        assert_same_scores(fitted, partial, features)


@pytest.mark.parametrize("model", [LinearRegression(), Ridge(), Lasso(), ElasticNet()])
def test_a_target_of_one_column_and_one_feature(model: Any) -> None:
    features, target = DIABETES
    fitted = fit(model, features[:, :1], target[:, None])

    assert_same_scores(fitted, read_estimator(fitted).partial, features[:, :1])


def test_coefficients_of_float32_are_read_exactly() -> None:
    features = CANCER[0].astype(np.float32)
    model = fit(LogisticRegression(max_iter=20), features, CANCER[1])

    partial = read_estimator(model).partial

    assert (linear(partial.part).weights[:, 0] == model.coef_[0].astype(np.float64)).all()


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_scalers_fold_at_any_shape_and_magnitude(data: st.DataObject) -> None:
    n_features = data.draw(st.integers(1, 6))
    magnitude = 10.0 ** data.draw(st.integers(-6, 6))
    offset = data.draw(st.sampled_from([0.0, 1.0, -100.0]))
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    features = magnitude * (rng.normal(size=(40, n_features)) + offset)
    scalers = data.draw(
        st.lists(
            st.sampled_from(
                [
                    StandardScaler,
                    lambda: StandardScaler(with_mean=False),
                    lambda: StandardScaler(with_std=False),
                    lambda: StandardScaler(with_mean=False, with_std=False),
                    lambda: MinMaxScaler((-2, 5)),
                    MaxAbsScaler,
                    lambda: RobustScaler(unit_variance=True),
                    lambda: RobustScaler(with_centering=False),
                    lambda: RobustScaler(with_scaling=False),
                ]
            ),
            min_size=1,
            max_size=3,
        )
    )
    target = rng.normal(size=40)
    model = fit(make_pipeline(*(make() for make in scalers), Ridge(alpha=0.1)), features, target)

    reading = read_estimator(model)

    part = linear(reading.partial.part)
    terms = np.abs(features) @ np.abs(part.weights) + np.abs(part.constant) + np.abs(part.offset - part.constant)
    difference = np.abs(part.partial_scores(features)[:, 0] - model.predict(features))
    assert (difference <= 1e-12 * terms[:, 0]).all()
    assert reading.feature_constants is not None
    np.testing.assert_allclose(reading.feature_constants.sum(axis=0), linear(part).constant)


def test_a_constant_column_keeps_its_scale_of_one() -> None:
    features = np.c_[CANCER[0][:, :2], np.ones(569)]
    model = fit(make_pipeline(StandardScaler(), LogisticRegression()), features, CANCER[1])

    assert_same_scores(model, read_estimator(model).partial, features)


def test_the_constant_is_not_in_the_intercept() -> None:
    model = fit(make_pipeline(StandardScaler(), LogisticRegression()), *CANCER)

    part = read_estimator(model).partial.part

    assert part.intercept is not None
    assert (part.intercept == model[-1].intercept_).all()
    assert linear(part).constant[0] != 0.0


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        (np.array(["no", "yes"]), ("no", "yes")),
        (np.array(["no", "yes"], dtype=object), ("no", "yes")),
        (np.array([False, True]), ("False", "True")),
        (np.array([-1.0, 1.0]), ("-1.0", "1.0")),
        (np.array([3, 7]), ("3", "7")),
    ],
    ids=["text", "objects", "bool", "float", "int"],
)
def test_class_labels_become_text(labels: Any, classes: tuple[str, ...]) -> None:
    model = fit(LogisticRegression(max_iter=5), CANCER[0], labels[CANCER[1]])

    assert read_estimator(model).partial.classes == classes


def refused(model: Any, **changes: Any) -> str:
    with pytest.raises(UnsupportedModelError) as raised:
        read_estimator(model, **changes)
    return str(raised.value)


def test_another_class_is_refused_by_name_with_what_is_supported() -> None:
    from sklearn.ensemble import IsolationForest

    told = refused(fit(IsolationForest(n_estimators=2), *CANCER))

    assert "IsolationForest" in told
    assert "LogisticRegression" in told
    assert "LinearSVC" in told
    assert "TweedieRegressor" in told
    assert "QuantileRegressor" in refused(fit(QuantileRegressor(), DIABETES[0][:40], DIABETES[1][:40]))


def test_a_step_that_is_not_served_is_refused_by_name() -> None:
    features = CANCER[0][:, :3]
    model = fit(make_pipeline(Normalizer(), LogisticRegression(max_iter=5)), features, CANCER[1])

    assert "Normalizer" in refused(model)


def test_sparse_coefficients_are_refused_with_the_fix() -> None:
    assert "densify()" in refused(logistic_regression().sparsify())


def test_a_model_that_is_not_fitted_is_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="not fitted"):
        read_content(pickle.dumps(LogisticRegression()), options_for(2), Limits())


def test_a_class_of_somebody_else_is_refused_by_name() -> None:
    model = fit(make_pipeline(StandardScaler(), LogisticRegression()), *CANCER)
    model.steps.insert(0, ("own", OwnScaler()))

    assert "OwnScaler" in refused(model)


class OwnScaler:
    """A transformer that no package knows; scikit-learn asks such a step for the number of features."""

    n_features_in_ = 30


def test_a_pipeline_without_a_model_is_refused() -> None:
    model = Pipeline([("scale", StandardScaler().fit(CANCER[0]))])

    assert "StandardScaler" in refused(model)
    model.steps.append(("nothing", "passthrough"))
    with pytest.raises(UnsupportedModelError, match="'nothing'"):
        read_estimator(model)
    model.steps[1] = ("nothing",)
    with pytest.raises(ModelFileError, match="step 2"):
        read_content(pickle.dumps(model), options_for(30), Limits())
    model.steps.clear()
    with pytest.raises(ModelFileError, match="no list of steps"):
        read_content(pickle.dumps(model), options_for(30), Limits())


@pytest.mark.parametrize("version", ["0.21.3", "2.0", "nonsense", None])
def test_a_version_that_is_not_known_is_refused(version: str | None) -> None:
    model = logistic_regression()
    data = pickle.dumps(model, protocol=0)
    written = data.replace(b"V1.9.1\n", f"V{version}\n".encode() if version else b"N")

    with pytest.raises(UnsupportedModelError, match="scikit-learn"):
        read_content(written, options_for(30), Limits())


@pytest.mark.parametrize(
    ("attribute", "value"),
    [
        ("coef_", np.zeros((1, 29))),
        ("coef_", np.zeros((2, 30))),
        ("coef_", np.zeros((1, 30, 1))),
        ("coef_", np.zeros(0)),
        ("coef_", np.full((1, 30), np.nan)),
        ("coef_", "text"),
        ("intercept_", np.zeros(2)),
        ("intercept_", np.array([np.inf])),
        ("intercept_", None),
        ("classes_", np.array([0, 1, 2])),
        ("classes_", np.array([0])),
        ("classes_", np.array([1, 1])),
        ("classes_", np.array([])),
        ("classes_", None),
        ("n_features_in_", 29),
        ("n_features_in_", True),
        ("fit_intercept", "yes"),
        ("multi_class", 3),
    ],
)
def test_a_damaged_structure_is_refused(attribute: str, value: Any) -> None:
    model = logistic_regression()
    setattr(model, attribute, value)

    with pytest.raises(ModelFileError if value is not None or attribute != "coef_" else UnsupportedModelError):
        read_content(pickle.dumps(model), options_for(30), Limits())


@pytest.mark.parametrize(("attribute", "value"), [("mean_", np.zeros(3)), ("scale_", None), ("with_mean", 1)])
def test_a_damaged_scaler_is_refused(attribute: str, value: Any) -> None:
    model = fit(make_pipeline(StandardScaler(), LogisticRegression()), *CANCER)
    setattr(model[0], attribute, value)

    with pytest.raises(ModelFileError, match="StandardScaler"):
        read_estimator(model)


def test_a_scale_of_zero_is_refused_not_divided_by() -> None:
    model = fit(make_pipeline(StandardScaler(), LogisticRegression()), *CANCER)
    model[0].scale_[3] = 0.0

    with pytest.raises(ModelFileError, match="NaN or infinite"):
        read_estimator(model)


@pytest.mark.parametrize("missing", ["model_id", "training_run", "party"])
def test_what_an_estimator_does_not_say_must_be_given(missing: str) -> None:
    model = logistic_regression()

    with pytest.raises(ModelFileError, match=f"--{missing.replace('_', '-')}"):
        read_content(pickle.dumps(model), replace(options_for(30), **{missing: None}), Limits())


def test_a_name_that_breaks_the_rules_is_refused() -> None:
    model = logistic_regression()

    with pytest.raises(NameRefusedError, match="model id"):
        read_estimator(model, model_id="a b")


@pytest.mark.parametrize(
    ("fitted", "zero", "holds", "joint", "result"),
    [
        (True, False, None, None, (True, True)),
        (True, False, True, True, (True, True)),
        (True, True, False, None, (False, True)),
        (True, True, False, False, (False, False)),
        (False, True, None, None, (False, False)),
        (False, True, False, True, (False, True)),
        (False, True, None, True, (False, True)),
        (True, False, False, None, None),
        (True, False, None, False, None),
        (False, True, True, None, None),
        (False, False, None, None, None),
    ],
)
def test_who_holds_the_intercept(
    fitted: bool, zero: bool, holds: bool | None, joint: bool | None, result: tuple[bool, bool] | None
) -> None:
    """`result` is (this part holds it, the joint model has one); None where file and operator contradict."""
    model = fit(LogisticRegression(max_iter=5, fit_intercept=fitted), *CANCER)
    model.intercept_ = np.zeros(1) if zero else np.array([0.25])

    def read() -> tuple[bool, bool]:
        partial = read_estimator(model, holds_intercept=holds, fit_intercept=joint).partial
        return partial.holds_intercept, partial.fit_intercept

    if result is not None:
        assert read() == result
    else:
        with pytest.raises(ModelConflictError):
            read()


def named(names: list[str]) -> Any:
    import pandas as pd

    return fit(LogisticRegression(max_iter=5), pd.DataFrame(CANCER[0][:, : len(names)], columns=names), CANCER[1])


def test_names_come_from_the_file_and_the_operator_may_repeat_them() -> None:
    model = named(["age", "income"])

    assert read_estimator(model, features=None).partial.part.features == ("age", "income")
    assert read_estimator(model, features=("age", "income")).partial.part.features == ("age", "income")
    with pytest.raises(ModelConflictError, match="'income', 'age'"):
        read_estimator(model, features=("income", "age"))


def test_names_that_are_no_texts_are_refused() -> None:
    model = logistic_regression()
    model.feature_names_in_ = np.arange(30).astype(object)

    with pytest.raises(FeatureNamesError, match="no texts"):
        read_estimator(model)


def test_a_file_without_names_needs_them() -> None:
    model = logistic_regression()

    with pytest.raises(FeatureNamesError, match="--features"):
        read_estimator(model, features=None)
    with pytest.raises(FeatureNamesError, match="2 feature names for 30 features"):
        read_estimator(model, features=("a", "b"))


@pytest.mark.parametrize("features", [("a", "a"), ("a", "A"), ("a", "")])
def test_names_that_do_not_tell_features_apart_are_refused(features: tuple[str, ...]) -> None:
    model = fit(LogisticRegression(max_iter=5), CANCER[0][:, :2], CANCER[1])

    with pytest.raises(FeatureNamesError):
        read_estimator(model, features=features)


def test_the_source_is_named_for_people() -> None:
    import sklearn

    model = fit(make_pipeline(StandardScaler(), LogisticRegression()), *CANCER)

    assert (
        read_estimator(model).source
        == f"scikit-learn {sklearn.__version__} Pipeline(StandardScaler, LogisticRegression)"
    )


def test_options_are_optional_only_for_files_that_say_everything() -> None:
    model = named(["age", "income"])

    with pytest.raises(ModelFileError, match="--model-id"):
        read_content(pickle.dumps(model), ReadOptions(), Limits())


def test_a_state_or_a_step_of_another_type_is_refused() -> None:
    with pytest.raises(ModelFileError, match="the state of LinearRegression is a tuple, not a dict"):
        read_content(b"\x80\x02csklearn.linear_model._base\nLinearRegression\n)\x81NN\x86b.", options_for(2), Limits())
    with pytest.raises(UnsupportedModelError, match="step 'scale' of the pipeline is a dict"):
        read_content(pickle.dumps(Pipeline([("scale", {}), ("model", None)])), options_for(2), Limits())
