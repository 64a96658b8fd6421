"""Files of features -> columns as they stand in the file: CSV (all text) and Parquet (typed)."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from fedpredict.errors import FeatureFileError

_PARQUET_MAGIC = b"PAR1"
_RAGGED = re.compile(r"Row #(\d+): Expected (\d+) columns, got (\d+)")


@dataclass(frozen=True, slots=True, eq=False)
class FileColumns:
    """The content of a file.

    Attributes:
        columns: Column name -> values, in the order of the file. A CSV file's are text, or binary where a value is not
            UTF-8.
        n_rows: At least 1.
        typed: Whether the file says what type a column has (Parquet), or all is text (CSV).
    """

    columns: Mapping[str, pa.ChunkedArray]
    n_rows: int
    typed: bool


def read_columns(path: Path) -> FileColumns:
    """Return all columns of a CSV file (comma, a header, UTF-8) or a Parquet file; its first bytes tell which it is.

    The file is read into memory as a whole.

    Raises:
        FeatureFileError: It cannot be read, is empty or damaged, has a column twice, or rows of other lengths than the
            header. The message holds no value of the file.
    """
    try:
        with path.open("rb") as file:
            typed = file.read(len(_PARQUET_MAGIC)) == _PARQUET_MAGIC
        table = _read_parquet(path) if typed else _read_csv(path)
    except OSError as error:
        raise FeatureFileError(f"{path}: cannot be read: {error.strerror or error}") from error
    if not table.num_rows:
        raise FeatureFileError(f"{path}: has no rows")
    return FileColumns(dict(zip(table.column_names, table.columns, strict=True)), table.num_rows, typed)


def _read_parquet(path: Path) -> pa.Table:
    try:
        file = pa.parquet.ParquetFile(path)
        _refuse_repeated(path, file.schema_arrow.names)
        return file.read()
    except pa.ArrowInvalid as error:
        raise FeatureFileError(f"{path}: a damaged Parquet file") from error


def _read_csv(path: Path) -> pa.Table:
    names = _header(path)
    try:
        table = pa.csv.read_csv(
            path,
            # one thread, because only then does an error know its row
            read_options=pa.csv.ReadOptions(use_threads=False),
            parse_options=pa.csv.ParseOptions(newlines_in_values=True),
            convert_options=pa.csv.ConvertOptions(column_types=dict.fromkeys(names, pa.binary())),
        )
    except pa.ArrowInvalid as error:
        raise FeatureFileError(f"{path}: {_without_values(str(error))}") from error
    return pa.table([_decoded(column) for column in table.columns], names=table.column_names)


def _header(path: Path) -> list[str]:
    try:
        with path.open("rb") as file:
            names = next(csv.reader([file.readline().decode("utf-8-sig")]), [])
    except (UnicodeDecodeError, csv.Error) as error:
        raise FeatureFileError(f"{path}: neither Parquet nor CSV in UTF-8") from error
    if not names:
        raise FeatureFileError(f"{path}: is empty, or does not start with its column names")
    _refuse_repeated(path, names)
    return names


def _refuse_repeated(path: Path, names: list[str]) -> None:
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise FeatureFileError(f"{path}: columns named twice: {', '.join(map(repr, repeated))}; rename them")


def _without_values(message: str) -> str:
    ragged = _RAGGED.search(message)
    if ragged is None:
        return "not a CSV file that can be parsed; check its quotes"
    row, expected, got = (int(number) for number in ragged.groups())
    return f"data row {row - 1} has {got} fields, the header has {expected}"


def _decoded(column: pa.ChunkedArray) -> pa.ChunkedArray:
    try:
        return column.cast(pa.string())
    except pa.ArrowInvalid:
        return column
