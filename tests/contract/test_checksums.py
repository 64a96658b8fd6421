"""The checksum of a bucket's shares, in every engine: what it sees, and in Hive how it is made of a score's value."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from fractions import Fraction
from typing import TypeAlias

import numpy as np
import pyarrow as pa
import pytest
from sqlglot import exp

from fedpredict.model.share import SampleStatus
from fedpredict.scoring.counting import checked_now, counted_each, counted_passing, engine_name
from fedpredict.scoring.tally import Bins
from fedpredict.tables import sql
from fedpredict.tables.counts_sql import Checked, passing_counts
from fedpredict.tables.shares import SHARES, ensure_tables
from fedpredict.warehouse.base import (
    Column,
    ColumnType,
    Filling,
    Partition,
    SeriesWriter,
    TableSchema,
    Value,
    Warehouse,
)
from fedpredict.warehouse.hive_connection import RefusedByServerError
from fedpredict.warehouse.hive_side_tables import SideTables
from tests.contract.conftest import Place

pytestmark = pytest.mark.timeout(300)
HIVE = pytest.mark.parametrize("server_place", [pytest.param("hive", marks=pytest.mark.hive)], indirect=True)
Row: TypeAlias = tuple[SampleStatus, list[float] | None]
OK = SampleStatus.OK
ONE: Bins = ((-8.0, 0.5),)
"""Inner bins from -8 to 8: a score is counted as so many times 2^-50, because 8 is 2^53 of them."""
TWO: Bins = (*ONE, (0.0, 2.0**-20))
UNIT = Fraction(2) ** 50
INNER = [0.1, -0.1, 0.5, 3.0, -3.0, 7.9999, -7.5, 2.0**-40]
OUTER = [1234.5, -1234.5, 2.0**14, 1e300, -1e300]
SINGLE = [neighbour for score in (*INNER, *OUTER[:3]) for neighbour in (score, float(np.nextafter(score, 99.0)))]
ALONE: list[list[Row]] = [[(OK, [score])] for score in SINGLE]
ROWS: list[list[Row]] = [
    *ALONE,
    [(OK, [0.1]), (OK, [0.1])],
    [(OK, [0.1]), (SampleStatus.FEATURE_MISSING, None)],
    [(SampleStatus.FEATURE_MISSING, None)],
    [(SampleStatus.FEATURE_INVALID, None)],
]
"""Of one bucket each; no two have the same content."""


def stored(warehouse: Warehouse, buckets: Sequence[Sequence[Row]]) -> Partition:
    """Store rows, those of each bucket in its partition, by one statement."""
    task = new_task(warehouse)
    params: dict[str, Value] = {}
    queries = []
    for bucket, rows in enumerate(buckets):
        for status, scores in rows:
            names = [f"v{len(params) + at}" for at in range(len(scores or [0.0]))]
            params |= dict(zip(names, scores or [0.0], strict=True))
            given = exp.Array(expressions=[exp.cast(exp.Placeholder(this=name), "double") for name in names])
            listed = sql.case(exp.null(), (exp.false() if scores is None else exp.true(), given))
            columns = [("status", sql.number(status)), ("scores", listed), ("bucket", sql.number(bucket))]
            queries.append(exp.Select(expressions=[sql.named(value, name) for name, value in columns]))
    warehouse.replace_each_from(SHARES.name, task, sql.together(*queries), params)
    return task


def new_task(warehouse: Warehouse) -> Partition:
    ensure_tables(warehouse)
    return {"dt": "2026-11-22", "model_id": f"m-{uuid.uuid4().hex}", "params_sha256": "0" * 64}


def whole(score: float, unit: Fraction) -> int:
    """Return a score as a whole number of 64 bits as Java casts it: cut off, and the last one where it has no room."""
    return max(-(2**63), min(2**63 - 1, int(Fraction(score) * unit)))


def wrapped(number: int) -> int:
    return (number + 2**63) % 2**64 - 2**63


@pytest.mark.parametrize("bins", [(), ONE], ids=["without bins", "with bins"])
def test_another_score_status_or_number_of_rows_is_told_apart(warehouse: Warehouse, bins: Bins) -> None:
    task = stored(warehouse, ROWS)

    found = counted_each(warehouse, task, range(len(ROWS)), bins)

    assert [found[bucket].n_ids for bucket in range(len(ROWS))] == [len(rows) for rows in ROWS]
    told = [(found[bucket].checksum, tuple(found[bucket].statuses.items())) for bucket in range(len(ROWS))]
    alike = sum(whole(a, UNIT) == whole(b, UNIT) for a, b in zip(SINGLE[::2], SINGLE[1::2], strict=True))
    by_value = checked_now(warehouse, bins) is Checked.BY_VALUE
    assert len(set(told)) == len(ROWS) - (alike if by_value else 0)


def test_outputs_that_change_places_are_told_apart(warehouse: Warehouse) -> None:
    rows: list[list[Row]] = [[(OK, [1.5, 2.5])], [(OK, [2.5, 1.5])], [(OK, [1.5, 2.5]), (OK, [2.5, 1.5])]]

    found = counted_each(warehouse, stored(warehouse, rows), range(3), TWO)

    assert len({each.checksum for each in found.values()}) == 3


@HIVE
def test_hive_adds_up_scores_as_whole_numbers_of_a_unit_that_follows_from_the_bins(server_place: Place) -> None:
    warehouse = server_place.warehouse
    assert engine_name(warehouse, ONE).endswith(", by value")
    singles: list[list[Row]] = [[(OK, [score])] for score in (*INNER, *OUTER)]
    many: list[Row] = [(OK, [score]) for score in (*INNER, *OUTER, 2.0**14, 2.0**14, 2.0**14)]
    pairs: list[Row] = [(OK, [1.25, 1.0]), (OK, [-3.5, 2.0**-30])]
    rows = [*singles, many]

    of_one = counted_each(warehouse, stored(warehouse, rows), range(len(rows)), ONE)
    of_two = counted_each(warehouse, stored(warehouse, [pairs]), [0], TWO)

    expected = [sum(whole(scores[0], UNIT) for _, scores in each if scores) for each in rows]
    assert [of_one[bucket].checksum for bucket in range(len(rows))] == [wrapped(each) for each in expected]
    assert expected[-1] != wrapped(expected[-1])
    small = Fraction(2) ** (54 + 14)  # the second inner bins end at 2^-15
    two = sum(whole(first, UNIT) + 3 * whole(second, small) for _, (first, second) in ((s, r or []) for s, r in pairs))
    assert of_two[0].checksum == wrapped(two)


def written(warehouse: Warehouse, bins: Bins) -> tuple[Partition, Sequence[pa.Table], int]:
    """Write rows into bucket 3 of a new task, counted as they pass; return it, what was gathered, and how many."""
    assert isinstance(warehouse, SeriesWriter)
    assert warehouse.gathers
    rows = [(status, scores[0] if scores else 7.0) for each in ROWS for status, scores in each]
    rows += [(OK, score) for score in OUTER]
    columns = (Column("status", ColumnType.INT), Column("raw", ColumnType.DOUBLE))
    source = TableSchema(f"t_{uuid.uuid4().hex}", columns, (Column("part", ColumnType.STRING),))
    warehouse.ensure(source)
    statuses = pa.array([int(status) for status, _ in rows], pa.int32())
    warehouse.replace(source.name, {"part": "a"}, pa.table({"status": statuses, "raw": [raw for _, raw in rows]}))
    asked = "status, CASE WHEN status = 1 THEN ARRAY(raw) ELSE NULL END AS scores, raw AS fp_raw_0"
    query: exp.Expression = exp.maybe_parse(f"SELECT {asked} FROM {source.name}", dialect="hive")
    task, checked = new_task(warehouse), checked_now(warehouse, bins)
    summaries, bound = passing_counts(3, warehouse.engine.name, bins=bins, checked=checked)

    (gathered,) = warehouse.replace_series_from(
        SHARES.name, [Filling({**task, "bucket": 3}, query, bound, summaries, ["fp_raw_0"])]
    )

    return task, gathered, len(rows)


@HIVE
@pytest.mark.parametrize("bins", [(), ONE], ids=["without bins", "with bins"])
def test_what_passes_is_counted_as_what_is_stored(server_place: Place, bins: Bins) -> None:
    warehouse = server_place.warehouse

    task, gathered, n_rows = written(warehouse, bins)

    found = counted_passing(3, gathered, bins, checked_now(warehouse, bins))
    assert found == counted_each(warehouse, task, [3], bins)[3]
    assert (found.n_ids, sum(map(sum, found.histograms))) == (n_rows, n_rows - 3 if bins else 0)


@HIVE
def test_where_a_session_may_not_have_temporary_tables_rows_are_written_all_the_same(
    server_place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise RefusedByServerError("temporary tables are not allowed", "42000", 10000)

    monkeypatch.setattr(SideTables, "_make", refused)

    task, gathered, n_rows = written(server_place.warehouse, ONE)

    assert list(gathered) == []
    found = counted_each(server_place.warehouse, task, [3], ONE)[3]
    assert (found.n_ids, sum(map(sum, found.histograms))) == (n_rows, n_rows - 3)
