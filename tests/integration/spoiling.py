"""Good messages made bad, field by field, as their descriptors say: so that no field of a new message is forgotten."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any, cast

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

UNKNOWN_ENUM = 99
_TEXTS = {"a control character": "a\x00b", "a path": "../../etc/passwd", "100 kB": "A" * 100_000}
_OCTETS = {"3 bytes": b"abc", "1 MB": bytes(2**20)}
_MANY = 5000
_INTEGERS = {
    FieldDescriptor.CPPTYPE_UINT32: 2**32 - 1,
    FieldDescriptor.CPPTYPE_UINT64: 2**64 - 1,
    FieldDescriptor.CPPTYPE_INT32: -(2**31),
    FieldDescriptor.CPPTYPE_INT64: -(2**63),
}


def spoiled(good: Message) -> Iterator[tuple[str, bytes]]:
    """Give (what was done, the bytes) for every way in which one field can be wrong, and for bytes that are no message.

    Submessages that are set are gone through as well, of several the first; what was done begins with the dotted name
    of the field.
    """
    for place, changed in _changed(good, good, ()):
        yield place, changed.SerializeToString()
    data = good.SerializeToString()
    yield "bytes: no message", b"\xff" * 12
    yield "bytes: cut off", data[:-1] if data[-1:] else b"\x0a"
    yield "bytes: a length of 4 GB", b"\x0a\xff\xff\xff\xff\x0f" + data


def _changed(root: Message, message: Message, path: tuple[str, ...]) -> Iterator[tuple[str, Message]]:
    for field in message.DESCRIPTOR.fields:
        name = ".".join((*path, field.name))
        for what, change in _changes(cast(FieldDescriptor, field), message):
            copied = copy.deepcopy(root)
            inner = copied
            for step in path:
                inner = _within(inner, step)
            change(inner)
            yield f"{name}: {what}", copied
        below = _within(message, field.name) if any(field is each for each, _ in message.ListFields()) else None
        if isinstance(below, Message):
            yield from _changed(root, below, (*path, field.name))


def _within(message: Message, name: str) -> Any:
    """Return what a field holds; of several submessages the first."""
    value = getattr(message, name)
    field = message.DESCRIPTOR.fields_by_name[name]
    if not field.is_repeated or field.message_type is None or field.message_type.GetOptions().map_entry:
        return value
    return value[0]


def _changes(field: FieldDescriptor, message: Message) -> Iterator[tuple[str, Any]]:
    name = field.name
    if any(field is each for each, _ in message.ListFields()):
        yield "missing", lambda inner: inner.ClearField(name)
    if field.is_repeated:
        yield from _repeated(field)
    else:
        for what, value in _values(field):
            yield what, lambda inner, value=value: setattr(inner, name, value)


def _values(field: FieldDescriptor) -> list[tuple[str, object]]:
    if field.enum_type is not None:
        return [(f"{UNKNOWN_ENUM}", UNKNOWN_ENUM)]
    if field.cpp_type in _INTEGERS:
        return [(f"{_INTEGERS[field.cpp_type]}", _INTEGERS[field.cpp_type])]
    if field.cpp_type in {FieldDescriptor.CPPTYPE_DOUBLE, FieldDescriptor.CPPTYPE_FLOAT}:
        return [("NaN", float("nan"))]
    if field.type == FieldDescriptor.TYPE_STRING:
        return [*_TEXTS.items()]
    return [*_OCTETS.items()] if field.type == FieldDescriptor.TYPE_BYTES else []


def _repeated(field: FieldDescriptor) -> Iterator[tuple[str, Any]]:
    name = field.name
    if field.message_type is not None and not field.message_type.GetOptions().map_entry:
        yield f"{_MANY} empty ones", lambda inner: [getattr(inner, name).add() for _ in range(_MANY)]
    elif field.type == FieldDescriptor.TYPE_STRING:
        yield f"{_MANY} of them", lambda inner: getattr(inner, name).extend(["x"] * _MANY)
