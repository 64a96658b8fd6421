"""Offline tasks from the client to results, with participants over TLS; scikit-learn on the joined table is right."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest
from sklearn.linear_model import LogisticRegression

from fedpredict.cli.main import run
from fedpredict.client import AsyncClient, FileOf, Mode, OfflineState, RankBy, Standing, TableOf, TaskInfo
from fedpredict.errors import (
    EmptyRequestError,
    FieldError,
    InputError,
    ModelNotFoundError,
    TaskFailedError,
    TaskNotFoundError,
    UnsupportedModeError,
)
from fedpredict.features.load import load_file
from fedpredict.initiator.server import InitiatorServer
from fedpredict.model.arrays import Floats
from fedpredict.model.kinds import Kind
from fedpredict.model.linear import LinearPart
from fedpredict.model.partial import PartialModel
from fedpredict.model.populations import BucketQuery
from fedpredict.model.sample_ids import SampleIds
from fedpredict.model.scorer import PartyReply
from fedpredict.model.share import SampleStatus
from fedpredict.participant.server import ParticipantServer
from fedpredict.participant.settings import ParticipantSettings
from fedpredict.scoring.buckets import StoreBuckets
from fedpredict.security.identity import IdentityKind
from fedpredict.tables.models import publish_model
from fedpredict.tables.results import write_results
from fedpredict.tables.views import latest_snapshot
from fedpredict.warehouse.local import LocalWarehouse
from tests.integration.federation import POLL_S, Certificates, Federation, eventually
from tests.integration.test_observed_daemons import metrics, value

OWNERS = {"bank": [0, 1], "lab": [2, 3, 4], "shop": [5]}
N_ROWS = 20_000
IDS = [f"p{row}" for row in range(N_ROWS)]
UNKNOWN_TO_LAB = set(range(0, N_ROWS, 100))


@dataclass
class World:
    """A bank, which holds a part itself, and two participants, over what their warehouses hold."""

    folder: Path
    rows: Floats
    expected: Floats
    federation: Federation = field(init=False)
    running: dict[str, ParticipantServer] = field(default_factory=dict)

    async def serve(self, party: str, listen: str = "127.0.0.1:0", **more: Any) -> None:
        """Start a participant over the warehouse that was filled."""
        tls = self.federation.certificates.of(party)
        settings = ParticipantSettings.model_validate(
            {
                "party": party,
                "listen": listen,
                "link_listen": "127.0.0.1:0",
                "poll_s": POLL_S,
                "drain_s": 0.1,
                "tls": {"ca": tls.ca, "certificate": tls.certificate, "key": tls.key},
                "warehouse": {"path": "elsewhere"},
                "callers": {"bank": {"models": ["*"]}},
                **more,
            }
        )
        server = ParticipantServer(settings, LocalWarehouse(self.folder / party), tls)
        await server.__aenter__()
        self.running[party] = server
        self.federation.parties[party] = server.address

    async def stop(self, party: str) -> None:
        """Stop a participant."""
        await self.running.pop(party).__aexit__(None, None, None)

    async def ask(self, **settings: Any) -> InitiatorServer:
        """Start the initiator, and return it when the model can be answered."""
        models = {"risk": {"parties": list(OWNERS)}}
        warehouse = LocalWarehouse(self.folder / "bank")
        server = await self.federation.initiator(models, warehouse=warehouse, task_warehouse=warehouse, **settings)
        await self.federation.ready("risk")
        return server

    def client(self, name: str = "desk") -> AsyncClient:
        """Return a client of the initiator."""
        tls = self.federation.certificates.of(name, IdentityKind.CLIENT)
        return AsyncClient(self.federation.address, server_party="bank", tls=tls)


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Train a model on the joined table, and give each party its rows and its part."""
    folder = tmp_path_factory.mktemp("offline")
    random = np.random.default_rng(5)
    rows = np.round(random.normal(size=(N_ROWS, 6)), 3)
    model = LogisticRegression().fit(rows, rows @ random.normal(size=6) + random.normal(size=N_ROWS) > 0.3)
    for party, columns in OWNERS.items():
        names = tuple(f"f{column}" for column in columns)
        known = [row for row in range(N_ROWS) if party != "lab" or row not in UNKNOWN_TO_LAB]
        table = {"who": [IDS[row] for row in known], **{f"f{column}": rows[known, column] for column in columns}}
        pa.parquet.write_table(pa.table(table), folder / f"{party}.parquet")
        warehouse = LocalWarehouse(folder / party)
        load_file(warehouse, folder / f"{party}.parquet", view="people", key="who")
        snapshot = latest_snapshot(warehouse, "people")
        assert snapshot is not None
        intercept = model.intercept_ if party == "shop" else None
        part = LinearPart(names, model.coef_[:, columns].T, intercept, np.zeros(1))
        partial = PartialModel("risk", "run-1", party, Kind.BINARY, ("no", "yes"), True, part)
        publish_model(warehouse, partial, snapshot.view, "a" * 64)
    return World(folder, rows, model.predict_proba(rows)[:, 1])


