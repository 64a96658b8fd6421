"""A scorecard part as rows: one for the base points, and for each feature its bins, a missing value and one outside."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TypeAlias

import numpy as np
import pyarrow as pa

from fedpredict.errors import TableCorruptError
from fedpredict.model.scorecard import FeaturePoints, Interval, ScorecardPart
from fedpredict.tables.numbers import canonical_numbers
from fedpredict.tables.schemas import scorecard_schema

BASE = -1
"""The position of the row of base points, which belongs to no feature."""
SCORECARD_COLUMNS = [column.name for column in scorecard_schema("v").columns]
_ARROW = pa.schema([scorecard_schema("v").arrow_schema.field(name) for name in SCORECARD_COLUMNS])
_Row: TypeAlias = Mapping[str, object]


def scorecard_to_rows(part: ScorecardPart) -> pa.Table:
    """Return the rows of a part."""
    base = None if part.intercept is None else part.intercept.item()
    rows: list[dict[str, object]] = [{"position": BASE, "bin": 0, "rule": "base", "points": base}]
    for position, feature in enumerate(part.scored):
        rows += ({"position": position, **row} for row in _rows_of(feature))
    filled = [{name: row.get(name) for name in SCORECARD_COLUMNS} for row in rows]
    return pa.Table.from_pylist(filled, schema=_ARROW)


def _rows_of(feature: FeaturePoints) -> Iterator[dict[str, object]]:
    yield {"rule": "missing", "bin": 0, "points": feature.missing}
    yield {"rule": "outside", "bin": 0, "points": feature.outside, "reason": feature.reason}
    for number, interval in enumerate(feature.intervals):
        yield {
            "rule": "interval",
            "bin": number,
            "points": interval.points,
            "low": None if interval.low == -math.inf else interval.low,
            "high": None if interval.high == math.inf else interval.high,
            "low_closed": interval.low_closed,
            "high_closed": interval.high_closed,
        }
    for number, (text, points) in enumerate(feature.texts.items()):
        yield {"rule": "text", "bin": number, "points": points, "text": text}


def scorecard_from_rows(
    rows: pa.Table, features: Sequence[str], options: Mapping[str, object], *, holds_intercept: bool
) -> ScorecardPart:
    """Return the part that `scorecard_to_rows` wrote.

    Args:
        rows: `SCORECARD_COLUMNS`, in any order of rows.
        features: Original names, in the order of the positions.
        options: What `scorecard_options` returned.
        holds_intercept: Whether the base points must be a number, or must be NULL.

    Raises:
        TableCorruptError: Rows are missing or repeated, or hold what no part gives.
    """
    by_rule: dict[tuple[object, object], list[_Row]] = {}
    for row in rows.sort_by([("position", "ascending"), ("bin", "ascending")]).to_pylist():
        by_rule.setdefault((row["position"], row["rule"]), []).append(row)
    base = _number(_only(by_rule, BASE, "base"), "points")
    if holds_intercept != (base is not None):
        raise TableCorruptError("the base points are not where the model's row says they are")
    scored = tuple(_feature(by_rule, position, name) for position, name in enumerate(features))
    if by_rule:
        raise TableCorruptError(f"rows of points for no feature of {len(features)}")
    n_reasons = options.get("reasons", 0)
    if not isinstance(n_reasons, int):
        raise TableCorruptError("the number of reasons in the options of the model's row is none")
    return ScorecardPart(scored, None if base is None else np.array([base]), n_reasons)


def _feature(by_rule: dict[tuple[object, object], list[_Row]], position: int, name: str) -> FeaturePoints:
    missing, outside = _only(by_rule, position, "missing"), _only(by_rule, position, "outside")
    intervals = by_rule.pop((position, "interval"), [])
    texts = by_rule.pop((position, "text"), [])
    if [row["bin"] for row in (*intervals, *texts)] != list(range(len(intervals) + len(texts))):
        raise TableCorruptError(f"the bins of feature {position} are not numbered from 0")
    return FeaturePoints(
        name,
        tuple(_interval(row) for row in intervals),
        {str(row["text"]): _points(row) for row in texts},
        _number(missing, "points"),
        _number(outside, "points"),
        str(outside["reason"] or ""),
    )


def _only(by_rule: dict[tuple[object, object], list[_Row]], position: int, rule: str) -> _Row:
    found = by_rule.pop((position, rule), [])
    if len(found) != 1:
        raise TableCorruptError(f"{len(found)} rows '{rule}' for position {position}, where there must be one")
    return found[0]


def _interval(row: _Row) -> Interval:
    low, high = _number(row, "low"), _number(row, "high")
    return Interval(
        _points(row),
        -math.inf if low is None else low,
        math.inf if high is None else high,
        low_closed=row["low_closed"] is True,
        high_closed=row["high_closed"] is True,
    )


def _points(row: _Row) -> float:
    points = _number(row, "points")
    if points is None:
        raise TableCorruptError("a bin without points")
    return points


def _number(row: _Row, name: str) -> float | None:
    value = row[name]
    if value is not None and not (isinstance(value, float) and math.isfinite(value)):
        raise TableCorruptError(f"column {name} holds what is no finite number")
    return value


def scorecard_options(part: ScorecardPart) -> dict[str, object]:
    """Return what of a part stands in the version's row: how many reasons go with a share."""
    return {"reasons": part.n_reasons}


def scorecard_digest_fields(part: ScorecardPart) -> Iterator[bytes]:
    """Return the canonical bytes of the points, features sorted by name, bins in order."""
    yield b"scorecard"
    for feature in sorted(part.scored, key=lambda each: each.name):
        yield feature.name.encode()
        yield feature.reason.encode()
        yield from (b"" if each is None else _bytes(each) for each in (feature.missing, feature.outside))
        yield str(len(feature.intervals)).encode()
        for each in feature.intervals:
            yield _bytes(each.low, each.high, each.points)
            yield bytes((each.low_closed, each.high_closed))
        yield str(len(feature.texts)).encode()
        for text, points in feature.texts.items():
            yield text.encode()
            yield _bytes(points)
    yield b"" if part.intercept is None else canonical_numbers(part.intercept)
    yield str(part.n_reasons).encode()


def _bytes(*numbers: float) -> bytes:
    return canonical_numbers(np.array(numbers, dtype=np.float64))
