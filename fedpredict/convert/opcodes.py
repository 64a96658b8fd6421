"""The bytes of a pickle as (opcode, argument) pairs; every length is checked before anything is read.

The names and arguments of the opcodes come from `pickletools`' table; the arguments are decoded here, because
pickletools' own readers warn, escape and allocate in ways that a hostile file could use.
"""

from __future__ import annotations

import codecs
import pickletools
import re
import struct
from collections.abc import Callable

from fedpredict.errors import ModelFileError

MAX_NAME_BYTES = 4096
"""Longest module, class or number written as a line."""

MAX_INTEGER_BYTES = 1024

_DECIMAL = re.compile(rb"([+-]?\d{1,400})L?")
_QUOTED = re.compile(rb"""(['"])([^\\'"]*)\1""")


class Cursor:
    """Bytes with a position."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.position = 0

    @property
    def remaining(self) -> int:
        """The number of bytes not read yet."""
        return len(self.data) - self.position

    def take(self, count: int) -> bytes:
        """Return the next `count` bytes.

        Raises:
            ModelFileError: Fewer remain, or the count is negative.
        """
        if not 0 <= count <= self.remaining:
            raise ModelFileError(
                f"the file is damaged: {count} bytes announced at byte {self.position}, {self.remaining} remain"
            )
        start = self.position
        self.position = start + count
        return self.data[start : self.position]

    def byte(self) -> int:
        """Return the next byte.

        Raises:
            ModelFileError: None remains.
        """
        if self.position >= len(self.data):
            raise ModelFileError("the file is damaged: it ends in the middle of a pickle")
        self.position += 1
        return self.data[self.position - 1]

    def line(self, limit: int | None = MAX_NAME_BYTES) -> bytes:
        """Return the bytes up to the next newline, without it.

        Raises:
            ModelFileError: No newline follows within `limit` bytes.
        """
        end = len(self.data) if limit is None else min(len(self.data), self.position + limit)
        found = self.data.find(b"\n", self.position, end)
        if found < 0:
            raise ModelFileError(f"the file is damaged: a line without an end at byte {self.position}")
        start = self.position
        self.position = found + 1
        return self.data[start:found]


def _unsigned(size: int) -> Callable[[Cursor], int]:
    return lambda cursor: int.from_bytes(cursor.take(size), "little")


def _octets(size: int) -> Callable[[Cursor], bytes]:
    return lambda cursor: cursor.take(int.from_bytes(cursor.take(size), "little"))


def _text(size: int) -> Callable[[Cursor], str]:
    return lambda cursor: str(cursor.take(int.from_bytes(cursor.take(size), "little")), "utf-8", "surrogatepass")


def _signed(cursor: Cursor) -> int:
    return int.from_bytes(cursor.take(4), "little", signed=True)


def _integer(size: int) -> Callable[[Cursor], int]:
    def read(cursor: Cursor) -> int:
        length = int.from_bytes(cursor.take(size), "little", signed=size > 1)
        if length > MAX_INTEGER_BYTES:
            raise ModelFileError(f"a whole number of {length} bytes; at most {MAX_INTEGER_BYTES} are read")
        return int.from_bytes(cursor.take(length), "little", signed=True)

    return read


def _decimal(cursor: Cursor) -> int:
    found = _DECIMAL.fullmatch(cursor.line())
    if found is None:
        raise ModelFileError(f"the file is damaged: no whole number before byte {cursor.position}")
    return int(found[1])


def _decimal_or_bool(cursor: Cursor) -> int:
    start = cursor.position
    line = cursor.line()
    if line in {b"00", b"01"}:
        return line == b"01"
    cursor.position = start
    return _decimal(cursor)


def _quoted(cursor: Cursor) -> str:
    found = _QUOTED.fullmatch(cursor.line(None))
    if found is None:
        raise ModelFileError("a text of Python 2 with escapes: write the file with Python 3")
    return str(found[2], "ascii")


def _ascii(size: int) -> Callable[[Cursor], str]:
    return lambda cursor: str(cursor.take(int.from_bytes(cursor.take(size), "little", signed=size > 1)), "ascii")


def _pair(cursor: Cursor) -> tuple[str, str]:
    return str(cursor.line(), "utf-8"), str(cursor.line(), "utf-8")


def _double(cursor: Cursor) -> float:
    return float(struct.unpack(">d", cursor.take(8))[0])


_READERS: dict[str, Callable[[Cursor], object]] = {
    "uint1": _unsigned(1),
    "uint2": _unsigned(2),
    "uint4": _unsigned(4),
    "uint8": _unsigned(8),
    "int4": _signed,
    "stringnl": _quoted,
    "stringnl_noescape": lambda cursor: str(cursor.line(), "ascii"),
    "stringnl_noescape_pair": _pair,
    "string1": _ascii(1),
    "string4": _ascii(4),
    "bytes1": _octets(1),
    "bytes4": _octets(4),
    "bytes8": _octets(8),
    "bytearray8": _octets(8),
    # `codecs` by function: the codec of protocol 0 is loaded with this module, not when a file asks for it.
    "unicodestringnl": lambda cursor: codecs.raw_unicode_escape_decode(cursor.line(None))[0],
    "unicodestring1": _text(1),
    "unicodestring4": _text(4),
    "unicodestring8": _text(8),
    "decimalnl_short": _decimal_or_bool,
    "decimalnl_long": _decimal,
    "floatnl": lambda cursor: float(str(cursor.line(), "ascii")),
    "float8": _double,
    "long1": _integer(1),
    "long4": _integer(4),
}

_OPCODES: dict[int, tuple[str, Callable[[Cursor], object] | None]] = {
    ord(opcode.code): (opcode.name, None if opcode.arg is None else _READERS[opcode.arg.name])
    for opcode in pickletools.opcodes
}


def next_operation(cursor: Cursor) -> tuple[str, object]:
    """Return the name and the decoded argument (or None) of the next opcode.

    Raises:
        ModelFileError: The bytes end, announce more than remain, or hold no opcode.
        ValueError: A text or number does not decode; the machine turns it into a `ModelFileError`.
    """
    code = cursor.byte()
    known = _OPCODES.get(code)
    if known is None:
        raise ModelFileError(f"the file is not a pickle or damaged: unknown opcode {code:#04x}")
    name, reader = known
    return name, None if reader is None else reader(cursor)
