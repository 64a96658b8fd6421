import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits, load_wine
from sklearn.linear_model import LinearRegression, LogisticRegression, SGDClassifier
from sklearn.preprocessing import StandardScaler

from fedpredict.model.arrays import Floats, Statuses
from fedpredict.model.combine import combine, combine_status
from fedpredict.model.kinds import Kind, check_widths, own_link
from fedpredict.model.linear import LinearPart
from fedpredict.model.links import Link
from fedpredict.model.share import PRECEDENCE, SampleStatus, Share, build_share


def cut(weights: Floats, intercept: Floats, owners: list[int]) -> dict[str, tuple[LinearPart, list[int]]]:
    """Cut joint weights (n_features, k) by the owner of each column; the first party holds the intercept."""
    parts = {}
    for owner in sorted(set(owners)):
        columns = [column for column, who in enumerate(owners) if who == owner]
        names = tuple(f"f{column}" for column in columns)
        held = intercept if owner == min(owners) else None
        parts[f"party-{owner}"] = (LinearPart(names, weights[columns], held, np.zeros(weights.shape[1])), columns)
    return parts


def federated(kind: Kind, features: Floats, weights: Floats, intercept: Floats, owners: list[int]) -> Floats:
    shares = {
        party: build_share(part.partial_scores(features[:, columns]), np.ones(len(features), dtype=np.uint8))
        for party, (part, columns) in cut(weights, intercept, owners).items()
    }
    return combine(own_link(kind), shares).predictions


def test_binary_prediction_is_scikit_learns_on_breast_cancer() -> None:
    features, target = load_breast_cancer(return_X_y=True)
    features = StandardScaler().fit_transform(features)
    model = LogisticRegression(max_iter=5000).fit(features, target)
    ours = federated(Kind.BINARY, features, model.coef_.T, model.intercept_, [0] * 10 + [1] * 10 + [2] * 10)
    np.testing.assert_allclose(ours[:, 0], model.predict_proba(features)[:, 1], rtol=0, atol=1e-12)


def test_multinomial_prediction_is_scikit_learns_on_wine() -> None:
    features, target = load_wine(return_X_y=True)
    features = StandardScaler().fit_transform(features)
    model = LogisticRegression(max_iter=5000).fit(features, target)
    ours = federated(Kind.MULTINOMIAL, features, model.coef_.T, model.intercept_, [0] * 4 + [1] * 9)
    np.testing.assert_allclose(ours, model.predict_proba(features), rtol=0, atol=1e-12)


def test_linear_prediction_is_scikit_learns_on_diabetes() -> None:
    features, target = load_diabetes(return_X_y=True)
    model = LinearRegression().fit(features, target)
    ours = federated(Kind.LINEAR, features, model.coef_[:, None], np.atleast_1d(model.intercept_), [0] * 5 + [1] * 5)
    terms = np.abs(features) @ np.abs(model.coef_) + abs(model.intercept_)
    assert (np.abs(ours[:, 0] - model.predict(features)) <= 1e-12 * terms).all()


def test_one_vs_rest_prediction_is_scikit_learns_on_digits_over_four_parties() -> None:
    features, target = load_digits(return_X_y=True)
    model = SGDClassifier(loss="log_loss", random_state=0, max_iter=20, tol=None).fit(features, target)
    owners = [column % 4 for column in range(64)]
    ours = federated(Kind.ONE_VS_REST, features, model.coef_.T, model.intercept_, owners)
    np.testing.assert_allclose(ours, model.predict_proba(features), rtol=1e-9, atol=1e-12)


@given(st.data(), st.integers(1, 12), st.integers(1, 4), st.integers(1, 20))
def test_cutting_differently_changes_nothing_beyond_rounding(
    data: st.DataObject, n_features: int, n_scores: int, n_samples: int
) -> None:
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    scale = 10.0 ** data.draw(st.integers(-6, 6))
    features = rng.normal(size=(n_samples, n_features)) * scale
    weights, intercept = rng.normal(size=(n_features, n_scores)), rng.normal(size=n_scores)
    one, other = (data.draw(st.lists(st.integers(0, 4), min_size=n_features, max_size=n_features)) for _ in range(2))
    terms = np.abs(features) @ np.abs(weights) + np.abs(intercept)
    difference = np.abs(
        federated(Kind.LINEAR, features, weights, intercept, one)
        - federated(Kind.LINEAR, features, weights, intercept, other)
    )
    assert (difference <= 1e-12 * terms).all()


