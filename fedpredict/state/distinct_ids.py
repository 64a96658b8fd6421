"""How many distinct sample ids each caller asked about on a day: exact, for all processes of a party (ADR 0042).

An SQLite file for each caller and day of the UTC calendar holds keyed digests of the ids, and their number; what counts
an id also decides whether it may be, in one transaction that is safe on the disk before the answer leaves. Everything
here blocks, and may be called from any thread. The folder belongs on a disk of this machine.
"""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from fedpredict.errors import (
    CertificateError,
    ConfigError,
    DistinctIdsUnavailableError,
    DistinctIdsUsedUpError,
    StateError,
)
from fedpredict.model.ids import valid_sample_ids
from fedpredict.model.sample_ids import SampleIds
from fedpredict.security.files import flush_folder, open_secret
from fedpredict.state.distinct_digests import CallerDay, DayDigests, NewIds

if TYPE_CHECKING:
    from fedpredict.state.distinct_day import Day

logger = logging.getLogger(__name__)

KEY_FILE = "ids.key"
KEPT = timedelta(hours=1)
"""A day's files stay so long beyond its end: a question that began before is counted in them."""
LIST_IDS = 1_000
"""Lists of at least so many ids are remembered as wholes, so that asking again for one costs a single look."""
_SUFFIX = ".db"


class DistinctIds:
    """The counts of one party's callers."""

    def __init__(self, folder: Path, *, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        """Prepare; nothing is made or opened before an id is counted.

        Args:
            folder: The party's own.
            now: The clock.
        """
        self._folder = folder
        self._now = now
        self._lock = threading.Lock()
        self._days: dict[CallerDay, Day] = {}
        self._left: set[Path] = set()

    def today(self) -> date:
        """Return the day that a question which comes now counts on."""
        return self._now().astimezone(UTC).date()

    def look(self, who: CallerDay, sample_ids: SampleIds, limit: int, ids_sha256: str = "") -> NewIds | None:
        """Return what a question would add to its caller's day; None: nothing, and it may be answered as it is.

        Nothing is written. Ids that can name nobody do not count.

        Args:
            who: The caller, and the day that the question came.
            sample_ids: What it asks about; an id may come several times.
            limit: How many ids the caller may ask about on a day.
            ids_sha256: The digest of a list (`digest_of`), where it is known.

        Raises:
            DistinctIdsUsedUpError: With its ids the caller would have asked about more.
            DistinctIdsUnavailableError: Nothing can be counted.
        """
        with self._errors(who):
            day = self._day(who)
            is_list = bool(ids_sha256) and len(sample_ids) >= LIST_IDS
            list_digest = day.digests.of_list(ids_sha256) if is_list else b""
            if list_digest and day.has_list(list_digest):
                return None
            digests = day.digests.of_ids(sample_ids.select(valid_sample_ids(sample_ids)))
            n_new = day.n_new(digests, limit)
        return NewIds(digests, limit, list_digest) if n_new else None

    def count(self, who: CallerDay, questions: Sequence[NewIds]) -> list[DistinctIdsUsedUpError | None]:
        """Count the ids of some questions of a caller, in one transaction; they are safe when this returns.

        Each question is counted as a whole or not at all, in their order.

        Returns:
            For each of them None, or why it must not be answered.

        Raises:
            DistinctIdsUnavailableError: None of them could be counted.
        """
        with self._errors(who):
            return self._day(who).count(questions)

    def used(self, who: CallerDay) -> int:
        """Return how many ids were counted; 0 where nothing was yet.

        Raises:
            DistinctIdsUnavailableError: It cannot be read.
        """
        with self._errors(who):
            return self._day(who).used() if self._file(who).exists() else 0

    def erase(self, sample_id: bytes, *, keep: bool) -> list[CallerDay]:
        """Remove the digests of an id, and return where there were any; the counts stay as they are.

        Args:
            sample_id: The id.
            keep: Whether to remove nothing.

        Raises:
            DistinctIdsUnavailableError: A file cannot be used.
        """
        if not keep:
            self.prune()
        found, oldest = [], self._oldest()
        for who in (each for each in self.kept() if each.day >= oldest):
            with self._errors(who):
                if self._day(who).erase(sample_id, keep=keep):
                    found.append(who)
        return found

    def kept(self) -> list[CallerDay]:
        """Return the days of callers that files are kept of."""
        return [
            CallerDay(file.name.removesuffix(_SUFFIX), day)
            for day, folder in self._day_folders()
            for file in sorted(folder.glob(f"*{_SUFFIX}"))
        ]

    def prune(self) -> None:
        """Remove the files of days that ended more than `KEPT` ago; what cannot be removed is told in the log."""
        oldest = self._oldest()
        with self._lock:
            over = [self._days.pop(who) for who in tuple(self._days) if who.day < oldest]
        for each in over:
            each.close()
        for day, folder in self._day_folders():
            if day < oldest:
                self._remove(folder)

    def close(self) -> None:
        """Close every file; closing twice is harmless."""
        with self._lock:
            days, self._days = self._days, {}
        for each in days.values():
            each.close()

    def _remove(self, folder: Path) -> None:
        try:
            shutil.rmtree(folder)
        except FileNotFoundError:  # another process removes it, too
            return
        except OSError as error:
            if folder not in self._left:
                logger.warning("distinct_ids.not_removed", extra={"path": str(folder), "reason": str(error)})
            self._left.add(folder)

    def _oldest(self) -> date:
        return (self._now().astimezone(UTC) - KEPT).date()

    def _file(self, who: CallerDay) -> Path:
        return self._folder / who.day.isoformat() / f"{who.caller}{_SUFFIX}"

    def _day_folders(self) -> list[tuple[date, Path]]:
        found = []
        for folder in sorted(self._folder.glob("????-??-??")):
            try:
                found.append((date.fromisoformat(folder.name), folder))
            except ValueError:
                continue  # not ours
        return found

    def _day(self, who: CallerDay) -> Day:
        with self._lock:
            day = self._days.get(who)
            if day is None:
                if who.day < self._oldest():
                    raise StateError(f"{who.day} is over, and its files are removed")
                day = self._days[who] = self._open(who)
        return day

    def _open(self, who: CallerDay) -> Day:
        """Open a caller's day; of several processes one at a time, because the first one makes it."""
        # what a party without limits never needs
        from fedpredict.state.distinct_day import Day  # noqa: PLC0415

        file, key = self._file(who), self._folder / KEY_FILE
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _locked(self._folder / ".lock"):
            if file.exists() and not key.exists():
                raise StateError(f"{key}, the key that its ids were counted under, is gone: bring it back")
            day = Day(file, DayDigests(open_secret(key), who), who)
        # the file's own folder is SQLite's business
        flush_folder(self._folder)
        flush_folder(self._folder.parent)
        return day

    @contextmanager
    def _errors(self, who: CallerDay) -> Iterator[None]:
        try:
            yield
        except (OSError, StateError, ConfigError, CertificateError) as error:
            with self._lock:
                day = self._days.pop(who, None)  # opened anew by the next: perhaps it is as it should be then
            if day is not None:
                day.close()
            raise DistinctIdsUnavailableError(
                f"the sample ids of {who.caller} cannot be counted in {self._file(who)}: {error}; until they can, "
                "callers with distinct_ids_per_day are refused. Make room and see the rights of [distinct_ids] path; a "
                "damaged file may be moved away: then the count of that day begins anew"
            ) from error


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
