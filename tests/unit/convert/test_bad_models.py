"""What every reader refuses alike: other classes, other versions, what was never fitted, numbers that are none."""

from __future__ import annotations

import copy
import errno
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightgbm as lgb
import numpy as np
import pytest
import sklearn
import xgboost as xgb
from sklearn import ensemble, linear_model, neural_network, preprocessing, tree
from sklearn.pipeline import Pipeline, make_pipeline

from fedpredict.cli.main import run
from fedpredict.cli.split import JOINT
from fedpredict.convert.child import read_content
from fedpredict.convert.options import Limits
from fedpredict.convert.write import write_partial
from fedpredict.errors import ModelFileError, UnsupportedModelError
from tests.unit.convert.support import options_for, read_estimator

RANDOM = np.random.default_rng(3)
FEATURES = RANDOM.normal(size=(60, 3))
TARGET = FEATURES[:, 0] - FEATURES[:, 2]
POSITIVE = TARGET > 0
QUIET: dict[str, Any] = {"verbose": -1, "n_estimators": 1}
NETWORK: dict[str, Any] = {"hidden_layer_sizes": (2,), "tol": 10.0}


def read(data: bytes) -> object:
    return read_content(data, options_for(3), Limits())


class OwnRegression(linear_model.LinearRegression):  # type: ignore[misc]
    """A class that a reader cannot know."""


class OwnForest(ensemble.RandomForestRegressor):  # type: ignore[misc]
    """The same."""


class OwnXGB(xgb.XGBRegressor):
    """The same."""


class OwnLGBM(lgb.LGBMRegressor):
    """The same."""


@pytest.mark.parametrize(
    "model", [OwnRegression(), OwnForest(1), OwnXGB(n_estimators=1), OwnLGBM(**QUIET)], ids=lambda each: str(type(each))
)
def test_a_class_that_derives_from_a_librarys_is_refused_by_name(model: Any) -> None:
    fitted = model.fit(FEATURES, TARGET)

    with pytest.raises(UnsupportedModelError, match=rf"{type(model).__name__}; supported are .*no class of one's own"):
        read(pickle.dumps(fitted))
    if isinstance(model, OwnRegression):
        with pytest.raises(UnsupportedModelError, match=r"step 'ownregression' of the pipeline is .*OwnRegression"):
            read(pickle.dumps(make_pipeline(preprocessing.StandardScaler(), fitted)))


@pytest.mark.parametrize(
    "path",
    [
        "catboost.core.CatBoostClassifier",
        "statsmodels.discrete.discrete_model.BinaryResultsWrapper",
        "torch.nn.modules.linear.Linear",
        "keras.src.models.sequential.Sequential",
    ],
)
def test_a_model_of_another_library_is_refused_by_name(path: str) -> None:
    package, _, name = path.rpartition(".")
    data = f"c{package}\n{name}\n)\x81}}b.".encode("latin-1")

    with pytest.raises(UnsupportedModelError, match=rf"the file holds {path}; supported are .*torch\.save"):
        read(b"\x80\x02" + data)


UNFITTED: list[Any] = [
    linear_model.LogisticRegression(), linear_model.TweedieRegressor(), linear_model.RidgeClassifier(),
    linear_model.SGDClassifier(), tree.DecisionTreeClassifier(), ensemble.RandomForestRegressor(),
    ensemble.ExtraTreesClassifier(), ensemble.GradientBoostingClassifier(), ensemble.HistGradientBoostingRegressor(),
    neural_network.MLPClassifier(), neural_network.MLPRegressor(), xgb.XGBClassifier(), xgb.XGBRFRegressor(),
    lgb.LGBMClassifier(), lgb.LGBMRanker(), make_pipeline(preprocessing.StandardScaler(), linear_model.Ridge()),
]  # fmt: skip


@pytest.mark.parametrize("model", UNFITTED, ids=lambda each: type(each).__name__)
def test_what_was_never_fitted_is_refused(model: Any) -> None:
    with pytest.raises(UnsupportedModelError, match="is not fitted: it has no"):
        read(pickle.dumps(model))


