"""The initiator's own features as callers have them: a table, or columns by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fedpredict.errors import InputError, InputsRefusedError
from fedpredict.model.arrays import Floats
from fedpredict.model.inputs import Inputs
from fedpredict.wire.arrow_codec import SAMPLE_ID
from fedpredict.wire.arrow_texts import holds_texts, texts_from_array

InputsLike: TypeAlias = "Mapping[str, Any] | pa.Table | Any"
"""Column name -> numbers or texts (list, numpy array, Series, pyarrow array), or a pandas, Polars or PyArrow table."""


def take_inputs(inputs: InputsLike, n_samples: int) -> Inputs:
    """Return features of `n_samples` samples; a missing value (None, NULL, NaN) is NaN.

    Raises:
        InputError: Not columns by name, not numbers or texts, a text that is too long, not one value for each sample,
            or the ids among them; it names the column.

    >>> take_inputs({"age": [41, None]}, 2).values.tolist()
    [[41.0], [nan]]
    >>> take_inputs({"job": ["baker", None]}, 2).texts
    {'job': ('baker',)}
    """
    columns = _columns(inputs)
    if not columns:
        raise InputError("inputs has no column; leave it out where the initiator looks the features up")
    # columns one after the other: they come as columns, and travel as columns or are laid out anew once
    values = np.empty((n_samples, len(columns)), order="F")
    texts: dict[str, tuple[str, ...]] = {}
    for number, (name, given) in enumerate(columns.items()):
        column = _column(name, given, n_samples)
        if holds_texts(column.type):
            values[:, number], texts[name] = _texts(name, column)
        else:
            values[:, number] = _numbers(name, column)
    return Inputs(tuple(columns), values, texts)


def _columns(inputs: InputsLike) -> dict[str, Any]:
    if not isinstance(inputs, Mapping):
        if not hasattr(inputs, "columns"):
            raise InputError(f"inputs is a {type(inputs).__name__}; pass columns by name, or a table")
        table = _table(inputs)
        if len(set(table.schema.names)) != table.num_columns:
            raise InputError("inputs has two columns of one name")
        inputs = dict(zip(table.schema.names, table.columns, strict=True))
    for name in inputs:
        if not isinstance(name, str):
            raise InputError(f"inputs has a column {name!r}; features are named by text")
    if SAMPLE_ID in inputs:
        raise InputError(f"inputs has a column {SAMPLE_ID!r}, which is no feature; leave it out, ids are sample_ids")
    return dict(inputs)


def _table(frame: Any) -> pa.Table | pa.RecordBatch:
    if isinstance(frame, pa.Table | pa.RecordBatch):
        return frame
    try:
        # what stands beside the columns of a pandas frame is no feature
        return pa.table(frame.reset_index(drop=True) if hasattr(frame, "reset_index") else frame)
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise InputError(f"inputs is a table that cannot be read: {error}") from error


def _column(name: str, values: Any, n_samples: int) -> pa.Array | pa.ChunkedArray:
    try:
        column = values if isinstance(values, pa.Array | pa.ChunkedArray) else _array(values)
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        raise InputError(f"inputs[{name!r}] is no column of numbers or of texts") from error
    if len(column) != n_samples:
        raise InputError(f"inputs[{name!r}] has {len(column)} values for {n_samples} sample ids")
    return column


def _numbers(name: str, column: pa.Array | pa.ChunkedArray) -> Any:
    kind = column.type
    if pa.types.is_boolean(kind) or pa.types.is_null(kind):
        column = pc.cast(column, pa.uint8())
    elif not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        raise InputError(f"inputs[{name!r}] holds {kind}; features are numbers or texts")
    numbers = pc.cast(column, pa.float64(), safe=False)
    return (numbers if isinstance(numbers, pa.ChunkedArray) else pa.chunked_array([numbers])).to_numpy()


def _texts(name: str, column: pa.Array | pa.ChunkedArray) -> tuple[Floats, tuple[str, ...]]:
    try:
        whole = pa.chunked_array([column]) if isinstance(column, pa.Array) else column
        return texts_from_array(name, whole.cast(pa.large_string()).combine_chunks())
    except InputsRefusedError as error:
        raise InputError(f"inputs[{name!r}] {error.problem}") from error
    except pa.ArrowException as error:
        raise InputError(f"inputs[{name!r}] holds what is no text") from error


def _array(values: Any) -> pa.Array:
    if isinstance(values, bytes | bytearray | str):
        raise TypeError("to Arrow bytes are numbers, and a text is a list of texts")
    return pa.array(values, from_pandas=True)
