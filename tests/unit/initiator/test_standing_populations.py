from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from typing_extensions import override

from fedpredict.errors import FedPredictError, InputError, PartyUnavailableError, WarehouseWriteError
from fedpredict.initiator.offline import retention, standing
from fedpredict.initiator.offline.courier import PopulationCourier, Recipient
from fedpredict.initiator.offline.uploads import Uploads
from fedpredict.model.offline import PopulationRef
from fedpredict.model.sample_ids import SampleIds
from fedpredict.model.standing import BucketDelta, BucketIds, PopulationNotice, PopulationStanding, PopulationState
from fedpredict.participant.acceptance import accept
from fedpredict.participant.populations import StandingPopulations
from fedpredict.participant.settings import CallerSettings, PopulationSettings
from fedpredict.scoring import populations
from fedpredict.state.tasks import open_task_store
from fedpredict.tables.deliveries import Delivery, accepted_versions, list_deliveries
from fedpredict.tables.populations import (
    PopulationVersion,
    known_buckets,
    list_versions,
    read_bucket,
    remove_buckets,
    write_bucket,
)
from fedpredict.warehouse.base import Warehouse
from fedpredict.warehouse.local import LocalWarehouse
from tests.contract.test_task_store import new

PEOPLE = [b"u%d" % number for number in range(200)]


def batch(*ids: bytes) -> list[SampleIds]:
    return [SampleIds.of(ids)]


@pytest.fixture
def bank(tmp_path: Path) -> Iterator[LocalWarehouse]:
    (tmp_path / "bank").mkdir()
    warehouse = LocalWarehouse(tmp_path / "bank")
    yield warehouse
    warehouse.close()


def propose(bank: LocalWarehouse, ids: list[bytes] = PEOPLE, parties: tuple[str, ...] = ("lab",)) -> None:
    standing.propose(bank, "bank", "people", batch(*ids), parties=parties, by="ada", least_buckets=8)


class Lab(Recipient):
    """A participant in this process; what it is sent is noted, and it fails where the test says so."""

    def __init__(self, folder: Path, *, accepts: bool = True) -> None:
        folder.mkdir()
        self.warehouse = LocalWarehouse(folder)
        self.callers = {"bank": CallerSettings(models=("*",), accept_populations=accepts)}
        self.taken = self.process()
        self.sent: list[BucketIds] = []
        self.fails: Callable[[int], FedPredictError | None] = lambda _: None

    def process(self) -> StandingPopulations:
        return StandingPopulations(self.warehouse, PopulationSettings(), self.callers, poll_s=0.001)

    @override
    async def notice_population(self, notice: PopulationNotice, *, deadline_s: float) -> PopulationStanding:
        return self.taken.notice("bank", notice)

    @override
    async def put_bucket(self, bucket: BucketIds, *, deadline_s: float) -> None:
        error = self.fails(len(self.sent))
        if error is not None:
            raise error
        self.sent.append(bucket)
        self.taken.put("bank", bucket)

    def ids(self, digests: tuple[str, ...]) -> set[bytes]:
        parts = [read_bucket(self.warehouse, "bank", "people", at, digest) for at, digest in enumerate(digests)]
        return {each for part in parts for each in part}


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path / "lab")


@asynccontextmanager
async def delivering(bank: LocalWarehouse, **recipients: Recipient) -> AsyncIterator[None]:
    running = asyncio.create_task(PopulationCourier(bank, "bank", recipients, look_s=0.01).run())
    try:
        yield
    finally:
        running.cancel()
        await asyncio.wait({running})


async def until(bank: LocalWarehouse, reached: Callable[[Delivery], bool], party: str = "lab") -> Delivery:
    async with asyncio.timeout(30.0):
        while True:
            (found,) = [each for each in list_deliveries(bank, "bank", "people") if each.party == party]
            if reached(found):
                return found
            await asyncio.sleep(0.01)


def accepted(version: int) -> Callable[[Delivery], bool]:
    return lambda each: (each.version, each.state, each.problem) == (version, PopulationState.ACCEPTED, "")


