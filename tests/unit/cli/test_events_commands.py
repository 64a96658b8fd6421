"""`fedpredict events`, from a registered view to events that are stored, counted and pruned."""

from __future__ import annotations

import json
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from fedpredict.cli.main import run
from fedpredict.state.lease_files import FolderLeases
from fedpredict.state.leases import hold
from fedpredict.warehouse.local import LocalWarehouse
from tests.raw_transactions import EXAMPLES, random_merchants, store

OPTIONS = ("--config", "lab/participant.toml")
NOW = datetime.now(UTC)


@pytest.fixture
def lab(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A party with the example view registered."""
    monkeypatch.chdir(tmp_path)
    assert run(["init", "participant", "lab", "--no-certs"]) == 0
    shutil.copytree(EXAMPLES, tmp_path / "views", ignore=shutil.ignore_patterns("*.py"))
    warehouse = LocalWarehouse(tmp_path / "lab" / "warehouse")
    store(warehouse, [], random_merchants(4))
    warehouse.close()
    file = str(tmp_path / "views" / "transactions.toml")
    assert run(["view", "register", file, "--without-dry-run", "spark,hive", *OPTIONS]) == 0
    capsys.readouterr()
    return tmp_path / "lab"


def said(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> str:
    """Run a command and return what it says, in one line."""
    capsys.readouterr()
    assert run([*words, *OPTIONS]) == code
    captured = capsys.readouterr()
    return " ".join((captured.out if code == 0 else captured.err).split())


def write(path: Path, *rows: dict[str, object]) -> str:
    path.write_text("\n".join(map(json.dumps, rows)))
    return str(path)


def row(number: str, account: str = "alice", days: int = 0, **changes: object) -> dict[str, object]:
    at = (NOW - timedelta(days=days)).isoformat()
    plain = {"id": number, "at": at, "account": account, "merchant": "m1", "amount": "1.50", "channel": "web"}
    return {**plain, **changes}


def test_events_are_loaded_once_counted_and_pruned(lab: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "No events yet" in said(capsys, "events", "show")
    file = write(lab / "e.jsonl", row("1"), row("2", "bob", days=40), row("1"))
    loaded = said(capsys, "events", "load", file, "--view", "transactions")
    assert loaded == "2 events stored in raw_transactions.account; 1 were there already."
    again = json.loads(said(capsys, "events", "load", file, "--view", "transactions", "--json"))
    assert again == {"feed": "raw_transactions.account", "accepted": 0, "duplicate": 3, "ignored": []}
    assert (lab / "events.db").exists()

    counted = json.loads(said(capsys, "events", "show", "--json"))
    (feed,) = counted
    assert (feed["feed"], feed["events"], feed["sample_ids"]) == ("raw_transactions.account", 2, 2)
    assert feed["newest"] == NOW.isoformat()

    assert "say how many days stay" in said(capsys, "events", "prune", code=3)
    assert said(capsys, "events", "prune", "--keep-days", "30") == "1 events older than 30 days removed."
    settings = lab / "participant.toml"
    settings.write_text(settings.read_text() + "\n[events]\nkeep_days = 1\n")
    assert said(capsys, "events", "prune") == "0 events older than 1 days removed."


def test_old_events_are_removed_by_one_process_at_a_time(lab: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(lab / "e.jsonl", row("1"), row("2", "bob", days=40))
    said(capsys, "events", "load", file, "--view", "transactions")

    with hold(FolderLeases(lab / "warehouse" / ".leases"), "prune:events"):  # as the daemon does, see its own test
        told = said(capsys, "events", "prune", "--keep-days", "30", code=10)
        assert "prune:events is under way" in told
        assert json.loads(said(capsys, "events", "show", "--json"))[0]["events"] == 2

    assert said(capsys, "events", "prune", "--keep-days", "30") == "1 events older than 30 days removed."


def test_a_file_with_a_bad_line_is_told_and_nothing_is_stored(lab: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(lab / "e.jsonl", row("1"), row("2", amount="a lot"), row("3", at="now"))
    told = said(capsys, "events", "load", file, "--view", "transactions", code=4)
    assert told.startswith(f"error: {file}: 2 of 3 events cannot be taken, none was stored")
    assert "line 2: amount is no decimal(12,2); line 3: at is no ISO 8601 time" in told
    assert "a lot" not in told
    assert "No events yet" in said(capsys, "events", "show")


def test_a_view_that_is_not_registered_is_told_with_the_nearest(lab: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(lab / "e.jsonl", row("1"))
    told = said(capsys, "events", "load", file, "--view", "transaction", code=4)
    assert "no view transaction is registered" in told
    assert "transactions" in told


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ('http_listen = "127.0.0.1:0"', 'no view under [realtime] has source = "events"'),
        ('[realtime]\ntransactions = "kafka"', 'write "events", "warehouse", postgresql+psycopg://'),
        ('[realtime]\ntransactions = "postgresql://me:secret@host/db"', "password_file"),
        ('[realtime.transactions]\nsource = "events"\npassword_file = "p"', "for a PostgreSQL or Redis, not events"),
        (
            '[realtime.transactions]\nsource = "redis://h"\ntable = "t"\nschema = "s"',
            "table, schema: for a PostgreSQL, not Redis",
        ),
        (
            '[realtime.transactions]\nsource = "postgresql://me@h/d"\nprefix = "t:"',
            "prefix: for a Redis, not PostgreSQL",
        ),
        (
            '[realtime.transactions]\nsource = "redis://h"\ntls_ca = "ca.pem"',
            "means nothing without a rediss:// source",
        ),
        ('[realtime.transactions]\nsource = "redis://h"\nprefix = ""', "prefix"),
        ('[realtime]\ntransactions = "redis://me:secret@host/0"', "password_file"),
        ('[realtime]\ntransactions = "redis://host/0?a=b"', "nothing may follow the number of the database"),
        ('[realtime.transactions]\nsource = "events"\ntabel = "x"', "tabel"),
        ('[events]\nurl = "postgresql://me:secret@host/db"', "password_file"),
        ('[events]\nsenders = ["No Name"]', "No Name"),
        ("[events]\nkeep_days = 0", "keep_days"),
    ],
)
def test_a_mistaken_setting_is_named_with_the_fix(
    lab: Path, capsys: pytest.CaptureFixture[str], settings: str, told: str
) -> None:
    file = lab / "participant.toml"
    content = file.read_text()
    file.write_text(f"{settings}\n{content}" if not settings.startswith("[") else f"{content}\n{settings}\n")
    answer = said(capsys, "events", "show", code=3)
    assert told in answer
    assert "secret" not in answer
