"""An initiator holds its clients to their rules at every edge, and keeps to what a party allows it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import numpy as np
import pytest

from fedpredict.errors import FedPredictError, OutOfHoursError, RateLimitedError
from fedpredict.initiator.server import InitiatorServer
from fedpredict.initiator.settings import ClientSettings
from fedpredict.model.prediction import PredictTask
from fedpredict.model.share import Mode, SampleStatus
from fedpredict.security.identity import IdentityKind
from fedpredict.warehouse.local import LocalWarehouse
from fedpredict.wire import task_codec
from fedpredict.wire.inference import grpc_service_pb2 as inference_pb2
from fedpredict.wire.status import error_from_failure, error_from_rpc
from fedpredict.wire.v1 import initiator_pb2
from tests.integration.federation import Federation, ScriptedParty
from tests.integration.http.client import HttpsClient

SERVICE, INFERENCE = "/fedpredict.wire.v1.InitiatorService/", "/inference.GRPCInferenceService/"
WAITS_S = 30.0
OK, AWAY = SampleStatus.OK, SampleStatus.PARTY_UNAVAILABLE
SHUT = {"weekdays": [f"{datetime.now(UTC) + timedelta(days=3):%a}".lower()], "time_zone": "UTC"}


@pytest.fixture
async def lab(federation: Federation) -> ScriptedParty:
    return await federation.party("lab", {b"u1": [1.0]}, np.array([[1.0]]))


class Edges:
    """Every way of client desk to ask; each returns an error's name, or "ok"."""

    def __init__(self, federation: Federation, server: InitiatorServer) -> None:
        self._federation = federation
        self.server = server
        self._http = HttpsClient(server.http_address or "", federation.certificates.of("desk", IdentityKind.CLIENT))
        self.hints: list[str] = []

    def rule(self, **keys: object) -> None:
        """Put another rule in force, as a reload does."""
        settings = ClientSettings.model_validate({"models": ["*"], **keys})
        self.server._access.replace({"desk": settings})

    async def _grpc(self, path: str, message: object) -> str:
        async with self._federation.channel("desk") as channel:
            try:
                await channel.unary_unary(path, None, None)(message.SerializeToString(), timeout=WAITS_S)  # type: ignore[attr-defined]
            except grpc.aio.AioRpcError as error:
                return type(error_from_rpc(error)).__name__
        return "ok"

    async def predict(self, mode: Mode = Mode.NEARLINE, rows: int = 1) -> str:
        task = PredictTask(request_id="r-1", model_id="m", mode=mode, sample_ids=[b"u1"] * rows)
        return await self._grpc(f"{SERVICE}Predict", task_codec.task_to_wire(task))

    async def stream(self) -> str:
        task = PredictTask(request_id="r-1", model_id="m", mode=Mode.NEARLINE, sample_ids=[b"u1"])
        message = initiator_pb2.PredictCall(id=1, predict=task_codec.task_to_wire(task)).SerializeToString()
        async with self._federation.channel("desk") as channel:
            call = channel.stream_stream(f"{SERVICE}PredictStream", None, None)(timeout=WAITS_S)  # type: ignore[call-arg]
            await call.write(message)
            got = await call.read()
            assert isinstance(got, bytes)
            answer = initiator_pb2.PredictAnswer.FromString(got)
            call.cancel()
        return type(error_from_failure(answer.failure)).__name__ if answer.HasField("failure") else "ok"

    async def infer(self) -> str:
        tensor = inference_pb2.ModelInferRequest.InferInputTensor(name="sample_id", datatype="BYTES", shape=[1])
        tensor.contents.bytes_contents.append(b"u1")
        request = inference_pb2.ModelInferRequest(model_name="m", inputs=[tensor])
        return await self._grpc(f"{INFERENCE}ModelInfer", request)

    async def http(self) -> str:
        return await self._post("/v1/predict", '{"model":"m","mode":"nearline","sample_ids":["u1"]}')

    async def infer_http(self) -> str:
        tensor = '{"name":"sample_id","datatype":"BYTES","shape":[1],"data":["u1"]}'
        return await self._post("/v2/models/m/infer", f'{{"inputs":[{tensor}]}}')

    async def _post(self, path: str, body: str) -> str:
        media = "content-type: application/json"
        head = f"POST {path} HTTP/1.1\r\nhost: x\r\n{media}\r\ncontent-length: {len(body)}\r\n\r\n"
        reply = await self._http.ask((head + body).encode())
        if reply.status == 200:
            return "ok"
        if reply.status == 429:
            self.hints.append(reply.headers["retry-after"])
        status, name = reply.problem
        return f"{status} {name}"

    async def tasks(self) -> str:
        return await self._grpc(f"{SERVICE}ListTasks", initiator_pb2.ListTasksRequest(protocol_version=1))

    async def submit(self) -> str:
        request = initiator_pb2.SubmitTaskRequest(
            protocol_version=1, request_id="r-1", model_id="m", mode="MODE_NEARLINE", upload_id="up-1"
        )
        return await self._grpc(f"{SERVICE}SubmitTask", request)


