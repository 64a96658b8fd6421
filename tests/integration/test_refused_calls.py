"""What is no call, at every edge of an initiator: it counts, keeps to hours, and has its line in the audit log."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, TypeAlias

import grpc
import pytest

from fedpredict.errors import FedPredictError, ModelNotFoundError, ProtocolError, RateLimitedError
from fedpredict.security.identity import IdentityKind
from fedpredict.wire.inference import grpc_service_pb2 as pb
from fedpredict.wire.v1 import initiator_pb2
from tests.integration.federation import ANSWERS_IN_S
from tests.integration.http.client import HttpsClient
from tests.integration.http.edge import post
from tests.integration.test_initiator_audit import Bank, opened

INITIATOR, INFERENCE = "fedpredict.wire.v1.InitiatorService", "inference.GRPCInferenceService"
BURST = 3
UNREADABLE = initiator_pb2.PredictRequest(model_id="m")
"""Without ids, and of no version."""
Edge: TypeAlias = Callable[[Bank, str], Awaitable[None]]
SLOW: dict[str, object] = {"models": ["m"], "calls_per_s": 0.0001, "burst": BURST}


class Garbage:
    """Bytes that are no message."""

    def SerializeToString(self) -> bytes:  # noqa: N802  as protobuf has it
        return b"\xff" * 9


@pytest.fixture
async def bank(tmp_path: Path) -> AsyncIterator[Bank]:
    (tmp_path / "tasks").mkdir()
    clients: dict[str, dict[str, object]] = {"desk": {"models": ["*"]}}
    clients |= {f"slow-{number}": SLOW for number in range(len(EDGES))}
    async with opened(tmp_path, clients=clients) as bank:
        yield bank


async def on_stream(bank: Bank, caller: str, *messages: bytes) -> list[initiator_pb2.PredictAnswer]:
    """Send messages on a stream, and return its answers."""
    async with bank.federation.channel(caller) as channel:
        call = channel.stream_stream(f"/{INITIATOR}/PredictStream", None, None)(iter(messages), timeout=ANSWERS_IN_S)
        return [initiator_pb2.PredictAnswer.FromString(each) async for each in call]


async def test_bytes_that_are_no_message_are_a_line_of_every_method(bank: Bank) -> None:
    methods = ["Predict", "ListModels", "SubmitTask", "GetTask", "ListTasks", "CancelTask", "RetryTask"]
    methods += ["GetTaskHistory", "ModelReady", "ModelMetadata", "ModelInfer"]
    for method in methods:
        service = INFERENCE if method.startswith("Model") else INITIATOR
        with pytest.raises(ProtocolError):
            await bank.federation.call(method, Garbage(), "desk", ANSWERS_IN_S, service)
        line = await bank.line()
        assert (line["what"], line["caller"], line["outcome"]) == (method, "client desk", "ProtocolError")


@pytest.mark.parametrize("message", [b"\xff" * 9, initiator_pb2.PredictCall(id=7).SerializeToString()])
async def test_what_ends_a_stream_is_a_line(bank: Bank, message: bytes) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await on_stream(bank, "desk", message)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    line = await bank.line()
    assert (line["what"], line["caller"], line["outcome"]) == ("PredictStream", "client desk", "ProtocolError")


def over_grpc(method: str, request: object, service: str = INITIATOR) -> Edge:
    async def ask(bank: Bank, caller: str) -> None:
        await bank.federation.call(method, request, caller, ANSWERS_IN_S, service)

    return ask


def over_http(content: Any, path: str) -> Edge:
    async def ask(bank: Bank, caller: str) -> None:
        certificate = bank.federation.certificates.of(caller, IdentityKind.CLIENT)
        answer = await HttpsClient(str(bank.server.http_address), certificate).ask(post(content, path=path))
        _refuse(is_limited=answer.status == 429, told=str(answer.status))

    return ask


async def over_stream(bank: Bank, caller: str) -> None:
    call = initiator_pb2.PredictCall(id=1, predict=UNREADABLE)
    (answer,) = await on_stream(bank, caller, call.SerializeToString())
    _refuse(is_limited=answer.failure.code == grpc.StatusCode.RESOURCE_EXHAUSTED.value[0], told=answer.failure.text)


def _refuse(*, is_limited: bool, told: str) -> None:
    raise RateLimitedError(told, retry_after_ms=1) if is_limited else ProtocolError(told)


EDGES = {
    "guessed": over_grpc("ModelInfer", pb.ModelInferRequest(model_name="guessed"), INFERENCE),
    "ModelInfer": over_grpc("ModelInfer", Garbage(), INFERENCE),
    "Predict": over_grpc("Predict", UNREADABLE),
    "SubmitTask": over_grpc("SubmitTask", Garbage()),
    "guessed over HTTP": over_http({"inputs": []}, "/v2/models/guessed/infer"),
    "HTTP": over_http(b"{", "/v1/predict"),
    "ASGI": over_http(b"{", "/v1/predict?x=1"),
    "stream": over_stream,
}


async def test_what_is_no_call_counts_once_at_every_edge(bank: Bank) -> None:
    """Whoever tries out names, or sends what cannot be read, has as many calls as everybody, and not one more."""
    for number, edge in enumerate(EDGES.values()):
        for _ in range(BURST):
            with pytest.raises((ModelNotFoundError, ProtocolError)):
                await edge(bank, f"slow-{number}")
        with pytest.raises(RateLimitedError):
            await edge(bank, f"slow-{number}")


async def test_who_has_no_rule_learns_nothing_of_what_is_wrong(bank: Bank) -> None:
    for request in (Garbage(), UNREADABLE):
        with pytest.raises(FedPredictError) as refused:
            await bank.federation.call("Predict", request, "stranger", ANSWERS_IN_S)
        assert isinstance(refused.value, ModelNotFoundError)
        line = await bank.line()
        assert (line["caller"], line["outcome"]) == ("client stranger", "ModelNotFoundError")
