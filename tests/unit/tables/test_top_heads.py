"""Top models in the initiator's tables, and parts that go into them in a party's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from fedpredict.errors import TableCorruptError
from fedpredict.model.activations import Activation
from fedpredict.model.combination import Combining, structure_of
from fedpredict.model.dense import Dense
from fedpredict.model.head import HeadModel
from fedpredict.model.kinds import Kind
from fedpredict.model.links import Link
from fedpredict.model.network import NetworkPart
from fedpredict.model.partial import PartialModel
from fedpredict.model.step import Step, StepKind
from fedpredict.model.steps import StepsPart
from fedpredict.model.top_head import TopHead
from fedpredict.tables.digest import params_sha256
from fedpredict.tables.head_layers import HEAD_LAYERS
from fedpredict.tables.heads import delete_heads, head_sha256, list_heads, load_head, publish_head
from fedpredict.tables.models import list_versions, load_model, publish_model
from fedpredict.tables.schemas import HEADS
from fedpredict.tables.views import FeatureView, ViewFeature
from fedpredict.warehouse.base import ColumnType
from fedpredict.warehouse.local import LocalWarehouse
from tests.network_parts import chain

FILE = "a" * 64
STRUCTURE = structure_of(Combining.TOP_CONCAT, "joint")
RANDOM = np.random.default_rng(5)
CONCAT = TopHead(
    Combining.TOP_CONCAT,
    STRUCTURE,
    ("shop", "lab"),
    (150, 2),
    (*chain(RANDOM, (152, 3), ("leaky_relu",)), Dense(np.array([[0.1], [-0.0], [5e-324]]), np.array([1 / 3]))),
)
SUM = TopHead(Combining.TOP_SUM, STRUCTURE, ("lab", "shop"), (2, 2), chain(RANDOM, (2, 4, 2), ("gelu", "identity")))


def head_of(head: TopHead, **changes: Any) -> HeadModel:
    made = HeadModel("credit", "run-1", "bank", Kind.LINEAR, (), Link("identity"), head, {"made": "now"})
    return replace(made, **changes)


def top_of(head: HeadModel) -> TopHead:
    assert isinstance(head.head, TopHead)
    return head.head


@pytest.fixture
def warehouse(tmp_path: Path) -> LocalWarehouse:
    return LocalWarehouse(tmp_path)


@pytest.mark.parametrize("head", [CONCAT, SUM])
def test_a_head_comes_back_as_it_was_published(warehouse: LocalWarehouse, head: TopHead) -> None:
    published, written = publish_head(warehouse, head_of(head), FILE)
    again, written_again = publish_head(warehouse, head_of(head), FILE)

    loaded = load_head(warehouse, list_heads(warehouse, "credit")[0])
    found = top_of(loaded)
    assert (written, written_again, again) == (True, False, published)
    assert (found.parties, found.widths, found.combination) == (head.parties, head.widths, head.combination)
    for mine, theirs in zip(found.layers, head.layers, strict=True):
        assert mine.weights.tobytes() == np.ascontiguousarray(theirs.weights).tobytes()
        assert mine.bias.tobytes() == theirs.bias.tobytes()
        assert (mine.activation, mine.slope) == (theirs.activation, theirs.slope)
    assert loaded.metadata == {"made": "now"}


@pytest.mark.parametrize(
    "changes",
    [
        {"parties": ("lab", "shop")},
        {"widths": (2, 150)},
        {"structure_sha256": "6" * 64},
        {"combining": Combining.TOP_SUM, "widths": (152, 152)},
        {"layers": (replace(CONCAT.layers[0], activation=Activation.RELU, slope=0.0), CONCAT.layers[1])},
        {"layers": (replace(CONCAT.layers[0], slope=0.5), CONCAT.layers[1])},
        {"layers": (CONCAT.layers[0], replace(CONCAT.layers[1], weights=np.array([[0.1], [0.0], [5e-324]])))},
        {"layers": (CONCAT.layers[0], replace(CONCAT.layers[1], bias=np.array([0.0])))},
        {"layers": (*CONCAT.layers, Dense(np.eye(1), np.zeros(1)))},
    ],
)
def test_every_part_of_a_head_is_in_its_digest(changes: dict[str, Any]) -> None:
    digest = head_sha256(head_of(CONCAT), bytes(32))

    assert head_sha256(head_of(replace(CONCAT, **changes)), bytes(32)) != digest


def _changed(name: str, values: Callable[[int], list[Any]]) -> Callable[[pa.Table], pa.Table]:
    def change(rows: pa.Table) -> pa.Table:
        at = rows.schema.get_field_index(name)
        return rows.set_column(at, name, pa.array(values(rows.num_rows), rows.schema.field(name).type))

    return change


@pytest.mark.parametrize(
    "damage",
    [
        lambda rows: rows.slice(1),
        lambda rows: rows.slice(0, 0),
        lambda rows: pa.concat_tables([rows, rows.slice(2, 1)]),
        lambda rows: pa.concat_tables([rows.slice(1), rows.slice(2, 1)]),
        _changed("w_0", lambda count: [1.5] * count),
        _changed("w_0", lambda count: [float("nan")] * count),
        _changed("w_0", lambda count: [None] * count),
        _changed("bias", lambda count: [float("inf")] * count),
        _changed("activation", lambda count: ["relu"] * count),
        _changed("slope", lambda count: [None] * count),
        _changed("unit", lambda count: [0] * count),
        _changed("layer", lambda count: [0] * count),
    ],
)
def test_damaged_rows_are_not_loaded_and_publishing_again_heals_them(warehouse: LocalWarehouse, damage: object) -> None:
    version, _ = publish_head(warehouse, head_of(CONCAT), FILE)
    columns = [column.name for column in HEAD_LAYERS.columns]
    rows = warehouse.read(HEAD_LAYERS.name, columns, version.partition)
    warehouse.replace(HEAD_LAYERS.name, version.partition, damage(rows))  # type: ignore[operator]

    with pytest.raises(TableCorruptError, match=r"head .* of model credit in fp_head_layers: .*convert the head"):
        load_head(warehouse, version)
    healed, written = publish_head(warehouse, head_of(CONCAT), FILE)
    assert written
    assert top_of(load_head(warehouse, healed)).layers[0].weights.tobytes() == CONCAT.layers[0].weights.tobytes()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"widths"', '"width"'),
        ("[150, 2]", "[2, 150]"),
        ("[150, 2]", "[]"),
        ("[150, 2]", "[150]"),
        ('"leaky_relu"', '"magic"'),
        ('["leaky_relu", "identity"]', '["leaky_relu"]'),
        ('["shop", "lab"]', '["lab", "shop"]'),
        ('["shop", "lab"]', '["shop", "no party"]'),
        ('["shop", "lab"]', "[]"),
        ('"units": [3, 1]', '"units": [3, 2]'),
        ('"units": [3, 1]', '"units": 3'),
    ],
)
def test_a_damaged_row_of_the_head_is_not_loaded(warehouse: LocalWarehouse, old: str, new: str) -> None:
    version, _ = publish_head(warehouse, head_of(CONCAT), FILE)
    columns = [column.name for column in HEADS.columns]
    row = warehouse.read(HEADS.name, columns, version.partition)
    options = row.column("options")[0].as_py()
    assert old in options
    at = columns.index("options")
    damaged = row.set_column(at, "options", pa.array([options.replace(old, new)]))
    warehouse.replace(HEADS.name, version.partition, damaged)

    with pytest.raises(TableCorruptError, match="convert the head again"):
        load_head(warehouse, list_heads(warehouse)[0])


def test_deleted_heads_are_gone(warehouse: LocalWarehouse) -> None:
    publish_head(warehouse, head_of(CONCAT), FILE)
    publish_head(warehouse, head_of(SUM, model_id="churn"), FILE)

    assert delete_heads(warehouse, "credit") == 1
    assert [each.model_id for each in list_heads(warehouse)] == ["churn"]
    assert set(warehouse.read(HEAD_LAYERS.name, ["model_id"], {}).column(0).to_pylist()) == {"churn"}


NETWORK = NetworkPart(("a", "b"), {}, {}, chain(RANDOM, (2, 3), ("tanh",)), None, CONCAT.combination)
STEPS = StepsPart(
    ("a", "b"),
    {},
    (Step(StepKind.SCALE, ("a",), ("c",), {"add": np.ones((1, 1))}, {}),),
    replace(NETWORK, features=("c", "b")),
)


@pytest.mark.parametrize("part", [NETWORK, STEPS])
def test_a_part_comes_back_with_what_it_has_in_common_with_the_head(
    warehouse: LocalWarehouse, part: NetworkPart | StepsPart
) -> None:
    view = FeatureView("v", 1, tuple(ViewFeature(name, name, ColumnType.DOUBLE) for name in "ab"), "id", "seen")
    partial = PartialModel("credit", "run-1", "lab", Kind.BINARY, ("no", "yes"), False, part)
    publish_model(warehouse, partial, view, FILE)

    version = list_versions(warehouse)[0]
    loaded = load_model(warehouse, version)
    assert isinstance(loaded.part, NetworkPart | StepsPart)
    assert loaded.part.combination == CONCAT.combination
    assert (version.n_scores, version.n_outputs) == (3, 1)


def test_a_head_is_in_the_digest_of_a_part_and_only_of_such_a_part() -> None:
    def digest(part: NetworkPart) -> str:
        partial = PartialModel("credit", "run-1", "lab", Kind.LINEAR, (), False, part)
        return params_sha256(partial, "v", 1, bytes(32))

    combination = CONCAT.combination
    parts = [
        NETWORK,
        replace(NETWORK, combination=None),
        replace(NETWORK, combination=replace(combination, combining=Combining.TOP_SUM)),
        replace(NETWORK, combination=replace(combination, structure_sha256="6" * 64)),
        replace(NETWORK, combination=replace(combination, n_outputs=2)),
    ]

    assert len({digest(part) for part in parts}) == len(parts)
