"""Files of sample ids, rows and results: CSV and Parquet."""

from __future__ import annotations

import difflib
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import cast

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from fedpredict.errors import FeatureFileError, InputError
from fedpredict.features.files import FileColumns, read_columns
from fedpredict.features.texts import codes_of
from fedpredict.features.values import to_feature
from fedpredict.model.arrays import Floats
from fedpredict.warehouse.base import ColumnType

_WRITERS: dict[str, Callable[[pa.Table, Path], None]] = {
    ".csv": pa.csv.write_csv,
    ".parquet": pa.parquet.write_table,
}


def read_ids(path: Path, column: str | None) -> list[str | bytes]:
    """Return the sample ids in a column of a CSV or Parquet file, in the order of its rows.

    Whole numbers become decimal text, as they do where features are loaded.

    Args:
        path: The file.
        column: The column's name; None where the file has only one.

    Raises:
        FeatureFileError: The file cannot be read.
        InputError: No such column, or it does not hold text; it says which there are.
    """
    file = read_columns(path)
    values = _column(file, path, column)
    if pa.types.is_integer(values.type):
        values = values.cast(pa.string())
    if not (pa.types.is_string(values.type) or pa.types.is_large_string(values.type) or _is_binary(values.type)):
        raise InputError(
            f"{path}: column {column or next(iter(file.columns))!r} holds {values.type}; sample ids are text: write it "
            "as text, exactly as the parties' tables have the ids"
        )
    if values.null_count:
        raise InputError(f"{path}: {values.null_count} rows have no sample id")
    return cast("list[str | bytes]", values.to_pylist())


def read_rows(
    path: Path, names: Sequence[str] | None = None, categories: Mapping[str, Sequence[str]] | None = None
) -> tuple[Floats, list[str]]:
    """Return features in a CSV or Parquet file as (rows, their names); rows of shape (n_rows, n_columns).

    Args:
        path: The file.
        names: The columns, in order; None for every column that holds numbers or is among `categories`.
        categories: For each column that is text, the texts that its codes are positions in, as `Part.categories`.

    Raises:
        FeatureFileError: The file cannot be read, lacks a column, or one of `names` holds something else.
    """
    file, texts = read_columns(path), categories or {}
    missing = [name for name in names or () if name not in file.columns]
    if missing:
        raise FeatureFileError(f"{path}: has no column {', '.join(map(repr, missing))}")
    columns: dict[str, Floats] = {}
    for name in names if names is not None else file.columns:
        known = texts.get(name)
        expected = ColumnType.STRING if known is not None else ColumnType.DOUBLE if names is not None else None
        values, kind = to_feature(file.columns[name], name, typed=file.typed, expected=expected)
        if known is not None:
            columns[name] = codes_of(values, known)
        elif kind is ColumnType.DOUBLE:
            columns[name] = np.asarray(values.to_numpy(), dtype=np.float64)
    if not columns and names is None:
        raise FeatureFileError(f"{path}: has no numeric column")
    return np.column_stack(list(columns.values())) if columns else np.zeros((0, 0)), list(columns)


def check_out(path: Path | None) -> None:
    """Raise `InputError` where results could not be written to `path`, before any work is done for them."""
    if path is None:
        return
    if path.suffix.lower() not in _WRITERS:
        raise InputError(f"{path}: results are written as {' or '.join(_WRITERS)}; name the file so")
    if not path.absolute().parent.is_dir():
        raise InputError(f"{path}: there is no folder {path.absolute().parent}")


def write_table(path: Path, table: pa.Table) -> None:
    """Write a table as CSV or Parquet, by the file's name; it appears whole, and replaces what was there.

    Raises:
        InputError: The file cannot be written.
    """
    check_out(path)
    try:
        descriptor, name = tempfile.mkstemp(dir=path.absolute().parent, prefix=f".{path.name}.")
        os.close(descriptor)
        temporary = Path(name)
        try:
            _WRITERS[path.suffix.lower()](table, temporary)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except (OSError, pa.ArrowInvalid) as error:
        raise InputError(f"{path}: cannot be written: {error}") from error


def _column(file: FileColumns, path: Path, name: str | None) -> pa.ChunkedArray:
    names = list(file.columns)
    if name is None and len(names) == 1:
        return file.columns[names[0]]
    if name is None:
        raise InputError(f"{path}: name the column of the sample ids with --id-column: {', '.join(names[:20])}")
    if name not in file.columns:
        near = difflib.get_close_matches(name, names, n=1) or names[:20]
        raise InputError(f"{path}: has no column {name!r}; there is {', '.join(map(repr, near))}")
    return file.columns[name]


def _is_binary(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))
