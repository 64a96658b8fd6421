"""What one caller may cost: every limit on a real socket, on the path without ASGI and beside it, and others served."""

from __future__ import annotations

import json
import logging

import pytest

from tests.integration.federation import eventually
from tests.integration.http.edge import PREDICT, HeldPredictor, get, open_edge, post

CHUNKED = post(b"").replace(b"Content-Length: 0", b"Transfer-Encoding: chunked")
PATHS = ["/v1/predict", "/v1/predict?", "/v1/nothing"]


def head(path: str, *lines: str) -> bytes:
    return "\r\n".join(
        [f"POST {path} HTTP/1.1", "Host: edge", "Content-Type: application/json", *lines, "", ""]
    ).encode()


@pytest.mark.parametrize("path", PATHS)
async def test_a_head_beyond_16_kb_is_refused_and_closed(path: str) -> None:
    whole = head(path, "Content-Length: 2", f"X-Long: {'x' * 16 * 1024}")
    async with open_edge() as edge:
        for pieces in ([whole], [whole[:-2]], [whole[:100], whole[100:]], [whole[:9000], whole[9000:-2]]):
            async with await edge.connect() as wire:
                assert (await wire.ask(*pieces)).problem == (431, "head_too_large")
                assert await wire.is_closed()
        assert await edge.serves_others()


async def test_a_target_or_many_headers_beyond_16_kb_are_refused() -> None:
    async with open_edge() as edge:
        assert (await edge.ask(get("/" + "x" * 17000))).problem == (431, "head_too_large")
        assert (await edge.ask(get("/v1/models", *["A: b"] * 4000))).problem == (431, "head_too_large")


async def test_a_head_of_nearly_16_kb_is_read() -> None:
    async with open_edge() as edge:
        assert (await edge.ask(get("/v1/models", f"X-Long: {'x' * 15 * 1024}"))).status == 200


@pytest.mark.parametrize("path", PATHS)
async def test_a_body_that_is_too_long_is_refused_before_it_is_sent(path: str) -> None:
    async with open_edge(max_body_bytes=2000) as edge, await edge.connect() as wire:
        reply = await wire.ask(head(path, "Content-Length: 104857600"))

        assert reply.problem == (413, "body_too_large")
        assert (reply.json["limit"], reply.json["detail"]) == (2000, "the body is longer than 2000 bytes")
        assert await wire.is_closed()
        assert await edge.serves_others()


async def test_an_expected_body_that_is_too_long_gets_no_100() -> None:
    async with open_edge(max_body_bytes=2000) as edge:
        reply = await edge.ask(head("/v1/predict", "Content-Length: 2001", "Expect: 100-continue"))

        assert reply.problem == (413, "body_too_large")


async def test_a_hundred_megabytes_are_refused_while_they_are_sent() -> None:
    async with open_edge() as edge, await edge.connect() as wire:
        reply = await wire.ask(head("/v1/predict", "Content-Length: 104857600"), *[b" " * 2**20] * 100)

        assert reply.problem == (413, "body_too_large")
        assert await edge.serves_others()


@pytest.mark.parametrize("path", PATHS)
async def test_a_chunked_body_is_refused_when_it_has_grown_too_long(path: str) -> None:
    chunk = b"1f4\r\n" + b" " * 500 + b"\r\n"
    async with open_edge(max_body_bytes=2000) as edge, await edge.connect() as wire:
        await wire.send(head(path, "Transfer-Encoding: chunked"), *[chunk] * 4)
        reply = await wire.ask(chunk)

        assert reply.problem == (413, "body_too_large")
        assert await wire.is_closed()


async def test_a_body_of_just_the_limit_is_read() -> None:
    body = json.dumps(PREDICT).encode().ljust(2000)
    async with open_edge(max_body_bytes=2000) as edge:
        assert (await edge.ask(post(body))).status == 200
        assert (await edge.ask(post(body + b" "))).status == 413


