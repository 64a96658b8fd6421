"""Names in the settings that the warehouse does not have: the doctor, and the daemon's log, tell of each."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from fedpredict.cli import daemons, wiring
from fedpredict.cli.main import run
from fedpredict.warehouse.base import Column, ColumnType, TableSchema
from fedpredict.wire.link import Instance
from tests.raw_transactions import EXAMPLES, random_events, random_merchants, store
from tests.unit.cli.test_commands import write_model

FRESHNESS = """[freshness]
transaction = "2h"
[freshness.transactions]
max_age = "1d"
[freshness.transactions.models.credti]
max_age = "1h"
[freshness.transactions.models.credit]
max_age = "1h"
"""

Settle = Callable[[str], None]


@pytest.fixture
def settle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settle:
    """A party with the example view, and a model that reads it; give further settings."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "participant.toml"
    base = 'party = "lab"\ninsecure = true\nlisten = "127.0.0.1:0"\n[warehouse]\npath = "warehouse"\n'
    path.write_text(base)
    shutil.copytree(EXAMPLES, tmp_path / "views", ignore=shutil.ignore_patterns("*.py"))
    with closing(wiring.open_loaded_warehouse(wiring.load_participant(path))) as warehouse:
        store(warehouse, random_events(5, 20, 300), random_merchants(40))
    write_model(tmp_path / "lab.json", "lab", {"n_30d": 1.0})
    assert run(["view", "register", "views/transactions.toml", "--without-dry-run", "spark,hive"]) == 0
    assert run(["model", "convert", "lab.json", "--view", "transactions"]) == 0

    def write(more: str) -> None:
        path.write_text(base + more)

    return write


def examine(capsys: pytest.CaptureFixture[str], code: int) -> list[dict[str, Any]]:
    capsys.readouterr()
    assert run(["doctor", "--config", "participant.toml", "--json"]) == code
    found: list[dict[str, Any]] = json.loads(capsys.readouterr().out)
    return found


def test_limits_of_age_for_names_that_are_not_here_are_told(
    settle: Settle, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    assert run(["features", "refresh", "transactions"]) == 0
    settle(FRESHNESS)
    unknown = [
        "[freshness] transaction is no view here: did you mean transactions?",
        "[freshness.transactions.models] credti is no model that reads that view: did you mean credit?",
    ]

    told = [(each["level"], each["what"]) for each in examine(capsys, 0) if each["topic"] == "freshness"]
    assert told == [("warning", each) for each in unknown]

    loaded = wiring.load_participant(Path("participant.toml"))
    with closing(wiring.open_loaded_warehouse(loaded)) as warehouse:
        daemons.warn_of_unknown_names(loaded, warehouse, Instance(worker=1, workers=2))
        assert caplog.records == []  # one worker of several says it
        daemons.warn_of_unknown_names(loaded, warehouse, Instance())
    logged = [getattr(each, "unknown", None) for each in caplog.records if each.message == "freshness.without_effect"]
    assert logged == [unknown]


def test_a_schedule_that_the_daemon_refuses_is_a_problem(settle: Settle, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["features", "refresh", "transactions"]) == 0
    settle('[schedule]\ntimezone = "UTC"\ntransactions = "0 * * * *"\ntransaction = "0 * * * *"\n')

    problem, *rest = [each for each in examine(capsys, 9) if each["topic"] == "schedule"]

    assert problem["what"] == "no view transaction is registered, so the daemon does not start"
    assert problem["fix"].startswith("did you mean transactions?")
    assert [each["level"] for each in rest] == ["ok", "ok"]


def test_a_model_that_mode_realtime_alone_answers_is_no_problem(
    settle: Settle, capsys: pytest.CaptureFixture[str]
) -> None:
    without = [each for each in examine(capsys, 9) if each["topic"] == "models"]
    assert [(each["level"], "cannot be scored" in each["what"]) for each in without] == [("problem", True)]

    settle('[realtime]\ntransactions = "events"\n')

    alone = [each for each in examine(capsys, 0) if each["topic"] == "models"]
    assert [(each["level"], "mode realtime alone" in each["what"]) for each in alone] == [("ok", True)]


def test_tables_of_tasks_that_cannot_be_read_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["init", "initiator", "bank", "--listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0"]) == 0
    settings = Path("bank/initiator.toml")
    with closing(wiring.open_loaded_warehouse(wiring.load_initiator(settings))) as warehouse:
        store(warehouse, random_events(5, 20, 300), random_merchants(40))
        warehouse.ensure(TableSchema("fp_numbers", (Column("n", ColumnType.INT),), ()))
    tables = {"gone": ("nope", "who"), "column": ("dim_merchants", "who"), "good": ("dim_merchants", "merchant")}
    tables["numbers"] = ("fp_numbers", "n")
    lines = [f'[tasks.tables.{name}]\ntable = "{table}"\ncolumn = "{of}"\n' for name, (table, of) in tables.items()]
    settings.write_text(settings.read_text() + "".join(lines))

    capsys.readouterr()
    assert run(["doctor", "--config", str(settings), "--json"]) == 0
    found = [each for each in json.loads(capsys.readouterr().out) if each["what"].startswith("[tasks.tables")]

    assert [each["level"] for each in found] == ["warning", "warning", "warning"]
    assert found[0]["what"] == "[tasks.tables.gone]: the warehouse has no table nope"
    assert found[1]["what"].startswith(
        "[tasks.tables.column]: table dim_merchants has no column who; it has merchant, category"
    )
    assert found[2]["what"] == "[tasks.tables.numbers]: column n of table fp_numbers holds int; sample ids are text"
