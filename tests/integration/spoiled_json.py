"""Good JSON made bad, member by member: so that no field of a body is forgotten."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

_BEYOND = "@beyond@"
_VALUES: dict[str, Any] = {
    "null": None,
    "true": True,
    "-1": -1,
    "half": 0.5,
    "2^64": 2**64,
    "400 digits": 10**400,
    "beyond all numbers": _BEYOND,
    "an unknown word": "geheim-4711",
    "a control character": "a\x00b",
    "a path": "../../etc/passwd",
    "100 kB": "A" * 100_000,
    "an empty list": [],
    "an empty object": {},
    "a deep list": [[[[1]]]],
}
_DEEP = 100_000


def spoiled_json(good: dict[str, Any]) -> Iterator[tuple[str, bytes]]:
    """Give (what was done, the bytes) for every way in which one member can be wrong, and for bytes that are no JSON.

    Objects, and the first members of lists, are gone through as well; what was done begins with the member's dotted
    name.
    """
    for place, changed in _changed(good, ()):
        yield place, json.dumps(changed).replace(f'"{_BEYOND}"', "1e999").encode()
    data = json.dumps(good).encode()
    yield "an unknown member", data[:-1] + b', "sampel": 1}'
    yield "bytes: none", b""
    yield "bytes: cut off", data[:-1]
    yield "bytes: twice", data + data
    yield "bytes: not UTF-8", data.replace(b"u1", b"\xff\xfe")
    yield "bytes: UTF-16", data.decode().encode("utf-16")
    yield "bytes: half a character", data.replace(b"u1", b"\\ud800")
    yield "bytes: NaN", b'{"%b": NaN}' % next(iter(good)).encode()
    yield "bytes: a list", b"[%b]" % data
    yield "bytes: a text", b'"%b"' % (b"A" * 1000)
    yield "bytes: deep lists", b"[" * _DEEP
    yield "bytes: deep objects", b'{"a":' * _DEEP


def _changed(value: Any, path: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    """Give copies of a value, each with one member missing or another."""
    members = value.items() if isinstance(value, dict) else enumerate(value[:1])
    for key, member in members:
        name = ".".join((*path, str(key)))
        if isinstance(value, dict):
            yield f"{name}: missing", {each: value[each] for each in value if each != key}
        for what, other in _VALUES.items():
            if other is not member:
                yield f"{name}: {what}", _with(value, key, other)
        if isinstance(member, dict | list):
            for what, other in _changed(member, (*path, str(key))):
                yield what, _with(value, key, other)


def _with(value: Any, key: Any, member: Any) -> Any:
    copied = value.copy()
    copied[key] = member
    return copied
