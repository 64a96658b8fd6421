"""Frames over a TCP socket, usually with TLS: the fast carrier (ADR 0011).

Each side begins with a preface, the one that dialled first: "FPL1", a byte of flags, and behind a uint16 length the
identity that the dialling side states (read only where there is no TLS). Then each frame stands behind its length,
uint32 big-endian, whose highest bit says that the frame is compressed (zstd; only where the dialler asked for it).
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import zstandard
from typing_extensions import override

from fedpredict.errors import FedPredictError, ProtocolError
from fedpredict.model.few import STRANGERS_PER_S, FewPerSecond
from fedpredict.wire.channel import MAX_MESSAGE_BYTES
from fedpredict.wire.link import CLOSE_S, CONNECT_S, HANDSHAKE_S, MAX_QUEUED_BYTES, Carrier, LinkEnd

logger = logging.getLogger(__name__)

_refused = FewPerSecond(STRANGERS_PER_S)

MAGIC = b"FPL1"
COMPRESS = 1
"""The flag by which the dialling side asks for compression, both ways."""
COMPRESS_FROM = 512
"""Frames of fewer bytes are sent as they are."""
MAX_IDENTITY = 256
READ_BYTES = 64 * 1024
"""Most bytes taken from a connection at once."""

_COMPRESSED = 1 << 31
_LENGTH = struct.Struct(">I")
_PREFACE = struct.Struct(">4sBH")

Opened = Callable[["SocketCarrier"], LinkEnd]
"""Called when the peer's preface is there; raises `FedPredictError` to refuse the link."""


@dataclass(frozen=True, slots=True)
class Preface:
    """How one side of a socket begins.

    Attributes:
        identity: The identity that the dialling side states, as a URI; empty with TLS, which proves it.
        compress: Whether frames may be compressed.
    """

    identity: str = ""
    compress: bool = False

    def to_bytes(self) -> bytes:
        """Return the preface as it is sent."""
        identity = self.identity.encode()
        return _PREFACE.pack(MAGIC, COMPRESS if self.compress else 0, len(identity)) + identity


