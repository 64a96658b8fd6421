"""A standing population between daemons over TLS: proposed, brought, accepted, predicted without ids on the wire."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, closing
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from fedpredict.client import AsyncClient, Mode, OfflineState, Standing
from fedpredict.errors import TaskFailedError
from fedpredict.features.load import load_file
from fedpredict.initiator.offline import standing
from fedpredict.initiator.offline.open import TaskParts
from fedpredict.initiator.server import InitiatorServer
from fedpredict.initiator.settings import InitiatorSettings
from fedpredict.model.kinds import Kind
from fedpredict.model.linear import LinearPart
from fedpredict.model.partial import PartialModel
from fedpredict.model.sample_ids import SampleIds
from fedpredict.model.share import SampleStatus
from fedpredict.model.standing import BucketIds, PopulationState
from fedpredict.participant import populations
from fedpredict.participant.acceptance import accept, revoke
from fedpredict.participant.server import ParticipantServer
from fedpredict.participant.settings import ParticipantSettings
from fedpredict.security.identity import IdentityKind
from fedpredict.state.distinct_ids import DistinctIds
from fedpredict.state.sql import open_pin_store
from fedpredict.state.tasks import open_task_store
from fedpredict.tables.deliveries import Delivery, list_deliveries
from fedpredict.tables.models import publish_model
from fedpredict.tables.populations import list_versions
from fedpredict.tables.views import latest_snapshot
from fedpredict.warehouse.local import LocalWarehouse
from scripts.freeports import free_ports
from tests.integration.federation import Certificates, eventually

IDS = [f"p{number}" for number in range(3_000)]
KNOWN = {"lab": IDS[:2_900], "shop": IDS[100:]}
WEIGHTS = {"lab": 2.0, "shop": -1.0}
POLL_S = 0.05
LAB_LIMIT = 3_500
"""Distinct ids that the laboratory answers the bank about on a day: some more than there are."""


class World:
    """A bank without a part; a laboratory that it dials; a shop that dials the bank, and accepts by itself."""

    def __init__(self, folder: Path, certificates: Certificates) -> None:
        self.folder = folder
        self.certificates = certificates
        self.stack = AsyncExitStack()
        self.warehouses = {name: LocalWarehouse(folder / name) for name in ("bank", "lab", "shop")}
        (folder / "bank").mkdir()
        self.listen, self.links = (f"127.0.0.1:{port}" for port in free_ports(2))

    def fill(self, party: str) -> None:
        """Give a party one feature, and its part of model "m"."""
        random = np.random.default_rng(len(party))
        path = self.folder / f"{party}.parquet"
        pa.parquet.write_table(pa.table({"who": KNOWN[party], "x": random.normal(size=len(KNOWN[party]))}), path)
        warehouse = self.warehouses[party]
        load_file(warehouse, path, view="people", key="who")
        snapshot = latest_snapshot(warehouse, "people")
        assert snapshot is not None
        part = LinearPart(("x",), np.array([[WEIGHTS[party]]]), None, np.zeros(1))
        partial = PartialModel("m", "run-1", party, Kind.LINEAR, (), False, part)
        publish_model(warehouse, partial, snapshot.view, ("ab" if party == "lab" else "cd") * 32)

    def tls(self, party: str) -> dict[str, Path]:
        files = self.certificates.of(party)
        return {"ca": files.ca, "certificate": files.certificate, "key": files.key}

    async def participant(self, party: str, **settings: object) -> ParticipantServer:
        content = {
            "party": party,
            "poll_s": POLL_S,
            "tls": self.tls(party),
            "warehouse": {"path": "elsewhere"},
            "listen": "127.0.0.1:0",
            **settings,
        }
        checked = ParticipantSettings.model_validate(content)
        counts = self.stack.enter_context(closing(DistinctIds(self.folder / "distinct-ids" / party)))
        server = ParticipantServer(checked, self.warehouses[party], self.certificates.of(party), distinct=counts)
        return await self.stack.enter_async_context(server)

    async def initiator(self, lab: str) -> InitiatorServer:
        content = {
            "party": "bank",
            "listen": self.listen,
            "link_listen": self.links,
            "poll_s": POLL_S,
            "drain_s": 1.0,
            "tls": self.tls("bank"),
            "parties": {"lab": {"address": lab}, "shop": {"connect": "in"}},
            "models": {"m": {"parties": ["lab", "shop"]}},
            "clients": {"desk": {"models": ["*"]}},
        }
        pins, tasks = (
            open_pin_store("sqlite:///state.db", self.folder),
            open_task_store("sqlite:///state.db", self.folder),
        )
        self.stack.callback(pins.close)
        self.stack.callback(tasks.close)
        server = InitiatorServer(
            InitiatorSettings.model_validate(content),
            pins,
            self.certificates.of("bank"),
            tasks=TaskParts(tasks, self.warehouses["bank"]),
        )
        return await self.stack.enter_async_context(server)

    def client(self) -> AsyncClient:
        tls = self.certificates.of("desk", IdentityKind.CLIENT)
        return AsyncClient(self.listen, server_party="bank", tls=tls)

    def propose(self, ids: Sequence[str]) -> None:
        batch = SampleIds.of([each.encode() for each in ids])
        standing.propose(
            self.warehouses["bank"], "bank", "people", [batch], parties=["lab", "shop"], by="ada", least_buckets=8
        )

    def deliveries(self) -> dict[str, Delivery]:
        return {each.party: each for each in list_deliveries(self.warehouses["bank"], "bank", "people")}

    async def until(self, party: str, version: int, state: PopulationState) -> None:
        async def reached() -> bool:
            found = self.deliveries()[party]
            return (found.version, found.state, found.problem) == (version, state, "")

        await eventually(reached)


@pytest.fixture
async def world(tmp_path: Path, certificates: Certificates) -> AsyncIterator[World]:
    made = World(tmp_path, certificates)
    made.fill("lab")
    made.fill("shop")
    async with made.stack:
        bank = {"bank": {"models": ["*"], "distinct_ids_per_day": LAB_LIMIT}}
        lab = await made.participant("lab", link_listen="127.0.0.1:0", callers=bank)
        await made.initiator(lab.address)
        await made.participant(
            "shop",
            connect="out",
            initiators={"bank": {"addresses": [made.listen], "link_addresses": [made.links]}},
            callers={"bank": {"models": ["*"], "accept_populations": True}},
        )
        yield made


def when_ready(client: AsyncClient) -> Callable[[], Awaitable[bool]]:
    async def ready() -> bool:
        return all(each.ready for each in await client.models())

    return ready


async def check(client: AsyncClient, ids: Sequence[str], task_id: str) -> None:
    """Hold a task's results to direct predictions for the same ids, bit for bit."""
    direct = await client.predict("m", ids, mode=Mode.NEARLINE)
    table = await client.results_table(task_id)
    found = {each["sample_id"]: (each["prediction"], each["status"]) for each in table.to_pylist()}
    assert len(found) == table.num_rows == len(ids)
    wanted = zip(ids, direct.values[:, 0].tolist(), direct.status.tolist(), strict=True)
    for sample_id, value, status in wanted:
        expected = (None if np.isnan(value) else value, SampleStatus(status).name.lower())
        assert found[sample_id] == expected


