"""Many slow callers with large bodies, against a daemon in a process of its own: its memory stays within the limit."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import socket
from pathlib import Path

import pytest

from tests.e2e.conftest import Daemon, Workshop

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

MIB = 2**20
N_CALLERS, SENT, LENGTH = 150, 4 * MIB, 5 * MIB
"""Each sends 4 of the 5 MiB that it announces: 600 MiB in all."""
TOTAL, MARGIN = 64 * MIB, 96 * MIB
SETTINGS = f"""
party = "bank"
listen = "127.0.0.1:0"
http_listen = "127.0.0.1:0"
insecure = true
http.max_body_bytes_total = {TOTAL}
http.request_timeout_s = 60.0
models.credit.parties = ["lab"]
parties.lab.address = "127.0.0.1:9"
clients.desk.models = ["*"]
"""


def peak_bytes(daemon: Daemon) -> int:
    """Return the most memory that the process has had."""
    status = Path(f"/proc/{daemon.process.pid}/status").read_text(encoding="ascii")
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert found
    return int(found[1]) * 1024


def asked(address: str, body: bytes) -> tuple[int, str | None, object]:
    """Ask for a prediction; return status, retry-after and content."""
    connection = http.client.HTTPConnection(address, timeout=30)
    try:
        headers = {"content-type": "application/json", "x-fedpredict-client": "desk"}
        connection.request("POST", "/v1/predict", body, headers)
        answer = connection.getresponse()
        return answer.status, answer.getheader("retry-after"), json.loads(answer.read())
    finally:
        connection.close()


def test_slow_callers_with_large_bodies_do_not_fill_the_memory(workshop: Workshop) -> None:
    (workshop.folder / "initiator.toml").write_text(SETTINGS, encoding="utf-8")
    daemon = workshop.start("bank", "initiator", "serve", "--config", "initiator.toml", "--simulate")
    found = re.search(r"HTTP on \S*?([\d.]+:\d+)", daemon.out.read_text() + daemon.log.read_text())
    assert found
    small = json.dumps({"model": "credit", "sample_ids": ["u1"]}).encode()
    assert asked(found[1], small)[0] == 200
    before = peak_bytes(daemon)
    host, _, port = found[1].rpartition(":")
    lines = ("POST /v1/predict HTTP/1.1", "Host: bank", "Content-Type: application/json", f"Content-Length: {LENGTH}")
    start = "".join(f"{line}\r\n" for line in (*lines, "")).encode() + bytes(SENT)

    with contextlib.ExitStack() as stack:
        for _ in range(N_CALLERS):
            caller = stack.enter_context(socket.create_connection((host, int(port)), timeout=30))
            with contextlib.suppress(ConnectionError):  # those that are refused are cut off after a while
                caller.sendall(start)
        assert asked(found[1], small)[0] == 200
        status, retry_after, problem = asked(found[1], small.ljust(LENGTH))
        assert (status, retry_after) == (503, "1")
        assert isinstance(problem, dict)
        assert problem["type"] == "urn:fedpredict:error:no_room_for_body"

    assert peak_bytes(daemon) - before < TOTAL + MARGIN
    daemon.until(lambda: asked(found[1], small.ljust(LENGTH))[0] == 200, "takes large bodies again")
    assert daemon.stop() == 0
