"""Networks as rows: back bit by bit, and refused where a row is not what was written."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import sqlglot

from fedpredict.errors import TableCorruptError
from fedpredict.model.activations import Activation
from fedpredict.model.kinds import Kind
from fedpredict.model.network import NetworkPart
from fedpredict.model.partial import PartialModel
from fedpredict.tables.digest import params_sha256
from fedpredict.tables.layer_rows import BLOCK
from fedpredict.tables.models import ModelVersion, delete_model, load_model, publish_model
from fedpredict.tables.network import network_to_rows
from fedpredict.tables.statements import partial_scores_query
from fedpredict.tables.views import FeatureView, ViewFeature, publish_snapshot, snapshot_name
from fedpredict.warehouse.base import ColumnType
from fedpredict.warehouse.local import LocalWarehouse
from tests.network_parts import dense, mixed_part, numeric_part

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)
SALT = bytes(32)


@pytest.fixture
def warehouse(tmp_path: Path) -> Iterator[LocalWarehouse]:
    opened = LocalWarehouse(tmp_path / "w")
    yield opened
    opened.close()


def view_of(part: NetworkPart) -> FeatureView:
    kinds = {name: ColumnType.STRING if name in part.categories else ColumnType.DOUBLE for name in part.features}
    return FeatureView("bank", 1, tuple(ViewFeature(name, name, kind) for name, kind in kinds.items()), "id", None)


def partial_of(part: NetworkPart) -> PartialModel:
    return PartialModel("m", "run", "lab", Kind.LINEAR, (), part.intercept is not None, part)


def publish(warehouse: LocalWarehouse, part: NetworkPart) -> ModelVersion:
    return publish_model(warehouse, partial_of(part), view_of(part), "5" * 64)[0]


ODD = numeric_part((3, 4, 2), ("leaky_relu", "softmax"), np.array([-0.0, 5e-324]))
PARTS = {
    "numbers": numeric_part((3, 4, 2), ("relu", "identity")),
    "odd numbers": replace(ODD, layers=(ODD.layers[0], replace(ODD.layers[1], bias=np.array([-0.0, 1e308])))),
    "categories": mixed_part(intercept=np.array([0.1, 0.2])),
    "no unknown": mixed_part(unknown=False),
    "wide": numeric_part((BLOCK + 1, 2 * BLOCK, 1), ("tanh", "identity")),
    "whole blocks": numeric_part((BLOCK, 2 * BLOCK, 1), ("tanh", "identity")),
}


@pytest.mark.parametrize("name", PARTS)
def test_a_network_comes_back_bit_by_bit(warehouse: LocalWarehouse, name: str) -> None:
    part = PARTS[name]

    version = publish(warehouse, part)
    found = load_model(warehouse, version).part

    assert isinstance(found, NetworkPart)
    assert (found.features, found.categories) == (part.features, part.categories)
    for ours, theirs in zip(found.layers, part.layers, strict=True):
        assert ours.weights.tobytes() == np.ascontiguousarray(theirs.weights).tobytes()
        assert ours.bias.tobytes() == theirs.bias.tobytes()
        assert (ours.activation, ours.slope) == (theirs.activation, theirs.slope)
    assert list(found.embeddings) == list(part.embeddings)
    for feature, embedding in part.embeddings.items():
        back = found.embeddings[feature]
        assert back.vectors.tobytes() == embedding.vectors.tobytes()
        assert (back.unknown is None) == (embedding.unknown is None)
    assert (found.intercept is None) == (part.intercept is None)
    assert version.engines == ("numpy", "duckdb", "spark", "hive")


@pytest.mark.parametrize(
    ("activations", "width", "is_offered"),
    [(["relu"] * 8, 2, True), (["relu"] * 9, 2, False), (["softmax"] * 3, 2, False), (["relu"] * 8, BLOCK + 1, False)],
)
def test_hive_is_offered_as_far_as_it_goes(
    warehouse: LocalWarehouse, activations: list[str], width: int, is_offered: bool
) -> None:
    part = numeric_part((width, *[2] * len(activations)), activations)

    engines = publish(warehouse, part).engines

    assert engines == ("numpy", "duckdb", "spark", *(["hive"] if is_offered else []))


@pytest.mark.parametrize(("width", "is_offered"), [(600, True), (601, False)])
def test_servers_are_not_offered_for_a_large_network(warehouse: LocalWarehouse, width: int, is_offered: bool) -> None:
    part = numeric_part((99, width, 1), ("relu", "identity"))  # 100 weights for each hidden unit

    engines = publish(warehouse, part).engines

    assert engines == ("numpy", "duckdb", *(["spark", "hive"] if is_offered else []))


def test_publishing_the_same_network_again_writes_nothing(warehouse: LocalWarehouse) -> None:
    part = mixed_part()
    publish(warehouse, part)

    assert publish_model(warehouse, partial_of(part), view_of(part), "5" * 64)[1] is False
    assert delete_model(warehouse, "m") == 1
    assert warehouse.read("fp_network_bank", ["unit"], {}).num_rows == 0
    assert warehouse.read("fp_embeddings_bank", ["place"], {}).num_rows == 0


def digest(part: NetworkPart) -> str:
    return params_sha256(partial_of(part), "bank", 1, SALT)


def test_the_digest_names_every_parameter() -> None:
    part = mixed_part(intercept=np.array([0.1, 0.2]))
    first, last = part.layers
    colour = part.embeddings["colour"]
    others = [
        replace(part, layers=(replace(first, weights=first.weights + 1e-15), last)),
        replace(part, layers=(first, replace(last, bias=last.bias * -1.0))),
        replace(part, layers=(replace(first, activation=Activation.GELU_TANH), last)),
        replace(part, layers=(replace(first, activation=Activation.LEAKY_RELU, slope=0.1), last)),
        replace(part, layers=(replace(first, activation=Activation.LEAKY_RELU, slope=0.2), last)),
        replace(part, intercept=np.array([0.1, 0.3])),
        replace(part, categories={"colour": ("red", "blue", "it's")}),
        replace(part, embeddings={**part.embeddings, "colour": replace(colour, unknown=None)}),
        replace(part, embeddings={**part.embeddings, "colour": replace(colour, vectors=colour.vectors + 1.0)}),
    ]

    assert len({digest(each) for each in (part, *others)}) == 1 + len(others)


def test_the_digest_does_not_depend_on_the_order_of_the_features() -> None:
    part = mixed_part()
    first = part.layers[0]
    order, rows = [3, 1, 0, 2], [6, 1, 2, 0, 3, 4, 5]
    turned = NetworkPart(
        tuple(part.features[at] for at in order),
        part.categories,
        part.embeddings,
        (replace(first, weights=first.weights[rows]), part.layers[1]),
        None,
    )
    sample = np.array([[0.5, 1.0, 3.0, 2.0]])

    assert turned.partial_scores(sample[:, order]) == pytest.approx(part.partial_scores(sample), rel=1e-15)
    assert digest(turned) == digest(part)


def _without_row(rows: pa.Table) -> pa.Table:
    return rows.slice(1)


def _twice(rows: pa.Table) -> pa.Table:
    return pa.concat_tables([rows, rows.slice(0, 1)])


def _with(column: str, value: object, at: int = 0) -> Callable[[pa.Table], pa.Table]:
    def change(rows: pa.Table) -> pa.Table:
        values = rows.column(column).to_pylist()
        values[at] = value
        place = rows.column_names.index(column)
        return rows.set_column(place, column, pa.array(values, rows.schema.field(column).type))

    return change


@pytest.mark.parametrize(
    ("table", "change", "message"),
    [
        (0, _without_row, "layer 0 has not its rows"),
        (0, _twice, "layer 0 has not its rows"),
        (0, _with("w_1", None), "NULL where a number should be"),
        (0, _with("w_1", float("nan")), "NaN or infinite"),
        (0, _with("w_127", 1.0), "NULL where a number should be"),
        (0, _with("bias", None), "NULL where a number should be"),
        (0, _with("activation", "relu"), "another activation than gelu"),
        (0, _with("slope", 0.5), "not one slope"),
        (0, _with("layer", 7), "layer 0 has not its rows"),
        (0, _with("unit", 4), "layer 0 has not its rows"),
        (0, _with("w_1", 0.5), "another digest"),
        (0, lambda rows: rows.filter(pc.greater_equal(rows.column("layer"), 0)), "the intercept has not its rows"),
        (1, _without_row, "feature 'colour' has not one vector of 2 numbers"),
        (1, _twice, "feature 'colour' has not one vector of 2 numbers"),
        (1, _with("category", "pink"), "feature 'colour' has not one vector"),
        (1, _with("place", 2), "feature 'colour' has not one vector"),
        (1, _with("value", None), "the embedding of 'colour' holds a NaN"),
        (1, _with("value", 0.5), "another digest"),
        (1, _with("feature", 0), "feature 'colour' has not one vector"),
    ],
)
def test_rows_that_are_not_what_was_written_are_refused(
    warehouse: LocalWarehouse, table: int, change: Callable[[pa.Table], pa.Table], message: str
) -> None:
    part = mixed_part(intercept=np.array([0.1, 0.2]))
    version = publish(warehouse, part)

    warehouse.replace(version.parameter_tables[table], version.partition, change(network_to_rows(part)[table]))

    with pytest.raises(TableCorruptError, match=message):
        load_model(warehouse, version)


@pytest.mark.parametrize("options", [{}, {"units": [5, 2], "activations": ["gelu"], "embeddings": {}}, {"units": 5}])
def test_options_that_describe_no_network_are_refused(warehouse: LocalWarehouse, options: dict[str, object]) -> None:
    version = publish(warehouse, mixed_part())

    with pytest.raises(TableCorruptError, match="convert the model again"):
        load_model(warehouse, dataclasses.replace(version, options=options))


@pytest.mark.parametrize("dialect", ["duckdb", "hive", "spark"])
@pytest.mark.parametrize("name", ["gelu", "softplus", "tanh", "softmax"])
def test_the_statement_holds_no_parameter(warehouse: LocalWarehouse, dialect: str, name: str) -> None:
    part = mixed_part(intercept=np.array([0.987654321, 0.111222333]))
    random = np.random.default_rng(0)
    part = replace(part, layers=(dense(random, 7, 5, name), dense(random, 5, 2)))
    version = publish(warehouse, part)
    rows = pa.table({"sample_id": ["x"], "event_time": pa.array([NOON], pa.timestamp("us", tz="UTC"))})
    for feature in part.features:
        rows = rows.append_column(feature, pa.array([None], pa.string() if feature == "colour" else pa.float64()))
    snapshot = publish_snapshot(warehouse, view_of(part), snapshot_name(NOON), rows)

    statement, params = partial_scores_query(version, snapshot)
    text = statement.sql(dialect=dialect, identify=True)

    numbers = {float(each) for each in re.findall(r"(?<![\w.])\d+\.\d+(?:e[+-]?\d+)?", text)}
    parameters = [part.intercept, *(each for layer in part.layers for each in (layer.weights, layer.bias))]
    parameters += [each.vectors for each in part.embeddings.values()]
    held = {abs(float(number)) for each in parameters if each is not None for number in np.ravel(each)}
    assert not numbers & held
    assert not any(text_ in text for text_ in ("red", "it's", "蓝"))
    assert set(params.values()) == {"m", version.params_sha256, 1, "20261122T120000.000000Z"}
    assert "QUALIFY" not in text
    assert sqlglot.parse_one(text, dialect=dialect) is not None
