"""Offsets and exposures: what a trainer that has none is given, and what a party that owns one holds."""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LinearRegression, LogisticRegression, PoissonRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from fedpredict.convert.child import read_content
from fedpredict.convert.exposure import check_applied
from fedpredict.convert.options import Limits, ReadOptions
from fedpredict.convert.portable import from_portable, parse_json, to_json, to_portable
from fedpredict.convert.read import read_model_file
from fedpredict.convert.simulate import simulate
from fedpredict.convert.split import split_model
from fedpredict.convert.write import write_partial
from fedpredict.errors import FeatureNamesError, ModelConflictError, ModelFileError, TableCorruptError
from fedpredict.model.linear import LinearPart, partial_scores_of
from fedpredict.model.share import SampleStatus
from fedpredict.tables.digest import params_sha256
from fedpredict.tables.models import list_versions, load_model, publish_model
from fedpredict.tables.views import FeatureView, ViewFeature
from fedpredict.warehouse.base import ColumnType
from fedpredict.warehouse.local import LocalWarehouse
from tests.linear_parts import linear
from tests.unit.convert.support import predictions_of, read_estimator

RANDOM = np.random.default_rng(7)
FEATURES = RANDOM.normal(size=(300, 3))
YEARS = np.exp(RANDOM.normal(size=300))
CLAIMS = RANDOM.poisson(YEARS * np.exp(FEATURES @ [0.5, -0.25, 0.1] - 1.0))
JOINED = np.column_stack([FEATURES, YEARS])
NAMES = ["f0", "f1", "f2", "years"]


def fitted() -> Any:
    model = make_pipeline(StandardScaler(), PoissonRegressor(alpha=1e-3))
    return model.fit(FEATURES, CLAIMS / YEARS, poissonregressor__sample_weight=YEARS)


def content(**changes: Any) -> dict[str, Any]:
    """A portable model of claims; a change of ... takes the key away."""
    base: dict[str, Any] = {
        "format": "fedpredict-partial-1",
        "model_id": "claims",
        "training_run": "run-1",
        "party": "bank",
        "kind": "linear",
        "link": "log",
        "features": ["age", "power"],
        "weights": [0.5, -0.25],
        "intercept": -1.0,
        "fit_intercept": True,
    }
    return {key: value for key, value in {**base, **changes}.items() if value is not ...}


def test_a_model_of_rates_with_an_exposure_predicts_counts() -> None:
    model = fitted()
    partial = read_estimator(model, exposure="years").partial

    assert partial.part.features == tuple(NAMES)
    expected = (model.predict(FEATURES) * YEARS)[:, None]
    np.testing.assert_allclose(predictions_of(partial, JOINED), expected, rtol=1e-12)


def test_whoever_owns_the_exposure_the_parts_of_a_cut_model_predict_the_counts() -> None:
    model = fitted()
    reading = read_estimator(model, exposure="years")
    rows = JOINED.copy()
    rows[3, 3] = 0.0
    cuts = ({"a": ["f1", "years"], "b": ["f2", "f0"]}, {"a": ["f0", "f1", "f2"], "b": ["years"]})
    for parties in cuts:
        parts = split_model(reading.partial, parties, "b", rows=rows, feature_constants=reading.feature_constants)
        parts = {party: from_portable(parse_json(to_json(part))) for party, part in parts.items()}
        report = simulate(parts, reading.partial, rows, NAMES)

        assert [linear(part.part).exposure for part in parts.values()].count("years") == 1
        assert report.combined.status[3] == SampleStatus.FEATURE_INVALID
        scored = np.arange(len(rows)) != 3
        expected = model.predict(FEATURES) * YEARS
        np.testing.assert_allclose(report.combined.predictions[scored, 0], expected[scored], rtol=1e-12)


def test_an_offset_is_added_as_it_is_to_every_score() -> None:
    targets = np.column_stack([FEATURES @ [1.0, 2.0, 3.0], FEATURES @ [0.0, -1.0, 0.5]])
    model = LinearRegression().fit(FEATURES, targets)

    partial = read_estimator(model, offset="years").partial

    expected = model.predict(FEATURES) + YEARS[:, None]
    np.testing.assert_allclose(predictions_of(partial, JOINED), expected, rtol=1e-12)


def test_a_portable_model_names_its_offset_and_its_exposure_beside_the_weights() -> None:
    partial = from_portable(content(offset="base", exposure="years"))

    assert partial.part.features == ("age", "power", "base", "years")
    scores = partial.part.partial_scores(np.array([[2.0, 4.0, 0.125, 3.0]]))
    assert scores.item() == pytest.approx(0.5 * 2 - 0.25 * 4 + 0.125 + np.log(3.0) - 1.0, rel=1e-15)
    again = from_portable(parse_json(to_json(partial)))
    assert to_json(again) == to_json(partial)
    assert linear(again.part).exposure == "years"


def test_a_party_may_hold_the_exposure_and_nothing_else() -> None:
    partial = from_portable(content(features=..., weights={}, intercept=None, exposure="years"))

    assert partial.part.partial_scores(np.array([[2.0]])).item() == np.log(2.0)
    assert from_portable(parse_json(to_json(partial))).part.features == ("years",)


