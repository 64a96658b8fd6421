"""`fedpredict policy check`: what it shows, and what it refuses; purposes in `audit report`."""

from __future__ import annotations

import json
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedpredict.cli.checks_roles import check_clients
from fedpredict.cli.main import run
from fedpredict.initiator.settings import InitiatorSettings
from fedpredict.model.kinds import Kind
from fedpredict.model.linear import LinearPart
from fedpredict.model.partial import PartialModel
from fedpredict.security.audit_line import AuditedCall
from fedpredict.security.check import Level
from fedpredict.tables.models import publish_model
from fedpredict.tables.views import FeatureView, ViewFeature
from fedpredict.warehouse.base import ColumnType
from fedpredict.warehouse.local import LocalWarehouse
from tests.unit.security.test_audit import log

RULE = """
models = ["credit"]
modes = ["nearline"]
max_rows = 5
calls_per_s = 0.5
hours = "08:00-18:00"
weekdays = ["mon", "fri"]
time_zone = "Europe/Berlin"
purpose = "credit applications"
"""
SHOWN = {
    "who": "bank",
    "models": ["credit"],
    "modes": ["nearline"],
    "max_rows": 5,
    "max_offline_rows": 5,
    "distinct_ids_per_day": None,
    "accept_populations": None,
    "calls_per_s": 0.5,
    "burst": 1,
    "when": "mon,fri 08:00-18:00 Europe/Berlin",
    "purpose": "credit applications",
}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("rules.toml", f"[callers.bank]{RULE}"),
        ("rules.toml", f"[clients.bank]{RULE}"),
        ("participant.toml", f'party = "lab"\ninsecure = true\n[warehouse]\npath = "w"\n[callers.bank]{RULE}'),
        ("initiator.toml", f'party = "lab"\ninsecure = true\n[clients.bank]{RULE}'),
    ],
)
def test_the_rules_are_shown_of_settings_and_of_files_of_rules_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, content: str
) -> None:
    path = tmp_path / name
    path.write_text(content)

    assert run(["policy", "check", str(path), "--json"]) == 0

    shown: Any = json.loads(capsys.readouterr().out)
    of_callers = {} if "[clients" in content else {"accept_populations": False}
    assert shown == [{**SHOWN, **of_callers}]


def test_what_callers_alone_have_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "rules.toml"
    path.write_text('[callers.bank]\nmodels = ["m"]\ndistinct_ids_per_day = 10000\naccept_populations = true\n')

    assert run(["policy", "check", str(path), "--json"]) == 0

    (shown,) = json.loads(capsys.readouterr().out)
    assert (shown["distinct_ids_per_day"], shown["accept_populations"]) == (10_000, True)


def test_a_mistake_is_named_with_its_key(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "rules.toml"
    path.write_text(f"[callers.bank]{RULE}\n[callers.shop]\nmodel = []\n")

    assert run(["policy", "check", str(path)]) == 3

    assert "unknown key [callers.shop] model in rules.toml; did you mean models?" in capsys.readouterr().err


PARTICIPANT = 'party = "lab"\ninsecure = true\n{more}\n[warehouse]\npath = "w"\n'
INITIATOR = (
    'party = "bank"\ninsecure = true\n{more}\n[parties.lab]\naddress = "127.0.0.1:1"\n'
    '[models.credit]\nparties = ["lab"]\n'
)
SLIP = '[{table}.bank]\nmodels = ["credit", "credti", "*"]\n'
TOLD = "warning: bank may ask for credti, which is not here: did you mean credit?"


def convert(folder: Path) -> None:
    """Put the model credit into the warehouse of a participant."""
    view = FeatureView("v", 1, (ViewFeature("age", "age", ColumnType.DOUBLE),), "id", None)
    part = LinearPart(("age",), np.ones((1, 1)), None, np.zeros(1))
    partial = PartialModel("credit", "run-1", "lab", Kind.LINEAR, (), False, part)
    with closing(LocalWarehouse(folder / "w")) as warehouse:
        publish_model(warehouse, partial, view, "00" * 32)


@pytest.mark.parametrize("alone", [False, True], ids=["settings", "rules in a file of their own"])
@pytest.mark.parametrize("role", ["participant", "initiator"])
def test_models_that_the_party_does_not_know_are_told_and_are_no_mistake(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], alone: bool, role: str
) -> None:
    convert(tmp_path)
    settings, table = {"participant": (PARTICIPANT, "callers"), "initiator": (INITIATOR, "clients")}[role]
    name, rules = f"{role}.toml", SLIP.format(table=table)
    path = tmp_path / ("rules.toml" if alone else name)
    (tmp_path / name).write_text(
        settings.format(more='policy = "rules.toml"' if alone else "") + ("" if alone else rules)
    )
    if alone:
        path.write_text(rules)

    assert run(["policy", "check", str(path), "--json"]) == 0

    printed = capsys.readouterr()
    assert json.loads(printed.out)[0]["models"] == ["credit", "credti", "*"]
    assert " ".join(printed.err.split()) == TOLD