async def test_what_was_under_way_when_a_party_went_away_goes_on_with_what_is_missing(
    bank: LocalWarehouse, lab: Lab
) -> None:
    propose(bank)
    away = PartyUnavailableError("party lab: the link was lost", party="lab")
    lab.fails = lambda n_sent: away if n_sent == 3 else None
    async with delivering(bank, lab=lab):
        found = await until(bank, lambda each: bool(each.problem))
        assert "the link was lost" in found.problem
        assert len(lab.sent) == 3
        lab.fails = lambda _: None
        await until(bank, accepted(1))

    assert sorted(each.bucket for each in lab.sent) == list(range(8))
    assert lab.ids(standing.newest_of(bank, "bank", "people").digests) == set(PEOPLE)


async def test_a_task_is_about_the_newest_version_that_all_participants_have_accepted(
    bank: LocalWarehouse, lab: Lab, tmp_path: Path
) -> None:
    shop = Lab(tmp_path / "shop", accepts=False)

    def chosen(number: int = 0, parties: tuple[str, ...] = ("lab", "shop")) -> int | None:
        version = standing.version_for_task(bank, "bank", "people", number, parties)
        return None if version is None else version.version

    async def accept_at_shop(version: int) -> None:
        await until(bank, lambda each: (each.version, each.state) == (version, PopulationState.PROPOSED), "shop")
        accept(shop.warehouse, "bank", "people", None, "ada", keep_versions=3)
        await until(bank, accepted(version), "shop")
        await until(bank, accepted(version))

    assert chosen() is None
    propose(bank, parties=("lab", "shop"))
    assert chosen() == 1  # nobody has said anything: the participants say what is the matter
    async with delivering(bank, lab=lab, shop=shop):
        await accept_at_shop(1)
        assert chosen() == 1
        standing.update(bank, "bank", "people", batch(b"new"), by="ada", removed=batch())
        await until(bank, accepted(2))
        await until(bank, lambda each: each.version == 2, "shop")
        assert accepted_versions(bank, "bank", "people") == {"lab": 2, "shop": 1}
        assert (chosen(), chosen(parties=("lab",)), chosen(2), chosen(7)) == (1, 2, 2, None)
        await accept_at_shop(2)
        assert (chosen(), chosen(1)) == (2, 1)


async def test_while_a_party_takes_a_bucket_the_next_is_on_its_way_and_no_third(bank: LocalWarehouse, lab: Lab) -> None:
    class Slow(Recipient):
        def __init__(self) -> None:
            self.under_way, self.seen, self.second = 0, list[int](), asyncio.Event()

        @override
        async def notice_population(self, notice: PopulationNotice, *, deadline_s: float) -> PopulationStanding:
            return await lab.notice_population(notice, deadline_s=deadline_s)

        @override
        async def put_bucket(self, bucket: BucketIds, *, deadline_s: float) -> None:
            self.under_way += 1
            self.seen.append(self.under_way)
            if self.under_way == 2:
                self.second.set()
            await self.second.wait()  # the first is not taken before the second has come
            await lab.put_bucket(bucket, deadline_s=deadline_s)
            self.under_way -= 1

    propose(bank)
    slow = Slow()
    async with delivering(bank, lab=slow):
        await until(bank, accepted(1))

    assert max(slow.seen) == 2
    assert sorted(each.bucket for each in lab.sent) == list(range(8))