@pytest.fixture
async def world(filled: World, tmp_path: Path, certificates: Certificates) -> AsyncIterator[World]:
    async with Federation(tmp_path, certificates) as federation:
        filled.federation = federation
        for party in ("lab", "shop"):
            await filled.serve(party)
        try:
            yield filled
        finally:
            for party in tuple(filled.running):
                await filled.stop(party)


async def table_of(client: AsyncClient, task_id: str) -> dict[str, tuple[float | None, str]]:
    """Return the results of a task by id; each must be there once."""
    table = await client.results_table(task_id)
    assert table.column_names == ["sample_id", "prediction", "status", "origin"]
    found = {each["sample_id"]: (each["prediction"], each["status"]) for each in table.to_pylist()}
    assert len(found) == table.num_rows
    return found


def check(world: World, found: dict[str, tuple[float | None, str]]) -> None:
    """Compare the results of all ids with the truth."""
    for row, sample_id in enumerate(IDS):
        prediction, status = found[sample_id]
        if row in UNKNOWN_TO_LAB:
            assert (prediction, status) == (None, "not_found")
        else:
            assert status == "ok"
            assert prediction == pytest.approx(world.expected[row], rel=1e-9)


async def test_a_list_is_predicted_as_scikit_learn_does_and_everything_is_counted(world: World) -> None:
    await world.ask()
    given = [*IDS, *IDS[:500], *["bad\nid"] * 1_000, "nobody", ""]
    async with world.client() as client:
        task_id = await client.submit("risk", given, mode=Mode.NEARLINE, note="a trial")
        info = await client.wait(task_id, timeout_s=120.0)
        found = await table_of(client, task_id)

    assert (info.state, info.problem, info.note) == (OfflineState.DONE, "", "a trial")
    assert (info.rows, info.ids, info.duplicates, info.invalid) == (len(given), N_ROWS + 1, 500, 1_001)
    n_scored = N_ROWS - len(UNKNOWN_TO_LAB)
    assert (info.ids_done, info.scored) == (N_ROWS + 1, n_scored)
    assert info.statuses == {SampleStatus.OK: n_scored, SampleStatus.NOT_FOUND: len(UNKNOWN_TO_LAB) + 1}
    by_party = {each.party: each.statuses for each in info.parties}
    assert by_party["lab"] == info.statuses
    assert by_party["shop"] == {SampleStatus.OK: N_ROWS, SampleStatus.NOT_FOUND: 1}
    known = world.expected[[row for row in range(N_ROWS) if row not in UNKNOWN_TO_LAB]]
    assert list(info.histograms[0].counts[1:-1]) == np.histogram(known, bins=32, range=(0.0, 1.0))[0].tolist()
    assert found.pop("nobody") == (None, "not_found")
    assert len(found) == N_ROWS
    check(world, found)


