"""The first half of HMAC-SHA-256 over packed ids: compiled where the library is there, else one id after the other."""

from __future__ import annotations

import ctypes
import hmac
import logging
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import numpy as np

from fedpredict.model.kernel import loading
from fedpredict.model.sample_ids import SampleIds

logger = logging.getLogger(__name__)

N_BYTES = 16
Halves: TypeAlias = Callable[[SampleIds], bytes]
"""Ids -> the first 16 bytes of each one's HMAC, end to end."""

_KEY_BYTES = 64
_FUNCTIONS: tuple[loading.Function, ...] = (
    ("fp_hmac_key", (ctypes.c_char_p, ctypes.c_int64, ctypes.c_void_p), None),
    (
        "fp_hmac_halves",
        (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_void_p),
        None,
    ),
)


def hmac_halves(key: bytes, folder: Path = loading.FOLDER) -> Halves:
    """Return what hides ids under a key of 64 bytes at most.

    Where the library cannot be used, a warning says so, and it takes ten times as long.

    Args:
        key: The key.
        folder: Where the library is.

    >>> hmac_halves(b"key")(SampleIds.of([b"The quick brown fox jumps over the lazy dog"])).hex()
    'f7bc83f430538424b13298e6aa6fb143'
    """
    if len(key) > _KEY_BYTES:
        raise ValueError(f"a key of {len(key)} bytes; {_KEY_BYTES} at most")
    try:
        library = loading.load(folder, "hmac", _FUNCTIONS)
    except ImportError as error:
        logger.warning("hmac.not_compiled", extra={"reason": str(error)})
        return lambda sample_ids: halves_in_python(key, sample_ids)
    states = np.empty((2, 8), dtype=np.uint32)
    library.fp_hmac_key(key, len(key), states.ctypes.data)
    function = library.fp_hmac_halves

    def compiled(sample_ids: SampleIds) -> bytes:
        offsets = np.ascontiguousarray(sample_ids.offsets, dtype=np.int64)
        loading.check_cut(offsets, len(sample_ids.data))
        halves = np.empty((len(sample_ids), N_BYTES), dtype=np.uint8)
        function(states.ctypes.data, sample_ids.data, offsets.ctypes.data, len(sample_ids), halves.ctypes.data)
        return halves.tobytes()

    return compiled


def halves_in_python(key: bytes, sample_ids: SampleIds) -> bytes:
    """Return what `hmac_halves` makes, without the library."""
    return b"".join([hmac.digest(key, each, "sha256")[:N_BYTES] for each in sample_ids])
