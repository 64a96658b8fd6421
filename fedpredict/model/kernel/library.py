"""The compiled library of the trees, and its structures."""

from __future__ import annotations

import ctypes
from pathlib import Path

from fedpredict.model.kernel import loading

_ADDRESS, _COUNT = ctypes.c_void_p, ctypes.c_int64
_FUNCTIONS: tuple[loading.Function, ...] = (
    ("fp_leaves", (_ADDRESS, _ADDRESS, _COUNT, _COUNT, _ADDRESS), None),
    ("fp_sums", (_ADDRESS, _ADDRESS, _COUNT, _COUNT, *[_ADDRESS] * 3, _COUNT, _COUNT, _ADDRESS), None),
    ("fp_number_leaves", (_COUNT, *[_ADDRESS] * 4), None),
    ("fp_order_splits", (_COUNT, *[_ADDRESS] * 9), None),
    ("fp_masks", (_ADDRESS, _ADDRESS, _COUNT, _COUNT, _ADDRESS), ctypes.c_int),
    ("fp_surviving_leaves", (_ADDRESS, _COUNT, _COUNT, _COUNT, _ADDRESS, _ADDRESS), None),
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
    return loading.load(folder, "trees", _FUNCTIONS)


LIBRARY = load(loading.FOLDER)