@pytest.fixture
async def edges(federation: Federation, lab: ScriptedParty, tmp_path: Path) -> Edges:
    tasks = LocalWarehouse(tmp_path / "tasks")
    federation.stack.callback(tasks.close)
    server = await federation.initiator({"m": {"parties": ["lab"]}}, task_warehouse=tasks, http_listen="127.0.0.1:0")
    await federation.ready()
    return Edges(federation, server)


async def test_calls_at_all_edges_count_together_and_each_says_when_to_come_again(edges: Edges) -> None:
    ways: list[Callable[[], Awaitable[str]]] = [
        edges.predict,
        edges.stream,
        edges.infer,
        edges.http,
        edges.infer_http,
        edges.tasks,
    ]
    edges.rule(calls_per_s=0.01, burst=len(ways))

    assert [await way() for way in ways] == ["ok"] * len(ways)
    refused = [await way() for way in (*ways, edges.submit)]

    assert refused[:3] == ["RateLimitedError"] * 3
    assert refused[3:5] == ["429 rate_limited"] * 2
    assert refused[5:] == ["RateLimitedError"] * 2
    assert [90 < int(each) <= 100 for each in edges.hints] == [True, True]


async def test_hours_modes_and_rows_hold_at_the_edges(edges: Edges) -> None:
    edges.rule(**SHUT)
    online = [await edges.predict(), await edges.stream(), await edges.infer(), await edges.http()]
    assert online == ["OutOfHoursError"] * 3 + ["403 out_of_hours"]
    assert [await edges.submit(), await edges.tasks()] == ["OutOfHoursError", "ok"]

    edges.rule(modes=["offline"], max_rows=2)
    assert [await edges.predict(), await edges.http()] == ["NotPermittedError", "403 not_permitted"]
    assert await edges.submit() == "NotPermittedError"
    assert await edges.predict(Mode.OFFLINE, rows=3) == "TooManySamplesError"

    edges.rule()
    assert await edges.predict(rows=3) == "ok"


@pytest.mark.parametrize(
    ("raises", "problem"),
    [
        (
            RateLimitedError("too often", retry_after_ms=60_000),
            "party lab takes no more calls now; retry in 60000 ms",
        ),
        (OutOfHoursError("night"), "party lab answers at other hours"),
    ],
)
async def test_a_party_that_takes_no_calls_now_is_named_and_not_hammered(
    federation: Federation, lab: ScriptedParty, raises: FedPredictError, problem: str
) -> None:
    await federation.initiator({"m": {"parties": ["lab"]}})
    await federation.ready()
    lab.raises = raises
    prediction = await federation.predict(b"u1")
    assert (prediction.status.tolist(), prediction.parties[0].problem) == ([AWAY], problem)
    lab.raises = None

    again = await federation.predict(b"u1")

    # who said when to come again is not asked before; who said only that it is closed may be open by now
    is_held = isinstance(raises, RateLimitedError)
    assert again.status.tolist() == [AWAY if is_held else OK]
    assert len(lab.asked) == (0 if is_held else 1)
