"""A linear part as rows: one row per output, one column per weight."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pyarrow as pa

from fedpredict.errors import TableCorruptError
from fedpredict.model.arrays import Floats
from fedpredict.model.linear import LinearPart
from fedpredict.tables.names import column_names
from fedpredict.tables.numbers import canonical_numbers
from fedpredict.tables.schemas import weight_column


def weight_columns(features: Sequence[str]) -> list[str]:
    """Return the weight columns of features (by original name), in their order."""
    return [weight_column(column) for column in column_names(features).values()]


def linear_columns(features: Sequence[str]) -> list[str]:
    """Return the columns of a parameter table that make up a part with these features."""
    return ["output", "intercept", "constant", *weight_columns(features)]


def part_to_rows(part: LinearPart) -> pa.Table:
    """Return the rows of a part: output, intercept (NULL where another party holds it), constant, weights."""
    intercept = pa.nulls(part.n_scores, pa.float64()) if part.intercept is None else _column(part.intercept)
    columns = {
        "output": pa.array(np.arange(part.n_scores), pa.int32()),
        "intercept": intercept,
        "constant": _column(part.constant),
        **{name: _column(part.weights[row]) for row, name in enumerate(weight_columns(part.features))},
    }
    return pa.table(columns)


def part_from_rows(
    rows: pa.Table, features: Sequence[str], n_scores: int, *, holds_intercept: bool, exposure: str | None = None
) -> LinearPart:
    """Return the part that `part_to_rows` wrote.

    Args:
        rows: The columns of `linear_columns(features)`, in any order of rows.
        features: Original names, in the order wanted.
        n_scores: Rows that there must be.
        holds_intercept: Whether the intercepts must be numbers, or must be NULL.
        exposure: Which of the features enters by its logarithm.

    Raises:
        TableCorruptError: Rows are missing, repeated, or hold a NULL, NaN or infinite number.
    """
    rows = rows.sort_by("output")
    if rows.column("output").to_pylist() != list(range(n_scores)):
        raise TableCorruptError(
            f"{rows.num_rows} parameter rows, where there must be one for each of {n_scores} outputs"
        )
    weights = [_vector(rows, name) for name in weight_columns(features)]
    intercept = rows.column("intercept")
    if not holds_intercept and intercept.null_count != n_scores:
        raise TableCorruptError("there is an intercept, but the model's row says that another party holds it")
    return LinearPart(
        tuple(features),
        np.array(weights, dtype=np.float64).reshape(len(weights), n_scores),
        _vector(rows, "intercept") if holds_intercept else None,
        _vector(rows, "constant"),
        exposure,
    )


def _column(numbers: Floats) -> pa.Array:
    return pa.array(np.ascontiguousarray(numbers, dtype=np.float64))


def _vector(rows: pa.Table, name: str) -> Floats:
    column = rows.column(name)
    numbers = column.to_numpy().astype(np.float64, copy=False)
    if column.null_count or not np.isfinite(numbers).all():
        raise TableCorruptError(f"column {name} holds a NULL, NaN or infinite number")
    return np.asarray(numbers, dtype=np.float64)


def linear_options(part: LinearPart) -> dict[str, object]:
    """Return what of a part stands in the version's row; nothing for a part without an exposure."""
    return {} if part.exposure is None else {"exposure": part.exposure}


def exposure_of(options: Mapping[str, object]) -> str | None:
    """Return the exposure that `linear_options` wrote; raise `TableCorruptError` where it is no name."""
    exposure = options.get("exposure")
    if exposure is not None and not isinstance(exposure, str):
        raise TableCorruptError("the exposure in the options of the model's row is no name")
    return exposure


def linear_digest_fields(part: LinearPart) -> Iterator[bytes]:
    """Return the canonical bytes of the parameters, features sorted by name."""
    for index in sorted(range(len(part.features)), key=lambda each: part.features[each]):
        yield part.features[index].encode()
        yield canonical_numbers(part.weights[index])
    yield b"" if part.intercept is None else canonical_numbers(part.intercept)
    yield canonical_numbers(part.constant)
    if part.exposure is not None:
        yield from (b"exposure", part.exposure.encode())
