"""Texts as codes: a snapshot's text column is held as positions in a sorted dictionary of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fedpredict.model.arrays import Floats
from fedpredict.model.part import UNKNOWN_CATEGORY

Texts: TypeAlias = pa.LargeBinaryArray
"""Different texts as UTF-8, without NULL. Texts are compared byte by byte everywhere."""


def encode(column: pa.ChunkedArray) -> tuple[Floats, Texts]:
    """Return a text column as codes, NaN for NULL, and the texts that they are positions in, sorted by their bytes.

    There is no limit to the number of texts: each is held once, and a code is exact up to 2^53.

    >>> codes, texts = encode(pa.chunked_array([["b", None, "a", "b"]]))
    >>> codes.tolist(), texts.to_pylist()
    ([1.0, nan, 0.0, 1.0], [b'a', b'b'])
    """
    encoded = pa.chunked_array([column.cast(pa.large_binary()).combine_chunks().dictionary_encode()]).combine_chunks()
    order = pc.array_sort_indices(encoded.dictionary)
    rank = np.empty(len(order) + 1)
    rank[order.to_numpy()] = np.arange(len(order))
    rank[-1] = np.nan
    return rank.take(pc.fill_null(encoded.indices, len(order)).to_numpy()), encoded.dictionary.take(order)


def codes_of(texts: pa.Array | pa.ChunkedArray, categories: Sequence[str]) -> Floats:
    """Return where texts stand among categories: `UNKNOWN_CATEGORY` where nowhere, NaN for NULL; shape (n_texts,).

    >>> codes_of(pa.array(["b", "x", None]), ("a", "b")).tolist()
    [1.0, -1.0, nan]
    """
    # what is no UTF-8, and so in no column, shall match nothing rather than raise
    known = pa.array([each.encode("utf-8", "surrogatepass") for each in categories], pa.large_binary())
    found = pc.fill_null(pc.index_in(texts.cast(pa.large_binary()), value_set=known), int(UNKNOWN_CATEGORY))
    codes = np.asarray(found.to_numpy(), dtype=np.float64).copy()
    codes[np.asarray(texts.is_null())] = np.nan
    return codes
