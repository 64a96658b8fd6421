"""The commands for standing populations, at the initiator that names them and at the participant that accepts."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest

from fedpredict.cli.leases import held_now
from fedpredict.cli.main import run
from fedpredict.cli.wiring import load_party
from fedpredict.initiator.offline.standing import CHANGE
from fedpredict.model.standing import BucketIds, PopulationNotice, PopulationState
from fedpredict.participant.populations import StandingPopulations
from fedpredict.participant.settings import CallerSettings, PopulationSettings
from fedpredict.tables.answered import write_answered
from fedpredict.tables.deliveries import ACCEPTANCES, list_deliveries, write_acceptance
from fedpredict.tables.populations import list_versions, read_bucket
from fedpredict.warehouse.local import LocalWarehouse
from tests.unit.participant.test_answered import record

INITIATOR = """
party = "bank"
insecure = true
[parties.lab]
address = "127.0.0.1:1"
[parties.shop]
connect = "in"
[models.risk]
parties = ["lab", "shop"]
[models.own]
parties = ["shop"]
"""
PARTICIPANT = """
party = "lab"
insecure = true
[warehouse]
path = "lab"
[callers.bank]
models = ["*"]
"""
AT_LAB = ("--config", "participant.toml")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "initiator.toml").write_text(INITIATOR)
    (tmp_path / "participant.toml").write_text(PARTICIPANT)
    (tmp_path / "lab").mkdir()
    (tmp_path / "ids.csv").write_text("who,age\nu1,7\nu2,8\nu1,9\n,3\nu3,1\n")
    return tmp_path


def said(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> str:
    """Run a command and return what it says, in one line."""
    capsys.readouterr()
    at_lab = AT_LAB[1] in words
    assert run([*words, *(() if at_lab else ("--config", "initiator.toml"))]) == code
    captured = capsys.readouterr()
    return " ".join((captured.out if code == 0 else captured.err).split())


def bring(folder: Path) -> None:
    """Bring the newest version to the laboratory, as daemons do."""
    version = list_versions(LocalWarehouse(folder / "tasks"), owner="bank", population="people")[-1]
    lab = StandingPopulations(
        LocalWarehouse(folder / "lab"), PopulationSettings(), {"bank": CallerSettings(models=("*",))}, poll_s=1.0
    )
    notice = PopulationNotice(
        request_id="r-1",
        population="people",
        version=version.version,
        n_ids=version.n_ids,
        digests=version.digests,
    )
    for bucket in lab.notice("bank", notice).missing:
        digest = version.digests[bucket]
        ids = read_bucket(LocalWarehouse(folder / "tasks"), "bank", "people", bucket, digest)
        lab.put(
            "bank",
            BucketIds(
                request_id="r-1",
                population="people",
                version=version.version,
                bucket=bucket,
                sha256=digest,
                content=ids,
            ),
        )
    lab.notice("bank", notice)


def ids_of(folder: Path, version: int) -> set[bytes]:
    warehouse = LocalWarehouse(folder / "tasks")
    found = list_versions(warehouse, owner="bank", population="people")[version - 1]
    return {
        each
        for bucket, digest in enumerate(found.digests)
        for each in read_bucket(warehouse, "bank", "people", bucket, digest)
    }


def test_versions_are_made_by_one_process_at_a_time(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of an update and an erasure at once, one would undo the other."""
    said(capsys, "population", "propose", "people", "--file", "ids.csv", "--column", "who", "--model", "risk")
    changes = (
        ["population", "propose", "others", "--file", "ids.csv", "--column", "who", "--model", "risk"],
        ["population", "update", "people", "--add", "ids.csv", "--column", "who"],
        ["population", "revoke", "people"],
        ["erase", "u1", "--yes"],
    )
    with held_now(load_party(folder / "initiator.toml"), CHANGE):
        for words in changes:
            assert "populations is under way at" in said(capsys, *words, code=10)
        said(capsys, "erase", "u1", "--dry-run")
    (version,) = list_versions(LocalWarehouse(folder / "tasks"))
    assert (version.population, version.state) == ("people", PopulationState.PROPOSED)


