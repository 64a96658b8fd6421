"""`fedpredict erase` beside daemons over TLS: results are fetched meanwhile and after, populations go on."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest

from fedpredict.cli.main import run
from fedpredict.client import Mode, OfflineState, Standing
from fedpredict.model.share import SampleStatus
from fedpredict.model.standing import PopulationState
from fedpredict.tables.populations import list_versions, read_bucket
from tests.integration.federation import eventually
from tests.integration.test_standing_populations import IDS, World, when_ready, world

__all__ = ["world"]
WHO = "p1500"


class Operator:
    """Runs commands at a party, as its operator does beside the daemons."""

    def __init__(self, world: World, capsys: pytest.CaptureFixture[str]) -> None:
        self._world = world
        self._capsys = capsys
        common = 'insecure = true\n[warehouse]\npath = "{}"\n'
        models = '[models.m]\nparties = ["lab", "shop"]\n'
        parties = '[parties.lab]\naddress = "127.0.0.1:1"\n[parties.shop]\naddress = "127.0.0.1:2"\n'
        for party in ("bank", "lab", "shop"):
            more = models + parties if party == "bank" else ""
            self._file(party).write_text(f'party = "{party}"\n{common.format(party)}{more}')

    def _file(self, party: str) -> Path:
        return self._world.folder / f"{'initiator' if party == 'bank' else party}.toml"

    async def __call__(self, party: str, *words: str) -> tuple[int, Any]:
        """Return how a command ended, and what it said."""
        self._capsys.readouterr()
        code = await asyncio.to_thread(run, [*words, "--config", str(self._file(party)), "--json"])
        return code, json.loads(self._capsys.readouterr().out)


async def test_a_person_goes_from_both_ends_while_tasks_are_fetched_and_run(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    operator = Operator(world, capsys)
    world.propose(IDS)
    async with world.client() as client:
        await eventually(when_ready(client))
        await world.until("lab", 1, PopulationState.PROPOSED)
        await operator("lab", "population", "accept", "people", "--from", "bank")
        await world.until("lab", 1, PopulationState.ACCEPTED)
        await world.until("shop", 1, PopulationState.ACCEPTED)
        standing = await client.submit("m", Standing("people"), mode=Mode.NEARLINE)
        listed = await client.submit("m", IDS, mode=Mode.NEARLINE)
        for task_id in (standing, listed):
            assert (await client.wait(task_id, timeout_s=60.0)).state is OfflineState.DONE
        before = (await client.results_table(standing)).to_pylist()
        at = [row["sample_id"] for row in before].index(WHO)

        reading = client.results(standing)
        begun = await anext(reading)
        code, told = await operator("bank", "erase", WHO, "--yes")
        rest = [batch async for batch in reading]

        assert code == 9
        left = [(row["table"], row["note"]) for row in told if row["removed"] < row["found"]]
        assert [table for table, _ in left] == ["fp_population_ids"]
        assert left[0][1].startswith("version 2 is made without them")
        removed = [row["table"] for row in told if row["removed"]]
        assert sorted(removed) == ["fp_population_ids", "fp_results", "fp_results"]
        read = [row for batch in (begun, *rest) for row in batch.to_pylist()]
        after = (await client.results_table(standing)).to_pylist()
        assert after[at] == {"sample_id": "", "prediction": None, "status": "id_invalid", "origin": "unspecified"}
        assert [row for row in after if row["sample_id"]] == [row for row in before if row["sample_id"] != WHO]
        assert read in (before, after)
        resumed = [row async for batch in client.results(standing, at) for row in batch.to_pylist()]
        assert resumed == after[at:]
        file = world.folder / "results.parquet"
        assert await client.results_to_parquet(listed, file) == len(IDS)
        in_file = pyarrow.parquet.read_table(file)["sample_id"].to_pylist()
        assert sorted(in_file) == sorted(["", *(each for each in IDS if each != WHO)])
        info = await client.task(standing)
        assert (info.state, info.ids_done, info.statuses[SampleStatus.ID_INVALID]) == (OfflineState.DONE, len(IDS), 1)
        assert info.scored == sum(info.histograms[0].counts) == 2_799
        assert (await client.task_history(standing))[-1].what == "a person was erased"

        await world.until("lab", 2, PopulationState.PROPOSED)
        await world.until("shop", 2, PopulationState.ACCEPTED)
        code, told = await operator("lab", "erase", WHO, "--yes")
        assert code == 9
        assert [(row["table"], row["removed"]) for row in told[:2]] == [
            ("fp_features_people", 1),
            ("fp_population_ids", 0),
        ]
        assert told[1]["note"].startswith("the initiator bank names them")
        await operator("lab", "population", "accept", "people", "--from", "bank")
        await world.until("lab", 2, PopulationState.ACCEPTED)
        again, told = await operator("bank", "erase", WHO, "--yes")
        assert (again, [(row["table"], row["removed"]) for row in told]) == (0, [("fp_population_ids", 1)])
        newest = await client.submit("m", Standing("people"), mode=Mode.NEARLINE)
        assert (await client.wait(newest, timeout_s=60.0)).ids_done == len(IDS) - 1

    code, told = await operator("shop", "erase", WHO, "--dry-run")
    assert [row["table"] for row in told] == ["fp_features_people", "fp_population_ids"]
    for party, left in (("lab", []), ("shop", told[:1])):
        await operator(party, "population", "revoke", "people", "--from", "bank", "--version", "1")
        assert await operator(party, "erase", WHO, "--dry-run") == (0, left)
    for warehouse in world.warehouses.values():
        version = list_versions(warehouse)[-1]
        ids = [list(read_bucket(warehouse, "bank", "people", *each)) for each in enumerate(version.digests)]
        assert (sum(map(len, ids)), WHO.encode() in {each for some in ids for each in some}) == (len(IDS) - 1, False)