@pytest.mark.parametrize("scaler", ["StandardScaler", "MinMaxScaler", "MaxAbsScaler", "RobustScaler"])
def test_a_scaler_that_was_never_fitted_is_refused(scaler: str) -> None:
    model = linear_model.LinearRegression().fit(FEATURES, TARGET)

    with pytest.raises(UnsupportedModelError, match=f"{scaler} is not fitted"):
        read(pickle.dumps(Pipeline([("scale", getattr(preprocessing, scaler)()), ("model", model)])))


FITTED: list[Any] = [
    linear_model.LogisticRegression().fit(FEATURES, POSITIVE),
    tree.DecisionTreeRegressor(max_depth=1).fit(FEATURES, TARGET),
    ensemble.HistGradientBoostingRegressor(max_iter=1).fit(FEATURES, TARGET),
    neural_network.MLPRegressor(**NETWORK).fit(FEATURES, TARGET),
]


@pytest.mark.parametrize("version", ["0.20.4", "2.0.0", "dev"])
@pytest.mark.parametrize("model", FITTED, ids=lambda each: type(each).__name__)
def test_a_version_that_is_not_read_is_refused(model: Any, version: str) -> None:
    data = pickle.dumps(model, protocol=0).replace(sklearn.__version__.encode(), version.encode())

    told = "does not say which version" if version == "dev" else f"{version}; versions from 0.22 and before 2.0"
    with pytest.raises(UnsupportedModelError, match=told):
        read(data)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize(
    ("scaler", "key"),
    [("StandardScaler", "mean_"), ("StandardScaler", "scale_"), ("MaxAbsScaler", "scale_"), ("MinMaxScaler", "min_")],
)
def test_a_number_of_a_scaler_that_is_not_finite_is_refused_by_name(scaler: str, key: str, bad: float) -> None:
    model = make_pipeline(getattr(preprocessing, scaler)(), linear_model.LinearRegression()).fit(FEATURES, TARGET)
    getattr(model[0], key)[1] = bad

    with pytest.raises(ModelFileError, match=f"{scaler}.{key} holds NaN or an infinity"):
        read_estimator(model)


@pytest.mark.parametrize("bad", [np.nan, -np.inf])
@pytest.mark.parametrize(
    ("model", "damage", "told"),
    [
        (FITTED[0], lambda model, bad: model.coef_.fill(bad), "a weight is NaN"),
        (FITTED[0], lambda model, bad: model.intercept_.fill(bad), "the intercept is NaN"),
        (FITTED[3], lambda model, bad: model.coefs_[0].fill(bad), "MLPRegressor: a weight, bias or slope"),
        (FITTED[3], lambda model, bad: model.intercepts_[1].fill(bad), "base score|intercept|bias"),
        (FITTED[2], lambda model, bad: model._baseline_prediction.fill(bad), "the base score is NaN"),
    ],
)
def test_parameters_that_are_not_finite_are_refused(
    model: Any, damage: Callable[[Any, float], None], told: str, bad: float
) -> None:
    damaged = copy.deepcopy(model)
    damage(damaged, bad)

    with pytest.raises(ModelFileError, match=told):
        read_estimator(damaged)


@pytest.mark.parametrize("best", [np.array([1.0, 2.0]), np.float64("nan")])
def test_a_best_round_of_lightgbm_that_is_no_number_is_refused(best: Any) -> None:
    wrapper = lgb.LGBMRegressor(**QUIET).fit(FEATURES, TARGET)
    wrapper.booster_.best_iteration = best

    with pytest.raises(ModelFileError, match="best_iteration"):
        read(pickle.dumps(wrapper))


def test_quantiles_that_have_no_references_are_refused() -> None:
    transformer = preprocessing.QuantileTransformer(n_quantiles=5)
    model = make_pipeline(transformer, linear_model.LinearRegression()).fit(FEATURES, TARGET)
    transformer.references_ = np.array(0.5)

    with pytest.raises(ModelFileError, match="quantiles_ has shape"):
        read_estimator(model)


COLOURS = np.array(["red", "blue", "red", "green", "red"], dtype=object)[:, None]


