"""The command-line program in processes of its own: start, wait until ready, stop, leave nothing behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2

from fedpredict.security.tls import TlsFiles, channel_credentials, server_name
from fedpredict.wire.channel import channel_options

ROOT = Path(__file__).parents[2]
PROGRAM = (sys.executable, "-W", "error", "-c", "from fedpredict.cli.main import main; main()")
STARTS_IN_S = 60.0
STOPS_IN_S = 30.0
RUNS_IN_S = 120.0


def environment() -> dict[str, str]:
    """This process's environment without settings of ours, so that a test says all there is to say."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("FEDPREDICT_")}
    return {**kept, "PYTHONPATH": str(ROOT)}


@dataclass
class Daemon:
    """A serving process.

    Attributes:
        name: For messages.
        process: The process.
        log: Its standard error.
        address: Where it listens, once `wait` returned.
    """

    name: str
    process: subprocess.Popen[bytes]
    out: Path
    log: Path
    address: str = ""

    def wait(self) -> None:
        """Return when it says where it listens; fail with its log where it dies or says nothing."""

        def listening() -> bool:
            lines = self.out.read_text().splitlines()
            self.address = next((line.removeprefix("listening on ") for line in lines), "")
            return bool(self.address)

        self.until(listening, "listens")

    def wait_serving(self, party: str, tls: TlsFiles, service: str = "") -> None:
        """Return when the standard health service says SERVING for a service."""
        options = channel_options(server_name(party))
        with grpc.secure_channel(self.address, channel_credentials(tls), options=options) as channel:
            check = channel.unary_unary("/grpc.health.v1.Health/Check", None, None)
            request = health_pb2.HealthCheckRequest(service=service).SerializeToString()

            def serving() -> bool:
                try:
                    reply = health_pb2.HealthCheckResponse.FromString(check(request, timeout=5.0))
                except grpc.RpcError:
                    return False
                return bool(reply.status == health_pb2.HealthCheckResponse.SERVING)

            self.until(serving, f"serves {service or 'at all'}")

    def until(self, condition: Any, what: str) -> None:
        """Return when `condition()` is true; fail with the log where the process dies or it takes too long."""
        end = time.monotonic() + STARTS_IN_S
        while not condition():
            if self.process.poll() is not None:
                pytest.fail(f"{self.name} ended with {self.process.returncode}:\n{self.log.read_text()}")
            if time.monotonic() > end:
                pytest.fail(
                    f"after {STARTS_IN_S:.0f} s it is not true that {self.name} {what}:\n{self.log.read_text()}"
                )
            time.sleep(0.05)

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and return the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(STOPS_IN_S)


@dataclass
class Workshop:
    """A folder in which commands run and daemons live.

    Attributes:
        folder: The folder.
        daemons: What was started.
    """

    folder: Path
    daemons: list[Daemon] = field(default_factory=list)

    def attempt(self, *words: object) -> subprocess.CompletedProcess[str]:
        """Run a command, and return what became of it."""
        return subprocess.run(
            [*PROGRAM, *map(str, words)],
            cwd=self.folder,
            env=environment(),
            capture_output=True,
            text=True,
            timeout=RUNS_IN_S,
            check=False,
        )

    def run(self, *words: object) -> str:
        """Run a command that must succeed, and return its standard output."""
        done = self.attempt(*words)
        if done.returncode:
            logs = "".join(f"\n--- {each.name}\n{each.log.read_text()[-2000:]}" for each in self.daemons)
            pytest.fail(f"fedpredict {' '.join(map(str, words))}: {done.returncode}\n{done.stdout}{done.stderr}{logs}")
        return done.stdout

    def json(self, *words: object) -> Any:
        """Run a command that must succeed with `--json`, and return its document."""
        return json.loads(self.run(*words, "--json"))

    def start(self, name: str, *words: object) -> Daemon:
        """Start a serving command, and return it when it listens."""
        out, log = self.folder / f"{name}.out", self.folder / f"{name}.log"
        with out.open("wb") as stdout, log.open("wb") as stderr:
            process = subprocess.Popen(
                [*PROGRAM, *map(str, words)], cwd=self.folder, env=environment(), stdout=stdout, stderr=stderr
            )
        daemon = Daemon(name, process, out, log)
        self.daemons.append(daemon)
        daemon.wait()
        return daemon

    def close(self) -> None:
        """End whatever still runs."""
        for daemon in self.daemons:
            if daemon.process.poll() is None:
                daemon.process.kill()
            daemon.process.wait(STOPS_IN_S)


@pytest.fixture
def workshop(tmp_path: Path) -> Iterator[Workshop]:
    """An empty folder of one test's own."""
    made = Workshop(tmp_path)
    yield made
    made.close()


@pytest.fixture(scope="module")
def shared_workshop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workshop]:
    """An empty folder that the tests of one module share."""
    made = Workshop(tmp_path_factory.mktemp("workshop"))
    yield made
    made.close()