async def test_a_population_is_brought_accepted_and_predicted_as_direct_predictions_are(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    read = populations.StandingPopulations.ids

    def counted(self: populations.StandingPopulations, owner: str, *args: object) -> object:
        asked.append(owner)
        return read(self, owner, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(populations.StandingPopulations, "ids", counted)
    world.propose(IDS)
    async with world.client() as client:
        await eventually(when_ready(client))
        await world.until("shop", 1, PopulationState.ACCEPTED)
        await world.until("lab", 1, PopulationState.PROPOSED)
        task_id = await client.submit("m", Standing("people"), mode=Mode.NEARLINE)

        with pytest.raises(TaskFailedError, match="its operator has not accepted it"):
            await client.results_table(task_id)
        accept(world.warehouses["lab"], "bank", "people", None, "grace", keep_versions=3)
        await world.until("lab", 1, PopulationState.ACCEPTED)
        await client.retry(task_id)
        info = await client.wait(task_id, timeout_s=60.0)
        assert (info.state, info.ids, info.ids_done) == (OfflineState.DONE, 3_000, 3_000)
        assert info.scored == 2_800
        assert asked.count("bank") == len(asked) >= 16
        await check(client, IDS, task_id)


async def test_a_list_is_predicted_by_a_party_that_is_dialled_and_one_that_dials(world: World) -> None:
    async with world.client() as client:
        await eventually(when_ready(client))

        task_id = await client.submit("m", IDS, mode=Mode.NEARLINE)
        await client.wait(task_id, timeout_s=60.0)

        await check(client, IDS, task_id)


@pytest.mark.usefixtures("one_day")
async def test_a_task_waits_for_a_party_whose_daily_limit_it_would_pass(world: World) -> None:
    world.propose(IDS)
    async with world.client() as client:
        await eventually(when_ready(client))
        await world.until("lab", 1, PopulationState.PROPOSED)
        accept(world.warehouses["lab"], "bank", "people", None, "grace", keep_versions=3)
        await world.until("lab", 1, PopulationState.ACCEPTED)
        await world.until("shop", 1, PopulationState.ACCEPTED)
        await client.wait(await client.submit("m", Standing("people"), mode=Mode.NEARLINE), timeout_s=60.0)
        direct = await client.predict("m", IDS, mode=Mode.NEARLINE)
        assert direct.status.tolist().count(SampleStatus.OK) == 2_800

        strangers = [f"stranger-{number}" for number in range(LAB_LIMIT - len(IDS) + 1)]
        task_id = await client.submit("m", strangers, mode=Mode.NEARLINE)

        async def waits() -> bool:
            info = await client.task(task_id)
            return info.state is OfflineState.WAITING and "its daily limit is used up" in info.problem

        await eventually(waits)
        refused = await client.predict("m", strangers, mode=Mode.NEARLINE)
        assert set(refused.status.tolist()) == {SampleStatus.REFUSED}
        allowed = await client.predict("m", [*IDS[:5], *strangers[1:]], mode=Mode.NEARLINE)
        assert SampleStatus.REFUSED not in allowed.status.tolist()


async def test_a_new_version_brings_only_what_changed_and_a_revoked_one_is_told(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[tuple[int, int, str]] = []
    put = populations.StandingPopulations.put

    def noted(self: populations.StandingPopulations, owner: str, bucket: BucketIds, *others: Any) -> None:
        sent.append((bucket.version, bucket.bucket, type(bucket.content).__name__))
        put(self, owner, bucket, *others)

    monkeypatch.setattr(populations.StandingPopulations, "put", noted)
    world.propose(IDS)
    await world.until("lab", 1, PopulationState.PROPOSED)
    accept(world.warehouses["lab"], "bank", "people", 1, "grace", keep_versions=3)
    await world.until("lab", 1, PopulationState.ACCEPTED)
    await world.until("shop", 1, PopulationState.ACCEPTED)
    assert sorted(sent) == sorted([(1, bucket, "SampleIds") for bucket in range(8)] * 2)
    sent.clear()

    added = SampleIds.of([b"new"])
    made = standing.update(
        world.warehouses["bank"], "bank", "people", [added], removed=[SampleIds.of([b"p0", b"nobody"])], by="ada"
    )
    assert (made.version.version, made.version.n_ids) == (2, 3_000)
    await world.until("lab", 2, PopulationState.PROPOSED)
    await world.until("shop", 2, PopulationState.ACCEPTED)

    assert len(sent) == 2 * made.changed_buckets
    assert {(version, kind) for version, _, kind in sent} == {(2, "BucketDelta")}
    revoke(world.warehouses["lab"], "bank", "people", 2, "grace")
    await world.until("lab", 2, PopulationState.REVOKED)
    states = {each.version: each.state for each in list_versions(world.warehouses["lab"])}
    assert states == {1: PopulationState.ACCEPTED, 2: PopulationState.REVOKED}


async def test_a_party_that_refuses_is_told_of_and_asked_again(world: World) -> None:
    world.propose(IDS)
    standing.add_parties(world.warehouses["bank"], "bank", "people", ["mill"])

    async def told() -> bool:
        return world.deliveries()["mill"].problem == "mill is not under [parties]"

    await eventually(told)
    await world.until("shop", 1, PopulationState.ACCEPTED)
