"""`fedpredict erase`: asked for twice, told what was where, and the store of this machine brought up to date."""

from __future__ import annotations

import json
import sys
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from io import BytesIO, StringIO, TextIOWrapper
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from fedpredict.cli.leases import held_now
from fedpredict.cli.main import run
from fedpredict.cli.wiring import load_party
from fedpredict.features.mapped import MappedStore
from fedpredict.features.registration import register_view
from fedpredict.initiator.offline import standing
from fedpredict.model.kinds import Kind
from fedpredict.model.linear import LinearPart
from fedpredict.model.partial import PartialModel
from fedpredict.model.sample_ids import SampleIds
from fedpredict.model.standing import PopulationState
from fedpredict.scoring.erase import in_store
from fedpredict.scoring.loader import ModelLoader
from fedpredict.scoring.populations import ingest
from fedpredict.scoring.tasks import score_day
from fedpredict.state.distinct_digests import CallerDay
from fedpredict.state.distinct_ids import DistinctIds
from fedpredict.state.event_base import StoredEvent
from fedpredict.state.events import open_event_store
from fedpredict.tables.erasure import work_table
from fedpredict.tables.models import publish_model
from fedpredict.tables.populations import list_versions, write_version
from fedpredict.tables.results import RESULTS, ensure_results, write_results
from fedpredict.tables.results_erasure import blank_copy
from fedpredict.tables.views import list_snapshots
from fedpredict.warehouse.base import Column, ColumnType, TableSchema
from fedpredict.warehouse.local import LocalWarehouse
from tests.raw_transactions import example, random_events, random_merchants
from tests.raw_transactions import store as store_raw

OPTIONS = ("--config", "participant.toml")


