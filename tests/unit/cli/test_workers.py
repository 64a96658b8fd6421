"""Ports that several workers share."""

from __future__ import annotations

import socket

import pytest

from fedpredict.cli import workers
from fedpredict.cli.workers import run_workers
from fedpredict.errors import ConfigError


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Gets an entry where workers would be started; nothing is."""
    entries: list[bool] = []
    monkeypatch.setattr(workers._Workers, "run", lambda *_: entries.append(True))
    return entries


def run(port: int) -> None:
    run_workers(lambda *_: None, 2, [f"127.0.0.1:{port}"], lambda _: None, drain_s=1.0)


def test_closed_connections_of_a_server_before_do_not_keep_the_port(started: list[bool]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as before:
        port = int(before.getsockname()[1])
        with socket.create_connection(("127.0.0.1", port)) as client:
            before.accept()[0].close()  # who closes first keeps the connection for a minute
            client.recv(1)
    run(port)
    assert started


@pytest.mark.parametrize("shared", [False, True], ids=["for itself", "for sharing"])
def test_a_port_at_which_somebody_listens_is_refused_by_name(shared: bool, started: list[bool]) -> None:
    with (
        socket.create_server(("127.0.0.1", 0), reuse_port=shared) as other,
        pytest.raises(ConfigError, match=f"127.0.0.1:{other.getsockname()[1]} cannot be bound"),
    ):
        run(int(other.getsockname()[1]))
    assert not started
