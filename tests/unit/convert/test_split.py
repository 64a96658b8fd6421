"""A cut model says what the uncut one says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_breast_cancer, load_wine
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler

from fedpredict.convert.portable import from_portable, parse_json, to_json
from fedpredict.convert.simulate import simulate
from fedpredict.convert.split import split_model
from fedpredict.convert.write import write_partial
from fedpredict.errors import (
    FeatureNamesError,
    IncompatiblePartsError,
    ModelConflictError,
    ModelFileError,
    NameRefusedError,
)
from fedpredict.model.combine import combine
from fedpredict.model.kinds import Kind, own_link
from fedpredict.model.linear import LinearPart
from fedpredict.model.links import Link
from fedpredict.model.partial import PartialModel, largest_difference
from fedpredict.model.share import SampleStatus, build_share
from tests.linear_parts import linear
from tests.unit.convert.support import expected_of, read_estimator

WINE, WINE_CLASSES = load_wine(return_X_y=True)
WINE_MODEL = make_pipeline(StandardScaler(), MinMaxScaler(), LogisticRegression()).fit(WINE, WINE_CLASSES)
NAMES = [f"f{index}" for index in range(13)]
READING = read_estimator(WINE_MODEL)


def joint(**changes: Any) -> PartialModel:
    """A linear model 1 + 2a + 3b + 4c + 10, where the 10 is a constant."""
    weights = np.array([[2.0], [3.0], [4.0]])
    given: dict[str, Any] = {
        "part": LinearPart(("a", "b", "c"), weights, np.array([1.0]), np.array([10.0])),
        "fit_intercept": True,
    }
    given.update(changes)
    return PartialModel(model_id="m", training_run="r", party="joint", kind=Kind.LINEAR, classes=(), **given)


@given(data=st.data())
@settings(max_examples=30, deadline=None)
def test_however_the_columns_are_cut_the_prediction_is_scikit_learns(data: st.DataObject) -> None:
    order = data.draw(st.permutations(NAMES))
    cuts = sorted(data.draw(st.sets(st.integers(1, 12), min_size=1, max_size=3)))
    pieces = [order[start:end] for start, end in zip([0, *cuts], [*cuts, 13], strict=True)]
    parties = {f"p{index}": piece for index, piece in enumerate(pieces)}
    holder = data.draw(st.sampled_from(sorted(parties)))

    parts = split_model(READING.partial, parties, holder, feature_constants=READING.feature_constants)

    shares = {}
    for party, piece in parties.items():
        own = WINE[:, [NAMES.index(name) for name in piece]]
        shares[party] = build_share(parts[party].part.partial_scores(own), np.full(178, SampleStatus.OK, np.uint8))
    found = combine(own_link(Kind.MULTINOMIAL), shares).predictions
    np.testing.assert_allclose(found, expected_of(WINE_MODEL, WINE), rtol=1e-9, atol=1e-12)
    assert [party for party in parts if parts[party].holds_intercept] == [holder]


def test_each_part_depends_on_its_own_features_scaling_only() -> None:
    parties = {"a": NAMES[:5], "b": NAMES[5:]}
    moved = WINE.copy()
    moved[:, 5:] = 7.0 * moved[:, 5:] + 100.0  # another scale at b: the scaled columns, so the model, stay the same
    other = read_estimator(
        make_pipeline(StandardScaler(), MinMaxScaler(), LogisticRegression()).fit(moved, WINE_CLASSES)
    )

    first = split_model(READING.partial, parties, "b", feature_constants=READING.feature_constants)["a"]
    second = split_model(other.partial, parties, "b", feature_constants=other.feature_constants)["a"]

    np.testing.assert_allclose(linear(first.part).constant, linear(second.part).constant, rtol=1e-3)
    assert linear(first.part).constant.any()


def test_a_constant_that_is_only_known_as_a_sum_goes_with_the_intercept() -> None:
    parts = split_model(joint(), {"p": ["a"], "q": ["c", "b"]}, "q")

    assert linear(parts["p"].part).constant.tolist() == [0.0]
    assert linear(parts["q"].part).constant.tolist() == [10.0]
    assert parts["q"].part.features == ("c", "b")
    assert linear(parts["q"].part).weights.tolist() == [[4.0], [3.0]]
    assert parts["p"].part.intercept is None
    assert parts["q"].part.intercept is not None
    assert (parts["p"].party, parts["p"].model_id, parts["p"].fit_intercept) == ("p", "m", True)


def test_rows_become_verification_rows_of_each_party() -> None:
    rows = np.array([[1.0, 10.0, 100.0]])

    parts = split_model(joint(), {"p": ["a"], "q": ["c", "b"]}, "p", rows=rows)

    assert parts["p"].verification is not None
    assert parts["p"].verification.features.tolist() == [[1.0]]
    assert parts["p"].verification.partial_scores.tolist() == [[13.0]]
    assert parts["q"].verification is not None
    assert parts["q"].verification.features.tolist() == [[100.0, 10.0]]
    assert parts["q"].verification.partial_scores.tolist() == [[430.0]]
    assert largest_difference(parts["q"]) == (0.0, 0.0)


@pytest.mark.parametrize(
    ("parties", "names", "told"),
    [
        ({"p": ["a"], "q": ["b"]}, ("c",), "at no party: 'c'"),
        ({"p": ["a", "b"], "q": ["b", "c"]}, ("b",), "more than once: 'b'"),
        ({"p": ["a", "a", "b", "c"]}, ("a",), "more than once: 'a'"),
        ({"p": ["a", "b", "c", "d"]}, ("d",), "not a feature of the model: 'd'"),
        ({"p": ["a", "x"], "q": ["a", "b"]}, ("x", "a", "c"), "at no party"),
        ({"p": ["a", "b"], "q": []}, ("c",), "at no party: 'c'"),
        ({}, ("a", "b", "c"), "at no party"),
    ],
)
def test_every_feature_is_at_exactly_one_party(
    parties: dict[str, list[str]], names: tuple[str, ...], told: str
) -> None:
    with pytest.raises(FeatureNamesError, match=told) as raised:
        split_model(joint(), parties, "p")
    assert raised.value.names == names


def test_a_party_without_features_adds_nothing_or_the_intercept() -> None:
    for holder, shares in (("p", ([11.0], [0.0])), ("q", ([0.0], [11.0]))):
        parts = split_model(joint(), {"p": ["a", "b", "c"], "q": []}, holder, rows=np.zeros((2, 3)))

        for party, expected in zip(("p", "q"), shares, strict=True):
            again = from_portable(parse_json(to_json(parts[party])))
            assert again.part.features == parts[party].part.features
            assert again.part.partial_scores(np.zeros((2, len(again.part.features)))).tolist() == [expected] * 2
            assert again.verification is not None
            assert largest_difference(again) == (0.0, 0.0)
        assert parts["q"].part.features == ()
        assert parts["q"].part.statuses(np.zeros((2, 0))) is None


ALL = {"p": ["a", "b"], "q": ["c"]}


def test_the_intercept_goes_to_one_of_the_parties_or_to_none() -> None:
    headless = joint(part=LinearPart(("a", "b", "c"), np.ones((3, 1)), None, np.zeros(1)))
    without = joint(part=headless.part, fit_intercept=False)

    with pytest.raises(ModelConflictError, match="'x'"):
        split_model(joint(), ALL, "x")
    with pytest.raises(ModelConflictError, match="name the party"):
        split_model(joint(), ALL, None)
    with pytest.raises(ModelConflictError, match="does not hold it"):
        split_model(headless, ALL, "p")
    with pytest.raises(ModelConflictError, match="name no party"):
        split_model(without, ALL, "p")
    assert not any(part.holds_intercept for part in split_model(without, ALL, None).values())


def test_rows_of_another_width_and_bad_party_names_are_refused() -> None:
    with pytest.raises(FeatureNamesError, match="3 features"):
        split_model(joint(), ALL, "p", rows=np.zeros((1, 2)))
    with pytest.raises(NameRefusedError):
        split_model(joint(), {"P q": ["a", "b", "c"]}, "P q")


def test_a_simulation_of_all_parties_finds_no_difference() -> None:
    features, labels = load_breast_cancer(return_X_y=True)
    model = make_pipeline(StandardScaler(), LogisticRegression()).fit(features, labels)
    reading = read_estimator(model)
    names = list(reading.partial.part.features)
    parties = {"hospital": names[:10], "lab": names[10:20], "imaging": names[20:]}
    parts = split_model(reading.partial, parties, "hospital", feature_constants=reading.feature_constants)
    data = np.c_[np.arange(569.0), features]
    data[3, 5], data[4, 25] = np.nan, np.inf

    report = simulate(parts, reading.partial, data, ["id", *names])

    assert (report.n_samples, report.n_scored) == (569, 567)
    assert report.largest_relative <= 1e-12
    assert report.largest_absolute <= 1e-12
    assert report.combined.status[3] == SampleStatus.FEATURE_MISSING
    assert report.combined.status[4] == SampleStatus.FEATURE_INVALID
    assert np.isnan(report.combined.predictions[[3, 4]]).all()
    scored = report.combined.status == SampleStatus.OK
    np.testing.assert_allclose(
        report.combined.predictions[scored], expected_of(model, features)[scored], rtol=1e-9, atol=1e-12
    )


def test_a_simulation_sees_a_wrong_part() -> None:
    parts = split_model(joint(), ALL, "p")
    wrong = split_model(joint(part=LinearPart(("a", "b", "c"), np.ones((3, 1)), np.ones(1), np.zeros(1))), ALL, "p")

    report = simulate({"p": wrong["p"], "q": parts["q"]}, joint(), np.ones((2, 3)), ["a", "b", "c"])

    assert report.largest_absolute == 13.0
    assert report.largest_relative == pytest.approx(13.0 / 20.0)


def test_a_simulation_refuses_parts_that_do_not_belong_together() -> None:
    parts = split_model(joint(), ALL, "p")
    data = np.ones((1, 3))

    with pytest.raises(IncompatiblePartsError, match="none of q holds it"):
        simulate({"q": parts["q"]}, joint(), data, ["a", "b", "c"])
    without = joint(part=LinearPart(("a", "b", "c"), np.ones((3, 1)), None, np.zeros(1)), fit_intercept=False)
    with pytest.raises(IncompatiblePartsError, match="fit_intercept"):
        simulate(parts, without, data, ["a", "b", "c"])
    with pytest.raises(FeatureNamesError) as raised:
        simulate(parts, joint(), data[:, :2], ["a", "b"])
    assert raised.value.names == ("c",)


def test_a_simulation_of_no_rows_reports_none() -> None:
    report = simulate(split_model(joint(), ALL, "p"), joint(), np.ones((0, 3)), ["a", "b", "c"])

    assert (report.n_samples, report.n_scored, report.largest_absolute) == (0, 0, 0.0)


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="cannot be written"):
        write_partial(tmp_path / "no" / "part.pkl", joint())
    (tmp_path / "part.pkl").mkdir()
    with pytest.raises(ModelFileError, match="cannot be written"):
        write_partial(tmp_path / "part.pkl", joint())
    assert [path.name for path in tmp_path.iterdir()] == ["part.pkl"]


def test_a_simulation_by_another_link_counts_what_the_link_has_a_number_for() -> None:
    uncut = joint(link=Link("inverse"))
    parts = split_model(uncut, {"p": ["a"], "q": ["b", "c"]}, "p")
    rows = np.array([[0.0, 0.0, 0.0], [-5.5, 0.0, 0.0], [1.0, 1.0, 1.0]])  # raw scores 11, 0 and 20

    report = simulate(parts, uncut, rows, ["a", "b", "c"])

    assert (report.n_samples, report.n_scored) == (3, 2)
    assert report.combined.status.tolist() == [SampleStatus.OK, SampleStatus.OUT_OF_RANGE, SampleStatus.OK]
    np.testing.assert_allclose(report.combined.predictions[[0, 2], 0], [1 / 11, 1 / 20], rtol=1e-15)
    assert report.largest_absolute < 1e-15


def test_a_simulation_refuses_an_uncut_model_of_another_link() -> None:
    parts = split_model(joint(link=Link("log")), {"p": ["a"], "q": ["b", "c"]}, "p")

    with pytest.raises(IncompatiblePartsError, match="the parts say link log, the uncut model sqrt"):
        simulate(parts, joint(link=Link("sqrt")), np.zeros((1, 3)), ["a", "b", "c"])
