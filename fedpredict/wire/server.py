"""What every gRPC server of ours does alike: take its port, and run until it is told to stop."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import grpc

from fedpredict.errors import ConfigError


def bind(server: grpc.aio.Server, listen: str, credentials: grpc.ServerCredentials | None) -> str:
    """Take the port, and return host:port with the real number where port 0 was asked for.

    Args:
        server: Not started yet; its options are those of `wire.channel.server_options`.
        listen: host:port.
        credentials: None for plain text.

    Raises:
        ConfigError: The port is taken, or the address is not of this machine.
    """
    try:
        port = server.add_insecure_port(listen) if credentials is None else server.add_secure_port(listen, credentials)
    except RuntimeError as error:
        raise ConfigError(
            f"listen: {listen} cannot be bound; the port is taken, or the address is not of this machine"
        ) from error
    return f"{listen.rpartition(':')[0]}:{port}"


@contextmanager
def stopping() -> Iterator[asyncio.Event]:
    """Give an event that SIGTERM and SIGINT set, inside the block, instead of ending the process."""
    event = asyncio.Event()
    loop = asyncio.get_running_loop()
    signals = (signal.SIGTERM, signal.SIGINT)
    for each in signals:
        loop.add_signal_handler(each, event.set)
    try:
        yield event
    finally:
        for each in signals:
            loop.remove_signal_handler(each)
