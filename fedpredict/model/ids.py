"""The rules for names and sample ids: one place, used by every room."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fedpredict.errors import NameRefusedError
from fedpredict.model.arrays import Bools
from fedpredict.model.sample_ids import SampleIds

MAX_SAMPLE_ID_BYTES = 256
_FEW = 16
"""So many ids are judged one by one faster than by passes over all."""

_WHOLE = re.compile("0|-?[1-9][0-9]{0,18}")
_MODEL_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_PARTY_ID = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_VIEW_NAME = re.compile(r"[a-z][a-z0-9_]{0,62}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_TRACEPARENT = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")


def check_model_id(value: str) -> str:
    """Return `value` if it is a model id: 1 to 100 of letters, digits, dot, underscore, hyphen; else raise.

    Raises:
        NameRefusedError: With the value and the rule.

    >>> check_model_id("credit-2026.1")
    'credit-2026.1'
    """
    return check_name(value, "model id")


def is_model_id(value: str) -> bool:
    """Return whether `value` keeps to the rule of model ids."""
    return _MODEL_ID.fullmatch(value) is not None


def check_name(value: str, what: str) -> str:
    """Return `value` if it keeps to the rule of model ids; else raise `NameRefusedError`, which says `what` it is."""
    return _check(_MODEL_ID, value, what, "1 to 100 letters, digits, '.', '_' or '-', starting with a letter or digit")


def check_party_id(value: str) -> str:
    """Return `value` if it is a party id (a DNS label in lower case); else raise `NameRefusedError`."""
    return _check(
        _PARTY_ID,
        value,
        "party id",
        "1 to 63 lower-case letters, digits or '-', not starting or ending with '-'",
    )


def check_view_name(value: str) -> str:
    """Return `value` if it names a feature view; else raise `NameRefusedError`."""
    return _check(_VIEW_NAME, value, "view name", "1 to 63 lower-case letters, digits or '_', starting with a letter")


def check_digest(value: str) -> str:
    """Return `value` if it is a SHA-256 in lower-case hex; else raise `NameRefusedError`."""
    return _check(_DIGEST, value, "digest", "64 lower-case hexadecimal digits")


def check_address(value: str) -> str:
    """Return `value` if it is an address to listen at or to dial, host:port; else raise `NameRefusedError`."""
    host, colon, port = value.rpartition(":")
    if not (host and colon and port.isdecimal() and int(port) <= 65535):
        raise NameRefusedError(f"{value!r} is not an address: write host:port")
    return value


def traceparent_of(value: str) -> str:
    """Return `value` if it is a W3C traceparent, else nothing: a broken one must not fail what it accompanies.

    >>> traceparent_of("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
    '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01'
    >>> traceparent_of("00-0AF7-b7ad-01"), traceparent_of("00-" + "0" * 32 + "-b7ad6b7169203331-01")
    ('', '')
    """
    return value if _TRACEPARENT.fullmatch(value) else ""


def _check(pattern: re.Pattern[str], value: str, what: str, rule: str) -> str:
    if pattern.fullmatch(value) is None:
        shown = repr(value if len(value) <= 120 else value[:120] + "…")
        raise NameRefusedError(f"{shown} is not a {what}: {rule}")
    return value


def valid_sample_ids(sample_ids: Sequence[bytes]) -> Bools:
    r"""Return which sample ids can name a sample: 1 to 256 bytes of UTF-8 without control characters.

    Ids are compared byte by byte, never trimmed or normalised. One pass over the bytes of all ids finds those that are
    not plain printable ASCII; only they are looked at one by one.

    >>> valid_sample_ids([b"u1", b"", b"a\nb", bytes([255])]).tolist()
    [True, False, False, False]
    """
    if len(sample_ids) <= _FEW:
        return np.array([_valid(sample_id) for sample_id in sample_ids], dtype=np.bool_)
    packed = SampleIds.of(sample_ids)
    valid = _are_lengths_valid(packed.lengths)
    # one unsigned comparison for both ends: below " " wraps around to large numbers
    odd = np.flatnonzero(np.frombuffer(packed.data, dtype=np.uint8) - np.uint8(0x20) > 0x7E - 0x20)
    if len(odd):
        # the last of several equal offsets is the id that holds the byte: the others are empty
        for index in np.unique(np.searchsorted(packed.offsets, odd, side="right") - 1).tolist():
            valid[index] = _valid(packed[index])
    return valid


def _are_lengths_valid(lengths: NDArray[np.int64]) -> Bools:
    return np.asarray((lengths > 0) & (lengths <= MAX_SAMPLE_ID_BYTES), dtype=np.bool_)


def _valid(sample_id: bytes) -> bool:
    if not 1 <= len(sample_id) <= MAX_SAMPLE_ID_BYTES:
        return False
    try:
        text = sample_id.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return text.isprintable() or not any(unicodedata.category(character) == "Cc" for character in text)


def whole_number(sample_id: str) -> int | None:
    """Return the whole number of 64 bits that a sample id is in its one plain form, or None.

    >>> [whole_number(each) for each in ("7", "-7", "007", "+7", "-0", "seven")]
    [7, -7, None, None, None, None]
    """
    if not _WHOLE.fullmatch(sample_id):
        return None
    number = int(sample_id)
    return number if -(2**63) <= number < 2**63 else None