@pytest.mark.parametrize(
    "start", [b"POST /v1/pre", post(PREDICT)[:60], post(PREDICT)[:-1], CHUNKED + b"5\r\n{"], ids=range(4)
)
async def test_a_request_that_does_not_arrive_in_time_is_refused_and_closed(start: bytes) -> None:
    async with open_edge(request_timeout_s=0.2) as edge, await edge.connect() as wire:
        reply = await wire.ask(start)

        assert reply.problem == (408, "request_timeout")
        assert await wire.is_closed()
        assert await edge.serves_others()


async def test_a_trickle_does_not_extend_the_time() -> None:
    async with open_edge(request_timeout_s=0.3) as edge, await edge.connect() as wire:
        await wire.send(post(PREDICT)[:60])

        async def refused() -> bool:
            try:
                await wire.send(b"x")
            except ConnectionError:
                return True
            return wire.reader.at_eof() or bool(wire.reader._buffer)  # type: ignore[attr-defined]

        await eventually(refused)
        assert (await wire.read()).problem == (408, "request_timeout")


async def test_a_prediction_that_takes_longer_than_a_request_may_is_not_cut_off() -> None:
    predictor = HeldPredictor()
    async with open_edge(predictor, request_timeout_s=0.2) as edge, await edge.connect() as wire:
        await wire.send(post(PREDICT))
        await predictor.until_begun()
        async with await edge.connect() as slow:
            assert (await slow.ask(b"P")).status == 408
        predictor.release()

        assert (await wire.read()).status == 200


async def test_a_second_request_that_is_slow_is_refused_after_the_first_is_answered() -> None:
    predictor = HeldPredictor()
    async with open_edge(predictor, request_timeout_s=0.2) as edge, await edge.connect() as wire:
        await wire.send(post(PREDICT) + b"POST /v1/pre")
        await predictor.until_begun()
        async with await edge.connect() as slow:
            assert (await slow.ask(b"P")).status == 408
        predictor.release()

        assert (await wire.read()).status == 200
        assert (await wire.read()).problem == (408, "request_timeout")


async def test_an_idle_connection_is_closed_without_a_word() -> None:
    async with open_edge(keep_alive_s=0.2) as edge:
        async with await edge.connect() as wire:
            assert await wire.is_closed()
        async with await edge.connect() as wire:
            assert (await wire.ask(post(PREDICT))).status == 200
            assert await wire.is_closed()


async def test_one_connection_too_many_is_refused_and_closed() -> None:
    async with open_edge(max_connections=2) as edge:
        first, second, third = [await edge.connect() for _ in range(3)]
        assert (await first.ask(post(PREDICT))).status == 200
        assert (await second.ask(post(PREDICT))).status == 200
        refused = await third.read()

        assert refused.problem == (503, "too_many_connections")
        assert await third.is_closed()
        first.writer.close()
        third.writer.close()

        async def served() -> bool:
            return (await edge.ask(get("/v1/models"))).status == 200

        await eventually(served)
        second.writer.close()


async def test_far_too_many_connections_are_dropped() -> None:
    async with open_edge(max_connections=2) as edge:
        wires = [await edge.connect() for _ in range(5)]

        assert await wires[4].is_closed()
        for wire in wires:
            wire.writer.close()


async def test_framing_beyond_the_body_itself_is_refused() -> None:
    async with open_edge() as edge:
        for flood in (b"1;" + b"x" * 200_000, b"1\r\n{\r\n" * 40_000, b"0\r\n" + b"T: x\r\n" * 40_000):
            async with await edge.connect() as wire:
                await wire.send(CHUNKED, flood[:100_000], flood[100_000:])
                assert (await wire.read()).problem == (400, "malformed_http")
        assert await edge.serves_others()


