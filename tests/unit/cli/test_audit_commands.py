"""`fedpredict audit`: what is reported, what is found, and with which exit code."""

from __future__ import annotations

import json
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedpredict.cli.main import run
from fedpredict.cli.wiring import load_participant
from fedpredict.security.audit_chain import sign
from fedpredict.security.audit_line import AuditedCall
from tests.unit.security.test_audit import call, log

OPTIONS = ("--config", "participant.toml")


@pytest.fixture
def party(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A party that was asked on three days by two callers."""
    monkeypatch.chdir(tmp_path)
    Path("participant.toml").write_text('party = "lab"\ninsecure = true\n[warehouse]\npath = "warehouse"\n')
    now = datetime(2026, 11, 1, 12, tzinfo=UTC)
    with log(tmp_path / "audit" / "lab", now=lambda: now, anchor=tmp_path / "anchor.txt") as audit:
        audit.add(call(1))
        audit.add(call(1))
        now = datetime(2026, 11, 2, 12, tzinfo=UTC)
        audit.add(call(2))
        audit.add(call(3, 50))
        now = datetime(2026, 11, 3, 12, tzinfo=UTC)
        audit.add(AuditedCall("DescribeModel", "party shop", "r9", "credit", outcome="ModelNotFoundError"))
    return tmp_path


def said(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> Any:
    capsys.readouterr()
    assert run(["audit", *words]) == code
    captured = capsys.readouterr()
    return json.loads(captured.out) if code == 0 else " ".join(captured.err.split())


def test_who_asked_about_how_many(party: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bank, shop = said(capsys, "report", *OPTIONS, "--json")
    assert (bank["caller"], bank["calls"], bank["rows"], bank["scored"]) == ("party bank", 4, 56, 4)
    assert (bank["people"], bank["large_rows"], bank["refused"]) == (4, 50, 0)
    assert (shop["caller"], shop["calls"], shop["rows"], shop["refused"]) == ("party shop", 1, 0, 1)
    assert (bank["first"], bank["last"]) == ("2026-11-01T12:00:00.000000Z", "2026-11-02T12:00:00.000000Z")

    (day,) = said(capsys, "report", *OPTIONS, "--json", "--from", "2026-11-02", "--to", "2026-11-03")
    assert (day["calls"], day["people"]) == (2, 2)
    assert said(capsys, "report", *OPTIONS, "--json", "--who", "party shop")[0]["caller"] == "party shop"
    assert "--from '1.11.'" in said(capsys, "report", *OPTIONS, "--from", "1.11.", code=4)


def test_who_asked_about_one_person_and_what_could_not_be_searched(
    party: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (about,) = said(capsys, "report", *OPTIONS, "--json", "--sample-id", "person-1-0")
    assert (about["calls"], about["rows"], about["large_calls"], about["large_rows"]) == (2, 4, 1, 50)
    capsys.readouterr()
    assert run(["audit", "report", *OPTIONS, "--json", "--sample-id", "nobody"]) == 0
    captured = capsys.readouterr()
    (nobody,) = json.loads(captured.out)
    assert (nobody["calls"], nobody["large_calls"], nobody["large_rows"]) == (0, 1, 50)
    assert "1 calls about 50 rows could not be searched" in captured.err
    assert said(capsys, "report", *OPTIONS, "--json", "--sample-id", "nobody", "--to", "2026-11-02") == []


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        (b'"rows":2', b'"rows":"two"', "rows are 'two'"),
        (b'"rows":2', b'"rows":null', "rows are None"),
        (b'"statuses":{"OK":1,', b'"statuses":3,"x":{', "its counts are none"),
        (b'"ids":[', b'"ids":[7,', "its ids are none"),
    ],
)
def test_a_line_that_this_party_never_wrote_is_named_and_not_added_up(
    party: Path, capsys: pytest.CaptureFixture[str], before: bytes, after: bytes, told: str
) -> None:
    (path,) = Path("audit/lab/worker-0").glob("*.jsonl")
    assert before in path.read_bytes()
    path.write_bytes(path.read_bytes().replace(before, after, 1))
    said_of_it = said(capsys, "report", *OPTIONS, code=9)
    assert f"{path.name}: line 3: " in said_of_it
    assert told in said_of_it
    assert "audit verify" in said_of_it


def test_a_chain_that_was_copied_is_not_counted_twice(party: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree("audit/lab/worker-0", "audit/lab/worker-7")
    assert "2 folders hold the chain lab/worker-0" in said(capsys, "verify", *OPTIONS, code=9)
    assert "which is of another folder" in said(capsys, "report", *OPTIONS, code=9)


def test_keys_without_a_chain_are_no_whole_log(party: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree("audit/lab/worker-0")
    assert "keys and no chain" in said(capsys, "verify", *OPTIONS, code=9)


def test_a_caller_who_is_not_in_the_log_is_told_who_is(party: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["audit", "report", *OPTIONS, "--who", "bank"]) == 0
    assert "in the log are: party bank, party shop" in " ".join(capsys.readouterr().err.split())
    turned = said(capsys, "report", *OPTIONS, "--from", "2026-11-03", "--to", "2026-11-01", code=4)
    assert "there is nothing between them" in turned


def test_the_report_reads_the_key_of_ids_and_never_makes_keys(party: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("signing.key", "signing.pub"):
        Path("audit/lab", name).unlink()
    assert said(capsys, "report", *OPTIONS, "--json", "--sample-id", "person-1-0")[0]["calls"] == 2
    Path("audit/lab/ids.key").unlink()
    assert "ids.key cannot be read" in said(capsys, "report", *OPTIONS, "--sample-id", "person-1-0", code=3)
    assert not list(Path("audit/lab").glob("*.key"))


def test_of_a_shared_syslog_only_what_this_partys_key_signed_can_be_missing(
    party: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stranger = Ed25519PrivateKey.generate()
    with Path("anchor.txt").open("a") as anchor:
        for chain in ("shop/worker-0", "lab/worker-7"):
            anchor.write(f"<85>Nov 27 08:00:00 host {sign(stranger, chain, 7, 'f' * 64).text}\n")
    (row,) = said(capsys, "verify", *OPTIONS, "--json", "--anchor", "anchor.txt")
    assert row["problems"] == []


def test_a_chains_name_is_in_its_lines_not_in_its_folder(party: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree("audit/lab", "evidence-2026")
    (row,) = said(capsys, "verify", "--folder", "evidence-2026", "--json", "--anchor", "anchor.txt")
    assert (row["chain"], row["problems"]) == ("lab/worker-0", [])
    assert row["anchors"] >= 1


def test_a_whole_log_is_verified_and_a_copy_of_it_elsewhere(party: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (row,) = said(capsys, "verify", *OPTIONS, "--json", "--anchor", "anchor.txt")
    assert (row["chain"], row["problems"]) == ("lab/worker-0", [])
    assert row["anchors"] >= 1
    shutil.copytree("audit/lab", "elsewhere/lab")
    Path("elsewhere/lab/signing.key").unlink()
    Path("elsewhere/lab/ids.key").unlink()
    assert said(capsys, "verify", "--folder", "elsewhere/lab", "--json")[0]["lines"] == row["lines"]


def test_what_is_not_whole_ends_with_exit_code_9(party: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (path,) = Path("audit/lab/worker-0").glob("*.jsonl")
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b'"rows":50', b'"rows":5'))
    assert "number 6 was changed" in said(capsys, "verify", *OPTIONS, code=9)
    path.write_bytes(b"".join(whole.splitlines(keepends=True)[:3]))
    assert "its end was cut off" in said(capsys, "verify", *OPTIONS, "--anchor", "anchor.txt", code=9)
    shutil.rmtree("audit/lab/worker-0")
    told = said(capsys, "verify", *OPTIONS, "--anchor", "anchor.txt", code=9)
    assert "chain lab/worker-0, which an anchor knows, is gone" in told


def test_bad_files_are_named(party: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "participant.toml: holds no checkpoint" in said(
        capsys, "verify", *OPTIONS, "--anchor", "participant.toml", code=4
    )
    assert "none.txt: cannot be read" in said(capsys, "verify", *OPTIONS, "--anchor", "none.txt", code=4)
    assert "no public audit key" in said(capsys, "verify", *OPTIONS, "--key", "anchor.txt", code=3)


def doctor(capsys: pytest.CaptureFixture[str]) -> list[dict[str, str]]:
    capsys.readouterr()
    run(["doctor", *OPTIONS, "--json"])
    found: list[dict[str, str]] = json.loads(capsys.readouterr().out)
    return [each for each in found if each["topic"] == "audit"]


def test_the_doctor_says_whether_the_log_can_be_written_and_leaves_nothing(
    party: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.read_bytes() for path in Path("audit").rglob("*") if path.is_file()}
    (found,) = doctor(capsys)
    assert (found["level"], "1 chains can go on" in found["what"]) == ("ok", True)
    assert {path: path.read_bytes() for path in Path("audit").rglob("*") if path.is_file()} == before
    (path,) = Path("audit/lab/worker-0").glob("*.jsonl")
    path.write_bytes(path.read_bytes().replace(b'"rows":50', b'"rows":51'))
    assert "not as this party wrote it" in doctor(capsys)[0]["what"]
    Path("audit/lab/ids.key").unlink()
    assert "has no ids.key" in doctor(capsys)[0]["what"]
    shutil.rmtree("audit")
    assert doctor(capsys)[0]["level"] == "ok"
    assert not Path("audit").exists()
    Path("audit").write_text("")
    (found,) = doctor(capsys)
    assert (found["level"], "[audit] path" in found["fix"]) == ("problem", True)


def test_the_settings_for_systemd_keep_the_log_where_the_unit_may_write() -> None:
    folder = Path(__file__).parents[3] / "deploy"
    loaded = load_participant(folder / "participant.toml")
    unit = (folder / "systemd/fedpredict-participant.service").read_text().splitlines()
    (writable,) = [Path(line.partition("=")[2]) for line in unit if line.startswith("ReadWritePaths=")]
    settings = loaded.settings
    assert "ProtectSystem=strict" in unit
    assert settings.audit.path.is_relative_to(writable)
    assert settings.store.path is not None
    assert Path(settings.store.path).is_relative_to(writable)
