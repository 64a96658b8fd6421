"""scripts/services says clearly what is wrong, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

SERVICES = Path(__file__).resolve().parents[2] / "scripts/services"


def services(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SERVICES), *words]
    return subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=False)


@pytest.fixture
def java(tmp_path: Path) -> str:
    """A JAVA_HOME whose Java knows its version and dies at everything else."""
    program = tmp_path / "jre/bin/java"
    program.parent.mkdir(parents=True)
    program.write_text(
        "#!/bin/sh\n"
        'if [ "$1" = -version ]; then echo \'openjdk version "17.0.1"\' >&2; exit 0; fi\n'
        "echo first line; echo no memory left; exit 3\n"
    )
    program.chmod(0o755)
    return str(program.parent.parent)


def test_a_missing_java_is_named_with_the_package(tmp_path: Path) -> None:
    done = services("up", "spark", "--port", "0", "--state", str(tmp_path), JAVA_HOME=str(tmp_path / "none"))

    assert done.returncode == 1
    assert "apt-get install -y openjdk-17-jre-headless" in done.stderr
    assert done.stdout == ""


def test_a_port_that_is_taken_is_named(tmp_path: Path, java: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = services("up", "spark", "--port", port, "--state", str(tmp_path), JAVA_HOME=java)

    assert done.returncode == 1
    assert f"port {port} is taken" in done.stderr


def test_a_python_without_pyspark_is_named(tmp_path: Path, java: str) -> None:
    bare = tmp_path / "bare-python"
    bare.write_text("#!/bin/sh\nexit 0\n")
    bare.chmod(0o755)

    done = services("up", "spark", "--port", "0", "--state", str(tmp_path), "--python", str(bare), JAVA_HOME=java)

    assert done.returncode == 1
    assert f"pyspark is not installed for {bare}" in done.stderr


def test_a_server_that_dies_at_start_shows_its_last_lines(tmp_path: Path, java: str) -> None:
    done = services("up", "spark", "--port", "0", "--state", str(tmp_path), JAVA_HOME=java)

    assert done.returncode == 1
    assert "died at start with exit code" in done.stderr
    assert "no memory left" in done.stderr
    assert services("status", "spark", "--state", str(tmp_path)).returncode == 3


def test_what_a_crash_left_behind_is_no_running_server(tmp_path: Path) -> None:
    folder = tmp_path / "spark"
    folder.mkdir()
    # this process lives, but did not start then: its number was given out anew
    state = {"pid": os.getpid(), "started": "1", "port": 10001, "settings": {}}
    (folder / "state.json").write_text(json.dumps(state))

    status = services("status", "spark", "--state", str(tmp_path))
    down = services("down", "spark", "--state", str(tmp_path))

    assert (status.returncode, status.stdout) == (3, "spark stopped\n")
    assert down.returncode == 0
    assert "was not running" in down.stderr
    assert not (folder / "state.json").exists()


def test_a_service_that_is_not_known_is_refused(tmp_path: Path) -> None:
    done = services("up", "oracle", "--state", str(tmp_path))

    assert done.returncode == 2
    assert "no such service: oracle" in done.stderr
