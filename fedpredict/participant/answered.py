"""Keeps what was answered to offline tasks until it is written to the warehouse, some records at a time.

A warehouse may take seconds for a write, and an answer does not wait for it. What a process that is killed had not
written yet is lost; the initiator has a record of every bucket, too.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta

from fedpredict.errors import WarehouseError
from fedpredict.tables.answered import AnsweredBucket, remove_answered, write_answered
from fedpredict.warehouse.base import Warehouse

logger = logging.getLogger(__name__)

WRITE_S = 15.0
"""How often records are written."""
MOST_KEPT = 100_000
"""Records that wait for a warehouse that is away; beyond them the oldest are lost, and the log says so."""


class AnsweredRecords:
    """The records of one process."""

    def __init__(self, warehouse: Warehouse, keep_days: int | None, *, write_s: float = WRITE_S) -> None:
        """Prepare; nothing is written before `start`.

        Args:
            warehouse: Where to.
            keep_days: So many days of records stay; None: all.
            write_s: How often they are written.
        """
        self._warehouse = warehouse
        self._keep_days = keep_days
        self._write_s = write_s
        self._waiting: deque[AnsweredBucket] = deque()
        self._pruned: date | None = None
        self._stopping = asyncio.Event()
        self._writer: asyncio.Task[None] | None = None

    def add(self, record: AnsweredBucket) -> None:
        """Keep a record."""
        self._waiting.append(record)
        if len(self._waiting) > MOST_KEPT:
            lost = self._waiting.popleft()
            logger.error("answered.lost", extra={"task": lost.task_id, "bucket": lost.bucket})

    def start(self) -> None:
        """Write from here on."""
        self._writer = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Write what is left, and end."""
        if self._writer is not None:
            self._stopping.set()
            await self._writer

    async def _run(self) -> None:
        while not self._stopping.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(self._write_s):
                    await self._stopping.wait()
            await self._write()
        await self._write()  # what came meanwhile

    async def _write(self) -> None:
        """Write what waits; where the warehouse does not take it, it goes on waiting."""
        records, self._waiting = self._waiting, deque()
        if not records:
            return
        try:
            await asyncio.to_thread(write_answered, self._warehouse, tuple(records))
        except WarehouseError as error:
            self._waiting.extendleft(reversed(records))
            logger.warning("answered.not_written", extra={"records": len(records), "reason": str(error)})
            return
        await self._prune()

    async def _prune(self) -> None:
        today = datetime.now(UTC).date()
        if self._keep_days is None or self._pruned == today:
            return
        self._pruned = today
        try:
            await asyncio.to_thread(remove_answered, self._warehouse, today - timedelta(days=self._keep_days))
        except WarehouseError as error:
            logger.warning("answered.not_pruned", extra={"reason": str(error)})
