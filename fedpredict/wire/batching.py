"""Several messages of a stream in one write: each further one stands in the field `more` of the first.

A write on a gRPC stream in Python takes half a millisecond from thread to thread, however small the message is; so
what is ready at once leaves at once. Messages are joined as bytes: nothing is parsed or copied field by field.
"""

from __future__ import annotations

from collections import deque

BATCH_METADATA = ("fedpredict-batch", "1")
"""Metadata by which one side of a stream says that it takes messages with further ones in `more`."""
MAX_BATCH_BYTES = 1024 * 1024
"""A message that is larger travels alone."""
MAX_BATCH = 512
"""Most messages in one."""

_MORE = b"\x7a"
"""The tag of field 15, which `more` has in both messages: 15 << 3 | 2."""


def take_batch(ready: deque[bytes]) -> bytes:
    r"""Take messages from the left of a queue that is not empty; return them as one.

    >>> take_batch(deque([b"\x08\x01", b"\x08\x02"]))
    b'\x08\x01z\x02\x08\x02'
    """
    parts = [ready.popleft()]
    size, count = len(parts[0]), 1
    while ready and count < MAX_BATCH and size + len(ready[0]) <= MAX_BATCH_BYTES:
        message = ready.popleft()
        parts += (_MORE, _varint(len(message)), message)
        size += len(message) + 8
        count += 1
    return b"".join(parts)


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
