"""The online store in mapped files: one copy for all processes that share its folder (ADR 0010).

```
store/people.1.20261122T083000.000000Z.5f0c...e1.arrow   a snapshot of version 1 of view people
store/.people.1.lock                                     held while one of its files is made, opened or removed
store/.people.1.tmp-...                                  a file that is not finished; nobody maps it
```

A file appears by one rename after it is safe on the disk, and is never changed: a new snapshot is a new file, and the
one before is unlinked; who still maps it reads on until done. A lock is freed by the kernel when its process ends.
"""

from __future__ import annotations

import fcntl
import logging
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from errno import ENOTDIR
from pathlib import Path
from uuid import uuid4

import pyarrow as pa
from typing_extensions import override

from fedpredict.errors import StoreError, TableCorruptError
from fedpredict.features.build import prepare
from fedpredict.features.table import FeatureTable
from fedpredict.features.table_file import DIGEST_DIGITS, open_table, write_table
from fedpredict.features.table_store import TableStore
from fedpredict.observe.heap import give_back_memory
from fedpredict.tables.views import Snapshot

logger = logging.getLogger(__name__)

_NAME = re.compile(
    rf"(?P<view>[a-z][a-z0-9_]*)\.(?P<version>[0-9]{{1,9}})\.(?P<snapshot>[^.]+\.[^.]+)\."
    rf"(?P<digest>[0-9a-f]{{{DIGEST_DIGITS}}})\.arrow"
)
_OTHERS_MAY = 0o077


@dataclass(frozen=True, slots=True)
class _File:
    """A finished file, by its name."""

    path: Path
    view: str
    version: int
    snapshot: str
    digest: str


class MappedStore(TableStore):
    """Snapshots in a folder. Any number of processes of one party may share it; each looks up in its own mapping."""

    def __init__(self, folder: Path) -> None:
        """Point at the folder; it is made by the first snapshot.

        Args:
            folder: For this store alone: what is not of a view that is served is removed from it.
        """
        super().__init__()
        self._folder = folder.absolute()

    @property
    @override
    def held(self) -> frozenset[tuple[str, int]]:
        """The view versions that are served, or have a file."""
        return frozenset(self._tables) | {(each.view, each.version) for each in self._files()}

    @override
    def publish(self, snapshot: Snapshot, rows: pa.Table) -> None:
        """Write a new file, map it, and unlink those before."""
        with self._writing(snapshot.view.name, snapshot.view.version):
            self._write(snapshot, lambda: rows)
        give_back_memory()

    @override
    def serve(self, snapshot: Snapshot, read: Callable[[], pa.Table]) -> None:
        """Map the file that is there, else write one; a file that is damaged is told, removed and made again."""
        view, version = snapshot.view.name, snapshot.view.version
        with self._writing(view, version):
            for file in self._files_of(view, version):
                if file.snapshot == snapshot.snapshot and self._mapped(snapshot, file):
                    return
            self._write(snapshot, read)
        give_back_memory()

    @override
    def drop(self, view: str, view_version: int) -> None:
        """Let go of a view version and unlink its files; other processes that map them read on."""
        self._tables.pop((view, view_version), None)
        try:
            if self._folder.is_dir():
                with self._locked(view, view_version):
                    for file in self._files_of(view, view_version):
                        _unlink(file.path)
        except OSError as error:
            logger.warning("store.not_removed", extra={"view": view, "reason": str(error)})

    def _mapped(self, snapshot: Snapshot, file: _File) -> bool:
        try:
            self._install(open_table(file.path, snapshot, file.digest))
        except TableCorruptError as error:
            logger.warning("store.file_refused", extra={"view": file.view, "reason": str(error)})
            file.path.unlink()
            return False
        return True

    def _write(self, snapshot: Snapshot, read: Callable[[], pa.Table]) -> None:
        view = snapshot.view
        parts = prepare(snapshot, read())
        temporary = self._folder / f"{_temporary(view.name, view.version)}{uuid4().hex}"
        try:
            digest = write_table(temporary, parts)
            path = self._folder / f"{view.name}.{view.version}.{snapshot.snapshot}.{digest}.arrow"
            temporary.replace(path)
        finally:
            with suppress(OSError):
                temporary.unlink()
        _sync(self._folder)
        self._install(open_table(path, snapshot, None), keep=path)

    def _install(self, table: FeatureTable, keep: Path | None = None) -> None:
        """Serve a table, and unlink what is older: a process that lags behind must not remove a newer one's file."""
        snapshot = table.snapshot
        self._tables[snapshot.view.name, snapshot.view.version] = table
        for file in self._files_of(snapshot.view.name, snapshot.view.version):
            is_replaced = file.snapshot == snapshot.snapshot and keep is not None and file.path != keep
            if file.snapshot < snapshot.snapshot or is_replaced:
                _unlink(file.path)

    def _files_of(self, view: str, version: int) -> list[_File]:
        return [file for file in self._files() if (file.view, file.version) == (view, version)]

    def _files(self) -> list[_File]:
        try:
            names = sorted(path.name for path in self._folder.iterdir())
        except OSError:  # no folder, no files; whoever writes is told what is wrong
            return []
        matches = [match for name in names if (match := _NAME.fullmatch(name))]
        return [
            _File(self._folder / each[0], each["view"], int(each["version"]), each["snapshot"], each["digest"])
            for each in matches
        ]

    @contextmanager
    def _writing(self, view: str, version: int) -> Iterator[None]:
        try:
            _make_folder(self._folder)
            with self._locked(view, version):
                yield
        except OSError as error:
            told = error.strerror or str(error)
            raise StoreError(
                f"the features' store {self._folder} cannot be used: {told}; what was served is served on; free some "
                "space or correct the permissions there, and it is tried again"
            ) from error

    @contextmanager
    def _locked(self, view: str, version: int) -> Iterator[None]:
        """Hold the lock of a view version, and remove what a killed process left unfinished."""
        lock = self._folder / f".{view}.{version}.lock"
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            for left in self._folder.glob(f"{_temporary(view, version)}*"):
                _unlink(left)
            yield
        finally:
            os.close(descriptor)


def _temporary(view: str, version: int) -> str:
    return f".{view}.{version}.tmp-"


def _make_folder(folder: Path) -> None:
    for parent in reversed([folder, *folder.parents]):
        if not parent.exists():
            with suppress(FileExistsError):  # another process was faster
                parent.mkdir(mode=0o700)
    if not folder.is_dir():
        raise NotADirectoryError(ENOTDIR, os.strerror(ENOTDIR), str(folder))
    if folder.stat().st_mode & _OTHERS_MAY:
        raise StoreError(f"others may look into {folder}, which holds features: chmod 700 {folder}")


def _unlink(path: Path) -> None:
    path.unlink(missing_ok=True)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
