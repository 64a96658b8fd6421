"""Ordinal models: class probabilities from one raw score, to the last digits wherever they lie."""

from __future__ import annotations

import itertools
import math
import warnings
from decimal import Decimal, localcontext

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_ndtr, ndtr

from fedpredict.model.arrays import Floats
from fedpredict.model.combine import combine, finish
from fedpredict.model.kinds import KINDS, Kind, check_widths
from fedpredict.model.links import Link, parse_link
from fedpredict.model.ordinal import MAX_THRESHOLDS
from fedpredict.model.share import SampleStatus, build_share

THRESHOLDS = st.lists(st.integers(-50_000, 50_000), min_size=1, max_size=6, unique=True).map(
    lambda numbers: tuple(number / 1024 for number in sorted(numbers))
)
NAMES = KINDS[Kind.ORDINAL].links


def probabilities(name: str, thresholds: tuple[float, ...], *raw: float) -> Floats:
    return Link(name, numbers=thresholds).inverse_link(np.array(raw)[:, None])


def exact(name: str, thresholds: tuple[float, ...], raw: float) -> list[float]:
    """P(y <= k) = F(threshold_k - raw), in 500 digits, subtracted."""
    with localcontext() as context:
        context.prec, context.Emin, context.Emax = 500, -999999, 999999
        below = [Decimal(0)]
        for threshold in thresholds:
            x = Decimal(threshold) - Decimal(raw)
            below.append(1 / (1 + (-x).exp()) if name == "cumulative_logit" else 1 - (-x.exp()).exp())
        below.append(Decimal(1))
        return [float(high - low) for low, high in itertools.pairwise(below)]


@pytest.mark.parametrize("name", ["cumulative_logit", "cumulative_cloglog"])
@settings(max_examples=40)
@given(thresholds=THRESHOLDS, raw=st.integers(-100, 100).map(float))
def test_probabilities_are_those_of_five_hundred_digits(name: str, thresholds: tuple[float, ...], raw: float) -> None:
    # what rounding threshold - raw does to an exponential is not the link's: exp(x + error) = exp(x) * (1 + error)
    tolerance = 1e-15 * (10 + max(abs(raw - each) for each in thresholds))
    if name == "cumulative_cloglog":
        return _check_cloglog(thresholds, raw, tolerance)
    np.testing.assert_allclose(
        probabilities(name, thresholds, raw)[0], exact(name, thresholds, raw), rtol=tolerance, atol=1e-307
    )
    return None


def _check_cloglog(thresholds: tuple[float, ...], raw: float, tolerance: float) -> None:
    """An error in e^b is one of exp(-e^b) e^b times larger; where e^b is large the probability is that small."""
    found, expected = (
        probabilities("cumulative_cloglog", thresholds, raw)[0],
        exact("cumulative_cloglog", thresholds, raw),
    )
    for number, (ours, theirs) in enumerate(zip(found.tolist(), expected, strict=True)):
        below = math.exp(thresholds[number - 1] - raw) if number else 0.0
        assert ours == pytest.approx(theirs, rel=tolerance * (1 + below), abs=1e-300)


@given(thresholds=THRESHOLDS, raw=st.floats(-30, 30))
def test_the_normal_distribution_is_subtracted_in_the_tail_where_it_is_small(
    thresholds: tuple[float, ...], raw: float
) -> None:
    found = probabilities("cumulative_probit", thresholds, raw)[0]
    edges = np.array([-np.inf, *thresholds, np.inf]) - raw
    low, high = edges[:-1], edges[1:]
    flipped = low + high > 0
    left, right = np.where(flipped, -high, low), np.where(flipped, -low, high)
    larger = ndtr(right)
    assert np.all(np.abs(found - (larger - ndtr(left))) <= 1e-12 * larger + 1e-300)


# statsmodels 0.15.0: OrderedModel(y, X, distr=...).fit().predict(X[:3]) on 200 rows, with scipy's gumbel_l for the last
STATSMODELS = {
    "cumulative_logit": (
        [1.2482673672533413, -0.6639491736916203],
        (-1.0942865634399208, 0.7042368123108582, 2.3273290931282533),
        [
            [0.27446499732668256, 0.4211361969628941, 0.22492588522215196, 0.07947292048827137],
            [0.3767511308948052, 0.40826855055608885, 0.16372180280742232, 0.05125851574168361],
            [0.07985807314722687, 0.2640890228377036, 0.3826327419315194, 0.27342016208355013],
        ],
    ),
    "cumulative_probit": (
        [0.7246422471767611, -0.38901073282058746],
        (-0.6386360972970315, 0.42220750466445933, 1.3486481864136837),
        [
            [0.283519931285381, 0.40385640595887284, 0.23407003494264877, 0.07855362781309738],
            [0.3843441733680597, 0.3940415073231569, 0.17640497537439515, 0.045209343934388246],
            [0.07752225900456057, 0.28149252586040113, 0.35506640177885734, 0.28591881335618097],
        ],
    ),
    "cumulative_cloglog": (
        [0.7196972763731719, -0.39699487667625993],
        (-1.1418428957767612, 0.05297150073774115, 0.9037243355840656),
        [
            [0.2855031695424332, 0.38506080476803756, 0.2551503724793279, 0.07428565321020131],
            [0.3633273372405675, 0.4115879158261811, 0.1946354460870907, 0.03044930084616071],
            [0.13654042078886097, 0.2477004026755414, 0.2944487684621926, 0.32131040807340505],
        ],
    ),
}
ROWS = np.array([[-0.8, -1.32], [-0.25, 0.42], [1.14, 0.11]])


