"""Dense layers as rows: one for each unit and block of its weights; of a party's network, and of a top model."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from fedpredict.errors import TableCorruptError
from fedpredict.model.activations import Activation
from fedpredict.model.arrays import Bools, Floats
from fedpredict.model.dense import Dense
from fedpredict.tables.numbers import canonical_numbers
from fedpredict.warehouse.base import Column, ColumnType

BLOCK = 128
"""Weights in a row: engines multiply wide rows fast, and plan statements over more columns slowly (ADR 0024)."""

_WEIGHTS = [f"w_{place}" for place in range(BLOCK)]
LAYER_COLUMNS = (
    Column("layer", ColumnType.INT),
    Column("unit", ColumnType.INT),
    Column("block", ColumnType.INT),
    Column("bias", ColumnType.DOUBLE),
    Column("activation", ColumnType.STRING),
    Column("slope", ColumnType.DOUBLE),
    *(Column(name, ColumnType.DOUBLE) for name in _WEIGHTS),
)
LAYER_NAMES = [column.name for column in LAYER_COLUMNS]


def n_blocks(n_inputs: int) -> int:
    """Return how many rows the weights of one unit take."""
    return max(1, -(-n_inputs // BLOCK))


def layer_digest_fields(layer: Dense) -> Iterator[bytes]:
    """Return the canonical bytes of a layer's activation, slope and bias."""
    yield layer.activation.value.encode()
    yield canonical_numbers(np.array([layer.slope]))
    yield canonical_numbers(layer.bias)


def layer_rows(number: int, layer: Dense) -> pa.Table:
    """Return the rows of a layer, without partition columns."""
    slope = layer.slope if layer.activation is Activation.LEAKY_RELU else None
    return rows_of(number, layer.weights, layer.bias, layer.activation.value, slope)


def rows_of(layer: int, weights: Floats, bias: Floats, activation: str | None, slope: float | None) -> pa.Table:
    """Return the rows of a layer, unit by unit and block by block; the bias stands in a unit's first row."""
    n_inputs, n_units = weights.shape
    units, blocks, is_padding = _positions(n_inputs, n_units)
    padded = np.zeros((n_units, n_blocks(n_inputs) * BLOCK))
    padded[:, :n_inputs] = weights.T
    table = padded.reshape(-1, BLOCK)
    count = len(units)
    return pa.table(
        {
            "layer": pa.array(np.full(count, layer), pa.int32()),
            "unit": pa.array(units, pa.int32()),
            "block": pa.array(blocks, pa.int32()),
            "bias": pa.array(bias[units], pa.float64(), mask=blocks > 0),
            "activation": pa.array([activation] * count, pa.string()),
            "slope": pa.array([slope] * count, pa.float64()),
            **{
                name: pa.array(table[:, place].copy(), pa.float64(), mask=is_padding[:, place])
                for place, name in enumerate(_WEIGHTS)
            },
        }
    )


def _positions(n_inputs: int, n_units: int) -> tuple[NDArray[np.int64], NDArray[np.int64], Bools]:
    """Return unit and block of each row of a layer, and which of its places are behind the last input (n, `BLOCK`)."""
    count = n_blocks(n_inputs)
    blocks = np.tile(np.arange(count), n_units)
    return np.repeat(np.arange(n_units), count), blocks, blocks[:, None] * BLOCK + np.arange(BLOCK) >= n_inputs


def layer_from_rows(rows: pa.Table, number: int, n_inputs: int, n_units: int, activation: Activation) -> Dense:
    """Return the layer that `layer_rows` wrote.

    Args:
        rows: Of all layers, sorted by layer, unit and block, in the types of `LAYER_COLUMNS`.
        number: Which layer.
        n_inputs: The width of what goes in.
        n_units: The width of what comes out.
        activation: What is applied to the sums.

    Raises:
        TableCorruptError: Its rows are not those of such a layer.
        ValueError: They hold numbers that make none.
    """
    own = rows.filter(pc.equal(rows.column("layer"), number))
    weights, bias = weights_from_rows(own, f"layer {number}", n_inputs, n_units)
    if set(own.column("activation").to_pylist()) != {activation.value}:
        raise TableCorruptError(f"layer {number} has another activation than {activation}")
    slopes = set(own.column("slope").to_pylist())
    if len(slopes) != 1 or (None in slopes) == (activation is Activation.LEAKY_RELU):
        raise TableCorruptError(f"layer {number} has not one slope, or one too many")
    return Dense(weights, bias, activation, slopes.pop() or 0.0)


def weights_from_rows(own: pa.Table, what: str, n_inputs: int, n_units: int) -> tuple[Floats, Floats]:
    """Return weights (n_inputs, n_units) and bias (n_units,) of one layer's rows."""
    units, blocks, is_padding = _positions(n_inputs, n_units)
    if not (
        np.array_equal(own.column("unit").to_numpy(), units) and np.array_equal(own.column("block").to_numpy(), blocks)
    ):
        raise TableCorruptError(f"{what} has not its rows for each of {n_units} units with {n_inputs} inputs")
    found = np.column_stack(
        [finite_numbers(own.column(name), is_padding[:, at], what) for at, name in enumerate(_WEIGHTS)]
    )
    weights = found.reshape(n_units, -1)[:, :n_inputs].T
    return np.ascontiguousarray(weights), finite_numbers(own.column("bias"), blocks > 0, what)[blocks == 0]


def finite_numbers(column: pa.ChunkedArray, is_padding: Bools, what: str) -> Floats:
    """Return the numbers of a column, which must be NULL where there is padding, and finite everywhere else."""
    is_null = column.is_null().to_numpy()
    numbers = np.asarray(column.fill_null(0.0).to_numpy(), dtype=np.float64)
    if not np.array_equal(is_null, is_padding) or not np.isfinite(numbers).all():
        raise TableCorruptError(f"{what} holds a NaN or infinite number, or NULL where a number should be")
    return numbers
