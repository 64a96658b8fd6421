"""The portable form of a scorecard part, and its cut by features."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from fedpredict.convert.labels import check_feature_names
from fedpredict.convert.options import ReadOptions
from fedpredict.convert.plain import check_keys, number, optional_text
from fedpredict.convert.values import clipped
from fedpredict.errors import ModelConflictError, ModelFileError
from fedpredict.model.arrays import Floats
from fedpredict.model.scorecard import FeaturePoints, Interval, ScorecardPart

_PART_KEYS = ("base_points", "features", "reasons")
_FEATURE_KEYS = ("name", "closed", "bins", "missing", "outside", "reason")
_INTERVAL_KEYS = ("from", "to", "closed", "points")
_TEXT_KEYS = ("texts", "points")
_CLOSED = {"left": (True, False), "right": (False, True), "both": (True, True), "neither": (False, False)}
_CLOSED_NAMES = {sides: name for name, sides in _CLOSED.items()}


def scorecard_to_plain(part: ScorecardPart) -> dict[str, object]:
    """Return the keys that docs/portable-model.md lists, under `part`."""
    return {
        "base_points": None if part.intercept is None else part.intercept.item(),
        "features": [_feature_to_plain(each) for each in part.scored],
        "reasons": part.n_reasons,
    }


def _feature_to_plain(feature: FeaturePoints) -> dict[str, object]:
    intervals = [
        {
            "from": None if each.low == -math.inf else each.low,
            "to": None if each.high == math.inf else each.high,
            "closed": _CLOSED_NAMES[each.low_closed, each.high_closed],
            "points": each.points,
        }
        for each in feature.intervals
    ]
    texts = [{"texts": [text], "points": points} for text, points in feature.texts.items()]
    return {
        "name": feature.name,
        "bins": intervals or texts,
        "missing": feature.missing,
        "outside": feature.outside,
        "reason": feature.reason,
    }


def scorecard_from_plain(content: Mapping[str, object], options: ReadOptions) -> ScorecardPart:
    """Return the part.

    Raises:
        ModelFileError, FeatureNamesError, ModelConflictError: As `FamilyForm.from_plain` says.
    """
    check_keys(content, _PART_KEYS, "the scorecard")
    base, listed, reasons = content.get("base_points"), content.get("features"), content.get("reasons", 0)
    if not isinstance(listed, list):
        raise ModelFileError("a scorecard needs features: a list with one entry per feature")
    if isinstance(reasons, bool) or not isinstance(reasons, int):
        raise ModelFileError("reasons is not the number of reason codes that go with a share")
    scored = tuple(_feature(each) for each in listed)
    names = check_feature_names([each.name for each in scored])
    if options.features is not None and options.features != names:
        raise ModelConflictError("--features names other features than the scorecard, or another order: leave it out")
    return ScorecardPart(scored, None if base is None else np.array([number(base, "base_points")]), reasons)


def _feature(content: object) -> FeaturePoints:
    if not isinstance(content, dict) or not isinstance(name := content.get("name"), str):
        raise ModelFileError("a feature of the scorecard is not a dict with a name")
    what = f"feature '{clipped(name)}'"
    check_keys(content, _FEATURE_KEYS, what)
    bins = content.get("bins")
    if not isinstance(bins, list) or not all(isinstance(each, dict) for each in bins):
        raise ModelFileError(f"{what} needs bins: a list of dicts")
    closed, reason = optional_text(content, "closed"), optional_text(content, "reason")
    is_text = any("texts" in each for each in bins)
    return FeaturePoints(
        name,
        () if is_text else tuple(_interval(each, closed, what) for each in bins),
        _texts(bins, what) if is_text else {},
        _optional_number(content, "missing", what),
        _optional_number(content, "outside", what),
        reason or "",
    )


def _optional_number(content: Mapping[str, object], key: str, what: str) -> float | None:
    value = content.get(key)
    return None if value is None else number(value, f"{what}: {key}")


def _interval(content: Mapping[str, object], closed: str | None, what: str) -> Interval:
    check_keys(content, _INTERVAL_KEYS, f"a bin of {what}")
    own = optional_text(content, "closed") or closed
    low, high = _optional_number(content, "from", what), _optional_number(content, "to", what)
    if own is None and (low is not None or high is not None):
        raise ModelFileError(f"{what} does not say which side of its bins is closed: {', '.join(_CLOSED)}")
    if own is not None and own not in _CLOSED:
        raise ModelFileError(f"{what}: closed is '{clipped(own)}'; it must be one of {', '.join(_CLOSED)}")
    low_closed, high_closed = _CLOSED[own or "both"]
    points = number(content.get("points"), f"{what}: points")
    # plus 0.0, so that a bound of -0.0 is the 0.0 that every engine compares alike
    return Interval(
        points,
        -math.inf if low is None else low + 0.0,
        math.inf if high is None else high + 0.0,
        low_closed,
        high_closed,
    )


def _texts(bins: list[dict[str, object]], what: str) -> dict[str, float]:
    points: dict[str, float] = {}
    for each in bins:
        check_keys(each, _TEXT_KEYS, f"a bin of {what}, which has texts,")
        texts = each.get("texts")
        if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
            raise ModelFileError(f"{what}: texts is not a list of texts")
        if len(set(texts)) != len(texts) or points.keys() & set(texts):
            raise ModelFileError(f"{what} has a text in two bins")
        points |= dict.fromkeys(texts, number(each.get("points"), f"{what}: points"))
    return points


def cut_scorecard(
    joint: ScorecardPart, columns: Mapping[str, list[int]], intercept_party: str | None, _constants: Floats | None
) -> dict[str, ScorecardPart]:
    """Return each party's features with their points, as `families.Cut` says; each tells as many reasons."""
    return {
        party: ScorecardPart(
            tuple(joint.scored[column] for column in chosen),
            joint.intercept if party == intercept_party else None,
            joint.n_reasons,
        )
        for party, chosen in columns.items()
    }
