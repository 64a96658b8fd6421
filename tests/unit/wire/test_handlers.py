import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import grpc
import pytest

from fedpredict import errors
from fedpredict.errors import FedPredictError
from fedpredict.public_status import INTERNAL, STATUS, public_status
from fedpredict.wire import handlers
from fedpredict.wire.channel import channel_options, server_options
from fedpredict.wire.status import GRPC_CODES, error_from_failure, error_from_rpc, failure_to_wire
from fedpredict.wire.v1 import common_pb2, participant_pb2

Hello = Callable[[participant_pb2.HelloRequest, handlers.Context], Awaitable[participant_pb2.HelloReply]]


@pytest.fixture
async def call() -> AsyncIterator[Callable[[Hello, bytes], Awaitable[bytes]]]:
    """Serve one method on loopback and call it with raw bytes."""
    servers: list[grpc.aio.Server] = []

    async def ask(method: Hello, data: bytes, deadline_s: float = 10.0) -> bytes:
        server = grpc.aio.server(options=server_options())
        handler = handlers.unary(participant_pb2.HelloRequest, method)
        server.add_generic_rpc_handlers((handlers.service("s.S", {"Hello": handler}),))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        servers.append(server)
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=channel_options()) as channel:
            reply = await channel.unary_unary("/s.S/Hello", None, None)(data, timeout=deadline_s)
            assert isinstance(reply, bytes)
            return reply

    yield ask
    for server in servers:
        await server.stop(None)


NOT_REBUILT = (errors.IncompatiblePartsError, errors.EventsRefusedError)
"""Errors that are no answer of gRPC: an initiator's own problem, and what events over HTTP get."""


def sample_error(cls: type[FedPredictError]) -> FedPredictError:
    data: dict[str, object] = {
        "limit": 7,
        "mode": "offline",
        "party": "lab",
        "place": "$.a",
        "population": "p",
        "problem": "none",
        "rows": "1 (STALE)",
        "retry_after_ms": 250,
        "state": "failed",
        "until": "2026-11-28T00:00:00Z",
    }
    data["feature"] = "f"
    data |= {"n_events": 3, "n_refused": 1, "refused": ({"line": 2, "problem": "none"},)}
    extra = {"parties": ("a",)} if cls is errors.IncompatiblePartsError else {}
    return cls("private text", **{name: data[name] for name in cls.public_fields}, **extra)


@pytest.mark.parametrize("cls", list(STATUS), ids=lambda cls: cls.__name__)
async def test_an_error_crosses_the_wire_as_itself_or_as_internal(call: object, cls: type[FedPredictError]) -> None:
    error = sample_error(cls)

    async def method(request: participant_pb2.HelloRequest, context: handlers.Context) -> participant_pb2.HelloReply:
        raise error

    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call(method, b"")  # type: ignore[operator]
    back = error_from_rpc(raised.value)
    assert "private" not in str(back)
    if STATUS[cls] is INTERNAL:
        assert str(back) == "internal error"
    elif cls not in NOT_REBUILT:
        assert type(back) is cls
        assert [getattr(back, name) for name in cls.public_fields] == [
            getattr(error, name) for name in cls.public_fields
        ]


@pytest.mark.parametrize("cls", list(STATUS), ids=lambda cls: cls.__name__)
def test_an_error_of_a_call_on_a_stream_is_the_one_of_a_call_of_its_own(cls: type[FedPredictError]) -> None:
    error = sample_error(cls)

    message = failure_to_wire(error)
    back = error_from_failure(message)

    assert (message.code, message.text) == (GRPC_CODES[STATUS[cls].code].value[0], public_status(error).text)
    assert str(back) == message.text
    if STATUS[cls] is not INTERNAL and cls not in NOT_REBUILT:
        assert type(back) is cls
        assert [getattr(back, name) for name in cls.public_fields] == [
            getattr(error, name) for name in cls.public_fields
        ]


@pytest.mark.parametrize(("code", "cls"), [(14, errors.ServerUnavailableError), (4, errors.DeadlineExceededError)])
def test_a_failure_without_detail_is_told_by_its_code(code: int, cls: type[FedPredictError]) -> None:
    assert type(error_from_failure(common_pb2.Failure(code=code, text="gone"))) is cls


@pytest.mark.parametrize("code", [2, 999])
def test_a_failure_of_an_unknown_code_is_an_error_all_the_same(code: int) -> None:
    assert type(error_from_failure(common_pb2.Failure(code=code, text="odd"))) is FedPredictError


async def test_an_unexpected_error_is_an_internal_error_and_no_more(call: object) -> None:
    async def method(request: participant_pb2.HelloRequest, context: handlers.Context) -> participant_pb2.HelloReply:
        raise ZeroDivisionError("u-4711 has weight 3")

    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call(method, b"")  # type: ignore[operator]
    assert raised.value.code() is grpc.StatusCode.INTERNAL
    assert raised.value.details() == "internal error"
    assert "fedpredict" not in str(raised.value.trailing_metadata())


async def test_a_broken_message_is_an_invalid_argument(call: object) -> None:
    async def method(request: participant_pb2.HelloRequest, context: handlers.Context) -> participant_pb2.HelloReply:
        return participant_pb2.HelloReply()

    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call(method, b"\xff\xff\xff")  # type: ignore[operator]
    assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_passed_deadline_is_one(call: object) -> None:
    async def method(request: participant_pb2.HelloRequest, context: handlers.Context) -> participant_pb2.HelloReply:
        await asyncio.Event().wait()
        return participant_pb2.HelloReply()

    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call(method, b"", 0.05)  # type: ignore[operator]
    assert isinstance(error_from_rpc(raised.value), errors.DeadlineExceededError)


async def test_a_server_that_is_not_there_is_unavailable() -> None:
    async with grpc.aio.insecure_channel("127.0.0.1:1", options=channel_options()) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await channel.unary_unary("/s.S/Hello", None, None)(b"", timeout=5)
    assert isinstance(error_from_rpc(raised.value), errors.ServerUnavailableError)


async def test_a_taken_port_is_an_error() -> None:
    first = grpc.aio.server(options=server_options())
    port = first.add_insecure_port("127.0.0.1:0")
    await first.start()
    second = grpc.aio.server(options=server_options())
    with pytest.raises(RuntimeError, match=str(port)):
        second.add_insecure_port(f"127.0.0.1:{port}")
    await first.stop(None)
