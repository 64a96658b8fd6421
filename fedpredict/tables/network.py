"""A network part as rows: one for each unit and block of its weights, and one for each number of an embedding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from fedpredict.errors import FedPredictError, TableCorruptError
from fedpredict.model.activations import Activation
from fedpredict.model.arrays import Floats
from fedpredict.model.combination import Combination, Combining
from fedpredict.model.ids import check_view_name
from fedpredict.model.network import Embedding, NetworkPart
from fedpredict.tables.layer_rows import (
    BLOCK,
    LAYER_COLUMNS,
    LAYER_NAMES,
    finite_numbers,
    layer_digest_fields,
    layer_from_rows,
    layer_rows,
    n_blocks,
    rows_of,
    weights_from_rows,
)
from fedpredict.tables.numbers import canonical_numbers
from fedpredict.tables.schemas import PARAMETER_KEYS
from fedpredict.warehouse.base import Column, ColumnType, TableSchema

if TYPE_CHECKING:
    from fedpredict.tables.version import ModelVersion

INTERCEPT_LAYER = -1
"""The layer of the rows that hold the joint model's intercept."""
HIVE_STEPS = 8
"""Steps of a statement that Hive on Tez, with the 120 counters that it has by default, was seen to take."""
SERVER_WEIGHTS = 60_000
"""Weights up to which servers are offered: Spark was seen to score 1,000 rows in about a minute (ADR 0024)."""
_VECTOR_COLUMNS = ["feature", "category", "number", "place", "value"]


@dataclass(frozen=True, slots=True)
class Shape:
    """What of a network stands in the version's row: enough to write a statement for it, and no number of it.

    Attributes:
        units: The width of each layer.
        activations: And what is applied to its sums.
        embeddings: Feature -> the width of its vectors, and whether there is one for unknown categories.
        n_categories: Feature -> how many vectors it has besides.
        combination: What the part must have in common with a head; None where shares are added up.
    """

    units: tuple[int, ...]
    activations: tuple[Activation, ...]
    embeddings: dict[str, tuple[int, bool]]
    n_categories: dict[str, int]
    combination: Combination | None

    def n_inputs(self, features: Sequence[str]) -> int:
        """Return how many inputs the features give to the first layer."""
        return sum(self.embeddings[name][0] if name in self.embeddings else 1 for name in features)


def network_schemas(view: str, _: Sequence[Column]) -> tuple[TableSchema, TableSchema]:
    """Return the tables of weights and of embeddings of a view's networks; they do not depend on its features."""
    kinds = ColumnType
    vectors = map(Column, _VECTOR_COLUMNS, (kinds.INT, kinds.STRING, kinds.DOUBLE, kinds.INT, kinds.DOUBLE))
    return (
        TableSchema(f"fp_network_{check_view_name(view)}", LAYER_COLUMNS, PARAMETER_KEYS),
        TableSchema(f"fp_embeddings_{check_view_name(view)}", tuple(vectors), PARAMETER_KEYS),
    )


def network_columns(_: ModelVersion) -> tuple[list[str], list[str]]:
    """Return the columns of the two tables."""
    return list(LAYER_NAMES), list(_VECTOR_COLUMNS)


def network_options(part: NetworkPart) -> dict[str, object]:
    """Return a part's `Shape` as JSON values."""
    return {
        "units": [layer.n_units for layer in part.layers],
        "activations": [layer.activation.value for layer in part.layers],
        "embeddings": {
            name: {"width": each.width, "categories": len(each.vectors), "unknown": each.unknown is not None}
            for name, each in part.embeddings.items()
        },
        **_combination_options(part.combination),
    }


def _combination_options(combination: Combination | None) -> dict[str, object]:
    if combination is None:
        return {}
    return {
        "combining": combination.combining.value,
        "structure_sha256": combination.structure_sha256,
        "n_outputs": combination.n_outputs,
    }


def network_engines(part: NetworkPart, n_before: int = 0) -> tuple[str, ...]:
    """Return the engines that can compute a part: all of them, up to `SERVER_WEIGHTS`, and Hive up to `HIVE_STEPS`.

    A layer is a step of the statement; so are both windows of a softmax, the sum over several blocks, and the two
    look-ups of an embedding.

    Args:
        part: The network.
        n_before: Steps that the statement has before it comes to the network.

    >>> from fedpredict.model.dense import Dense
    >>> network_engines(NetworkPart(("a",), {}, {}, (Dense(np.ones((1, 1)), np.zeros(1)),) * 9, None))
    ('numpy', 'duckdb', 'spark')
    """
    softmaxes = sum(layer.activation is Activation.SOFTMAX for layer in part.layers)
    steps = (
        len(part.layers) + 2 * (softmaxes + len(part.embeddings)) + sum(layer.n_inputs > BLOCK for layer in part.layers)
    )
    if sum(layer.weights.size for layer in part.layers) > SERVER_WEIGHTS:
        return ("numpy", "duckdb")
    return ("numpy", "duckdb", "spark", "hive") if n_before + steps <= HIVE_STEPS else ("numpy", "duckdb", "spark")


