"""Raw events over HTTP: mutual TLS, who may send, and what counts at the next question over gRPC."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import numpy as np
import pyarrow as pa
import pytest

from fedpredict.errors import AuditUnavailableError, ConfigError
from fedpredict.features.registration import register_view
from fedpredict.model.kinds import Kind
from fedpredict.model.linear import LinearPart
from fedpredict.model.partial import PartialModel
from fedpredict.model.share import Mode, SampleStatus
from fedpredict.participant.server import ParticipantServer
from fedpredict.participant.settings import ParticipantSettings
from fedpredict.scoring.open_realtime import open_realtime
from fedpredict.scoring.realtime_views import RealtimeViews
from fedpredict.security.audit_chain import calls
from fedpredict.security.audit_keys import open_keys
from fedpredict.security.audit_log import AuditLog
from fedpredict.security.audit_settings import AuditSettings
from fedpredict.security.identity import IdentityKind
from fedpredict.security.tls import channel_credentials, server_name
from fedpredict.tables.models import ModelVersion, publish_model
from fedpredict.warehouse.local import LocalWarehouse
from fedpredict.wire.channel import channel_options
from tests.integration.federation import Certificates
from tests.integration.http.client import HttpsClient
from tests.integration.http.edge import Reply
from tests.integration.test_participant import Caller, query_for
from tests.raw_transactions import Merchant, example, store

NDJSON = b"content-type: application/x-ndjson\r\n"
ARROW = b"content-type: application/vnd.apache.arrow.stream\r\n"
PATH = b"/v1/events?view=transactions"
NOW = datetime.now(UTC) - timedelta(minutes=5)
FEATURES = ("n_30d", "spent_30d")


@dataclass
class Bank:
    """A running participant, and somebody who may send it events."""

    server: ParticipantServer
    feeder: HttpsClient
    caller: Caller
    model: ModelVersion
    views: RealtimeViews

    async def send(self, body: bytes, headers: bytes = NDJSON, path: bytes = PATH) -> Reply:
        return await self.feeder.ask(message(body, headers, path))

    async def share(self, *ids: bytes) -> list[list[float]]:
        reply = await self.caller.score(query_for(self.model, *ids, mode=Mode.REALTIME))
        assert [SampleStatus(each) for each in reply.share.status.tolist()] == [SampleStatus.OK] * len(ids)
        return reply.share.values.tolist()  # type: ignore[no-any-return]


def message(body: bytes, headers: bytes = NDJSON, path: bytes = PATH) -> bytes:
    head = b"POST %b HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n%b\r\n" % (path, len(body), headers)
    return head + body


def lines(*rows: dict[str, object]) -> bytes:
    return b"\n".join(json.dumps(row).encode() for row in rows)


def row(number: str, account: str = "alice", amount: object = "1.50", **changes: object) -> dict[str, object]:
    plain = {"id": number, "at": NOW.isoformat(), "account": account, "merchant": "m1", "amount": amount}
    return {**plain, "channel": "web", **changes}


@pytest.fixture
async def bank(tmp_path: Path, certificates: Certificates) -> AsyncIterator[Bank]:
    async with AsyncExitStack() as stack:
        yield await start(stack, tmp_path, certificates)


async def start(
    stack: AsyncExitStack, folder: Path, certificates: Certificates, audit: AuditLog | None = None, **changes: object
) -> Bank:
    warehouse = LocalWarehouse(folder / "warehouse")
    stack.callback(warehouse.close)
    store(warehouse, [], [Merchant("m1", "food", None)])
    registered, _ = register_view(warehouse, *example("transactions"))
    part = LinearPart(FEATURES, np.array([[1000.0], [1.0]]), None, np.zeros(1))
    partial = PartialModel("m", "run", "bank", Kind.LINEAR, (), True, part)
    model, _ = publish_model(warehouse, partial, registered.view.feature_view(1), "ab" * 32)
    content: dict[str, object] = {
        "party": "bank",
        "listen": "127.0.0.1:0",
        "http_listen": "127.0.0.1:0",
        "tls": {"ca": "ca", "certificate": "c", "key": "k"},
        "warehouse": {"path": str(folder / "warehouse")},
        "callers": {"hospital": {"models": ["*"]}},
        "realtime": {"transactions": "events"},
        "events": {"senders": ["feeder"]},
    }
    settings = ParticipantSettings.model_validate({**content, **changes})
    views = open_realtime(warehouse, settings.realtime, settings.events, folder)
    stack.callback(views.close)
    server = ParticipantServer(settings, warehouse, certificates.of("bank"), realtime=views, audit=audit)
    await stack.enter_async_context(server)
    await server.wait_read()
    hospital = channel_credentials(certificates.of("hospital"))
    channel = grpc.aio.secure_channel(server.address, hospital, channel_options(server_name("bank")))
    await stack.enter_async_context(channel)
    feeder = HttpsClient(server.http_address, certificates.of("feeder", IdentityKind.CLIENT))
    return Bank(server, feeder, Caller(channel), model, views)


async def test_events_count_at_the_next_question(bank: Bank) -> None:
    reply = await bank.send(lines(row("1"), row("2", amount=2), row("3", "bob", colour="red")))
    assert (reply.status, reply.json) == (200, {"accepted": 3, "duplicate": 0, "ignored": ["colour"]})
    assert await bank.share(b"alice", b"bob") == [[2003.5], [1001.5]]

    reply = await bank.send(lines(row("2"), row("4", "bob", "0.25")))
    assert reply.json == {"accepted": 1, "duplicate": 1, "ignored": []}
    assert await bank.share(b"bob", b"alice") == [[2001.75], [2003.5]]


async def test_an_arrow_stream_is_taken_too(bank: Bank) -> None:
    rows = [row("1"), row("2", "bob", "3.00")]
    table = pa.Table.from_pylist([{**each, "at": NOW} for each in rows])
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    reply = await bank.send(sink.getvalue().to_pybytes(), ARROW)
    assert (reply.status, reply.json["accepted"]) == (200, 2)
    assert await bank.share(b"bob") == [[1003.0]]

    broken = await bank.send(b"no stream", ARROW)
    assert broken.problem == (400, "events_refused")
    assert broken.json["refused"] == [{"line": 0, "reason": "the body is no Arrow IPC stream, or a damaged one"}]


async def test_one_bad_line_stores_nothing_and_is_told_by_its_number(bank: Bank) -> None:
    reply = await bank.send(lines(row("1"), row("2", amount="secret-99"), row("3", at=None)) + b"\n{")
    assert reply.problem == (400, "events_refused")
    assert reply.json["detail"] == "3 of 4 events cannot be taken; none was stored"
    assert reply.json["refused"] == [
        {"line": 2, "reason": "amount is no decimal(12,2)"},
        {"line": 3, "reason": "at is missing"},
        {"line": 4, "reason": "it is no JSON object"},
    ]
    assert b"secret" not in reply.body
    assert bank.views.events is not None
    assert bank.views.events.counts() == []


async def test_who_is_not_listed_sees_what_an_unknown_view_looks_like(bank: Bank, certificates: Certificates) -> None:
    async def as_(name: str, kind: IdentityKind, path: bytes = PATH) -> tuple[tuple[int, str], str]:
        reply = await HttpsClient(bank.server.http_address, certificates.of(name, kind)).ask(
            message(lines(row("1")), path=path)
        )
        return reply.problem, reply.json["detail"]

    unknown = await as_("feeder", IdentityKind.CLIENT, b"/v1/events?view=other")
    assert unknown == ((404, "feed_not_found"), "no such view takes events")
    assert await as_("stranger", IdentityKind.CLIENT) == unknown
    # a party of that name is another one
    assert await as_("feeder", IdentityKind.PARTY) == unknown
    assert await as_("feeder", IdentityKind.CLIENT, b"/v1/events") == unknown
    with pytest.raises((OSError, asyncio.IncompleteReadError)):
        await HttpsClient(bank.server.http_address, None).ask(message(lines(row("1"))))


async def test_a_request_of_another_form_is_refused(bank: Bank) -> None:
    media, nowhere = (415, "unsupported_media_type"), (404, "no_such_path")
    for headers, path, problem in (
        (b"content-type: application/json\r\n", PATH, media),
        (b"", PATH, media),
        (NDJSON + b"content-encoding: gzip\r\n", PATH, media),
        (NDJSON, b"/v1/else", nowhere),
    ):
        assert (await bank.send(lines(row("1")), headers, path)).problem == problem
    got = await bank.feeder.ask(b"GET /v1/events HTTP/1.1\r\nhost: x\r\n\r\n")
    assert got.problem == (405, "method_not_allowed")


async def test_a_body_above_the_limit_is_refused_before_it_is_read(tmp_path: Path, certificates: Certificates) -> None:
    async with AsyncExitStack() as stack:
        bank = await start(stack, tmp_path, certificates, http={"max_body_bytes": 2048})
        reply = await bank.send(lines(*(row(str(number)) for number in range(40))))
        assert reply.problem == (413, "body_too_large")


async def test_a_port_that_is_taken_is_told_and_nothing_listens(tmp_path: Path, certificates: Certificates) -> None:
    async with AsyncExitStack() as stack:
        taken = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
        stack.callback(taken.close)
        port = taken.sockets[0].getsockname()[1]
        with pytest.raises(ConfigError, match="http_listen"):
            await start(stack, tmp_path, certificates, http_listen=f"127.0.0.1:{port}")


async def test_messages_of_events_have_a_line_whether_they_are_taken_or_not(
    tmp_path: Path, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with AsyncExitStack() as stack:
        folder = tmp_path / "audit"
        log = stack.enter_context(AuditLog(AuditSettings(write_s=0.01), folder, "bank", 0, open_keys(folder)))
        bank = await start(stack, tmp_path, certificates, log)
        request_id = b"x-request-id: r-77\r\n"
        assert (await bank.send(lines(row("e1"), row("e2")), NDJSON + request_id)).status == 200
        assert (await bank.send(lines(row("e2"), row("e3")))).status == 200
        assert (await bank.send(b"no json")).status == 400
        assert (await bank.send(b"x", b"content-type: text/plain\r\n")).status == 415
        assert (await bank.send(lines(row("e4")), path=b"/v1/events?view=other")).status == 404
        other = HttpsClient(bank.server.http_address, certificates.of("other", IdentityKind.CLIENT))
        assert (await other.ask(message(lines(row("e5"))))).status == 404
        monkeypatch.setattr(log, "check", _unavailable)
        assert (await bank.send(lines(row("e6")))).status == 503
    found = list(calls([folder / "worker-0"]))
    assert [(line["what"], line["caller"], line["outcome"], line["rows"]) for line in found] == [
        ("POST /v1/events", "client feeder", "ok", 2),
        ("POST /v1/events", "client feeder", "ok", 2),
        ("POST /v1/events", "client feeder", "EventsRefusedError", 0),
        ("POST /v1/events", "client feeder", "ProblemError", 0),
        ("POST /v1/events", "client feeder", "FeedNotFoundError", 0),
        ("POST /v1/events", "client other", "FeedNotFoundError", 0),
        ("POST /v1/events", "client feeder", "AuditUnavailableError", 0),
    ]
    assert (found[0]["request"], found[0]["population"]) == ("r-77", "view transactions")
    assert "alice" not in json.dumps(found)


def _unavailable() -> None:
    raise AuditUnavailableError("the disk is full")
