"""One trace across an initiator's process and two participants: real gRPC between them, a real OTLP collector."""

from __future__ import annotations

import asyncio
import gzip
import http.client
import json
import socket
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pyarrow as pa
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span as Exported
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, use_span
from typing_extensions import override

from fedpredict.client import AsyncClient, Client
from fedpredict.client.core import PREDICT_STREAM
from fedpredict.client.pooled import TABLE_ROWS
from fedpredict.initiator.fanout import Dialler
from fedpredict.initiator.server import InitiatorServer
from fedpredict.initiator.settings import InitiatorSettings
from fedpredict.model.kinds import Kind
from fedpredict.model.linear import LinearPart
from fedpredict.model.partial import PartialModel
from fedpredict.model.prediction import PredictTask
from fedpredict.model.scorer import ScoreQuery
from fedpredict.model.share import Mode
from fedpredict.observe.settings import TracesSettings
from fedpredict.observe.traces import tracing
from fedpredict.observe.watch import PredictionWatch
from fedpredict.participant.server import ParticipantServer
from fedpredict.participant.settings import ParticipantSettings
from fedpredict.security.identity import Identity, IdentityKind
from fedpredict.security.tls import stated_identity
from fedpredict.state.sql import open_pin_store
from fedpredict.tables.models import publish_model
from fedpredict.tables.views import FeatureView, ViewFeature, publish_snapshot
from fedpredict.warehouse.base import ColumnType
from fedpredict.warehouse.local import LocalWarehouse
from fedpredict.wire import arrow_codec, task_codec
from fedpredict.wire.batching import take_batch
from fedpredict.wire.v1 import initiator_pb2

MODEL = "credit"
DESK = Identity(IdentityKind.CLIENT, "desk")
TRACE, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
"""The trace of whoever asks, and the span in it that the asking is."""


