"""Populations in a warehouse: the same embedded, in Spark and in Hive."""

from __future__ import annotations

import secrets
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from fedpredict.errors import TableCorruptError
from fedpredict.model.populations import in_order
from fedpredict.model.sample_ids import SampleIds
from fedpredict.model.standing import PopulationState
from fedpredict.tables.answered import AnsweredBucket, list_answered, write_answered
from fedpredict.tables.deliveries import DELIVERIES, Delivery, list_deliveries, write_delivery
from fedpredict.tables.populations import (
    PopulationVersion,
    bucket_sizes,
    ensure_tables,
    known_buckets,
    list_versions,
    missing_buckets,
    read_bucket,
    remove_versions,
    write_bucket,
    write_version,
)
from fedpredict.warehouse.base import Warehouse

pytestmark = pytest.mark.timeout(600)  # Hive takes seconds for each write

NOW = datetime(2026, 11, 27, 12, 30, 0, 123456, tzinfo=UTC)
IDS = in_order(
    SampleIds.of([each.encode() for each in ("u1", "年龄", " padded ", "it's", 'back\\slash "quoted"', "x" * 256)])
)


def test_versions_share_buckets_and_come_back_as_they_were_written(warehouse: Warehouse) -> None:
    owner = f"bank-{secrets.token_hex(4)}"
    ensure_tables(warehouse)
    digest = write_bucket(warehouse, owner, "people", 0, IDS)
    nothing = write_bucket(warehouse, owner, "people", 1, SampleIds.of(()))
    first = PopulationVersion(
        owner=owner,
        population="people",
        version=1,
        n_ids=6,
        digests=(digest, nothing),
        state=PopulationState.PROPOSED,
        changed_by="Ada O'Hara",
        changed_at=NOW,
        created_at=NOW,
    )
    second = replace(first, version=2, digests=(digest, "ab" * 32), state=PopulationState.RECEIVING)
    write_version(warehouse, first)
    write_version(warehouse, replace(first, state=PopulationState.ACCEPTED))
    write_version(warehouse, second)

    assert list_versions(warehouse, owner=owner) == [replace(first, state=PopulationState.ACCEPTED), second]
    assert list(read_bucket(warehouse, owner, "people", 0, digest)) == list(IDS)
    assert list(read_bucket(warehouse, owner, "people", 1, nothing)) == []
    assert missing_buckets(warehouse, second) == [1]
    assert bucket_sizes(warehouse, owner) == {("people", 0, digest): 6, ("people", 1, nothing): 0}
    with pytest.raises(TableCorruptError, match="0 ids are stored that do not have the digest"):
        read_bucket(warehouse, owner, "people", 1, "ab" * 32)

    remove_versions(warehouse, [first])

    assert [each.version for each in list_versions(warehouse, owner=owner)] == [2]
    assert known_buckets(warehouse, owner, "people") == {(0, digest)}


def test_deliveries_and_answers_come_back_as_they_were_written(warehouse: Warehouse) -> None:
    owner = f"bank-{secrets.token_hex(4)}"
    warehouse.ensure(DELIVERIES)
    delivery = Delivery(
        owner=owner,
        population="people",
        party="lab",
        version=0,
        state=None,
        missing=0,
        problem="",
        changed_at=NOW,
    )
    write_delivery(warehouse, delivery)
    later = replace(delivery, version=2, state=PopulationState.RECEIVING, missing=7, problem="party lab: it's away")
    write_delivery(warehouse, later)
    assert list_deliveries(warehouse, owner) == list_deliveries(warehouse, owner, "people") == [later]

    records = [
        AnsweredBucket(
            caller=owner,
            task_id="t-1",
            model_id="m",
            manifest_sha256="5c" * 32,
            bucket=bucket,
            n_buckets=8,
            n_rows=100,
            n_scored=90,
            ids_sha256="ab" * 32,
            share_sha256="cd" * 32,
            elapsed_s=0.1 + bucket,
            answered_at=NOW.replace(second=bucket),
        )
        for bucket in range(2)
    ]
    write_answered(warehouse, records)
    assert [each for each in list_answered(warehouse) if each.caller == owner] == records
