"""What a file is, by its content."""

from __future__ import annotations

import bz2
import gzip
import lzma
import zlib
from collections.abc import Callable

import pytest
import zstandard

from fedpredict.convert.containers import is_json, unpack
from fedpredict.errors import ModelFileError

LIMIT = 10**6

PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "zlib": zlib.compress,
    "zlib_fast": lambda data: zlib.compress(data, 1),
    "zlib_best": lambda data: zlib.compress(data, 9),
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "lzma": lambda data: lzma.compress(data, format=lzma.FORMAT_ALONE),
    "zstd": lambda data: zstandard.ZstdCompressor().compress(data),
    "zstd_stream": lambda data: zstandard.ZstdCompressor(write_content_size=False).compress(data),
}


@pytest.mark.parametrize("packer", sorted(PACKERS))
def test_a_compressed_file_is_recognised_by_its_content(packer: str, small_pickle: bytes) -> None:
    assert unpack(PACKERS[packer](small_pickle), LIMIT) == small_pickle


@pytest.mark.parametrize("packer", sorted(PACKERS))
def test_a_compression_bomb_is_stopped_at_the_limit(packer: str) -> None:
    with pytest.raises(ModelFileError, match="unpacks to more than 1000000 bytes"):
        unpack(PACKERS[packer](bytes(LIMIT + 1)), LIMIT)


@pytest.mark.parametrize("packer", sorted(PACKERS))
def test_a_file_of_exactly_the_limit_is_unpacked(packer: str) -> None:
    assert len(unpack(PACKERS[packer](b"\x80" + bytes(LIMIT - 1)), LIMIT)) == LIMIT


@pytest.mark.parametrize("packer", sorted(PACKERS))
def test_a_cut_off_file_is_damaged(packer: str, small_pickle: bytes) -> None:
    packed = PACKERS[packer](small_pickle)

    for length in range(8, len(packed)):
        with pytest.raises(ModelFileError):
            unpack(packed[:length], LIMIT)


@pytest.mark.parametrize("packer", sorted(PACKERS))
def test_bytes_behind_the_compressed_content_are_refused(packer: str, small_pickle: bytes) -> None:
    with pytest.raises(ModelFileError, match="damaged"):
        unpack(PACKERS[packer](small_pickle) + b"more", LIMIT)


def test_layers_of_compression_are_counted(small_pickle: bytes) -> None:
    packed = small_pickle
    for _ in range(3):
        packed = gzip.compress(packed)

    assert unpack(packed, LIMIT) == small_pickle
    with pytest.raises(ModelFileError, match="more than 3 times"):
        unpack(gzip.compress(packed), LIMIT)


@pytest.mark.parametrize(
    ("start", "told"),
    [
        (b"PK\x03\x04", "zip"),
        (b"\x04\x22\x4d\x18", "lz4"),
        (b"\x89HDF", "HDF5"),
        (b"ZF0x", "joblib"),
        (b"PAR1", "Parquet"),
    ],
)
def test_a_foreign_format_is_named(start: bytes, told: str) -> None:
    with pytest.raises(ModelFileError, match=told):
        unpack(start + bytes(100), LIMIT)


def test_an_empty_file_is_named() -> None:
    with pytest.raises(ModelFileError, match="empty"):
        unpack(b"", LIMIT)
    with pytest.raises(ModelFileError, match="empty"):
        unpack(gzip.compress(b""), LIMIT)


def test_json_is_told_from_a_pickle(small_pickle: bytes) -> None:
    assert is_json(b'\xef\xbb\xbf \n{"format": 1}')
    assert not is_json(small_pickle)
    assert not is_json(b"}q\x00.")