class Collector(ThreadingHTTPServer):
    """Takes spans as an OpenTelemetry collector does."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.spans: list[tuple[str, Exported]] = []
        """The party that sent it, and the span."""
        self.paths: set[str] = set()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        if self.headers.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        self.server.paths.add(self.path)
        for each in ExportTraceServiceRequest.FromString(body).resource_spans:
            attributes = {pair.key: pair.value.string_value for pair in each.resource.attributes}
            for scope in each.scope_spans:
                self.server.spans += [(attributes["fedpredict.party"], span) for span in scope.spans]
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    @override
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def collector() -> Iterator[Collector]:
    server = Collector()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@dataclass(frozen=True)
class Party:
    """A participant that serves one feature, and the digest of its part."""

    address: str
    digest: str


async def started(stack: AsyncExitStack, party: str, folder: Path, endpoint: str) -> Party:
    folder.parent.mkdir(exist_ok=True)
    warehouse = LocalWarehouse(folder)
    stack.callback(warehouse.close)
    view = FeatureView("people", 1, (ViewFeature("age", "age", ColumnType.DOUBLE),), "person", None)
    rows = pa.table(
        {
            "sample_id": pa.array(["secret-u1", "secret-u2"]),
            "event_time": pa.array([datetime(2026, 1, 2, tzinfo=UTC)] * 2, pa.timestamp("us", tz="UTC")),
            "age": pa.array([31.25, 44.5]),
        }
    )
    publish_snapshot(warehouse, view, "20260131T083000.000000Z", rows)
    part = LinearPart(("age",), np.ones((1, 1)), None, np.zeros(1))
    partial = PartialModel(MODEL, "run-1", party, Kind.LINEAR, (), False, part)
    version = publish_model(warehouse, partial, view, "00" * 32)[0]
    settings = ParticipantSettings.model_validate(
        {
            "party": party,
            "listen": "127.0.0.1:0",
            "insecure": True,
            "warehouse": {"path": folder},
            "callers": {"bank": {"models": [MODEL]}},
            "traces": {"endpoint": endpoint},
        }
    )
    server = await stack.enter_async_context(ParticipantServer(settings, warehouse, None))
    await server.wait_read()
    return Party(server.address, version.params_sha256)


async def predict(watch: PredictionWatch, parties: dict[str, Party], sent: str = "") -> None:
    """Ask both parties in one round, as an initiator does."""
    ids = (b"secret-u1", b"secret-u2")
    request = watch.request("http", MODEL, Mode.NEARLINE, len(ids), sent)
    round_ = watch.round(MODEL, Mode.NEARLINE, [request.traceparent], len(ids))
    for name, party in parties.items():
        query = ScoreQuery(
            request_id="r-1",
            model_id=MODEL,
            manifest_sha256="ab" * 32,
            params_sha256=party.digest,
            mode=Mode.NEARLINE,
            sample_ids=ids,
            traceparent=round_.ask(name),
        )
        async with Dialler("bank", None).dial(name, party.address) as remote:
            reply = await remote.score(query, deadline_s=20.0)
        round_.heard(name, "ok", 0.001, reply.elapsed_s)
    combining = round_.combining()
    if combining is not None:
        combining.end("ok")
    round_.ended()
    request.answered(asyncio.CancelledError())


async def traced(folder: Path, collector: Collector, ratio: float, sent: str = "") -> None:
    async with AsyncExitStack() as stack:
        parties = {name: await started(stack, name, folder / name, collector.endpoint) for name in ("lab", "shop")}
        settings = TracesSettings(endpoint=collector.endpoint, sample_ratio=ratio)
        traces = await stack.enter_async_context(tracing(settings, "initiator", "bank"))
        await predict(PredictionWatch(traces=traces), parties, sent)


async def test_one_trace_crosses_the_initiator_and_both_participants(tmp_path: Path, collector: Collector) -> None:
    await traced(tmp_path, collector, 1.0)
    assert collector.paths == {"/v1/traces"}
    assert len({span.trace_id for _, span in collector.spans}) == 1
    of_id = {span.span_id: (party, span.name) for party, span in collector.spans}
    tree = {(party, span.name, of_id.get(span.parent_span_id)) for party, span in collector.spans}
    assert tree == {
        ("bank", "predict", None),
        ("bank", "round", ("bank", "predict")),
        ("bank", "party", ("bank", "round")),
        ("bank", "combine", ("bank", "round")),
        ("lab", "score", ("bank", "party")),
        ("shop", "score", ("bank", "party")),
    }
    assert len(collector.spans) == 7
    asked = {
        attribute.value.string_value
        for party, span in collector.spans
        if span.name == "party"
        for attribute in span.attributes
        if attribute.key == "fedpredict.party"
    }
    assert asked == {"lab", "shop"}
    told = b"".join(span.SerializeToString() for _, span in collector.spans)
    assert not any(secret in told for secret in (b"secret-u1", b"31.25"))


async def test_a_callers_trace_goes_on_and_one_that_is_not_sampled_stays_silent(
    tmp_path: Path, collector: Collector
) -> None:
    await traced(tmp_path / "a", collector, 0.0, f"00-{TRACE}-{CALLER}-01")
    assert {span.trace_id.hex() for _, span in collector.spans} == {TRACE}
    assert {party for party, _ in collector.spans} == {"bank", "lab", "shop"}
    seen = len(collector.spans)
    await traced(tmp_path / "b", collector, 1.0, f"00-{TRACE}-{CALLER}-00")
    assert len(collector.spans) == seen


async def test_a_collector_that_hangs_or_is_away_holds_nobody_up(tmp_path: Path, collector: Collector) -> None:
    with socket.create_server(("127.0.0.1", 0)) as hanging:  # takes connections and never answers
        await predicted(tmp_path / "a", f"http://127.0.0.1:{hanging.getsockname()[1]}")
    await predicted(tmp_path / "b", "http://127.0.0.1:9")  # the port of `discard`: nobody listens there
    assert collector.spans == []


async def predicted(tmp_path: Path, endpoint: str) -> None:
    async with asyncio.timeout(30.0), AsyncExitStack() as stack:
        parties = {"lab": await started(stack, "lab", tmp_path, endpoint)}
        settings = TracesSettings(endpoint=endpoint, sample_ratio=1.0)
        traces = await stack.enter_async_context(tracing(settings, "initiator", "bank"))
        await predict(PredictionWatch(traces=traces), parties)


async def asked_over_http(address: str, traceparent: str) -> int:
    """Ask for a prediction as a risk system does; return the status."""

    def ask() -> int:
        connection = http.client.HTTPConnection(address, timeout=20)
        try:
            body = json.dumps({"model": MODEL, "sample_ids": ["secret-u1", "secret-u2"]})
            headers = {"content-type": "application/json", "traceparent": traceparent, "x-fedpredict-client": "desk"}
            connection.request("POST", "/v1/predict", body, headers)
            return connection.getresponse().status
        finally:
            connection.close()

    return await asyncio.to_thread(ask)


async def bank(stack: AsyncExitStack, folder: Path, collector: Collector) -> InitiatorServer:
    """Start an initiator and two participants that export to the collector; by themselves they trace nothing."""
    parties = {name: await started(stack, name, folder / name, collector.endpoint) for name in ("lab", "shop")}
    settings = InitiatorSettings.model_validate(
        {
            "party": "bank",
            "listen": "127.0.0.1:0",
            "http_listen": "127.0.0.1:0",
            "insecure": True,
            "poll_s": 0.05,
            "deadline_s": 20.0,
            "parties": {name: {"address": party.address} for name, party in parties.items()},
            "models": {MODEL: {"parties": sorted(parties)}},
            "clients": {"desk": {"models": ["*"]}},
            "traces": {"endpoint": collector.endpoint, "sample_ratio": 0.0},
            "metrics": {"listen": "127.0.0.1:0"},
        }
    )
    store = open_pin_store("sqlite:///state.db", folder)
    stack.callback(store.close)
    server = await stack.enter_async_context(InitiatorServer(settings, store, None))
    assert server.http_address is not None
    async with asyncio.timeout(20.0):
        while await asked_over_http(server.http_address, f"00-{'1' * 32}-{'2' * 16}-00") != 200:
            await asyncio.sleep(0.02)
    return server


def assert_one_prediction(spans: list[tuple[str, Exported]], edge: str) -> None:
    """Check that these are the spans of one prediction that `CALLER` asked for, all of them, in one tree."""
    assert {span.trace_id.hex() for _, span in spans} == {TRACE}
    of_id = {span.span_id: (party, span.name) for party, span in spans}
    assert sorted((party, span.name, of_id.get(span.parent_span_id)) for party, span in spans) == [
        ("bank", "combine", ("bank", "round")),
        ("bank", "party", ("bank", "round")),
        ("bank", "party", ("bank", "round")),
        ("bank", "predict", None),
        ("bank", "round", ("bank", "predict")),
        ("lab", "score", ("bank", "party")),
        ("shop", "score", ("bank", "party")),
    ]
    assert asked_by(spans) == [(edge, CALLER)]


def asked_by(spans: list[tuple[str, Exported]]) -> list[tuple[str, str]]:
    """Return for each request the edge that it came through, and the span above it."""
    return [
        (attribute.value.string_value, span.parent_span_id.hex())
        for _, span in spans
        if span.name == "predict"
        for attribute in span.attributes
        if attribute.key == "fedpredict.edge"
    ]


async def test_a_prediction_over_http_is_one_trace_from_the_edge_to_every_party(
    tmp_path: Path, collector: Collector
) -> None:
    async with AsyncExitStack() as stack:
        server = await bank(stack, tmp_path, collector)
        assert server.http_address is not None
        assert await asked_over_http(server.http_address, f"00-{TRACE}-{CALLER}-01") == 200
        page = await asyncio.to_thread(_page, server.metrics_address)
    assert_one_prediction(collector.spans, "http")
    for counted in (
        'fedpredict_request_seconds_count{edge="http",mode="nearline",model="credit",outcome="ok"} 2.0',
        'fedpredict_round_rows_sum{mode="nearline",model="credit"} 4.0',
        'fedpredict_party_seconds_count{outcome="ok",party="lab"} 2.0',
        'fedpredict_rounds_in_flight{mode="nearline",model="credit"} 0.0',
        "fedpredict_queue_requests 0.0",
    ):
        assert counted in page.splitlines()


def call(call_id: int, traceparent: str, *, as_table: bool = False) -> initiator_pb2.PredictCall:
    """Return a call on a stream, as a caller in any language makes it."""
    ids = (b"secret-u1", b"secret-u2")
    task = PredictTask(request_id=f"r-{call_id}", model_id=MODEL, mode=Mode.NEARLINE, sample_ids=ids)
    message = initiator_pb2.PredictCall(id=call_id, traceparent=traceparent)
    if as_table:
        arrow_codec.task_to_arrow(task, message.arrow)
    else:
        task_codec.task_to_wire(task, message.predict)
    return message


async def asked_on_a_stream(address: str, *calls: initiator_pb2.PredictCall) -> None:
    """Send calls in one message of a stream, joined as bytes; return when each has its prediction."""
    async with asyncio.timeout(20.0), grpc.aio.insecure_channel(address) as channel:
        method = channel.stream_stream(PREDICT_STREAM, None, None)
        stream = method(None, metadata=stated_identity(DESK))
        await stream.write(take_batch(deque(each.SerializeToString() for each in calls)))
        for _ in calls:
            data: Any = await stream.read()
            assert initiator_pb2.PredictAnswer.FromString(data).WhichOneof("body") in {"reply", "arrow"}
        await stream.done_writing()


@pytest.mark.parametrize("as_table", [False, True], ids=["message", "table"])
async def test_a_prediction_on_a_stream_is_one_trace_from_its_caller_to_every_party(
    tmp_path: Path, collector: Collector, as_table: bool
) -> None:
    async with AsyncExitStack() as stack:
        server = await bank(stack, tmp_path, collector)
        await asked_on_a_stream(server.address, call(1, f"00-{TRACE}-{CALLER}-01", as_table=as_table))
    assert_one_prediction(collector.spans, "stream")


async def test_calls_that_share_a_message_of_a_stream_have_each_their_own_trace(
    tmp_path: Path, collector: Collector
) -> None:
    other, silent = "1" * 32, "2" * 32
    async with AsyncExitStack() as stack:
        server = await bank(stack, tmp_path, collector)
        await asked_on_a_stream(
            server.address,
            call(1, f"00-{TRACE}-{CALLER}-01"),
            call(2, f"00-{silent}-{CALLER}-00"),  # its caller has decided against it
            call(3, ""),
            call(4, "no span at all"),
            call(5, f"00-{other}-{CALLER}-01", as_table=True),
        )
    assert asked_by(collector.spans) == [("stream", CALLER)] * 2
    assert {span.trace_id.hex() for _, span in collector.spans if span.name == "predict"} == {TRACE, other}
    # requests that travel as one round: it hangs below the first of them and is linked to the others
    rounds = [span for _, span in collector.spans if span.name == "round"]
    linked = {link.trace_id.hex() for span in rounds for link in span.links}
    assert {span.trace_id.hex() for span in rounds} | linked == {TRACE, other}


async def test_a_client_hands_the_open_span_on_whichever_way_its_calls_take(
    tmp_path: Path, collector: Collector
) -> None:
    few, many = ["secret-u1"], ["secret-u1"] * (TABLE_ROWS + 1)
    span = NonRecordingSpan(SpanContext(int(TRACE, 16), int(CALLER, 16), is_remote=False, trace_flags=TraceFlags(1)))
    async with AsyncExitStack() as stack:
        server = await bank(stack, tmp_path, collector)
        client = await stack.enter_async_context(AsyncClient(server.address, insecure=True, identity=DESK))
        blocking = stack.enter_context(Client(server.address, insecure=True, identity=DESK))
        with use_span(span):
            await asyncio.gather(client.predict(MODEL, many), *(client.predict(MODEL, few) for _ in range(8)))
            await asyncio.to_thread(blocking.predict, MODEL, few)
            await asyncio.to_thread(blocking.predict, MODEL, many)
        await client.predict(MODEL, few)
        await client.predict(MODEL, many)
    assert {span.trace_id.hex() for _, span in collector.spans} == {TRACE}
    asked = asked_by(collector.spans)
    assert len(asked) == 1 + 8 + 2
    assert set(asked) == {("grpc", CALLER), ("stream", CALLER)}


def _page(address: str) -> str:
    connection = http.client.HTTPConnection(address, timeout=20)
    try:
        connection.request("GET", "/metrics")
        return connection.getresponse().read().decode()
    finally:
        connection.close()