@given(st.integers(1, 30), st.integers(1, 8), st.integers(0, 2**32 - 1))
def test_a_batch_is_its_samples_one_by_one(n_samples: int, n_features: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    features, weights = rng.normal(size=(n_samples, n_features)), rng.normal(size=(n_features, 3))
    part = LinearPart(tuple(f"f{i}" for i in range(n_features)), weights, None, np.zeros(3))
    singles = np.concatenate([part.partial_scores(features[row : row + 1]) for row in range(n_samples)])
    terms = np.abs(features) @ np.abs(weights)
    assert (np.abs(part.partial_scores(features) - singles) <= 1e-12 * terms).all()


def test_the_order_of_replies_does_not_change_a_bit() -> None:
    rng = np.random.default_rng(7)
    shares = {f"p{i}": build_share(rng.normal(size=(50, 3)) * 10.0**i, np.ones(50, dtype=np.uint8)) for i in range(4)}
    results = {
        combine(own_link(Kind.MULTINOMIAL), {party: shares[party] for party in order}).predictions.tobytes()
        for order in itertools.permutations(shares)
    }
    assert len(results) == 1


@pytest.mark.parametrize("first", list(SampleStatus))
@pytest.mark.parametrize("second", list(SampleStatus))
def test_the_worst_status_by_the_stated_order_wins(first: SampleStatus, second: SampleStatus) -> None:
    worst = min((first, second), key=PRECEDENCE.index)
    assert combine_status([np.array([first], np.uint8), np.array([second], np.uint8)]).tolist() == [worst]


def test_precedence_ranks_every_status_once_and_ok_last() -> None:
    assert sorted(PRECEDENCE) == sorted(SampleStatus)
    assert PRECEDENCE[-1] is SampleStatus.OK


def test_a_sample_that_one_party_could_not_score_gets_no_number() -> None:
    good: Statuses = np.array([1, 1], np.uint8)
    bad: Statuses = np.array([1, SampleStatus.NOT_FOUND], np.uint8)
    values = np.array([[1.0], [2.0]])
    result = combine(own_link(Kind.BINARY), {"a": build_share(values, good), "b": build_share(values, bad)})
    assert result.status.tolist() == [SampleStatus.OK, SampleStatus.NOT_FOUND]
    assert np.isfinite(result.predictions[0]).all()
    assert np.isnan(result.predictions[1]).all()


def test_a_sum_that_overflows_is_out_of_range_and_gets_no_number() -> None:
    huge = build_share(np.array([[1.7e308]]), np.ones(1, np.uint8))
    with np.errstate(over="ignore"):
        result = combine(own_link(Kind.BINARY), {"a": huge, "b": huge})
    assert result.status.tolist() == [SampleStatus.OUT_OF_RANGE]
    assert np.isnan(result.predictions).all()


def test_a_sample_beyond_the_link_gets_no_number_and_leaves_the_others_theirs() -> None:
    ok = np.ones(3, np.uint8)
    shares = {
        "a": build_share(np.array([[1.0], [700.0], [2.0]]), ok),
        "b": build_share(np.array([[0.0], [700.0], [0.0]]), ok),
    }
    result = combine(Link("log"), shares)
    assert result.status.tolist() == [SampleStatus.OK, SampleStatus.OUT_OF_RANGE, SampleStatus.OK]
    np.testing.assert_allclose(result.predictions[:, 0], [np.e, np.nan, np.e**2], rtol=1e-15)
    assert shares["a"].status.tolist() == [1, 1, 1]  # the party's own status stays what it said


def test_one_output_beyond_the_link_takes_the_whole_sample() -> None:
    raw = build_share(np.array([[4.0, 0.0], [4.0, 2.0]]), np.ones(2, np.uint8))
    result = combine(Link("inverse"), {"a": raw})
    assert result.status.tolist() == [SampleStatus.OUT_OF_RANGE, SampleStatus.OK]
    np.testing.assert_array_equal(result.predictions, [[np.nan, np.nan], [0.25, 0.5]])


def test_a_status_that_a_party_gave_stays_beside_a_sample_beyond_the_link() -> None:
    status: Statuses = np.array([SampleStatus.STALE, SampleStatus.OK, SampleStatus.OK], np.uint8)
    shares = {"a": build_share(np.array([[np.nan], [0.0], [2.0]]), status)}
    result = combine(Link("inverse"), shares)
    assert result.status.tolist() == [SampleStatus.STALE, SampleStatus.OUT_OF_RANGE, SampleStatus.OK]
    np.testing.assert_array_equal(result.predictions[:, 0], [np.nan, np.nan, 0.5])


def test_a_share_with_a_number_where_the_status_is_not_ok_is_refused() -> None:
    with pytest.raises(ValueError, match="NaN everywhere else"):
        Share(np.array([[1.0]]), np.array([SampleStatus.NOT_FOUND], np.uint8))


def test_a_share_that_was_never_filled_is_not_ok() -> None:
    with pytest.raises(ValueError, match="NaN everywhere else"):
        Share(np.zeros((1, 1)), np.zeros(1, np.uint8))


def test_shares_of_different_widths_are_not_added() -> None:
    ones = np.ones(1, np.uint8)
    with pytest.raises(ValueError, match="different shapes"):
        combine(
            own_link(Kind.LINEAR), {"a": build_share(np.ones((1, 1)), ones), "b": build_share(np.ones((1, 2)), ones)}
        )


@pytest.mark.parametrize(
    ("kind", "n_scores", "classes", "message"),
    [
        (Kind.BINARY, 1, (), "needs its classes"),
        (Kind.BINARY, 1, ("a", "a"), "repeated classes: a"),
        (Kind.BINARY, 1, ("a", "b", "c"), "with 3 classes"),
        (Kind.BINARY, 2, ("a", "b"), "needs 1 scores"),
        (Kind.MULTINOMIAL, 2, ("a", "b", "c"), "needs 3 scores"),
        (Kind.ONE_VS_REST, 1, ("a", "b"), "needs 2 scores"),
        (Kind.DECISION, 2, ("a", "b"), "needs 1 scores"),
        (Kind.DECISION, 2, ("a", "b", "c"), "needs 3 scores"),
        (Kind.DECISION, 1, ("a",), "with 1 classes"),
        (Kind.LINEAR, 1, ("a",), "has no classes"),
        (Kind.LINEAR, 0, (), "with 0 outputs"),
    ],
)
def test_classes_that_do_not_fit_the_kind_are_refused(
    kind: Kind, n_scores: int, classes: tuple[str, ...], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        check_widths(kind, n_scores, classes)
