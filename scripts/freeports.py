"""Ports for servers that are started a moment later, in the demo, the benches and the tests."""

from __future__ import annotations

import contextlib
import random
import socket
from pathlib import Path

HOST = "127.0.0.1"
LOWEST = 10_000
RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")


def free_ports(count: int) -> list[int]:
    """Return different ports of loopback that are free, and that the kernel gives to nobody by itself.

    A port of the kernel's own range could go to any outgoing connection before the server binds it.
    """
    highest = int(RANGE.read_text().split()[0]) if RANGE.exists() else 32_768
    with contextlib.ExitStack() as stack:
        found: list[int] = []
        for port in random.sample(range(LOWEST, highest), highest - LOWEST):
            with contextlib.suppress(OSError):
                stack.enter_context(socket.create_server((HOST, port)))
                found.append(port)
            if len(found) == count:
                return found
    raise OSError(f"no {count} ports of {HOST} are free between {LOWEST} and {highest}")
