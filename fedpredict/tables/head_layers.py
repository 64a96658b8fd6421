"""The head of split learning as rows: those of its layers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa

from fedpredict.errors import FedPredictError, TableCorruptError
from fedpredict.model.activations import Activation
from fedpredict.model.combination import Combining
from fedpredict.model.top_head import TopHead
from fedpredict.tables.head_version import HeadVersion
from fedpredict.tables.layer_rows import (
    LAYER_COLUMNS,
    LAYER_NAMES,
    layer_digest_fields,
    layer_from_rows,
    layer_rows,
    n_blocks,
)
from fedpredict.tables.numbers import canonical_numbers
from fedpredict.tables.schemas import HEAD_KEYS
from fedpredict.warehouse.base import TableSchema

HEAD_LAYERS = TableSchema("fp_head_layers", LAYER_COLUMNS, HEAD_KEYS)
"""The weights of a top model."""


def top_options(head: TopHead) -> dict[str, object]:
    """Return what stands in the head's row: whose embeddings go in, and the shape of the layers."""
    return {
        "parties": list(head.parties),
        "widths": list(head.widths),
        "units": [layer.n_units for layer in head.layers],
        "activations": [layer.activation.value for layer in head.layers],
    }


def top_digest_fields(head: TopHead) -> Iterator[bytes]:
    """Return the canonical bytes: parties and widths, then each layer."""
    yield str(len(head.parties)).encode()
    for party, width in zip(head.parties, head.widths, strict=True):
        yield from (party.encode(), str(width).encode())
    yield str(len(head.layers)).encode()
    for layer in head.layers:
        yield from layer_digest_fields(layer)
        yield canonical_numbers(layer.weights)


def top_to_rows(head: TopHead) -> pa.Table:
    """Return the rows of a head, without partition columns."""
    return pa.concat_tables([layer_rows(number, layer) for number, layer in enumerate(head.layers)])


def top_from_rows(rows: pa.Table, version: HeadVersion) -> TopHead:
    """Return the head that `top_to_rows` wrote.

    Args:
        rows: The columns `LAYER_COLUMNS`, in any order of rows.
        version: Which head it is.

    Raises:
        TableCorruptError: Rows are missing, repeat, or hold a NULL; or the options do not describe a top model.
        ValueError: They make no head.
    """
    try:
        options: dict[str, Any] = dict(version.options)
        parties, widths = tuple(map(str, options["parties"])), tuple(map(int, options["widths"]))
        units, activations = list(map(int, options["units"])), list(map(Activation, options["activations"]))
        n_inputs = widths[0] if version.combination.combining is Combining.TOP_SUM else sum(widths)
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise TableCorruptError(f"the options of the head's row do not describe a top model: {error!r}") from error
    before = [n_inputs, *units]
    expected = _n_rows(before, units)
    if len(rows) != expected or len(units) != len(activations):
        raise TableCorruptError(f"{len(rows)} rows of layers, where the top model has {expected}")
    ordered = (
        rows.select(LAYER_NAMES)
        .cast(HEAD_LAYERS.arrow_schema)
        .sort_by([(name, "ascending") for name in ("layer", "unit", "block")])
    )
    layers = tuple(
        layer_from_rows(ordered, number, before[number], width, activation)
        for number, (width, activation) in enumerate(zip(units, activations, strict=True))
    )
    try:
        return TopHead(version.combination.combining, version.combination.structure_sha256, parties, widths, layers)
    except FedPredictError as error:
        raise TableCorruptError(str(error)) from error


def _n_rows(before: Sequence[int], units: Sequence[int]) -> int:
    return sum(n_blocks(n_inputs) * n_units for n_inputs, n_units in zip(before, units, strict=False))
