"""Checkpoints of audit logs, as parties hand them to each other with the question what a part is."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeAlias

from fedpredict.wire.v1 import common_pb2

Handed: TypeAlias = tuple[str, int, bytes, bytes, bytes]
"""Chain, number, hash, signature and public key of a checkpoint."""

MOST = 4
"""So many of one message are looked at: a process has one chain."""
_MAX_CHAIN = 100
_HASH, _SIGNATURE, _KEY = 32, 64, 32
_MAX_NUMBER = 2**53


def checkpoints_to_wire(handed: Iterable[Handed]) -> list[common_pb2.AuditCheckpoint]:
    """Return checkpoints as messages."""
    return [
        common_pb2.AuditCheckpoint(chain=chain, n=n, sha256=sha256, signature=signature, public_key=key)
        for chain, n, sha256, signature, key in handed
    ]


def checkpoints_from_wire(messages: Sequence[common_pb2.AuditCheckpoint]) -> list[Handed]:
    """Return what can be checkpoints among some messages; nothing is proved yet.

    What cannot is passed over: a question is not refused for what it has beside.
    """
    return [
        (each.chain, each.n, each.sha256, each.signature, each.public_key)
        for each in messages[:MOST]
        if len(each.chain) <= _MAX_CHAIN
        and 1 <= each.n <= _MAX_NUMBER
        and (len(each.sha256), len(each.signature), len(each.public_key)) == (_HASH, _SIGNATURE, _KEY)
    ]
