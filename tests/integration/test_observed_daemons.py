"""Daemons that are watched: a real initiator and a real participant, read as Prometheus reads them."""

from __future__ import annotations

import asyncio
import http.client
import logging
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, suppress
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from prometheus_client.parser import text_string_to_metric_families
from typing_extensions import override

from fedpredict.errors import ConfigError, FedPredictError
from fedpredict.initiator.fanout import Dialler
from fedpredict.initiator.server import InitiatorServer
from fedpredict.initiator.settings import InitiatorSettings
from fedpredict.model.kinds import Kind
from fedpredict.model.linear import LinearPart
from fedpredict.model.partial import PartialModel
from fedpredict.model.scorer import ScoreQuery
from fedpredict.model.share import Mode
from fedpredict.participant.server import ParticipantServer
from fedpredict.participant.settings import ParticipantSettings
from fedpredict.state.sql import open_pin_store
from fedpredict.tables.models import publish_model
from fedpredict.tables.views import FeatureView, ViewFeature, publish_snapshot
from fedpredict.warehouse.base import ColumnType
from fedpredict.warehouse.local import LocalWarehouse
from fedpredict.wire import task_codec
from fedpredict.wire.channel import channel_options
from fedpredict.wire.v1 import initiator_pb2

IDS = (b"u1", b"u2", b"nobody")
Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


async def read(address: str, path: str = "/metrics") -> tuple[int, str]:
    def ask() -> tuple[int, str]:
        connection = http.client.HTTPConnection(address, timeout=10)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read().decode()
        finally:
            connection.close()

    return await asyncio.to_thread(ask)


async def metrics(address: str) -> Samples:
    status, text = await read(address)
    assert status == 200
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(samples: Samples, name: str, **labels: str) -> float | None:
    return samples.get((name, frozenset(labels.items())))


class Participant:
    """A participant with one model over two people, that is watched."""

    def __init__(self, folder: Path) -> None:
        self.warehouse = LocalWarehouse(folder / "tables")
        view = FeatureView("people", 1, (ViewFeature("age", "age", ColumnType.DOUBLE),), "person", None)
        moments = pa.array([datetime(2026, 1, 2, tzinfo=UTC)] * 2, pa.timestamp("us", tz="UTC"))
        rows = pa.table({"sample_id": pa.array(["u1", "u2"]), "event_time": moments, "age": pa.array([31.25, 44.5])})
        publish_snapshot(self.warehouse, view, "20260131T083000.000000Z", rows)
        part = LinearPart(("age",), np.ones((1, 1)), None, np.zeros(1))
        partial = PartialModel("credit", "run-1", "lab", Kind.LINEAR, (), False, part)
        self.digest = publish_model(self.warehouse, partial, view, "00" * 32)[0].params_sha256
        self.settings = {
            "party": "lab",
            "listen": "127.0.0.1:0",
            "insecure": True,
            "warehouse": {"path": folder / "tables"},
            "callers": {"bank": {"models": ["credit"]}},
            "metrics": {"listen": "127.0.0.1:0"},
            "log": {"sample_ratio": 0.25},
        }

    def server(self, **changes: object) -> ParticipantServer:
        return ParticipantServer(ParticipantSettings.model_validate({**self.settings, **changes}), self.warehouse, None)

    async def ask(
        self, address: str, caller: str, *sample_ids: bytes, model_id: str = "credit", times: int = 1
    ) -> None:
        """Ask for shares; what is refused is refused."""
        query = ScoreQuery(
            request_id="r-1",
            model_id=model_id,
            manifest_sha256="ab" * 32,
            params_sha256=self.digest,
            mode=Mode.NEARLINE,
            sample_ids=sample_ids,
        )
        async with Dialler(caller, None).dial("lab", address) as remote:
            for _ in range(times):
                with suppress(FedPredictError):
                    await remote.score(query, deadline_s=20.0)


@pytest.fixture
def participant(tmp_path: Path) -> Iterator[Participant]:
    made = Participant(tmp_path)
    yield made
    made.warehouse.close()


