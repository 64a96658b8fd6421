"""What a socket delivers, and what it does not."""

from __future__ import annotations

import asyncio
import struct
from typing import Any

import pytest
from typing_extensions import override

from fedpredict.wire.link import LinkEnd
from fedpredict.wire.socket_carrier import Preface, SocketCarrier

BROKEN = b"\xff\xff"


class NoNetwork(asyncio.Transport):
    """Keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.closed = False

    @override
    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    @override
    def write(self, data: Any) -> None:
        self.written += data

    @override
    def close(self) -> None:
        self.closed = True

    @override
    def abort(self) -> None:
        self.closed = True


class Picky(LinkEnd):
    """Takes frames until one breaks the protocol."""

    def __init__(self, carrier: SocketCarrier) -> None:
        self.carrier = carrier
        self.frames: list[bytes] = []

    @override
    def received(self, data: bytes) -> None:
        self.frames.append(data)
        if data == BROKEN:
            self.carrier.close("it breaks the protocol")

    @override
    def pause_sending(self) -> None:
        pass

    @override
    def resume_sending(self) -> None:
        pass

    @override
    def closed(self, reason: str) -> None:
        pass


def frame(data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + data


def take(carrier: SocketCarrier, data: bytes) -> None:
    carrier.get_buffer(len(data))[: len(data)] = data
    carrier.buffer_updated(len(data))


@pytest.mark.parametrize(
    "behind",
    [b"", frame(b"next"), frame(b"next") * 100, frame(b"half of it")[:-5]],
    ids=["alone", "one frame", "many frames", "half a frame"],
)
async def test_nothing_behind_a_frame_that_breaks_the_protocol_is_delivered(behind: bytes) -> None:
    ends: list[Picky] = []

    def opened(carrier: SocketCarrier) -> Picky:
        ends.append(Picky(carrier))
        return ends[0]

    carrier, transport = SocketCarrier(opened), NoNetwork()
    carrier.connection_made(transport)

    take(carrier, Preface().to_bytes() + frame(b"first") + frame(BROKEN) + behind)
    take(carrier, frame(b"later"))

    assert ends[0].frames == [b"first", BROKEN]
    assert transport.closed
    carrier.connection_lost(None)


@pytest.mark.parametrize("asked", [True, False])
async def test_only_who_dialled_may_ask_for_compression(asked: bool) -> None:
    ends: list[Picky] = []

    def opened(carrier: SocketCarrier) -> Picky:
        ends.append(Picky(carrier))
        return ends[0]

    carrier, transport = SocketCarrier(opened, Preface(compress=asked)), NoNetwork()
    carrier.connection_made(transport)

    take(carrier, Preface(compress=True).to_bytes())

    assert (len(ends), transport.closed) == ((1, False) if asked else (0, True))
    carrier.connection_lost(None)