@pytest.mark.parametrize(
    ("attribute", "value"),
    [
        ("_infrequent_indices", [np.array([99])]),
        ("_infrequent_indices", [np.array([-1])]),
        ("_default_to_infrequent_mappings", [np.array([np.inf, 0.0, 0.0])]),
        ("_default_to_infrequent_mappings", [np.array([[0, 1, 1]])[:, :, None][:, :2]]),
        ("categories_", [np.array([10**400, 1, 2], dtype=object)]),
        ("drop_idx_", np.array([np.inf], dtype=object)),
        ("_drop_idx_after_grouping", np.array([10**400], dtype=object)),
    ],
)
def test_a_damaged_encoder_is_refused(attribute: str, value: Any) -> None:
    encoder = preprocessing.OneHotEncoder(min_frequency=2, handle_unknown="infrequent_if_exist")
    model = make_pipeline(encoder, linear_model.Ridge()).fit(COLOURS, np.arange(5.0))
    setattr(encoder, attribute, value)
    if attribute == "drop_idx_":
        del encoder._drop_idx_after_grouping

    with pytest.raises(ModelFileError, match=r"OneHotEncoder|infrequent groups"):
        read_estimator(model)


def test_a_polynomial_of_a_billion_degrees_is_refused_at_once() -> None:
    polynomial = preprocessing.PolynomialFeatures(2, interaction_only=True)
    model = make_pipeline(polynomial, linear_model.Ridge()).fit(FEATURES, TARGET)
    polynomial.degree = 10**9

    with pytest.raises(ModelFileError, match="degree"):
        read_estimator(model)


@pytest.mark.parametrize("head", [False, True])
def test_a_party_whose_features_no_tree_asks_for_is_told_of_and_has_a_part(
    head: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tree.DecisionTreeRegressor(max_depth=1).fit(FEATURES, FEATURES[:, 0])
    write_partial(tmp_path / "joint.json", read_estimator(model, party=JOINT).partial)
    parties = ["--party", "bank=f0,f1", "--party", "shop=f2"]
    more = ["--head", "bank"] if head else []

    code = run(["model", "split", str(tmp_path / "joint.json"), *parties, *more, "--out", str(tmp_path / "parts")])

    told = capsys.readouterr()
    assert code == 0, told.err
    said = "its part allows every leaf" if head else "its share is zero"
    assert f"nothing in the model asks for features of shop: {said} for all samples" in " ".join(told.err.split())
    assert (tmp_path / "parts" / "shop.pkl").exists()


def test_a_cut_that_cannot_be_written_leaves_the_parts_of_the_one_before(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_partial(tmp_path / "joint.json", read_estimator(FITTED[0], party=JOINT).partial)
    words = ["model", "split", str(tmp_path / "joint.json"), "--intercept", "bank", "--out", str(tmp_path / "parts")]
    assert run([*words, "--party", "bank=f0", "--party", "shop=f1,f2"]) == 0
    before = {path.name: path.read_bytes() for path in (tmp_path / "parts").iterdir()}

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("os.fsync", full)
        assert run([*words, "--party", "bank=f0,f1", "--party", "shop=f2"]) == 4
    assert "No space left on device" in capsys.readouterr().err
    (tmp_path / "parts" / "web.pkl").mkdir()
    assert run([*words, "--party", "bank=f0,f1", "--party", "shop=f2", "--party", "web="]) == 4
    assert "where a folder is" in " ".join(capsys.readouterr().err.split())
    (tmp_path / "parts" / "web.pkl").rmdir()

    assert {path.name: path.read_bytes() for path in (tmp_path / "parts").iterdir()} == before


def test_a_cut_that_leaves_a_feature_at_no_party_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_partial(tmp_path / "joint.json", read_estimator(FITTED[1], party=JOINT).partial)
    cut = ["--party", "bank=f0", "--party", "shop=f1", "--out", str(tmp_path / "parts")]

    assert run(["model", "split", str(tmp_path / "joint.json"), *cut]) == 4
    assert "at no party: 'f2'" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "parts").exists()
