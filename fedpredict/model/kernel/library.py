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


class Rules(ctypes.Structure):
    """`Rules` of `trees.c`."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("set_words", "set_start", "set_codes", "codes_start")),
        ("zero", ctypes.c_double),
        *((name, ctypes.c_int64) for name in ("float32", "codes")),
    )


class TreesStruct(ctypes.Structure):
    """`Trees` of `trees.c`. Who makes a structure keeps the arrays alive whose addresses are in it."""

    _fields_ = (
        ("rules", Rules),
        *((name, ctypes.c_void_p) for name in ("nodes", "start", "original", "plain")),
        ("n_trees", ctypes.c_int64),
    )


class MasksStruct(ctypes.Structure):
    """`Masks` of `trees.c`."""

    _fields_ = (
        ("rules", Rules),
        *((name, ctypes.c_void_p) for name in ("splits", "split_start", "n_roots", "word_start", "all")),
        *((name, ctypes.c_int64) for name in ("n_trees", "most_splits", "most_words")),
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
        ("fp_leaves", (address, address, count, count, address), None),
        ("fp_sums", (address, address, count, count, *[address] * 3, count, count, address), None),
        ("fp_number_leaves", (count, *[address] * 4), None),
        ("fp_order_splits", (count, *[address] * 9), None),
        ("fp_masks", (address, address, count, count, address), ctypes.c_int),
        ("fp_surviving_leaves", (address, count, count, count, address, address), None),
    ):
        function = getattr(library, name)
        function.argtypes, function.restype = arguments, result
    return library


LIBRARY = load(_FOLDER)
