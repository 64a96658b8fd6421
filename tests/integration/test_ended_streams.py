"""A server that ends a stream while it is written to: who wrote is told what it said, and not that it was lost."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import grpc
import pytest
from typing_extensions import override

from fedpredict.client import AsyncClient
from fedpredict.errors import ServerUnavailableError, UnauthenticatedError
from fedpredict.wire.batching import BATCH_METADATA
from fedpredict.wire.channel import STREAM_METADATA
from fedpredict.wire.ending import Ending
from fedpredict.wire.status import abort, error_from_rpc
from fedpredict.wire.stream_carrier import StreamCarrier

N_STREAMS = 30


class Refusing(grpc.GenericRpcHandler):  # type: ignore[type-arg]  # the stubs alone have arguments
    """Takes every stream, and ends it with a refusal at the first message; counts the streams."""

    def __init__(self) -> None:
        self.streams: Counter[str] = Counter()

    @override
    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any]:
        method = str(handler_call_details.method).rpartition("/")[2]

        async def refuse(requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext[bytes, bytes]) -> None:
            self.streams[method] += 1
            await context.send_initial_metadata((STREAM_METADATA, BATCH_METADATA))
            async for _ in requests:
                await abort(context, UnauthenticatedError("the certificate was denied meanwhile"))

        if method == "UploadSamples":
            return grpc.stream_unary_rpc_method_handler(refuse)
        return grpc.stream_stream_rpc_method_handler(refuse)


@asynccontextmanager
async def refusing() -> AsyncIterator[tuple[Refusing, str]]:
    """Give a server and its address."""
    server, handler = grpc.aio.server(), Refusing()
    server.add_generic_rpc_handlers((handler,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield handler, f"127.0.0.1:{port}"
    finally:
        await server.stop(0)


async def test_the_end_of_a_stream_is_the_servers_word_though_a_write_failed() -> None:
    async with refusing() as (_, address), grpc.aio.insecure_channel(address) as channel:
        for _ in range(N_STREAMS):
            call: Any = channel.stream_stream("/s/Any", None, None)()  # type: ignore[call-arg]
            ending = Ending(call)
            with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
                while True:
                    await call.write(b"x" * 5000)
            error = await ending.error()
            assert type(error_from_rpc(error)) is UnauthenticatedError
            assert ending.told.startswith("UNAUTHENTICATED: ")


async def test_a_stream_that_goes_on_has_no_end_yet_and_one_that_was_cancelled_has() -> None:
    async with refusing() as (_, address), grpc.aio.insecure_channel(address) as channel:
        call: Any = channel.stream_stream("/s/Any", None, None)()  # type: ignore[call-arg]
        ending = Ending(call)
        await call.initial_metadata()
        assert ending.told == ""
        call.cancel()
        assert (await ending.error()).code() is grpc.StatusCode.CANCELLED
    assert ending.told.startswith("CANCELLED: ")


class End:
    """The end of a link, which keeps why it was closed."""

    reason = ""

    def received(self, data: bytes) -> None:
        raise AssertionError(data)

    def pause_sending(self) -> None: ...

    def resume_sending(self) -> None: ...

    def closed(self, reason: str) -> None:
        self.reason = reason


async def test_a_link_over_a_stream_is_closed_for_the_reason_that_the_server_gave() -> None:
    async with refusing() as (_, address), grpc.aio.insecure_channel(address) as channel:
        for _ in range(N_STREAMS):
            call: Any = channel.stream_stream("/s/ScoreStream", None, None)()  # type: ignore[call-arg]
            carrier, end = StreamCarrier(call, "bank"), End()
            for _ in range(100):
                carrier.send(b"x" * 5000)
            await carrier.run(end)
            assert end.reason.startswith("UNAUTHENTICATED: ")


async def test_calls_on_a_stream_that_a_server_ends_with_a_refusal_get_it_and_are_not_made_again() -> None:
    ids = [f"u{number}" for number in range(20_000)]  # so many bytes that the stream ends between two writes
    async with refusing() as (server, address):
        for number in range(1, 6):
            async with AsyncClient(address, insecure=True) as client:
                with pytest.raises(UnauthenticatedError):
                    await asyncio.gather(*(client.predict("m", ids) for _ in range(50)))
            assert server.streams["PredictStream"] == number


async def test_an_upload_that_is_refused_while_it_is_sent_is_told_so_at_the_first_try() -> None:
    ids = [f"u{number}" for number in range(500_000)]
    async with refusing() as (server, address), AsyncClient(address, insecure=True) as client:
        for number in range(1, 6):
            with pytest.raises(UnauthenticatedError):
                await client.submit("m", ids)
            assert server.streams["UploadSamples"] == number


async def test_a_stream_whose_server_goes_is_lost_and_no_defect() -> None:
    async with refusing() as (_, address):
        client = AsyncClient(address, insecure=True)
    async with client:
        with pytest.raises(ServerUnavailableError):
            await client.submit("m", ["u1"] * 500_000, timeout_s=2.0)