def shape_of(version: ModelVersion) -> Shape:
    """Return the shape that a version's row says.

    Raises:
        TableCorruptError: It says none.
    """
    try:
        options: dict[str, Any] = dict(version.options)
        embeddings = options["embeddings"]
        return Shape(
            units=tuple(int(each) for each in options["units"]),
            activations=tuple(Activation(each) for each in options["activations"]),
            embeddings={name: (int(each["width"]), bool(each["unknown"])) for name, each in embeddings.items()},
            n_categories={name: int(each["categories"]) for name, each in embeddings.items()},
            combination=_combination(options) if "combining" in options else None,
        )
    except (KeyError, TypeError, ValueError, AttributeError, FedPredictError) as error:
        raise TableCorruptError(f"the options of the model's row do not describe a network: {error!r}") from error


def _combination(options: dict[str, Any]) -> Combination:
    return Combination(Combining(options["combining"]), options["structure_sha256"], int(options["n_outputs"]))


def network_to_rows(part: NetworkPart) -> tuple[pa.Table, pa.Table]:
    """Return the rows of both tables, as docs/tables.md says."""
    pieces = [layer_rows(number, layer) for number, layer in enumerate(part.layers)]
    if part.intercept is not None:
        pieces.append(rows_of(INTERCEPT_LAYER, np.empty((0, part.n_scores)), part.intercept, None, None))
    vectors = [_vector_rows(part, name) for name in part.embeddings]
    schema = network_schemas("any", ())[1].arrow_schema
    return pa.concat_tables(pieces), pa.concat_tables([schema.empty_table(), *vectors])


def _vector_rows(part: NetworkPart, name: str) -> pa.Table:
    """Return the vectors of a feature by category; for an unknown one, category and number are both NULL."""
    embedding = part.embeddings[name]
    count, width = embedding.vectors.shape
    vectors = [embedding.vectors] if embedding.unknown is None else [embedding.vectors, embedding.unknown[None, :]]
    extra = len(vectors) - 1
    texts = part.categories.get(name)
    categories: list[str | None] = [None] * count if texts is None else list(texts)
    numbers: list[float | None] = [float(each) for each in range(count)] if texts is None else [None] * count
    rows = np.repeat(np.arange(count + extra), width)
    return pa.table(
        {
            "feature": pa.array(np.full(len(rows), part.features.index(name)), pa.int32()),
            "category": pa.array([*categories, *[None] * extra], pa.string()).take(rows),
            "number": pa.array([*numbers, *[None] * extra], pa.float64()).take(rows),
            "place": pa.array(np.tile(np.arange(width), count + extra), pa.int32()),
            "value": pa.array(np.vstack(vectors).ravel(), pa.float64()),
        }
    )


def network_from_rows(tables: Sequence[pa.Table], version: ModelVersion) -> NetworkPart:
    """Return the part that `network_to_rows` wrote.

    Args:
        tables: The columns of both tables, in any order of rows.
        version: With the shape in its options.

    Raises:
        TableCorruptError: Rows are missing, repeated or more than the shape says, or hold a number that is none.
        ValueError: They do not fit together.
    """
    shape = shape_of(version)
    if len(shape.units) != len(shape.activations):
        raise TableCorruptError(f"{len(shape.units)} layers with {len(shape.activations)} activations")
    rows = _typed(tables[0], LAYER_NAMES, version.view, 0).sort_by(
        [("layer", "ascending"), ("unit", "ascending"), ("block", "ascending")]
    )
    widths = [shape.n_inputs(version.features), *shape.units]
    layers = tuple(
        layer_from_rows(rows, number, widths[number], widths[number + 1], activation)
        for number, activation in enumerate(shape.activations)
    )
    intercept = _intercept(rows, version)
    expected = sum(n_blocks(before) * after for before, after in zip(widths, shape.units, strict=False))
    if len(rows) != expected + (0 if intercept is None else len(intercept)):
        raise TableCorruptError(f"{len(rows)} parameter rows, where the layers of the network have {expected}")
    embeddings = _embeddings(tables[1], version, shape)
    return NetworkPart(version.features, version.categories, embeddings, layers, intercept, shape.combination)


