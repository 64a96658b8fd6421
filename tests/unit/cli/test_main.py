"""The edge: what an operator's mistakes and a defect look like, and what the program is called with."""

from __future__ import annotations

import subprocess
import sys

import pytest
import typer

from fedpredict.cli import main, model
from fedpredict.cli.main import COMMANDS, run
from fedpredict.errors import ConfigError


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"]) == 0
    assert capsys.readouterr().out == "fedpredict 0.1.0\n"


def test_the_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--help"]) == 0

    text = capsys.readouterr().out
    assert [name for name in COMMANDS if name not in text] == []


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([name, "-h"]) == 0
    assert "Usage: fedpredict" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["nonsense"], ["predict"], ["model", "show"], ["features", "load", "x", "--no"]])
def test_a_wrong_command_line_is_two(arguments: list[str]) -> None:
    assert run(arguments) == 2


def fails(error: Exception) -> typer.Typer:
    app = typer.Typer()

    @app.command("list")
    def fail() -> None:
        raise error

    @app.command("other")
    def other() -> None:
        """There are two commands, so that each keeps its name."""

    return app


def test_an_error_is_one_line_and_its_code(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    error = ConfigError("unknown key\n   [red]pth")
    error.add_note("and another")
    monkeypatch.setattr(model, "app", fails(error))

    assert run(["model", "list"]) == 3

    assert capsys.readouterr().err == "error: unknown key [red]pth\nand another\n"


def test_with_debug_the_traceback_is_shown(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model, "app", fails(ConfigError("wrong")))

    assert run(["--debug", "model", "list"]) == 3

    assert "Traceback" in capsys.readouterr().err


def test_a_defect_says_how_to_report_it(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model, "app", fails(ZeroDivisionError("division by zero")))

    assert run(["model", "list"]) == 1

    told = capsys.readouterr().err
    assert told.startswith("error: unexpected ZeroDivisionError: division by zero")
    assert "please report it" in told
    assert "Traceback" not in told


def test_completion_is_offered_for_every_command() -> None:
    code = "from fedpredict.cli.main import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env={"_FEDPREDICT_COMPLETE": "complete_bash", "COMP_WORDS": "fedpredict ", "COMP_CWORD": "1"},
        cwd=main.__file__.rsplit("/fedpredict/", 1)[0],
    )

    assert sorted(done.stdout.split()) == sorted(COMMANDS)


def test_events_for_logs_are_not_printed_by_commands() -> None:
    code = """
import sys
from fedpredict.cli.main import run
sys.exit(run(["predict", "--server", "127.0.0.1:1", "--server-party", "bank", "--insecure", "--model", "m", "p1"]))
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        cwd=main.__file__.rsplit("/fedpredict/", 1)[0],
    )

    assert done.returncode == 6
    assert done.stderr.startswith("error: the server at 127.0.0.1:1 cannot be reached")


def test_a_command_does_not_import_what_others_need() -> None:
    code = """
import sys
from fedpredict.cli.main import run
run(["certs", "--help"])
print(sorted({"duckdb", "sqlalchemy", "sqlglot", "pyarrow"} & set(sys.modules)), file=sys.stderr)
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=main.__file__.rsplit("/fedpredict/", 1)[0],
    )

    assert done.stderr.strip() == "[]"


def test_names_in_brackets_stay_in_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["policy", "check", "--help"]) == 0
    assert "[callers] or [clients]" in " ".join(capsys.readouterr().out.split())