def test_a_part_without_an_exposure_is_written_as_ever() -> None:
    assert set(to_portable(from_portable(content(offset="base")))) & {"offset", "exposure"} == set()


@pytest.mark.parametrize(
    ("changes", "error", "told"),
    [
        ({"exposure": "age"}, ModelFileError, "the exposure 'age' has a weight other than 1"),
        ({"offset": "age"}, FeatureNamesError, "feature names repeat: 'age'"),
        ({"offset": "Age"}, FeatureNamesError, "differ only in upper and lower case"),
        ({"offset": "years", "exposure": "years"}, FeatureNamesError, "feature names repeat: 'years'"),
        ({"exposure": 3}, ModelFileError, "exposure is a int, not a text"),
        ({"exposure": ""}, FeatureNamesError, "empty name"),
        ({"exposures": "years"}, ModelFileError, "did you mean 'exposure'"),
    ],
)
def test_what_does_not_fit_is_refused(changes: dict[str, Any], error: type[Exception], told: str) -> None:
    with pytest.raises(error, match=told):
        from_portable(content(**changes))


def test_file_and_operator_say_the_same() -> None:
    options = ReadOptions(exposure="years")
    assert linear(from_portable(content(), options).part).exposure == "years"
    assert linear(from_portable(content(exposure="years"), options).part).exposure == "years"
    with pytest.raises(ModelConflictError, match="the file says exposure 'months', the operator 'years'"):
        from_portable(content(exposure="months"), options)


def test_an_exposure_needs_the_link_log_in_a_file_of_scikit_learn() -> None:
    model = LogisticRegression().fit(FEATURES, CLAIMS > 0)
    with pytest.raises(ModelConflictError, match="predictions of a model with the link log; this one has logit"):
        read_estimator(model, exposure="years")
    with pytest.raises(ModelConflictError, match="--exposure f1 has a weight in the file already"):
        read_estimator(fitted(), exposure="f1")


def test_an_option_that_was_not_applied_is_an_error() -> None:
    with pytest.raises(ModelConflictError, match="--offset 'base': a model of family linear cannot"):
        check_applied(from_portable(content()), ReadOptions(offset="base"))


def test_a_file_is_read_with_an_exposure_by_the_confined_process(tmp_path: Path) -> None:
    file = tmp_path / "model.json"
    write_partial(file, from_portable(content()))

    result = read_model_file(file, ReadOptions(exposure="years", offset="base"))

    assert result.partial.part.features == ("age", "power", "base", "years")
    assert linear(result.partial.part).exposure == "years"
    read = read_content(json.dumps(content(exposure="years")).encode(), ReadOptions(), Limits())
    assert linear(read.partial.part).exposure == "years"


def test_statuses_say_what_has_no_logarithm() -> None:
    part = LinearPart(("a", "e"), np.array([[2.0], [1.0]]), None, np.zeros(1), "e")
    nan, inf = np.nan, np.inf
    rows = np.array([[1.0, 2.0], [1.0, 0.0], [1.0, -1.0], [nan, -1.0], [1.0, nan], [1.0, inf], [0.0, 5e-324]])

    statuses = part.statuses(rows)
    scores = part.partial_scores(rows)

    assert statuses is not None
    invalid, missing, ok = SampleStatus.FEATURE_INVALID, SampleStatus.FEATURE_MISSING, SampleStatus.OK
    assert statuses.tolist() == [ok, invalid, invalid, invalid, missing, invalid, ok]
    assert scores[[0, 6], 0].tolist() == [2.0 + np.log(2.0), np.log(5e-324)]
    assert part.statuses(rows[:1]) is None
    assert part.magnitudes(np.array([[-1.0, 0.5]])).item() == 2.0 - np.log(0.5)


def test_parts_with_an_exposure_are_not_scored_together() -> None:
    part = LinearPart(("e",), np.ones((1, 1)), None, np.zeros(1), "e")
    with pytest.raises(ValueError, match="or with an exposure"):
        partial_scores_of([part, part], [1, 1], np.ones((2, 1)))


def test_the_exposure_is_part_of_what_is_published_and_of_the_digest(tmp_path: Path) -> None:
    partial = from_portable(content(exposure="years"))
    plain = from_portable(content(features=["age", "power", "years"], weights=[0.5, -0.25, 1.0]))
    names = ("age", "power", "years")
    view = FeatureView("v", 1, tuple(ViewFeature(name, name, ColumnType.DOUBLE) for name in names), "id", None)
    with closing(LocalWarehouse(tmp_path)) as warehouse:
        publish_model(warehouse, partial, view, "0" * 64)
        (version,) = list_versions(warehouse)
        loaded = load_model(warehouse, version)
        without, _ = publish_model(warehouse, plain, view, "1" * 64)
        with pytest.raises(TableCorruptError, match="another digest"):
            load_model(warehouse, replace(without, options={"exposure": "years"}))

    assert to_json(loaded) == to_json(partial)
    assert (version.options, without.options) == ({"exposure": "years"}, {})
    salt = bytes(32)
    assert params_sha256(partial, "v", 1, salt) != params_sha256(plain, "v", 1, salt)
