"""Random scorecards: the embedded engine gives numpy's points and statuses, whatever the bins."""

from __future__ import annotations

import itertools
import math
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from fedpredict.model.arrays import Floats
from fedpredict.model.kinds import Kind
from fedpredict.model.part import UNKNOWN_CATEGORY
from fedpredict.model.partial import PartialModel
from fedpredict.model.scorecard import FeaturePoints, Interval, ScorecardPart
from fedpredict.model.share import SampleStatus, all_ok_statuses
from fedpredict.tables.models import load_model, publish_model
from fedpredict.tables.statements import score_in_engine
from fedpredict.tables.views import FeatureView, ViewFeature, publish_snapshot, snapshot_name
from fedpredict.warehouse.base import ColumnType
from fedpredict.warehouse.local import LocalWarehouse

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)
POINTS = st.integers(-50, 50).map(float) | st.floats(-1e3, 1e3)
BOUND = st.integers(-4, 4).map(float) | st.sampled_from([-1e300, -0.1, 0.1 + 0.2, 5e-324, 1e300])
TEXTS = st.lists(st.sampled_from(["a", "b", "", "A", "b ", "'", "年"]), min_size=1, max_size=4, unique=True)
CELLS = st.none() | st.sampled_from([math.nan, math.inf, -math.inf, -0.0]) | BOUND | st.floats(-5, 5)
CELL_TEXTS = st.none() | st.sampled_from(["a", "b", "", "z", "b "])


@st.composite
def numeric(draw: st.DrawFn, name: str) -> FeaturePoints:
    bounds = sorted({draw(BOUND) for _ in range(draw(st.integers(0, 5)))})
    edges = [draw(st.sampled_from([-math.inf, *bounds[:1]])), *bounds, draw(st.sampled_from([math.inf, *bounds[-1:]]))]
    intervals: list[Interval] = []
    for low, high in itertools.pairwise(edges):
        taken = bool(intervals) and intervals[-1].high == low and intervals[-1].high_closed
        each = Interval(
            draw(POINTS), low, high, low_closed=not taken and draw(st.booleans()), high_closed=draw(st.booleans())
        )
        first, last = each.ends
        if first <= last and draw(st.integers(0, 4)):  # some bins are left out: gaps
            intervals.append(each)
    optional = st.none() | POINTS
    return FeaturePoints(name, tuple(intervals) or (Interval(1.0),), {}, draw(optional), draw(optional))


@st.composite
def textual(draw: st.DrawFn, name: str) -> FeaturePoints:
    texts = {text: draw(POINTS) for text in draw(TEXTS)}
    return FeaturePoints(name, (), texts, draw(st.none() | POINTS), draw(st.none() | POINTS))


@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_the_engine_gives_numpys_points_and_statuses(data: st.DataObject) -> None:
    features = [
        data.draw((textual if data.draw(st.booleans()) else numeric)(f"f{at}"))
        for at in range(data.draw(st.integers(1, 4)))
    ]
    base = data.draw(st.none() | POINTS)
    part = ScorecardPart(tuple(features), None if base is None else np.array([base]))
    cells = [data.draw(st.lists(CELL_TEXTS if each.texts else CELLS, min_size=9, max_size=9)) for each in features]
    matrix = np.column_stack([_coded(each, column) for each, column in zip(features, cells, strict=True)])

    found = _scored_in_engine(part, features, cells)

    own = part.statuses(matrix)
    statuses = all_ok_statuses(len(matrix)) if own is None else own
    scores, terms = part.partial_scores(matrix)[:, 0], part.magnitudes(matrix)[:, 0]
    assert [row["status"] for row in found] == statuses.tolist()
    for row, status, score, size in zip(found, statuses.tolist(), scores.tolist(), terms.tolist(), strict=True):
        if status == SampleStatus.OK:
            assert abs(row["scores"][0] - score) <= 1e-12 * size
        else:
            assert row["scores"] is None


def _coded(feature: FeaturePoints, cells: list[Any]) -> Floats:
    texts = list(feature.texts)
    codes = [
        math.nan if cell is None else cell if isinstance(cell, float) else
        float(texts.index(cell)) if cell in texts else UNKNOWN_CATEGORY
        for cell in cells
    ]  # fmt: skip
    return np.array(codes, dtype=np.float64)


def _scored_in_engine(part: ScorecardPart, features: list[FeaturePoints], cells: list[list[Any]]) -> list[Any]:
    kinds = [ColumnType.STRING if each.texts else ColumnType.DOUBLE for each in features]
    view = FeatureView("v", 1, tuple(map(ViewFeature, part.features, part.features, kinds)), "id", None)
    columns = {
        name: pa.array(column, pa.string() if kind is ColumnType.STRING else pa.float64())
        for name, column, kind in zip(part.features, cells, kinds, strict=True)
    }
    ids = pa.array([f"s{at}" for at in range(len(cells[0]))])
    rows = pa.table(
        {"sample_id": ids, "event_time": pa.array([NOON] * len(ids), pa.timestamp("us", tz="UTC")), **columns}
    )
    partial = PartialModel("m", "run", "lab", Kind.LINEAR, (), True, part)
    with TemporaryDirectory() as folder, closing(LocalWarehouse(Path(folder))) as warehouse:
        snapshot = publish_snapshot(warehouse, view, snapshot_name(NOON), rows)
        version, _ = publish_model(warehouse, partial, view, "0" * 64)
        load_model(warehouse, version)
        found: list[Any] = score_in_engine(warehouse, version, snapshot).to_pylist()
        return found
