from __future__ import annotations

import asyncio
from datetime import UTC, date, datetime
from pathlib import Path

import pytest

from fedpredict.errors import WarehouseWriteError
from fedpredict.participant import answered
from fedpredict.participant.answered import AnsweredRecords
from fedpredict.tables.answered import AnsweredBucket, list_answered, remove_answered, write_answered
from fedpredict.warehouse.local import LocalWarehouse


def record(bucket: int) -> AnsweredBucket:
    return AnsweredBucket(
        caller="bank",
        task_id="t-1",
        model_id="m",
        manifest_sha256="5c" * 32,
        bucket=bucket,
        n_buckets=8,
        n_rows=100,
        n_scored=90,
        ids_sha256="ab" * 32,
        share_sha256="cd" * 32,
        elapsed_s=0.25,
        answered_at=datetime(2026, 11, 27, 12, 0, bucket, tzinfo=UTC),
    )


async def until(warehouse: LocalWarehouse, n_records: int) -> None:
    async with asyncio.timeout(20.0):
        while len(list_answered(warehouse)) < n_records:
            await asyncio.sleep(0.01)


async def test_what_was_answered_is_written_by_and_by_and_at_the_end(tmp_path: Path) -> None:
    warehouse = LocalWarehouse(tmp_path)
    records = AnsweredRecords(warehouse, None, write_s=0.01)
    records.start()
    records.add(record(0))
    await until(warehouse, 1)
    records.add(record(2))
    records.add(record(1))
    await records.stop()

    assert list_answered(warehouse) == [record(0), record(1), record(2)]


async def test_what_the_warehouse_does_not_take_is_written_later_and_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    warehouse = LocalWarehouse(tmp_path)
    tries: list[int] = []

    def full(_: LocalWarehouse, records: tuple[AnsweredBucket, ...]) -> None:
        tries.append(len(records))
        if len(tries) == 1:
            raise WarehouseWriteError("no space left")
        write_answered(warehouse, records)

    monkeypatch.setattr(answered, "write_answered", full)
    records = AnsweredRecords(warehouse, None, write_s=0.01)
    records.add(record(0))
    records.add(record(1))
    records.start()
    async with asyncio.timeout(20.0):
        while len(tries) < 2:
            await asyncio.sleep(0.01)
    await records.stop()

    assert list_answered(warehouse) == [record(0), record(1)]
    assert tries == [2, 2]


async def test_the_oldest_are_lost_where_the_warehouse_is_away_for_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(answered, "MOST_KEPT", 2)
    records = AnsweredRecords(LocalWarehouse(tmp_path), None)
    for bucket in range(3):
        records.add(record(bucket))
    records.start()
    await records.stop()

    assert [each.bucket for each in list_answered(LocalWarehouse(tmp_path))] == [1, 2]
    assert "answered.lost" in caplog.text


def test_records_of_days_long_ago_are_removed(tmp_path: Path) -> None:
    warehouse = LocalWarehouse(tmp_path)
    write_answered(warehouse, [record(0)])
    write_answered(warehouse, [record(1)])

    assert remove_answered(warehouse, date(2020, 1, 1)) == 0
    assert len(list_answered(warehouse)) == 2
    assert list_answered(warehouse, date(2020, 1, 1)) == []
    assert remove_answered(warehouse, date(2999, 1, 1)) == 2
    assert list_answered(warehouse) == []