async def test_parties_that_hold_nothing_ready_answer_from_their_warehouses(world: World, small_buckets: None) -> None:
    by_warehouse = {"store": {"kind": "none"}, "tasks": {"answer_from": "warehouse", "answer_rows": 5_000}}
    for party in ("lab", "shop"):
        address = world.running[party].address
        await world.stop(party)
        await world.serve(party, address, **by_warehouse)
    await world.ask(**by_warehouse)
    async with world.client() as client:
        task_id = await client.submit("risk", [*IDS, "nobody"], mode=Mode.NEARLINE)
        info = await client.wait(task_id, timeout_s=120.0)
        found = await table_of(client, task_id)
        online = await client.predict("risk", [IDS[1]], mode=Mode.NEARLINE)

    assert (info.state, info.problem, info.n_buckets) == (OfflineState.DONE, "", 16)
    assert found.pop("nobody") == (None, "not_found")
    check(world, found)
    assert online.status.tolist() != [SampleStatus.OK]
    assert np.isnan(online.values).all()


@pytest.fixture
def small_buckets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have lists cut into buckets of some thousand ids."""
    monkeypatch.setattr("fedpredict.model.populations.BUCKET_ROWS", 2_500)


async def test_a_file_is_predicted_in_buckets_and_fetched_from_any_row_and_into_a_file(
    world: World, small_buckets: None, tmp_path: Path
) -> None:
    await world.ask()
    path = tmp_path / "ids.csv"
    path.write_text("name,who\n" + "".join(f"x,{each}\n" for each in IDS))
    async with world.client() as client:
        task_id = await client.submit("risk", FileOf(path, "who"), mode=Mode.NEARLINE)
        seen: list[TaskInfo] = []
        info = await client.wait(task_id, timeout_s=120.0, on_progress=seen.append)
        whole = await client.results_table(task_id)
        rest = [batch async for batch in client.results(task_id, offset=7_777)]
        n_rows = await client.results_to_parquet(task_id, tmp_path / "results.parquet")
        with pytest.raises(FieldError, match="beyond the last row"):
            await anext(aiter(client.results(task_id, offset=N_ROWS + 1)))

    assert (info.state, info.n_buckets, info.buckets_done) == (OfflineState.DONE, 8, 8)
    assert seen[-1] == info
    assert pa.Table.from_batches(rest).equals(whole.slice(7_777))
    assert n_rows == N_ROWS
    assert pa.parquet.read_table(tmp_path / "results.parquet").equals(whole)
    assert [each.name for each in tmp_path.glob(".*")] == []
    rows = whole.to_pylist()
    check(world, {each["sample_id"]: (each["prediction"], each["status"]) for each in rows})


async def test_a_snapshot_that_comes_while_a_task_runs_is_told(
    world: World, small_buckets: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer, asked = StoreBuckets.answer, list[int]()

    async def refreshed(self: StoreBuckets, query: BucketQuery, *others: Any) -> PartyReply:
        if self.party == "lab":
            asked.append(query.bucket)
        if self.party == "lab" and len(asked) == 4:
            before = self._source_of(query)
            warehouse = LocalWarehouse(world.folder / "lab")
            await asyncio.to_thread(load_file, warehouse, world.folder / "lab.parquet", view="people", key="who")

            async def is_served() -> bool:
                return self._source_of(query) != before

            await eventually(is_served)
        return await answer(self, query, *others)

    monkeypatch.setattr(StoreBuckets, "answer", refreshed)
    await world.ask(tasks={"buckets_under_way": 1})
    async with world.client() as client:
        info = await client.wait(await client.submit("risk", IDS, mode=Mode.NEARLINE), timeout_s=120.0)

    assert (info.state, info.n_buckets, len(asked)) == (OfflineState.DONE, 8, 8)
    assert {each.party: len(each.sources) for each in info.parties} == {"bank": 1, "lab": 2, "shop": 1}
    assert [each.buckets_done for each in info.parties] == [8, 8, 8]
    (warning,) = [each for each in info.warnings if "states of its data" in each]
    assert warning.startswith("the shares of party lab come from 2 states of its data (snapshot 20")


@pytest.mark.parametrize("combine", ["numpy", "engine"])
async def test_results_have_ranks_where_the_task_asks_for_them(
    world: World, small_buckets: None, tmp_path: Path, combine: str
) -> None:
    await world.ask(tasks={"combine": combine})
    async with world.client() as client:
        task_id = await client.submit("risk", IDS, mode=Mode.NEARLINE, rank_by="yes", idempotency_key=combine)
        whole = await client.results_table(task_id)
        info = await client.task(task_id)
        first = await client.results_table(task_id, top=100)
        n_rows = await client.results_to_parquet(task_id, tmp_path / "first.parquet", top=7)
        some = await client.submit("risk", IDS[:300], mode=Mode.NEARLINE, rank_by=RankBy("prediction", top=5))
        of_some = (await client.results_table(some)).column("rank")
        with pytest.raises(FieldError, match="more than the 5"):
            await client.results_table(some, top=6)
        without = await client.submit("risk", IDS[:10], mode=Mode.NEARLINE)
        with pytest.raises(FieldError, match="submitted with ranks"):
            await client.results_table(without, top=1)
        with pytest.raises(FieldError, match="no output of the model: it has yes, prediction"):
            await client.submit("risk", IDS[:10], mode=Mode.NEARLINE, rank_by="maybe")
        with pytest.raises(FieldError, match="was used for another"):
            await client.submit("risk", IDS, mode=Mode.NEARLINE, idempotency_key=combine)

    assert (info.combined_by, info.rank_by) == (combine, RankBy("prediction"))
    scored = [row for row in whole.to_pylist() if row["status"] == "ok"]
    ordered = sorted(scored, key=lambda row: (-row["prediction"], row["sample_id"].encode()))
    assert [row["rank"] for row in ordered] == list(range(1, len(ordered) + 1))
    assert {row["rank"] for row in whole.to_pylist() if row["status"] != "ok"} == {None}
    check(world, {row["sample_id"]: (row["prediction"], row["status"]) for row in whole.to_pylist()})
    assert first.to_pylist() == ordered[:100]
    assert n_rows == 7
    assert pa.parquet.read_table(tmp_path / "first.parquet").to_pylist() == ordered[:7]
    assert sorted(each for each in of_some.to_pylist() if each is not None) == [1, 2, 3, 4, 5]


async def test_a_party_that_is_away_has_the_task_wait_and_it_goes_on_by_itself(
    world: World, small_buckets: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fedpredict.initiator.offline.failure.MAX_WAIT_S", 0.2)
    monkeypatch.setattr("fedpredict.initiator.links.BRIDGE_S", 0.2)
    monkeypatch.setattr("fedpredict.initiator.offline.counted.WATCH_S", 0.05)
    bank = await world.ask(metrics={"listen": "127.0.0.1:0"})
    address = world.running["lab"].address
    async with world.client() as client:
        await world.stop("lab")
        task_id = await client.submit("risk", IDS, mode=Mode.NEARLINE)

        async def waits() -> bool:
            return (await client.task(task_id)).state is OfflineState.WAITING

        await eventually(waits)
        info = await client.task(task_id)
        assert "lab is away" in info.problem
        assert {each.party: each.problem for each in info.parties} == {"bank": "", "lab": info.problem, "shop": ""}
        await check_waiting_is_seen(bank.metrics_address)
        await world.serve("lab", address)
        assert (await client.wait(task_id, timeout_s=120.0)).state is OfflineState.DONE
        check(world, await table_of(client, task_id))
        told = [(each.what, each.detail) for each in await client.task_history(task_id)]
    assert [what for what, _ in told] == ["submitted", "started", "waiting", "goes on", "done"]
    assert told[2] == ("waiting", "PartyUnavailableError")
    kept = world.federation.task_store().events(task_id)
    assert [each.what for each in kept] == [what for what, _ in told]
    assert kept[2].detail.startswith("PartyUnavailableError: party lab: ")  # for the operator alone
    await check_done_is_seen(bank.metrics_address)


async def check_waiting_is_seen(address: str) -> None:
    """Check what an alert goes by: how long a task has waited, for whom and why, also while it is tried again."""
    labels = {"model": "risk", "party": "lab", "reason": "away"}

    async def waited_s(over_s: float) -> bool:
        return (value(await metrics(address), "fedpredict_task_waiting_seconds", **labels) or 0.0) > over_s

    await eventually(partial(waited_s, 0.0))
    await eventually(partial(waited_s, 1.0))  # it was tried several times by then
    assert value(await metrics(address), "fedpredict_tasks_waiting", **labels) == 1.0


async def check_done_is_seen(address: str) -> None:
    """Check what is counted of the whole task."""

    async def is_done() -> bool:
        return value(await metrics(address), "fedpredict_tasks", model="risk", state="done") == 1.0

    await eventually(is_done)
    found = await metrics(address)
    assert not any(name == "fedpredict_task_waiting_seconds" for name, _ in found)
    assert value(found, "fedpredict_task_bucket_seconds_count", model="risk") == 8
    rows = {
        (party, status): value(found, "fedpredict_task_rows_total", model="risk", party=party, status=status)
        for party in OWNERS
        for status in ("ok", "not_found")
    }
    assert rows["lab", "ok"] == N_ROWS - len(UNKNOWN_TO_LAB)
    assert rows["lab", "not_found"] == len(UNKNOWN_TO_LAB)
    asked_again = rows["bank", "ok"]
    assert asked_again is not None
    assert asked_again >= N_ROWS  # buckets for which another party was away
    assert value(found, "fedpredict_task_party_seconds_count", party="lab", outcome="ok") == 8
    assert value(found, "fedpredict_task_party_seconds_count", party="lab", outcome="unavailable")
    assert value(found, "fedpredict_uploads_total", outcome="ok") == 1
    assert value(found, "fedpredict_upload_rows_total") == N_ROWS
    assert value(found, "fedpredict_open_uploads") == 0


async def test_a_task_is_cancelled_and_gives_no_results(world: World, small_buckets: None) -> None:
    await world.ask()
    await world.stop("shop")
    async with world.client() as client:
        task_id = await client.submit("risk", IDS, mode=Mode.NEARLINE)
        assert (await client.cancel(task_id)).state is OfflineState.CANCELLED
        assert (await client.wait(task_id, timeout_s=60.0)).state is OfflineState.CANCELLED
        assert (await client.retry(task_id)).state is OfflineState.CANCELLED
        with pytest.raises(TaskFailedError, match="cancelled") as failed:
            await client.results_table(task_id)
    assert failed.value.state == "cancelled"


async def test_a_version_that_is_no_longer_served_fails_the_task_and_says_what_to_do(world: World) -> None:
    await world.ask()
    store = world.federation.task_store()
    async with world.client() as client:
        await world.stop("lab")
        task_id = await client.submit("risk", IDS[:10], mode=Mode.NEARLINE)
        task = store.task(task_id)
        store.cancel(task_id)
        digests = tuple((party, "0" * 64 if party == "lab" else each) for party, each in task.new.manifest.digests)
        older = store.submit(
            replace(task.new, manifest=replace(task.new.manifest, digests=digests), idempotency_key="")
        )
        await world.serve("lab", world.federation.parties["lab"])
        info = await client.wait(older.task_id, timeout_s=60.0)
        assert info.state is OfflineState.FAILED
        assert "party lab no longer serves the version" in info.problem
        assert "submit the task again" in info.problem
        store.withdraw(datetime.now(UTC) + timedelta(days=1))
        with pytest.raises(TaskFailedError, match="results were removed, because they were old: submit it again"):
            await client.retry(older.task_id)


async def test_results_that_a_late_worker_wrote_over_fail_the_task_and_a_retry_makes_them_again(
    world: World, small_buckets: None
) -> None:
    await world.ask()
    async with world.client() as client:
        task_id = await client.submit("risk", IDS, mode=Mode.NEARLINE)
        assert (await client.wait(task_id, timeout_s=120.0)).state is OfflineState.DONE
        warehouse = LocalWarehouse(world.folder / "bank")
        rows = warehouse.read("fp_results", ["sample_id"], {"task_id": task_id, "bucket": 3})
        ids = SampleIds.of([each.encode() for each in rows.column("sample_id").to_pylist()])
        ones = np.ones(len(ids), dtype=np.uint8)
        write_results(warehouse, task_id, 3, ids, predictions=np.full((len(ids), 1), 0.5), status=ones, origin=ones)
        with pytest.raises(TaskFailedError, match="bucket 3 are damaged at the initiator: retry"):
            await client.results_table(task_id)
        info = await client.task(task_id)
        assert (info.state, info.buckets_done, info.ids_done) == (OfflineState.FAILED, 7, N_ROWS - len(ids))
        await client.retry(task_id)
        assert (await client.wait(task_id, timeout_s=120.0)).state is OfflineState.DONE
        check(world, await table_of(client, task_id))


async def test_what_cannot_be_submitted_is_refused_by_name(world: World, tmp_path: Path) -> None:
    await world.ask(clients={"desk": {"models": ["*"]}, "till": {"models": ["other"]}})
    (tmp_path / "two.csv").write_text("a,b\n1,2\n")
    async with world.client() as client, world.client("till") as stranger:
        with pytest.raises(ModelNotFoundError):
            await client.submit("nothing", ["p1"])
        with pytest.raises(ModelNotFoundError):
            await stranger.submit("risk", ["p1"])
        with pytest.raises(UnsupportedModeError):
            await client.submit("risk", ["p1"], mode=Mode.REALTIME)
        with pytest.raises(EmptyRequestError):
            await client.submit("risk", [])
        with pytest.raises(EmptyRequestError):
            await client.submit("risk", ["bad\nid", ""])
        with pytest.raises(InputError, match="no column 'sample_id'; it has a, b"):
            await client.submit("risk", tmp_path / "two.csv")
        with pytest.raises(InputError, match="no such file"):
            await client.submit("risk", tmp_path / "none.parquet")
        with pytest.raises(FieldError, match="population: everybody is not known"):
            await client.submit("risk", Standing("everybody"))
        with pytest.raises(FieldError, match="population: everybody version 7 is not known"):
            await client.submit("risk", Standing("everybody", 7))
        with pytest.raises(FieldError, match=r"table: everybody is none that this initiator offers"):
            await client.submit("risk", TableOf("everybody"))
        task_id = await client.submit("risk", ["p1"], mode=Mode.NEARLINE, idempotency_key="daily")
        assert await client.submit("risk", ["p1"], mode=Mode.NEARLINE, idempotency_key="daily") == task_id
        with pytest.raises(FieldError, match="idempotency_key: was used for another"):
            await client.submit("risk", ["p2"], mode=Mode.NEARLINE, idempotency_key="daily")
        several = await client.submit("risk", ["p1", "p2"], mode=Mode.NEARLINE, idempotency_key="weekly")
        again = await client.submit("risk", ["p2", "p1", "p2"], mode=Mode.NEARLINE, idempotency_key="weekly")
        assert again == several
        with pytest.raises(TaskNotFoundError):
            await stranger.task(task_id)
        assert await stranger.tasks() == []
        assert [each.task_id for each in await client.tasks("risk")] == [several, task_id]
        with pytest.raises(InputError, match="no name of a task"):
            await client.task("a b")


async def test_a_table_of_the_initiators_is_a_population(world: World) -> None:
    people = {"table": "fp_features_people"}
    await world.ask(tasks={"tables": {"people": people, "others": people}})
    async with world.client() as client:
        task_id = await client.submit("risk", TableOf("people"), mode=Mode.NEARLINE, idempotency_key="daily")
        assert await client.submit("risk", TableOf("people"), mode=Mode.NEARLINE, idempotency_key="daily") == task_id
        with pytest.raises(FieldError, match="idempotency_key: was used for another"):
            await client.submit("risk", TableOf("others"), mode=Mode.NEARLINE, idempotency_key="daily")
        assert (await client.wait(task_id, timeout_s=120.0)).ids == N_ROWS
        check(world, await table_of(client, task_id))


async def test_a_table_that_the_settings_name_wrongly_is_refused_with_where_to_look(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    tables = {"gone": {"table": "nope"}, "column": {"table": "fp_features_people", "column": "who"}}
    numbers = {"table": "fp_features_people", "column": "view_version"}
    await world.ask(tasks={"tables": {**tables, "numbers": numbers}})
    async with world.client() as client:
        for name in ("gone", "column", "numbers"):
            with pytest.raises(FieldError, match=f"table: {name} cannot be read: at the initiator, `fedpredict"):
                await client.submit("risk", TableOf(name), mode=Mode.NEARLINE)
        assert await client.tasks() == []
    refused = " ".join(str(getattr(each, "reason", "")) for each in caplog.records)
    assert "[tasks.tables.gone]: the warehouse has no table nope" in refused
    assert "[tasks.tables.column]: table fp_features_people has no column who; it has sample_id, event_time" in refused
    assert "[tasks.tables.numbers]: column view_version of table fp_features_people holds int" in refused


async def test_the_commands_submit_show_and_fetch(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    await world.ask()
    tls = world.federation.certificates.of("desk", IdentityKind.CLIENT)
    (tmp_path / "client.toml").write_text(
        f'server = "{world.federation.address}"\nserver_party = "bank"\n'
        f'[tls]\nca = "{tls.ca}"\ncertificate = "{tls.certificate}"\nkey = "{tls.key}"\n'
    )
    (tmp_path / "ids.csv").write_text("who\n" + "\n".join(IDS[:1_000]) + "\n")
    config = ("--config", str(tmp_path / "client.toml"))

    async def command(*words: str, code: int = 0) -> Any:
        capsys.readouterr()
        assert await asyncio.to_thread(run, ["task", *words, *config, "--json"]) == code
        captured = capsys.readouterr()
        return json.loads(captured.out) if captured.out else captured.err

    asked = ("submit", "risk", "--ids", str(tmp_path / "ids.csv"), "--mode", "nearline", "--note", "by hand")
    done = await command(*asked, "--wait")
    assert (done["state"], done["ids"], done["note"]) == ("done", 1_000, "by hand")
    assert done["statuses"] == {"ok": 990, "not_found": 10}
    task_id = done["task_id"]
    assert [each["task_id"] for each in await command("list", "--model", "risk")] == [task_id]
    assert await command("show", task_id) == done
    by_party = {each["party"]: (each["buckets_done"], len(each["sources"])) for each in done["parties"]}
    assert by_party == {"bank": (1, 1), "lab": (1, 1), "shop": (1, 1)}
    await asyncio.to_thread(run, ["task", "show", task_id, *config])
    assert "lab: 1 of 1 buckets, 990 ok, 10 not_found (snapshot 20" in capsys.readouterr().out
    assert (await command("results", task_id, "--out", str(tmp_path / "out.csv")))["rows"] == 1_000
    rows = {each["sample_id"]: each for each in pa.csv.read_csv(tmp_path / "out.csv").to_pylist()}
    assert rows["p0"] == {"sample_id": "p0", "prediction": None, "status": "not_found", "origin": "unspecified"}
    assert rows["p1"]["prediction"] == pytest.approx(world.expected[1], rel=1e-9)
    assert (await command("cancel", task_id))["state"] == "done"
    assert (await command("retry", task_id))["state"] == "done"
    history = await command("logs", task_id)
    assert [each["what"] for each in history] == ["submitted", "started", "done"]
    assert "1000 ids in 1 buckets" in history[0]["detail"]
    assert "no task nothing of a model that you may ask for" in await command("logs", "nothing", code=5)
    assert "Name one of --ids FILE" in await command("submit", "risk", code=4)
    for words in (("show",), ("cancel",), ("retry",), ("results", "--out", str(tmp_path / "none.csv"))):
        told = await command(words[0], "nothing", *words[1:], code=5)
        assert "no task nothing of a model that you may ask for; see `fedpredict task list`" in told
