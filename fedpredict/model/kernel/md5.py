"""The first four bytes of MD5 over packed ids: compiled where the library is there, else one id after the other."""

from __future__ import annotations

import ctypes
import hashlib
import logging
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from fedpredict.model.kernel import loading
from fedpredict.model.sample_ids import SampleIds

logger = logging.getLogger(__name__)

N_BYTES = 4
Starts: TypeAlias = NDArray[np.uint8]
"""The first bytes of digests; shape (n, N_BYTES)."""

_FUNCTIONS: tuple[loading.Function, ...] = (
    ("fp_md5_starts", (ctypes.c_char_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_void_p), None),
)


def md5_starts(sample_ids: SampleIds) -> Starts:
    """Return the first four bytes of each id's MD5, shape (n, 4).

    Where the library cannot be used, a warning says so once, and it takes twenty times as long.

    >>> md5_starts(SampleIds.of([b"", b"abc"])).tobytes().hex()
    'd41d8cd990015098'
    """
    return _implementation(loading.FOLDER)(sample_ids)


def starts_in_python(sample_ids: SampleIds) -> Starts:
    """Return what `md5_starts` returns, without the library."""
    data = b"".join([hashlib.md5(each, usedforsecurity=False).digest()[:N_BYTES] for each in sample_ids])
    return np.frombuffer(data, dtype=np.uint8).reshape(-1, N_BYTES)


@cache
def _implementation(folder: Path) -> Callable[[SampleIds], Starts]:
    try:
        library = loading.load(folder, "md5", _FUNCTIONS)
    except ImportError as error:
        logger.warning("md5.not_compiled", extra={"reason": str(error)})
        return starts_in_python
    function = library.fp_md5_starts

    def compiled(sample_ids: SampleIds) -> Starts:
        offsets = np.ascontiguousarray(sample_ids.offsets, dtype=np.int64)
        loading.check_cut(offsets, len(sample_ids.data))
        starts = np.empty((len(sample_ids), N_BYTES), dtype=np.uint8)
        function(bytes(sample_ids.data), offsets.ctypes.data, len(sample_ids), starts.ctypes.data)
        return starts

    return compiled
