"""deploy/ has the schedules of cron, systemd and Airflow: they are written right, and call commands that exist."""

from __future__ import annotations

import configparser
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from fedpredict.cli.main import run
from fedpredict.scoring.cron import parse_cron

DEPLOY = Path(__file__).parents[2] / "deploy"
UNITS = sorted((DEPLOY / "systemd").iterdir())
PROGRAM = "/opt/fedpredict/bin/fedpredict"


def check_command(command: str, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Check that a command line of ours is one, and return its two first words."""
    program, *words = shlex.split(command)
    assert program == PROGRAM
    assert run([*words[:2], "--help"]) == 0
    known = set(re.findall(r"--[a-z-]+", capsys.readouterr().out))
    assert {word for word in words if word.startswith("--")} <= known
    assert words[words.index("--config") + 1] == "/etc/fedpredict/participant.toml"
    return words[:2]


def test_crons_lines_are_due_and_their_commands_exist(capsys: pytest.CaptureFixture[str]) -> None:
    text = (DEPLOY / "cron/fedpredict").read_text()
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    settings = dict(line.split("=", 1) for line in lines if re.match(r"[A-Z_]+=", line))
    jobs = [line.split(None, 6) for line in lines if not re.match(r"[A-Z_]+=", line)]

    commands = [check_command(job[6].partition(">")[0], capsys) for job in jobs]

    assert text.endswith("\n")  # cron passes over a last line without an end
    assert [parse_cron(" ".join(job[:5]), settings["CRON_TZ"]).text for job in jobs] == ["0 * * * *", "30 2 * * *"]
    assert commands == [["features", "refresh"], ["task", "score"]]
    # a percent sign would end the command
    assert not any("%" in job[6] for job in jobs)


def unit(path: Path) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None, strict=False)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(path.read_text())
    return parser


@pytest.mark.parametrize("path", UNITS, ids=lambda each: each.name)
def test_a_unit_calls_a_command_that_exists_and_a_timer_has_its_service(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parsed = unit(path)

    if path.suffix == ".timer":
        assert path.with_suffix(".service") in UNITS
        assert parsed["Timer"]["Persistent"] == "true"
        assert ZoneInfo(parsed["Timer"]["OnCalendar"].split()[-1]).key == "Europe/Berlin"
    else:
        check_command(parsed["Service"]["ExecStart"].replace("%i", "behaviour"), capsys)
        assert parsed["Service"]["User"] == "fedpredict"


def test_systemd_itself_finds_nothing_wrong(tmp_path: Path) -> None:
    """Where there is one; the test above needs none."""
    analyze = shutil.which("systemd-analyze")
    for each in UNITS:
        (tmp_path / each.name).write_text(each.read_text().replace(PROGRAM, "/bin/true"))
    if analyze is not None:
        names = [str(tmp_path / each.name.replace("@.", "@behaviour.")) for each in UNITS]
        for name in names:
            if "@behaviour." in name:
                shutil.copy(name.replace("@behaviour.", "@."), name)
        done = subprocess.run([analyze, "verify", "--man=no", *names], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
    assert len(UNITS) == 5


def test_airflows_dags_say_when_and_their_commands_exist(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Airflow is not installed here: the file is run with stand-ins for the few names that it takes from there."""
    dags: dict[str, dict[str, Any]] = {}
    tasks: list[dict[str, Any]] = []

    class Dag:
        def __init__(self, dag_id: str, **options: Any) -> None:
            dags[dag_id] = options

        def __enter__(self) -> None: ...

        def __exit__(self, *_: object) -> None: ...

    modules = {
        "pendulum": SimpleNamespace(timezone=ZoneInfo, datetime=lambda *_, tz: tz),
        "airflow.sdk": SimpleNamespace(DAG=Dag),
        "airflow.providers.standard.operators.bash": SimpleNamespace(BashOperator=lambda **given: tasks.append(given)),
    }
    for name, content in modules.items():
        module = ModuleType(name)
        vars(module).update(vars(content))
        monkeypatch.setitem(sys.modules, name, module)

    runpy.run_path(str(DEPLOY / "airflow/fedpredict_dags.py"))

    assert {name: (each["schedule"], each["catchup"], each["max_active_runs"]) for name, each in dags.items()} == {
        "fedpredict_behaviour": ("0 * * * *", False, 1),
        "fedpredict_score": ("30 2 * * *", False, 1),
    }
    commands = [
        check_command(each["bash_command"].replace("{{ logical_date.isoformat() }}", "T"), capsys) for each in tasks
    ]
    assert commands == [["features", "refresh"], ["task", "score"]]


@pytest.mark.parametrize("folder", ["cron", "systemd", "airflow"])
def test_no_secret_stands_in_an_example(folder: str) -> None:
    for path in (DEPLOY / folder).iterdir():
        if path.is_file():
            assert not re.search(r"(?i)(password|secret|token)\s*[=:]", path.read_text())
