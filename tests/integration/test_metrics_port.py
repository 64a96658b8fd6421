"""The metrics port over real sockets."""

from __future__ import annotations

import asyncio
import http.client
from collections.abc import AsyncIterator

import pytest

from fedpredict.errors import ConfigError
from fedpredict.model.share import Mode
from fedpredict.observe import port as ports
from fedpredict.observe.page import Page
from fedpredict.observe.port import MetricsPort
from fedpredict.observe.serving import ServingMetrics


class Process:
    """Whether it is healthy."""

    healthy = True


@pytest.fixture
def process() -> Process:
    return Process()


@pytest.fixture
async def port(process: Process) -> AsyncIterator[MetricsPort]:
    serving = ServingMetrics({"credit"})
    serving.request("http", "credit", Mode.NEARLINE).done("ok", 0.001, 1)
    async with MetricsPort("127.0.0.1:0", 0, Page([serving]), lambda: process.healthy) as listening:
        yield listening


async def sent(address: str, data: bytes) -> bytes:
    """Return what comes back for some bytes, until the other side closes."""
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        writer.write(data)
        await writer.drain()
        return await reader.read()
    except ConnectionError:
        return b""
    finally:
        writer.close()


async def got(address: str, path: str, method: str = "GET", **headers: str) -> tuple[int, str, str]:
    """Return status, content type and body, as a library's client sees them."""

    def ask() -> tuple[int, str, str]:
        connection = http.client.HTTPConnection(address, timeout=10)
        try:
            connection.request(method, path, headers=headers)
            response = connection.getresponse()
            return response.status, response.headers["content-type"], response.read().decode()
        finally:
            connection.close()

    return await asyncio.to_thread(ask)


async def test_metrics_are_read_as_text_or_as_openmetrics(port: MetricsPort) -> None:
    status, kind, body = await got(port.address, "/metrics")
    assert (status, kind.split(";")[0]) == (200, "text/plain")
    assert "fedpredict_request_seconds_count{" in body
    status, kind, body = await got(port.address, "/metrics?x=1", accept="application/openmetrics-text;version=1.0.0")
    assert (status, kind.split(";")[0]) == (200, "application/openmetrics-text")
    assert body.endswith("# EOF\n")


async def test_health_follows_the_process(port: MetricsPort, process: Process) -> None:
    assert (await got(port.address, "/healthz"))[0::2] == (200, "ok\n")
    process.healthy = False
    assert (await got(port.address, "/healthz"))[0::2] == (503, "not ready\n")


async def test_head_has_the_length_and_no_body(port: MetricsPort) -> None:
    assert (await got(port.address, "/healthz", "HEAD"))[0::2] == (200, "")


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", b"404"),
        (b"POST /metrics HTTP/1.1\r\ncontent-length: 3\r\n\r\nabc", b"405"),
        (b"GET /metrics\r\n\r\n", b"400"),
        (b"\x16\x03\x01\x02\x00\x01\r\n\r\n", b"400"),
        (b"GET /metrics HTTP/1.1\r\n" + b"a: b\r\n" * 200 + b"\r\n", b"400"),
        (b"GET /metrics HTTP/1.1\r\na: " + b"b" * 100_000 + b"\r\n\r\n", b"431"),
    ],
    ids=["another path", "another method", "no version", "TLS", "many headers", "a long header"],
)
async def test_what_is_no_request_for_metrics_gets_its_status_and_the_next_reader_is_answered(
    port: MetricsPort, data: bytes, status: bytes
) -> None:
    answer = await sent(port.address, data)
    assert answer == b"" or answer.split(b" ")[1] == status
    assert (await got(port.address, "/healthz"))[0] == 200


async def test_a_reader_that_says_nothing_is_let_go(port: MetricsPort, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ports, "HEAD_S", 0.05)
    assert await sent(port.address, b"GET /metr") == b""


async def test_more_readers_than_the_limit_are_let_go_at_once(
    port: MetricsPort, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ports, "MAX_READERS", 0)
    assert await sent(port.address, b"GET /healthz HTTP/1.1\r\n\r\n") == b""


async def test_readers_under_way_do_not_hold_the_process(process: Process) -> None:
    async with MetricsPort("127.0.0.1:0", 0, Page([]), lambda: True) as port:
        host, _, number = port.address.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(number))
        writer.write(b"GET /met")
        await writer.drain()
        assert (await got(port.address, "/healthz"))[0] == 200
    assert await reader.read() == b""
    writer.close()


async def test_a_taken_port_is_named(port: MetricsPort) -> None:
    with pytest.raises(ConfigError, match=f"metrics.listen: {port.address} cannot be bound"):
        async with MetricsPort(port.address, 0, Page([]), lambda: True):
            pass


async def test_workers_take_the_ports_after_the_first(port: MetricsPort) -> None:
    host, _, number = port.address.rpartition(":")
    with pytest.raises(ConfigError, match=f"{host}:{number}"):
        async with MetricsPort(f"{host}:{int(number) - 3}", 3, Page([]), lambda: True):
            pass
