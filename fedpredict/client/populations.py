"""Whose predictions an offline task is about: ids of the caller, in a list or a file, or ids that the initiator has."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from fedpredict.client.ids import SampleIdsLike, take_ids
from fedpredict.errors import EmptyRequestError, InputError
from fedpredict.model.ids import MAX_SAMPLE_ID_BYTES, check_name
from fedpredict.model.sample_ids import SampleIds
from fedpredict.wire.arrow_ids import holds_ids, ids_from_array
from fedpredict.wire.offline_arrow import CHUNK_BYTES, MAX_CHUNK_ROWS

_NO_LIMIT = 1 << 62
_BLOCK_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Standing:
    """A standing population of the initiator's, which its participants have accepted.

    Attributes:
        name: Its name.
        version: Its version; None: the newest that all participants have accepted, or, without one, the newest.
    """

    name: str
    version: int | None = None

    def __post_init__(self) -> None:
        """Raise `NameRefusedError` for a name that no population has."""
        check_name(self.name, "population")


@dataclass(frozen=True, slots=True)
class TableOf:
    """A table of the initiator's warehouse that its settings offer (`[tasks.tables.<name>]`).

    Attributes:
        name: The name that the settings give it.
    """

    name: str

    def __post_init__(self) -> None:
        """Raise `NameRefusedError` for a name that no table has."""
        check_name(self.name, "table")


@dataclass(frozen=True, slots=True)
class FileOf:
    """Sample ids in a CSV, Parquet or text file, which is read in pieces, however large it is.

    Attributes:
        path: The file; its name ends in .csv, .parquet, or .txt, which has an id on each line and nothing else.
        column: Which holds the ids; None: the only one, or `sample_id`.
    """

    path: Path
    column: str | None = None


Population: TypeAlias = "SampleIdsLike | Path | FileOf | Standing | TableOf"
"""A list as for `predict`; a file; or what the initiator has."""


def chunks_of(population: SampleIdsLike | Path | FileOf) -> Callable[[], Iterator[SampleIds]]:
    """Return what gives the ids of a list or file, from the beginning each time, in pieces that fit into messages.

    Raises:
        InputError: It is no list of ids, or no file that can be read; some of it only when the ids are taken.
        EmptyRequestError: A list without ids.
    """
    if isinstance(population, Path):
        population = FileOf(population)
    if isinstance(population, FileOf):
        file = population
        _check(file)
        return lambda: (piece for ids in _file_ids(file) for piece in pieces(ids))
    given = take_ids(population)
    if not len(given):
        raise EmptyRequestError("there are no sample ids to predict")
    return lambda: pieces(given.packed)


def some_of(population: SampleIdsLike | Path | FileOf) -> Callable[[], Iterator[SampleIds]]:
    """Return what `chunks_of` does, where there is anything: a file is read as far as its first ids.

    Raises:
        InputError: As `chunks_of` says.
        EmptyRequestError: There are no ids.
    """
    chunks = chunks_of(population)
    if next(chunks(), None) is None:
        path = population.path if isinstance(population, FileOf) else population
        raise EmptyRequestError(f"{path}: there is no sample id in the file")
    return chunks


def pieces(sample_ids: SampleIds) -> Iterator[SampleIds]:
    """Give ids in pieces of at most `MAX_CHUNK_ROWS`, and about `CHUNK_BYTES`.

    >>> [len(piece) for piece in pieces(SampleIds.of([b"u1"] * 70_000))]
    [65536, 4464]
    """
    start, n_ids = 0, len(sample_ids)
    while start < n_ids:
        fitting = int(np.searchsorted(sample_ids.offsets, int(sample_ids.offsets[start]) + CHUNK_BYTES, side="right"))
        stop = min(n_ids, start + MAX_CHUNK_ROWS, max(fitting - 1, start + 1))
        yield sample_ids.cut(start, stop)
        start = stop


def _check(file: FileOf) -> None:
    if file.path.suffix.lower() not in (".csv", ".parquet", ".txt"):
        raise InputError(f"{file.path}: a file of sample ids ends in .csv, .parquet or .txt")
    if file.path.suffix.lower() == ".txt" and file.column is not None:
        raise InputError(f"{file.path}: a text file has an id on each line, and no column {file.column!r}")
    if not file.path.is_file():
        raise InputError(f"{file.path}: there is no such file")


def _file_ids(file: FileOf) -> Iterator[SampleIds]:
    suffix = file.path.suffix.lower()
    try:
        if suffix == ".txt":
            yield from _lines(file)
            return
        for column in _csv_columns(file) if suffix == ".csv" else _parquet_columns(file):
            yield _ids(file, column)
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{file.path} cannot be read: {error}") from error


def _lines(file: FileOf) -> Iterator[SampleIds]:
    """Give the lines of a text file, without what ends them."""
    rest = b""
    with file.path.open("rb") as reader:
        while block := reader.read(_BLOCK_BYTES):
            *lines, rest = (rest + block).split(b"\n")
            rest = rest[: MAX_SAMPLE_ID_BYTES + 2]  # of what is too long for an id, as much as makes it too long
            yield SampleIds.of([line.removesuffix(b"\r") for line in lines])
    if rest:
        yield SampleIds.of([rest.removesuffix(b"\r")])


def _csv_columns(file: FileOf) -> Iterator[pa.Array]:
    with pa.csv.open_csv(file.path) as reader:
        name = _column(file, reader.schema.names)
    # as text, whatever it looks like: 007 is not 7
    convert = pa.csv.ConvertOptions(column_types={name: pa.string()}, include_columns=[name], strings_can_be_null=False)
    with pa.csv.open_csv(file.path, convert_options=convert) as reader:
        for batch in reader:
            yield batch.column(0)


def _parquet_columns(file: FileOf) -> Iterator[pa.Array]:
    with pa.parquet.ParquetFile(file.path) as reader:
        name = _column(file, reader.schema_arrow.names)
        for batch in reader.iter_batches(batch_size=MAX_CHUNK_ROWS, columns=[name]):
            yield batch.column(0)


def _column(file: FileOf, names: list[str]) -> str:
    wanted = file.column or (names[0] if len(names) == 1 else "sample_id")
    if names.count(wanted) != 1:
        raise InputError(f"{file.path} has no column {wanted!r}; it has {', '.join(names)}: name the one with the ids")
    return wanted


def _ids(file: FileOf, column: pa.Array) -> SampleIds:
    if pa.types.is_integer(column.type):
        column = column.cast(pa.string())
    if not holds_ids(column.type):
        raise InputError(
            f"{file.path}: the ids are {column.type}; sample ids are text: write them exactly as the parties' tables "
            "have them"
        )
    return ids_from_array(column, _NO_LIMIT)
