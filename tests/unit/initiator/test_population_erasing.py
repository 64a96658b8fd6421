"""A person goes out of standing populations: a version without them, and what nobody uses any more, at both ends."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from fedpredict.errors import WarehouseWriteError
from fedpredict.initiator.offline import standing
from fedpredict.initiator.offline.erasing import erase_from_tasks
from fedpredict.model.offline import PopulationRef
from fedpredict.model.sample_ids import SampleIds
from fedpredict.model.standing import PopulationState
from fedpredict.participant.acceptance import accept, revoke
from fedpredict.participant.erasing import erase_from_named
from fedpredict.scoring.erased import Erased
from fedpredict.scoring.populations import ingest
from fedpredict.state.leases import Alone, NoLeases
from fedpredict.state.tasks import open_task_store
from fedpredict.tables.deliveries import ACCEPTANCES, accepted_versions
from fedpredict.tables.populations import (
    POPULATION_IDS,
    PopulationVersion,
    list_versions,
    read_bucket,
    write_bucket,
    write_version,
)
from fedpredict.warehouse.base import Partition, Warehouse
from fedpredict.warehouse.local import LocalWarehouse
from tests.contract.test_task_store import new
from tests.unit.initiator.test_standing_populations import (
    PEOPLE,
    Lab,
    accepted,
    bank,
    batch,
    delivering,
    lab,
    propose,
    until,
)

__all__ = ["bank", "lab"]
WHO = "u7"
OTHERS = {each for each in PEOPLE if each != b"u7"}


def erased(bank: Warehouse, folder: Path, *, keep: bool = False) -> list[Erased]:
    open_store, now = partial(open_task_store, "sqlite:///state.db", folder), datetime.now(UTC)
    return erase_from_tasks(Alone(NoLeases()), open_store, bank, "bank", WHO, by="ada", now=now, keep=keep)


def named(warehouse: Warehouse, *, days: float = 0.0, keep: bool = False) -> list[Erased]:
    now = datetime.now(UTC) + timedelta(days=days)
    return erase_from_named(Alone(NoLeases()), warehouse, WHO, now=now, keep=keep)


def is_in(warehouse: Warehouse) -> bool:
    return WHO in warehouse.read(POPULATION_IDS.name, ["sample_id"], {}).column(0).to_pylist()


def ids_of(warehouse: Warehouse, version: PopulationVersion) -> set[bytes]:
    parts = [read_bucket(warehouse, "bank", "people", *each) for each in enumerate(version.digests)]
    return {each for part in parts for each in part}


def numbers(warehouse: Warehouse) -> list[int]:
    return [each.version for each in list_versions(warehouse)]


async def test_a_version_without_the_person_takes_the_place_of_the_one_before_at_both_ends(
    bank: LocalWarehouse, lab: Lab, tmp_path: Path
) -> None:
    propose(bank)
    lab.callers["bank"] = lab.callers["bank"].model_copy(update={"accept_populations": False})
    async with delivering(bank, lab=lab):
        await until(bank, lambda each: each.state is PopulationState.PROPOSED)
        accept(lab.warehouse, "bank", "people", None, "lin", keep_versions=3)
        await until(bank, accepted(1))
        (looked,) = erased(bank, tmp_path, keep=True)
        (made,) = erased(bank, tmp_path)
        (used,) = named(lab.warehouse)
        await until(bank, lambda each: (each.version, each.state) == (2, PopulationState.PROPOSED))
        (still,) = erased(bank, tmp_path)
        there = numbers(bank)
        accept(lab.warehouse, "bank", "people", None, "lin", keep_versions=3)
        await until(bank, accepted(2))
        (gone,) = erased(bank, tmp_path)
        (under_way,) = named(lab.warehouse)
        before = numbers(lab.warehouse)
        (late,) = named(lab.warehouse, days=1.1)

    assert (looked.found, looked.removed) == (1, 0)
    assert "a version without them is made" in looked.note
    assert (made.removed, made.note.startswith("version 2 is made without them; it goes once every party")) == (0, True)
    assert still.note.startswith("party lab answers for it; it goes once every party has accepted the newest")
    assert "the initiator bank names them: it makes a version without them (`fedpredict erase` there)" in used.note
    assert "about it may be under way: repeat after" in under_way.note
    assert [(each.found, each.removed) for each in (used, under_way)] == [(1, 0)] * 2
    assert [(each.found, each.removed, each.note) for each in (gone, late)] == [(1, 1, "")] * 2
    assert (there, before) == ([1, 2], [1, 2])
    for warehouse in (bank, lab.warehouse):
        (left,) = list_versions(warehouse)
        assert (left.version, ids_of(warehouse, left), is_in(warehouse)) == (2, OTHERS, False)
    assert (erased(bank, tmp_path), named(lab.warehouse)) == ([], [])
    # and the population goes on, by what changed
    standing.update(bank, "bank", "people", batch(b"u999"), removed=[], by="ada")
    async with delivering(bank, lab=lab):
        await until(bank, lambda each: (each.version, each.state) == (3, PopulationState.PROPOSED))
    assert ids_of(lab.warehouse, list_versions(lab.warehouse)[-1]) == {*OTHERS, b"u999"}


async def test_a_version_that_a_task_needs_stays_until_it_is_over(
    bank: LocalWarehouse, lab: Lab, tmp_path: Path
) -> None:
    propose(bank)
    async with delivering(bank, lab=lab):
        await until(bank, accepted(1))
    store = open_task_store("sqlite:///state.db", tmp_path)
    ref = PopulationRef(owner="bank", name="people", version=1, is_standing=True)
    task = store.submit(replace(new(), population=ref))
    erased(bank, tmp_path)
    async with delivering(bank, lab=lab):
        await until(bank, accepted(2))
    (needed,) = erased(bank, tmp_path)
    version = list_versions(bank)[0]
    whole = ids_of(bank, version)
    store.cancel(task.task_id)
    (gone,) = erased(bank, tmp_path)
    store.close()

    assert needed.note.startswith(f"task {task.task_id} is queued: wait for its end")
    assert (version.version, whole) == (1, set(PEOPLE))
    assert (gone.removed, gone.note, numbers(bank)) == (1, "", [2])


async def test_a_version_stays_that_a_party_may_answer_for_which_did_not_say_so(
    bank: LocalWarehouse, lab: Lab, tmp_path: Path
) -> None:
    """Such as where the initiator that brought it kept no record of what is answered for."""
    propose(bank)
    async with delivering(bank, lab=lab):
        await until(bank, accepted(1))
    place: Partition = {"owner": "bank", "population": "people", "party": "lab"}
    bank.replace(ACCEPTANCES.name, place, ACCEPTANCES.arrow_schema.empty_table())
    erased(bank, tmp_path)
    (still,) = erased(bank, tmp_path)
    whole = ids_of(bank, list_versions(bank)[0])
    async with delivering(bank, lab=lab):
        await until(bank, accepted(2))
    (gone,) = erased(bank, tmp_path)

    assert (still.removed, whole) == (0, set(PEOPLE))
    assert still.note.startswith("party lab did not say yet which version it answers for: repeat when")
    assert (gone.removed, gone.note, numbers(bank)) == (1, "", [2])


async def test_a_population_of_one_is_revoked_and_its_number_is_not_given_again(
    bank: LocalWarehouse, lab: Lab, tmp_path: Path
) -> None:
    propose(bank, [b"u7"])
    async with delivering(bank, lab=lab):
        await until(bank, accepted(1))
        (alone,) = erased(bank, tmp_path)
        standing.revoke(bank, "bank", "people", "ada")
        (gone,) = erased(bank, tmp_path)
        revoked = numbers(bank)
        propose(bank)
        await until(bank, accepted(2))
    assert alone.note == "nobody else is in it: `fedpredict population revoke people`, then repeat"
    assert (alone.removed, gone.removed, gone.note) == (0, 1, "")
    assert revoked == [1]
    assert ids_of(bank, list_versions(bank)[-1]) == set(PEOPLE)
    assert accepted_versions(bank, "bank", "people") == {"lab": 2}


async def test_older_versions_of_a_revoked_population_go(bank: LocalWarehouse, tmp_path: Path) -> None:
    propose(bank)
    standing.update(bank, "bank", "people", batch(b"u999"), removed=[], by="ada")
    standing.revoke(bank, "bank", "people", "ada")
    told = erased(bank, tmp_path)
    assert [(each.removed, each.note) for each in told] == [(1, "")] * len(told)
    assert (is_in(bank), numbers(bank)) == (False, [2])


def test_versions_that_are_written_or_of_nobody(bank: LocalWarehouse, tmp_path: Path) -> None:
    propose(bank)
    (version,) = list_versions(bank)
    write_version(bank, replace(version, state=PopulationState.RECEIVING))
    (coming,) = erased(bank, tmp_path)
    assert (coming.removed, coming.note) == (0, "it is being written: repeat when it is there")
    write_version(bank, replace(version, state=PopulationState.REVOKED))
    write_bucket(bank, "bank", "left-over", 0, batch(b"u7")[0])
    told = erased(bank, tmp_path)
    assert [(each.removed, each.note) for each in told] == [(1, "")] * 2
    assert not is_in(bank)


async def test_a_participant_may_end_a_population_at_once(bank: LocalWarehouse, lab: Lab) -> None:
    propose(bank)
    async with delivering(bank, lab=lab):
        await until(bank, accepted(1))
    (used,) = named(lab.warehouse, days=2.0)
    assert "`fedpredict population revoke people --from bank`" in used.note
    revoke(lab.warehouse, "bank", "people", None, "lin")
    assert named(lab.warehouse) == []
    write_bucket(lab.warehouse, "bank", "left-over", 0, batch(b"u7")[0])
    (looked,), (gone,) = named(lab.warehouse, keep=True), named(lab.warehouse)
    assert [(each.found, each.removed, each.note) for each in (looked, gone)] == [(1, 0, ""), (1, 1, "")]


@pytest.mark.parametrize("state", [PopulationState.PROPOSED, PopulationState.REVOKED])
async def test_versions_before_the_accepted_one_that_nobody_answers_for_go_at_once(
    bank: LocalWarehouse, lab: Lab, tmp_path: Path, state: PopulationState
) -> None:
    propose(bank)
    async with delivering(bank, lab=lab):
        await until(bank, accepted(1))
        erased(bank, tmp_path)
        await until(bank, accepted(2))
    (first, _) = list_versions(lab.warehouse)
    write_version(lab.warehouse, replace(first, state=state))
    (gone,) = named(lab.warehouse)
    assert (gone.removed, gone.note, is_in(lab.warehouse)) == (1, "", False)


def stop_after(n_writes: int, warehouse: LocalWarehouse, patched: pytest.MonkeyPatch) -> None:
    """Have every write of a partition fail after some, as where the process is killed then."""
    left, write = [n_writes], warehouse.replace

    def writing(*arguments: Any) -> None:
        if left[0] == 0:
            raise WarehouseWriteError("killed")
        left[0] -= 1
        write(*arguments)

    patched.setattr(warehouse, "replace", writing)


def whole(warehouse: Warehouse, version: PopulationVersion) -> None:
    assert version.state is PopulationState.PROPOSED
    assert len(ids_of(warehouse, version)) == version.n_ids


def test_a_call_that_is_killed_at_any_write_is_finished_by_the_next_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By two: one makes the version without the person, and nobody answers for the one before at the next."""
    for n_before in (0, 1):
        at, over = 0, False
        while not over:
            folder = tmp_path / f"killed-{n_before}-{at}"
            folder.mkdir()
            warehouse = LocalWarehouse(folder / "bank")
            propose(warehouse)
            for _ in range(n_before):
                erased(warehouse, folder)
            with monkeypatch.context() as patched:
                stop_after(at, warehouse, patched)
                try:
                    erased(warehouse, folder)
                    over = True
                except WarehouseWriteError:
                    at += 1
            told = [erased(warehouse, folder) for _ in range(3)][-1]

            assert (told, is_in(warehouse)) == ([], False), at
            whole(warehouse, list_versions(warehouse)[-1])
            assert ids_of(warehouse, list_versions(warehouse)[-1]) == OTHERS
            warehouse.close()
        assert at > 3


def test_a_call_at_a_participant_that_is_killed_at_any_write_is_finished_by_the_next_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at, over = 0, False
    while not over:
        warehouse = LocalWarehouse(tmp_path / f"killed-{at}")
        for number, people in ((1, PEOPLE), (2, sorted(OTHERS))):
            ids = [SampleIds.of(people)]
            ingest(warehouse, "bank", "people", number, ids, state=PopulationState.ACCEPTED, least_buckets=8)
        with monkeypatch.context() as patched:
            stop_after(at, warehouse, patched)
            try:
                named(warehouse, days=1.1)
                over = True
            except WarehouseWriteError:
                at += 1
        named(warehouse, days=1.1)
        told = named(warehouse, days=1.1)

        *older, version = list_versions(warehouse)
        assert (told, is_in(warehouse), version.version) == ([], False, 2), at
        assert (version.state, ids_of(warehouse, version)) == (PopulationState.ACCEPTED, OTHERS)
        # where the killed call had removed the person's bucket, the next version that is accepted takes the rest along
        assert all(each.state is PopulationState.RECEIVING for each in older)
        warehouse.close()
    assert at > 3
