"""Publishing, loading and deleting heads, on the embedded warehouse."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from fedpredict.errors import TableCorruptError
from fedpredict.model.head import HeadModel
from fedpredict.model.kinds import Kind
from fedpredict.model.links import Link
from fedpredict.model.tree_head import TreeHead
from fedpredict.tables.heads import delete_heads, head_sha256, list_heads, load_head, publish_head
from fedpredict.tables.schemas import HEAD_LEAVES, HEADS
from fedpredict.warehouse.local import LocalWarehouse

FILE_A, FILE_B = "a" * 64, "b" * 64
STRUCTURE = "5" * 64
NARROW = TreeHead(
    n_leaves=np.array([1, 3, 2]),
    n_outputs=2,
    output=np.array([0, 1, 0], dtype=np.int32),
    values=np.array([[0.1], [-0.0], [1e300], [5e-324], [-2.5], [1 / 3]]),
    intercept=np.array([0.0, -1.0]),
    structure_sha256=STRUCTURE,
)
WIDE = replace(NARROW, output=np.full(3, -1, dtype=np.int32), values=np.arange(12.0).reshape(6, 2))


def head_of(head: TreeHead = NARROW, **changes: Any) -> HeadModel:
    made = HeadModel("credit", "run-1", "bank", Kind.LINEAR, (), Link("identity"), head, {"made": "now"})
    return replace(made, **changes)


@pytest.fixture
def warehouse(tmp_path: Path) -> LocalWarehouse:
    return LocalWarehouse(tmp_path)


def tree_head(head: HeadModel) -> TreeHead:
    assert isinstance(head.head, TreeHead)
    return head.head


@pytest.mark.parametrize("head", [NARROW, WIDE, replace(NARROW, n_outputs=3, intercept=np.zeros(3))])
def test_a_head_comes_back_as_it_was_published(warehouse: LocalWarehouse, head: TreeHead) -> None:
    published, written = publish_head(warehouse, head_of(head), FILE_A)

    loaded = load_head(warehouse, list_heads(warehouse, "credit")[0])

    found = tree_head(loaded)
    assert written
    assert found.values.tobytes() == head.values.tobytes()
    assert found.intercept.tobytes() == head.intercept.tobytes()
    assert found.output.tolist() == head.output.tolist()
    assert found.n_leaves.tolist() == head.n_leaves.tolist()
    assert found.combination == head.combination == published.combination
    assert (loaded.kind, loaded.link, loaded.party, loaded.metadata) == (
        Kind.LINEAR,
        Link("identity"),
        "bank",
        {"made": "now"},
    )


def test_a_file_published_again_changes_nothing_and_another_stands_beside_it(warehouse: LocalWarehouse) -> None:
    first, _ = publish_head(warehouse, head_of(), FILE_A)
    again, written = publish_head(warehouse, head_of(), FILE_A)
    second, _ = publish_head(warehouse, head_of(WIDE), FILE_B)

    assert again == first
    assert not written
    assert [each.head_sha256 for each in list_heads(warehouse)] == [second.head_sha256, first.head_sha256]


def test_the_same_head_of_another_file_has_another_digest_because_it_is_salted(warehouse: LocalWarehouse) -> None:
    first, _ = publish_head(warehouse, head_of(), FILE_A)
    second, _ = publish_head(warehouse, head_of(), FILE_B)

    assert first.head_sha256 != second.head_sha256


@pytest.mark.parametrize(
    "changes",
    [
        {"training_run": "run-2"},
        {"party": "shop"},
        {"link": Link("log")},
        {"head": replace(NARROW, values=NARROW.values + np.eye(6, 1))},
        {"head": replace(NARROW, intercept=np.array([-0.0, -1.0]))},
        {"head": replace(NARROW, structure_sha256="6" * 64)},
        {"head": replace(NARROW, output=np.array([1, 1, 0], dtype=np.int32))},
        {"head": replace(NARROW, n_leaves=np.array([2, 2, 2]))},
    ],
)
def test_every_part_of_a_head_is_in_its_digest(changes: dict[str, Any]) -> None:
    assert head_sha256(head_of(**changes), bytes(32)) != head_sha256(head_of(), bytes(32))


@pytest.mark.parametrize(
    "damage",
    [
        lambda rows: rows.slice(1),
        lambda rows: rows.slice(0, rows.num_rows - 1),
        lambda rows: pa.concat_tables([rows, rows.slice(2, 1)]),
        lambda rows: rows.set_column(3, "value", pa.array([1.5] * rows.num_rows)),
        lambda rows: rows.set_column(3, "value", pa.array([np.nan] * rows.num_rows)),
        lambda rows: rows.set_column(3, "value", pa.nulls(rows.num_rows, pa.float64())),
        lambda rows: rows.set_column(1, "leaf", pa.array([0] * rows.num_rows, pa.int32())),
        lambda rows: rows.slice(0, 0),
    ],
)
def test_damaged_rows_are_not_loaded_and_publishing_again_heals_them(warehouse: LocalWarehouse, damage: object) -> None:
    version, _ = publish_head(warehouse, head_of(), FILE_A)
    columns = [column.name for column in HEAD_LEAVES.columns]
    rows = warehouse.read(HEAD_LEAVES.name, columns, version.partition)
    warehouse.replace(HEAD_LEAVES.name, version.partition, damage(rows))  # type: ignore[operator]

    with pytest.raises(TableCorruptError, match=r"head .* of model credit in fp_head_leaves: .*convert the head"):
        load_head(warehouse, version)
    healed, written = publish_head(warehouse, head_of(), FILE_A)
    assert written
    assert healed.head_sha256 == version.head_sha256
    assert tree_head(load_head(warehouse, healed)).values.tobytes() == NARROW.values.tobytes()


def test_a_damaged_row_is_told(warehouse: LocalWarehouse) -> None:
    version, _ = publish_head(warehouse, head_of(), FILE_A)
    columns = [column.name for column in HEADS.columns]
    row = warehouse.read(HEADS.name, columns, version.partition)
    at = columns.index("combining")
    warehouse.replace(HEADS.name, version.partition, row.set_column(at, "combining", pa.array(["magic"])))

    with pytest.raises(TableCorruptError, match="damaged row for a head of credit"):
        list_heads(warehouse)


def test_deleted_heads_are_gone_and_those_of_other_models_stay(warehouse: LocalWarehouse) -> None:
    publish_head(warehouse, head_of(), FILE_A)
    publish_head(warehouse, head_of(WIDE), FILE_B)
    publish_head(warehouse, head_of(model_id="churn"), FILE_A)

    assert delete_heads(warehouse, "credit") == 2
    assert [each.model_id for each in list_heads(warehouse)] == ["churn"]
    assert set(warehouse.read(HEAD_LEAVES.name, ["model_id"], {}).column(0).to_pylist()) == {"churn"}
    assert delete_heads(warehouse, "nosuch") == 0
