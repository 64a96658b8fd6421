"""The compiled library: found, held to its source, and its functions declared. Calls let other threads run."""

from __future__ import annotations

import ctypes
import hashlib
from pathlib import Path

_FOLDER = Path(__file__).parent
_FIX = (
    "install fedpredict again (pip install ...), or run `python hatch_build.py` in a checkout; "
    "both need a C compiler (on Debian: apt-get install gcc libc6-dev)"
)


class TreesStruct(ctypes.Structure):
    """`Trees` of `trees.c`: addresses and counts. Who makes one keeps the arrays alive."""

    _fields_ = (
        ("nodes", ctypes.c_void_p),
        ("start", ctypes.c_void_p),
        ("original", ctypes.c_void_p),
        ("plain", ctypes.c_void_p),
        ("set_words", ctypes.c_void_p),
        ("set_start", ctypes.c_void_p),
        ("set_codes", ctypes.c_void_p),
        ("codes_start", ctypes.c_void_p),
        ("word_start", ctypes.c_void_p),
        ("n_trees", ctypes.c_int64),
        ("stack_size", ctypes.c_int64),
        ("zero", ctypes.c_double),
        ("float32", ctypes.c_int64),
    )


def load(folder: Path) -> ctypes.CDLL:
    """Return the library in `folder`.

    Raises:
        ImportError: It is missing, of another machine, or not made from the source beside it.
    """
    path = folder / "libtrees.so"
    if not path.exists():
        raise ImportError(f"fedpredict's compiled kernel {path} is missing: {_FIX}")
    try:
        library = ctypes.CDLL(str(path))
        library.fp_source.restype = ctypes.c_char_p
        made_from: bytes = library.fp_source()
    except (OSError, AttributeError) as error:
        raise ImportError(f"fedpredict's compiled kernel cannot be loaded here ({error}): {_FIX}") from error
    if made_from.decode() != hashlib.sha256((folder / "trees.c").read_bytes()).hexdigest():
        raise ImportError(f"fedpredict's compiled kernel {path} is not made from the trees.c beside it: {_FIX}")
    address, count = ctypes.c_void_p, ctypes.c_int64
    for name, arguments, result in (
        ("fp_trees_leaves", (address, address, count, count, address), None),
        ("fp_trees_sum", (address, address, count, count, *[address] * 3, count, count, address), None),
        ("fp_trees_number", (count, *[address] * 7), None),
        ("fp_trees_masks", (address, address, count, count, address), ctypes.c_int),
        ("fp_surviving_leaves", (address, count, count, count, address, address), None),
    ):
        function = getattr(library, name)
        function.argtypes, function.restype = arguments, result
    return library


LIBRARY = load(_FOLDER)
