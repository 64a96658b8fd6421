"""Lists of ids on their way from a user into the tables of populations, in bounded memory."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any

from fedpredict.errors import FieldError, TooManySamplesError
from fedpredict.model.offline import PopulationRef, Upload
from fedpredict.model.sample_ids import SampleIds
from fedpredict.model.standing import PopulationState
from fedpredict.scoring.populations import ingest
from fedpredict.tables.populations import list_versions, remove_versions
from fedpredict.warehouse.base import Warehouse

UPLOAD = "upload-"
"""What the populations of lists are named with."""
Read = Callable[[], Coroutine[Any, Any, SampleIds | None]]
"""Returns the next ids of an upload; None at its end."""


class Pace:
    """Reads from a sender that may be waited for, in all, for a grace and longer with every row that came.

    Without it, one that sends a row a minute would keep its place for ever. Only waiting counts, not what is done with
    the rows; whoever reads sees to it that a single wait ends.
    """

    def __init__(self, read: Read, *, grace_s: float, rows_per_s: float, clock: Callable[[], float]) -> None:
        """Prepare.

        Args:
            read: Waits for the sender.
            grace_s: Seconds that it may take whatever it sends.
            rows_per_s: Behind them, how many rows make a second more.
            clock: Seconds that only grow.
        """
        self._read = read
        self._grace_s = grace_s
        self._rows_per_s = rows_per_s
        self._clock = clock
        self._waited_s = 0.0
        self._rows = 0

    async def __call__(self) -> SampleIds | None:
        """Return the next ids, or None at the end; raise `FieldError` where the sender is too slow."""
        began = self._clock()
        ids = await self._read()
        self._waited_s += self._clock() - began
        self._rows += 0 if ids is None else len(ids)
        if self._waited_s <= self._grace_s + self._rows / self._rows_per_s:
            return ids
        pace = f"at least {self._rows_per_s:g} rows a second are expected after {self._grace_s:g} s"
        raise FieldError(
            f"an upload of which {self._rows} rows came in {self._waited_s:.0f} s",
            place="sample_ids",
            problem=f"came too slowly: {pace} (upload_rows_per_s and upload_grace_s of the initiator)",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Uploads:
    """Takes lists.

    Attributes:
        warehouse: The initiator's.
        owner: This initiator's party.
        max_rows: The most rows of one list.
        least_buckets: Into how many buckets a list is cut at least.
        grace_s, rows_per_s: How slowly a list may come, see `Pace`.
        clock: Seconds that only grow.
    """

    warehouse: Warehouse
    owner: str
    max_rows: int
    least_buckets: int = 1
    grace_s: float = 120.0
    rows_per_s: float = 1_000.0
    clock: Callable[[], float] = time.monotonic

    async def take(self, read: Read, caller: str, threads: Executor) -> Upload:
        """Store the ids that `read` gives, each once and none that is no sample id.

        Args:
            read: Called from this event loop, again only when there is room.
            caller: Who sends them.
            threads: Where they are sorted and written. A thread is held for as long as ids come.

        Cancelled, it ends when the thread has, and nothing of the list is left.

        Raises:
            EmptyRequestError: There are none.
            TooManySamplesError: There are more than `max_rows`.
            FieldError: They come too slowly.
            WarehouseError: As the warehouse says; nothing of the list is left.
        """
        loop = asyncio.get_running_loop()
        reading: asyncio.Task[Any] | None = None
        broken_off = False
        paced = Pace(read, grace_s=self.grace_s, rows_per_s=self.rows_per_s, clock=self.clock)

        async def next_ids() -> SampleIds | None:
            nonlocal reading
            reading = asyncio.current_task()
            ids = None if broken_off else await paced()
            if broken_off:  # what looks like the end of the list is none
                raise asyncio.CancelledError
            return ids

        def batches() -> Iterator[SampleIds]:
            while (ids := asyncio.run_coroutine_threadsafe(next_ids(), loop).result()) is not None:
                yield ids

        storing = loop.run_in_executor(threads, self.store, batches(), caller)
        try:
            return await asyncio.shield(storing)
        except asyncio.CancelledError:
            broken_off = True
            if reading is not None:
                reading.cancel()
            await asyncio.wait({storing})
            if not storing.cancelled() and storing.exception() is None:  # it was read to its end just before
                await loop.run_in_executor(threads, self._remove, storing.result())
            raise

    def _remove(self, upload: Upload) -> None:
        name = upload.population.name
        remove_versions(self.warehouse, list_versions(self.warehouse, owner=self.owner, population=name))

    def store(self, batches: Iterable[SampleIds], caller: str) -> Upload:
        """Store ids as a list of a new name; blocks. Errors are those of `take`."""
        upload_id = secrets.token_hex(16)
        name = f"{UPLOAD}{upload_id}"
        made = ingest(
            self.warehouse,
            self.owner,
            name,
            1,
            self._counted(batches),
            state=PopulationState.ACCEPTED,
            changed_by=caller,
            least_buckets=self.least_buckets,
        )
        return Upload(
            upload_id=upload_id,
            population=PopulationRef(owner=self.owner, name=name, version=1, is_standing=False),
            n_buckets=made.version.n_buckets,
            rows=made.rows,
            ids=made.version.n_ids,
            duplicates=made.duplicates,
            invalid=made.invalid,
            uploaded_by=caller,
            uploaded_at=made.version.created_at,
        )

    def _counted(self, batches: Iterable[SampleIds]) -> Iterator[SampleIds]:
        rows = 0
        for ids in batches:
            rows += len(ids)
            if rows > self.max_rows:
                raise TooManySamplesError(f"a list of more than {self.max_rows} rows", limit=self.max_rows)
            yield ids
