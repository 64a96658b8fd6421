"""The README's own commands, typed as they stand there; only the ports are changed to free ones."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts.freeports import free_ports

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

NUMBERS = re.compile(r"\d\.\d+e-\d+|0\.\d+")
README = (Path(__file__).parents[2] / "README.md").read_text()


def block(name: str) -> str:
    """The shell block that follows `<!-- readme:NAME -->`."""
    found = re.search(rf"<!-- readme:{name} -->\n```sh\n(.*?)```", README, re.DOTALL)
    assert found, name
    return found[1]


def environment(folder: Path) -> dict[str, str]:
    """The `fedpredict` and `python` beside this interpreter come first."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "HOME": str(folder), "COLUMNS": "120"}


def shell(script: str, folder: Path) -> str:
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=folder, env=environment(folder), capture_output=True, text=True, check=False, timeout=200,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@contextlib.contextmanager
def served(script: str, folder: Path) -> Iterator[None]:
    """Run the servers of the README's first terminal until the end of the block; then nothing is left of them."""
    with (folder / "serve.log").open("wb") as log:
        terminal = subprocess.Popen(
            ["bash", "-c", script], cwd=folder, env=environment(folder), stdout=log, stderr=log, start_new_session=True
        )
    try:
        yield
    finally:
        os.killpg(terminal.pid, signal.SIGTERM)
        terminal.wait(30)
        end = time.monotonic() + 30
        with contextlib.suppress(ProcessLookupError):
            while time.monotonic() < end:
                os.killpg(terminal.pid, 0)
                time.sleep(0.05)
            os.killpg(terminal.pid, signal.SIGKILL)
            pytest.fail("a server outlived SIGTERM by 30 s: " + (folder / "serve.log").read_text())


def test_a_reader_gets_from_an_own_model_to_predictions(tmp_path: Path) -> None:
    initiator, participant, http = free_ports(3)
    train = block("train").split("mkdir trial && cd trial\n")[1]  # what is before it made this very environment
    expected = [float(word) for word in NUMBERS.findall(shell(train, tmp_path))]
    assert len(expected) == 2
    shell(block("configure").replace("7443", str(participant)), tmp_path)
    for path in (
        tmp_path / "bank" / "initiator.toml",
        tmp_path / "bank" / "client.toml",
        tmp_path / "telco" / "participant.toml",
    ):
        text = path.read_text().replace("127.0.0.1:7440", f"127.0.0.1:{initiator}")
        text = text.replace("127.0.0.1:7444", "127.0.0.1:0")
        text = text.replace("127.0.0.1:7480", f"127.0.0.1:{http}")
        path.write_text(text.replace("127.0.0.1:7443", f"127.0.0.1:{participant}"))
    shell(block("convert"), tmp_path)
    with served(block("serve"), tmp_path):
        models, ask, doctor = block("ask").strip().splitlines()
        end = time.monotonic() + 60
        while True:
            with contextlib.suppress(AssertionError):
                if '"ready": true' in shell(f"{models} --json", tmp_path):
                    break
            assert time.monotonic() < end, (tmp_path / "serve.log").read_text()
            time.sleep(0.2)
        answer = shell(ask, tmp_path)
        assert [float(word) for word in NUMBERS.findall(answer)] == pytest.approx(expected, rel=1e-7)
        assert "nobody      not_found   -" in answer
        assert "nan" not in answer.lower()
        shell(doctor, tmp_path)