def test_a_population_is_proposed_changed_accepted_and_revoked(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "No populations" in said(capsys, "population", "list")
    assert "no initiator has named one" in said(capsys, "population", "list", *AT_LAB)
    made = json.loads(
        said(
            capsys,
            "population",
            "propose",
            "people",
            "--file",
            "ids.csv",
            "--column",
            "who",
            "--model",
            "risk",
            "--json",
        )
    )
    assert (made["version"], made["ids"], made["rows"]) == (1, 3, 5)
    assert (made["duplicates"], made["invalid"], made["first_invalid"]) == (1, 1, 4)
    assert made["parties"] == ["lab", "shop"]
    bring(folder)
    assert "proposed" in said(capsys, "population", "list", *AT_LAB)
    told = said(capsys, "population", "accept", "people", "--from", "bank", "--by", "ada", *AT_LAB)
    assert told == "Version 1 of population people of bank (3 ids) is accepted."
    shown = json.loads(said(capsys, "population", "show", "people", "--json", *AT_LAB))
    assert [(each["state"], each["by"]) for each in shown["versions"]] == [("accepted", "ada")]

    pa.parquet.write_table(pa.table({"sample_id": ["u1", "u9"]}), folder / "gone.parquet")
    (folder / "new.csv").write_text("sample_id\nu4\n")
    updated = said(capsys, "population", "update", "people", "--add", "new.csv", "--remove", "gone.parquet")
    assert updated.startswith("Version 2 of population people has 3 ids. The running initiator brings 1 buckets")
    assert ids_of(folder, 2) == {b"u2", b"u3", b"u4"}
    again = said(capsys, "population", "update", "people", "--add", "new.csv")
    assert again == "Nothing changed: Version 2 of population people has 3 ids."
    whole = said(capsys, "population", "update", "people", "--file", "ids.csv", "--column", "who")
    assert "Version 3" in whole
    assert ids_of(folder, 3) == {b"u1", b"u2", b"u3"}

    assert "version 1" in said(capsys, "population", "revoke", "people", "--from", "bank", *AT_LAB)
    assert "was revoked before" in said(capsys, "population", "revoke", "people", "--from", "bank", *AT_LAB)
    assert "version 1, 2, 3" in said(capsys, "population", "revoke", "people")
    assert "revoked; propose it anew" in said(capsys, "population", "update", "people", "--add", "new.csv", code=4)
    assert "Version 4" in said(capsys, "population", "propose", "people", "--file", "new.csv", "--parties", "lab")
    warehouse = LocalWarehouse(folder / "tasks")
    lab, _ = list_deliveries(warehouse, "bank", "people")
    warehouse.ensure(ACCEPTANCES)
    write_acceptance(warehouse, lab, 2)
    shown = json.loads(said(capsys, "population", "show", "people", "--json"))
    assert [(each["party"], each["accepted"]) for each in shown["parties"]] == [("lab", 2), ("shop", None)]


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["propose", "people", "--file", "ids.csv", "--column", "who"], 2, "--model, or --parties"),
        (["propose", "people", "--model", "risk"], 2, "--file, or --table"),
        (["propose", "people", "--file", "ids.csv", "--column", "x", "--model", "risk"], 4, "no column 'x'"),
        (["propose", "people", "--file", "none.csv", "--model", "risk"], 4, "there is no such file"),
        (["propose", "people", "--file", "ids.csv", "--column", "who", "--model", "rusk"], 5, "risk"),
        (["propose", "people", "--file", "ids.csv", "--column", "who", "--parties", "mill"], 4, "there is lab, shop"),
        (["propose", "a/b", "--file", "ids.csv", "--column", "who", "--model", "risk"], 4, "is not a population"),
        (["propose", "upload-1", "--file", "ids.csv", "--column", "who", "--model", "risk"], 4, "those of lists"),
        (["propose", "people", "--file", "empty.csv", "--model", "risk"], 4, "no sample id among them"),
        (["update", "people", "--file", "ids.csv", "--column", "who"], 4, "there is none at all"),
        (["update", "people", "--file", "ids.csv", "--add", "ids.csv"], 2, "choose"),
        (["show", "people"], 4, "there is none at all"),
        (["propose", "people", "--table", "nope", "--model", "risk"], 4, "the warehouse has no table nope"),
        (["update", "people"], 2, "--add, --remove"),
        (["accept", "people", "--from", "bank"], 3, "is an initiator's"),
        (["accept", "people", *AT_LAB], 2, "--from PARTY"),
        (["accept", "people", "--from", "bank", *AT_LAB], 4, "there is no population people of bank"),
        (["propose", "people", "--file", "ids.csv", "--model", "risk", *AT_LAB], 3, "is a participant's"),
        (["revoke", "people", "--version", "1"], 4, "revoked as a whole"),
        (["revoke", "people"], 4, "there is none at all"),
    ],
)
def test_what_cannot_be_done_is_told_with_what_can(
    folder: Path, capsys: pytest.CaptureFixture[str], words: list[str], code: int, told: str
) -> None:
    (folder / "empty.csv").write_text("sample_id\n")

    assert told in said(capsys, "population", *words, code=code)


def test_a_population_that_is_there_is_not_proposed_again(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("population", "propose", "people", "--file", "ids.csv", "--column", "who", "--model", "risk")
    said(capsys, *words)

    assert "is there already; change it with `fedpredict population update`" in said(capsys, *words, code=4)


def test_what_a_participant_answered_is_listed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "Nothing yet" in said(capsys, "task", "answered", *AT_LAB)
    write_answered(LocalWarehouse(folder / "lab"), [record(0), record(1)])

    rows = json.loads(said(capsys, "task", "answered", "--task", "t-1", "--json", *AT_LAB))

    assert [(each["bucket"], each["n_rows"], each["n_scored"]) for each in rows] == [(0, 100, 90), (1, 100, 90)]
    assert json.loads(said(capsys, "task", "answered", "--task", "t-2", "--json", *AT_LAB)) == []
    assert "t-1" in said(capsys, "task", "answered", *AT_LAB)
