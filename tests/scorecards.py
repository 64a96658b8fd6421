"""A scorecard for tests, written out plainly, and what it gives by a walk of its bins that no code of ours makes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

CARD: dict[str, Any] = {
    "base_points": 480.25,
    "features": [
        {
            "name": "age of applicant",
            "closed": "left",
            "bins": [
                {"to": 25, "points": -12},
                {"from": 25, "to": 40, "points": 3.5},
                {"from": 40, "to": 0.1 + 60, "points": 20},
                {"from": 0.1 + 60, "points": 11},
            ],
            "missing": -5,
            "reason": "R01",
        },
        {
            "name": "home",
            "bins": [{"texts": ["own", "it's 100% ours\\"], "points": 14}, {"texts": ["rent", "年"], "points": -3}],
            "outside": -7,
        },
        {
            "name": "debt",
            "closed": "right",
            "bins": [
                {"from": -999, "to": -999, "closed": "both", "points": 1},
                {"from": 0, "to": 100, "points": 8},
                {"from": 100, "to": 1000, "points": -8.125},
            ],
            "reason": "too much debt",
        },
        {"name": "years", "bins": [{"points": 2}], "missing": 0},
    ],
    "reasons": 0,
}
NAMES = tuple(feature["name"] for feature in CARD["features"])


def portable(card: Mapping[str, Any] = CARD, **changes: Any) -> dict[str, Any]:
    """Return a portable model of a card."""
    base: dict[str, Any] = {
        "format": "fedpredict-partial-1",
        "model_id": "card",
        "training_run": "run-1",
        "party": "bank",
        "kind": "linear",
        "family": "scorecard",
        "part": dict(card),
        "fit_intercept": True,
    }
    return base | changes


def walked(sample: Sequence[object]) -> float | str:
    """Return the total of a sample's points, or why there is none: "missing" or "invalid"."""
    found: list[float | str] = []
    for feature, value in zip(CARD["features"], sample, strict=True):
        is_missing = value is None or (isinstance(value, float) and math.isnan(value))
        if isinstance(value, float) and math.isinf(value):
            found.append("invalid")
        elif is_missing:
            found.append(feature.get("missing", "missing"))
        else:
            hits = [each["points"] for each in feature["bins"] if _holds(each, feature.get("closed", ""), value)]
            found.append(hits[0] if hits else feature.get("outside", "invalid"))
    for why in ("invalid", "missing"):
        if why in found:
            return why
    return float(CARD["base_points"]) + sum(each for each in found if not isinstance(each, str))


def _holds(each: Mapping[str, Any], closed: str, value: Any) -> bool:
    if "texts" in each:
        return value in each["texts"]
    closed = each.get("closed", closed)
    low, high = each.get("from"), each.get("to")
    above = low is None or value > low or (closed in {"left", "both"} and value == low)
    below = high is None or value < high or (closed in {"right", "both"} and value == high)
    return above and below


def samples() -> list[tuple[object, ...]]:
    """Return samples of every bin, every bound and the numbers beside them, and of every way to have no score."""
    good = (30.0, "own", 50.0, 4.0)
    nan, inf = math.nan, math.inf
    odd: dict[int, list[object]] = {
        0: [None, nan, inf, -inf],
        1: [None, "boat", ""],
        2: [None, nan, inf],
        3: [None, -inf],
    }
    bounds = {0: [25.0, 40.0, 60.1, 60.0], 2: [-999.0, 0.0, -0.0, 100.0, 1000.0], 3: [0.0, -0.0, 1.7e308]}
    result: list[tuple[object, ...]] = [good]
    for place, values in bounds.items():
        for value in values:
            near = [value, math.nextafter(value, inf), math.nextafter(value, -inf)]
            result += [(*good[:place], each, *good[place + 1 :]) for each in near]
    result += [(*good[:1], text, *good[2:]) for text in ("own", "it's 100% ours\\", "rent", "年", "Own", "own ")]
    result += [(*good[:place], each, *good[place + 1 :]) for place, values in odd.items() for each in values]
    result += [(None, None, None, None), (nan, "boat", inf, nan), (None, "boat", 1.0, None), (inf, None, 1.0, 1.0)]
    return result
