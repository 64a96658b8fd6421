"""Shares as whole numbers modulo 2^64: the sum of the rounded shares is exact, and its error is bounded."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedpredict.model.fixed_point import FixedPoint, sum_words


@st.composite
def scaled_shares(draw: st.DrawFn) -> tuple[int, list[float]]:
    """Return scale bits, and the shares of one sample of 1 to 9 parties, each of them in range."""
    scale_bits, n_parties = draw(st.integers(0, 52)), draw(st.integers(1, 9))
    limit = 2.0**62 / (n_parties * 2.0**scale_bits)
    numbers = st.floats(-limit, limit, allow_nan=False)
    return scale_bits, draw(st.lists(numbers, min_size=n_parties, max_size=n_parties))


@given(scaled_shares())
def test_the_sum_is_off_by_half_a_step_a_party_at_most(drawn: tuple[int, list[float]]) -> None:
    scale_bits, shares = drawn
    fixed = FixedPoint(scale_bits, len(shares))
    encoded = [fixed.encode(np.array([[share]])) for share in shares]
    assert all(bool(fits.all()) for _, fits in encoded)
    total = sum_words([words for words, _ in encoded])
    exact, scale = sum(map(Fraction, shares)), 2**scale_bits
    summed = Fraction(int(total.view(np.int64)[0, 0]), scale)
    assert abs(summed - exact) <= Fraction(len(shares), 2 * scale)
    assert summed == sum(round(Fraction(share) * scale) for share in shares) / Fraction(scale)
    assert fixed.decode(total)[0, 0] == float(summed)


@pytest.mark.parametrize(("n_parties", "scale_bits"), [(2, 32), (3, 32), (7, 20), (2, 0)])
def test_a_share_beyond_the_limit_has_no_word(n_parties: int, scale_bits: int) -> None:
    fixed, limit = FixedPoint(scale_bits, n_parties), 2**62 / (n_parties * 2**scale_bits)
    beyond = [limit, np.nextafter(limit, np.inf), -limit, -np.nextafter(limit, np.inf), np.inf, np.nan, 1e300]
    words, fits = fixed.encode(np.array([[0.5, each] for each in beyond]))
    assert fits.tolist() == [True, False, True, False, False, False, False]
    assert not words[~fits].any()


def test_words_are_twos_complement_of_the_scaled_number() -> None:
    words, _ = FixedPoint(32, 2).encode(np.array([[1.0, -1.0, 2.0**-32, 0.5 * 2.0**-32, 1.5 * 2.0**-32]]))
    assert words.tolist() == [[2**32, 2**64 - 2**32, 1, 0, 2]]  # halves go to the even number


@pytest.mark.parametrize(("scale_bits", "n_parties"), [(-1, 2), (53, 2), (32, 0)])
def test_other_scales_and_counts_are_refused(scale_bits: int, n_parties: int) -> None:
    with pytest.raises(ValueError, match="a scale of 2"):
        FixedPoint(scale_bits, n_parties)
