"""One trace across an initiator's process and two participants: real gRPC between them, a real OTLP collector."""

from __future__ import annotations

import asyncio
import gzip
import http.client
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span as Exported
from typing_extensions import override

from fedpredict.initiator.fanout import Dialler
from fedpredict.initiator.server import InitiatorServer
from fedpredict.initiator.settings import InitiatorSettings
from fedpredict.model.kinds import Kind
from fedpredict.model.linear import LinearPart
from fedpredict.model.partial import PartialModel
from fedpredict.model.scorer import ScoreQuery
from fedpredict.model.share import Mode
from fedpredict.observe.settings import TracesSettings
from fedpredict.observe.traces import tracing
from fedpredict.observe.watch import PredictionWatch
from fedpredict.participant.server import ParticipantServer
from fedpredict.participant.settings import ParticipantSettings
from fedpredict.state.sql import open_pin_store
from fedpredict.tables.models import publish_model
from fedpredict.tables.views import FeatureView, ViewFeature, publish_snapshot
from fedpredict.warehouse.base import ColumnType
from fedpredict.warehouse.local import LocalWarehouse

MODEL = "credit"


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
    trace, caller = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
    await traced(tmp_path / "a", collector, 0.0, f"00-{trace}-{caller}-01")
    assert {span.trace_id.hex() for _, span in collector.spans} == {trace}
    assert {party for party, _ in collector.spans} == {"bank", "lab", "shop"}
    seen = len(collector.spans)
    await traced(tmp_path / "b", collector, 1.0, f"00-{trace}-{caller}-00")
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


async def test_a_prediction_over_http_is_one_trace_from_the_edge_to_every_party(
    tmp_path: Path, collector: Collector
) -> None:
    trace, caller = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
    async with AsyncExitStack() as stack:
        parties = {name: await started(stack, name, tmp_path / name, collector.endpoint) for name in ("lab", "shop")}
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
        store = open_pin_store("sqlite:///state.db", tmp_path)
        stack.callback(store.close)
        server = await stack.enter_async_context(InitiatorServer(settings, store, None))
        assert server.http_address is not None
        async with asyncio.timeout(20.0):
            while await asked_over_http(server.http_address, f"00-{'1' * 32}-{'2' * 16}-00") != 200:
                await asyncio.sleep(0.02)
        assert await asked_over_http(server.http_address, f"00-{trace}-{caller}-01") == 200
        page = await asyncio.to_thread(_page, server.metrics_address)
    assert {span.trace_id.hex() for _, span in collector.spans} == {trace}
    of_id = {span.span_id: (party, span.name) for party, span in collector.spans}
    assert sorted((party, span.name, of_id.get(span.parent_span_id)) for party, span in collector.spans) == [
        ("bank", "combine", ("bank", "round")),
        ("bank", "party", ("bank", "round")),
        ("bank", "party", ("bank", "round")),
        ("bank", "predict", None),
        ("bank", "round", ("bank", "predict")),
        ("lab", "score", ("bank", "party")),
        ("shop", "score", ("bank", "party")),
    ]
    (root,) = [span for _, span in collector.spans if span.name == "predict"]
    assert root.parent_span_id.hex() == caller
    for counted in (
        'fedpredict_request_seconds_count{edge="http",mode="nearline",model="credit",outcome="ok"} 2.0',
        'fedpredict_round_rows_sum{mode="nearline",model="credit"} 4.0',
        'fedpredict_party_seconds_count{outcome="ok",party="lab"} 2.0',
        'fedpredict_rounds_in_flight{mode="nearline",model="credit"} 0.0',
        "fedpredict_queue_requests 0.0",
    ):
        assert counted in page.splitlines()


def _page(address: str) -> str:
    connection = http.client.HTTPConnection(address, timeout=20)
    try:
        connection.request("GET", "/metrics")
        return connection.getresponse().read().decode()
    finally:
        connection.close()
