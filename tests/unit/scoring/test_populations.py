from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedpredict.errors import EmptyRequestError, NameRefusedError, WarehouseWriteError
from fedpredict.model import populations as limits
from fedpredict.model.populations import digest_of, in_order
from fedpredict.model.sample_ids import SampleIds
from fedpredict.model.standing import PopulationState
from fedpredict.scoring import populations
from fedpredict.scoring.id_sort import IdSorter
from fedpredict.scoring.populations import ingest
from fedpredict.tables.populations import (
    known_buckets,
    list_versions,
    missing_buckets,
    read_bucket,
    write_bucket,
)
from fedpredict.warehouse.base import Warehouse
from fedpredict.warehouse.local import LocalWarehouse


@pytest.fixture
def warehouse(tmp_path: Path) -> Iterator[LocalWarehouse]:
    opened = LocalWarehouse(tmp_path / "warehouse")
    yield opened
    opened.close()


def bucket_by_definition(sample_id: bytes, n_buckets: int) -> int:
    """Return the hash bucket as the design's text defines it: the first 32 bits of MD5, modulo n."""
    return int.from_bytes(hashlib.md5(sample_id, usedforsecurity=False).digest()[:4], "big") % n_buckets


@given(
    ids=st.lists(st.text("ab\xe9\u4e2d", min_size=1, max_size=4).map(str.encode), max_size=60),
    n_buckets=st.sampled_from([1, 2, 8, 512]),
    held=st.sampled_from([1, 7, 1000]),
)
@settings(max_examples=60, deadline=None)
def test_ids_come_back_by_bucket_in_order_and_each_once(ids: list[bytes], n_buckets: int, held: int) -> None:
    with IdSorter(held_rows=held) as sorter:
        for start in range(0, len(ids), 5):
            sorter.add(SampleIds.of(ids[start : start + 5]))
        size = sorter.sort()
        found = dict(sorter.buckets(n_buckets))

    wanted: dict[int, list[bytes]] = {}
    for each in in_order(SampleIds.of(ids)):
        wanted.setdefault(bucket_by_definition(each, n_buckets), []).append(each)
    assert {bucket: list(each) for bucket, each in found.items()} == wanted
    assert size == (len(set(ids)), sum(map(len, set(ids))))


def test_ids_of_the_same_place_stand_by_their_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "fedpredict.scoring.id_sort.places_of", lambda ids: np.full(len(ids), 7, dtype=np.uint32)
    )  # no two short ids are known that have the same place
    with IdSorter() as sorter:
        sorter.add(SampleIds.of([b"b", b"a", b"ab", b"b", b"a"]))
        assert sorter.sort() == (3, 4)
        ((_, ids),) = sorter.buckets(1)

    assert list(ids) == [b"a", b"ab", b"b"]


def test_an_id_that_is_repeated_takes_room_in_the_files_once_per_flush(tmp_path: Path) -> None:
    repeated = SampleIds.of([b"unknown"] * 1000)
    with IdSorter(tmp_path, held_rows=1000) as sorter:
        for number in range(20):
            sorter.add(SampleIds.concat([repeated, SampleIds.of([b"u%d" % number])]))
        stored = sum(each.stat().st_size for each in tmp_path.rglob("*") if each.is_file())
        size = sorter.sort()
        ((_, ids),) = sorter.buckets(1)

    assert stored < 20_000 * len(b"unknown")
    people = [b"unknown", *(b"u%d" % number for number in range(20))]
    assert (size, list(ids)) == ((21, sum(map(len, people))), list(in_order(SampleIds.of(people))))


