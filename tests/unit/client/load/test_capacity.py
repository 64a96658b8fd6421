"""Finding the highest rate that holds."""

from __future__ import annotations

import numpy as np
import pytest

from fedpredict.client.load.capacity import MAX_STEPS, Limit, find_capacity
from fedpredict.client.load.histogram import histogram_of
from fedpredict.client.load.record import Summary


def summary_at(rate: float, *, p99_ms: float = 1.0, failed: int = 0, per_s: float | None = None) -> Summary:
    answered = int((rate if per_s is None else per_s) * 10)
    return Summary(
        asked_per_s=rate,
        seconds=10.0,
        ok=int(rate * 10) - failed,
        answered=answered,
        errors={"HTTP 429": failed} if failed else {},
        histogram=histogram_of(np.full(100, p99_ms / 1e3)),
        lag_p99_s=0.0,
        busy=0.1,
    )


@pytest.mark.parametrize("start", [10.0, 900.0, 100_000.0])
async def test_the_capacity_is_found_from_below_and_from_above(start: float) -> None:
    asked: list[float] = []

    async def step(rate: float) -> Summary:
        asked.append(rate)
        return summary_at(rate, p99_ms=2.0 if rate <= 1_000.0 else 500.0)

    found = await find_capacity(step, Limit(p99_ms=50.0), start)

    assert found is not None
    assert 1_000.0 / 1.08 <= found <= 1_000.0
    assert len(asked) <= MAX_STEPS


async def test_a_server_that_keeps_up_with_everything_is_asked_no_more_than_may_be_asked() -> None:
    asked: list[float] = []

    async def step(rate: float) -> Summary:
        asked.append(rate)
        return summary_at(rate)

    found = await find_capacity(step, Limit(p99_ms=50.0), 100.0, highest=350.0)

    assert (found, asked) == (350.0, [100.0, 200.0, 350.0])


async def test_a_server_that_never_holds_has_no_capacity() -> None:
    async def step(rate: float) -> Summary:
        return summary_at(rate, p99_ms=500.0)

    assert await find_capacity(step, Limit(p99_ms=50.0), 100.0) is None


@pytest.mark.parametrize(
    ("summary", "holds"),
    [
        (summary_at(100.0), True),
        (summary_at(100.0, p99_ms=51.0), False),
        (summary_at(100.0, failed=2), False),
        (summary_at(100.0, per_s=90.0), False),
    ],
    ids=["kept up", "too slow", "refused some", "fell behind"],
)
def test_a_server_holds_when_it_is_quick_complete_and_keeps_up(summary: Summary, holds: bool) -> None:
    assert Limit(p99_ms=50.0).holds(summary) is holds
