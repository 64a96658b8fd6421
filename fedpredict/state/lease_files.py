"""Leases as files of a folder, one for each, changed under the folder's lock.

```
root/.leases/.lock                              held while a lease is looked at and changed; a kill frees it
root/.leases/refresh:transactions:3.json        appears, and changes, by one rename
```

Ends are by the clocks of the machines that share the folder.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from typing_extensions import override

from fedpredict.errors import StateError
from fedpredict.state.leases import Lease, Leases, check_lease_name, held_by, lost


def _now() -> datetime:
    return datetime.now(UTC)


class FolderLeases(Leases):
    """Leases in a folder that any number of processes share."""

    def __init__(self, folder: Path, now: Callable[[], datetime] = _now) -> None:
        """Point at the folder, which is made by the first lease; what it is in must be there.

        Args:
            folder: For leases alone.
            now: This moment, with a time zone.
        """
        self._folder = folder.absolute()
        self._now = now

    @override
    def take(self, name: str, owner: str, for_s: float) -> Lease:
        """Write the lease's file, unless another owner's is there and has not ended."""
        file, now = self._file(name), self._now()
        with self._locked():
            there = self._read(file)
            if there is not None and there.until > now:
                raise held_by(there)
            turn = 0 if there is None else there.turn + 1
            return self._write(file, Lease(name, owner, now, now + timedelta(seconds=for_s), turn))

    @override
    def renew(self, lease: Lease, for_s: float) -> Lease:
        """Write the file anew, where it is the owner's."""
        file = self._file(lease.name)
        with self._locked():
            there = self._read(file)
            if there is None or there.owner != lease.owner:
                raise lost(lease)
            until = self._now() + timedelta(seconds=for_s)
            return self._write(file, Lease(lease.name, lease.owner, lease.since, until, lease.turn))

    @override
    def release(self, lease: Lease) -> None:
        """Remove the file, where it is the owner's."""
        file = self._file(lease.name)
        with self._locked():
            there = self._read(file)
            if there is not None and there.owner == lease.owner:
                file.unlink()

    @override
    def close(self) -> None:
        """Do nothing: no file stays open."""

    def _file(self, name: str) -> Path:
        return self._folder / f"{check_lease_name(name)}.json"

    @contextmanager
    def _locked(self) -> Iterator[None]:
        try:
            if not self._folder.parent.is_dir():
                raise StateError(f"{self._folder.parent} is not there, and the leases are kept in it")
            self._folder.mkdir(exist_ok=True)
            descriptor = os.open(self._folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                yield
            finally:
                os.close(descriptor)
        except OSError as error:
            raise StateError(
                f"the leases in {self._folder} cannot be used: {error.strerror or error}; free some space or correct "
                "the permissions there, and repeat"
            ) from error

    def _read(self, file: Path) -> Lease | None:
        try:
            found = json.loads(file.read_text(encoding="utf-8"))
            since, until = (datetime.fromisoformat(found[key]).astimezone(UTC) for key in ("since", "until"))
            return Lease(str(found["name"]), str(found["owner"]), since, until, int(found["turn"]))
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError) as error:
            raise StateError(f"{file} is no lease ({error}): remove it while nothing runs") from error

    def _write(self, file: Path, lease: Lease) -> Lease:
        content = {
            "name": lease.name,
            "owner": lease.owner,
            "since": lease.since.isoformat(),
            "until": lease.until.isoformat(),
            "turn": lease.turn,
        }
        temporary = file.with_name(f".{file.name}.tmp")  # whoever holds the lock is the only writer
        temporary.write_text(json.dumps(content), encoding="utf-8")
        temporary.replace(file)
        return lease