class SocketCarrier(asyncio.BufferedProtocol, Carrier):
    """One connection. What it delivers to is known when the peer's preface is there.

    It brings its own buffer: without one, uvloop allocates 256 KiB for every reading of TLS, which costs more than the
    cryptography (measured: 63 µs there and back, 25 with it).
    """

    name = "socket"

    def __init__(self, opened: Opened, own: Preface | None = None) -> None:
        """Prepare; the event loop connects it.

        Args:
            opened: Returns what frames are delivered to.
            own: What this side begins with, where it dialled; None where it was dialled.
        """
        self.stated = ""
        """The identity that the peer stated in its preface."""
        self.peer = ""
        """The peer's address, for messages."""
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done when the link is open; fails with `ProtocolError` where it never is."""
        self.ready.add_done_callback(lambda done: done.cancelled() or done.exception())  # told in the log as well
        self.ended = asyncio.Event()
        """Set when the connection is gone."""
        self._opened = opened
        self._own = own
        self._end: LinkEnd | None = None
        self._transport: asyncio.Transport | None = None
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._read_into = memoryview(bytearray(READ_BYTES))
        self._buffer = bytearray()
        self._needed = 0
        self._out: list[bytes] = []
        self._paused = False
        self._receiving = False
        self._reason = ""
        self._compressor: zstandard.ZstdCompressor | None = None
        self._decompressor: zstandard.ZstdDecompressor | None = None

    @property
    def tls(self) -> ssl.SSLObject | None:
        """The TLS that the connection has; None for plain text."""
        tls: ssl.SSLObject | None = self._transport.get_extra_info("ssl_object") if self._transport else None
        return tls

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports of TLS have the methods of a transport, and are none by inheritance
        transport = self._transport = cast(asyncio.Transport, transport)
        self.peer = str(transport.get_extra_info("peername"))
        transport.set_write_buffer_limits(MAX_QUEUED_BYTES)
        notice_dead_peers(transport.get_extra_info("socket"))
        self._timer = self._loop.call_later(HANDSHAKE_S, self.close, f"silent for {HANDSHAKE_S:.0f} s")
        if self._own is not None:
            transport.write(self._own.to_bytes())

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        reason = self._reason or (str(exc) if exc else "") or "the peer closed the connection"
        self._reason = reason
        self.ended.set()
        if not self.ready.done():
            self.ready.set_exception(ProtocolError(reason))
        if self._end is not None:
            end, self._end = self._end, None
            end.closed(reason)

    @override
    def pause_writing(self) -> None:
        if self._end is not None:
            self._end.pause_sending()

    @override
    def resume_writing(self) -> None:
        if self._end is not None:
            self._end.resume_sending()

    @override
    def get_buffer(self, sizehint: int) -> memoryview:
        return self._read_into

    @override
    def buffer_updated(self, nbytes: int) -> None:
        self.heard += 1
        self._take(bytes(self._read_into[:nbytes]))

    def _take(self, data: bytes) -> None:
        if self._buffer:
            self._buffer += data
            if len(self._buffer) < self._needed:
                return
            data = bytes(self._buffer)
            self._buffer.clear()
        self._needed = 0
        # answers to what came together leave together: one TLS record, one system call
        self._receiving = True
        try:
            rest = data if self._end is not None else self._open(data)
            self._deliver(rest)
        except FedPredictError as error:
            self._refuse(str(error))
        finally:
            self._receiving = False
            if self._out:
                self._flush()

    @override
    def send(self, data: bytes) -> None:
        if self._reason:
            return
        length = len(data)
        if self._compressor is not None and length >= COMPRESS_FROM:
            data = self._compressor.compress(data)
            length = len(data) | _COMPRESSED
        self._out += (_LENGTH.pack(length), data)
        if not self._receiving:
            self._flush()

    @override
    def pause_reading(self) -> None:
        if not self._paused and self._transport is not None and not self._reason:
            self._paused = True
            self._transport.pause_reading()

    @override
    def resume_reading(self) -> None:
        if self._paused and self._transport is not None and not self._reason:
            self._paused = False
            self._transport.resume_reading()
            self._loop.call_soon(self._resume)

    @override
    def close(self, reason: str) -> None:
        if self._reason or self._transport is None:
            return
        self._flush()
        self._reason = reason
        self._stop_timer()
        self._transport.close()
        # a peer that takes nothing any more must not hold the connection
        self._timer = self._loop.call_later(CLOSE_S, self._transport.abort)

    def _open(self, data: bytes) -> bytes:
        """Return what follows the peer's preface; empty where it is not complete yet."""
        if not data.startswith(MAGIC[: len(data)]):
            raise ProtocolError("what came is no link: it does not begin with its preface")
        if len(data) < _PREFACE.size:
            self._keep(data, _PREFACE.size)
            return b""
        _, flags, length = _PREFACE.unpack_from(data)
        if length > MAX_IDENTITY:
            raise ProtocolError(f"a stated identity of {length} bytes")
        if len(data) < _PREFACE.size + length:
            self._keep(data, _PREFACE.size + length)
            return b""
        self.stated = data[_PREFACE.size : _PREFACE.size + length].decode("utf-8", "replace")
        if flags & COMPRESS:
            self._compress()
        self._stop_timer()
        self._end = self._opened(self)
        if self._own is None and self._transport is not None:
            self._transport.write(Preface(compress=bool(flags & COMPRESS)).to_bytes())
        if not self.ready.done():
            self.ready.set_result(None)
        return data[_PREFACE.size + length :]

    def _compress(self) -> None:
        if self._own is not None and not self._own.compress:
            raise ProtocolError("the peer compresses, and was not asked to")
        self._compressor, self._decompressor = zstandard.ZstdCompressor(level=1), zstandard.ZstdDecompressor()

    def _deliver(self, data: bytes) -> None:
        start, size = 0, len(data)
        while size - start >= _LENGTH.size and self._end is not None and not (self._paused or self._reason):
            (length,) = _LENGTH.unpack_from(data, start)
            stop = start + _LENGTH.size + (length & ~_COMPRESSED)
            if stop - start > MAX_MESSAGE_BYTES + _LENGTH.size:
                raise ProtocolError(f"a frame of {length & ~_COMPRESSED} bytes; at most {MAX_MESSAGE_BYTES} are taken")
            if stop > size:
                self._needed = stop - start
                break
            frame = data[start + _LENGTH.size : stop]
            self._end.received(self._inflate(frame) if length & _COMPRESSED else frame)
            start = stop
        if start < size and not self._reason:
            self._buffer += data[start:]

    def _inflate(self, frame: bytes) -> bytes:
        if self._decompressor is None:
            raise ProtocolError("a compressed frame, which was not agreed")
        try:
            parameters = zstandard.get_frame_parameters(frame)
            if parameters.content_size > MAX_MESSAGE_BYTES:  # also where it is not stated
                raise ProtocolError(f"a compressed frame of more than {MAX_MESSAGE_BYTES} bytes")
            return self._decompressor.decompress(frame, allow_extra_data=False)
        except zstandard.ZstdError as error:
            raise ProtocolError(f"a compressed frame that cannot be read: {error}") from error

    def _keep(self, data: bytes, needed: int) -> None:
        self._buffer += data
        self._needed = needed

    def _resume(self) -> None:
        if self._buffer:
            self._take(b"")

    def _refuse(self, reason: str) -> None:
        if _refused.take():
            told = {"peer": self.peer, "reason": reason, "left_out": _refused.left_out()}
            logger.warning("link.refused", extra=told)
        self.broken = reason
        self._buffer.clear()
        self.close(reason)

    def _flush(self) -> None:
        if self._out and self._transport is not None and not self._reason:
            self._transport.write(b"".join(self._out))
        self._out.clear()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()