class Events(logging.Handler):
    """Keeps the events that are logged."""

    def __init__(self) -> None:
        super().__init__()
        self.events: list[str] = []

    @override
    def emit(self, record: logging.LogRecord) -> None:
        self.events.append(record.getMessage())


@pytest.fixture
def events() -> Iterator[Events]:
    handler, logger = Events(), logging.getLogger("fedpredict.participant")
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield handler
    logger.setLevel(before)
    logger.removeHandler(handler)


async def test_a_participant_counts_shares_rows_and_what_it_holds(participant: Participant) -> None:
    async with participant.server() as server:
        await server.wait_read()
        await participant.ask(server.address, "bank", *IDS, times=3)
        await participant.ask(server.address, "bank", b"u1", model_id="guessed")
        await participant.ask(server.address, "thief", b"u1")
        samples = await metrics(server.metrics_address)
        assert await read(server.metrics_address, "/healthz") == (200, "ok\n")
    count = "fedpredict_score_seconds_count"
    assert value(samples, count, caller="bank", model="credit", outcome="partial") == 3.0
    assert value(samples, count, caller="bank", model="unknown", outcome="not_found") == 1.0
    assert value(samples, count, caller="unknown", model="credit", outcome="not_found") == 1.0
    rows = "fedpredict_score_rows_total"
    assert value(samples, rows, caller="bank", model="credit", status="ok") == 6.0
    assert value(samples, rows, caller="bank", model="credit", status="not_found") == 3.0
    view = {"view": "people", "view_version": "1"}
    assert value(samples, "fedpredict_store_rows", **view) == 2.0
    age = value(samples, "fedpredict_store_age_seconds", **view)
    assert age is not None
    assert age == pytest.approx((datetime.now(UTC) - datetime(2026, 1, 31, 8, 30, tzinfo=UTC)).total_seconds(), abs=60)
    assert value(samples, "fedpredict_store_bytes", **view)
    (info,) = [labels for name, labels in samples if name == "fedpredict_build_info"]
    assert {("party", "lab"), ("role", "participant"), ("worker", "0")} <= info
    assert not any(text in str(samples) for text in ("guessed", "thief", "u1", "nobody"))


async def test_shares_in_full_are_told_by_the_ratio_and_partial_ones_always(
    participant: Participant, events: Events
) -> None:
    async with participant.server() as server:
        await server.wait_read()
        await participant.ask(server.address, "bank", b"u1", times=8)
        assert events.events.count("score.done") == 2
        await participant.ask(server.address, "bank", b"nobody", times=3)
        assert events.events.count("score.done") == 5


async def test_a_daemon_that_is_not_told_to_opens_no_metrics_port(participant: Participant) -> None:
    async with participant.server(metrics={}) as server:
        await server.wait_read()
        await participant.ask(server.address, "bank", b"u1")
        assert server.metrics_address == ""


async def test_a_daemon_whose_metrics_port_is_taken_does_not_start(participant: Participant) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(ConfigError, match=f"metrics.listen: {address}"):
            async with participant.server(metrics={"listen": address}):
                pass


async def test_a_daemon_whose_port_is_taken_lets_its_metrics_port_go(participant: Participant) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        free = f"127.0.0.1:{probe.getsockname()[1]}"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        server = participant.server(listen=f"127.0.0.1:{taken.getsockname()[1]}", metrics={"listen": free})
        with pytest.raises(ConfigError, match="listen: 127"):
            async with server:
                pass
    with socket.create_server(("127.0.0.1", int(free.rpartition(":")[2]))):
        pass  # nobody holds it


@pytest.fixture
async def initiator(tmp_path: Path) -> AsyncIterator[InitiatorServer]:
    settings = InitiatorSettings.model_validate(
        {
            "party": "bank",
            "listen": "127.0.0.1:0",
            "insecure": True,
            "metrics": {"listen": "127.0.0.1:0"},
            "parties": {"lab": {"address": "127.0.0.1:9"}},
            "models": {"credit": {"parties": ["lab"]}},
            "clients": {"desk": {"models": ["*"]}},
        }
    )
    async with AsyncExitStack() as stack:
        store = open_pin_store("sqlite:///state.db", tmp_path)
        stack.callback(store.close)
        yield await stack.enter_async_context(InitiatorServer(settings, store, None, simulate=True))


