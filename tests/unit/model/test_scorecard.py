"""Scorecards: points by bin, statuses where there are none, and where points were lost."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedpredict.model.links import Link, parse_link
from fedpredict.model.scorecard import FeaturePoints, Interval, ScorecardPart
from fedpredict.model.share import SampleStatus

AGE = FeaturePoints(
    "age",
    (Interval(-12.0, high=25.0), Interval(3.0, 25.0, 40.0), Interval(20.5, 40.0)),
    missing=-5.0,
    reason="R01 young",
)
HOME = FeaturePoints("home", texts={"own": 10.0, "rent": -3.0, "parents": -3.0}, outside=-7.0)
DEBT = FeaturePoints(
    "debt",
    (
        Interval(0.0, -999.0, -999.0, low_closed=True, high_closed=True),
        Interval(8.0, 0.0, 100.0, low_closed=False, high_closed=True),
        Interval(-8.0, 100.0, 1000.0, low_closed=False, high_closed=True),
    ),
)
CARD = ScorecardPart((AGE, HOME, DEBT), np.array([500.0]))
NAN = math.nan


def test_points_of_the_bins_and_the_base_points_add_up() -> None:
    rows = np.array([[24.9, 0, 50.0], [25.0, 1, 100.0], [40.0, 2, 100.0000001], [NAN, -1, -999.0]])
    expected = [500 - 12 + 10 + 8, 500 + 3 - 3 + 8, 500 + 20.5 - 3 - 8, 500 - 5 - 7 + 0]
    assert CARD.partial_scores(rows)[:, 0].tolist() == expected
    assert CARD.statuses(rows) is None
    assert CARD.magnitudes(rows)[:, 0].tolist() == [530.0, 514.0, 531.5, 512.0]


def test_a_value_without_points_is_no_score_but_a_status() -> None:
    ok, missing, invalid = SampleStatus.OK, SampleStatus.FEATURE_MISSING, SampleStatus.FEATURE_INVALID
    cases = [
        ([30.0, 0, 50.0], ok),
        ([30.0, NAN, 50.0], missing),
        ([30.0, 0, NAN], missing),
        ([30.0, 0, 0.0], invalid),
        ([30.0, 0, -998.0], invalid),
        ([30.0, 0, 1000.1], invalid),
        ([30.0, NAN, 2000.0], invalid),
        ([math.inf, 0, 50.0], invalid),
        ([-math.inf, NAN, 50.0], invalid),
        ([NAN, -1, 50.0], ok),
    ]
    statuses = CARD.statuses(np.array([row for row, _ in cases]))
    assert statuses is not None
    assert statuses.tolist() == [status for _, status in cases]


BOUNDS = st.lists(
    st.floats(allow_nan=False, allow_infinity=False, width=64) | st.integers(-3, 3).map(float),
    min_size=2,
    max_size=6,
    unique=True,
).map(lambda numbers: sorted(number + 0.0 for number in set(numbers)))


@given(bounds=BOUNDS, sides=st.lists(st.booleans(), min_size=12, max_size=12), data=st.data())
def test_a_number_is_in_the_interval_whose_bounds_say_so(
    bounds: list[float], sides: list[bool], data: st.DataObject
) -> None:
    pairs = list(itertools.pairwise(bounds))
    intervals = tuple(
        # where a bound is shared, only one of two may be closed there
        Interval(float(at), low, high, low_closed=not sides[at - 1] if at else sides[10], high_closed=sides[at])
        for at, (low, high) in enumerate(pairs)
        if math.nextafter(math.nextafter(low, math.inf), math.inf) < high
    )
    near = [
        each for bound in bounds for each in (bound, math.nextafter(bound, math.inf), math.nextafter(bound, -math.inf))
    ]
    values = [data.draw(st.sampled_from(near)) + 0.0, data.draw(st.floats(bounds[0], bounds[-1]))]
    if not intervals:
        return
    found = FeaturePoints("x", intervals, outside=-1.0).points(np.array(values))
    for value, points in zip(values, found.tolist(), strict=True):
        holding = [
            each.points
            for each in intervals
            if (each.low < value or (each.low_closed and each.low == value))
            and (value < each.high or (each.high_closed and value == each.high))
        ]
        assert holding == ([points] if points != -1.0 else [])


def test_the_largest_losses_come_first_and_equal_ones_by_name() -> None:
    rows = np.array([[24.0, 1, 500.0], [50.0, 0, 50.0], [24.0, 0, 50.0], [NAN, NAN, NAN]])

    positions, lost = CARD.losses(rows, 2)

    assert positions.tolist() == [[0, 2], [-1, -1], [0, -1], [0, -1]]
    assert lost.tolist() == [[32.5, 16.0], [0.0, 0.0], [32.5, 0.0], [25.5, 0.0]]
    assert [CARD.reason_of(at) for at in (0, 1)] == ["R01 young", "home"]
    equal = ScorecardPart(tuple(FeaturePoints(name, texts={"a": 0.0, "b": 9.0}) for name in "zyx"), None)
    assert equal.losses(np.zeros((1, 3)), 2)[0].tolist() == [[2, 1]]
    assert equal.losses(np.zeros((1, 3)), 5)[0].tolist() == [[2, 1, 0, -1, -1]]


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: FeaturePoints("a"), "either intervals or texts"),
        (lambda: FeaturePoints("a", (Interval(1.0),), {"x": 1.0}), "either intervals or texts"),
        (lambda: FeaturePoints("a", (Interval(NAN),)), "NaN or infinite"),
        (lambda: FeaturePoints("a", (Interval(1.0),), missing=math.inf), "NaN or infinite"),
        (lambda: FeaturePoints("a", (Interval(1.0, 2.0, 1.0),)), "holds no number"),
        (lambda: FeaturePoints("a", (Interval(1.0, 2.0, 2.0),)), "holds no number"),
        (lambda: FeaturePoints("a", (Interval(1.0, NAN, 2.0),)), "holds no number"),
        (lambda: FeaturePoints("a", (Interval(1.0, 0, 2), Interval(1.0, 1, 3))), "overlap, or do not rise"),
        (
            lambda: FeaturePoints("a", (Interval(1.0, 0, 2, high_closed=True), Interval(1.0, 2, 3))),
            "overlap, or do not rise",
        ),
        (lambda: FeaturePoints("a", (Interval(1.0),), reason="x" * 201), "200 printable"),
        (lambda: FeaturePoints("a", (Interval(1.0),), reason="a\nb"), "200 printable"),
        (lambda: ScorecardPart((AGE, AGE), None), "repeated feature names"),
        (lambda: ScorecardPart((AGE,), np.array([NAN])), "base points"),
        (lambda: ScorecardPart((AGE,), None, 21), "0 to 20"),
    ],
)
def test_what_is_no_scorecard_is_refused(make: object, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        make()  # type: ignore[operator]


@pytest.mark.parametrize(
    ("score", "points", "odds"), [(600.0, 600.0, 50.0), (600.0, 620.0, 100.0), (600.0, 560.0, 12.5)]
)
def test_odds_double_with_every_so_many_points(score: float, points: float, odds: float) -> None:
    found = Link("odds", numbers=(score, 50.0, 20.0)).inverse_link(np.array([[points]])).item()
    assert found == pytest.approx(odds / (1 + odds), rel=1e-14)
    halved = Link("odds", numbers=(score, 1 / 50, -20.0)).inverse_link(np.array([[points]])).item()
    assert halved == pytest.approx(1 / (1 + odds), rel=1e-14)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_any_total_of_points_has_a_probability(points: float) -> None:
    for text in ("odds:600,50,20", "odds:-1e308,1e-300,-1e-290", "odds:0,1e300,1e290"):
        assert 0.0 <= parse_link(text).inverse_link(np.array([[points]])).item() <= 1.0


@pytest.mark.parametrize("text", ["odds", "odds:600", "odds:600,50", "odds:600,0,20", "odds:600,50,0", "odds:1,2,3,4"])
def test_what_are_no_odds_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="odds"):
        parse_link(text)
