"""PyTorch's files: a zip archive of a pickle, whose tensors refer to records of raw bytes; nothing in it is run."""

from __future__ import annotations

import io
import zipfile
import zlib

from fedpredict.convert.nodes import Budget, Name, Node, Pairs, Stored
from fedpredict.convert.opcodes import Cursor
from fedpredict.convert.options import SMALLER, Limits
from fedpredict.convert.tensors import Tensor, element_bytes
from fedpredict.convert.unpickle import unpickle
from fedpredict.convert.values import clipped, described, mapping
from fedpredict.errors import ModelFileError, UnsupportedModelError

MAX_RECORDS = 100_000
_PICKLE = "data.pkl"
_START = b"PK\x03\x04"
_OLD_START = bytes.fromhex("80028a0a6cfc9c46f9206aa85019")
_REBUILD = frozenset({"torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor"})
_PARAMETER = "torch._utils._rebuild_parameter"
_STORAGES = {
    "torch.DoubleStorage": "float64",
    "torch.FloatStorage": "float32",
    "torch.HalfStorage": "float16",
    "torch.BFloat16Storage": "bfloat16",
    "torch.LongStorage": "int64",
    "torch.IntStorage": "int32",
    "torch.ShortStorage": "int16",
    "torch.CharStorage": "int8",
    "torch.ByteStorage": "uint8",
    "torch.BoolStorage": "bool",
}
_ORDERS = {b"little": "<", b"big": ">"}
_FIX = "save it by torch.save(model.state_dict(), file), or as safetensors"


def is_zip(data: bytes) -> bool:
    """Return whether the content is a zip archive."""
    return data.startswith(_START)


def is_old_torch(data: bytes) -> bool:
    """Return whether the content starts as PyTorch's files before 1.6 do: with a pickle of their magic number."""
    return data.startswith(_OLD_START)


def read_state_dict(data: bytes, limits: Limits) -> dict[str, Tensor]:
    """Return the tensors of a state dict by name.

    Raises:
        ModelFileError: The archive is damaged, too large when unpacked, or a tensor reaches beyond its record.
        UnsupportedModelError: It is no archive of PyTorch, or holds something else than a dict of tensors.
    """
    archive = _Archive(data, limits.unpacked_bytes)
    cursor = Cursor(archive.record(_PICKLE))
    root = unpickle(cursor, Budget(limits.operations), on_persistent=Stored)
    if cursor.remaining:
        raise ModelFileError(f"{cursor.remaining} bytes follow the end of the pickle")
    if isinstance(root, Node) and root.path.startswith("torch.nn."):
        raise UnsupportedModelError(f"the file holds a whole {described(root)}, not its state: {_FIX}")
    if not isinstance(root, Pairs | Node) or (isinstance(root, Node) and root.path != "collections.OrderedDict"):
        raise UnsupportedModelError(f"the file holds {described(root)}, not a state dict: {_FIX}")
    return {name: archive.tensor(value, name) for name, value in mapping(root, "the state dict").items()}


class _Archive:
    """The records of one archive; what they unpack to is counted."""

    def __init__(self, data: bytes, limit_bytes: int) -> None:
        self._left = self._limit = limit_bytes
        self._storages: dict[str, memoryview] = {}
        try:
            self._zip = zipfile.ZipFile(io.BytesIO(data))
        except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError) as error:
            raise ModelFileError("the zip archive is damaged") from error
        names = self._zip.namelist()
        if len(names) > MAX_RECORDS or len(set(names)) != len(names):
            raise ModelFileError(f"the zip archive has more than {MAX_RECORDS} records, or one twice")
        folders = [
            name.removesuffix(_PICKLE) for name in names if name.count("/") == 1 and name.endswith("/" + _PICKLE)
        ]
        if len(folders) != 1 or any(name.startswith(f"{folders[0]}code/") for name in names):
            raise UnsupportedModelError(
                "the file is a zip archive, but not what torch.save writes for a state dict (a TorchScript archive, or"
                f" another program's): {_FIX}; other models as a pickle, with joblib, or as a portable partial model"
            )
        self._folder, self._known = folders[0], set(names)
        self._order = "<"
        if f"{self._folder}byteorder" in self._known:
            order = _ORDERS.get(self.record("byteorder"))
            if order is None:
                raise ModelFileError("the file's byte order is neither little nor big")
            self._order = order

    def record(self, name: str) -> bytes:
        """Return the content of a record."""
        path = self._folder + name
        if path not in self._known:
            raise ModelFileError(f"the file is damaged: it has no record {clipped(name)}")
        found = self._zip.getinfo(path)
        self._left -= found.file_size
        if self._left < 0:
            raise ModelFileError(f"the file unpacks to more than {self._limit} bytes: {SMALLER}")
        try:
            return self._zip.read(found)  # not more than file_size, and its checksum is checked
        except (zipfile.BadZipFile, zlib.error, RuntimeError, OSError, EOFError, ValueError) as error:
            raise ModelFileError(f"the file is damaged: record {clipped(name)} cannot be unpacked") from error

    def tensor(self, value: object, name: str) -> Tensor:
        """Return the tensor that a value of the state dict describes."""
        what = f"entry '{clipped(name)}' of the state dict"
        while isinstance(value, Node) and value.path == _PARAMETER and value.args:
            value = value.args[0]
        if not isinstance(value, Node) or value.path not in _REBUILD:
            raise UnsupportedModelError(f"{what} is {described(value)}, not a tensor: {_FIX}")
        match value.args:
            case (Stored(key), int(offset), tuple(shape), tuple(strides), *_):
                element, storage = self._storage(key, what)
            case _:
                raise ModelFileError(f"{what} is damaged")
        sizes, steps = _integers(shape, what), _integers(strides, what)
        try:
            return Tensor(element, sizes, steps, offset, storage, self._order)
        except ModelFileError as error:
            raise ModelFileError(f"{what}: {error}") from error

    def _storage(self, key: object, what: str) -> tuple[str, memoryview]:
        """Return element type and bytes behind `("storage", class, record, device, number of elements)`."""
        match key:
            case ("storage", Name() as kind, str(record), str(), int(count)) if kind.path in _STORAGES:
                element = _STORAGES[kind.path]
            case ("storage", Name() as kind, *_):
                raise UnsupportedModelError(f"{what} lies in a {clipped(kind.path)}, which no network needs")
            case _:
                raise ModelFileError(f"{what} refers to something that is no storage")
        if record not in self._storages:
            self._storages[record] = memoryview(self.record(f"data/{record}"))
        storage = self._storages[record]
        if count * element_bytes(element) != len(storage):
            raise ModelFileError(f"{what}: its storage says {count} elements and has {len(storage)} bytes")
        return element, storage


def _integers(values: tuple[object, ...], what: str) -> tuple[int, ...]:
    found = tuple(each for each in values if isinstance(each, int) and not isinstance(each, bool))
    if len(found) != len(values):
        raise ModelFileError(f"{what} is damaged: a size that is no integer")
    return found