@pytest.mark.parametrize("name", NAMES)
def test_probabilities_are_statsmodels(name: str) -> None:
    weights, thresholds, expected = STATSMODELS[name]
    np.testing.assert_allclose(probabilities(name, thresholds, *(ROWS @ np.array(weights))), expected, rtol=1e-13)


def test_a_class_far_out_keeps_its_digits() -> None:
    """1 - 1 is what the textbook formula makes of all three."""
    logit = probabilities("cumulative_logit", (40.0, 41.0), 0.0)[0]
    probit = probabilities("cumulative_probit", (9.0, 10.0), 0.0)[0]
    cloglog = probabilities("cumulative_cloglog", (-41.0, -40.0), 0.0)[0]
    assert logit[1:].tolist() == pytest.approx([math.exp(-40) - math.exp(-41), math.exp(-41)], rel=1e-14)
    assert math.log(probit[2]) == pytest.approx(float(log_ndtr(-10.0)), rel=1e-14)
    assert probit[1] == pytest.approx(float(ndtr(-9.0) - ndtr(-10.0)), rel=1e-12)
    assert cloglog[:2].tolist() == pytest.approx([math.exp(-41), math.exp(-40) - math.exp(-41)], rel=1e-14)


@pytest.mark.parametrize("name", NAMES)
@given(thresholds=THRESHOLDS, raw=st.floats(allow_nan=False, allow_infinity=False))
def test_every_score_has_probabilities_that_add_up_to_one(name: str, thresholds: tuple[float, ...], raw: float) -> None:
    with warnings.catch_warnings(), np.errstate(all="warn", under="ignore"):
        warnings.simplefilter("error")
        result = combine(Link(name, numbers=thresholds), {"lab": build_share(np.array([[raw]]), np.ones(1, np.uint8))})
    assert result.all_ok
    assert result.predictions.shape == (1, len(thresholds) + 1)
    assert (result.predictions >= 0.0).all()
    assert result.predictions.sum() == pytest.approx(1.0, rel=1e-14)


@pytest.mark.parametrize("name", NAMES)
def test_a_higher_score_makes_higher_classes_likelier(name: str) -> None:
    rising = probabilities(name, (-1.0, 0.5, 2.0), *np.linspace(-5, 5, 41))
    at_least = rising[:, ::-1].cumsum(axis=1)[:, :3]
    assert (np.diff(at_least, axis=0) >= 0.0).all()
    assert (at_least[-1] > at_least[0] + 0.5).all()


def test_a_sample_without_a_score_has_no_probability_in_any_class() -> None:
    raw = np.array([[0.3], [np.nan], [0.1]])
    status = np.array([SampleStatus.OK, SampleStatus.NOT_FOUND, SampleStatus.OK], np.uint8)

    found = finish(Link("cumulative_logit", numbers=(-1.0, 0.5)), raw, status)

    assert found.predictions.shape == (3, 3)
    assert np.isnan(found.predictions).all(axis=1).tolist() == [False, True, False]
    assert found.raw.shape == (3, 1)


@given(THRESHOLDS)
def test_thresholds_are_read_back_bit_equal(thresholds: tuple[float, ...]) -> None:
    link = Link("cumulative_probit", numbers=thresholds)
    assert parse_link(str(link)) == link
    assert parse_link(str(link)).numbers == thresholds


def test_as_many_thresholds_as_allowed_are_read_and_no_more() -> None:
    numbers = [str(number) for number in range(MAX_THRESHOLDS + 1)]
    assert parse_link("cumulative_logit:" + ",".join(numbers[:-1])).n_outputs(1) == MAX_THRESHOLDS + 1
    with pytest.raises(ValueError, match="1 to 255 thresholds"):
        parse_link("cumulative_logit:" + ",".join(numbers))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("cumulative_logit", "needs its numbers, as in cumulative_logit:-1,0.5"),
        ("cumulative_logit:", "is no link"),
        ("cumulative_logit:1,", "is no link"),
        ("cumulative_logit:1, 2", "is no link"),
        ("cumulative_logit:nan,1", "is no link"),
        ("cumulative_logit:1,1e999", "not finite"),
        ("cumulative_logit:1,1", "must be above the one before"),
        ("cumulative_logit:2,1", "must be above the one before"),
        ("cumulative_logit:" + "1" * 30 + ("," + "1" * 30) * 200 + "x", "is no link"),
        ("cumulative_logit:" + "1," * 1_000_000, "is no link"),
    ],
)
def test_what_are_no_thresholds_is_refused(text: str, told: str) -> None:
    with pytest.raises(ValueError, match=told) as raised:
        parse_link(text)
    assert len(str(raised.value)) < 300


def test_classes_scores_and_thresholds_fit_each_other() -> None:
    link = Link("cumulative_logit", numbers=(-1.0, 0.5))
    check_widths(Kind.ORDINAL, 1, ("low", "middle", "high"), link)
    with pytest.raises(ValueError, match="an ordinal model of 2 classes needs 1 thresholds in its link, not 2"):
        check_widths(Kind.ORDINAL, 1, ("low", "high"), link)
    with pytest.raises(ValueError, match="needs 1 scores a sample, not 3"):
        check_widths(Kind.ORDINAL, 3, ("low", "middle", "high"), link)