async def test_an_initiator_shows_whether_a_party_is_there_and_that_it_came_back(
    participant: Participant, tmp_path: Path
) -> None:
    async with AsyncExitStack() as stack:
        lab = await stack.enter_async_context(participant.server())
        settings = InitiatorSettings.model_validate(
            {
                "party": "bank",
                "listen": "127.0.0.1:0",
                "insecure": True,
                "metrics": {"listen": "127.0.0.1:0"},
                "parties": {"lab": {"address": lab.address}},
            }
        )
        store = open_pin_store("sqlite:///state.db", tmp_path)
        stack.callback(store.close)
        bank = await stack.enter_async_context(InitiatorServer(settings, store, None))

        async def shows(connected: float, reconnects: float) -> bool:
            samples = await metrics(bank.metrics_address)
            return (
                value(samples, "fedpredict_party_connected", party="lab") == connected
                and value(samples, "fedpredict_party_reconnects_total", party="lab") == reconnects
            )

        async def linked() -> bool:
            samples = await metrics(bank.metrics_address)
            return value(samples, "fedpredict_party_links", party="lab", carrier="grpc") == 1.0

        await eventually(lambda: shows(1.0, 0.0))
        await eventually(linked)  # before, the party is only met, and what comes later is no reconnection
        await lab.__aexit__(None, None, None)
        await eventually(lambda: shows(0.0, 0.0))
        await stack.enter_async_context(participant.server(listen=lab.address))
        await eventually(lambda: shows(1.0, 1.0))


async def eventually(what: Callable[[], Awaitable[bool]]) -> None:
    """Return as soon as `what` is true; fail after 20 s."""
    async with asyncio.timeout(20.0):
        while not await what():
            await asyncio.sleep(0.02)


async def asked(address: str, model_id: str, sample_ids: Sequence[bytes], caller: str = "desk") -> None:
    """Ask as a client does; what is refused is refused."""
    import grpc

    from fedpredict.model.prediction import PredictTask
    from fedpredict.security.identity import Identity, IdentityKind
    from fedpredict.security.tls import stated_identity

    task = PredictTask(request_id="r-1", model_id=model_id, mode=Mode.NEARLINE, sample_ids=sample_ids)
    async with grpc.aio.insecure_channel(address, options=channel_options()) as channel:
        call = channel.unary_unary(
            "/fedpredict.wire.v1.InitiatorService/Predict",
            initiator_pb2.PredictRequest.SerializeToString,
            initiator_pb2.PredictReply.FromString,
        )
        metadata = stated_identity(Identity(IdentityKind.CLIENT, caller))
        with suppress(grpc.aio.AioRpcError):
            await call(task_codec.task_to_wire(task), timeout=20.0, metadata=metadata)


async def test_an_initiator_counts_requests_by_outcome_and_shows_its_models(initiator: InitiatorServer) -> None:
    await asked(initiator.address, "credit", IDS)
    await asked(initiator.address, "credit", (b"u1", b""))
    await asked(initiator.address, "credit", ())
    await asked(initiator.address, "guessed", IDS)
    samples = await metrics(initiator.metrics_address)
    found = {
        (labels_["model"], labels_["outcome"]): count
        for (name, labels), count in samples.items()
        if name == "fedpredict_request_seconds_count"
        for labels_ in [dict(labels)]
        if (labels_["edge"], labels_["mode"]) == ("grpc", "nearline")
    }
    assert found == {
        ("credit", "ok"): 1.0,
        ("credit", "partial"): 1.0,
        ("credit", "invalid_argument"): 1.0,
        ("unknown", "not_found"): 1.0,
    }
    labels = {"edge": "grpc", "mode": "nearline", "model": "credit"}
    assert value(samples, "fedpredict_request_rows_total", **labels, outcome="ok") == 3.0
    assert value(samples, "fedpredict_model_ready", model="credit") == 1.0
    assert await read(initiator.metrics_address, "/healthz") == (200, "ok\n")
    assert "guessed" not in str(samples)