def test_where_models_cannot_be_known_nothing_is_said_of_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Rules alone, and beside them settings that have others, or a mistake; settings of a warehouse that is away."""
    convert(tmp_path)
    path = tmp_path / "rules.toml"
    path.write_text(SLIP.format(table="callers"))
    (tmp_path / "participant.toml").write_text(PARTICIPANT.format(more='policy = "others.toml"'))

    assert run(["policy", "check", str(path), "--json"]) == 0
    assert capsys.readouterr().err == ""

    (tmp_path / "participant.toml").write_text(PARTICIPANT.format(more='policy = "rules.toml"\npol_s = 1'))
    assert run(["policy", "check", str(path), "--json"]) == 0
    assert capsys.readouterr().err.startswith("models are not checked: unknown key pol_s")

    away = PARTICIPANT.replace('path = "w"', 'kind = "hive"\nhost = "127.0.0.1"\nport = 1')
    path.write_text(away.format(more="") + SLIP.format(table="callers"))
    assert run(["policy", "check", str(path), "--json"]) == 0
    assert capsys.readouterr().err.startswith("models are not checked: ")


def test_the_report_says_what_callers_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("participant.toml").write_text('party = "lab"\ninsecure = true\n[warehouse]\npath = "w"\n')
    with log(tmp_path / "audit" / "lab", now=lambda: datetime(2026, 11, 1, tzinfo=UTC)) as audit:
        for purpose in ("fraud checks", "credit applications", ""):
            audit.add(AuditedCall("Score", "party bank", "r-1", "credit", rows=1, purpose=purpose))
    (chain,) = (tmp_path / "audit" / "lab" / "worker-0").glob("*.jsonl")

    assert run(["audit", "report", "--json"]) == 0

    (bank,) = json.loads(capsys.readouterr().out)
    assert bank["purposes"] == ["credit applications", "fraud checks"]
    lines = [json.loads(line) for line in chain.read_text().splitlines()]
    assert [line.get("purpose") for line in lines if line["kind"] == "call"] == [
        "fraud checks",
        "credit applications",
        None,
    ]
    assert run(["audit", "verify"]) == 0


def test_the_doctor_says_which_models_of_a_client_are_not_there() -> None:
    settings = InitiatorSettings.model_validate(
        {
            "party": "bank",
            "insecure": True,
            "parties": {"lab": {"address": "127.0.0.1:1"}},
            "models": {"credit": {"parties": ["lab"]}},
            "clients": {"desk": {"models": ["credti"]}, "risk": {"models": ["credit"]}},
        }
    )

    found = [(each.level, each.what, each.fix) for _, each in check_clients(settings)]

    assert found == [
        (Level.WARNING, "desk may ask for credti, which is not here", "did you mean credit?"),
        (Level.OK, "risk may ask for credit", ""),
    ]
    nobody = settings.model_copy(update={"clients": {}})
    assert [(each.level, each.what) for _, each in check_clients(nobody)] == [(Level.WARNING, "nobody may ask")]
