"""JSON that says a member twice in one object: readers differ in which of them counts, so neither may.

The decoder keeps the last and tells nothing. What it kept is counted here and held against the marks in the text, which
costs little where nothing is there twice; only where the numbers differ is the text read once more.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

import numpy as np

from fedpredict.errors import FieldError

COLON, QUOTE = b":", b'"'
MAX_SHOWN = 100
_SMALL = 1024
"""Bytes up to which `count`, which looks at one after the other, is faster than what starts slowly."""


class RepeatedMemberError(Exception):
    """A member is there twice; its text is the member's name, shortened and quoted."""


def has_more(data: bytes, mark: bytes, number: int) -> bool:
    """Return whether a byte, `mark`, is in bytes more than `number` times; fast where both are few."""
    if len(data) < _SMALL:
        return data.count(mark) > number
    at = -1
    for _ in range(number + 1):
        at = data.find(mark, at + 1)
        if at < 0:
            return False
    return True


def count(data: bytes | memoryview, mark: bytes) -> int:
    """Return how often a byte is in bytes."""
    if len(data) < _SMALL:
        return bytes(data).count(mark)
    return int(np.count_nonzero(np.frombuffer(data, dtype=np.uint8) == mark[0]))


def repeats(row: Mapping[str, object], text: bytes) -> bool:
    """Return whether an object may have lost members that were there twice; False is certain.

    Args:
        row: What was decoded.
        text: Its JSON.
    """
    # every name and every text has two quotes; a name that was lost leaves its own in the text
    texts = list(map(type, row.values())).count(str)
    return text.count(QUOTE) != 2 * (len(row) + texts)


def check_members(text: bytes | memoryview) -> None:
    """Refuse JSON, which a decoder took, if an object in it has a member twice.

    Raises:
        RepeatedMemberError: One has; it says which member.
    """
    # numbers stay texts: one of thousands of digits is not for `int`
    json.loads(bytes(text), object_pairs_hook=_once, parse_int=str, parse_float=str)


def check_body(text: bytes | memoryview) -> None:
    """Do what `check_members` does for a body.

    Raises:
        FieldError: A member is there twice, or objects are in one another too deeply to tell.
    """
    try:
        check_members(text)
    except RepeatedMemberError as error:
        raise _refusal(f"{error} is there twice in one object") from None
    except RecursionError:
        raise _refusal("nested too deeply") from None


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names: set[str] = set()
        for name, _ in pairs:
            if name in names:
                raise RepeatedMemberError(repr(name[:MAX_SHOWN]))
            names.add(name)
    return found


def _refusal(problem: str) -> FieldError:
    # the name is the caller's, and not for our log
    return FieldError("a body that breaks its schema", place="$", problem=problem)
