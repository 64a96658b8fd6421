"""A compiled library of this folder: found, and held to its source. Calls let other threads run."""

from __future__ import annotations

import ctypes
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

FOLDER = Path(__file__).parent
_FIX = (
    "install fedpredict again (pip install ...), or run `python hatch_build.py` in a checkout; "
    "both need a C compiler (on Debian: apt-get install gcc libc6-dev)"
)

Function: TypeAlias = tuple[str, tuple[Any, ...], Any]
"""Its name, and the types of its arguments and of what it returns."""


def load(folder: Path, name: str, functions: Sequence[Function]) -> ctypes.CDLL:
    """Return a library with its functions declared.

    Args:
        folder: Where it is, and its source.
        name: "trees" for `libtrees.so`, which is made from `trees.c`.
        functions: What it has.

    Raises:
        ImportError: It is missing, of another machine, or not made from the source beside it.
    """
    path, source = folder / f"lib{name}.so", folder / f"{name}.c"
    if not path.exists():
        raise ImportError(f"fedpredict's compiled kernel {path} is missing: {_FIX}")
    try:
        library = ctypes.CDLL(str(path))
        library.fp_source.restype = ctypes.c_char_p
        made_from: bytes = library.fp_source()
    except (OSError, AttributeError) as error:
        raise ImportError(f"fedpredict's compiled kernel cannot be loaded here ({error}): {_FIX}") from error
    if made_from.decode() != hashlib.sha256(source.read_bytes()).hexdigest():
        raise ImportError(f"fedpredict's compiled kernel {path} is not made from the {source.name} beside it: {_FIX}")
    for function_name, arguments, result in functions:
        function = getattr(library, function_name)
        function.argtypes, function.restype = arguments, result
    return library


def check_cut(offsets: NDArray[np.int64], n_bytes: int) -> None:
    """Hold the offsets of packed ids to what they are to be, which a library believes; else raise `ValueError`."""
    if offsets[0] < 0 or offsets[-1] > n_bytes or not (offsets[1:] >= offsets[:-1]).all():
        raise ValueError("the offsets of the sample ids do not cut their bytes")
