"""The checksum of a bucket's shares, in every engine: what it sees, and in Hive how it is made of a score's value."""

from __future__ import annotations

import math
import uuid
from fractions import Fraction
from typing import TypeAlias

import numpy as np
import pytest
from sqlglot import exp

from fedpredict.model.share import SampleStatus
from fedpredict.scoring.counting import checked_now, counted_each
from fedpredict.tables import sql
from fedpredict.tables.checksums_sql import Checked
from fedpredict.tables.shares import SHARES, ensure_tables
from fedpredict.warehouse.base import Partition, Value, Warehouse

pytestmark = pytest.mark.timeout(300)
PRIME = 2**31 - 1
USUAL = [0.1, -0.1, 0.5, -0.5, 3.0, -3.0, 4.0, 1234567.875, 2.0**-9, 2147483647.75, -2147483647.75]
OTHERS = [0.0, 1e-300, -1e-3, 2.0**31, -1e300, 1.7976931348623157e308]
SINGLE = [neighbour for score in (*USUAL, *OTHERS) for neighbour in (score, float(np.nextafter(score, 1.0)))]
Row: TypeAlias = tuple[SampleStatus, list[float] | None]
OK = SampleStatus.OK
ALONE: list[Row] = [
    *[(OK, [score]) for score in SINGLE],
    *[(OK, scores) for scores in ([1.5, 2.5], [2.5, 1.5], [1.5, 2.5, 2.5])],
    (SampleStatus.FEATURE_MISSING, None),
    (SampleStatus.FEATURE_INVALID, None),
]
PAIRS: list[list[Row]] = [[(OK, [7.25 + step]), (OK, [9.5 - step])] for step in (0.0, 0.25, 2.0**-40)]
ROWS = [*([row] for row in ALONE), *PAIRS]
"""Of one bucket each; no two have the same content."""


def number_of(score: float, status: int) -> int:
    """Return the number of a row with one score of the usual size, by whole numbers without an end."""
    size = Fraction(abs(score))
    fraction = (size - math.floor(size)) * 2**62
    assert fraction.denominator == 1
    return (abs(math.floor(score) * 31 + int(fraction) % PRIME + status) % PRIME) ** 2 % PRIME


def stored(warehouse: Warehouse) -> Partition:
    """Store the rows, those of each bucket in its partition, by one statement."""
    task: Partition = {"dt": "2026-11-22", "model_id": f"m-{uuid.uuid4().hex}", "params_sha256": "0" * 64}
    params: dict[str, Value] = {}
    queries = []
    for bucket, rows in enumerate(ROWS):
        for status, scores in rows:
            names = [f"v{len(params) + at}" for at in range(len(scores or [0.0]))]
            params |= dict(zip(names, scores or [0.0], strict=True))
            given = exp.Array(expressions=[exp.cast(exp.Placeholder(this=name), "double") for name in names])
            listed = sql.case(exp.null(), (exp.false() if scores is None else exp.true(), given))
            columns = [("status", sql.number(status)), ("scores", listed), ("bucket", sql.number(bucket))]
            queries.append(exp.Select(expressions=[sql.named(value, name) for name, value in columns]))
    ensure_tables(warehouse)
    warehouse.replace_each_from(SHARES.name, task, sql.together(*queries), params)
    return task


def test_another_score_status_or_order_of_scores_is_another_checksum(warehouse: Warehouse) -> None:
    task = stored(warehouse)

    found = counted_each(warehouse, task, range(len(ROWS)), ())

    assert [found[bucket].n_ids for bucket in range(len(ROWS))] == [len(rows) for rows in ROWS]
    checksums = {bucket: each.checksum for bucket, each in found.items()}
    same = {sum_: [ROWS[bucket] for bucket, each in checksums.items() if each == sum_] for sum_ in checksums.values()}
    assert [rows for rows in same.values() if len(rows) > 1] == []
    if checked_now(warehouse) is Checked.BY_VALUE:
        expected = {bucket: number_of(score, OK) for bucket, score in enumerate(SINGLE[: 2 * len(USUAL)])}
        assert {bucket: checksums[bucket] for bucket in expected} == expected
