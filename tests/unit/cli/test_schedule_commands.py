"""The schedule's commands and refusals, and what a person is told of work that is under way."""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest

from fedpredict.cli import daemons, wiring
from fedpredict.cli.exits import exit_code
from fedpredict.cli.main import run
from fedpredict.cli.scheduled import ChildRunner
from fedpredict.errors import ConfigError
from fedpredict.features.open_leases import open_leases
from fedpredict.features.settings import StoreSettings
from fedpredict.state.lease_files import FolderLeases
from fedpredict.state.lease_sql import SqlLeases
from fedpredict.state.leases import NoLeases
from fedpredict.warehouse.local import LocalWarehouse
from fedpredict.warehouse.settings import WarehouseSettings
from fedpredict.wire.link import Instance
from tests.raw_transactions import EXAMPLES, random_events, random_merchants, store

SETTINGS = 'party = "lab"\ninsecure = true\n{more}[warehouse]\n{warehouse}\n[schedule]\ntimezone = "UTC"\n'
LOCAL = 'path = "warehouse"'
HIVE = 'kind = "hive"\nhost = "127.0.0.1"\nport = 1'
OPTIONS = ("--config", "participant.toml")


@pytest.fixture
def party(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a party's settings, its raw tables and the example view."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(EXAMPLES, tmp_path / "views", ignore=shutil.ignore_patterns("*.py"))
    warehouse = LocalWarehouse(tmp_path / "warehouse")
    store(warehouse, random_events(5, 20, 300), random_merchants(40))
    warehouse.close()
    return tmp_path


def settle(schedule: str, *, warehouse: str = LOCAL, more: str = "") -> None:
    Path("participant.toml").write_text(SETTINGS.format(warehouse=warehouse, more=more) + schedule)


def refusal(folder: Path) -> str:
    """What a daemon with the folder's settings is refused with before it serves."""
    loaded = wiring.load_participant(folder / "participant.toml")
    warehouse = wiring.open_loaded_warehouse(loaded)
    try:
        with pytest.raises(ConfigError) as raised, daemons.scheduled(loaded, warehouse, Instance()):
            pass
    finally:
        warehouse.close()
    assert exit_code(raised.value) == 3
    return str(raised.value)


def test_a_view_that_nobody_registered_is_refused_when_the_daemon_starts(party: Path) -> None:
    settle('transactions = "0 * * * *"')

    assert "schedule: no view transactions is registered (none is yet)" in refusal(party)


def test_a_schedule_without_a_place_for_leases_is_refused(party: Path) -> None:
    settle('transactions = "0 * * * *"', warehouse=HIVE)

    assert "schedule: needs a place for leases" in refusal(party)


def test_a_warehouse_that_is_away_when_the_daemon_starts_is_no_reason_not_to(
    party: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settle('transactions = "0 * * * *"')
    (party / "warehouse").rename(party / "unmounted")
    (party / "warehouse").mkdir()
    (party / "warehouse" / "fp_view_scripts").write_text("")

    loaded = wiring.load_participant(party / "participant.toml")
    with daemons.scheduled(loaded, LocalWarehouse(party / "warehouse"), Instance()) as counted:
        assert counted is not None
    assert "schedule.not_checked" in [each.message for each in caplog.records]


def test_a_database_of_leases_that_is_away_is_no_reason_either(party: Path, caplog: pytest.LogCaptureFixture) -> None:
    database = '[leases]\nurl = "sqlite:///no/such/folder/leases.db"\n'
    settle('transactions = "0 * * * *"', warehouse=HIVE, more=database)

    loaded = wiring.load_participant(party / "participant.toml")
    with daemons.scheduled(loaded, LocalWarehouse(party / "warehouse"), Instance()) as counted:
        assert counted is not None
    assert "schedule.not_checked" in [each.message for each in caplog.records]


def test_one_worker_of_several_keeps_the_schedule(party: Path) -> None:
    settle('transactions = "0 * * * *"')
    loaded = wiring.load_participant(party / "participant.toml")

    with daemons.scheduled(loaded, LocalWarehouse(party / "warehouse"), Instance(worker=1, workers=2)) as counted:
        assert counted is None  # else it would have been refused, as worker 0 is


def test_what_is_scheduled_is_listed(party: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settle('transactions = "0 * * * *"\n[schedule.tasks]\nscore = "30 2 * * *"')

    assert run(["schedule", "list", "--json", *OPTIONS]) == 0
    rows = json.loads(capsys.readouterr().out)

    assert [(row["job"], row["cron"], row["timezone"], row["outcome"]) for row in rows] == [
        ("refresh.transactions", "0 * * * *", "UTC", None),
        ("score", "30 2 * * *", "UTC", None),
    ]
    assert [row["next_due"][13:] for row in rows] == [":00:00+00:00", ":30:00+00:00"]


def test_a_person_is_told_who_is_at_it(party: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settle("")
    assert run(["view", "register", "views/transactions.toml", "--without-dry-run", "spark,hive", *OPTIONS]) == 0
    FolderLeases(party / "warehouse" / ".leases").take("refresh:transactions:1", "other-host:7:x", 600.0)
    capsys.readouterr()

    codes = [run(["features", "refresh", "transactions", *words, *OPTIONS]) for words in ([], ["--wait", "0.1"])]

    told = " ".join(capsys.readouterr().err.split())
    assert codes == [10, 10]
    assert told.count("refresh:transactions:1 is under way at other-host:7:x since") == 3  # once while it waits


def test_settings_of_leases_that_cannot_be_are_refused(party: Path) -> None:
    for more, told in (
        ('[leases]\nurl = "postgresql+psycopg://u:secret@h/d"\n', "url: holds a password"),
        ('[leases]\npassword_file = "x"\n', r"\[leases\] url in participant.toml is missing"),
    ):
        settle("", more=more)
        with pytest.raises(ConfigError, match=told):
            wiring.load_participant(party / "participant.toml")


def test_leases_are_where_all_processes_of_a_party_look(tmp_path: Path) -> None:
    local, hive = WarehouseSettings(path=Path("warehouse")), WarehouseSettings(kind="hive", host="hive.example")
    state = "sqlite:///state.db"

    def opened(warehouse: WarehouseSettings, given: str | None) -> object:
        return type(
            open_leases(StoreSettings(), warehouse, tmp_path, "lab", database=None if given is None else (given, None))
        )

    assert [opened(local, state), opened(local, None)] == [FolderLeases] * 2
    assert [opened(hive, state), opened(hive, None)] == [SqlLeases, NoLeases]


@pytest.mark.redis
def test_with_features_in_redis_leases_are_there_too(tmp_path: Path, redis_address: str) -> None:
    from fedpredict.features.redis_leases import RedisLeases

    store = StoreSettings(kind="redis", url=f"redis://{redis_address}")
    leases = open_leases(store, WarehouseSettings(path=Path("warehouse")), tmp_path, "lab")
    leases.close()
    assert isinstance(leases, RedisLeases)


def test_a_child_that_fails_or_is_killed_is_a_failure_and_none_begins_when_the_daemon_stops(party: Path) -> None:
    settle('transactions = "0 * * * *"')
    runner, due = ChildRunner(party / "participant.toml"), datetime(2024, 3, 1, tzinfo=UTC)
    (job,) = wiring.load_participant(party / "participant.toml").settings.schedule.jobs
    began = threading.Event()

    def kill() -> None:
        while not (children := list(runner._children)):
            began.wait(0.01)
        os.kill(children[0].pid or 0, signal.SIGKILL)

    failed = runner.run(job, due)
    killer = threading.Thread(target=kill)
    killer.start()
    killed = runner.run(job, due)
    killer.join()
    runner.stop()

    assert failed.outcome == killed.outcome == "failed"
    assert "no view transactions is registered" in failed.problem
    assert killed.problem == "its process ended with code -9"
    assert runner.run(job, due).problem == "the daemon stops"
