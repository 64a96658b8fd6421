"""Inputs made from others: cut, joined, repeated, flipped, with lengths that lie; the same ones for the same seed."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

_MAX_CHANGES = 6
_NUMBERS = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 2**31 - 1, 2**31, 2**32 - 1, 2**60, 2**63 - 1, 2**64 - 1)
_TEXTS = (b"0", b"-1", b"9" * 40, b"1e999", b"NaN", b"-0.0", b"null", b"true", b"\xff", b"\x00", b"\xed\xa0\x80", b'"')

Change = Callable[[random.Random, bytearray, Sequence[bytes]], bytearray]


def mutated(source: random.Random, inputs: Sequence[bytes], words: Sequence[bytes]) -> bytes:
    """Return a mutation of one of `inputs`.

    Args:
        source: Of all choices.
        inputs: What there is.
        words: Bytes that such inputs are made of.
    """
    data = bytearray(source.choice(inputs))
    for _ in range(source.randint(1, _MAX_CHANGES)):
        pool = [*words, *_TEXTS] if source.random() < 0.5 else inputs
        data = source.choice(_CHANGES)(source, data, pool)
    return bytes(data)


def _span(source: random.Random, data: Sequence[int], most: int = 64) -> slice:
    start = source.randint(0, len(data))
    return slice(start, min(len(data), start + source.randint(0, most)))


def _flip(source: random.Random, data: bytearray, _: Sequence[bytes]) -> bytearray:
    if data:
        data[source.randrange(len(data))] ^= 1 << source.randrange(8)
    return data


def _replace(source: random.Random, data: bytearray, _: Sequence[bytes]) -> bytearray:
    if data:
        data[source.randrange(len(data))] = source.randrange(256)
    return data


def _number(source: random.Random, data: bytearray, _: Sequence[bytes]) -> bytearray:
    size, order = source.choice((1, 2, 4, 8)), source.choice(("little", "big"))
    number = source.choice(_NUMBERS) % 256**size
    at = source.randint(0, len(data))
    data[at : at + size] = number.to_bytes(size, "little" if order == "little" else "big")
    return data


def _cut(source: random.Random, data: bytearray, _: Sequence[bytes]) -> bytearray:
    del data[_span(source, data)]
    return data


def _end(source: random.Random, data: bytearray, _: Sequence[bytes]) -> bytearray:
    return data[: source.randint(0, len(data))]


def _repeat(source: random.Random, data: bytearray, _: Sequence[bytes]) -> bytearray:
    span = _span(source, data)
    data[span.stop : span.stop] = data[span] * source.choice((1, 2, 50))
    return data


def _insert(source: random.Random, data: bytearray, pool: Sequence[bytes]) -> bytearray:
    at = source.randint(0, len(data))
    word = source.choice(pool)
    data[at:at] = word[:256]
    return data


def _overwrite(source: random.Random, data: bytearray, pool: Sequence[bytes]) -> bytearray:
    word = source.choice(pool)[:256]
    at = source.randint(0, len(data))
    data[at : at + len(word)] = word
    return data


def _splice(source: random.Random, data: bytearray, pool: Sequence[bytes]) -> bytearray:
    other = source.choice(pool)
    return data[: source.randint(0, len(data))] + other[source.randint(0, len(other)) :]


_CHANGES: tuple[Change, ...] = (_flip, _replace, _number, _cut, _end, _repeat, _insert, _overwrite, _splice)
