"""A daemon of several processes: one port, every worker reachable, and none of them missed or left behind."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import pytest

from fedpredict.security.tls import TlsFiles, channel_credentials, server_name
from fedpredict.wire.channel import channel_options
from fedpredict.wire.v1 import participant_pb2

if TYPE_CHECKING:
    from tests.e2e.conftest import Daemon, Workshop

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

WITHIN_S = 60.0


@pytest.fixture
def lab(workshop: Workshop) -> Daemon:
    """A participant of two workers."""
    workshop.run("certs", "ca", "ca")
    workshop.run("init", "initiator", "bank", "--listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0")
    workshop.run("init", "participant", "lab", "--initiator", "bank", "--listen", "127.0.0.1:0")
    settings = workshop.folder / "lab" / "participant.toml"
    settings.write_text("workers = 2\n" + settings.read_text())
    return workshop.start("lab", "participant", "serve", "--config", "lab/participant.toml")


def children(pid: int) -> list[int]:
    """Return the processes whose parent is `pid`, without helpers of Python's own."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            parent = (entry / "stat").read_text().rpartition(")")[2].split()[1]
            command = (entry / "cmdline").read_bytes()
        except OSError:
            continue
        if parent == str(pid) and b"spawn_main" in command:
            found.append(int(entry.name))
    return found


def seen_workers(workshop: Workshop, daemon: Daemon) -> dict[int, str]:
    """Say hello on a new connection, and return worker -> instance."""
    certs = workshop.folder / "bank" / "certs"
    tls = TlsFiles(certs / "ca.pem", certs / "bank.pem", certs / "bank.key")
    seen: dict[int, str] = {}
    for _ in range(24):
        with grpc.secure_channel(
            daemon.address, channel_credentials(tls), options=channel_options(server_name("lab"))
        ) as channel:
            hello = participant_pb2.HelloRequest(protocol_version=1, nonce=b"n" * 32)
            method = channel.unary_unary("/fedpredict.wire.v1.ParticipantService/Hello", None, None)
            reply = participant_pb2.HelloReply.FromString(method(hello.SerializeToString(), timeout=10.0))
        assert reply.workers == 2
        seen[reply.worker] = reply.instance
        if len(seen) == 2:
            break
    return seen


def test_every_worker_is_found_by_its_number_on_one_port(workshop: Workshop, lab: Daemon) -> None:
    seen = seen_workers(workshop, lab)

    assert sorted(seen) == [0, 1]
    assert len(set(seen.values())) == 2
    assert len(children(lab.process.pid)) == 2


def test_a_worker_that_dies_is_replaced(workshop: Workshop, lab: Daemon) -> None:
    before = set(children(lab.process.pid))
    os.kill(min(before), signal.SIGKILL)

    lab.until(lambda: len(set(children(lab.process.pid)) - before) == 1, "has a new worker")
    lab.until(lambda: sorted(seen_workers(workshop, lab)) == [0, 1], "is served by both")

    (died,) = [line for line in lab.log.read_text().splitlines() if "worker.died" in line]
    told = json.loads(died)
    assert (told["event"], told["exit_code"]) == ("worker.died", -signal.SIGKILL)


def test_all_of_them_stop_on_one_signal(lab: Daemon) -> None:
    workers = children(lab.process.pid)

    assert lab.stop(signal.SIGTERM) == 0

    assert [pid for pid in workers if Path(f"/proc/{pid}").exists()] == []


def test_workers_do_not_outlive_a_supervisor_that_was_killed(lab: Daemon) -> None:
    workers = children(lab.process.pid)
    lab.stop(signal.SIGKILL)

    end = time.monotonic() + WITHIN_S
    while left := [pid for pid in workers if Path(f"/proc/{pid}").exists()]:
        assert time.monotonic() < end, left
        time.sleep(0.05)


def test_a_port_that_is_taken_is_an_error_for_several_workers_too(workshop: Workshop) -> None:
    workshop.run("certs", "ca", "ca")
    workshop.run("init", "initiator", "bank", "--listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        workshop.run("init", "participant", "lab", "--initiator", "bank", "--listen", f"127.0.0.1:{port}")
        settings = workshop.folder / "lab" / "participant.toml"
        settings.write_text("workers = 2\n" + settings.read_text())
        done = workshop.attempt("participant", "serve", "--config", "lab/participant.toml")

    assert done.returncode == 3
    assert f"127.0.0.1:{port} cannot be bound" in done.stderr