async def test_a_defect_is_shown_and_other_populations_go_on(
    bank: LocalWarehouse, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    propose(bank)
    standing.propose(bank, "bank", "others", batch(b"u1"), parties=("lab",), by="ada")

    class Broken(Lab):
        @override
        async def put_bucket(self, bucket: BucketIds, *, deadline_s: float) -> None:
            if bucket.population == "people":
                raise KeyError("u7")  # no error of ours
            await super().put_bucket(bucket, deadline_s=deadline_s)

    broken = Broken(tmp_path / "lab")
    async with delivering(bank, lab=broken):
        found = await until(bank, lambda each: bool(each.problem))
        async with asyncio.timeout(30.0):
            while list_deliveries(bank, "bank", "others")[0].state is not PopulationState.ACCEPTED:
                await asyncio.sleep(0.01)

    assert found.problem == "unexpected error at this initiator (KeyError): its log says more"
    assert found.version == 1
    assert [each.message for each in caplog.records if each.exc_info] == ["population.defect"]


async def test_a_new_version_travels_as_what_changed_and_whole_where_that_is_refused(
    bank: LocalWarehouse, lab: Lab
) -> None:
    propose(bank)
    async with delivering(bank, lab=lab):
        await until(bank, accepted(1))
        lab.sent.clear()
        made = standing.update(bank, "bank", "people", batch(b"new"), removed=batch(b"u7"), by="ada")
        await until(bank, accepted(2))
        assert {type(each.content) for each in lab.sent} == {BucketDelta}
        assert len(lab.sent) == made.changed_buckets
        lab.sent.clear()

        # the participant has lost what the next delta is of
        remove_buckets(lab.warehouse, "bank", "people", known_buckets(lab.warehouse, "bank", "people"))
        lab.taken = lab.process()
        made = standing.update(bank, "bank", "people", batch(b"more"), removed=[], by="ada")
        await until(bank, accepted(3))

    assert {type(each.content) for each in lab.sent} == {BucketDelta, SampleIds}
    assert lab.ids(made.version.digests) == {*PEOPLE, b"new", b"more"} - {b"u7"}


async def test_a_party_that_refuses_is_told_of_in_its_words_and_the_others_get_theirs(
    bank: LocalWarehouse, lab: Lab, tmp_path: Path
) -> None:
    mill = Lab(tmp_path / "mill")
    mill.callers.clear()
    propose(bank, parties=("lab", "mill"))
    async with delivering(bank, lab=lab, mill=mill):
        await until(bank, accepted(1))
        found = await until(bank, lambda each: bool(each.problem), "mill")

    assert "no populations are taken here" in found.problem
    assert (found.version, found.state) == (1, None)


async def test_a_population_that_is_revoked_is_brought_to_nobody(bank: LocalWarehouse, lab: Lab) -> None:
    propose(bank)
    standing.revoke(bank, "bank", "people", "ada")
    standing.propose(bank, "bank", "others", batch(b"u1"), parties=["lab"], by="ada")
    async with delivering(bank, lab=lab):
        async with asyncio.timeout(30.0):
            while not any(each.state is PopulationState.ACCEPTED for each in list_deliveries(bank, "bank", "others")):
                await asyncio.sleep(0.01)

    assert {each.population for each in lab.sent} == {"others"}


def test_what_is_added_and_removed_makes_the_next_version(bank: LocalWarehouse) -> None:
    propose(bank)
    added, removed = batch(b"new", b"u1", b"\n"), batch(b"u2", b"nobody", b"", *PEOPLE[100:])

    made = standing.update(bank, "bank", "people", added, removed=removed, by="grace")

    parts = [read_bucket(bank, "bank", "people", at, each) for at, each in enumerate(made.version.digests)]
    assert {each for part in parts for each in part} == {*PEOPLE[:100], b"new"} - {b"u2"}
    assert (made.version.version, made.version.n_ids, made.version.changed_by) == (2, 100, "grace")
    assert (made.taken.invalid, made.taken.first_invalid) == (1, 3)
    unchanged = standing.update(bank, "bank", "people", batch(b"new"), removed=[], by="grace")
    assert (unchanged.is_new, unchanged.version) == (False, made.version)
    assert [each.version for each in standing.standing_versions(bank, "bank")] == [1, 2]


def test_everybody_removed_is_refused(bank: LocalWarehouse) -> None:
    propose(bank)

    with pytest.raises(InputError, match="no sample id among them"):
        standing.update(bank, "bank", "people", [], removed=batch(*PEOPLE), by="ada")
    assert [each.version for each in standing.standing_versions(bank, "bank")] == [1]


def test_old_versions_go_unless_a_task_needs_them(bank: LocalWarehouse, tmp_path: Path) -> None:
    propose(bank)
    for number in range(2, 7):
        standing.update(bank, "bank", "people", batch(b"new-%d" % number), removed=[], by="ada")
    store = open_task_store("sqlite:///state.db", tmp_path)
    store.submit(new(population=PopulationRef(owner="bank", name="people", version=2, is_standing=True)))

    retention.sweep_populations(store, bank, "bank", ["credit"])
    store.close()

    assert [each.version for each in standing.standing_versions(bank, "bank")] == [2, 4, 5, 6]
    left = {bucket for each in standing.standing_versions(bank, "bank") for bucket in enumerate(each.digests)}
    assert known_buckets(bank, "bank", "people") == left


class KilledError(BaseException):
    """Stands for kill -9: nothing is done after it."""


async def test_what_a_killed_process_wrote_counts_for_nothing_and_is_removed_after_a_day(
    bank: LocalWarehouse, lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    propose(bank)
    (first,) = standing.standing_versions(bank, "bank")
    uploads = Uploads(warehouse=bank, owner="bank", max_rows=1000, least_buckets=8)

    def killed(warehouse: Warehouse, owner: str, population: str, bucket: int, sample_ids: SampleIds) -> str:
        if len(known_buckets(warehouse, owner, population) - set(enumerate(first.digests))) >= 3:
            raise KilledError
        return write_bucket(warehouse, owner, population, bucket, sample_ids)

    def too_late(warehouse: Warehouse, versions: Iterable[PopulationVersion]) -> None:
        raise WarehouseWriteError("nobody is here any more")

    with monkeypatch.context() as patched:
        patched.setattr(populations, "write_bucket", killed)
        patched.setattr(populations, "remove_versions", too_late)
        with pytest.raises(KilledError):
            standing.update(bank, "bank", "people", batch(*PEOPLE[::2]), by="ada")
        with pytest.raises(KilledError):
            uploads.store(batch(*PEOPLE[1::2]), "desk")

    assert standing.newest_of(bank, "bank", "people") == first
    async with delivering(bank, lab=lab):
        await until(bank, accepted(1))
    made = standing.update(bank, "bank", "people", batch(b"new"), removed=[], by="ada")
    assert made.version.version == 3

    store = open_task_store("sqlite:///state.db", tmp_path)
    now = datetime.now(UTC)
    retention.sweep(store, bank, "bank", None, now + timedelta(hours=23))
    assert len(list_versions(bank)) == 4
    retention.sweep(store, bank, "bank", None, now + timedelta(hours=25))
    store.close()

    assert list_versions(bank) == [first, made.version]
    wanted = {("people", *each) for version in (first, made.version) for each in enumerate(version.digests)}
    for table in ("fp_population_buckets", "fp_population_ids"):
        rows = bank.read(table, ["population", "bucket", "sha256"], {}).to_pylist()
        assert {(row["population"], row["bucket"], row["sha256"]) for row in rows} == wanted


def test_a_removal_that_is_killed_is_gone_on_with(
    bank: LocalWarehouse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload = Uploads(warehouse=bank, owner="bank", max_rows=1000, least_buckets=8).store(batch(*PEOPLE), "desk")

    def killed(warehouse: Warehouse, owner: str, population: str, buckets: Iterable[tuple[int, str]]) -> None:
        remove_buckets(warehouse, owner, population, list(buckets)[:3])
        raise KilledError

    with monkeypatch.context() as patched:
        patched.setattr("fedpredict.tables.populations.remove_buckets", killed)
        with pytest.raises(KilledError):
            retention.remove_upload(bank, upload)

    store = open_task_store("sqlite:///state.db", tmp_path)
    retention.sweep(store, bank, "bank", None, datetime.now(UTC) + timedelta(days=2))
    store.close()

    assert list_versions(bank) == []
    assert bank.read("fp_population_ids", ["sample_id"], {}).num_rows == 0


def test_a_population_for_nobody_is_refused(bank: LocalWarehouse) -> None:
    with pytest.raises(InputError, match="name the parties that it is for"):
        propose(bank, parties=())
    with pytest.raises(InputError, match="there is no population people; there is none at all"):
        standing.newest_of(bank, "bank", "people")
