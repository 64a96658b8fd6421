"""scripts/services says clearly what is wrong, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
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


def test_a_missing_program_is_named_with_the_package(tmp_path: Path) -> None:
    done = services("up", "redis", "--port", "0", "--state", str(tmp_path), PATH=str(tmp_path))

    assert done.returncode == 1
    assert "apt-get install -y redis-server" in done.stderr
    assert done.stdout == ""


@pytest.fixture(params=[pytest.param(each, marks=getattr(pytest.mark, each)) for each in ("redis", "postgres")])
def started(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, int, Path]]:
    """A service of the test's own: its name, port and state."""
    up = services("up", request.param, "--port", "0", "--state", str(tmp_path))
    assert up.returncode == 0, up.stderr
    name, _, address = up.stdout.strip().partition(" ")
    yield name, int(address.rpartition(":")[2]), tmp_path
    services("down", name, "--state", str(tmp_path))


def session_of(pid: int) -> list[str]:
    """What runs in the session of a process, or was started there; not what nobody has buried yet."""
    listed = subprocess.run(["ps", "-eo", "sid,ppid,user,args"], capture_output=True, text=True, check=True).stdout
    return [line for line in listed.splitlines()[1:] if str(pid) in line.split()[:2] and "<defunct>" not in line]


def test_a_server_runs_on_loopback_and_is_stopped_with_all_that_it_started(started: tuple[str, int, Path]) -> None:
    name, port, folder = started
    pid = int(json.loads((folder / name / "state.json").read_text())["pid"])
    status = services("status", name, "--state", str(folder))
    assert status.stdout.startswith(f"{name} running 127.0.0.1:{port} pid {pid} ")
    processes = session_of(pid)
    assert processes
    assert name != "postgres" or not any(line.split()[2] == "root" for line in processes)
    again = services("up", name, "--port", "0", "--state", str(folder))
    assert again.stdout == f"{name} 127.0.0.1:{port}\n"

    down = services("down", name, "--state", str(folder))

    assert down.returncode == 0
    assert session_of(pid) == []
    assert [path.name for path in (folder / name).iterdir() if path.name != "lock"] == ["server.log"]
    assert services("status", name, "--state", str(folder)).returncode == 3


@pytest.mark.redis
def test_settings_reach_the_server(tmp_path: Path) -> None:
    up = services("up", "redis", "--port", "0", "--state", str(tmp_path), "--set", "maxmemory-policy=no-such-policy")

    assert up.returncode == 1
    assert "died at start with exit code" in up.stderr
    assert "maxmemory-policy" in up.stderr
