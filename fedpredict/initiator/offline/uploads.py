"""Lists of ids on their way from a user into the tables of populations, in bounded memory."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np

from fedpredict.errors import EmptyRequestError, TooManySamplesError
from fedpredict.model.buckets import buckets_of
from fedpredict.model.ids import valid_sample_ids
from fedpredict.model.offline import PopulationRef, Upload
from fedpredict.model.populations import buckets_for, in_order
from fedpredict.model.sample_ids import SampleIds
from fedpredict.tables.populations import (
    PopulationState,
    PopulationVersion,
    ensure_tables,
    remove_versions,
    write_bucket,
    write_version,
)
from fedpredict.warehouse.base import Warehouse

UPLOAD = "upload-"
"""What the populations of lists are named with."""
Read = Callable[[], Coroutine[Any, Any, SampleIds | None]]
"""Returns the next ids of an upload; None at its end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Uploads:
    """Takes lists.

    Attributes:
        warehouse: The initiator's.
        owner: This initiator's party.
        max_rows: The most rows of one list.
    """

    warehouse: Warehouse
    owner: str
    max_rows: int

    async def take(self, read: Read, caller: str) -> Upload:
        """Store the ids that `read` gives, each once and none that is no sample id.

        Args:
            read: Called from this event loop, again only when there is room.
            caller: Who sends them.

        Raises:
            EmptyRequestError: There are none.
            TooManySamplesError: There are more than `max_rows`.
            WarehouseError: As the warehouse says; nothing of the list is left.
        """
        loop = asyncio.get_running_loop()

        def batches() -> Iterator[SampleIds]:
            rows = 0
            while (ids := asyncio.run_coroutine_threadsafe(read(), loop).result()) is not None:
                rows += len(ids)
                if rows > self.max_rows:
                    raise TooManySamplesError(f"a list of more than {self.max_rows} rows", limit=self.max_rows)
                yield ids

        return await asyncio.to_thread(self.store, secrets.token_hex(16), batches(), caller)

    def store(self, upload_id: str, batches: Iterator[SampleIds], caller: str) -> Upload:
        """Store ids as the list of that name; blocks. Errors are those of `take`."""
        ensure_tables(self.warehouse)
        name, now = f"{UPLOAD}{upload_id}", datetime.now(UTC)
        given = SampleIds.concat([SampleIds.of(()), *batches])
        valid = valid_sample_ids(given)
        ids = in_order(given.select(valid))
        n_buckets = buckets_for(len(ids), len(ids.data))
        cuts: list[int] = (np.flatnonzero(np.diff(buckets_of(ids, n_buckets))) + 1).tolist() if len(ids) else []
        parts = {
            int(buckets_of([part[0]], n_buckets)[0]): part
            for start, stop in zip([0, *cuts], [*cuts, len(ids)], strict=True)
            if len(part := ids.cut(start, stop))
        }
        digests = [
            write_bucket(self.warehouse, self.owner, name, bucket, parts.get(bucket, SampleIds.of(())))
            for bucket in range(n_buckets)
        ]
        version = PopulationVersion(
            owner=self.owner, population=name, version=1, n_ids=len(ids), digests=tuple(digests),
            state=PopulationState.ACCEPTED, changed_by=caller, changed_at=now, created_at=now,
        )  # fmt: skip
        write_version(self.warehouse, version)
        upload = Upload(
            upload_id=upload_id,
            population=PopulationRef(owner=self.owner, name=name, version=1, is_standing=False),
            n_buckets=n_buckets,
            rows=len(given),
            ids=len(ids),
            duplicates=int(valid.sum()) - len(ids),
            invalid=len(given) - int(valid.sum()),
            uploaded_by=caller,
            uploaded_at=now,
        )
        if not upload.rows:
            remove_versions(self.warehouse, [version])
            raise EmptyRequestError(f"an empty list of {caller}")
        return upload
