"""What a file is, by its content, and what is inside; unpacked bytes are counted while unpacking."""

from __future__ import annotations

import bz2
import lzma
import zlib
from collections.abc import Callable
from typing import Protocol

import zstandard

from fedpredict.convert.options import SMALLER
from fedpredict.errors import ModelFileError

MAX_LAYERS = 3
_CHUNK_BYTES = 1024
_MAX_WINDOW_BYTES = 2**27
"""Most memory that a file may ask for to look back in what it unpacked; xz -9 needs 65 MB."""

_FOREIGN = {
    b"\x04\x22\x4d\x18": "an lz4 file; save the model with another compression (zlib, gzip, xz, zstd)",
    b"PK\x03\x04": "a zip archive; save the model as a pickle, with joblib, or as a portable partial model",
    b"\x89HDF": "an HDF5 file; save the model as a pickle, with joblib, or as a portable partial model",
    b"ZF": "a file of joblib before 0.10; write it again with a newer joblib",
    b"PAR1": "a Parquet file, not a model",
}


class _Decompressor(Protocol):
    """bz2's and lzma's decompressors."""

    @property
    def eof(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes, max_length: int) -> bytes: ...


def unpack(data: bytes, limit_bytes: int) -> bytes:
    """Return the innermost content of a file: a pickle (perhaps joblib's) or JSON text.

    Args:
        data: The file.
        limit_bytes: The most that unpacking may give.

    Raises:
        ModelFileError: Empty, of another format, damaged, or larger than the limit when unpacked.
    """
    for _ in range(MAX_LAYERS + 1):
        _check_recognised(data)
        unpacker = next((found for prefix, found in _UNPACKERS if data.startswith(prefix)), None)
        if unpacker is None:
            return data
        try:
            data = unpacker(data, limit_bytes)
        except (zlib.error, lzma.LZMAError, zstandard.ZstdError, OSError, EOFError, ValueError) as error:
            raise ModelFileError("the file is damaged: it cannot be unpacked") from error
    raise ModelFileError(f"the file is compressed more than {MAX_LAYERS} times")


def is_json(data: bytes) -> bool:
    """Return whether the content is JSON text: an object, which no pickle starts like."""
    return data[:64].lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{")


def _check_recognised(data: bytes) -> None:
    if not data:
        raise ModelFileError("the file is empty")
    for prefix, what in _FOREIGN.items():
        if data.startswith(prefix):
            raise ModelFileError(f"the file is {what}")


def _checked(content: bytes, limit_bytes: int, *, complete: bool, unused: bytes) -> bytes:
    if len(content) > limit_bytes:
        raise ModelFileError(f"the file unpacks to more than {limit_bytes} bytes: {SMALLER}")
    if not complete:
        raise ModelFileError("the file is damaged: its compressed content is cut off")
    if unused:
        raise ModelFileError("the file is damaged: bytes follow its compressed content")
    return content


def _zlib_or_gzip(data: bytes, limit_bytes: int) -> bytes:
    found = zlib.decompressobj(wbits=47)
    content = found.decompress(data, limit_bytes + 1)
    return _checked(content, limit_bytes, complete=found.eof, unused=found.unused_data)


def _whole(found: _Decompressor, data: bytes, limit_bytes: int) -> bytes:
    content = found.decompress(data, limit_bytes + 1)
    return _checked(content, limit_bytes, complete=found.eof, unused=found.unused_data)


def _bz2(data: bytes, limit_bytes: int) -> bytes:
    return _whole(bz2.BZ2Decompressor(), data, limit_bytes)


def _lzma(data: bytes, limit_bytes: int) -> bytes:
    return _whole(lzma.LZMADecompressor(memlimit=_MAX_WINDOW_BYTES), data, limit_bytes)


def _zstd(data: bytes, limit_bytes: int) -> bytes:
    """Little by little: a kilobyte unpacks to some tens of megabytes at most."""
    found = zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW_BYTES).decompressobj()
    content = bytearray()
    for start in range(0, len(data), _CHUNK_BYTES):
        content += found.decompress(data[start : start + _CHUNK_BYTES])
        if found.eof or len(content) > limit_bytes:
            unused = found.unused_data + data[start + _CHUNK_BYTES :]
            return _checked(bytes(content), limit_bytes, complete=True, unused=unused)
    return _checked(bytes(content), limit_bytes, complete=False, unused=b"")


_UNPACKERS: tuple[tuple[bytes, Callable[[bytes, int], bytes]], ...] = (
    (b"\x1f\x8b", _zlib_or_gzip),
    (b"\x78\x01", _zlib_or_gzip),
    (b"\x78\x5e", _zlib_or_gzip),
    (b"\x78\x9c", _zlib_or_gzip),
    (b"\x78\xda", _zlib_or_gzip),
    (b"BZh", _bz2),
    (b"\xfd7zXZ\x00", _lzma),
    (b"\x5d\x00\x00", _lzma),
    (b"\x28\xb5\x2f\xfd", _zstd),
)
"""First bytes -> how to unpack. No pickle starts so: from protocol 2 on its first byte is 0x80; before, it is an opcode
that the second byte here cannot follow."""
