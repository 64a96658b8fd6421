"""How a connection with TLS is read."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from typing_extensions import override

if TYPE_CHECKING:
    from fedpredict.http.protocol import EdgeProtocol


class TlsReader(asyncio.BufferedProtocol):
    """Between a connection with TLS and its `EdgeProtocol`: brings the buffer that is read into.

    Without one, uvloop allocates 256 KiB for every reading of TLS, which costs more than the cryptography. All
    connections share it: what is read is handed over before anything else is.
    """

    def __init__(self, protocol: EdgeProtocol, read_into: memoryview) -> None:
        self._read_into = read_into
        self._data_received = protocol.data_received
        self.connection_made = protocol.connection_made  # type: ignore[method-assign, assignment]
        self.connection_lost = protocol.connection_lost  # type: ignore[method-assign]
        self.eof_received = protocol.eof_received  # type: ignore[method-assign]
        self.pause_writing = protocol.pause_writing  # type: ignore[method-assign]
        self.resume_writing = protocol.resume_writing  # type: ignore[method-assign]

    @override
    def get_buffer(self, sizehint: int) -> memoryview:
        return self._read_into

    @override
    def buffer_updated(self, nbytes: int) -> None:
        self._data_received(bytes(self._read_into[:nbytes]))