def _typed(rows: pa.Table, columns: Sequence[str], view: str, table: int) -> pa.Table:
    """Return the rows in the types of the schema: a table that does not exist has none."""
    return rows.select(columns).cast(network_schemas(view, ())[table].arrow_schema)


def _intercept(rows: pa.Table, version: ModelVersion) -> Floats | None:
    own = rows.filter(pc.equal(rows.column("layer"), INTERCEPT_LAYER))
    if not version.holds_intercept and len(own):
        raise TableCorruptError("there is an intercept, but the model's row says that another party holds it")
    return weights_from_rows(own, "the intercept", 0, version.n_scores)[1] if version.holds_intercept else None


def _embeddings(rows: pa.Table, version: ModelVersion, shape: Shape) -> dict[str, Embedding]:
    rows = _typed(rows, _VECTOR_COLUMNS, version.view, 1)
    found = {name: _embedding(rows, name, version, shape) for name in shape.embeddings}
    if len(rows) != sum(each.vectors.size + (0 if each.unknown is None else each.width) for each in found.values()):
        raise TableCorruptError("there are vectors of a feature that has no embedding")
    return found


def _embedding(rows: pa.Table, name: str, version: ModelVersion, shape: Shape) -> Embedding:
    """Return the vectors of one feature; which category a row is of, and its place, must come out exactly once."""
    own = rows.filter(pc.equal(rows.column("feature"), version.features.index(name)))
    (width, has_unknown), count = shape.embeddings[name], shape.n_categories[name]
    texts = version.categories.get(name)
    column, keys = ("number", [float(each) for each in range(count)]) if texts is None else ("category", list(texts))
    position = {key: at for at, key in enumerate([*keys, None] if has_unknown else keys)}
    at = [position.get(key, -1) * width for key in own.column(column).to_pylist()]
    places = own.column("place").to_numpy(zero_copy_only=False)
    order = np.array(at, dtype=np.int64) + places
    if len(keys) != count or ((places < 0) | (places >= width)).any() or not _is_permutation(order, position, width):
        raise TableCorruptError(f"feature {name!a} has not one vector of {width} numbers for each of its categories")
    vectors = np.empty(len(position) * width)
    vectors[order] = finite_numbers(own.column("value"), np.zeros(len(own), dtype=bool), f"the embedding of {name!a}")
    table = vectors.reshape(-1, width)
    return Embedding(table[:count], table[count] if has_unknown else None)


def _is_permutation(order: NDArray[np.int64], position: dict[Any, int], width: int) -> bool:
    return np.array_equal(np.sort(order), np.arange(len(position) * width))


def network_digest_fields(part: NetworkPart) -> Iterator[bytes]:
    """Return the canonical bytes of the parameters.

    Features sorted by name, each with its texts, vectors and its weights of the first layer; then the number of layers,
    each one's activation, slope and bias, and from the second on its weights; then the intercept, and for a head what
    the part has in common with it.
    """
    starts = np.cumsum([0, *part.widths])
    for index in sorted(range(len(part.features)), key=lambda each: part.features[each]):
        name = part.features[index]
        yield name.encode()
        yield from _embedding_fields(part, name)
        yield canonical_numbers(part.layers[0].weights[starts[index] : starts[index + 1]])
    yield str(len(part.layers)).encode()
    for number, layer in enumerate(part.layers):
        yield from layer_digest_fields(layer)
        yield canonical_numbers(layer.weights) if number else b""
    yield b"" if part.intercept is None else canonical_numbers(part.intercept)
    if part.combination is not None:
        combination = part.combination
        yield from (combination.combining.value.encode(), combination.structure_sha256.encode())
        yield str(combination.n_outputs).encode()


def _embedding_fields(part: NetworkPart, name: str) -> Iterator[bytes]:
    """Return what the feature is, how many categories it has, which, and their vectors; of a mere number, just that."""
    embedding, texts = part.embeddings.get(name), part.categories.get(name)
    if embedding is None:
        yield b"number"
        return
    yield b"category" if texts is None else b"text"
    yield str(len(embedding.vectors)).encode()
    yield from (text.encode() for text in texts or ())
    yield canonical_numbers(embedding.vectors)
    yield b"" if embedding.unknown is None else canonical_numbers(embedding.unknown)