MALFORMED = {
    "no HTTP": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "no version": b"GET /v1/models\r\n\r\n",
    "a version that is none": get("/v1/models").replace(b"1.1", b"1.2"),
    "a method that is none": get("/v1/models", method="FETCH"),
    "no host": get("/v1/models").replace(b"Host: edge\r\n", b""),
    "two hosts": get("/v1/models", "Host: other"),
    "a NUL in a header": get("/v1/models", "X: a\0b"),
    "a control character in a header": get("/v1/models", "X: a\x01b"),
    "a bare CR in a header": get("/v1/models", "X: a\rb"),
    "bare LFs": get("/v1/models").replace(b"\r\n", b"\n"),
    "a blank before the colon": get("/v1/models", "X : a"),
    "a folded header": get("/v1/models", "X: a", " b"),
    "two lengths": post(PREDICT, "Content-Length: 4"),
    "a length that is none": post(b"").replace(b"Length: 0", b"Length: +1"),
    "lengths in a list": post(b"").replace(b"Length: 0", b"Length: 0, 0"),
    "length and chunks": post(b"0\r\n\r\n", "Transfer-Encoding: chunked"),
    "chunks and length": CHUNKED.replace(b"chunked", b"chunked\r\nContent-Length: 5") + b"0\r\n\r\n",
    "another coding": CHUNKED.replace(b"chunked", b"gzip"),
    "chunks not last": CHUNKED.replace(b"chunked", b"chunked, identity"),
    "an unknown coding": CHUNKED.replace(b"chunked", b"xchunked") + b"0\r\n\r\n",
    "a bad chunk size": CHUNKED + b"zz\r\n{}\r\n0\r\n\r\n",
    "a chunk longer than it says": CHUNKED + b"1\r\n{}\r\n0\r\n\r\n",
    "chunks with bare LFs": CHUNKED + b"2\n{}\n0\n\n",
    "chunks in HTTP/1.0": CHUNKED.replace(b"HTTP/1.1", b"HTTP/1.0") + b"0\r\n\r\n",
    "no URL": get("*", method="OPTIONS").replace(b"*", b"a?*:"),
}


@pytest.mark.parametrize("request_bytes", MALFORMED.values(), ids=MALFORMED)
async def test_malformed_http_is_refused_and_closed(request_bytes: bytes, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    predictor = HeldPredictor()
    async with open_edge(predictor) as edge, await edge.connect() as wire:
        reply = await wire.ask(request_bytes)

        assert reply.problem == (400, "malformed_http")
        assert reply.headers["connection"] == "close"
        assert await wire.is_closed()
        assert predictor.begun == []
        assert await edge.serves_others()
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


@pytest.mark.parametrize("smuggler", [MALFORMED["length and chunks"], MALFORMED["chunks and length"]])
async def test_a_smuggled_second_request_is_never_begun(smuggler: bytes) -> None:
    predictor = HeldPredictor()
    async with open_edge(predictor) as edge, await edge.connect() as wire:
        await wire.send(post(PREDICT, "X-Request-Id: honest") + smuggler + post(PREDICT, "X-Request-Id: smuggled"))
        await predictor.until_begun()
        predictor.release()

        assert (await wire.read()).headers["x-request-id"] == "honest"
        assert (await wire.read()).problem == (400, "malformed_http")
        assert await wire.is_closed()
        assert [task.request_id for task in predictor.begun] == ["honest"]
        assert await edge.serves_others()


@pytest.mark.parametrize(
    "request_bytes",
    [
        post(PREDICT, "Upgrade: h2c", "Connection: Upgrade"),
        get("/v1/models", "Upgrade: websocket", "Connection: Upgrade"),
        b"CONNECT elsewhere:443 HTTP/1.1\r\nHost: elsewhere\r\n\r\n",
    ],
)
async def test_upgrades_and_tunnels_are_refused_and_closed(request_bytes: bytes) -> None:
    async with open_edge() as edge, await edge.connect() as wire:
        assert (await wire.ask(request_bytes)).problem == (400, "upgrade_refused")
        assert await wire.is_closed()


async def test_bytes_after_a_closing_request_are_not_a_request() -> None:
    predictor = HeldPredictor(held=False)
    async with open_edge(predictor) as edge, await edge.connect() as wire:
        reply = await wire.ask(post(PREDICT, "Connection: close", "X-Request-Id: r-1") + post(PREDICT))

        assert reply.headers["x-request-id"] == "r-1"
        assert await wire.is_closed()
        assert len(predictor.begun) == 1
