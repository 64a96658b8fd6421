from __future__ import annotations

from typing import get_args

import pytest

from fedpredict.observe.metrics import Outcome
from fedpredict.observe.request_log import RequestLog
from fedpredict.observe.settings import LogSettings


def wanted(settings: LogSettings, outcome: Outcome, times: int) -> list[int]:
    log = RequestLog(settings)
    return [number for number in range(times) if log.wants(outcome)]


@pytest.mark.parametrize(
    ("settings", "lines"),
    [
        (LogSettings(requests="all"), [0, 1, 2, 3, 4, 5, 6, 7]),
        (LogSettings(requests="sampled", sample_ratio=0.25), [0, 4]),
        (LogSettings(requests="sampled", sample_ratio=1.0), [0, 1, 2, 3, 4, 5, 6, 7]),
        (LogSettings(requests="sampled", sample_ratio=0.0), []),
        (LogSettings(requests="errors"), []),
        (LogSettings(), [0]),
    ],
)
@pytest.mark.parametrize("outcome", ["ok", "overloaded"])
def test_what_goes_well_or_is_too_much_is_told_by_the_ratio(
    settings: LogSettings, lines: list[int], outcome: Outcome
) -> None:
    assert wanted(settings, outcome, 8) == lines


@pytest.mark.parametrize("outcome", sorted(set(get_args(Outcome)) - {"ok", "overloaded"}))
@pytest.mark.parametrize("requests", ["all", "sampled", "errors"])
def test_failures_and_partial_answers_are_always_told(requests: str, outcome: Outcome) -> None:
    assert wanted(LogSettings.model_validate({"requests": requests, "sample_ratio": 0.0}), outcome, 3) == [0, 1, 2]