def notice_dead_peers(connection: socket.socket | None) -> None:
    """Make the kernel end a connection whose peer is gone without a word, and send small frames at once.

    An idle one is probed after 10 s and given up after three more probes, 5 s apart; one with data under way that
    nobody acknowledges is given up after 15 s.
    """
    if connection is None or connection.family not in {socket.AF_INET, socket.AF_INET6}:
        return
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (
        ("TCP_KEEPIDLE", 10),
        ("TCP_KEEPINTVL", 5),
        ("TCP_KEEPCNT", 3),
        ("TCP_USER_TIMEOUT", 15_000),
    ):
        if hasattr(socket, option):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)


async def dial_socket(
    address: str,
    context: ssl.SSLContext | None,
    server_name: str,
    *,
    own: Preface,
    opened: Opened,
    connect_s: float = CONNECT_S,
) -> SocketCarrier:
    """Return an open link to a listener.

    Args:
        address: host:port.
        context: The TLS context of this side; None for plain text.
        server_name: The DNS name that the listener's certificate must carry, where there is TLS.
        own: What this side begins with.
        opened: Returns what frames are delivered to.
        connect_s: Longest wait for the connection; as long again for TLS, and for the preface.

    Raises:
        OSError: Nothing listens, or TLS failed; `TimeoutError` where nobody answers.
        ProtocolError: What answers speaks another protocol, or closed the connection.
    """
    loop = asyncio.get_running_loop()
    host, _, port = address.rpartition(":")
    async with asyncio.timeout(2 * connect_s):
        _, carrier = await loop.create_connection(
            lambda: SocketCarrier(opened, own),
            host.removeprefix("[").removesuffix("]"),
            int(port),
            ssl=context,
            server_hostname=server_name if context else None,
            ssl_handshake_timeout=connect_s if context else None,
        )
    try:
        async with asyncio.timeout(connect_s):
            await asyncio.shield(carrier.ready)
    except BaseException:
        carrier.close("the preface was not waited for")
        raise
    return carrier


async def listen_sockets(
    listen: str, context: ssl.SSLContext | None, opened: Opened, *, reuse_port: bool = False
) -> tuple[asyncio.Server, str]:
    """Return a server that takes links, and the host:port with the real number where port 0 was asked for.

    Args:
        listen: host:port.
        context: The TLS context of this side; None for plain text.
        opened: Called per link: returns what frames are delivered to, or raises to refuse the peer.
        reuse_port: Whether several workers listen at one port.

    Raises:
        OSError: The port is taken, or the address is not of this machine.
    """
    host, _, port = listen.rpartition(":")
    server = await asyncio.get_running_loop().create_server(
        lambda: SocketCarrier(opened),
        host.removeprefix("[").removesuffix("]"),
        int(port),
        ssl=context,
        ssl_handshake_timeout=HANDSHAKE_S if context else None,
        reuse_port=reuse_port or None,
    )
    return server, f"{host}:{server.sockets[0].getsockname()[1]}"
