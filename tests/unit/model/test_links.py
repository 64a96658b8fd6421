import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from scipy.special import expit, log_ndtr, ndtr
from scipy.special import softmax as scipy_softmax
from scipy.stats import norm

from fedpredict.model import links
from fedpredict.model.arrays import Floats
from fedpredict.model.combine import combine
from fedpredict.model.kinds import KINDS, Kind, check_link, own_link
from fedpredict.model.links import LINKS, Link, parse_link
from fedpredict.model.share import SampleStatus, build_share

ANY = arrays(
    np.float64,
    array_shapes(min_dims=2, max_dims=2, max_side=6),
    elements=st.floats(allow_nan=False, allow_infinity=False),
)
EVERY = [
    Link(name, 3.0 if spec.has_parameter else None) for name, spec in LINKS.items() if spec.check_numbers is None
] + [Link("power", power) for power in (-2.0, -1.0, -0.5, 0.5, 1.0, 1 / 3, 1e300)]
RAW = arrays(np.float64, array_shapes(min_dims=2, max_dims=2, max_side=6), elements=st.floats(-1e4, 1e4))


@given(RAW)
def test_sigmoid_equals_scipys(raw: Floats) -> None:
    np.testing.assert_allclose(links.sigmoid(raw), expit(raw), rtol=1e-14, atol=1e-300)


@given(RAW)
def test_softmax_equals_scipys(raw: Floats) -> None:
    np.testing.assert_allclose(links.softmax(raw), scipy_softmax(raw, axis=1), rtol=1e-12, atol=1e-300)


@pytest.mark.parametrize("link", [links.sigmoid, links.softmax, links.normalised_sigmoid])
def test_no_link_overflows_at_the_largest_scores(link: object) -> None:
    raw = np.array([[1e4, -1e4], [1e308, -1e308]])
    with warnings.catch_warnings(), np.errstate(all="warn", under="ignore"):
        warnings.simplefilter("error")
        assert np.isfinite(link(raw)).all()  # type: ignore[operator]


def test_identity_is_the_same_numbers() -> None:
    raw = np.array([[-0.0, 1e300]])
    assert links.identity(raw).tobytes() == raw.tobytes()


@given(RAW)
def test_normalised_sigmoids_add_up_to_one(raw: Floats) -> None:
    np.testing.assert_allclose(links.normalised_sigmoid(raw).sum(axis=1), 1.0, rtol=1e-12)


def test_normalised_sigmoid_is_uniform_where_all_underflow() -> None:
    np.testing.assert_array_equal(links.normalised_sigmoid(np.full((1, 4), -1e4)), np.full((1, 4), 0.25))


@given(RAW)
def test_the_normal_distribution_is_scipys(raw: Floats) -> None:
    np.testing.assert_allclose(links.normal_distribution(raw), ndtr(raw), rtol=1e-12, atol=1e-307)


def test_the_normal_distribution_has_its_published_values_and_does_not_cancel_in_its_tail() -> None:
    # Abramowitz and Stegun, table 26.1, and 26.2.12 far out, in logarithms
    published = {
        0.0: 0.5,
        0.5: 0.691462461274013,
        1.0: 0.841344746068543,
        1.96: 0.975002104851780,
        3.0: 0.998650101968370,
    }
    ours = links.normal_distribution(np.array([list(published)]))
    np.testing.assert_allclose(ours[0], list(published.values()), rtol=1e-15, atol=1e-15)
    np.testing.assert_allclose(
        links.normal_distribution(-np.array([list(published)])), norm.sf(list(published))[None], rtol=1e-14
    )
    far = np.array([[-10.0], [-20.0], [-37.0]])
    np.testing.assert_allclose(np.log(links.normal_distribution(far)), log_ndtr(far), rtol=1e-13)


@pytest.mark.parametrize(
    ("link", "raw", "expected"),
    [
        ("probit", -0.5, 0.30853753872598689636),
        ("probit", -5.0, 2.8665157187919391167e-7),
        ("probit", -10.0, 7.619853024160526066e-24),
        ("probit", -20.0, 2.7536241186062336951e-89),
        ("probit", -37.0, 5.7255712225245768227e-300),
        ("probit", 6.5, 0.99999999995983999416),
        ("cloglog", -40.0, 4.2483542552915889863e-18),
        ("cloglog", -5.0, 0.0067152979321585103971),
        ("cloglog", 0.0, 0.6321205588285576784),
        ("cloglog", 1.5, 0.98868571361954037685),
        ("cloglog", 3.0, 0.99999999810782130516),
    ],
)
def test_probabilities_are_those_of_sixty_digits(link: str, raw: float, expected: float) -> None:
    """Computed with mpmath; a probit far out is as wrong as the rounding of its argument makes it (ADR 0019)."""
    ours = parse_link(link).inverse_link(np.array([[raw]])).item()
    assert ours == pytest.approx(expected, rel=2e-13 if raw < -5.0 else 4e-15, abs=0.0)