def test_repeated_ids_are_counted_across_files(
    warehouse: LocalWarehouse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(populations, "IdSorter", lambda folder: IdSorter(folder, held_rows=7))
    batches = [SampleIds.of([b"u%d" % (number % 10)] * 5) for number in range(30)]

    report = ingest(warehouse, "bank", "p", 1, batches, folder=tmp_path)

    assert (report.rows, report.version.n_ids, report.duplicates) == (150, 10, 140)


def test_a_version_holds_what_is_valid_once_and_counts_the_rest(
    warehouse: LocalWarehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "BUCKET_ROWS", 50)
    ids = [b"u%d" % number for number in range(100)]
    batches = [SampleIds.of(ids[:60]), SampleIds.of([b"a\nb", *ids[50:], b"", b"\xff"]), SampleIds.of(())]

    report = ingest(warehouse, "bank", "p", 1, batches, changed_by="ada")

    assert (report.rows, report.duplicates, report.invalid, report.first_invalid) == (113, 10, 3, 61)
    version = report.version
    assert (version.n_ids, version.n_buckets, version.state) == (100, 2, PopulationState.PROPOSED)
    assert list_versions(warehouse) == [version]
    assert missing_buckets(warehouse, version) == []
    stored = [read_bucket(warehouse, "bank", "p", bucket, version.digests[bucket]) for bucket in range(2)]
    for bucket in range(2):
        assert {bucket_by_definition(each, 2) for each in stored[bucket]} == {bucket}
    assert [*stored[0], *stored[1]] == list(in_order(SampleIds.of(ids)))


def test_a_new_version_shares_the_buckets_that_are_the_same(
    warehouse: LocalWarehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = [b"u%d" % number for number in range(64)]
    first = ingest(warehouse, "bank", "p", 1, [SampleIds.of(ids)], least_buckets=8).version
    written: list[int] = []

    def write(warehouse: Warehouse, owner: str, population: str, bucket: int, sample_ids: SampleIds) -> str:
        written.append(bucket)
        return write_bucket(warehouse, owner, population, bucket, sample_ids)

    monkeypatch.setattr(populations, "write_bucket", write)

    second = ingest(warehouse, "bank", "p", 2, [SampleIds.of([*ids, b"new"])], least_buckets=8).version

    assert written == [bucket_by_definition(b"new", 8)]
    assert [a == b for a, b in zip(first.digests, second.digests, strict=True)].count(False) == 1
    assert [each.version for each in list_versions(warehouse)] == [1, 2]


def test_a_bucket_without_ids_is_there_too(warehouse: LocalWarehouse) -> None:
    version = ingest(warehouse, "bank", "p", 1, [SampleIds.of([b"u1"])], least_buckets=4).version

    sizes = [len(read_bucket(warehouse, "bank", "p", at, digest)) for at, digest in enumerate(version.digests)]
    assert sorted(sizes) == [0, 0, 0, 1]
    assert version.digests.count(digest_of(SampleIds.of(()))) == 3


def test_nothing_is_left_of_what_could_not_be_written(
    warehouse: LocalWarehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = ingest(warehouse, "bank", "p", 1, [SampleIds.of([b"u1"])], least_buckets=4).version
    room = iter([True, False])

    def full(warehouse: Warehouse, owner: str, population: str, bucket: int, sample_ids: SampleIds) -> str:
        if not next(room):
            raise WarehouseWriteError("no space left")
        return write_bucket(warehouse, owner, population, bucket, sample_ids)

    monkeypatch.setattr(populations, "write_bucket", full)
    ids = [b"u%d" % number for number in range(64)]

    with pytest.raises(WarehouseWriteError, match="no space"):
        ingest(warehouse, "bank", "p", 2, [SampleIds.of(ids)], least_buckets=4)

    assert list_versions(warehouse) == [kept]
    assert known_buckets(warehouse, "bank", "p") == set(enumerate(kept.digests))


@pytest.mark.parametrize("batches", [[], [SampleIds.of(())], [SampleIds.of([b"", b"a\nb"])]])
def test_a_population_without_an_id_is_refused(warehouse: LocalWarehouse, batches: list[SampleIds]) -> None:
    with pytest.raises(EmptyRequestError, match=r"population p: . rows, and no sample id among them"):
        ingest(warehouse, "bank", "p", 1, batches)


def test_a_name_that_no_table_could_hold_is_refused(warehouse: LocalWarehouse) -> None:
    with pytest.raises(NameRefusedError, match="is not a population"):
        ingest(warehouse, "bank", "../p", 1, [SampleIds.of([b"u1"])])
