"""Safetensors files: a length, a JSON header, and the numbers of all tensors one after another."""

from __future__ import annotations

import math
from collections.abc import Mapping

from fedpredict.convert.plain import check_keys
from fedpredict.convert.portable import parse_json
from fedpredict.convert.tensors import Tensor, element_bytes
from fedpredict.convert.values import clipped
from fedpredict.errors import ModelFileError, UnsupportedModelError

MAX_HEADER_BYTES = 32 * 2**20
_LENGTH_BYTES = 8
_METADATA = "__metadata__"
_TENSOR_KEYS = ("dtype", "shape", "data_offsets")
_DTYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U8": "uint8",
    "BOOL": "bool",
}


def is_safetensors(data: bytes) -> bool:
    """Return whether the content starts like a safetensors file: the length of a header that fits, and the header."""
    size = int.from_bytes(data[:_LENGTH_BYTES], "little")
    return data[_LENGTH_BYTES : _LENGTH_BYTES + 1] == b"{" and 2 <= size <= len(data) - _LENGTH_BYTES


def read_safetensors(data: bytes) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors by name, and the file's own metadata.

    Raises:
        ModelFileError: The header is no JSON or too long, or tensors overlap, leave holes, or do not fit their bytes.
        UnsupportedModelError: A tensor is of an element type that no network needs.
    """
    size = int.from_bytes(data[:_LENGTH_BYTES], "little")
    if size > MAX_HEADER_BYTES:
        raise ModelFileError(f"the file's header has {size} bytes; the limit is {MAX_HEADER_BYTES}")
    start = _LENGTH_BYTES + size
    try:
        header = parse_json(str(data[_LENGTH_BYTES:start], "utf-8"))
    except UnicodeDecodeError as error:
        raise ModelFileError("the file's header is not UTF-8") from error
    metadata = header.pop(_METADATA, {})
    if not isinstance(metadata, dict) or not all(isinstance(text, str) for text in metadata.values()):
        raise ModelFileError(f"{_METADATA} is not a dict of texts")
    content = memoryview(data)[start:]
    spans = {name: _span(name, entry) for name, entry in header.items()}
    _check_spans(list(spans.values()), len(content))
    return {name: _tensor(name, header[name], content[slice(*span)]) for name, span in spans.items()}, metadata


def _span(name: str, entry: object) -> tuple[int, int]:
    offsets = entry.get("data_offsets") if isinstance(entry, dict) else None
    match offsets:
        case [int(begin), int(end)] if 0 <= begin <= end:
            return begin, end
    raise ModelFileError(f"tensor '{clipped(name)}' has no offsets")


def _check_spans(spans: list[tuple[int, int]], size: int) -> None:
    """Check that the tensors follow each other without a hole, and fill the file."""
    position = 0
    for begin, end in sorted(spans):
        if begin != position:
            raise ModelFileError("the file is damaged: its tensors overlap, or leave a hole")
        position = end
    if position != size:
        raise ModelFileError(f"the file is damaged: its tensors take {position} bytes, {size} are there")


def _tensor(name: str, entry: object, storage: memoryview) -> Tensor:
    what = f"tensor '{clipped(name)}'"
    entry = dict(entry) if isinstance(entry, Mapping) else {}
    check_keys(entry, _TENSOR_KEYS, what)
    dtype, shape = entry.get("dtype"), entry.get("shape")
    if not isinstance(dtype, str) or dtype not in _DTYPES:
        raise UnsupportedModelError(f"{what} is of a type that no network needs; read are {', '.join(_DTYPES)}")
    if not isinstance(shape, list) or not all(type(each) is int and each >= 0 for each in shape):
        raise ModelFileError(f"{what} has no shape")
    if math.prod(shape) * element_bytes(_DTYPES[dtype]) != len(storage):
        raise ModelFileError(f"{what} has a shape that does not fit its {len(storage)} bytes")
    strides = tuple(math.prod(shape[at + 1 :]) for at in range(len(shape)))
    return Tensor(_DTYPES[dtype], tuple(shape), strides, 0, storage)
