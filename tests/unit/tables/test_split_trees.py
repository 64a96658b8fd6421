"""Parts of split trees as rows: they come back as they were, and rows that do not fit are refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from fedpredict.convert.split_trees_cut import split_with_head
from fedpredict.errors import TableCorruptError
from fedpredict.model.kinds import Kind
from fedpredict.model.partial import PartialModel
from fedpredict.model.split_trees import SplitTreesPart
from fedpredict.tables.digest import params_sha256
from fedpredict.tables.models import load_model, publish_model
from fedpredict.tables.names import column_names
from fedpredict.tables.schemas import TREES_COLUMNS
from fedpredict.tables.views import FeatureView, ViewFeature
from fedpredict.warehouse.base import ColumnType
from fedpredict.warehouse.local import LocalWarehouse
from tests.tree_parts import Shape, random_part, random_rows

SHAPE = Shape(5, 4, n_texts=2, n_scores=3, wide=True, with_sets=True, float32=True, zero_is_missing=True)
COLUMNS = [column.name for column in TREES_COLUMNS]
JOINT = random_part(np.random.default_rng(3), SHAPE)


def partial_of(party: str = "lab") -> PartialModel:
    model = PartialModel("m", "run-1", "joint-model", Kind.LINEAR, (), True, JOINT)
    owners = {"lab": list(JOINT.features[::2]), "shop": list(JOINT.features[1::2])}
    return split_with_head(model, owners, "bank").parts[party]


def split_of(partial: PartialModel) -> SplitTreesPart:
    assert isinstance(partial.part, SplitTreesPart)
    return partial.part


def view_of(part: SplitTreesPart) -> FeatureView:
    kinds = {name: ColumnType.STRING if name in part.categories else ColumnType.DOUBLE for name in part.features}
    columns = column_names(part.features)
    return FeatureView(
        "v", 1, tuple(ViewFeature(name, columns[name], kinds[name]) for name in part.features), "id", None
    )


@pytest.fixture
def warehouse(tmp_path_factory: pytest.TempPathFactory) -> LocalWarehouse:
    return LocalWarehouse(tmp_path_factory.mktemp("warehouse"))


@pytest.mark.parametrize("party", ["lab", "shop"])
def test_a_part_comes_back_and_gives_the_same_masks(warehouse: LocalWarehouse, party: str) -> None:
    partial = partial_of(party)
    version, _ = publish_model(warehouse, partial, view_of(split_of(partial)), "a" * 64)

    loaded = split_of(load_model(warehouse, version))

    rows = random_rows(np.random.default_rng(4), JOINT, 50)
    own = rows[:, [JOINT.features.index(name) for name in loaded.features]]
    assert loaded.partial_scores(own).tobytes() == split_of(partial).partial_scores(own).tobytes()
    assert loaded.combination == split_of(partial).combination
    assert (version.n_scores, version.n_outputs) == (loaded.n_scores, 3)
    assert version.engines == ("numpy", "duckdb", "spark", "hive")


def test_no_row_tells_what_a_leaf_is_worth_or_what_another_party_asks(warehouse: LocalWarehouse) -> None:
    partial = partial_of()
    version, _ = publish_model(warehouse, partial, view_of(split_of(partial)), "a" * 64)

    rows = warehouse.read("fp_trees_v", COLUMNS, version.partition).to_pylist()

    bits = {row["leaf_value"] for row in rows if row["leaf_value"] is not None}
    assert bits <= {2.0**bit for bit in range(52)}
    foreign = [row for row in rows if row["left_child"] is not None and row["feature"] is None]
    assert foreign
    asked = ("op", "threshold", "categories", "known", "compare", "missing", "zero_is_missing", "unknown", "input")
    assert all(row[name] is None for row in foreign for name in asked)


def _row(condition: pc.Expression) -> Callable[[pa.Table], pa.Table]:
    """Leave out the first row of which a condition holds."""

    def without(rows: pa.Table) -> pa.Table:
        at = rows.append_column("at", pa.array(np.arange(len(rows)))).filter(condition).column("at")[0].as_py()
        return pa.concat_tables([rows.slice(0, at), rows.slice(at + 1)])

    return without


def _set(name: str, condition: pc.Expression, value: object) -> Callable[[pa.Table], pa.Table]:
    """Change a column of all rows of which a condition holds."""

    def changed(rows: pa.Table) -> pa.Table:
        hit = rows.append_column("at", pa.array(np.arange(len(rows)))).filter(condition).column("at").to_numpy()
        mask = np.isin(np.arange(len(rows)), hit)
        column = pc.if_else(pa.array(mask), pa.scalar(value, rows.schema.field(name).type), rows.column(name))
        return rows.set_column(rows.column_names.index(name), name, column)

    return changed


FOREIGN = pc.field("feature").is_null() & pc.field("left_child").is_valid()
LEAF = pc.field("leaf_value").is_valid() & (pc.field("tree") >= 0)


@pytest.mark.parametrize(
    "damage",
    [
        _row(FOREIGN),
        _row(FOREIGN & (pc.field("output") == 1)),
        _row(LEAF),
        _row(pc.field("tree") == -1),
        _row(pc.field("threshold").is_valid()),
        _set("output", FOREIGN, 0),
        _set("right_child", FOREIGN, 2),
        _set("level", FOREIGN & (pc.field("output") == 1), 7),
        _set("leaf_value", LEAF, 3.0),
        _set("output", LEAF, 1),
        _set("threshold", FOREIGN, 1.0),
        _set("threshold", pc.field("threshold").is_valid(), 1.25),
    ],
)
def test_damaged_rows_are_refused(warehouse: LocalWarehouse, damage: Callable[[pa.Table], pa.Table]) -> None:
    partial = partial_of()
    version, _ = publish_model(warehouse, partial, view_of(split_of(partial)), "a" * 64)
    rows = warehouse.read("fp_trees_v", COLUMNS, version.partition).combine_chunks()
    warehouse.replace("fp_trees_v", version.partition, damage(rows))

    with pytest.raises(TableCorruptError, match="convert the model again"):
        load_model(warehouse, version)


def test_the_digest_is_of_the_own_splits_and_the_outputs() -> None:
    partial, salt = partial_of(), bytes(32)
    part = split_of(partial)
    digest = params_sha256(partial, "v", 1, salt)

    asks = np.flatnonzero((part.trees.feature >= 0) & (part.trees.left_set < 0))
    threshold = part.trees.threshold.copy()
    threshold[asks[0]] += 1.0
    moved = replace(part, trees=replace(part.trees, threshold=threshold))

    assert params_sha256(replace(partial, part=moved), "v", 1, salt) != digest
    assert params_sha256(replace(partial, part=replace(part, n_outputs=2)), "v", 1, salt) != digest
    assert params_sha256(partial_of(), "v", 1, salt) == digest
