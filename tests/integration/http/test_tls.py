"""Mutual TLS on both event loops, and ports that several processes share."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest

from fedpredict.security.identity import IdentityKind
from tests.integration.federation import Certificates
from tests.integration.http.client import HttpsClient
from tests.integration.http.edge import PREDICT, Wire, get, open_edge, post


async def plain(address: str) -> Wire:
    host, _, port = address.rpartition(":")
    return Wire(*await asyncio.open_connection(host, int(port)))


async def test_a_caller_is_who_its_certificate_says(certificates: Certificates) -> None:
    async with open_edge(tls=certificates.of("bank")) as edge:
        local = HttpsClient(edge.server.address, certificates.of("local", IdentityKind.CLIENT))
        other = HttpsClient(edge.server.address, certificates.of("other", IdentityKind.CLIENT))
        party = HttpsClient(edge.server.address, certificates.of("local", IdentityKind.PARTY))

        assert (await local.ask(post(PREDICT))).status == 200
        for stranger in (other, party):
            assert (await stranger.ask(post(PREDICT, "X-Fedpredict-Client: local"))).problem == (404, "model_not_found")


async def test_without_tls_a_caller_is_who_it_states() -> None:
    async with open_edge() as edge:
        assert (await edge.ask(post(PREDICT, "X-Fedpredict-Client: local"))).status == 200
        assert (await edge.ask(post(PREDICT, "X-Fedpredict-Client: other"))).problem == (404, "model_not_found")
        assert (await edge.ask(post(PREDICT, "X-Fedpredict-Client: No Name"))).problem == (401, "unauthenticated")
        assert (await edge.ask(get("/v1/models", "X-Fedpredict-Client: No Name"))).status == 401


async def test_with_tls_and_without_a_certificate_nobody_is_believed(
    certificates: Certificates, tmp_path: Path
) -> None:
    async with open_edge(tls=certificates.of("bank"), takes_tokens=True) as edge:
        nobody = HttpsClient(edge.server.address, None)
        for request in (post(PREDICT, "X-Fedpredict-Client: local"), get("/v1/models", "X-Fedpredict-Client: local")):
            assert (await nobody.ask(request)).problem == (401, "unauthenticated")
        twice = post(PREDICT, "Authorization: Bearer a", "Authorization: Bearer b")
        assert (await nobody.ask(twice)).problem == (400, "malformed_http")
        local = HttpsClient(edge.server.address, certificates.of("local", IdentityKind.CLIENT))
        assert (await local.ask(post(PREDICT))).status == 200
        strangers = Certificates(tmp_path).of("local", IdentityKind.CLIENT)
        with pytest.raises((OSError, asyncio.IncompleteReadError)):
            await HttpsClient(edge.server.address, strangers, verify=False).ask(post(PREDICT))


async def test_requests_are_pipelined_and_limited_as_without_tls(certificates: Certificates) -> None:
    async with open_edge(tls=certificates.of("bank"), max_body_bytes=2000) as edge:
        local = HttpsClient(edge.server.address, certificates.of("local", IdentityKind.CLIENT))
        async with await local.connect() as wire:
            await wire.send(post(PREDICT) + get("/v1/models") + post(PREDICT, "Content-Length: 4"))

            assert [(await wire.read()).status for _ in range(3)] == [200, 200, 400]
            assert await wire.is_closed()
        async with await local.connect() as wire:
            assert (await wire.ask(post(b" " * 100_000))).status == 413


async def test_whoever_does_not_shake_hands_is_closed_and_nothing_is_said(
    certificates: Certificates, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with open_edge(tls=certificates.of("bank"), request_timeout_s=0.3) as edge:
        address = edge.server.address
        silent, chatty = await plain(address), await plain(address)
        await chatty.send(get("/v1/models"))
        strangers = Certificates(tmp_path).of("local", IdentityKind.CLIENT)
        for client in (HttpsClient(address, None), HttpsClient(address, strangers, verify=False)):
            with pytest.raises((OSError, asyncio.IncompleteReadError)):
                await client.ask(get("/v1/models"))

        assert await chatty.is_closed()
        assert await silent.is_closed()
        for wire in (silent, chatty):
            wire.writer.close()
        local = HttpsClient(address, certificates.of("local", IdentityKind.CLIENT))
        assert (await local.ask(get("/v1/models"))).status == 200
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


async def test_processes_share_a_port_only_when_all_say_so() -> None:
    async with open_edge(shares_port=True) as edge:
        address = edge.server.address
        async with open_edge(listen=address, shares_port=True) as second:
            assert second.server.address == address
            for _ in range(4):
                assert await edge.serves_others()
        with pytest.raises(Exception, match="cannot be bound"):
            async with open_edge(listen=address):
                pass
