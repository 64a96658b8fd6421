"""A peer that is busy, or far away, takes a while to answer a connection: that alone must fail no call."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import grpc
import pytest

from fedpredict.wire.channel import RECONNECT_MS, channel_options, server_options

SLOW_S = 3 * RECONNECT_MS / 1000
"""Longer than the pause between two tries to connect, which is what gRPC allows a connection by itself."""


async def echo(data: bytes, _context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
    return data


@asynccontextmanager
async def slow_server() -> AsyncIterator[str]:
    """Run a server that hears nothing of a connection for a while; yield its address."""
    server = grpc.aio.server(options=server_options())
    method = grpc.unary_unary_rpc_method_handler(echo)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("slow", {"Echo": method}),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    writers: list[asyncio.StreamWriter] = []

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65_536):
            writer.write(data)
        writer.close()

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        await asyncio.sleep(SLOW_S)
        back, onward = await asyncio.open_connection("127.0.0.1", port)
        writers.append(onward)
        await asyncio.gather(pass_on(reader, onward), pass_on(back, writer))

    front = await asyncio.start_server(relay, "127.0.0.1", 0)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(server.stop, None)
        stack.callback(front.close)
        yield f"127.0.0.1:{front.sockets[0].getsockname()[1]}"
        for writer in writers:
            writer.close()


@pytest.mark.parametrize("n_calls", [1, 100])
async def test_calls_wait_for_a_connection_that_is_slow(n_calls: int) -> None:
    async with slow_server() as address, grpc.aio.insecure_channel(address, channel_options()) as channel:
        call = channel.unary_unary("/slow/Echo", None, None)
        answers = await asyncio.gather(*(call(b"here", timeout=30.0) for _ in range(n_calls)))
    assert answers == [b"here"] * n_calls
