"""A table as a folder in Hive's layout: how files appear, who may write, which files a filter means.

```
root/fp_models/_schema.json                               columns and types, replaced as a whole
root/fp_models/.lock                                      held by the writer of the moment; a kill frees it
root/fp_models/.tmp-...                                   a file that is not finished; no reader looks at it
root/fp_models/model_id=credit/version=1/part-0.parquet   one partition
```

A file appears by one rename after it is safe on the disk, so readers need no lock. Hive and Spark pass over names that
start with `_` or `.`.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from errno import EACCES, EDQUOT, EFBIG, ENOSPC, EPERM, EROFS
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4

from fedpredict.errors import (
    FedPredictError,
    NameRefusedError,
    TableCorruptError,
    WarehouseUnavailableError,
    WarehouseWriteError,
)
from fedpredict.warehouse.base import (
    Column,
    ColumnType,
    Partition,
    TableSchema,
    check_identifier,
    check_partition,
    check_partition_values,
)

PART = "part-0.parquet"
SCHEMA = "_schema.json"
_LOCK = ".lock"
_TEMPORARY = ".tmp-"
_NUMBER = re.compile(r"-?[0-9]{1,19}")

_FULL = "free some space there and repeat"
_FORBIDDEN = "give this process permission to write there and repeat"
_FIXES = {ENOSPC: _FULL, EDQUOT: _FULL, EFBIG: _FULL, EACCES: _FORBIDDEN, EPERM: _FORBIDDEN, EROFS: _FORBIDDEN}


@dataclass(frozen=True, slots=True)
class PartitionFile:
    """One partition's file.

    Attributes:
        path: Where it is.
        values: Those that its folders are named by, in the order of the partition columns.
        stamp: What differs of two files that had this path, one after the other: inode, size and time of writing.
    """

    path: Path
    values: tuple[str | int, ...]
    stamp: tuple[int, int, int]


class TableFolder:
    """One table's folder; it need not exist yet."""

    def __init__(self, root: Path, table: str) -> None:
        self.table = check_identifier(table)
        self.path = root / table

    def schema(self) -> TableSchema | None:
        """Return the table's schema, or None where there is no such table.

        Raises:
            WarehouseUnavailableError: The folder of the warehouse is away or cannot be read.
            TableCorruptError: The schema file is damaged.
        """
        file = self.path / SCHEMA
        try:
            text = file.read_text(encoding="utf-8")
        except FileNotFoundError:
            _check_root(self.path.parent)
            return None
        except OSError as error:
            raise unreadable(self.path.parent, error) from error
        try:
            content = json.loads(text)
            columns, partitioned_by = (
                tuple(Column(entry["name"], ColumnType(entry["type"])) for entry in content[part])
                for part in ("columns", "partitioned_by")
            )
            return TableSchema(self.table, columns, partitioned_by)
        except (ValueError, KeyError, TypeError, NameRefusedError) as error:
            raise TableCorruptError(f"{file} is not a table's schema ({error}); restore it from a backup") from error

    def write_schema(self, schema: TableSchema) -> None:
        """Make `schema` the table's schema; the caller holds the lock."""
        content = {
            "format": 1,
            "columns": [{"name": column.name, "type": column.type.value} for column in schema.columns],
            "partitioned_by": [{"name": column.name, "type": column.type.value} for column in schema.partitioned_by],
        }
        text = json.dumps(content, indent=1).encode()
        self._appear(self.path / SCHEMA, lambda file: file.write(text))

    def write_partition(self, schema: TableSchema, partition: Partition, fill: Callable[[BinaryIO], int] | None) -> int:
        """Make what `fill` writes the partition's only file; the caller holds the lock.

        Args:
            schema: The table's.
            partition: A value for every partition column.
            fill: Writes the file and returns its number of rows; none remove the partition. None: there are none,
                so that nothing has to be written for that, which a full disk would refuse.

        Returns:
            The number of rows.

        Raises:
            WarehouseWriteError: Nothing became visible.
            WarehouseUnavailableError: The file is in place, but the disk did not confirm its name.
        """
        check_partition(schema, partition)
        _check_types(schema, partition)
        names = [f"{column.name}={partition[column.name]}" for column in schema.partitioned_by]
        target = self.path.joinpath(*names, PART)
        n_rows = 0 if fill is None else self._appear(target, fill)
        if n_rows == 0:
            self._vanish(target)
        return n_rows

    def files(self, schema: TableSchema, where: Partition) -> list[PartitionFile]:
        """Return the files of the partitions that match `where`, sorted; folders outside the filter are not opened.

        Raises:
            NameRefusedError: `where` names something that is no partition column, or holds an unusable value.
            WarehouseUnavailableError: The folder cannot be read.
        """
        check_partition_values(where)
        _check_types(schema, where)
        found: list[tuple[Path, tuple[str | int, ...]]] = [(self.path, ())]
        try:
            for column in schema.partitioned_by:
                found = [
                    (folder / f"{column.name}={value}", (*values, value))
                    for folder, values in found
                    for value in ([where[column.name]] if column.name in where else _values(folder, column))
                ]
        except OSError as error:
            raise unreadable(self.path.parent, error) from error
        stamped = ((folder / PART, values, _stamp(folder / PART)) for folder, values in found)
        return [PartitionFile(path, values, stamp) for path, values, stamp in stamped if stamp is not None]

    @contextmanager
    def locked(self, *, create: bool = False) -> Iterator[None]:
        """Hold the table's lock, waiting for it; with `create` the folder (and the warehouse's) is made first.

        Files that an interrupted writer left unfinished are removed: whoever holds the lock is the only writer.
        """
        with self._writing(self.path):
            if create:
                _make_root(self.path.parent)
                _make_folder(self.path)
            descriptor = os.open(self.path / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            with self._writing(self.path):
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                for file in self.path.iterdir():
                    if file.name.startswith(_TEMPORARY):
                        file.unlink()
            yield
        finally:
            os.close(descriptor)

    def remove_unfinished(self) -> None:
        """Remove files that an interrupted writer left; where there are any, one that is writing is waited for."""
        with self._writing(self.path):
            is_left = any(each.name.startswith(_TEMPORARY) for each in self.path.iterdir())
        if is_left:
            with self.locked():
                pass

    def _appear(self, target: Path, fill: Callable[[BinaryIO], int]) -> int:
        """Put the file in place, unless `fill` says that there is nothing in it, and return what it says."""
        temporary = self.path / f"{_TEMPORARY}{uuid4().hex}"
        try:
            with self._writing(target):
                with temporary.open("xb") as file:
                    size = fill(file)
                    if size == 0:
                        return 0
                    file.flush()
                    os.fsync(file.fileno())
                _make_folders(self.path, target.parent)
                temporary.replace(target)
        finally:
            with suppress(OSError):
                temporary.unlink()
        self._confirm(target.parent)
        return size

    def _vanish(self, target: Path) -> None:
        with self._writing(target):
            target.unlink(missing_ok=True)
        with suppress(OSError):  # a folder that another partition still needs stays
            for folder in [parent for parent in target.parents if parent.is_relative_to(self.path)][:-1]:
                folder.rmdir()
        existing = next(parent for parent in target.parents if parent.exists())
        self._confirm(existing)

    def _confirm(self, folder: Path) -> None:
        try:
            _sync(folder)
        except OSError as error:
            raise WarehouseUnavailableError(
                f"{folder}: the disk did not confirm a change ({error.strerror}); check the disk and repeat"
            ) from error

    @contextmanager
    def _writing(self, target: Path) -> Iterator[None]:
        try:
            yield
        except FedPredictError:
            raise
        except OSError as error:
            _check_root(self.path.parent)
            fix = _FIXES.get(error.errno or 0, "remove the cause and repeat")
            raise WarehouseWriteError(
                f"cannot write {target}: {error.strerror or error}; nothing of it became visible; {fix}"
            ) from error


def unreadable(root: Path, error: OSError) -> WarehouseUnavailableError:
    """Return the error for a warehouse whose files cannot be read now."""
    return WarehouseUnavailableError(
        f"warehouse {root} cannot be read: {error.strerror or error}; check that the disk is there and that this"
        " process may read it"
    )


def _check_root(root: Path) -> None:
    if not root.is_dir():
        raise WarehouseUnavailableError(
            f"warehouse folder {root} does not exist; mount the disk that holds it, or load features or convert a model"
            " to make a new one"
        )


def _make_root(root: Path) -> None:
    if not root.parent.is_dir():
        raise WarehouseUnavailableError(
            f"warehouse folder {root} cannot be made because {root.parent} does not exist; mount the disk, or make it"
        )
    _make_folder(root)


def _make_folders(top: Path, folder: Path) -> None:
    for parent in reversed([folder, *folder.parents]):
        if parent != top and parent.is_relative_to(top):
            _make_folder(parent)


def _make_folder(folder: Path) -> None:
    if not folder.is_dir():
        folder.mkdir(exist_ok=True)
        _sync(folder.parent)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _stamp(path: Path) -> tuple[int, int, int] | None:
    """Return a file's stamp; None where there is none."""
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def _values(folder: Path, column: Column) -> list[str | int]:
    prefix = f"{column.name}="
    try:
        names = sorted(entry.name for entry in os.scandir(folder) if entry.name.startswith(prefix))
    except FileNotFoundError:
        return []
    values = [name.removeprefix(prefix) for name in names]
    if column.type is ColumnType.STRING:
        return list(values)
    return sorted(int(value) for value in values if _NUMBER.fullmatch(value))


def _check_types(schema: TableSchema, partition: Partition) -> None:
    expected = {column.name: str if column.type is ColumnType.STRING else int for column in schema.partitioned_by}
    for name, value in partition.items():
        if name not in expected:
            raise NameRefusedError(f"table {schema.name} is not partitioned by {name}, but by {', '.join(expected)}")
        if type(value) is not expected[name]:
            raise NameRefusedError(f"{value!r} of partition column {schema.name}.{name} is not of its type")
