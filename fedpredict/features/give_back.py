"""Freed memory, back to the operating system.

Reading a snapshot takes several times the memory that serving it does. What is freed stays with the allocators, Arrow's
and the C library's, so a process would seem to need for ever what it needed once.
"""

from __future__ import annotations

import ctypes

import pyarrow as pa


def give_back_memory() -> None:
    """Return what is freed to the operating system; takes milliseconds, so call it after something large only."""
    pa.default_memory_pool().release_unused()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's; other C libraries have none
    if trim is not None:
        trim(0)