@pytest.fixture
def party(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Path:
    """A party with a file of two people."""
    monkeypatch.chdir(tmp_path)
    Path("participant.toml").write_text('party = "lab"\ninsecure = true\n[warehouse]\npath = "warehouse"\n')
    Path("people.csv").write_text("id,age\nu1,30\nu2,40\n")
    assert run(["features", "load", "people.csv", "--view", "people", "--key", "id", *OPTIONS]) == 0
    capsys.readouterr()
    return tmp_path


def said(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> str:
    capsys.readouterr()
    assert run(["erase", *words, *OPTIONS]) == code
    captured = capsys.readouterr()
    return captured.out if code == 0 else " ".join(captured.err.split())


def test_it_is_not_done_without_a_yes(party: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "say --yes, or look first with --dry-run" in said(capsys, "u1", code=4)
    assert "no sample id" in said(capsys, "", "--yes", code=4)

    looked = json.loads(said(capsys, "u1", "--dry-run", "--json"))

    assert [(row["table"], row["found"], row["removed"]) for row in looked] == [("fp_features_people", 1, 0)]


@pytest.mark.parametrize("given", ["\udcff", "-"])
def test_bytes_that_are_no_text_are_no_id(
    party: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, given: str
) -> None:
    monkeypatch.setattr(sys, "stdin", TextIOWrapper(BytesIO(b"\xff\n"), "utf-8"))
    assert run(["erase", given, "--yes", *OPTIONS]) == 4
    assert "no sample id" in capsys.readouterr().err


@pytest.mark.parametrize("line", ["u1\n", "u1\r\n", "u1"])
def test_an_id_may_come_by_standard_input_where_no_other_process_sees_it(
    party: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, line: str
) -> None:
    monkeypatch.setattr(sys, "stdin", StringIO(line, newline="\n"))
    removed = json.loads(said(capsys, "-", "--yes", "--json"))

    assert [(row["table"], row["found"], row["removed"]) for row in removed] == [("fp_features_people", 1, 1)]
    assert "Nothing was found of that id." in said(capsys, "u1", "--yes")


def test_the_store_of_this_machine_follows(party: Path, capsys: pytest.CaptureFixture[str]) -> None:
    publish(party)
    store, warehouse = MappedStore(party / "store" / "lab"), LocalWarehouse(party / "warehouse")
    loader = ModelLoader(warehouse, "lab", store)
    loader.refresh()
    served = in_store(store, "u1")

    removed = json.loads(said(capsys, "u1", "--yes", "--json"))
    loader.refresh()

    assert served == {("people", 1)}
    assert [(row["table"], row["place"], row["removed"]) for row in removed][1:] == [
        ("online store", "view=people, version=1", 1)
    ]
    assert in_store(store, "u1") == set()
    assert in_store(store, "u2") == served
    warehouse.close()


def test_the_store_keeps_as_many_versions_as_the_daemons_serve(party: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = Path("participant.toml")
    config.write_text(config.read_text().replace("insecure = true", "insecure = true\nkeep_versions = 5"))
    warehouse, store = LocalWarehouse(party / "warehouse"), MappedStore(party / "store" / "lab")
    view = list_snapshots(warehouse)[0].view
    for at in range(5):
        part = LinearPart(("age",), np.array([[1.0 + at]]), np.array([0.0]), np.array([0.0]))
        model = PartialModel("m", f"r{at}", "lab", Kind.LINEAR, (), True, part)
        version = publish_model(warehouse, model, view, f"{at:064d}", lambda _: {})[0]
        score_day(warehouse, version, datetime.now(UTC).date())
    ModelLoader(warehouse, "lab", store, keep_versions=5).refresh()
    held = len(store.held)

    said(capsys, "u1", "--yes")

    assert held == 6  # features, and the shares of each version
    assert len(list((party / "store" / "lab").glob("*.arrow"))) == held
    warehouse.close()


def test_a_source_of_another_system_is_told(party: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = Path("participant.toml")
    config.write_text(config.read_text() + '[realtime]\npeople = "postgresql+psycopg://u@bank.example/raw"\n')

    told = json.loads(said(capsys, "u1", "--dry-run", "--json"))
    left = said(capsys, "u1", "--yes", code=9)

    assert (told[-1]["table"], told[-1]["place"]) == ("postgresql+psycopg://u@bank.example/raw", "view=people")
    assert told[-1]["note"].startswith("not looked into: remove them there")
    assert "Not all of it could be removed" in left


def test_what_is_left_is_told_and_ends_with_nine(party: Path, capsys: pytest.CaptureFixture[str]) -> None:
    warehouse = LocalWarehouse(party / "warehouse")
    store_raw(warehouse, random_events(5, 20, 300), random_merchants(40))
    register_view(warehouse, *example("transactions"))
    warehouse.close()

    left = said(capsys, "a1", "--yes", code=9)
    everything = json.loads(said(capsys, "a1", "--yes", "--raw", "--json"))

    assert "Not all of it could be removed" in left
    assert [(row["table"], row["found"] == row["removed"], row["note"]) for row in everything] == [
        ("raw_transactions", True, "")
    ]
    assert "Nothing was found" in said(capsys, "a1", "--yes")


def test_raw_events_go_too(party: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with closing(open_event_store("sqlite:///events.db", party)) as store:
        store.add("tx.account", [StoredEvent(who, f"{who}-{at}", at, "{}") for who in ("u1", "u2") for at in range(3)])

        looked = json.loads(said(capsys, "u1", "--dry-run", "--json"))
        there = store.counts("u1")[0].events
        removed = json.loads(said(capsys, "u1", "--yes", "--json"))

        assert looked[-1] == {"table": "events", "place": "feed=tx.account", "found": 3, "removed": 0, "note": ""}
        assert there == 3
        assert removed[-1] == looked[-1] | {"removed": 3}
        assert [(each.sample_ids, each.events) for each in store.counts()] == [(1, 3)]


def test_a_source_that_is_only_read_is_named_without_being_asked(
    party: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = party / "participant.toml"
    settings.write_text(settings.read_text() + '\n[realtime]\ntransactions = "redis://127.0.0.1:1/0"\n')

    told = json.loads(said(capsys, "nobody", "--dry-run", "--raw", "--json"))

    assert told == [
        {
            "table": "redis://127.0.0.1:1/0",
            "place": "view=transactions",
            "found": 0,
            "removed": 0,
            "note": "not looked into: remove them there, or mode realtime goes on answering for them",
        }
    ]


def test_what_an_initiator_named_is_told(party: Path, capsys: pytest.CaptureFixture[str]) -> None:
    warehouse = LocalWarehouse(party / "warehouse")
    ingest(warehouse, "bank", "all", 1, [SampleIds.of([b"u1", b"u2"])], state=PopulationState.ACCEPTED)
    ensure_results(warehouse)
    one, ok = SampleIds.of([b"u1"]), np.ones(1, np.uint8)
    write_results(warehouse, "t", 0, one, predictions=np.ones((1, 1)), status=ok, origin=ok)
    blank_copy(warehouse, "t", 0, "u2", with_rank=False)  # which an initiator's erasure left that was killed
    warehouse.close()

    left = json.loads(said(capsys, "u1", "--dry-run", "--json"))

    assert [(row["table"], row["found"], row["removed"]) for row in left][1:] == [
        ("fp_population_ids", 1, 0),
        ("fp_results", 1, 0),
        (work_table(RESULTS).name, 1, 0),
    ]
    assert left[1]["note"].startswith("the initiator bank names them")
    assert left[2]["note"].startswith("of an initiator's tasks: run this with the settings of that initiator")
    assert "Not all of it could be removed" in said(capsys, "u1", "--yes", code=9)


INITIATOR = """party = "bank"
insecure = true
[parties.lab]
address = "127.0.0.1:1"
[models.m]
parties = ["lab"]
"""


def test_an_initiator_without_a_warehouse_runs_it_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("initiator.toml").write_text(INITIATOR)
    who = ["erase", "u1", "--yes", "--json"]
    assert run(who) == 0
    assert json.loads(capsys.readouterr().out) == []
    with closing(open_event_store("sqlite:///events.db", tmp_path)) as events:
        events.add("tx.account", [StoredEvent("u1", "e1", 1, "{}")])
    tasks = LocalWarehouse(tmp_path / "tasks")
    ids = SampleIds.of([b"u1", b"u2"])
    ingest(tasks, "bank", "upload-1", 1, [ids], state=PopulationState.ACCEPTED)
    standing.propose(tasks, "bank", "people", [ids], parties=["lab"], by="ada")
    (listed, _) = list_versions(tasks)
    long_ago = listed.changed_at - timedelta(hours=1)
    write_version(tasks, replace(listed, population="upload-1", changed_at=long_ago))
    versions = list_versions(tasks)

    assert run(["erase", "u1", "--dry-run"]) == 0
    assert list_versions(tasks) == versions
    capsys.readouterr()
    code = run(who)
    told = json.loads(capsys.readouterr().out)

    assert code == 9
    assert [(row["table"], row["found"], row["removed"]) for row in told] == [
        ("fp_population_ids", 1, 0),
        ("fp_population_ids", 1, 1),
        ("events", 1, 1),
    ]
    assert told[0]["note"].startswith("version 2 is made without them")
    assert [(each.population, each.version) for each in list_versions(tasks)] == [("people", 1), ("people", 2)]
    assert run(who) == 0  # nobody answers for version 1
    assert [each.version for each in list_versions(tasks)] == [2]
    capsys.readouterr()
    assert run(who) == 0
    assert json.loads(capsys.readouterr().out) == []
    tasks.close()


def test_tables_that_tasks_may_be_about_are_raw_tables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("initiator.toml").write_text(
        INITIATOR + '[warehouse]\npath = "warehouse"\n[tasks.tables.all]\ntable = "customers"\ncolumn = "who"\n'
    )
    warehouse = LocalWarehouse(tmp_path / "warehouse")
    warehouse.ensure(TableSchema("customers", (Column("who", ColumnType.STRING),), ()))
    warehouse.replace("customers", {}, pa.table({"who": ["u1", "u2"]}))

    assert run(["erase", "u1", "--yes"]) == 9
    capsys.readouterr()
    assert run(["erase", "u1", "--yes", "--raw", "--json"]) == 0

    assert [(row["table"], row["removed"]) for row in json.loads(capsys.readouterr().out)] == [("customers", 1)]
    assert warehouse.read("customers", ["who"], {}).column(0).to_pylist() == ["u2"]
    warehouse.close()


def test_what_was_removed_is_told_where_the_rest_cannot_be_done_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The next call does not find it any more."""
    monkeypatch.chdir(tmp_path)
    Path("initiator.toml").write_text(INITIATOR + '[warehouse]\npath = "warehouse"\n')
    Path("people.csv").write_text("id,age\nu1,30\nu2,40\n")
    for words in (
        ["features", "load", "people.csv", "--view", "people", "--key", "id"],
        ["population", "propose", "people", "--file", "people.csv", "--column", "id", "--parties", "lab"],
    ):
        assert run(words) == 0
    capsys.readouterr()
    with held_now(load_party(Path("initiator.toml")), standing.CHANGE):
        code = run(["erase", "u1", "--yes", "--json"])
    told = capsys.readouterr()
    assert run(["erase", "u1", "--yes", "--json"]) == 9
    rest = json.loads(capsys.readouterr().out)

    assert code == 10
    assert [(row["table"], row["removed"]) for row in json.loads(told.out)] == [("fp_features_people", 1)]
    assert "populations is under way" in told.err
    assert "That is what was done by then; the rest was not looked into: repeat." in told.err
    assert [(row["table"], row["removed"]) for row in rest] == [("fp_population_ids", 0)]


def publish(party: Path) -> None:
    """A model over the file's view."""
    warehouse = LocalWarehouse(party / "warehouse")
    part = LinearPart(("age",), np.array([[1.0]]), np.array([0.0]), np.array([0.0]))
    model = PartialModel("m", "r", "lab", Kind.LINEAR, (), True, part)
    publish_model(warehouse, model, list_snapshots(warehouse)[0].view, "a" * 64, lambda _: {})
    warehouse.close()


def test_digests_that_distinct_ids_were_counted_with_go_too(party: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with closing(DistinctIds(party / "distinct-ids" / "lab")) as counts:
        who = CallerDay("bank", counts.today())
        new = counts.look(who, SampleIds.of([b"u1", b"u2"]), 2)
        assert new is not None
        counts.count(who, [new])
        place = {"table": "distinct ids", "place": f"day={who.day}, caller=bank", "found": 1, "note": ""}

        assert {**place, "removed": 0} in json.loads(said(capsys, "u1", "--dry-run", "--json"))
        assert {**place, "removed": 1} in json.loads(said(capsys, "u1", "--yes", "--json"))
        assert "distinct ids" not in said(capsys, "u1", "--dry-run", "--json")
        assert "distinct ids" in said(capsys, "u2", "--dry-run", "--json")
        assert counts.used(who) == 2
