import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from scipy.special import expit
from scipy.special import softmax as scipy_softmax

from fedpredict.model import links
from fedpredict.model.arrays import Floats

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