@given(RAW)
def test_the_complementary_log_log_loses_nothing_where_it_is_small(raw: Floats) -> None:
    with np.errstate(over="ignore", under="ignore"):
        expected = -np.expm1(-np.exp(raw.astype(np.longdouble))).astype(np.float64)
    np.testing.assert_allclose(links.complementary_log_log(raw), expected, rtol=1e-14, atol=1e-307)


def test_the_complementary_log_log_is_the_gumbel_distribution_of_minima() -> None:
    from scipy.stats import gumbel_l

    raw = np.linspace(-40, 4, 89)[:, None]
    np.testing.assert_allclose(links.complementary_log_log(raw), gumbel_l.cdf(raw), rtol=1e-13)


@pytest.mark.parametrize(
    ("link", "mean"),
    [
        ("log", 7.0),
        ("inverse", 7.0),
        ("inverse", -0.3),
        ("sqrt", 7.0),
        ("power:0.5", 7.0),
        ("power:3", 7.0),
        ("power:-1.5", 7.0),
        ("power:1", -7.0),
    ],
)
def test_the_inverse_takes_back_the_link(link: str, mean: float) -> None:
    forward = {"log": np.log, "inverse": np.reciprocal, "sqrt": np.sqrt}
    power = parse_link(link).parameter
    raw = forward[link](mean) if power is None else np.power(mean, power)
    np.testing.assert_allclose(parse_link(link).inverse_link(np.array([[raw]])), [[mean]], rtol=1e-14)


@pytest.mark.parametrize(("one", "other"), [("sqrt", "power:0.5"), ("inverse", "power:-1"), ("identity", "power:1")])
@given(raw=ANY)
def test_links_that_are_powers_are_those_powers(one: str, other: str, raw: Floats) -> None:
    ours, theirs = parse_link(one).inverse_link(raw), parse_link(other).inverse_link(raw)
    np.testing.assert_allclose(ours, theirs, rtol=1e-15, atol=1e-307)


@pytest.mark.parametrize("link", EVERY, ids=str)
@given(raw=ANY)
def test_no_sample_is_ok_without_a_number_at_any_magnitude(link: Link, raw: Floats) -> None:
    with warnings.catch_warnings(), np.errstate(all="warn", under="ignore"):
        warnings.simplefilter("error")
        result = combine(link, {"lab": build_share(raw, np.ones(len(raw), np.uint8))})
    scored = result.status == SampleStatus.OK
    assert np.isfinite(result.predictions[scored]).all()
    assert np.isnan(result.predictions[~scored]).all()
    assert np.isnan(result.raw[~scored]).all()
    assert (result.status[~scored] == SampleStatus.OUT_OF_RANGE).all()
    assert scored.all() or not link.is_total
    assert result.all_ok == scored.all()


@pytest.mark.parametrize("link", EVERY, ids=str)
def test_a_link_is_read_back_from_its_text(link: Link) -> None:
    assert parse_link(str(link)) == link


@given(st.floats(allow_nan=False, allow_infinity=False).filter(lambda power: abs(power) > 1e-307))
def test_any_power_is_read_back_bit_equal(power: float) -> None:
    assert parse_link(str(Link("power", power))) == Link("power", power)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("loglog", "unknown link 'loglog'; known are identity, logit"),
        ("", "is no link"),
        ("log:", "is no link"),
        ("Log", "is no link"),
        ("power: 2", "is no link"),
        ("power:nan", "is no link"),
        ("power:.", "is no link"),
        ("power:1_0", "is no link"),
        ("log\n", "is no link"),
        ("x" * 1000, "is no link"),
        ("power", "needs its parameter, as in power:0.5"),
        ("log:2", "link log has no parameter"),
        ("power:0", "for zero there is log"),
        ("power:1e-320", "for zero there is log"),
        ("power:1e999", "finite"),
        ("power:1,2", "needs its parameter, as in power:0.5"),
        ("log:1,2", "link log has no parameter"),
    ],
)
def test_what_is_no_link_is_refused(text: str, told: str) -> None:
    with pytest.raises(ValueError, match=told) as raised:
        parse_link(text)
    assert len(str(raised.value)) < 250


def test_a_kind_has_its_own_link_and_no_other_kinds() -> None:
    own = {kind: str(own_link(kind)) for kind in Kind if kind is not Kind.ORDINAL}
    assert own == {
        Kind.LINEAR: "identity",
        Kind.BINARY: "logit",
        Kind.MULTINOMIAL: "softmax",
        Kind.ONE_VS_REST: "logit_normalised",
        Kind.DECISION: "identity",
        Kind.PROBABILITY: "identity",
    }
    assert {name for spec in KINDS.values() for name in spec.links} == set(LINKS)
    with pytest.raises(
        ValueError, match=r"an ordinal model needs its link: cumulative_logit or .* with its thresholds"
    ):
        own_link(Kind.ORDINAL)
    with pytest.raises(ValueError, match="a binary model cannot have the link log; it may have logit, probit, cloglog"):
        check_link(Kind.BINARY, Link("log"))
