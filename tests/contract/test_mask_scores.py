"""Leaf masks in the warehouse's engine: the embedded one, Spark and Hive give numpy's masks bit for bit."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pytest

from fedpredict.convert.split_trees_cut import split_with_head
from fedpredict.model.arrays import Floats
from fedpredict.model.combine import combine
from fedpredict.model.kinds import Kind
from fedpredict.model.partial import PartialModel
from fedpredict.model.share import SampleStatus, Share, all_ok_statuses
from fedpredict.model.split_trees import SplitTreesPart
from fedpredict.model.trees import TreesPart
from fedpredict.tables.models import load_model, publish_model
from fedpredict.tables.names import column_names
from fedpredict.tables.statements import score_in_engine
from fedpredict.tables.views import FeatureView, Snapshot, ViewFeature, publish_snapshot, snapshot_name
from fedpredict.warehouse.base import ColumnType, Warehouse
from tests.contract.conftest import cases_by_place
from tests.tree_parts import Shape, as_cells, random_part, random_rows

pytestmark = pytest.mark.timeout(600)  # Hive walks a level in several seconds

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)


def snapshot_of(warehouse: Warehouse, joint: TreesPart, part: SplitTreesPart, rows: Floats) -> Snapshot:
    """Publish a party's columns of rows whose sample ids count from s0."""
    kinds = {name: ColumnType.STRING if name in part.categories else ColumnType.DOUBLE for name in part.features}
    columns = column_names(part.features)
    described = tuple(ViewFeature(name, columns[name], kinds[name]) for name in part.features)
    view = FeatureView(f"v_{uuid.uuid4().hex}", 1, described, "id", "seen")
    types = {ColumnType.DOUBLE: pa.float64(), ColumnType.STRING: pa.string()}
    cells = as_cells(joint, rows)
    table = pa.table(
        {
            "sample_id": pa.array([f"s{at}" for at in range(len(rows))], pa.string()),
            "event_time": pa.array([NOON] * len(rows), pa.timestamp("us", tz="UTC")),
            **{columns[name]: pa.array(cells[name], types[kinds[name]]) for name in part.features},
        }
    )
    return publish_snapshot(warehouse, view, snapshot_name(NOON), table)


def share_in_engine(warehouse: Warehouse, partial: PartialModel, joint: TreesPart, rows: Floats) -> Share:
    """Return a party's share as the engine computes it, in the order of the rows; hold it to numpy's, bit for bit."""
    part = partial.part
    assert isinstance(part, SplitTreesPart)
    snapshot = snapshot_of(warehouse, joint, part, rows)
    version, _ = publish_model(warehouse, partial, snapshot.view, "5" * 64)
    loaded = load_model(warehouse, version).part
    assert isinstance(loaded, SplitTreesPart)
    assert loaded.combination == part.combination

    by_id = {row["sample_id"]: row for row in score_in_engine(warehouse, version, snapshot).to_pylist()}
    ordered = [by_id[f"s{at}"] for at in range(len(rows))]
    status = np.array([row["status"] for row in ordered], dtype=np.uint8)
    masks = np.array([row["scores"] or [np.nan] * part.n_scores for row in ordered])

    own = rows[:, [joint.features.index(name) for name in part.features]]
    expected = loaded.statuses(own)
    assert status.tolist() == (all_ok_statuses(len(rows)) if expected is None else expected).tolist()
    scored = status == SampleStatus.OK
    assert np.array_equal(masks[scored], loaded.partial_scores(own)[scored])
    assert np.array_equal(masks[scored], part.partial_scores(own)[scored])
    return Share(masks, status)


SHAPES = {
    "all at once": Shape(3, 3, n_texts=1, n_scores=2, wide=True, with_sets=True, float32=True, zero_is_missing=True,
                         closed=True),
    "strict, must not miss": Shape(3, 3, n_texts=2, strict=True, may_miss=False),
}  # fmt: skip


@pytest.mark.parametrize(("place", "shape"), cases_by_place(list(SHAPES), ["all at once"]), indirect=["place"])
def test_engines_give_masks_that_the_head_turns_into_the_joint_models_scores(warehouse: Warehouse, shape: str) -> None:
    random = np.random.default_rng(5)
    joint = random_part(random, SHAPES[shape])
    rows = random_rows(random, joint, 40)
    model = PartialModel(
        f"m-{uuid.uuid4().hex}", "run-1", "joint-model", Kind.LINEAR, (), joint.intercept is not None, joint
    )
    cut = split_with_head(model, {"lab": list(joint.features[::2]), "shop": list(joint.features[1::2])}, "bank")

    shares = {party: share_in_engine(warehouse, part, joint, rows) for party, part in cut.parts.items()}
    combined = combine(model.link, shares, cut.head.head)

    scored = combined.status == SampleStatus.OK
    assert scored.sum() > 2
    assert not combined.problem
    difference = np.abs(combined.raw - joint.partial_scores(rows))[scored]
    assert np.all(difference <= 1e-12 * joint.magnitudes(rows)[scored])


def test_a_party_that_no_tree_asks_allows_every_leaf_in_the_engine_too(warehouse: Warehouse) -> None:
    random = np.random.default_rng(6)
    joint = random_part(random, Shape(20, 2))
    model = PartialModel(f"m-{uuid.uuid4().hex}", "run-1", "joint-model", Kind.LINEAR, (), True, joint)
    cut = split_with_head(model, {"lab": list(joint.features), "idle": []}, "bank")

    share = share_in_engine(warehouse, cut.parts["idle"], joint, random_rows(random, joint, 3))

    everything = sum(int(word).bit_count() for word in share.values[0].tolist())
    assert everything == joint.trees.n_leaves.sum()
