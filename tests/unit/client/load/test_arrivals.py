"""When requests are due."""

from __future__ import annotations

import numpy as np
import pytest

from fedpredict.client.load.arrivals import Arrival, due_times, highest_rate
from fedpredict.errors import InputError


def test_constant_arrivals_are_evenly_spaced_from_the_start() -> None:
    times = due_times(Arrival.CONSTANT, 250.0, 2.0, seed=0)

    np.testing.assert_allclose(times, np.arange(500) * 0.004, rtol=0.0, atol=1e-12)


@pytest.mark.parametrize("rate", [0.3, 3.0, 70.0, 12_345.6])
def test_constant_arrivals_all_lie_within_the_duration(rate: float) -> None:
    times = due_times(Arrival.CONSTANT, rate, 10.0, seed=0)

    assert len(times) == int(np.ceil(rate * 10.0))
    assert times[-1] < 10.0


def test_poisson_gaps_are_exponential() -> None:
    times = due_times(Arrival.POISSON, 1_000.0, 100.0, seed=3)
    gaps = np.diff(times)

    # an exponential's standard deviation is its mean, and exp(-2) of it lies beyond twice the mean; 100,000 gaps
    assert gaps.mean() == pytest.approx(1e-3, rel=0.02)
    assert gaps.std() == pytest.approx(1e-3, rel=0.02)
    assert (gaps > 2e-3).mean() == pytest.approx(np.exp(-2.0), rel=0.03)
    assert (np.diff(times) >= 0.0).all()
    assert times[-1] < 100.0


def test_poisson_arrivals_fill_the_whole_duration() -> None:
    ends = [due_times(Arrival.POISSON, 50.0, 20.0, seed=seed)[-1] for seed in range(50)]

    assert min(ends) > 19.0


def test_a_seed_says_the_times() -> None:
    first, again, other = (due_times(Arrival.POISSON, 100.0, 5.0, seed=seed) for seed in (1, 1, 2))

    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first[:10], other[:10])


@pytest.mark.parametrize(
    ("rate", "duration_s", "told"),
    [(0.0, 1.0, "above 0"), (-5.0, 1.0, "above 0"), (float("nan"), 1.0, "above 0"), (1e6, 1.0, "at most 200,000"),
     (10_000.0, 3_600.0, "36,000,000; at most 5,000,000")],
)  # fmt: skip
def test_more_than_can_be_measured_is_refused(rate: float, duration_s: float, told: str) -> None:
    with pytest.raises(InputError, match=told):
        due_times(Arrival.POISSON, rate, duration_s, seed=0)


@pytest.mark.parametrize("duration_s", [0.1, 0.7, 24.9, 602.0, 86_401.3])
def test_the_highest_rate_of_a_duration_can_be_measured(duration_s: float) -> None:
    rate = highest_rate(duration_s)

    assert len(due_times(Arrival.CONSTANT, rate, duration_s, seed=0)) == pytest.approx(rate * duration_s, abs=1.0)
    with pytest.raises(InputError):
        due_times(Arrival.CONSTANT, 1.01 * rate, duration_s, seed=0)
